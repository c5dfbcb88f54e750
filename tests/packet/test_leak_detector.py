"""``mg_to_uplink`` counts what a covered pod's packets to covered networks would be without a gate.

The program is given them as the stack would, so none of them has met ``mg_from_pod``. What other
CNIs translate is tried in ``tests/lab/test_leak.py``: only a real stack has such packets.
"""

from typing import Any

import pytest

from tests.packet.nodes import LEGACY, Node, text_of, zoned
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Packet, Transport

Nodes = dict[str, Node]
EXCLUDED = {4: "192.0.2.200", 6: "2001:db8:2:8000::1"}
ELSEWHERE = {4: "203.0.113.1", 6: "2001:db8:77::1"}


@pytest.fixture
def a(nodes: Nodes) -> Node:
    node = nodes["a"]
    node.clear_leaks()
    return node


def leaves(a: Node, family: int, l4: Transport, pod: str = "client", to: str = "") -> int:
    """Packets that the detector counts when one leaves with the pod's own address."""
    before = a.leaks()["packets"]
    packet = Packet(a.plan.pods[pod][family], to or LEGACY[family], l4)
    assert a.to_uplink(packet).dropped == {}
    counted: int = a.leaks()["packets"] - before
    return counted


@pytest.mark.parametrize(
    "l4", [TCP(40000, 443, "S"), TCP(40000, 443, "PA"), UDP(5000, 53), Echo(1), Other(47)], ids=str
)
def test_a_covered_packet_with_another_source_is_counted(
    a: Node, family: int, l4: Transport
) -> None:
    assert leaves(a, family, l4) == 1
    last = a.leaks()
    client = a.plan.pods["client"][family]
    assert (text_of(last["pod"]), text_of(last["source"])) == (client, client)
    assert text_of(last["destination"]) == LEGACY[family]


def test_a_masqueraded_packet_is_counted_with_the_address_that_it_leaves_with(
    a: Node, family: int
) -> None:
    a.masquerade(family)
    assert leaves(a, family, UDP(5000, 53)) == 1
    last = a.leaks()
    assert text_of(last["pod"]) == a.plan.pods["client"][family]
    assert text_of(last["source"]) == {4: "10.99.0.11", 6: "fd99::11"}[family]


def test_what_no_policy_covers_is_not_counted(a: Node, family: int) -> None:
    assert leaves(a, family, UDP(5000, 53), "web") == 0
    assert leaves(a, family, UDP(5000, 53), to=EXCLUDED[family]) == 0
    assert leaves(a, family, UDP(5000, 53), to=ELSEWHERE[family]) == 0
    assert leaves(a, family, UDP(5000, 53), to={4: "10.99.0.12", 6: "fd99::12"}[family]) == 0


def test_an_egress_address_is_nobodys_leak(a: Node, family: int) -> None:
    packet = Packet({4: "198.51.100.10", 6: "2001:db8:100::10"}[family], LEGACY[family], UDP(1, 2))
    a.to_uplink(packet)
    assert a.leaks()["packets"] == 0


def test_answers_that_the_pod_may_give_are_not_counted(a: Node, family: int) -> None:
    client = a.plan.pods["client"][family]
    a.declare("client", 161)
    for there, back in (
        (TCP(50000, 22, "S"), TCP(22, 50000, "SA")),
        (UDP(5000, 161), UDP(161, 5000)),
        (Echo(7), Echo(7, answer=True)),
    ):
        asked = Packet(LEGACY[family], client, there)
        a.from_uplink(asked)
        assert a.from_pod("client", asked.reply(back)).dropped == {}
        assert leaves(a, family, back) == 0


def test_answers_that_it_may_not_give_are(a: Node, family: int) -> None:
    """As if they had gone round ``mg_from_pod``."""
    client = a.plan.pods["client"][family]
    for there, back in (
        (TCP(50000, 22, "S"), TCP(22, 50000, "RA")),
        (UDP(5000, 161), UDP(161, 5000)),
    ):
        a.from_uplink(Packet(LEGACY[family], client, there))
        assert leaves(a, family, back) == 1
    ping = Packet(LEGACY[family], client, Echo(7))
    a.from_uplink(ping)
    error = Error({4: 3, 6: 1}[family], {4: 3, 6: 4}[family], ping.ip())
    assert leaves(a, family, error) == 1


def test_what_was_on_its_way_when_the_pod_became_covered_is_not_counted(
    a: Node, family: int
) -> None:
    row: dict[str, Any] = {"ifindex": a.devices["dpw1"], "identity": 1, "egress_class": 1}
    for since, counted in ((a.second(), 0), (a.second() - 2, 1)):
        a.maps["mg_pod_addr"].update_one(
            zoned(a.plan.pods["client"][family]), row | {"since": since}
        )
        assert leaves(a, family, UDP(5000, 53)) == counted


def test_our_own_reset_of_what_was_open_before_is_not_counted(a: Node, family: int) -> None:
    a.clear("mg_egress")
    client = a.plan.pods["client"][family]
    a.from_pod("client", Packet(client, LEGACY[family], TCP(40000, 443, "S")))
    a.rows_of_egress()
    got = a.from_pod("client", Packet(client, LEGACY[family], TCP(40000, 443, "PA"), b"x"))
    assert got.packet.l4.flags == "R"
    a.to_uplink(got.wire)
    assert a.leaks()["packets"] == 0
    assert leaves(a, family, TCP(40000, 443, "PA")) == 1
