"""S10: which answers of a covered pod keep its own address, and what a forger makes of it."""

import numpy as np
import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, REDIRECT, Got, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Overlay, Packet, Transport

Nodes = dict[str, Node]
#: Of ``enum connection_flag``.
UNACCEPTED = 1 << 19
UNREACHABLE = {4: (3, 3), 6: (1, 4)}


@pytest.fixture
def a(nodes: Nodes) -> Node:
    return nodes["a"]


def asked(a: Node, family: int, l4: Transport) -> Packet:
    """A packet of legacy at the pod's own address; it may be forged."""
    packet = Packet(LEGACY[family], a.plan.pods["client"][family], l4)
    assert a.from_uplink(packet).dropped == {}
    return packet


def says(a: Node, family: int, l4: Transport) -> Got:
    return a.from_pod("client", Packet(a.plan.pods["client"][family], LEGACY[family], l4))


def is_own(got: Got) -> bool:
    """Whether the packet left with the pod's own address; else it must have the egress address."""
    if got.verdict == OK:
        return True
    assert got.verdict == REDIRECT
    assert got.overlay.inner.source in EGRESS.values()
    return False


# TCP


def test_tcp_begins_with_the_pods_syn_ack(a: Node, family: int) -> None:
    asked(a, family, TCP(50000, 22, "S"))
    for flags in ("A", "PA", "FA", "R", "RA"):
        assert says(a, family, TCP(22, 50000, flags)).dropped == {"MID_STREAM": 1}, flags
    assert is_own(says(a, family, TCP(22, 50000, "SA")))


def test_tcp_goes_on_once_the_pod_has_accepted_it(a: Node, family: int) -> None:
    asked(a, family, TCP(50000, 22, "S"))
    assert is_own(says(a, family, TCP(22, 50000, "SA")))
    asked(a, family, TCP(50000, 22, "A"))
    for flags in ("A", "PA", "FA", "RA"):
        assert is_own(says(a, family, TCP(22, 50000, flags)))


@pytest.mark.parametrize("first", ["pod", "forger"])
def test_a_forged_syn_on_a_tuple_that_the_pod_uses_opens_nothing_and_cuts_nothing(
    a: Node, family: int, first: str
) -> None:
    forged = Packet(LEGACY[family], a.plan.pods["client"][family], TCP(443, 40000, "S"))
    if first == "forger":
        a.from_uplink(forged)
    port = says(a, family, TCP(40000, 443, "S")).overlay.inner.l4.source
    a.from_uplink(forged)
    answer = Packet(LEGACY[family], EGRESS[family], TCP(443, port, "SA"))
    got = a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, answer))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    for flags in ("A", "PA", "SA", "FA"):
        assert says(a, family, TCP(40000, 443, flags)).overlay.inner.l4.source == port


def test_the_pods_answer_to_a_forged_syn_does_not_accept_what_the_pod_asks_for(
    a: Node, family: int
) -> None:
    """Two that open at once: the pod's own SYN was dropped, as no gateway was there."""
    a.clear("mg_egress_addr")
    assert says(a, family, TCP(40000, 443, "S")).dropped == {"NO_EGRESS_GATEWAY": 1}
    asked(a, family, TCP(443, 40000, "S"))
    assert says(a, family, TCP(40000, 443, "SA")).dropped
    a.rows_of_egress()
    assert says(a, family, TCP(40000, 443, "SA")).dropped == {"MID_STREAM": 1}
    assert not is_own(says(a, family, TCP(40000, 443, "S")))


def test_a_forged_syn_does_not_take_an_exemption_away(a: Node, family: int) -> None:
    """The opener has closed its half, and the pod goes on sending."""
    asked(a, family, TCP(50000, 22, "S"))
    says(a, family, TCP(22, 50000, "SA"))
    asked(a, family, TCP(50000, 22, "A"))
    asked(a, family, TCP(50000, 22, "FA"))
    asked(a, family, TCP(50000, 22, "S"))
    assert is_own(says(a, family, TCP(22, 50000, "PA")))


def test_what_has_ended_is_accepted_anew(a: Node, family: int) -> None:
    asked(a, family, TCP(50000, 22, "S"))
    says(a, family, TCP(22, 50000, "SA"))
    asked(a, family, TCP(50000, 22, "R"))
    asked(a, family, TCP(50000, 22, "S"))
    assert says(a, family, TCP(22, 50000, "PA")).dropped == {"MID_STREAM": 1}
    assert is_own(says(a, family, TCP(22, 50000, "SA")))


def test_connections_of_the_version_before_this_rule_go_on(a: Node, family: int) -> None:
    """Their entries come without the flag."""
    asked(a, family, TCP(50000, 22, "S"))
    keys, values = a.maps[f"mg_ct_v{family}"].dump()
    assert values["flags"] & UNACCEPTED
    values["flags"] &= np.uint32(~UNACCEPTED & 0xFFFFFFFF)
    a.maps[f"mg_ct_v{family}"].update(keys, values)
    assert is_own(says(a, family, TCP(22, 50000, "PA")))


def test_what_the_pod_accepted_before_it_was_covered_goes_on(a: Node, family: int) -> None:
    a.clear("mg_egress")
    asked(a, family, TCP(50000, 22, "S"))
    says(a, family, TCP(22, 50000, "SA"))
    a.rows_of_egress()
    assert is_own(says(a, family, TCP(22, 50000, "PA")))


# Datagrams


def test_a_datagram_from_a_port_that_is_not_declared_is_translated(a: Node, family: int) -> None:
    asked(a, family, UDP(53, 5000))
    port = says(a, family, UDP(5000, 53)).overlay.inner.l4.source
    assert says(a, family, UDP(5000, 53)).overlay.inner.l4.source == port


def test_an_answer_from_a_declared_port_keeps_the_pods_address(a: Node, family: int) -> None:
    a.declare("client", 161)
    asked(a, family, UDP(5000, 161))
    assert is_own(says(a, family, UDP(161, 5000)))
    assert not is_own(says(a, family, UDP(161, 5001))), "nobody has asked from there"
    assert not is_own(says(a, family, UDP(162, 5000))), "another port"


def test_another_pods_declaration_is_none(a: Node, family: int) -> None:
    a.declare("web", 161)
    asked(a, family, UDP(5000, 161))
    assert not is_own(says(a, family, UDP(161, 5000)))


def test_what_a_translated_connection_uses_is_no_servers_port(a: Node, family: int) -> None:
    """A name server that asks others from its own port: a forged question opens nothing."""
    a.declare("client", 53)
    port = says(a, family, UDP(53, 1053)).overlay.inner.l4.source
    forged = Packet(LEGACY[family], a.plan.pods["client"][family], UDP(1053, 53))
    assert a.from_uplink(forged).dropped == {"NO_NAT_MAPPING": 1}
    assert says(a, family, UDP(53, 1053)).overlay.inner.l4.source == port
    asked(a, family, UDP(2000, 53))
    assert not is_own(says(a, family, UDP(53, 2000)))


def test_a_port_is_a_servers_again_when_its_translated_connections_are_gone(
    a: Node, family: int
) -> None:
    a.declare("client", 53)
    says(a, family, UDP(53, 1053))
    keys, values = a.maps["mg_declared"].dump()
    used = values["translated"] > 0
    assert used.sum() == 1
    values["translated"][used] -= np.uint32(301)
    a.maps["mg_declared"].update(keys, values)
    asked(a, family, UDP(2000, 53))
    assert is_own(says(a, family, UDP(53, 2000)))


def test_a_connection_that_goes_on_keeps_its_port_from_serving(a: Node, family: int) -> None:
    a.declare("client", 53)
    says(a, family, UDP(53, 1053))
    keys, values = a.maps["mg_declared"].dump()
    values["translated"][:] = 1
    a.maps["mg_declared"].update(keys, values)
    a.age(1)
    says(a, family, UDP(53, 1053))
    asked(a, family, UDP(2000, 53))
    assert not is_own(says(a, family, UDP(53, 2000)))


def test_an_answer_that_has_begun_is_not_cut(a: Node, family: int) -> None:
    a.declare("client", 53)
    asked(a, family, UDP(2000, 53))
    assert is_own(says(a, family, UDP(53, 2000)))
    assert not is_own(says(a, family, UDP(53, 1053)))
    assert is_own(says(a, family, UDP(53, 2000)))


def test_the_fragments_of_an_answer_go_as_its_first_one(a: Node, family: int) -> None:
    a.declare("client", 161)
    asked(a, family, UDP(5000, 161))
    client = a.plan.pods["client"][family]
    first = Packet(client, LEGACY[family], UDP(161, 5000), bytes(16), df=False, id=7, more=True)
    assert is_own(a.from_pod("client", first))
    assert is_own(a.from_pod("client", first.but(l4=Other(17), offset=24, more=False)))


# ICMP, and all else


def test_of_icmp_only_echo_replies_keep_the_pods_address(a: Node, family: int) -> None:
    ping = asked(a, family, Echo(77))
    assert is_own(says(a, family, Echo(77, answer=True)))
    assert not is_own(says(a, family, Echo(77)))
    error = Error(*UNREACHABLE[family], ping.ip())
    assert says(a, family, error).dropped == {"NO_NAT_MAPPING": 1}


def test_an_echo_reply_that_nobody_has_asked_for_goes_nowhere(a: Node, family: int) -> None:
    asked(a, family, Echo(77))
    assert says(a, family, Echo(78, answer=True)).dropped == {"NAT_UNSUPPORTED_PROTOCOL": 1}


def test_other_protocols_are_never_exempt(a: Node, family: int) -> None:
    asked(a, family, Other(132))
    assert says(a, family, Other(132)).dropped == {"NAT_UNSUPPORTED_PROTOCOL": 1}


# A pod that no policy covers


def test_an_uncovered_pod_answers_as_before(a: Node, family: int) -> None:
    web = a.plan.pods["web"][family]
    for there, back in (
        (TCP(50000, 22, "S"), TCP(22, 50000, "RA")),
        (UDP(5000, 161), UDP(161, 5000)),
        (Other(132), Other(132)),
    ):
        packet = Packet(LEGACY[family], web, there)
        a.from_uplink(packet)
        assert a.from_pod("web", packet.reply(back)).verdict == OK
