"""The UDP port of the overlay: a sender uses the destination's, a receiver its own.

Node b takes the overlay on 8473, all others on 8472.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from os import getpid

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, PLANS, REDIRECT, SHOT, Node, pinned_in
from tests.packet.packets import TCP, UDP, Overlay, Packet

Nodes = dict[str, Node]
USUAL, OTHER = 8472, 8473
B = {4: "10.99.0.12", 6: "fd99::12"}
G = {4: "10.99.0.13", 6: "fd99::13"}
A = {4: "10.99.0.11", 6: "fd99::11"}
CLIENT = PLANS["a"].pods["client"]
NEXT = (1 << 32) - 1


def other_port(node: Node, name: str = "b") -> None:
    """Node ``name`` takes the overlay on 8473, as its cluster has published."""
    endpoint = IPv4Address(PLANS[name].endpoint)
    row = {"next_hop": int(endpoint), "cluster": PLANS[name].cluster, "port": OTHER}
    node.maps["mg_node"].update_one(endpoint.packed, row)
    node.maps["mg_port"].update_one(OTHER, 1)


@pytest.fixture
def a(nodes: Nodes) -> Iterator[Node]:
    other_port(nodes["a"])
    yield nodes["a"]
    nodes["a"].clear("mg_port")


@pytest.fixture(scope="module")
def own(loaded: Nodes) -> Iterator[Node]:
    """Node b itself."""
    with pinned_in(f"dpw-{getpid()}-ported") as directory:
        node = Node(PLANS["b"], loaded["a"].space, directory, overlay_port=OTHER)
        yield node
        node.close()


def test_a_sender_uses_the_port_of_the_destination(a: Node, family: int) -> None:
    for name, port in (("b", OTHER), ("g", USUAL)):
        packet = Packet(CLIENT[family], PLANS[name].pods["web"][family], TCP(40000, 80, "S"))
        got = a.from_pod("client", packet)
        assert got.verdict == REDIRECT
        sent = Overlay("10.99.0.11", PLANS[name].endpoint, CLIENT.identity, packet, to=port)
        assert got.overlay == sent


def test_so_does_egress_to_its_gateway(a: Node, family: int) -> None:
    other_port(a, "g")
    got = a.from_pod("client", Packet(CLIENT[family], LEGACY[family], TCP(40000, 443, "S")))
    assert (got.overlay.destination, got.overlay.to) == (G[4], OTHER)
    assert got.overlay.inner.source == EGRESS[family]


def test_a_receiver_takes_its_own_port(nodes: Nodes, own: Node, family: int) -> None:
    own.reset()
    web = PLANS["b"].pods["web"]
    packet = Packet(CLIENT[family], web[family], TCP(40000, 80, "S"))
    sent = Overlay("10.99.0.11", B[4], CLIENT.identity, packet, to=OTHER)
    got = own.from_uplink(sent)
    assert (got.verdict, got.packet, got.dropped) == (REDIRECT, packet, {})
    answer = own.from_pod("web", packet.reply(TCP(80, 40000, "SA")))
    assert answer.overlay.to == USUAL, "of the other node"
    assert nodes["a"].from_uplink(answer.wire).verdict == REDIRECT


def test_another_port_is_the_hosts(nodes: Nodes, own: Node, family: int) -> None:
    """A CNI beside has its device on the usual one."""
    own.reset()
    assert nodes
    packet = Packet(CLIENT[family], PLANS["b"].pods["web"][family], TCP(40000, 80, "S"))
    wire = Overlay("10.99.0.11", B[4], CLIENT.identity, packet, to=USUAL).wire()
    got = own.from_uplink(wire)
    assert (got.verdict, got.wire, got.dropped) == (OK, wire, {})


@pytest.mark.parametrize(
    ("to", "port", "dropped"),
    [(B, OTHER, True), (B, USUAL, False), (G, USUAL, True), (G, OTHER, False), (A, USUAL, True)],
)
def test_each_nodes_own_port_is_guarded(
    a: Node, family: int, to: dict[int, str], port: int, *, dropped: bool
) -> None:
    """From pods, and from sockets of the host."""
    reasons = {"OVERLAY_PORT": 1} if dropped else {}
    got = a.from_pod("client", Packet(CLIENT[family], to[family], UDP(1, port)))
    assert (got.verdict, got.dropped) == (SHOT if dropped else OK, reasons)
    if to is A:
        return
    got = a.run("mg_to_uplink", Packet(A[family], to[family], UDP(1, port)))
    assert (got.verdict, got.dropped) == (SHOT if dropped else NEXT, reasons)


def test_a_node_says_nothing_of_the_overlay_to_strangers(a: Node, family: int) -> None:
    """Other nodes may know one that this one does not know yet, on either port."""
    for port in (USUAL, OTHER):
        got = a.run("mg_to_uplink", Packet(A[family], LEGACY[family], UDP(1, port)))
        assert got.dropped == {"OVERLAY_PORT": 1}
