"""What does not fit into the tunnel is answered, both ways, or left to the kernel to cut."""

import struct

from tests.packet.nodes import EGRESS, LEGACY, REDIRECT, Node
from tests.packet.packets import TCP, UDP, Error, Packet, broken_checksums

Nodes = dict[str, Node]
TOO_BIG = {4: (3, 4), 6: (2, 0)}


def size(family: int, length: int) -> bytes:
    """Payload of a UDP packet with that L3 length."""
    return b"x" * (length - {4: 28, 6: 48}[family])


def check(got_wire: bytes, packet: Packet, mtu: int) -> None:
    answer = Packet.read(got_wire)
    assert isinstance(answer.l4, Error)
    kind = (answer.l4.type, answer.l4.code, answer.l4.value)
    assert kind == (*TOO_BIG[packet.family], mtu)
    assert (answer.source, answer.destination) == (packet.destination, packet.source)
    assert answer.l4.quoted == packet.ip()[: len(answer.l4.quoted)]
    assert len(answer.l4.quoted) == 128
    assert broken_checksums(got_wire) == []


def test_a_pod_learns_the_tunnels_mtu(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    for pod, to in (("web", nodes["b"].plan.pods["web"][family]), ("client", LEGACY[family])):
        source = a.plan.pods[pod][family]
        packet = Packet(source, to, UDP(5000, 53), size(family, 1451))
        got = a.from_pod(pod, packet)
        assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
        check(got.wire, packet, 1450)
        fits = a.from_pod(pod, packet.but(payload=size(family, 1450)))
        assert fits.overlay.inner.payload == size(family, 1450)


def test_legacy_learns_the_tunnels_mtu_from_the_gateway(nodes: Nodes, family: int) -> None:
    g = nodes["g"]
    packet = Packet(LEGACY[family], EGRESS[family], UDP(53, 1024 + 3 * 256), size(family, 1500))
    got = g.from_uplink(packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
    check(got.wire, packet, 1450)
    local = packet.but(l4=UDP(53, 1024 + 7 * 256))
    assert g.from_uplink(local).dropped == {"NO_NAT_MAPPING": 1}


def test_what_may_be_fragmented_goes_to_the_kernels_tunnel_device(nodes: Nodes) -> None:
    a, g = nodes["a"], nodes["g"]
    packet = Packet(
        a.plan.pods["web"][4], nodes["b"].plan.pods["web"][4], UDP(1, 2), size(4, 1500), df=False
    )
    got = a.from_pod("web", packet)
    assert (got.verdict, got.packet, got.dropped) == (REDIRECT, packet, {})
    back = Packet(LEGACY[4], EGRESS[4], UDP(53, 1024 + 3 * 256), size(4, 1500), df=False)
    got = g.from_uplink(back)
    assert (got.verdict, got.packet, got.dropped) == (REDIRECT, back, {})


def test_of_a_gso_packet_the_segments_count(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    source, to = a.plan.pods["web"][family], nodes["b"].plan.pods["web"][family]
    headers = {4: 40, 6: 60}[family]
    packet = Packet(source, to, TCP(40000, 80, "A"), b"x" * 2800)
    # A test run cannot set a GSO type, without which no header grows; the lab shows that it does.
    fits = a.from_pod("web", packet, gso_size=1450 - headers, gso_segs=2)
    assert fits.dropped == {"WRITE_ERROR": 1}
    got = a.from_pod("web", packet, gso_size=1451 - headers, gso_segs=2)
    assert got.dropped == {"FRAGMENTATION_NEEDED": 1}


def test_a_gateway_that_is_told_so_by_its_routes_tells_the_sender(
    nodes: Nodes, family: int
) -> None:
    """The route to this destination has an MTU of 1300 (nodes.namespace)."""
    far = {4: "192.0.2.77", 6: "2001:db8:2::77"}[family]
    g = nodes["g"]
    packet = Packet(g.plan.pods["client"][family], far, UDP(5000, 53), size(family, 1301))
    got = g.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
    check(got.wire, packet, 1300)
    assert g.from_pod("client", packet.but(payload=size(family, 1300))).dropped == {}


def test_errors_are_not_answered(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    source, to = a.plan.pods["web"][family], nodes["b"].plan.pods["web"][family]
    quoted = Packet(to, source, UDP(1, 2), b"x" * 1440).ip()
    packet = Packet(source, to, Error({4: 3, 6: 1}[family], 3, quoted))
    assert len(packet.ip()) > 1450
    got = a.from_pod("web", packet)
    assert (got.verdict, got.dropped) == (2, {"FRAGMENTATION_NEEDED": 1})


def test_odd_lengths_are_quoted_in_words(nodes: Nodes, family: int) -> None:
    """A full node answers a tiny packet."""
    a = nodes["a"]
    a.clear("mg_nat_v4")
    a.own_blocks(family, 3)
    for number in range(256):
        a.from_pod("client", Packet(a.plan.pods["client"][family], LEGACY[family], UDP(number, 9)))
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(999, 9), b"abc")
    got = a.from_pod("client", packet)
    answer = got.packet
    assert isinstance(answer.l4, Error)
    assert answer.l4.quoted == packet.ip()[: len(packet.ip()) & ~3]
    assert broken_checksums(got.wire) == []
    assert struct.unpack_from("!H", got.wire, 16)[0] == len(got.wire) - 14 or family == 6
