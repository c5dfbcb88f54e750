"""Pods of a cluster that no router knows reach the world behind the address of their node.

No BGPPeer advertises pod CIDRs, so ``auto`` is on (``overlay_lab``)::

    east-1 east-2 west-1 etcd ── router (no BGP)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from running import ECHO, ECHO_PORT, Lab, report, wait
from wiretap import taps

ROUTER = ("10.99.0.1", "fd99::1")
HOSTS = {"east-1": ("10.99.0.11", "fd99::11"), "east-2": ("10.99.0.12", "fd99::12")}
FAMILIES = pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
PODS = pytest.mark.parametrize("pod", ["web-1", "web-2"])


@pytest.fixture(scope="module")
def lab(overlay_lab: Lab) -> Lab:
    return overlay_lab


@contextmanager
def echo_on_router(lab: Lab) -> Iterator[None]:
    server = lab.start("router", sys.executable, ECHO, ECHO_PORT, ECHO_PORT)
    try:
        wait(lambda: str(ECHO_PORT) in lab.output("router", "ss", "-ltn"), 30, "the router listens")
        yield
    finally:
        server.terminate()
        server.wait(10)


@FAMILIES
@PODS
def test_the_router_sees_the_node(lab: Lab, pod: str, number: int) -> None:
    host = f"east-{pod.rpartition('-')[2]}"
    with echo_on_router(lab), taps(lab, host, device="uplink") as made:
        found = report(lab.probe(f"east/shop/{pod}", "tcp", ROUTER[number], ECHO_PORT, 1))
        packets = made[host].packets()
    assert not found.get("error"), found
    router = ip_address(ROUTER[number])
    seen = {packet.source for packet in packets if packet.destination == router}
    assert seen == {ip_address(HOSTS[host][number])}


@FAMILIES
def test_datagrams_come_back_whole_and_in_pieces(lab: Lab, number: int) -> None:
    with echo_on_router(lab):
        for size in (64, 1400, 4000):
            pace = ("--rate", 50, "--size", size)
            probe = lab.probe("east/shop/web-1", "udp", ROUTER[number], ECHO_PORT, 2, *pace)
            found = report(probe)
            lost = 1 if size > 1400 and number else 0  # by it the router learns the pod's MTU
            assert found["missing"] <= lost, (size, found)


@FAMILIES
def test_a_ping_is_answered(lab: Lab, number: int) -> None:
    said = lab.output("east/shop/web-1", "ping", "-c", "1", "-W", "3", ROUTER[number])
    assert "1 received" in said


def test_connections_go_on_while_the_agent_is_killed(lab: Lab) -> None:
    with echo_on_router(lab):
        probe = lab.probe("east/shop/web-1", "tcp", ROUTER[0], ECHO_PORT, 8)
        lab.kill("east-1/agent")
        lab.revive("east-1/agent")
        found = report(probe)
    assert not found.get("error"), found


def test_the_ports_are_no_sockets_and_are_shown(lab: Lab) -> None:
    rows = {row["setting"]: row for row in lab.json("host", "list") if row["node"] == "east-1"}
    assert rows["net.ipv4.ip_local_reserved_ports"]["now"] == "61000-65535"
    assert not [row for row in lab.json("status")["findings"] if row["code"] in ("M225", "M226")]
