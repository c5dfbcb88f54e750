"""Pod to legacy and back: pod's node -> gateway -> legacy -> gateway -> pod's node."""

from typing import Any

import pytest

from tests.packet.nodes import BLOCKS, EGRESS, LEGACY, OK, REDIRECT, Node, text_of
from tests.packet.packets import TCP, UDP, Echo, Overlay, Packet, Transport, broken_checksums


def in_blocks(node: str, port: int) -> bool:
    return (port - 1024) // 256 in BLOCKS[node]


def outward(nodes: dict[str, Node], name: str, packet: Packet, pod: str = "client") -> Packet:
    """The packet as legacy gets it; every step checked."""
    node = nodes[name]
    sent = node.from_pod(pod, packet)
    assert (sent.verdict, sent.dropped) == (REDIRECT, {})
    if name == "g":
        left = sent
    else:
        endpoint, identity = node.plan.endpoint, node.plan.pods[pod].identity
        overlay = sent.overlay
        assert (overlay.source, overlay.destination) == (endpoint, "10.99.0.13")
        assert overlay.vni == identity
        left = nodes["g"].from_uplink(sent.wire)
        assert (left.verdict, left.dropped, left.events) == (REDIRECT, {}, [])
    assert broken_checksums(left.wire) == []
    return left.packet


def inward(nodes: dict[str, Node], name: str, packet: Packet) -> Packet:
    """The packet as the pod gets it; every step checked."""
    back = nodes["g"].from_uplink(packet)
    assert (back.verdict, back.dropped) == (REDIRECT, {})
    if name != "g":
        overlay = back.overlay
        assert overlay == Overlay("10.99.0.13", nodes[name].plan.endpoint, 2, packet)
        back = nodes[name].from_uplink(back.wire)
        assert (back.verdict, back.dropped) == (REDIRECT, {})
    assert broken_checksums(back.wire) == []
    return back.packet


def ports(packet: Packet) -> tuple[int, int]:
    assert isinstance(packet.l4, TCP | UDP)
    return packet.l4.source, packet.l4.destination


@pytest.mark.parametrize("name", ["a", "b", "g"])
@pytest.mark.parametrize(
    ("there", "back"),
    [
        (TCP(40000, 443, "S"), lambda port: TCP(443, port, "SA")),
        (UDP(5000, 53), lambda port: UDP(53, port)),
    ],
    ids=["TCP", "UDP"],
)
def test_legacy_sees_the_egress_address_and_a_port_of_the_nodes_blocks(
    nodes: dict[str, Node], family: int, name: str, there: Transport, back: Any
) -> None:
    client = nodes[name].plan.pods["client"]
    packet = Packet(client[family], LEGACY[family], there, b"question")
    seen = outward(nodes, name, packet)
    source, destination = ports(seen)
    assert (seen.source, seen.destination) == (EGRESS[family], LEGACY[family])
    assert in_blocks(name, source)
    assert destination == ports(packet)[1]
    assert (seen.ttl, seen.payload) == (63, b"question")

    got = inward(nodes, name, seen.reply(back(source), b"answer"))
    assert (got.source, got.destination) == (LEGACY[family], client[family])
    assert ports(got) == ports(packet)[::-1]
    assert got.payload == b"answer"


def test_udp_without_a_checksum_gets_none(nodes: dict[str, Node]) -> None:
    client = nodes["a"].plan.pods["client"]
    packet = Packet(client[4], LEGACY[4], UDP(5000, 53, checksum=False), b"question")
    seen = outward(nodes, "a", packet)
    assert seen.l4 == UDP(ports(seen)[0], 53, checksum=False)
    answer = UDP(53, ports(seen)[0], checksum=False)
    assert inward(nodes, "a", seen.reply(answer)).l4 == UDP(53, 5000, checksum=False)


@pytest.mark.parametrize("name", ["a", "g"])
def test_ping_is_translated_by_its_id(nodes: dict[str, Node], family: int, name: str) -> None:
    client = nodes[name].plan.pods["client"]
    packet = Packet(client[family], LEGACY[family], Echo(77), b"x" * 56)
    seen = outward(nodes, name, packet)
    assert isinstance(seen.l4, Echo)
    assert in_blocks(name, seen.l4.id)
    got = inward(nodes, name, seen.reply(Echo(seen.l4.id, answer=True), b"x" * 56))
    assert got.l4 == Echo(77, answer=True)
    assert got.destination == client[family]


def test_a_connection_keeps_its_port_and_others_get_their_own(
    nodes: dict[str, Node], family: int
) -> None:
    client = nodes["a"].plan.pods["client"]
    first = Packet(client[family], LEGACY[family], TCP(40000, 443, "S"))
    port = ports(outward(nodes, "a", first))[0]
    for flags in ("A", "PA", "FA"):
        assert ports(outward(nodes, "a", first.but(l4=TCP(40000, 443, flags))))[0] == port
    assert ports(outward(nodes, "a", first.but(l4=TCP(40001, 443, "S"))))[0] != port


def test_one_event_tells_the_translation(nodes: dict[str, Node], family: int) -> None:
    client = nodes["a"].plan.pods["client"]
    packet = Packet(client[family], LEGACY[family], UDP(5000, 53))
    sent = nodes["a"].from_pod("client", packet)
    (event,) = sent.events
    assert text_of(event["source"]) == client[family]
    assert text_of(event["destination"]) == LEGACY[family]
    assert text_of(event["translated"]) == EGRESS[family]
    assert event["translated_port"] == ports(sent.overlay.inner)[0]
    assert (event["source_identity"], event["destination_identity"]) == (client.identity, 2)
    assert (event["source_port"], event["destination_port"], event["protocol"]) == (5000, 53, 17)
    assert nodes["a"].from_pod("client", packet).events == []


def test_what_legacy_opened_is_answered_with_the_pods_own_address(
    nodes: dict[str, Node], family: int
) -> None:
    """S10."""
    a = nodes["a"]
    client = a.plan.pods["client"]
    opening = Packet(LEGACY[family], client[family], TCP(50000, 22, "S"))
    assert a.from_uplink(opening).packet == opening
    answer = opening.reply(TCP(22, 50000, "SA"))
    got = a.from_pod("client", answer)
    assert (got.verdict, got.packet) == (0, answer)


def test_a_packet_that_opens_nothing_does_not_open_the_way_out(
    nodes: dict[str, Node], family: int
) -> None:
    """S10 holds for connections, not for whoever sends any packet from outside."""
    a = nodes["a"]
    client = a.plan.pods["client"]
    stray = Packet(LEGACY[family], client[family], TCP(50000, 22, "A"))
    assert a.from_uplink(stray).verdict == OK
    got = a.from_pod("client", stray.reply(TCP(22, 50000, "A")))
    assert got.dropped == {"MID_STREAM": 1}


def test_a_syn_is_never_an_answer(nodes: dict[str, Node], family: int) -> None:
    """A covered pod that opens a connection on the ports of an incoming one is translated."""
    a = nodes["a"]
    client = a.plan.pods["client"]
    a.from_uplink(Packet(LEGACY[family], client[family], TCP(50000, 22, "S")))
    got = a.from_pod("client", Packet(client[family], LEGACY[family], TCP(22, 50000, "S")))
    assert got.overlay.inner.source == EGRESS[family]


def test_the_mesh_is_never_translated(nodes: dict[str, Node], family: int) -> None:
    """S9: pods and nodes, also when a policy covers everything."""
    a = nodes["a"]
    everything = {4: "0.0.0.0/0", 6: "::/0"}[family]
    a.egress(everything, 1, EGRESS[family])
    client, web = a.plan.pods["client"], nodes["w"].plan.pods["web"]
    got = a.from_pod("client", Packet(client[family], web[family], TCP(40000, 80, "S")))
    assert got.overlay.inner.source == client[family]
    node = {4: "10.99.0.12", 6: "fd99::12"}[family]
    got = a.from_pod("client", Packet(client[family], node, TCP(40000, 80, "S")))
    assert (got.verdict, got.packet.source) == (0, client[family])
    unknown = {4: "10.1.1.99", 6: "fd01:0:0:1::99"}[family]
    got = a.from_pod("client", Packet(client[family], unknown, TCP(40000, 80, "S")))
    assert got.overlay.inner.source == client[family]


def test_a_policy_for_all_of_ipv6_covers_no_ipv4(nodes: dict[str, Node]) -> None:
    a = nodes["a"]
    a.egress("::/0", 1, EGRESS[6])
    client = a.plan.pods["client"]
    packet = Packet(client[4], "203.0.113.1", TCP(40000, 80, "S"))
    got = a.from_pod("client", packet)
    assert (got.verdict, got.packet) == (0, packet)


def test_excluded_and_uncovered_traffic_goes_to_the_stack_as_it_is(
    nodes: dict[str, Node], family: int
) -> None:
    a = nodes["a"]
    client, web = a.plan.pods["client"], a.plan.pods["web"]
    excluded = {4: "192.0.2.200", 6: "2001:db8:2:8000::1"}[family]
    for pod, source, to in (
        ("client", client, excluded),
        ("web", web, LEGACY[family]),
    ):
        packet = Packet(source[family], to, TCP(40000, 80, "S"))
        got = a.from_pod(pod, packet)
        assert (got.verdict, got.packet) == (0, packet)


def test_a_mapping_outlives_its_policy(nodes: dict[str, Node], family: int) -> None:
    a = nodes["a"]
    client = a.plan.pods["client"]
    packet = Packet(client[family], LEGACY[family], TCP(40000, 443, "S"))
    seen = outward(nodes, "a", packet)
    a.clear("mg_egress")
    assert outward(nodes, "a", packet.but(l4=TCP(40000, 443, "A"))) == seen.but(
        l4=TCP(ports(seen)[0], 443, "A")
    )


def test_a_policy_that_comes_later_stops_what_was_open(nodes: dict[str, Node], family: int) -> None:
    a = nodes["a"]
    client = a.plan.pods["client"]
    a.clear("mg_egress")
    packet = Packet(client[family], LEGACY[family], TCP(40000, 443, "S"))
    assert a.from_pod("client", packet).packet == packet
    a.rows_of_egress()
    got = a.from_pod("client", packet.but(l4=TCP(40000, 443, "A")))
    assert got.dropped == {"MID_STREAM": 1}
    assert outward(nodes, "a", packet).source == EGRESS[family]


def test_udp_that_was_open_is_translated_from_then_on(nodes: dict[str, Node], family: int) -> None:
    a = nodes["a"]
    client = a.plan.pods["client"]
    a.clear("mg_egress")
    packet = Packet(client[family], LEGACY[family], UDP(5000, 53))
    assert a.from_pod("client", packet).packet == packet
    a.rows_of_egress()
    assert outward(nodes, "a", packet).source == EGRESS[family]


def test_an_answer_to_the_pods_own_address_is_none(nodes: dict[str, Node], family: int) -> None:
    """A translated connection is answered at the egress address, or somebody forges."""
    a = nodes["a"]
    client = a.plan.pods["client"]
    outward(nodes, "a", Packet(client[family], LEGACY[family], TCP(40000, 443, "S")))
    forged = Packet(LEGACY[family], client[family], TCP(443, 40000, "SA"))
    assert a.from_uplink(forged).dropped == {"NO_NAT_MAPPING": 1}


def test_a_reset_that_nobody_believed_does_not_end_an_exemption(
    nodes: dict[str, Node], family: int
) -> None:
    """S10, and RFC 5961."""
    a = nodes["a"]
    client = a.plan.pods["client"]
    opening = Packet(LEGACY[family], client[family], TCP(50000, 22, "S"))
    a.from_uplink(opening)
    a.from_pod("client", opening.reply(TCP(22, 50000, "SA")))
    a.from_uplink(opening.but(l4=TCP(50000, 22, "R")))
    a.from_pod("client", opening.reply(TCP(22, 50000, "A")))
    a.age(100)
    assert a.sweep(plain_closed=0) == (1, 0)


def test_link_local_ipv4_is_the_world(nodes: dict[str, Node]) -> None:
    """Linux forwards it like any other address."""
    nodes["a"].egress("0.0.0.0/0", 1, EGRESS[4])
    client = nodes["a"].plan.pods["client"]
    packet = Packet(client[4], "169.254.169.254", TCP(40000, 80, "S"))
    assert nodes["a"].from_pod("client", packet).overlay.inner.source == EGRESS[4]
