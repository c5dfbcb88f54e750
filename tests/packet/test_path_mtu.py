"""The path to a node has an MTU of its own: the kernel knows it, pods, hosts and legacy hear of it.

Node a asks about b, and g about a. Routes of the namespace say what the kernel knows; what a router
said (ICMP) the kernel keeps as an exception of a route, which a socket's own question shows.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import numpy as np

from tests.packet.nodes import EGRESS, LEGACY, REDIRECT, ROUTER, Node
from tests.packet.packets import UDP, Error, Overlay, Packet
from tests.packet.test_hosts import HOST, from_host
from tests.packet.test_too_big import check, size

Nodes = dict[str, Node]
A, B = "10.99.0.11", "10.99.0.12"
IP_MTU_DISCOVER, PMTUDISC_DO, IP_MTU = 10, 2, 14


def ip(node: Node, *words: str) -> None:
    subprocess.run(["ip", "-n", node.space.name, *words], check=True)


def forget(node: Node) -> None:
    """As an agent's new rows do: the kernel is asked again at once."""
    node.rows_of_nodes()


@contextmanager
def path(node: Node, endpoint: str, *words: str) -> Iterator[None]:
    """A route to an endpoint with metrics; no question was asked before or stays answered."""
    ip(node, "route", "add", endpoint, "dev", "dpwup", *words)
    forget(node)
    try:
        yield
    finally:
        ip(node, "route", "del", endpoint, "dev", "dpwup")
        forget(node)


def say_too_big(node: Node, about: str, mtu: int) -> None:
    """A router says so about a datagram that a socket of the namespace has sent."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire,
    ):
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        sender.connect((about, 8472))
        own, port = sender.getsockname()
        quoted = Packet(own, about, UDP(port, 8472), b"x" * 1400).ip()[:128]
        error = Packet(ROUTER[4], own, Error(3, 4, quoted, mtu)).ip()
        wire.bind(("dpwupp", 0x0800))
        wire.send(mac_of(node) + bytes(6) + b"\x08\x00" + error)
        deadline = time.monotonic() + 5
        while sender.getsockopt(socket.IPPROTO_IP, IP_MTU) != mtu:
            assert time.monotonic() < deadline, "the kernel has not learned it"


def mac_of(node: Node) -> bytes:
    """Of the uplink."""
    answer = subprocess.run(
        ["ip", "-n", node.space.name, "-j", "link", "show", "dpwup"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return bytes.fromhex(json.loads(answer.stdout)[0]["address"].replace(":", ""))


def row(node: Node, endpoint: str) -> np.void:
    """The row of a node in the map of another one."""
    keys, values = node.maps["mg_node"].dump()
    found = {str(IPv4Address(int(k))): v for k, v in zip(keys, values, strict=True)}
    return found[endpoint]


def to_b(nodes: Nodes, family: int, length: int, **fields: object) -> Packet:
    source = nodes["a"].plan.pods["web"][family]
    to = nodes["b"].plan.pods["web"][family]
    return Packet(source, to, UDP(5000, 53), size(family, length), **fields)


def test_a_pod_hears_of_the_path_and_not_of_the_uplink(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    with path(a, B, "mtu", "lock", "1400"):
        packet = to_b(nodes, family, 1351)
        got = a.from_pod("web", packet)
        assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
        check(got.wire, packet, 1350)
        fits = to_b(nodes, family, 1350)
        assert a.from_pod("web", fits).overlay.inner == fits
    again = to_b(nodes, family, 1450)
    assert a.from_pod("web", again).overlay.inner == again


def test_a_covered_pod_hears_of_the_path_to_its_gateway(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    with path(a, B, "mtu", "lock", "1400"):
        for node in nodes.values():
            node.gateways(family, "b")
        packet = Packet(
            a.plan.pods["client"][family], LEGACY[family], UDP(5000, 53), size(family, 1351)
        )
        got = a.from_pod("client", packet)
        assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
        check(got.wire, packet, 1350)


def test_legacy_hears_of_the_path_behind_the_gateway(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    with path(g, A, "mtu", "lock", "1400"):
        packet = Packet(LEGACY[family], EGRESS[family], UDP(53, 1024 + 3 * 256), size(family, 1351))
        got = g.from_uplink(packet)
        assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
        check(got.wire, packet, 1350)


def test_a_host_hears_of_the_path(nodes: Nodes, family: int) -> None:
    a, web = nodes["a"], nodes["b"].plan.pods["web"]
    with path(a, B, "mtu", "lock", "1400"):
        packet = Packet(HOST["a"][family], web[family], UDP(5000, 53), size(family, 1351))
        got = from_host(a, packet)
        assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
        check(got.wire, packet, 1350)
        fits = packet.but(payload=size(family, 1350))
        assert from_host(a, fits).overlay.inner == fits


def test_nobody_hears_of_less_than_1280_and_the_outer_packet_is_cut(
    nodes: Nodes, family: int
) -> None:
    a = nodes["a"]
    with path(a, B, "mtu", "lock", "1200"):
        packet = to_b(nodes, family, 1281)
        got = a.from_pod("web", packet)
        assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
        check(got.wire, packet, 1280)
        cut = to_b(nodes, family, 1280)
        got = a.from_pod("web", cut)
        assert (got.verdict, got.packet, got.dropped) == (REDIRECT, cut, {})
        whole = to_b(nodes, family, 1150)
        assert a.from_pod("web", whole).overlay.inner == whole


def test_what_may_be_cut_goes_to_the_kernels_device(nodes: Nodes) -> None:
    a = nodes["a"]
    with path(a, B, "mtu", "lock", "1400"):
        packet = to_b(nodes, 4, 1351, df=False)
        got = a.from_pod("web", packet)
        assert (got.verdict, got.packet, got.dropped) == (REDIRECT, packet, {})
        assert a.from_pod("web", to_b(nodes, 4, 1350, df=False)).overlay.inner.df is False


def test_the_mtu_of_a_route_that_is_not_locked_counts_when_the_agent_says_it(
    nodes: Nodes, family: int
) -> None:
    """bpf_fib_lookup leaves it out; the smaller one of both counts."""
    a = nodes["a"]
    hop = {"next_hop": int(IPv4Address(B)), "cluster": 1}
    for locked, said, most in (("1500", 1400, 1350), ("1380", 1400, 1330), ("1500", 0, 1450)):
        with path(a, B, "mtu", "lock", locked):
            a.maps["mg_node"].update_one(IPv4Address(B).packed, hop | {"route_mtu": said})
            packet = to_b(nodes, family, most + 1)
            check(a.from_pod("web", packet).wire, packet, most)
            assert a.from_pod("web", to_b(nodes, family, most)).dropped == {}


def test_what_a_router_has_said_counts(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    with path(a, B):
        say_too_big(a, B, 1400)
        packet = to_b(nodes, family, 1351)
        check(a.from_pod("web", packet).wire, packet, 1350)
        assert a.from_pod("web", to_b(nodes, family, 1350)).dropped == {}
    with path(g, A):
        say_too_big(g, A, 1400)
        packet = Packet(LEGACY[family], EGRESS[family], UDP(53, 1024 + 3 * 256), size(family, 1351))
        check(g.from_uplink(packet).wire, packet, 1350)


def test_the_kernel_is_asked_by_large_packets_and_once_a_second(nodes: Nodes) -> None:
    a = nodes["a"]
    forget(a)
    a.from_pod("web", to_b(nodes, 4, 502))
    assert int(row(a, B)["asked"]) == 0
    for _ in range(10):  # until all of it has happened within a second
        a.from_pod("web", to_b(nodes, 4, 503))
        asked, said = int(row(a, B)["asked"]), int(row(a, B)["mtu"])
        ip(a, "route", "add", B, "dev", "dpwup", "mtu", "lock", "1400")
        got = a.from_pod("web", to_b(nodes, 4, 1450))
        again = int(row(a, B)["asked"])
        ip(a, "route", "del", B, "dev", "dpwup")
        if again == asked:
            break
    assert (asked > 0, again, said, got.dropped) == (True, asked, 1500, {})
    with path(a, B, "mtu", "lock", "1400"):
        hop = {"next_hop": int(IPv4Address(B)), "cluster": 1, "mtu": 1500, "asked": asked - 1}
        a.maps["mg_node"].update_one(IPv4Address(B).packed, hop)
        got = a.from_pod("web", to_b(nodes, 4, 1450))
        assert got.dropped == {"FRAGMENTATION_NEEDED": 1}


def test_while_no_route_leads_to_the_node_the_uplinks_mtu_counts(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    ip(a, "route", "add", "unreachable", B)
    forget(a)
    try:
        packet = to_b(nodes, family, 1451)
        check(a.from_pod("web", packet).wire, packet, 1450)
        assert a.from_pod("web", to_b(nodes, family, 1450)).dropped == {}
    finally:
        ip(a, "route", "del", "unreachable", B)
        forget(a)


def test_a_gateway_tells_the_pod_of_another_node_what_its_routes_allow(
    nodes: Nodes, family: int
) -> None:
    """The route to this destination has an MTU of 1300 (nodes.namespace)."""
    a, g = nodes["a"], nodes["g"]
    far = {4: "192.0.2.77", 6: "2001:db8:2::77"}[family]
    packet = Packet(a.plan.pods["client"][family], far, UDP(5000, 53), size(family, 1301))
    sent = a.from_pod("client", packet)
    assert sent.dropped == {}
    told = g.from_uplink(sent.wire)
    assert (told.verdict, told.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
    check(told.wire, sent.overlay.inner, 1300)
    home = a.from_uplink(Overlay("10.99.0.13", A, 2, told.packet))
    assert (home.verdict, home.dropped) == (REDIRECT, {})
    check(home.wire, packet, 1300)


def test_at_the_gateway_counts_what_its_kernel_has_learned(nodes: Nodes) -> None:
    far, g = "192.0.2.88", nodes["g"]
    with path(g, far):
        say_too_big(g, far, 1400)
        packet = Packet(g.plan.pods["client"][4], far, UDP(5000, 53), size(4, 1401))
        check(g.from_pod("client", packet).wire, packet, 1400)
        assert g.from_pod("client", packet.but(payload=size(4, 1400))).dropped == {}
