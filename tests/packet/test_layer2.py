"""Egress addresses on layer 2: who answers ARP and NDP, with which MAC address, and who is silent.

The router asks for the egress address. g owned it before, b is the owner with the greater epoch.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from os import getpid
from typing import Any

import pytest

from bpf import links, netns
from tests.packet.nodes import (
    EGRESS,
    LEGACY,
    OK,
    PLANS,
    REDIRECT,
    ROUTER,
    Got,
    Node,
    addr,
    ip,
    pinned_in,
)
from tests.packet.packets import UDP, Packet, broken_checksums
from tests.packet.test_echo import echo

Nodes = dict[str, Node]

VIRTUAL = bytes.fromhex("024d47a1b2c3")
ASKER = bytes.fromhex("0a00000000aa")
ANY, NODES = bytes(4), IPv6Address("ff02::1").packed
STANDS_BY, OWNS, LEFT = range(3)
MAC_OF_ROUTER = "0a:00:00:00:00:aa"
MARK, CLAIM, ECHO = 0x6D676C32, 3, 0x88B5
NS, NA = 135, 136
S = 1_000_000_000


def part(node: Node, family: int, **fields: Any) -> None:
    """The agent's rows of the address."""
    row = {
        "until": time.monotonic_ns() + 10 * S, "epoch": 7, "state": OWNS,
        "mac": list(VIRTUAL), "before": 0,
    }  # fmt: skip
    node.maps["mg_layer2"].update_one(addr(EGRESS[family]), row | fields)
    node.maps["mg_layer2_seen"].update_one(addr(EGRESS[family]), 0)


def seen(node: Node, family: int) -> int:
    found = node.maps["mg_layer2_seen"].lookup(addr(EGRESS[family]))
    assert found is not None
    return int(found)


def arp(operation: int, mac: bytes, sender: bytes, target: bytes) -> bytes:
    head = b"\xff" * 6 + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, operation)
    return head + mac + sender + bytes(6) + target + bytes(18)


def ndp(source: bytes, target: bytes, *, to: bytes | None = None, hops: int = 255) -> bytes:
    """A neighbour solicitation; with a source it has the option of the sender's MAC address."""
    option = b"\x01\x01" + ASKER if any(source) else b""
    body = struct.pack("!BBHI", NS, 0, 0, 0) + target + option
    group = to or IPv6Address("ff02::1:ff00:0").packed[:13] + target[13:]
    ip = struct.pack("!IHBB", 6 << 28, len(body), 58, hops) + source + group
    return b"\x33\x33\xff" + target[13:] + ASKER + b"\x86\xdd" + ip + body


def question(family: int, *, nameless: bool = False, target: str | None = None) -> bytes:
    """Who asks for the address; nameless: a probe for duplicates."""
    wanted = target or EGRESS[family]
    if family == 4:
        asker = ANY if nameless else IPv4Address(ROUTER[4]).packed
        return arp(1, ASKER, asker, IPv4Address(wanted).packed)
    return ndp(bytes(16) if nameless else IPv6Address(ROUTER[6]).packed, IPv6Address(wanted).packed)


def is_answer(got: Got, family: int, *, nameless: bool = False) -> bool:
    """The whole answer, byte by byte; False: the node is silent."""
    wire = got.wire
    if got.verdict == OK:
        assert got.dropped == {}
        return False
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    own = IPv4Address(EGRESS[4]).packed if family == 4 else IPv6Address(EGRESS[6]).packed
    if family == 4:
        asker = ANY if nameless else IPv4Address(ROUTER[4]).packed
        head = ASKER + VIRTUAL + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 2)
        assert wire[:42] == head + VIRTUAL + own + ASKER + asker
        return True
    asker = NODES if nameless else IPv6Address(ROUTER[6]).packed
    to = b"\x33\x33\0\0\0\x01" if nameless else ASKER
    flags = 0x20 if nameless else 0x60
    ip = struct.pack("!IHBB", 6 << 28, 32, 58, 255) + own + asker
    assert wire[:54] == to + VIRTUAL + b"\x86\xdd" + ip
    assert wire[54:56] == bytes([NA, 0])
    assert wire[58:] == bytes([flags, 0, 0, 0]) + own + b"\x02\x01" + VIRTUAL
    assert broken_checksums(wire) == []
    return True


def asks(node: Node, family: int, **how: Any) -> bool:
    return is_answer(node.from_uplink(question(family, **how)), family, **how)


@pytest.mark.parametrize("nameless", [False, True], ids=["asked", "probed"])
def test_the_owner_answers_with_the_virtual_mac(
    nodes: Nodes,
    family: int,
    nameless: bool,  # noqa: FBT001
) -> None:
    part(nodes["g"], family)
    assert asks(nodes["g"], family, nameless=nameless)


def test_who_stands_by_or_has_left_is_silent(nodes: Nodes, family: int) -> None:
    for state in (STANDS_BY, LEFT):
        part(nodes["g"], family, state=state)
        assert not asks(nodes["g"], family)


def test_an_address_that_is_not_on_layer_2_is_the_hosts(nodes: Nodes, family: int) -> None:
    part(nodes["g"], family)
    other = {4: "198.51.100.11", 6: "2001:db8:100::11"}[family]
    wire = question(family, target=other)
    got = nodes["g"].from_uplink(wire)
    assert (got.verdict, got.dropped, got.wire) == (OK, {}, wire)


def test_the_owner_is_silent_when_the_agents_word_has_ended(nodes: Nodes, family: int) -> None:
    now = time.monotonic_ns()
    part(nodes["g"], family, until=now - 50_000_000)
    assert not asks(nodes["g"], family)
    part(nodes["g"], family, until=now + 5 * S)
    assert asks(nodes["g"], family)


def test_only_questions_are_answered(nodes: Nodes) -> None:
    g = nodes["g"]
    own4, own6 = IPv4Address(EGRESS[4]).packed, IPv6Address(EGRESS[6]).packed
    router4, router6 = IPv4Address(ROUTER[4]).packed, IPv6Address(ROUTER[6]).packed
    for family in (4, 6):
        part(g, family)
    advertisement = bytearray(ndp(router6, own6))
    advertisement[54] = NA
    cut = ndp(router6, own6)[:-20]
    cut = cut[:18] + struct.pack("!H", len(cut) - 54) + cut[20:]
    for wire in (
        arp(2, ASKER, router4, own4),  # an answer
        arp(1, ASKER, own4, own4),  # somebody says that he has it
        arp(1, ASKER, own4, router4),
        ndp(router6, own6, hops=254),  # RFC 4861 7.1.1
        bytes(advertisement),
        cut,
    ):
        got = g.from_uplink(wire)
        assert got.verdict == OK, wire.hex()
        assert got.wire == wire


def test_a_unicast_question_is_answered(nodes: Nodes) -> None:
    """Linux looks whether a neighbour is still there."""
    part(nodes["g"], 6)
    own = IPv6Address(EGRESS[6]).packed
    wire = VIRTUAL + ndp(IPv6Address(ROUTER[6]).packed, own, to=own)[6:]
    assert is_answer(nodes["g"].from_uplink(wire), 6)


# Epochs


def claim(family: int, epoch: int, sender: str = "b", receiver: str = "g") -> Packet:
    """A claim on the wire."""
    body = bytes([CLAIM]) + bytes(7) + epoch.to_bytes(4, "little") + bytes(4)
    body += addr(EGRESS[family]) + bytes(68)
    packet = echo(PLANS[sender].endpoint, PLANS[receiver].endpoint, CLAIM)
    kept = packet.payload[: 8 + 14]
    return packet.but(payload=kept + body)


def test_a_greater_epoch_silences_the_owner_at_once(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    g.gateways(family, "g", "b")
    for epoch, answers in ((6, True), (7, True), (8, False), (6, False)):
        part(g, family) if epoch == 6 and answers else None
        got = g.from_uplink(claim(family, epoch))
        assert (got.verdict, got.dropped) == (OK, {})
        assert asks(g, family) is answers, epoch
    assert seen(g, family) == 8
    part(g, family, epoch=9)
    g.maps["mg_layer2_seen"].update_one(addr(EGRESS[family]), 8)
    assert asks(g, family), "its own claim is the last one again"


def test_only_a_gateway_of_the_address_may_claim_it(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    g.gateways(family, "g", "b")
    part(g, family)
    for sender in ("a", "w"):
        g.from_uplink(claim(family, 8, sender))
        assert seen(g, family) == 0
        assert asks(g, family)


def test_epochs_go_round(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    g.gateways(family, "g", "b")
    part(g, family, epoch=(1 << 32) - 2)
    g.from_uplink(claim(family, 3))
    assert not asks(g, family)


def test_the_owner_before_hears_of_each_answer(nodes: Nodes, family: int) -> None:
    """A copy of the answer leaves by mg_vxlan, marked; there it becomes a claim."""
    b = nodes["b"]
    before = int(IPv4Address(PLANS["g"].endpoint))
    part(b, family, epoch=9, before=before)
    answer = b.from_uplink(question(family))
    assert is_answer(answer, family)
    word = int.from_bytes(IPv4Address(PLANS["g"].endpoint).packed, "little")
    got = b.run(
        "mg_to_vxlan", answer.wire, ifindex=b.devices["dpwup"], mark=MARK, cb=[word, 0, 0, 0, 0]
    )
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.wire[12:14] == ECHO.to_bytes(2, "big")
    assert len(got.wire) == 14 + 100
    g = nodes["g"]
    g.gateways(family, "g", "b")
    part(g, family)
    sent = claim(family, 0)
    g.from_uplink(sent.but(payload=sent.payload[:8] + got.wire))
    assert seen(g, family) == 9
    assert not asks(g, family)


# Packets


def outward(nodes: Nodes, family: int) -> Got:
    """What leaves g of a pod on a."""
    client = nodes["a"].plan.pods["client"][family]
    sent = nodes["a"].from_pod("client", Packet(client, LEGACY[family], UDP(5000, 53)))
    return nodes["g"].from_uplink(sent.wire)


@contextmanager
def wire_of(node: Node) -> Iterator[socket.socket]:
    """The far end of the node's uplink, whose programs run; the router is a known neighbour."""
    name = node.space.name
    for family in (4, 6):
        ip(name, f"-{family}", "neigh", "replace", ROUTER[family],
           "lladdr", MAC_OF_ROUTER, "dev", "dpwup")  # fmt: skip
    with pinned_in(f"dpw-{getpid()}-layer2-links") as pins, netns.enter(node.space):
        for program, ingress in (("mg_from_uplink", True), ("mg_to_uplink", False)):
            links.tcx(node.programs[program], "dpwup", pins / program, ingress=ingress)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as far:
            far.bind(("dpwupp", 3))
            far.settimeout(2)
            yield far
        for program in ("mg_from_uplink", "mg_to_uplink"):
            (pins / program).unlink()
    for family in (4, 6):
        ip(name, f"-{family}", "neigh", "del", ROUTER[family], "dev", "dpwup")


def sent_by(nodes: Nodes, family: int, far: socket.socket) -> bytes:
    """The source of the frame in which a pod's packet leaves g for the router."""
    client = nodes["a"].plan.pods["client"][family]
    sent = nodes["a"].from_pod("client", Packet(client, LEGACY[family], UDP(5000, 53)))
    far.send(own_mac(nodes["g"]) + sent.wire[6:])
    end = time.monotonic() + 2
    while time.monotonic() < end:
        frame = far.recv(4096)
        if frame[:6] == bytes.fromhex(MAC_OF_ROUTER.replace(":", "")):
            assert Packet.read(frame).source == EGRESS[family]
            return frame[6:12]
    raise TimeoutError("no packet for the router")


def own_mac(node: Node) -> bytes:
    with netns.enter(node.space), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("dpwup", 0))
        return bytes(raw.getsockname()[4])


def test_packets_leave_the_owner_with_the_virtual_mac(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    with wire_of(g) as far:
        assert sent_by(nodes, family, far) == own_mac(g)
        part(g, family)
        assert sent_by(nodes, family, far) == VIRTUAL
        g.maps["mg_layer2_seen"].update_one(addr(EGRESS[family]), 8)
        assert sent_by(nodes, family, far) == own_mac(g), "it forwards all the same"


def test_fragments_that_the_stack_makes_leave_with_it_too(nodes: Nodes) -> None:
    """A packet that is too big for the route is cut by the stack."""
    g = nodes["g"]
    part(g, 4)
    client = nodes["a"].plan.pods["client"][4]
    big = Packet(client, "192.0.2.77", UDP(5000, 53), bytes(1380), df=False)
    sent = nodes["a"].from_pod("client", big)
    assert (sent.verdict, sent.dropped) == (REDIRECT, {})
    pieces = []
    with wire_of(g) as far:
        far.send(own_mac(g) + sent.wire[6:])
        while len(pieces) < 2:
            frame = far.recv(4096)
            if frame[:6] == bytes.fromhex(MAC_OF_ROUTER.replace(":", "")):
                pieces.append(frame)
    assert [one[6:12] for one in pieces] == [VIRTUAL, VIRTUAL]


def inward(nodes: Nodes, family: int, mac: bytes) -> Got:
    """A reply that reaches g in a frame for this MAC address."""
    seen_by_legacy = outward(nodes, family).packet
    assert isinstance(seen_by_legacy.l4, UDP)
    reply = Packet(LEGACY[family], EGRESS[family], UDP(53, seen_by_legacy.l4.source))
    return nodes["g"].from_uplink(mac + reply.wire()[6:])


@pytest.mark.parametrize("state", [OWNS, LEFT])
def test_frames_for_the_virtual_mac_go_on(nodes: Nodes, family: int, state: int) -> None:
    part(nodes["g"], family, state=state)
    got = inward(nodes, family, VIRTUAL)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.overlay.destination == PLANS["a"].endpoint


def test_who_stands_by_leaves_flooded_frames_alone(nodes: Nodes, family: int) -> None:
    part(nodes["g"], family, state=STANDS_BY)
    got = inward(nodes, family, VIRTUAL)
    assert (got.verdict, got.dropped) == (OK, {})
    got = inward(nodes, family, own_mac(nodes["g"]))
    assert got.verdict == REDIRECT, "what is for its own MAC address goes on"


def test_the_owner_leaves_frames_for_others_alone(nodes: Nodes, family: int) -> None:
    part(nodes["g"], family)
    got = inward(nodes, family, bytes.fromhex("024d47000001"))
    assert (got.verdict, got.dropped) == (OK, {})
