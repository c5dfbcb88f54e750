"""Packets cut at every length and with every byte of their headers changed: a named drop, no more.

Whatever happens, no packet of a covered pod goes to the stack with its own source.
"""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from tests.packet.nodes import COVERED, EGRESS, EXCLUDED, LEGACY, OK, REDIRECT, SHOT, Got, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Overlay, Packet

Nodes = dict[str, Node]
#: A test run takes no IP packet shorter than its header.
HEADER = {4: 20, 6: 40}


def samples(nodes: Nodes, family: int) -> Iterator[Packet]:
    client, web = nodes["a"].plan.pods["client"][family], nodes["b"].plan.pods["web"][family]
    quoted = Packet(LEGACY[family], client, UDP(53, 5000), b"12345678").ip()
    for to in (LEGACY[family], web):
        yield Packet(client, to, TCP(40000, 443, "S"), b"payload")
        yield Packet(client, to, UDP(5000, 53), b"payload")
        yield Packet(client, to, Echo(77), b"payload")
        yield Packet(client, to, UDP(5000, 53), b"x" * 64, df=False, more=True)
    yield Packet(client, LEGACY[family], Error({4: 3, 6: 1}[family], 3, quoted))
    if family == 6:
        hop_by_hop = bytes([60, 0]) + b"\1\4\0\0\0\0" + bytes([17, 0]) + b"\1\4\0\0\0\0"
        yield Packet(client, web, UDP(1, 2), b"x", options=hop_by_hop, first=0)
        yield Packet(client, web, UDP(1, 2), b"x", options=hop_by_hop[8:], first=60)
    else:
        yield Packet(client, web, TCP(1, 2, "S"), b"x", options=b"\1" * 8)


def check(family: int, got: Got) -> None:
    """A drop has one reason; what passes has a source that it may have."""
    assert got.verdict in (OK, SHOT, REDIRECT)
    assert sum(got.dropped.values()) == (1 if got.verdict == SHOT else 0)
    if got.verdict != OK or got.wire[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return
    packet = Packet.read_ip(got.wire[14:] + bytes(60))
    to = ip_address(packet.destination)
    if to in ip_network(COVERED[family]) and to not in ip_network(EXCLUDED[family]):
        pytest.fail(f"{packet} went to the stack")


def test_cut_at_every_length_it_is_dropped_as_truncated(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    known = {"INVALID_PACKET", "CT_TRUNCATED", "INVALID_IPV6_EXTENSION"}
    for packet in samples(nodes, family):
        wire = packet.wire()
        for length in range(14 + HEADER[family], len(wire)):
            got = a.from_pod("client", wire[:length])
            assert got.verdict == SHOT, (packet, length)
            assert set(got.dropped) <= known, (packet, length)


def lying(packet: Packet, length: int) -> bytes:
    """The packet with an IP length that fits its cut."""
    wire = packet.wire()[: 14 + length]
    if packet.family == 4:
        return wire[:16] + length.to_bytes(2, "big") + wire[18:]
    return wire[:18] + (length - 40).to_bytes(2, "big") + wire[20:]


def test_cut_with_a_length_that_fits_it_never_leaves_untranslated(
    nodes: Nodes, family: int
) -> None:
    a = nodes["a"]
    for packet in samples(nodes, family):
        for length in range(HEADER[family], len(packet.ip())):
            got = a.from_pod("client", lying(packet, length))
            check(family, got)


@pytest.mark.parametrize("value", [0x00, 0x01, 0x80, 0xFF])
def test_with_any_byte_changed_it_never_leaves_untranslated(
    nodes: Nodes, family: int, value: int
) -> None:
    a = nodes["a"]
    for packet in samples(nodes, family):
        wire = packet.wire()
        for at in range(12, min(len(wire), 14 + 80)):
            changed = wire[:at] + bytes([wire[at] ^ value or value]) + wire[at + 1 :]
            check(family, a.from_pod("client", changed))
    for name in ("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6"):
        assert a.count(name) < 3000


def test_overlay_packets_cut_at_every_length_are_dropped(nodes: Nodes, family: int) -> None:
    b = nodes["b"]
    client, web = nodes["a"].plan.pods["client"], b.plan.pods["web"]
    inner = Packet(client[family], web[family], TCP(40000, 80, "S"), b"x")
    wire = Overlay("10.99.0.11", "10.99.0.12", client.identity, inner).wire()
    for length in range(14 + HEADER[4], len(wire)):
        got = b.from_uplink(wire[:length])
        assert (got.verdict, sum(got.dropped.values())) == (SHOT, 1), length
        fitted = wire[:16] + (length - 14).to_bytes(2, "big") + wire[18:length]
        if length >= 14 + 28:
            got = b.from_uplink(fitted)
            assert (got.verdict, sum(got.dropped.values())) == (SHOT, 1), length


def test_overlay_packets_with_any_byte_changed_reach_nobody_else(nodes: Nodes, family: int) -> None:
    b = nodes["b"]
    client, web = nodes["a"].plan.pods["client"], b.plan.pods["web"]
    inner = Packet(client[family], web[family], UDP(1, 2), b"x")
    wire = Overlay("10.99.0.11", "10.99.0.12", client.identity, inner).wire()
    for at in range(12, len(wire)):
        for value in (0x01, 0x80, 0xFF):
            changed = wire[:at] + bytes([wire[at] ^ value]) + wire[at + 1 :]
            got = b.from_uplink(changed)
            assert got.verdict in (OK, SHOT, REDIRECT)
            if got.verdict == OK:
                assert got.wire == changed
            if got.verdict == REDIRECT:
                assert got.wire[:6] in {pod.mac for pod in b.plan.pods.values()}


def test_returns_cut_at_every_length_are_dropped(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    packet = Packet(LEGACY[family], EGRESS[family], TCP(443, 1024 + 3 * 256, "SA"), b"x")
    wire = packet.wire()
    for length in range(14 + HEADER[family], len(wire)):
        assert g.from_uplink(wire[:length]).verdict == SHOT
    for length in range(HEADER[family], {4: 40, 6: 60}[family]):
        assert g.from_uplink(lying(packet, length)).dropped == {"CT_TRUNCATED": 1}
