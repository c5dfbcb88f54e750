"""Rules of a kube-proxy's kind on the two nodes of ``wire.py``: own rules, real netfilter.

    10.96.0.n, fd96::n   addresses of services, translated before routing
    port 30000 + n       of every node, masqueraded (externalTrafficPolicy Cluster)
    port 31000 + n       of every node, not masqueraded (Local, or portmap's hostPort)

``n`` is the place of the backend in ``BACKENDS``. A backend that asks its own service is
masqueraded. What is ``ct state invalid`` is dropped.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from tests.lab.wire import Wire, at, batch, make_socket
from tests.packet.nodes import PLANS

BACKENDS = ("a-web", "a-client", "g-web", "g-client")
HOSTS = {name: {4: plan.endpoint, 6: f"fd99::{plan.endpoint.rpartition('.')[2]}"}
         for name, plan in PLANS.items()}  # fmt: skip
PORT = 8080
MARK = 0x4000
#: NODE_OVERLAY_V4, NODE_OVERLAY_V6: no fabric knows the pods.
BY_OVERLAY = 3
BLOCK = 1 << 16


def service(backend: str, family: int) -> str:
    number = BACKENDS.index(backend) + 1
    return {4: f"10.96.0.{number}", 6: f"fd96::{number}"}[family]


def node_port(backend: str) -> int:
    return 30000 + BACKENDS.index(backend)


def host_port(backend: str) -> int:
    return 31000 + BACKENDS.index(backend)


def _translations(wire: Wire, node: str) -> Iterator[str]:
    for family, ip in ((4, "ip"), (6, "ip6")):
        own = HOSTS[node][family]
        for backend in BACKENDS:
            pod = wire.pod(backend, family)
            to = f"dnat {ip} to {pod}:{PORT}" if family == 4 else f"dnat {ip} to [{pod}]:{PORT}"
            both = "meta l4proto { tcp, udp }"
            yield f"{ip} daddr {service(backend, family)} {both} th dport 80 {to}"
            mark = f"meta mark set {MARK}"
            yield f"{ip} daddr {own} {both} th dport {node_port(backend)} {mark} {to}"
            yield f"{ip} daddr {own} {both} th dport {host_port(backend)} {to}"


def _hairpins(wire: Wire) -> Iterator[str]:
    for family, ip in ((4, "ip"), (6, "ip6")):
        for backend in BACKENDS:
            pod = wire.pod(backend, family)
            yield f"{ip} saddr {pod} {ip} daddr {pod} masquerade"


def rules(wire: Wire, node: str) -> str:
    translations = "\n".join((*_translations(wire, node), ""))
    hairpins = "\n".join(_hairpins(wire))
    return f"""
    table inet meshgate_test {{
        chain pre {{ type nat hook prerouting priority dstnat; {translations} }}
        chain out {{ type nat hook output priority -100; {translations} }}
        chain post {{
            type nat hook postrouting priority srcnat;
            meta mark & {MARK} != 0 masquerade fully-random
            {hairpins}
        }}
        chain guard {{ type filter hook forward priority filter; ct state invalid counter drop; }}
    }}
    """


def _nft(node: str, text: str) -> None:
    command = ["nsenter", f"--net={at(node)}", "nft", "-f", "-"]
    subprocess.run(command, input=text, text=True, check=True)


@contextmanager
def proxied(wire: Wire) -> Iterator[None]:
    """Both nodes as with a kube-proxy, and with the product's routes into the overlay."""
    other = {"a": "g", "g": "a"}
    for node in other:
        far, own = PLANS[other[node]], HOSTS[node]
        batch(
            node,
            f"""
            neigh replace 169.254.1.1 lladdr 02:02:02:02:02:02 dev mg_vxlan
            -6 neigh replace fe80::1 lladdr 02:02:02:02:02:02 dev mg_vxlan
            link set dpw0 mtu 1450
            link set dpw1 mtu 1450
            route replace 10.1.{far.number}.0/24 via 169.254.1.1 dev mg_vxlan onlink \
src {own[4]} mtu 1450
            -6 route replace fd01:0:0:{far.number}::/64 via fe80::1 dev mg_vxlan onlink \
src {own[6]} mtu 1450
            """,
        )
        row = {"next_hop": int(IPv4Address(far.endpoint)), "cluster": 1, "flags": BY_OVERLAY}
        wire.nodes[node].maps["mg_node"].update_one(IPv4Address(far.endpoint).packed, row)
        _nft(node, rules(wire, node))
    try:
        yield
    finally:
        for node in other:
            _nft(node, "delete table inet meshgate_test")
            batch(
                node,
                f"""
                route del 10.1.{PLANS[other[node]].number}.0/24
                -6 route del fd01:0:0:{PLANS[other[node]].number}::/64
                """,
            )


def invalid(node: str) -> int:
    """Packets that netfilter has dropped because it had not seen the connection's others."""
    command = ["nsenter", f"--net={at(node)}", "nft", "list", "chain", "inet", "meshgate_test"]
    text = subprocess.run([*command, "guard"], capture_output=True, text=True, check=True).stdout
    return int(text.split("packets ")[1].split()[0])


@dataclass
class Server:
    """An echo server: each connection's first block and each datagram comes back."""

    listener: socket.socket
    datagram: socket.socket
    #: Addresses of its clients.
    peers: list[str] = field(default_factory=list)
    ends: threading.Event = field(default_factory=threading.Event)

    def streams(self) -> None:
        """Until it ends."""
        while not self.ends.is_set():
            with suppress(TimeoutError):
                connection, peer = self.listener.accept()
                self.peers.append(peer[0])
                with closing(connection):
                    _give_back(connection)

    def datagrams(self) -> None:
        """Until it ends."""
        while not self.ends.is_set():
            with suppress(TimeoutError):
                said, peer = self.datagram.recvfrom(65536)
                self.peers.append(peer[0])
                self.datagram.sendto(said, peer)


def _give_back(connection: socket.socket) -> None:
    connection.settimeout(5)
    left = BLOCK
    while left and (said := connection.recv(left)):
        left -= len(said)
        connection.sendall(said)


@contextmanager
def echo(space: str, family: int, address: str, port: int) -> Iterator[Server]:
    """An echo server on an address of ``space``, over TCP and UDP."""
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    server = Server(*(make_socket(space, family, kind) for kind in kinds))
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for made in (server.listener, server.datagram):
        made.settimeout(0.1)
        made.bind((address, port))
    server.listener.listen()
    jobs = (server.streams, server.datagrams)
    threads = [threading.Thread(target=one, daemon=True) for one in jobs]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        server.ends.set()
        for thread in threads:
            thread.join()
        server.listener.close()
        server.datagram.close()


def talk(space: str, family: int, source: str, address: str, port: int) -> None:
    """A block over TCP and some datagrams there and back; the peer is who was asked."""
    with closing(make_socket(space, family, socket.SOCK_STREAM)) as made:
        made.bind((source, 0))
        made.connect((address, port))
        assert made.getpeername()[0] == address
        made.sendall(bytes(BLOCK))
        left = BLOCK
        while left:
            left -= len(made.recv(left)) or left + 1
        assert left == 0
    with closing(make_socket(space, family, socket.SOCK_DGRAM)) as made:
        made.settimeout(1)
        made.bind((source, 0))
        for size in (1, 1400, 4000):  # the last one in pieces
            assert _comes_back(made, bytes(size), (address, port)), size


def _comes_back(made: socket.socket, datagram: bytes, to: tuple[str, int]) -> bool:
    """Of IPv6 the first one may be lost: its sender learns the MTU of the pod by it."""
    for _ in range(3):
        made.sendto(datagram, to)
        with suppress(TimeoutError):
            said, peer = made.recvfrom(65536)
            return (said, peer[:2]) == (datagram, to)
    return False
