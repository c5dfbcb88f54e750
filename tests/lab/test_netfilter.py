"""Connections that a proxy's rules translate, or that netfilter judges by their state.

Netfilter sees both directions of a connection or neither: nothing is ``ct state invalid``.
"""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from tests.lab.proxied import (
    HOSTS,
    PORT,
    echo,
    host_port,
    invalid,
    node_port,
    proxied,
    service,
    talk,
)
from tests.lab.wire import Wire, at, batch, make_socket
from tests.packet.nodes import LEGACY, PLANS

CLIENT = "a-web"
BACKENDS = pytest.mark.parametrize("backend", ["a-client", "g-web"], ids=["same node", "across"])
SIXTY_THOUSAND = range(61000, 65536)


@pytest.fixture
def proxy(wire: Wire) -> Iterator[Wire]:
    with proxied(wire):
        yield wire
        assert {name: invalid(name) for name in ("a", "g")} == {"a": 0, "g": 0}


@BACKENDS
def test_a_pod_reaches_a_service(proxy: Wire, family: int, backend: str) -> None:
    own = proxy.pod(CLIENT, family)
    with echo(backend, family, proxy.pod(backend, family), PORT) as server:
        talk(CLIENT, family, own, service(backend, family), 80)
    assert set(server.peers) == {own}


def test_a_pod_reaches_itself_by_its_service(proxy: Wire, family: int) -> None:
    own = proxy.pod(CLIENT, family)
    with echo(CLIENT, family, own, PORT) as server:
        talk(CLIENT, family, own, service(CLIENT, family), 80)
    assert set(server.peers) == {HOSTS["a"][family]}


@pytest.mark.parametrize("node", ["a", "g"], ids=["its own node", "another node"])
@pytest.mark.parametrize("backend", ["a-client", "g-web"])
def test_a_pod_reaches_a_node_port(proxy: Wire, family: int, node: str, backend: str) -> None:
    """With externalTrafficPolicy Cluster every node answers, for backends of all nodes."""
    own = proxy.pod(CLIENT, family)
    with echo(backend, family, proxy.pod(backend, family), PORT) as server:
        talk(CLIENT, family, own, HOSTS[node][family], node_port(backend))
    assert set(server.peers) == {HOSTS[node][family]}


@pytest.mark.parametrize(
    ("node", "backend"), [("a", "a-client"), ("g", "g-web")], ids=["its own node", "another node"]
)
def test_a_pod_reaches_a_host_port_and_keeps_its_address(
    proxy: Wire, family: int, node: str, backend: str
) -> None:
    """As with externalTrafficPolicy Local: the node translates to its own pod alone."""
    own = proxy.pod(CLIENT, family)
    with echo(backend, family, proxy.pod(backend, family), PORT) as server:
        talk(CLIENT, family, own, HOSTS[node][family], host_port(backend))
    assert set(server.peers) == {own}


@pytest.mark.parametrize("port", [node_port, host_port], ids=["node port", "host port"])
def test_the_world_reaches_a_pod_by_its_node(proxy: Wire, family: int, port: object) -> None:
    """A policy covers the pod: its datagrams are answers because it declares the port (D190)."""
    assert callable(port)
    proxy.nodes["a"].masquerade(family)
    proxy.nodes["a"].declare("client", PORT)
    with echo("a-client", family, proxy.pod("a-client", family), PORT):
        talk("l", family, LEGACY[family], HOSTS["a"][family], port("a-client"))


def test_the_world_reaches_a_pod_of_another_node_by_a_node_port(proxy: Wire, family: int) -> None:
    with echo("g-web", family, proxy.pod("g-web", family), PORT) as server:
        talk("l", family, LEGACY[family], HOSTS["a"][family], node_port("g-web"))
    assert set(server.peers) == {HOSTS["a"][family]}


@contextmanager
def fabric_knows_pods() -> Iterator[None]:
    """Routes of the router to the pods of node a."""
    number = PLANS["a"].number
    batch(
        "r",
        f"""
        route add 10.1.{number}.0/24 via {HOSTS["a"][4]}
        -6 route add fd01:0:0:{number}::/64 via {HOSTS["a"][6]}
        """,
    )
    try:
        yield
    finally:
        batch(
            "r",
            f"""
            route del 10.1.{number}.0/24
            -6 route del fd01:0:0:{number}::/64
            """,
        )


def test_pods_and_a_world_that_knows_them_open_connections_both_ways(
    proxy: Wire, family: int
) -> None:
    own = proxy.pod(CLIENT, family)
    with fabric_knows_pods():
        with echo("l", family, LEGACY[family], PORT) as server:
            talk(CLIENT, family, own, LEGACY[family], PORT)
        assert set(server.peers) == {own}
        with echo(CLIENT, family, own, PORT) as server:
            talk("l", family, LEGACY[family], own, PORT)
        assert set(server.peers) == {LEGACY[family]}


def test_the_world_sees_the_node(proxy: Wire, family: int) -> None:
    proxy.nodes["a"].masquerade(family)
    with echo("l", family, LEGACY[family], PORT) as server:
        talk(CLIENT, family, proxy.pod(CLIENT, family), LEGACY[family], PORT)
    assert set(server.peers) == {HOSTS["a"][family]}


def test_a_pod_pings_the_world(proxy: Wire, family: int) -> None:
    proxy.nodes["a"].masquerade(family)
    command = ["nsenter", f"--net={at(CLIENT)}", "ping", "-c", "2", "-i", "0.2", "-W", "3"]
    said = subprocess.run([*command, LEGACY[family]], capture_output=True, text=True, check=False)
    assert "2 received" in said.stdout, said.stdout + said.stderr


def test_the_host_itself_goes_on_talking(proxy: Wire, family: int) -> None:
    """With ports of the range, too: what is not mapped is its own."""
    proxy.nodes["a"].masquerade(family)
    own = HOSTS["a"][family]
    with echo("l", family, LEGACY[family], PORT):
        talk("a", family, own, LEGACY[family], PORT)
    with echo("a", family, own, SIXTY_THOUSAND.start):
        talk("l", family, LEGACY[family], own, SIXTY_THOUSAND.start)


def hears_of_it(made: socket.socket, datagram: bytes, peer: tuple[str, int]) -> bool:
    """Whether the kernel of the sender learns that the datagram is too big."""
    for _ in range(50):
        try:
            made.sendto(datagram, peer)
        except OSError as error:
            return error.errno == errno.EMSGSIZE
        made.settimeout(0.05)
        with suppress(TimeoutError):
            made.recv(10)
    return False


def test_what_is_too_big_for_a_pod_the_world_hears_of(proxy: Wire, family: int) -> None:
    """The host's error quotes the node's address, or the world's kernel would not believe it."""
    proxy.nodes["a"].masquerade(family)
    with (
        closing(proxy.udp(CLIENT, family)) as pod,
        closing(make_socket("l", family, socket.SOCK_DGRAM)) as far,
    ):
        far.bind((LEGACY[family], PORT))
        level = socket.IPPROTO_IP if family == 4 else socket.IPPROTO_IPV6
        far.setsockopt(level, {4: 10, 6: 23}[family], 2)  # IP_MTU_DISCOVER: never fragment
        pod.sendto(b"question", (LEGACY[family], PORT))
        _, peer = far.recvfrom(100)
        assert peer[0] == HOSTS["a"][family]
        assert peer[1] in SIXTY_THOUSAND
        headers = {4: 28, 6: 48}[family]
        assert hears_of_it(far, bytes(1500 - headers), peer)
        far.sendto(bytes(1450 - headers), peer)
        assert len(pod.recv(2000)) == 1450 - headers


def test_a_refused_connect_is_heard(proxy: Wire, family: int) -> None:
    """The world's error comes back to the pod behind the node's address."""
    proxy.nodes["a"].masquerade(family)
    with closing(proxy.udp(CLIENT, family)) as pod:
        pod.connect((LEGACY[family], 9))
        pod.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            pod.recv(10)
