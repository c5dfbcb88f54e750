"""Fragments follow their first one, at the node and at the gateway, both ways."""

import random
import struct
from ipaddress import ip_address

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, REDIRECT, SHOT, Node
from tests.packet.packets import TCP, UDP, Echo, Other, Overlay, Packet, ones_complement, pseudo

Nodes = dict[str, Node]
BODY = bytes(range(256)) * 8


def fragments(packet: Packet, size: int = 1024) -> list[Packet]:
    """The packet as its sender would cut it."""
    body = packet.ip()[{4: 20, 6: 40}[packet.family] :]
    head = {UDP: 8, TCP: 20, Echo: 8}[type(packet.l4)]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    whole = packet.but(df=False, id=4711)
    cut = [whole.but(payload=parts[0][head:], more=True)]
    for number, part in enumerate(parts[1:], 1):
        last = number == len(parts) - 1
        cut.append(
            whole.but(l4=Other(packet.protocol), payload=part, offset=number * size, more=not last)
        )
    return cut


def wires(packet: Packet, size: int = 1024) -> list[bytes]:
    """Fragments on the wire; the first carries length and checksum of the whole."""
    first, *rest = (part.wire() for part in fragments(packet, size))
    body = packet.ip()[{4: 20, 6: 40}[packet.family] :]
    return [first[:-size] + body[:size], *rest]


def check_ok(wire_parts: list[bytes]) -> bool:
    """The checksum of the datagram that the fragments make."""
    body = b"".join(w[14 + {4: 20, 6: 48}[Packet.read(w).family] :] for w in wire_parts)
    first = Packet.read(wire_parts[0])
    addresses = ip_address(first.source).packed + ip_address(first.destination).packed
    return ones_complement(pseudo(addresses, first.protocol, len(body)) + body) == 0


ECHOES = pytest.mark.parametrize("l4", [UDP(5000, 53), Echo(77)], ids=["UDP", "ping"])


@ECHOES
def test_fragments_of_a_covered_pod_leave_and_return(
    nodes: Nodes, family: int, l4: UDP | Echo
) -> None:
    """On the gateway's own node; across nodes: tests/lab/test_datapath_wire.py."""
    g = nodes["g"]
    packet = Packet(g.plan.pods["client"][family], LEGACY[family], l4, BODY)
    left = []
    for wire in wires(packet):
        got = g.from_pod("client", wire)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        left.append(got.wire)
    seen = [Packet.read(wire) for wire in left]
    assert {p.source for p in seen} == {EGRESS[family]}
    assert check_ok(left)
    assert [p.offset for p in seen] == [0, 1024, 2048]

    outside = seen[0].l4
    back = UDP(53, outside.source) if isinstance(outside, UDP) else Echo(outside.id, answer=True)
    home = []
    for wire in wires(Packet(LEGACY[family], EGRESS[family], back, BODY)):
        got = g.from_uplink(wire)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        home.append(got.wire)
    arrived = [Packet.read(wire) for wire in home]
    assert {p.destination for p in arrived} == {packet.source}
    assert check_ok(home)
    mirrored = UDP(53, 5000) if isinstance(l4, UDP) else Echo(77, answer=True)
    assert arrived[0].l4 == mirrored


@ECHOES
def test_fragments_travel_translated_to_the_gateway_and_back_by_their_block(
    nodes: Nodes, family: int, l4: UDP | Echo
) -> None:
    a, g = nodes["a"], nodes["g"]
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], l4, BODY)
    sent = [a.from_pod("client", wire) for wire in wires(packet)]
    assert {(got.verdict, got.overlay.inner.source) for got in sent} == {(REDIRECT, EGRESS[family])}
    assert check_ok([got.wire[50:] for got in sent])
    for got in sent:
        left = g.from_uplink(got.wire)
        assert (left.verdict, left.wire) == (OK, got.wire), "the kernel's device opens fragments"

    outside = sent[0].overlay.inner.l4
    back = UDP(53, outside.source) if isinstance(outside, UDP) else Echo(outside.id, answer=True)
    for wire in wires(Packet(LEGACY[family], EGRESS[family], back, BODY)):
        overlay = g.from_uplink(wire).overlay
        assert (overlay.destination, overlay.vni) == (a.plan.endpoint, 2)


def test_fragments_between_pods(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    web, client = a.plan.pods["web"], a.plan.pods["client"]
    for wire in wires(Packet(web[family], client[family], UDP(1, 2), BODY)):
        got = a.from_pod("web", wire)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert got.wire[14:] == wire[14:]


@pytest.mark.parametrize("l4", [UDP(5000, 53), TCP(40000, 80, "A"), Echo(1)], ids=str)
def test_a_fragment_without_its_first_is_dropped(
    nodes: Nodes, family: int, l4: UDP | TCP | Echo
) -> None:
    a, g = nodes["a"], nodes["g"]
    later = fragments(Packet(a.plan.pods["client"][family], LEGACY[family], l4, BODY))[1]
    assert a.from_pod("client", later).dropped == {"FRAGMENT_NOT_FOUND": 1}
    inward = later.but(source=LEGACY[family], destination=EGRESS[family])
    assert g.from_uplink(inward).dropped == {"FRAGMENT_NOT_FOUND": 1}


def test_fragments_of_another_datagram_are_not_mixed_up(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(5000, 53), BODY)
    first, later, *_ = fragments(packet)
    a.from_pod("client", first)
    assert a.from_pod("client", later).dropped == {}
    assert a.from_pod("client", later.but(id=4712)).dropped == {"FRAGMENT_NOT_FOUND": 1}


def test_an_outer_fragment_is_left_to_the_stack(nodes: Nodes) -> None:
    first = Packet("10.99.0.12", "10.99.0.11", UDP(40000, 8472), b"x" * 1024, df=False, more=True)
    later = first.but(l4=Other(17), offset=1032, more=False)
    for packet in (first, later):
        got = nodes["a"].from_uplink(packet)
        assert (got.verdict, got.wire) == (0, packet.wire())


def test_an_atomic_fragment_is_a_whole_packet(nodes: Nodes) -> None:
    a = nodes["a"]
    packet = Packet(a.plan.pods["client"][6], LEGACY[6], UDP(5000, 53), b"x")
    atomic = packet.but(options=struct.pack("!BBHI", 17, 0, 0, 7), first=44)
    got = a.from_pod("client", atomic)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert a.count("mg_frag") == 0


@pytest.mark.parametrize("source", ["the world", "an egress address", "a pod of another node"])
def test_a_node_leads_no_datagrams_but_those_of_its_own_pods(nodes: Nodes, source: str) -> None:
    """Options in front hide the fragment header, so no kernel reassembles first."""
    g, w = nodes["g"], nodes["w"]
    ways = {
        "the world": (LEGACY[6], EGRESS[6]),
        "an egress address": (EGRESS[6], LEGACY[6]),
        "a pod of another node": (nodes["a"].plan.pods["web"][6], g.plan.pods["web"][6]),
    }
    first = Packet(*ways[source], UDP(1024 + 3 * 256, 1024 + 3 * 256), bytes(16), id=7, more=True)
    hidden = first.but(options=bytes([44, 0, 1, 4, 0, 0, 0, 0]), first=60)
    wire = Overlay(w.plan.endpoint, g.plan.endpoint, w.plan.pods["web"].identity, hidden).wire()
    g.from_uplink(wire)
    assert g.count("mg_frag") == 0


# Forged ones (RFC 1858, RFC 3128, RFC 5722): what a covered pod sends leaves translated or not at
# all, and what comes in reaches nobody but the pod whose connection it is.


def translated_or_dropped(node: Node, family: int, wire: bytes) -> bool:
    """Send it from the covered pod; whether it leaves."""
    got = node.from_pod("client", wire)
    if got.verdict == SHOT:
        return False
    left = got.overlay.inner if node.plan.name != "g" else got.packet
    hears = left.destination == node.plan.pods["client"][family]
    assert got.verdict == REDIRECT
    assert hears or left.source == EGRESS[family], left
    return left.source == EGRESS[family]


@pytest.mark.parametrize("size", [8, 16], ids=["ports alone", "without flags"])
def test_a_tiny_first_fragment_of_tcp_goes_nowhere_and_leads_none(
    nodes: Nodes, family: int, size: int
) -> None:
    """Its flags would come in the second one, behind the check."""
    a = nodes["a"]
    asked = Packet(a.plan.pods["client"][family], LEGACY[family], TCP(40000, 80, "S"), BODY)
    body = asked.ip()[{4: 20, 6: 40}[family] :]
    first = asked.but(l4=Other(6), payload=body[:size], df=False, id=9, more=True)
    rest = asked.but(l4=Other(6), payload=body[size:], df=False, id=9, offset=size)
    assert a.from_pod("client", first).dropped == {"CT_TRUNCATED": 1}
    assert a.from_pod("client", rest).dropped == {"FRAGMENT_NOT_FOUND": 1}
    inward = [one.but(source=LEGACY[family], destination=EGRESS[family]) for one in (first, rest)]
    got = [nodes["g"].from_uplink(one).dropped for one in inward]
    assert got == [{"CT_TRUNCATED": 1}, {"FRAGMENT_NOT_FOUND": 1}]
    assert a.count("mg_frag") == nodes["g"].count("mg_frag") == 0


@pytest.mark.parametrize("node", ["a", "g"], ids=["at its node", "at the gateway's own"])
@pytest.mark.parametrize("kind", ["UDP", "TCP"])
def test_fragments_that_overlap_leave_translated_in_any_order(
    nodes: Nodes, family: int, kind: str, node: str
) -> None:
    """A second first one with other ports, one over the header, one over its neighbour."""
    pods = nodes[node].plan.pods["client"]
    l4 = {"UDP": (UDP(5000, 53), UDP(5001, 4444)), "TCP": (TCP(5000, 80, "S"), TCP(5001, 22, "S"))}
    packet, other = (Packet(pods[family], LEGACY[family], one, BODY) for one in l4[kind])
    honest = [one.wire() for one in fragments(packet)]
    forged = [fragments(other)[0].wire()]
    later = fragments(packet)[1]
    forged += [later.but(offset=at).wire() for at in (8, 16, 1016, 1032, 65512)]
    every = honest + forged
    for seed in range(20):
        nodes[node].reset()
        order = random.Random(seed).sample(every, len(every))
        left = [translated_or_dropped(nodes[node], family, wire) for wire in order]
        heads = [wire in (honest[0], forged[0]) for wire in order]
        assert left == [heads.index(True) <= at for at in range(len(order))]


def test_overlapping_fragments_of_the_world_reach_the_connections_pod_alone(
    nodes: Nodes, family: int
) -> None:
    g = nodes["g"]
    client, web = g.plan.pods["client"][family], g.plan.pods["web"][family]
    left = g.from_pod("client", Packet(client, LEGACY[family], UDP(5000, 53))).packet
    assert isinstance(left.l4, UDP)
    back = UDP(53, left.l4.source)
    first, later, *_ = fragments(Packet(LEGACY[family], EGRESS[family], back, BODY))
    foreign = first.but(l4=UDP(53, left.l4.source + 1))
    to_web = [one.but(destination=web) for one in (first, later.but(offset=8))]
    every = [first, foreign, later, later.but(offset=8), later.but(offset=1016)]
    for seed in range(20):
        g.clear("mg_frag")
        order = random.Random(seed).sample(every, len(every))
        for packet in order:
            got = g.from_uplink(packet)
            assert got.verdict == SHOT or got.packet.destination == client
    for packet in to_web:  # natively to another pod: its own datagram, which nobody else gets
        got = g.from_uplink(packet)
        assert got.verdict == SHOT or got.packet.destination == web
