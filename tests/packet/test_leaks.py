"""What a pod may not do with other pods' connections, addresses and ports."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, REDIRECT, SHOT, Got, Node
from tests.packet.packets import (
    TCP,
    UDP,
    Echo,
    Error,
    Other,
    Overlay,
    Packet,
    Transport,
    ones_complement,
    pseudo,
)

Nodes = dict[str, Node]
UNREACHABLE = {4: (3, 3), 6: (1, 4)}


@pytest.fixture
def a(nodes: Nodes) -> Node:
    return nodes["a"]


def back(a: Node, packet: Packet) -> Got:
    return a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, packet))


def opened(a: Node, family: int, l4: TCP | UDP) -> Packet:
    """The packet as it left the node."""
    got = a.from_pod("client", Packet(a.plan.pods["client"][family], LEGACY[family], l4))
    assert got.dropped == {}
    return got.overlay.inner


# Addresses that change hands


def test_the_next_pod_of_an_address_does_not_answer_what_legacy_had_opened(
    a: Node, family: int
) -> None:
    client = a.plan.pods["client"][family]
    opening = Packet(LEGACY[family], client, TCP(50000, 22, "S"))
    a.from_uplink(opening)
    assert a.from_pod("client", opening.reply(TCP(22, 50000, "SA"))).verdict == OK
    assert a.forget(client) == 1
    got = a.from_pod("client", opening.reply(TCP(22, 50000, "PA")))
    assert got.dropped == {"MID_STREAM": 1}


def test_the_next_pod_of_an_address_does_not_go_on_with_a_translation(a: Node, family: int) -> None:
    client = a.plan.pods["client"][family]
    seen = opened(a, family, TCP(40000, 443, "S"))
    assert a.forget(client) == 1
    got = a.from_pod("client", Packet(client, LEGACY[family], TCP(40000, 443, "PA")))
    assert got.dropped == {"MID_STREAM": 1}
    assert back(a, seen.reply(TCP(443, seen.l4.source, "SA"))).dropped == {"NO_NAT_MAPPING": 1}
    again = opened(a, family, TCP(40000, 443, "S"))
    assert again.l4.source != seen.l4.source, "the port rests"


def test_what_arrives_for_a_forgotten_flow_is_for_nobody(a: Node, family: int) -> None:
    seen = opened(a, family, UDP(5000, 53))
    a.forget(a.plan.pods["client"][family])
    assert back(a, seen.reply(UDP(53, seen.l4.source))).dropped == {"NO_NAT_MAPPING": 1}


def test_only_the_address_itself_is_forgotten(a: Node, family: int) -> None:
    opened(a, family, UDP(5000, 53))
    assert a.forget(a.plan.pods["web"][family]) == 0
    assert a.forget({4: a.plan.pods["client"][6], 6: a.plan.pods["client"][4]}[family]) == 0
    assert a.count(f"mg_ct_v{family}") == a.count(f"mg_nat_v{family}") == 1


def test_the_port_of_a_forgotten_connection_comes_back(a: Node, family: int) -> None:
    """After the rest of a closed one; the sweep meets it twice."""
    opened(a, family, UDP(5000, 53))
    a.forget(a.plan.pods["client"][family])
    name = f"mg_nat_v{family}"
    a.sweep(closed=100)
    a.sweep(closed=100)
    assert a.count(name) == 1
    keys, values = a.maps[name].dump()
    values["closed"] -= np_seconds(200)
    a.maps[name].update(keys, values)
    a.sweep(closed=100)
    assert a.count(name) == 0


def np_seconds(seconds: int) -> int:
    return seconds << 30


def test_a_mapping_that_lost_its_connection_is_found(a: Node, family: int) -> None:
    """Not at its first sight: its connection may be on the way."""
    opened(a, family, UDP(5000, 53))
    a.clear(f"mg_ct_v{family}")
    name = f"mg_nat_v{family}"
    a.sweep()
    assert not a.maps[name].dump()[1]["closed"].any()
    a.sweep()
    assert a.maps[name].dump()[1]["closed"].all()


# Others' connections


def test_an_error_about_another_pods_connection_is_refused(a: Node, family: int) -> None:
    seen = opened(a, family, UDP(5000, 53))
    client, web = a.plan.pods["client"][family], a.plan.pods["web"][family]
    foreign = Packet(LEGACY[family], client, UDP(53, 5000))
    error = Packet(web, LEGACY[family], Error(*UNREACHABLE[family], foreign.ip()))
    assert a.from_pod("web", error).dropped == {"INVALID_SOURCE_IP": 1}
    own = Packet(client, LEGACY[family], Error(*UNREACHABLE[family], foreign.ip()))
    assert a.from_pod("client", own).overlay.inner.source == seen.source == EGRESS[family]


def test_a_forged_first_fragment_does_not_lead_another_pods_datagram(a: Node, family: int) -> None:
    client = a.plan.pods["client"][family]
    first = Packet(client, LEGACY[family], UDP(5000, 53), bytes(16), df=False, id=7, more=True)
    assert a.from_pod("client", first).dropped == {}
    forged = first.but(l4=UDP(6000, 53))
    assert a.from_pod("web", forged).dropped == {"INVALID_SOURCE_IP": 1}
    later = first.but(l4=Other(17), offset=24, more=False)
    assert a.from_pod("client", later).dropped == {}
    assert a.count(f"mg_ct_v{family}") == 1


def test_a_later_fragment_alone_opens_nothing(a: Node, family: int) -> None:
    client = a.plan.pods["client"][family]
    later = Packet(client, LEGACY[family], Other(17), bytes(16), df=False, id=8, offset=24)
    assert a.from_pod("client", later).dropped == {"FRAGMENT_NOT_FOUND": 1}


# Ways around the policy


@pytest.mark.parametrize("kind", [131, 137], ids=["loose", "strict"])
@pytest.mark.parametrize("before", [b"", b"\x01", b"\x44\x04\x05\x00"], ids=["1st", "nop", "2nd"])
def test_a_pod_sends_no_source_route(a: Node, kind: int, before: bytes) -> None:
    """To an uncovered address, by way of which a router would lead it to a covered one."""
    client = a.plan.pods["client"][4]
    options = before + bytes([kind, 7, 4, 192, 0, 2, 10])
    options += bytes(-len(options) % 4)
    packet = Packet(client, "203.0.113.1", TCP(40000, 80, "S"), options=options)
    assert a.from_pod("client", packet).dropped == {"IP_OPTIONS": 1}


@pytest.mark.parametrize("options", [b"\x01\x01\x01\x00", b"\x44\x04\x05\x00", b"\x94\x00\x00\x00"])
def test_other_options_stay_in_a_translated_packet(a: Node, options: bytes) -> None:
    packet = Packet(
        a.plan.pods["client"][4], LEGACY[4], TCP(40000, 443, "S"), b"x", options=options
    )
    got = a.from_pod("client", packet)
    assert (got.overlay.inner.source, got.overlay.inner.options) == (EGRESS[4], options)


# Ports


def test_a_simultaneous_open_keeps_its_translation(a: Node, family: int) -> None:
    """RFC 5382 REQ-2: both sides send a SYN, then both a SYN with ACK."""
    client = a.plan.pods["client"][family]
    seen = opened(a, family, TCP(40000, 443, "S"))
    got = back(a, seen.reply(TCP(443, seen.l4.source, "S")))
    assert (got.verdict, got.packet.destination) == (REDIRECT, client)
    out = a.from_pod("client", Packet(client, LEGACY[family], TCP(40000, 443, "SA")))
    assert (out.overlay.inner.source, out.overlay.inner.l4.source) == (
        EGRESS[family],
        seen.l4.source,
    )


def fill(a: Node, family: int) -> list[int]:
    ports = []
    for number in range(512):
        ports.append(opened(a, family, TCP(10000 + number, 443, "S")).l4.source)
        back(a, Packet(LEGACY[family], EGRESS[family], TCP(443, ports[-1], "SA")))
    return ports


def test_a_port_that_only_a_reset_from_outside_has_freed_is_the_last_choice(
    a: Node, family: int
) -> None:
    """The reset may be forged: nobody knows which sequence number the pod expects."""
    ports = fill(a, family)
    client = a.plan.pods["client"][family]
    back(a, Packet(LEGACY[family], EGRESS[family], TCP(443, ports[9], "R")))
    a.from_pod("client", Packet(client, LEGACY[family], TCP(10300, 443, "RA")))
    assert opened(a, family, TCP(20000, 443, "S")).l4.source == ports[300]
    assert opened(a, family, TCP(20001, 443, "S")).l4.source == ports[9]


def test_a_mapping_on_its_way_to_another_connection_does_not_come_back(
    a: Node, family: int
) -> None:
    """Another CPU takes it over: its old connection gets another port, or no packet out."""
    client = a.plan.pods["client"][family]
    seen = opened(a, family, TCP(40000, 443, "S"))
    back(a, seen.reply(TCP(443, seen.l4.source, "RA")))
    name = f"mg_nat_v{family}"
    keys, values = a.maps[name].dump()
    values["closed"] = (1 << 64) - 1
    a.maps[name].update(keys, values)
    data = Packet(client, LEGACY[family], TCP(40000, 443, "PA"))
    assert a.from_pod("client", data).dropped == {"MID_STREAM": 1}
    assert opened(a, family, TCP(40000, 443, "S")).l4.source != seen.l4.source


# Errors at once


def test_the_error_about_a_syn_is_left_to_be_repeated(a: Node, family: int) -> None:
    fill(a, family)
    a.late.drain()
    client = a.plan.pods["client"][family]
    got = a.from_pod("client", Packet(client, LEGACY[family], TCP(20000, 443, "S")))
    (late,) = a.late.drain()
    assert int(late["ifindex"]) == a.devices["dpw1"]
    assert late["frame"].tobytes()[: int(late["length"])] == got.wire


def test_the_error_about_a_datagram_is_sent_once(a: Node, family: int) -> None:
    for number in range(513):
        packet = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(10000 + number, 53))
        got = a.from_pod("client", packet)
    assert got.dropped == {"NO_RUN": 1}
    assert len(a.late.drain()) == 0


# Neighbours


def advertisement(source: str, to: str) -> Packet:
    """Says that the host's end of the link is at 02:02:02:02:02:02, as only a neighbour may."""
    target = ip_address("fe80::1").packed + bytes([2, 1, 2, 2, 2, 2, 2, 2])
    body = bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + target
    check = ones_complement(
        pseudo(ip_address(source).packed + ip_address(to).packed, 58, len(body)) + body
    )
    return Packet(source, to, Other(58), body[:2] + check.to_bytes(2) + body[4:], ttl=255)


@pytest.mark.parametrize("to", ["a", "b"], ids=["of this node", "of another node"])
def test_a_pod_is_no_neighbour_of_another_pod(nodes: Nodes, to: str) -> None:
    """RFC 4861 7.1.2: a receiver knows a neighbour by the hop limit, which a redirect keeps."""
    source, target = nodes["a"].plan.pods["web"][6], nodes[to].plan.pods["client"][6]
    got = nodes["a"].from_pod("web", advertisement(source, target))
    assert got.dropped == {"NEIGHBOUR_CLAIM": 1}


def test_nobody_outside_is_a_pods_neighbour(nodes: Nodes) -> None:
    a, b = nodes["a"], nodes["b"].plan.pods["web"]
    to = a.plan.pods["client"][6]
    assert a.from_uplink(advertisement(LEGACY[6], to)).dropped == {"INVALID_PACKET": 1}
    inner = advertisement(b[6], to)
    got = a.from_uplink(Overlay("10.99.0.12", "10.99.0.11", b.identity, inner))
    assert got.dropped == {"INVALID_PACKET": 1}


NO_ROOM = 0x7FFFFFFF  # enum egress_class


@pytest.mark.parametrize(
    "l4", [TCP(40000, 443, "S"), TCP(40000, 443, "A"), UDP(5000, 53), Echo(1), Other(47)], ids=str
)
def test_a_pod_whose_class_does_not_fit_sends_the_world_nothing(
    nodes: dict[str, Node], family: int, l4: Transport
) -> None:
    """Nobody here knows what its class covers, so all but the mesh counts as covered."""
    a = nodes["a"]
    client = replace(a.plan.pods["client"], egress=NO_ROOM)
    a.pod(client)
    for to in (LEGACY[family], {4: "203.0.113.1", 6: "2001:db8:77::1"}[family]):
        got = a.from_pod("client", Packet(client[family], to, l4))
        assert (got.verdict, got.dropped) == (SHOT, {"EGRESS_NO_ROOM": 1})
    far = nodes["b"].plan.pods["web"][family]
    assert a.from_pod("client", Packet(client[family], far, UDP(1, 2))).dropped == {}
    assert a.count(f"mg_nat_v{family}") == 0


def test_what_was_open_before_the_class_lost_its_room_goes_on(
    nodes: dict[str, Node], family: int
) -> None:
    """Translations, and answers to what others opened; never a plain one of the pod's own."""
    a = nodes["a"]
    client = a.plan.pods["client"]
    translated = Packet(client[family], LEGACY[family], UDP(5000, 53))
    asked = Packet(LEGACY[family], client[family], TCP(50000, 22, "S"))
    excluded = {4: "192.0.2.200", 6: "2001:db8:2:8000::1"}[family]
    plain = Packet(client[family], excluded, UDP(5001, 53))
    a.from_pod("client", translated)
    a.from_uplink(asked)
    assert a.from_pod("client", plain).verdict == OK
    a.pod(replace(client, egress=NO_ROOM))
    assert a.from_pod("client", translated).overlay.inner.source == EGRESS[family]
    assert a.from_pod("client", asked.reply(TCP(22, 50000, "SA"))).verdict == OK
    assert a.from_pod("client", plain).dropped == {"EGRESS_NO_ROOM": 1}
