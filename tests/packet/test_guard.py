"""The overlay port of nodes: which packets of pods, sockets and strangers are dropped by name."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, PLANS, REDIRECT, SHOT, Node
from tests.packet.packets import TCP, UDP, Other, Packet

Nodes = dict[str, Node]

PORT = 8472
OWN = {4: "10.99.0.11", 6: "fd99::11"}
NODE = {4: "10.99.0.12", 6: "fd99::12"}
PEER = {4: "10.99.0.21", 6: "fd99::21"}
CLIENT, WEB = PLANS["a"].pods["client"], PLANS["a"].pods["web"]
#: TCX_NEXT: the programs of others behind this one are asked, too.
NEXT = (1 << 32) - 1
ROUTING = bytes([17, 0, 4, 0]) + b"\0" * 4


@pytest.mark.parametrize("to", [OWN, NODE, PEER], ids=["its own", "another one", "a peer's"])
@pytest.mark.parametrize("pod", ["web", "client"])
def test_a_pod_sends_nothing_to_the_port_of_a_node(
    nodes: Nodes, family: int, to: dict[int, str], pod: str
) -> None:
    source = PLANS["a"].pods[pod][family]
    got = nodes["a"].from_pod(pod, Packet(source, to[family], UDP(1, PORT)))
    assert (got.verdict, got.dropped) == (SHOT, {"OVERLAY_PORT": 1})


def test_nor_in_fragments(nodes: Nodes, family: int) -> None:
    whole = Packet(WEB[family], NODE[family], UDP(1, PORT), b"x" * 100)
    first = whole.but(more=True, id=7, df=False)
    later = whole.but(l4=Other(17), payload=b"y" * 64, offset=112, id=7, df=False)
    node = nodes["a"]
    assert node.from_pod("web", first).dropped == {"OVERLAY_PORT": 1}
    assert node.from_pod("web", later).verdict == SHOT


def test_an_address_that_only_tunnels_know_is_a_nodes(nodes: Nodes) -> None:
    """The row of the address may have had no room."""
    node = nodes["a"]
    endpoint = IPv4Address("10.99.0.77")
    node.maps["mg_node"].update_one(endpoint.packed, {"next_hop": int(endpoint), "cluster": 2})
    got = node.from_pod("web", Packet(WEB[4], str(endpoint), UDP(1, PORT)))
    assert got.dropped == {"OVERLAY_PORT": 1}


OTHERS: list[tuple[str, int, Callable[[int], Packet]]] = [
    ("TCP", OK, lambda f: Packet(WEB[f], NODE[f], TCP(1, PORT, "S"))),
    ("from the port", OK, lambda f: Packet(WEB[f], NODE[f], UDP(PORT, 1))),
    ("to a pod", REDIRECT, lambda f: Packet(WEB[f], PLANS["b"].pods["web"][f], UDP(1, PORT))),
    ("to the world", OK, lambda f: Packet(WEB[f], LEGACY[f], UDP(1, PORT))),
]


@pytest.mark.parametrize(("verdict", "make"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_a_pod_may_send(
    nodes: Nodes, family: int, verdict: int, make: Callable[[int], Packet]
) -> None:
    got = nodes["a"].from_pod("web", make(family))
    assert (got.verdict, got.dropped) == (verdict, {})


FORGED: list[tuple[str, Callable[[int], Packet]]] = [
    ("of this node", lambda f: Packet(OWN[f], NODE[f], UDP(1, PORT))),
    ("of this node to a stranger", lambda f: Packet(OWN[f], LEGACY[f], UDP(1, PORT))),
    ("of another node", lambda f: Packet(NODE[f], PEER[f], UDP(1, PORT))),
    ("of a stranger", lambda f: Packet(LEGACY[f], PEER[f], UDP(1, PORT))),
    ("of an egress address", lambda f: Packet(EGRESS[f], NODE[f], UDP(1, PORT))),
    (
        "behind another header",
        lambda f: (
            Packet(OWN[f], NODE[f], UDP(1, PORT))
            if f == 4
            else Packet(OWN[6], NODE[6], UDP(1, PORT), options=ROUTING, first=43)
        ),
    ),
    ("a first fragment", lambda f: Packet(OWN[f], NODE[f], UDP(1, PORT), more=True, df=False)),
]


@pytest.mark.parametrize("make", [f[1] for f in FORGED], ids=[f[0] for f in FORGED])
def test_what_nobody_has_vouched_for_does_not_leave(
    nodes: Nodes, family: int, make: Callable[[int], Packet]
) -> None:
    got = nodes["a"].to_uplink(make(family))
    assert (got.verdict, got.dropped) == (SHOT, {"OVERLAY_PORT": 1})
    assert [event["point"] for event in got.events] == [11]


def test_options_hide_nothing(nodes: Nodes) -> None:
    packet = Packet(OWN[4], NODE[4], UDP(1, PORT), options=b"\1" * 8)
    assert nodes["a"].to_uplink(packet).dropped == {"OVERLAY_PORT": 1}


LEAVES: list[tuple[str, Callable[[int], Packet]]] = [
    ("TCP", lambda f: Packet(OWN[f], NODE[f], TCP(1, PORT, "S"))),
    ("another port", lambda f: Packet(OWN[f], NODE[f], UDP(PORT, 53))),
    ("no node at either end", lambda f: Packet(EGRESS[f], LEGACY[f], UDP(1, PORT))),
    ("a later fragment", lambda f: Packet(OWN[f], NODE[f], Other(17), b"\0" * 24, offset=64)),
    ("short", lambda f: Packet(OWN[f], NODE[f], Other(17), b"\0\0\x21")),
    ("ICMP", lambda f: Packet(OWN[f], NODE[f], Other({4: 1, 6: 58}[f]), b"\0" * 8)),
]


@pytest.mark.parametrize("make", [row[1] for row in LEAVES], ids=[row[0] for row in LEAVES])
def test_all_else_leaves(nodes: Nodes, family: int, make: Callable[[int], Packet]) -> None:
    got = nodes["a"].to_uplink(make(family))
    assert (got.verdict, got.dropped) == (NEXT, {})


def test_what_is_no_ip_leaves(nodes: Nodes) -> None:
    frame = b"\2" * 12 + b"\x08\x06" + b"\0" * 46
    assert nodes["a"].to_uplink(frame).verdict == NEXT
