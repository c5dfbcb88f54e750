"""Connections expire by their state, translations with them."""

import numpy as np
import pytest

from tests.packet.nodes import EGRESS, LEGACY, LIMITS, Node
from tests.packet.packets import TCP, UDP, Echo, Overlay, Packet, Transport

Nodes = dict[str, Node]


def open_(a: Node, family: int, l4: Transport) -> Packet:
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], l4)
    got = a.from_pod("client", packet)
    assert got.dropped == {}
    return got.overlay.inner


def receive(a: Node, seen: Packet, flags: str) -> None:
    assert isinstance(seen.l4, TCP)
    packet = seen.reply(TCP(443, seen.l4.source, flags))
    assert a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, packet)).dropped == {}


def idle(a: Node, family: int, l4: Transport, flags: str) -> None:
    """A connection, answered by these flags if any, whose last packet was 100 s ago."""
    seen = open_(a, family, l4)
    if flags:
        receive(a, seen, flags)
    a.age(100)


@pytest.mark.parametrize(
    ("limit", "l4", "flags"),
    [
        ("opening", TCP(40000, 443, "S"), ""),
        ("opening", TCP(40000, 443, "S"), "SA"),
        ("closed", TCP(40000, 443, "S"), "RA"),
        ("datagram", UDP(5000, 53), ""),
        ("echo", Echo(7), ""),
    ],
)
def test_each_state_has_its_limit(
    nodes: Nodes, family: int, limit: str, l4: Transport, flags: str
) -> None:
    a = nodes["a"]
    idle(a, family, l4, flags)
    others = {*LIMITS} - {limit}
    assert a.sweep(**dict.fromkeys(others, 0)) == (1, 0)
    assert a.sweep(**{limit: 200}) == (1, 0)
    assert a.sweep(**{limit: 99}) == (0, 1)
    assert a.count(f"mg_ct_v{family}") == a.count(f"mg_nat_v{family}") == 0


@pytest.mark.parametrize(
    ("story", "limit"),
    [
        ("S", "opening"),
        ("S <SA", "opening"),
        ("S <SA <SA <SA", "opening"),
        ("S <SA S", "opening"),  # the answer is lost, or the answer to it: a SYN comes again
        ("S S S <SA A", "established"),
        ("S <SA A", "established"),
        ("S <SA PA", "established"),
        ("S <S SA", "established"),  # both open at once
        ("S <SA FA", "established"),  # half closed
        ("S <SA R", "closed"),
        ("S <SA A <RA", "closed"),
        ("S <SA <RA A", "established"),  # the pod does not believe the reset
        ("S <RA", "closed"),
    ],
)
def test_tcp_is_established_when_its_opener_answers(
    nodes: Nodes, family: int, story: str, limit: str
) -> None:
    """RFC 5382: transitory until then, however often it is asked or answered."""
    a = nodes["a"]
    seen = open_(a, family, TCP(40000, 443, "S"))
    for word in story.split()[1:]:
        if word.startswith("<"):
            receive(a, seen, word[1:])
        else:
            open_(a, family, TCP(40000, 443, word))
    a.age(100)
    others = {*LIMITS} - {limit}
    assert a.sweep(**dict.fromkeys(others, 0)) == (1, 0)
    assert a.sweep(**{limit: 99}) == (0, 1)


def test_what_the_version_before_had_established_stays_so(nodes: Nodes, family: int) -> None:
    """Its entries do not say whether their openers have answered."""
    a = nodes["a"]
    receive(a, open_(a, family, TCP(40000, 443, "S")), "SA")
    keys, values = a.maps[f"mg_ct_v{family}"].dump()
    values["flags"] &= np.uint32(~128 & 0xFFFFFFFF)
    a.maps[f"mg_ct_v{family}"].update(keys, values)
    a.age(100)
    assert a.sweep(opening=1) == (1, 0)


def test_a_packet_gives_a_connection_its_time_again(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    open_(a, family, UDP(5000, 53))
    a.age(100)
    open_(a, family, UDP(5000, 53))
    assert a.sweep(datagram=99) == (1, 0)


def test_plain_connections_expire_likewise(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    web = a.plan.pods["web"][family]
    a.from_pod("web", Packet(web, nodes["b"].plan.pods["web"][family], UDP(1, 2)))
    a.age(10)
    assert a.sweep(datagram=0) == (1, 0)
    assert a.sweep(plain_datagram=9) == (0, 1)


def test_a_plain_connection_that_was_closed_goes_soon(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    packet = Packet(a.plan.pods["web"][family], LEGACY[family], TCP(1, 2, "S"))
    a.from_pod("web", packet)
    a.from_pod("web", packet.but(l4=TCP(1, 2, "R")))
    a.age(10)
    assert a.sweep(closed=0) == (1, 0)
    assert a.sweep(plain_closed=9) == (0, 1)


def test_a_mapping_of_another_connection_stays(nodes: Nodes, family: int) -> None:
    """A connection's entry whose port has gone to another one takes nothing with it."""
    a = nodes["a"]
    open_(a, family, UDP(5000, 53))
    keys, values = a.maps[f"mg_nat_v{family}"].dump()
    values["pod_port"] = 5001
    a.maps[f"mg_nat_v{family}"].update(keys, values)
    a.age(10)
    assert a.sweep(datagram=9) == (0, 1)
    assert a.count(f"mg_nat_v{family}") == 1


def test_a_mapping_in_the_sweeps_hands_is_not_taken(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    name = f"mg_nat_v{family}"
    seen = open_(a, family, TCP(40000, 443, "S"))
    receive(a, seen, "RA")
    keys, values = a.maps[name].dump()
    values["closed"] = (1 << 64) - 1
    a.maps[name].update(keys, values)
    a.age(10)
    assert a.sweep(closed=1) == (1, 0)
    again = open_(a, family, TCP(40000, 443, "S"))
    assert again.l4 != seen.l4
    assert EGRESS[family] == again.source


@pytest.mark.parametrize(
    ("l4", "flags", "goes"),
    [
        (UDP(5000, 53), "", True),
        (Echo(7), "", True),
        (TCP(40000, 443, "S"), "RA", True),
        (TCP(40000, 443, "S"), "", False),
        (TCP(40000, 443, "S"), "SA", False),
    ],
)
def test_on_an_address_that_was_cut_only_tcp_that_is_to_hear_of_it_stays(
    nodes: Nodes, family: int, l4: Transport, flags: str, *, goes: bool
) -> None:
    a = nodes["a"]
    idle(a, family, l4, flags)
    assert a.sweep() == (1, 0)
    a.ended(family, "g")
    assert a.sweep() == ((0, 1) if goes else (1, 0))
    assert a.count(f"mg_ct_v{family}") == a.count(f"mg_nat_v{family}") == (0 if goes else 1)
