"""Where a packet's way ends, and who says so: hops, missing routes, pods that are gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import getpid

import pytest

from tests.packet.builds import edited
from tests.packet.nodes import (
    EGRESS,
    LEGACY,
    OK,
    REDIRECT,
    SHOT,
    Got,
    Node,
    ip,
    pinned_in,
    zoned,
)
from tests.packet.packets import TCP, UDP, Echo, Error, Overlay, Packet, Transport, broken_checksums

Nodes = dict[str, Node]
A, B, G = "10.99.0.11", "10.99.0.12", "10.99.0.13"
#: The gateway's own addresses.
GATEWAY = {4: G, 6: "fd99::13"}
EXCEEDED = {4: (11, 0), 6: (3, 0)}
NO_ROUTE = {4: (3, 0), 6: (1, 0)}
NO_HOST = {4: (3, 1), 6: (1, 3)}
PODS = 1  # enum known


def error(got: Got, kind: tuple[int, int], source: str, about: Packet) -> Packet:
    """The error, checked: who says what, about which packet, to its sender."""
    packet = got.packet
    assert isinstance(packet.l4, Error)
    assert (got.verdict, broken_checksums(got.wire)) == (REDIRECT, [])
    assert (packet.l4.type, packet.l4.code) == kind
    assert (packet.source, packet.destination) == (source, about.source)
    assert packet.l4.quoted == about.ip()[: len(packet.l4.quoted)]
    return packet


PROBES = [UDP(5000, 33434), Echo(77), TCP(40000, 443, "S")]


# Hops


@pytest.mark.parametrize("l4", PROBES, ids=["UDP", "ping", "SYN"])
def test_a_traceroute_shows_the_gateway(nodes: Nodes, family: int, l4: Transport) -> None:
    a, g = nodes["a"], nodes["g"]
    probe = Packet(a.plan.pods["client"][family], LEGACY[family], l4, b"x" * 32, ttl=1)
    sent = a.from_pod("client", probe)
    got = g.from_uplink(sent.wire)
    assert got.dropped == {"TTL_EXCEEDED": 1}
    told = error(got, EXCEEDED[family], GATEWAY[family], sent.overlay.inner)
    home = a.from_uplink(Overlay(G, A, 2, told))
    assert home.dropped == {}
    error(home, EXCEEDED[family], GATEWAY[family], probe)


def test_a_traceroute_of_the_gateways_own_pod_shows_it(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    probe = Packet(g.plan.pods["client"][family], LEGACY[family], UDP(5000, 33434), ttl=1)
    got = g.from_pod("client", probe)
    assert got.dropped == {"TTL_EXCEEDED": 1}
    error(got, EXCEEDED[family], GATEWAY[family], probe)


@pytest.fixture(scope="module")
def made_older(loaded: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The gateway on a kernel that does not know the flag by which an own address is asked for."""
    flag = "#define FIB_LOOKUP_SRC (1U << 4)"
    place = tmp_path_factory.mktemp("older")

    class Older(Node):
        built = edited(place, [("hook_tc.h", flag, flag.replace("4)", "30)"))])

    g = loaded["g"]
    with pinned_in(f"dpw-{getpid()}-older") as directory:
        node = Older(g.plan, g.space, directory)
        yield node
        node.close()


@pytest.fixture
def older(nodes: Nodes, made_older: Node) -> Node:
    assert nodes
    made_older.reset()
    return made_older


def test_a_kernel_before_6_7_says_it_in_the_destinations_name(older: Node, family: int) -> None:
    """IPv4 needs no question (D9)."""
    probe = Packet(older.plan.pods["client"][family], LEGACY[family], UDP(5000, 33434), ttl=1)
    got = older.from_pod("client", probe)
    assert got.dropped == {"TTL_EXCEEDED": 1}
    error(got, EXCEEDED[family], {4: G, 6: LEGACY[6]}[family], probe)


def test_the_last_hop_is_let_through(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    probe = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(5000, 33434), ttl=2)
    got = g.from_uplink(a.from_pod("client", probe).wire)
    assert (got.verdict, got.dropped, got.packet.ttl) == (REDIRECT, {}, 1)


# Routes


@contextmanager
def route(node: Node, kind: str, to: str) -> Iterator[None]:
    words = [kind, to, *(["metric", "1"] if ":" in to else [])]
    ip(node.space.name, "route", "add", *words)
    try:
        yield
    finally:
        ip(node.space.name, "route", "del", *words)


@pytest.mark.parametrize("kind", ["unreachable", "prohibit"])
def test_a_destination_without_a_route_is_unreachable(nodes: Nodes, family: int, kind: str) -> None:
    a, g = nodes["a"], nodes["g"]
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(5000, 53), b"x" * 32)
    sent = a.from_pod("client", packet)
    with route(g, kind, LEGACY[family]):
        got = g.from_uplink(sent.wire)
    assert got.dropped == {"FIB_LOOKUP_FAILED": 1}
    told = error(got, NO_ROUTE[family], LEGACY[family], sent.overlay.inner)
    home = a.from_uplink(Overlay(G, A, 2, told))
    error(home, NO_ROUTE[family], LEGACY[family], packet)


def test_a_black_hole_is_silent(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(5000, 53))
    with route(g, "blackhole", LEGACY[family]):
        got = g.from_uplink(a.from_pod("client", packet).wire)
    assert (got.verdict, got.dropped) == (SHOT, {"FIB_LOOKUP_FAILED": 1})


# Pods that are gone

GONE = {4: "10.1.2.99", 6: "fd01:0:0:2::99"}


def to_gone(nodes: Nodes, family: int, l4: Transport) -> Packet:
    return Packet(nodes["a"].plan.pods["client"][family], GONE[family], l4, b"question")


@pytest.mark.parametrize("l4", PROBES, ids=["UDP", "ping", "SYN"])
def test_a_gone_pod_of_another_node_is_unreachable(
    nodes: Nodes, family: int, l4: Transport
) -> None:
    """Its node says so in its own name, which the sender's node believes."""
    a, g = nodes["a"], nodes["g"]
    g.maps["mg_known"].update_one(PODS, 1)
    packet = to_gone(nodes, family, l4)
    got = g.from_uplink(a.from_pod("client", packet).wire)
    assert got.dropped == {"UNKNOWN_L3_TARGET": 1}
    told = error(got, NO_HOST[family], GATEWAY[family], packet)
    home = a.from_uplink(Overlay(G, A, 6, told))
    assert home.dropped == {}
    error(home, NO_HOST[family], GATEWAY[family], packet)


def test_before_the_pods_are_known_nobody_is_gone(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    got = g.from_uplink(a.from_pod("client", to_gone(nodes, family, UDP(5000, 53))).wire)
    assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1})


def test_a_pod_that_is_only_not_wired_yet_is_not_gone(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    g.maps["mg_known"].update_one(PODS, 1)
    row = {"identity": 0x10001, "node": int.from_bytes(bytes([10, 99, 0, 13])), "kind": 1}
    g.maps["mg_address"].update_one(zoned(GONE[family]), row | {"cluster": 1})
    got = g.from_uplink(a.from_pod("client", to_gone(nodes, family, UDP(5000, 53))).wire)
    assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1})


def test_an_address_of_another_node_is_not_ours_to_judge(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    g.maps["mg_known"].update_one(PODS, 1)
    far = {4: "10.1.1.99", 6: "fd01:0:0:1::99"}[family]
    packet = to_gone(nodes, family, UDP(5000, 53)).but(destination=far)
    identity = nodes["a"].plan.pods["client"].identity
    got = g.from_uplink(Overlay(A, G, identity, packet))
    assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1})


def test_errors_about_gone_pods_are_not_answered(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    g.maps["mg_known"].update_one(PODS, 1)
    about = to_gone(nodes, family, UDP(53, 5000))
    quoted = Packet(about.destination, about.source, UDP(5000, 53)).ip()
    packet = about.but(l4=Error(*NO_HOST[family], quoted), payload=b"")
    got = g.from_uplink(Overlay(A, G, a.plan.pods["client"].identity, packet))
    assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1})


def test_the_nodes_own_gone_pods_are_the_stacks(nodes: Nodes, family: int) -> None:
    """Its discard route of the pod CIDR says unreachable."""
    g = nodes["g"]
    packet = Packet(g.plan.pods["web"][family], GONE[family], UDP(5000, 53))
    got = g.from_pod("web", packet)
    assert (got.verdict, got.packet, got.dropped) == (OK, packet, {})


def test_what_egress_is_told_comes_the_way_of_egress(nodes: Nodes, family: int) -> None:
    """From a node's name it would be refused there, and from a gateway's only with VNI 2."""
    a, g = nodes["a"], nodes["g"]
    probe = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(5000, 53), ttl=1)
    told = g.from_uplink(a.from_pod("client", probe).wire).packet
    assert told.destination == EGRESS[family]
    assert a.from_uplink(Overlay(G, A, 6, told)).verdict == SHOT
