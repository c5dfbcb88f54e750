"""Masquerade: pods show the world this node's address; what is not theirs stays as it is.

pod -> mg_from_pod -> routes, netfilter -> mg_to_uplink -> world
pod <- mg_to_pod   <- routes, netfilter <- mg_from_uplink <-
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, PLANS, REDIRECT, SHOT, Got, Node, text_of
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Packet, broken_checksums

Nodes = dict[str, Node]

#: TCX_NEXT: programs of others behind this one see the packet, too.
NEXT = (1 << 32) - 1
NODE = {4: "10.99.0.11", 6: "fd99::11"}
OTHER_NODE = {4: "10.99.0.12", 6: "fd99::12"}
WORLD = LEGACY
ELSEWHERE = {4: "203.0.113.9", 6: "2001:db8:3::9"}
PORTS = range(61000, 65536)
SMALL = range(61000, 61008)
WEB, CLIENT = PLANS["a"].pods["web"], PLANS["a"].pods["client"]


@pytest.fixture
def a(nodes: Nodes, family: int) -> Node:
    nodes["a"].masquerade(family)
    return nodes["a"]


def ask(family: int, l4: Any, payload: bytes = b"question", pod: str = "web") -> Packet:
    return Packet(PLANS["a"].pods[pod][family], WORLD[family], l4, payload)


def send(a: Node, packet: Packet, pod: str = "web") -> Got:
    """The packet as it leaves by the uplink; the stack forwards what the pod has sent."""
    got = a.from_pod(pod, packet)
    assert (got.verdict, got.dropped, got.packet) == (OK, {}, packet)
    return a.to_uplink(got.wire)


def sent(a: Node, packet: Packet, pod: str = "web") -> Packet:
    got = send(a, packet, pod)
    assert (got.verdict, got.dropped) == (NEXT, {})
    assert broken_checksums(got.wire) == []
    return got.packet


def receive(a: Node, packet: Packet, pod: str = "web") -> Packet:
    """What comes by the uplink, as the pod gets it; every step checked."""
    got = a.from_uplink(packet)
    assert (got.verdict, got.dropped, got.events) == (OK, {}, [])
    assert broken_checksums(got.wire) == []
    arrived = a.to_pod(pod, got.wire)
    assert (arrived.verdict, arrived.dropped, arrived.events) == (OK, {}, [])
    assert arrived.packet == got.packet
    return got.packet


def port_of(packet: Packet) -> int:
    l4 = packet.l4
    if isinstance(l4, Echo):
        return l4.id
    assert isinstance(l4, TCP | UDP)
    return l4.source


TALKS = {
    "TCP": (TCP(40000, 443, "S"), lambda port: TCP(443, port, "SA"), TCP(443, 40000, "SA")),
    "UDP": (UDP(5000, 53), lambda port: UDP(53, port), UDP(53, 5000)),
    "ping": (Echo(77), lambda port: Echo(port, answer=True), Echo(77, answer=True)),
}


@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS)
def test_the_world_sees_the_nodes_address_and_a_port_of_its_range(
    a: Node, family: int, talk: Any
) -> None:
    there, back, home = talk
    seen = sent(a, ask(family, there))
    assert (seen.source, seen.destination) == (NODE[family], WORLD[family])
    assert port_of(seen) in PORTS
    assert (seen.payload, seen.ttl) == (b"question", 64)
    got = receive(a, seen.reply(back(port_of(seen)), b"answer"))
    assert got == Packet(WORLD[family], WEB[family], home, b"answer")


def test_udp_without_a_checksum_gets_none(nodes: Nodes) -> None:
    nodes["a"].masquerade(4)
    seen = sent(nodes["a"], ask(4, UDP(5000, 53, checksum=False)))
    assert seen.l4 == UDP(port_of(seen), 53, checksum=False)


def test_a_connection_keeps_its_port_and_others_get_their_own(a: Node, family: int) -> None:
    first = ask(family, TCP(40000, 443, "S"))
    port = port_of(sent(a, first))
    receive(a, Packet(WORLD[family], NODE[family], TCP(443, port, "SA")))
    for flags in ("A", "PA", "FA"):
        assert port_of(sent(a, first.but(l4=TCP(40000, 443, flags)))) == port
    assert port_of(sent(a, first.but(l4=TCP(40001, 443, "S")))) != port


def test_events_tell_the_connection_at_the_pod_and_its_translation_at_the_uplink(
    a: Node, family: int
) -> None:
    packet = ask(family, UDP(5000, 53))
    (opened,) = a.from_pod("web", packet).events
    (told,) = (got := a.to_uplink(packet)).events
    assert (opened["point"], told["point"]) == (5, 11)
    for event in (opened, told):
        assert text_of(event["source"]) == WEB[family]
        assert (event["source_identity"], event["destination_identity"]) == (WEB.identity, 2)
    assert text_of(told["translated"]) == NODE[family]
    assert told["translated_port"] == port_of(got.packet)
    assert send(a, packet).events == []


def test_what_others_have_opened_is_answered_with_the_pods_own_address(
    a: Node, family: int
) -> None:
    opening = Packet(WORLD[family], WEB[family], TCP(50000, 22, "S"))
    assert receive_natively(a, opening) == opening
    answer = opening.reply(TCP(22, 50000, "SA"))
    assert sent(a, answer) == answer


def receive_natively(a: Node, packet: Packet) -> Packet:
    got = a.from_uplink(packet)
    assert (got.verdict, got.dropped) == (OK, {})
    arrived = a.to_pod("web", got.wire)
    assert (arrived.verdict, arrived.dropped) == (OK, {})
    return arrived.packet


@pytest.mark.parametrize("l4", [TCP(40000, 443, "S"), UDP(5000, 53)], ids=["TCP", "UDP"])
def test_what_was_answered_at_the_pods_own_address_goes_on(
    nodes: Nodes, family: int, l4: Any
) -> None:
    """Masquerade is switched on while pods talk to a world that knows them."""
    a = nodes["a"]
    packet = ask(family, l4)
    assert sent(a, packet) == packet
    back = TCP(443, 40000, "SA") if isinstance(l4, TCP) else UDP(53, 5000)
    receive_natively(a, packet.reply(back))
    a.masquerade(family)
    again = packet.but(l4=TCP(40000, 443, "A")) if isinstance(l4, TCP) else packet
    assert sent(a, again) == again


def test_the_mesh_is_never_translated(a: Node, nodes: Nodes, family: int) -> None:
    packet = Packet(WEB[family], OTHER_NODE[family], TCP(40000, 80, "S"))
    assert sent(a, packet) == packet
    far = nodes["b"].plan.pods["web"][family]
    got = a.to_uplink(Packet(WEB[family], far, TCP(40000, 80, "S")))
    assert got.overlay.inner.source == WEB[family]


def test_networks_that_are_left_out_see_the_pods_address(a: Node, family: int) -> None:
    network = {4: "203.0.113.0/24", 6: "2001:db8:3::/48"}[family]
    a.cidr("mg_unmasked", network, 1)  # type: ignore[arg-type]
    packet = ask(family, UDP(5000, 53)).but(destination=ELSEWHERE[family])
    assert sent(a, packet) == packet
    assert sent(a, ask(family, UDP(5000, 53))).source == NODE[family]


def test_a_family_without_an_address_leaves_as_it_is(nodes: Nodes, family: int) -> None:
    nodes["a"].masquerade(10 - family)
    packet = ask(family, UDP(5000, 53))
    assert sent(nodes["a"], packet) == packet
    answer = Packet(WORLD[family], NODE[family], UDP(53, 61000))
    assert nodes["a"].from_uplink(answer).packet == answer


HOSTS_OWN = {
    "TCP": lambda f: Packet(NODE[f], WORLD[f], TCP(40000, 443, "S")),
    "of the range": lambda f: Packet(NODE[f], WORLD[f], TCP(61000, 443, "S")),
    "UDP": lambda f: Packet(NODE[f], WORLD[f], UDP(40000, 53)),
    "ping": lambda f: Packet(NODE[f], WORLD[f], Echo(61001)),
    "ESP": lambda f: Packet(NODE[f], WORLD[f], Other(50), b"x" * 24),
    "a later fragment": lambda f: Packet(NODE[f], WORLD[f], Other(17), b"x" * 24, offset=64),
    "cut": lambda f: Packet(NODE[f], WORLD[f], Other(6), b"x" * 3),
    "cut ICMP": lambda f: Packet(NODE[f], WORLD[f], Other({4: 1, 6: 58}[f]), b"x" * 3),
    "about a connection of its own": lambda f: Packet(
        NODE[f],
        WORLD[f],
        Error({4: 3, 6: 1}[f], 4, Packet(WORLD[f], NODE[f], UDP(53, 999)).ip()),
    ),
}


@pytest.mark.parametrize("make", HOSTS_OWN.values(), ids=HOSTS_OWN)
def test_what_the_host_itself_says_and_gets_is_its_own_affair(
    a: Node, family: int, make: Any
) -> None:
    packet = make(family)
    got = a.to_uplink(packet)
    assert (got.verdict, got.wire, got.dropped, got.events) == (NEXT, packet.wire(), {}, [])
    back = packet.but(source=packet.destination, destination=packet.source)
    if isinstance(packet.l4, Error):
        back = Packet(WORLD[family], NODE[family], packet.l4)
    got = a.from_uplink(back)
    assert (got.verdict, got.wire, got.dropped, got.events) == (OK, back.wire(), {}, [])
    assert a.count(f"mg_ct_v{family}") == a.count(f"mg_nat_v{family}") == 0


def test_a_tuple_without_a_mapping_is_the_hosts(a: Node, family: int) -> None:
    """The host may have the same port, towards another remote."""
    seen = sent(a, ask(family, UDP(5000, 53)))
    stranger = Packet(ELSEWHERE[family], NODE[family], UDP(53, port_of(seen)))
    got = a.from_uplink(stranger)
    assert (got.verdict, got.packet, got.dropped) == (OK, stranger, {})


def test_an_answer_to_a_pod_that_has_gone_reaches_nobody(a: Node, family: int) -> None:
    seen = sent(a, ask(family, UDP(5000, 53)))
    a.clear("mg_pod_addr")
    got = a.from_uplink(seen.reply(UDP(53, port_of(seen))))
    assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1})


def test_an_answer_to_the_pods_own_address_is_none(a: Node, family: int) -> None:
    packet = ask(family, UDP(5000, 53))
    sent(a, packet)
    got = a.from_uplink(packet.reply(UDP(53, 5000)))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_NAT_MAPPING": 1})


@pytest.mark.parametrize(
    ("l4", "reason"),
    [
        (TCP(40000, 443, "A"), "MID_STREAM"),
        (Other(50), "NAT_UNSUPPORTED_PROTOCOL"),
    ],
)
def test_what_cannot_be_translated_does_not_leave(
    a: Node, family: int, l4: Any, reason: str
) -> None:
    got = send(a, ask(family, l4))
    assert (got.verdict, got.dropped) == (SHOT, {reason: 1})


# Ports


def fill(a: Node, family: int, pod: str = "web") -> list[int]:
    """Connections on all ports towards one remote; the ports."""
    a.masquerade(family, ports=SMALL)
    packets = [ask(family, TCP(10000 + n, 443, "S"), pod=pod) for n in range(len(SMALL))]
    return [port_of(sent(a, packet, pod)) for packet in packets]


def test_every_port_is_used_before_one_connection_fails(a: Node, family: int) -> None:
    assert sorted(fill(a, family)) == [*SMALL]
    packet = ask(family, TCP(9999, 443, "S"))
    got = send(a, packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"MASQUERADE_FULL": 1})
    answer = got.packet
    assert isinstance(answer.l4, Error)
    assert (answer.l4.type, answer.l4.code) == {4: (3, 1), 6: (1, 3)}[family]
    assert (answer.source, answer.destination) == (packet.destination, packet.source)
    assert answer.l4.quoted == packet.ip()[: len(answer.l4.quoted)]
    assert broken_checksums(got.wire) == []
    other = packet.but(destination=ELSEWHERE[family])
    assert sent(a, other).source == NODE[family]
    # mg_to_pod lets the error in, and it changes nothing
    arrived = a.to_pod("web", got.wire)
    assert (arrived.verdict, arrived.dropped) == (OK, {})


def test_a_closed_connection_gives_its_port_and_a_live_one_does_not(a: Node, family: int) -> None:
    ports = fill(a, family)
    for number in (5, 2):
        packet = ask(family, TCP(10000 + number, 443, "A"))
        answer = Packet(WORLD[family], NODE[family], TCP(443, ports[number], "FA"))
        sent(a, packet)
        receive(a, answer)
        sent(a, packet.but(l4=TCP(10000 + number, 443, "FA")))
    got = [port_of(sent(a, ask(family, TCP(n, 443, "S")))) for n in (1, 2)]
    assert got == [ports[5], ports[2]]  # the oldest first
    assert send(a, ask(family, TCP(3, 443, "S"))).dropped == {"MASQUERADE_FULL": 1}
    late = ask(family, TCP(10005, 443, "A"))
    assert send(a, late).dropped == {"MID_STREAM": 1}


def test_a_syn_on_a_closed_connection_reopens_it_on_its_port(a: Node, family: int) -> None:
    syn = ask(family, TCP(40000, 443, "S"))
    port = port_of(sent(a, syn))
    receive(a, Packet(WORLD[family], NODE[family], TCP(443, port, "RA")))
    again = send(a, syn)
    assert port_of(again.packet) == port
    assert a.count(f"mg_ct_v{family}") == a.count(f"mg_nat_v{family}") == 1
    receive(a, Packet(WORLD[family], NODE[family], TCP(443, port, "SA")))


def test_one_shots_give_their_ports_when_none_is_free(a: Node, family: int) -> None:
    a.masquerade(family, ports=SMALL)
    for number in SMALL:
        sent(a, ask(family, UDP(number, 53)))
    assert send(a, ask(family, UDP(1, 53))).dropped == {"MASQUERADE_FULL": 1}
    a.rest(20)
    assert sent(a, ask(family, UDP(2, 53))).source == NODE[family]


def test_a_pod_with_its_share_gets_no_more_of_the_last_quarter(a: Node, family: int) -> None:
    a.sweep()  # counts the pods
    a.masquerade(family, ports=SMALL)
    taken = [send(a, ask(family, TCP(n, 443, "S"))).dropped for n in range(1, 9)]
    assert taken == [{}] * 6 + [{"MASQUERADE_FULL": 1}] * 2
    other = ask(family, TCP(1, 443, "S"), pod="client").but(destination=WORLD[family])
    a.clear("mg_egress")
    assert sent(a, other, "client").source == NODE[family]


def test_the_sweep_frees_port_and_connection(a: Node, family: int) -> None:
    sent(a, ask(family, UDP(5000, 53)))
    a.age(1000)
    assert a.sweep(datagram=300) == (0, 1)
    assert a.count(f"mg_nat_v{family}") == 0


def test_the_connections_of_an_address_that_changes_hands_go(a: Node, family: int) -> None:
    seen = sent(a, ask(family, UDP(5000, 53)))
    assert a.forget(WEB[family]) == 1
    stray = seen.reply(UDP(53, port_of(seen)))
    assert a.from_uplink(stray).dropped == {"NO_NAT_MAPPING": 1}  # the port rests
    a.clear(f"mg_nat_v{family}")
    assert a.from_uplink(stray).packet == stray


# ICMP errors and fragments


def quoted(packet: Packet) -> Error:
    kind = {4: (3, 3), 6: (1, 4)}[packet.family]
    return Error(*kind, packet.ip()[:60])


def test_an_error_of_the_world_reaches_the_pod_as_if_about_its_packet(a: Node, family: int) -> None:
    packet = ask(family, UDP(5000, 53))
    seen = sent(a, packet)
    router = ELSEWHERE[family]
    got = receive(a, Packet(router, NODE[family], quoted(seen)))
    assert (got.source, got.destination) == (router, WEB[family])
    assert isinstance(got.l4, Error)
    assert got.l4.quoted == packet.ip()[:60]


@pytest.mark.parametrize("of", ["the pod", "the host"])
def test_an_error_about_an_answer_speaks_of_the_nodes_address(
    a: Node, family: int, of: str
) -> None:
    seen = sent(a, ask(family, UDP(5000, 53)))
    answer = seen.reply(UDP(53, port_of(seen)), b"answer")
    arrived = receive(a, answer)
    source = WEB[family] if of == "the pod" else NODE[family]
    error = Packet(source, WORLD[family], quoted(arrived))
    got = sent(a, error) if of == "the pod" else a.to_uplink(error).packet
    assert (got.source, got.destination) == (NODE[family], WORLD[family])
    assert isinstance(got.l4, Error)
    assert got.l4.quoted == answer.ip()[:60]


def test_a_pods_error_about_nothing_does_not_leave(a: Node, family: int) -> None:
    about = Packet(WORLD[family], WEB[family], UDP(53, 5000))
    got = send(a, Packet(WEB[family], WORLD[family], quoted(about)))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_NAT_MAPPING": 1})


def test_fragments_follow_their_first_one_both_ways(a: Node, family: int) -> None:
    whole = ask(family, UDP(5000, 53), b"x" * 100).but(df=family == 6, id=7)
    first = whole.but(more=True)
    later = whole.but(l4=Other(17), payload=b"y" * 64, offset=112)
    seen = send(a, first).packet
    assert (seen.source, port_of(seen)) == (NODE[family], port_of(seen))
    assert send(a, later).packet == later.but(source=NODE[family], id=seen.id)
    back = seen.reply(UDP(53, port_of(seen)), b"z" * 100).but(id=9, df=family == 6)
    one = a.from_uplink(back.but(more=True))
    two = a.from_uplink(back.but(l4=Other(17), payload=b"y" * 64, offset=112))
    assert (one.packet.destination, one.packet.l4) == (WEB[family], UDP(53, 5000))
    assert (two.packet.destination, two.verdict, two.dropped) == (WEB[family], OK, {})


def test_a_later_fragment_without_its_first_one_does_not_leave(a: Node, family: int) -> None:
    later = ask(family, Other(17), b"y" * 64).but(df=False, id=8, offset=112)
    assert a.to_uplink(later).dropped == {"FRAGMENT_NOT_FOUND": 1}


# Changes


def test_switched_off_what_is_open_goes_on_and_what_is_new_leaves_as_it_is(
    a: Node, family: int
) -> None:
    syn = ask(family, TCP(40000, 443, "S"))
    seen = sent(a, syn)
    receive(a, seen.reply(TCP(443, port_of(seen), "SA")))
    a.masquerade(family, opens=False)
    assert port_of(sent(a, syn.but(l4=TCP(40000, 443, "A")))) == port_of(seen)
    receive(a, seen.reply(TCP(443, port_of(seen), "PA"), b"more"))
    new = ask(family, TCP(40001, 443, "S"))
    assert sent(a, new) == new
    receive(a, seen.reply(TCP(443, port_of(seen), "RA")))
    assert sent(a, syn) == syn  # opened again, now as it is
    assert receive_natively(a, syn.reply(TCP(443, 40000, "SA"))).destination == WEB[family]
    assert a.count(f"mg_nat_v{family}") == 0


def test_another_address_of_the_node_is_for_new_connections(a: Node, family: int) -> None:
    other = {4: "10.99.0.111", 6: "fd99::111"}[family]
    datagram, syn = ask(family, UDP(5000, 53)), ask(family, TCP(40000, 443, "S"))
    for packet in (datagram, syn):
        assert sent(a, packet).source == NODE[family]
    a.masquerade(family, other)
    assert sent(a, datagram).source == other
    late = send(a, syn.but(l4=TCP(40000, 443, "A")))
    assert (late.verdict, late.dropped) == (SHOT, {"MID_STREAM": 1})
    assert sent(a, syn).source == other


def test_a_policy_that_comes_later_takes_the_connection(a: Node, family: int) -> None:
    """Both ends of TCP are reset, the far one with the address that it knows."""
    a.clear("mg_egress")
    syn = ask(family, TCP(40000, 443, "S"), pod="client")
    seen = sent(a, syn, "client")
    receive(a, seen.reply(TCP(443, port_of(seen), "SA")), "client")
    assert sent(a, syn.but(l4=TCP(40000, 443, "A")), "client").source == NODE[family]
    a.rows_of_egress()
    got = a.from_pod("client", syn.but(l4=TCP(40000, 443, "PA", 7, 8)))
    assert (got.verdict, got.dropped) == (OK, {"MID_STREAM": 1})
    reset = a.to_uplink(got.wire)
    expected = Packet(NODE[family], WORLD[family], TCP(port_of(seen), 443, "R", 7))
    assert (reset.verdict, reset.dropped, reset.packet) == (NEXT, {}, expected)
    assert broken_checksums(reset.wire) == []
    again = a.from_pod("client", syn)
    assert again.overlay.inner.source == EGRESS[family]


def test_a_datagram_that_a_policy_covers_from_now_on_gets_the_egress_address(
    a: Node, family: int
) -> None:
    a.clear("mg_egress")
    packet = ask(family, UDP(5000, 53), pod="client")
    assert sent(a, packet, "client").source == NODE[family]
    a.rows_of_egress()
    assert a.from_pod("client", packet).overlay.inner.source == EGRESS[family]
    assert a.count(f"mg_nat_v{family}") == 1


def test_an_address_that_joins_the_mesh_sees_the_pod(a: Node, family: int) -> None:
    packet = ask(family, UDP(5000, 53))
    sent(a, packet)
    behind = {"node": int(IPv4Address(PLANS["b"].endpoint)), "cluster": 1}
    a.cidr("mg_addr_cidr", str(ip_network(WORLD[family])), behind)
    got = a.from_pod("web", packet)
    assert got.overlay.inner == packet
    assert a.count(f"mg_nat_v{family}") == 0
