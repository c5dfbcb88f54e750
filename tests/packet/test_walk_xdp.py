"""The walk through the gateway in XDP: the same headers as in tc, behind the other hook.

The pod's node runs its tc programs. On the gateway, ``gateway_xdp.bpf.c`` works on the gateway's
own maps in place of ``mg_from_uplink``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf.object import Object
from bpf.testrun import run_xdp
from tests.packet.nodes import BLOCKS, EGRESS, LEGACY, PLANS, ROUTER, SLOT, Got, Node, Spoiled, ip
from tests.packet.packets import TCP, UDP, Echo, Error, Overlay, Packet, Transport, broken_checksums

PASS, REDIRECT = 2, 4
ROUTER_MAC, NODE_MAC = "02:00:00:00:99:01", "02:00:00:00:99:11"
Nodes = dict[str, Node]


class Gateway:
    """Node g with the XDP program."""

    def __init__(self, node: Node, objects: Path) -> None:
        self.node = node
        self.object = Object.open(objects / "gateway_xdp.o")
        self.object.set_config("cfg", node.settings)
        node.share(self.object)
        self.object.load()

    def from_uplink(self, packet: Packet | Overlay | bytes) -> Got:
        wire = packet if isinstance(packet, bytes) else packet.wire()
        program = self.object.programs["mg_gateway_xdp"]
        return self.node.watch(lambda: run_xdp(program, wire, self.node.devices["dpwup"]))


@pytest.fixture
def gateway(nodes: Nodes, door_objects: Path) -> Iterator[Gateway]:
    node = nodes["g"]
    neighbours = [(ROUTER[4], ROUTER_MAC), (ROUTER[6], ROUTER_MAC), ("10.99.0.11", NODE_MAC)]
    for address, mac in neighbours:
        ip(node.space.name, "neigh", "replace", address, "lladdr", mac, "dev", "dpwup")
    made = Gateway(node, door_objects)
    slot = Spoiled(made.object.maps[SLOT])
    node.slots.append(slot)
    yield made
    node.slots.remove(slot)
    made.object.close()
    for address, _ in neighbours:
        ip(node.space.name, "neigh", "del", address, "dev", "dpwup")


def mac_of(wire: bytes) -> str:
    return wire[:6].hex(":")


def outward(nodes: Nodes, gateway: Gateway, packet: Packet) -> Packet:
    """The packet as legacy gets it."""
    sent = nodes["a"].from_pod("client", packet)
    left = gateway.from_uplink(sent.wire)
    assert (left.verdict, left.dropped, left.events) == (REDIRECT, {}, [])
    assert (mac_of(left.wire), broken_checksums(left.wire)) == (ROUTER_MAC, [])
    return left.packet


def inward(nodes: Nodes, gateway: Gateway, packet: Packet) -> Packet:
    """The packet as the pod gets it."""
    back = gateway.from_uplink(packet)
    assert (back.verdict, back.dropped) == (REDIRECT, {})
    assert mac_of(back.wire) == NODE_MAC
    assert back.overlay == Overlay("10.99.0.13", "10.99.0.11", 2, packet)
    home = nodes["a"].from_uplink(back.wire)
    assert (home.dropped, broken_checksums(home.wire)) == ({}, [])
    return home.packet


def number(l4: Transport) -> int:
    assert isinstance(l4, TCP | UDP | Echo)
    return l4.id if isinstance(l4, Echo) else l4.source


@pytest.mark.parametrize(
    "l4", [TCP(40000, 443, "S"), UDP(5000, 53), Echo(77)], ids=["TCP", "UDP", "ping"]
)
def test_both_ways_through_the_gateway(
    nodes: Nodes, gateway: Gateway, family: int, l4: Transport
) -> None:
    client = nodes["a"].plan.pods["client"]
    seen = outward(nodes, gateway, Packet(client[family], LEGACY[family], l4, b"question"))
    port = number(seen.l4)
    assert (seen.source, seen.ttl, seen.payload) == (EGRESS[family], 63, b"question")
    assert (port - 1024) // 256 in BLOCKS["a"]
    back: dict[type, Transport] = {
        TCP: TCP(443, port, "SA"), UDP: UDP(53, port), Echo: Echo(port, answer=True),
    }  # fmt: skip
    got = inward(nodes, gateway, seen.reply(back[type(l4)], b"answer"))
    assert (got.source, got.destination) == (LEGACY[family], client[family])
    assert got.payload == b"answer"


@pytest.mark.parametrize("cut", [8, 1000], ids=["8 bytes", "all"])
def test_an_error_of_a_router_comes_back(
    nodes: Nodes, gateway: Gateway, family: int, cut: int
) -> None:
    packet = Packet(
        nodes["a"].plan.pods["client"][family], LEGACY[family], UDP(5000, 53), b"x" * 40
    )
    seen = outward(nodes, gateway, packet)
    quoted = seen.ip()[: {4: 20, 6: 40}[family] + cut]
    kind = {4: (11, 0), 6: (3, 0)}[family]
    got = inward(nodes, gateway, Packet(ROUTER[family], EGRESS[family], Error(*kind, quoted)))
    assert isinstance(got.l4, Error)
    assert got.l4.quoted == packet.but(ttl=seen.ttl).ip()[: len(quoted)]


def test_on_the_gateways_own_node_the_reply_is_translated_back(
    nodes: Nodes, gateway: Gateway, family: int
) -> None:
    """With an error: the one packet of which XDP itself changes every checksum there is."""
    g = nodes["g"]
    packet = Packet(g.plan.pods["client"][family], LEGACY[family], TCP(40000, 443, "S"), b"x" * 40)
    seen = g.from_pod("client", packet).packet
    quoted = seen.ip()
    kind = {4: (3, 3), 6: (1, 4)}[family]
    error = Packet(ROUTER[family], EGRESS[family], Error(*kind, quoted))
    for back in (seen.reply(TCP(443, number(seen.l4), "SA"), b"answer"), error):
        got = gateway.from_uplink(back)
        assert (got.verdict, got.dropped, broken_checksums(got.wire)) == (REDIRECT, {}, [])
        assert got.packet.destination == packet.source
    assert isinstance(got.packet.l4, Error)
    assert got.packet.l4.quoted == packet.but(ttl=seen.ttl).ip()


def test_a_sender_of_another_block_is_refused(gateway: Gateway, family: int) -> None:
    forged = Packet(EGRESS[family], LEGACY[family], UDP(1024 + 5 * 256, 53))
    identity = PLANS["a"].pods["client"].identity
    wire = Overlay("10.99.0.11", "10.99.0.13", identity, forged).wire()
    assert gateway.from_uplink(wire).dropped == {"BLOCK_NOT_OWNED": 1}


def test_what_is_too_big_is_answered(gateway: Gateway, family: int) -> None:
    length = 1500 - {4: 28, 6: 48}[family]
    packet = Packet(LEGACY[family], EGRESS[family], UDP(53, 1024 + 3 * 256), b"x" * length)
    got = gateway.from_uplink(packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
    assert isinstance(got.packet.l4, Error)
    assert (got.packet.destination, broken_checksums(got.wire)) == (LEGACY[family], [])


@pytest.mark.parametrize("mine", ["another protocol", "another address", "a fragment"])
def test_the_rest_is_left_to_tc_as_it_came(nodes: Nodes, gateway: Gateway, mine: str) -> None:
    whole = Packet(LEGACY[4], "10.99.0.13", UDP(1, 2), b"x")
    client = nodes["a"].plan.pods["client"]
    inner = Packet(EGRESS[4], LEGACY[4], UDP(1024 + 3 * 256, 53), b"x" * 64, df=False, more=True)
    wires = {
        "another protocol": bytes(12) + b"\x08\x06" + bytes(46),
        "another address": whole.wire(),
        "a fragment": Overlay("10.99.0.11", "10.99.0.13", client.identity, inner).wire(),
    }
    got = gateway.from_uplink(wires[mine])
    assert (got.verdict, got.wire, got.dropped) == (PASS, wires[mine], {})
