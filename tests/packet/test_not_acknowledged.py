"""Addresses that firewalls have not loaded: new connections are refused, and told so."""

from __future__ import annotations

import pytest

from tests.packet.nodes import EGRESS, LEGACY, REDIRECT, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Packet, Transport

Nodes = dict[str, Node]
NOT_ACKNOWLEDGED = 6
#: "Communication administratively prohibited": RFC 1812 5.2.7.1, RFC 4443 3.1.
PROHIBITED = {4: (3, 13), 6: (1, 1)}
NETWORKS = {4: "192.0.2.0/24", 6: "2001:db8:2::/64"}


@pytest.mark.parametrize("l4", [TCP(40000, 443, "S"), UDP(5000, 53), Echo(7)], ids=repr)
def test_a_new_connection_is_refused_and_its_pod_is_told(
    nodes: Nodes, family: int, l4: Transport
) -> None:
    a = nodes["a"]
    a.egress(NETWORKS[family], NOT_ACKNOWLEDGED)
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], l4)
    got = a.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NOT_ACKNOWLEDGED": 1})
    told = got.packet
    assert (told.source, told.destination) == (LEGACY[family], packet.source)
    assert isinstance(told.l4, Error)
    assert (told.l4.type, told.l4.code) == PROHIBITED[family]
    assert packet.ip().startswith(told.l4.quoted[:20])
    assert a.count(f"mg_nat_v{family}") == 0


def test_what_is_open_goes_on(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    client = a.plan.pods["client"][family]
    out = g.from_uplink(a.from_pod("client", Packet(client, LEGACY[family], UDP(5000, 53))).wire)
    back = g.from_uplink(out.packet.reply(UDP(53, out.packet.l4.source)))
    assert a.from_uplink(back.wire).dropped == {}
    a.egress(NETWORKS[family], NOT_ACKNOWLEDGED)
    again = a.from_pod("client", Packet(client, LEGACY[family], UDP(5000, 53)))
    assert again.dropped == {}
    assert again.overlay.inner.source == EGRESS[family]
    other = a.from_pod("client", Packet(client, LEGACY[family], UDP(5001, 53)))
    assert other.dropped == {"NOT_ACKNOWLEDGED": 1}


def test_a_later_row_lets_it_pass(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    client = a.plan.pods["client"][family]
    a.egress(NETWORKS[family], NOT_ACKNOWLEDGED)
    packet = Packet(client, LEGACY[family], TCP(40000, 443, "S"))
    assert a.from_pod("client", packet).dropped == {"NOT_ACKNOWLEDGED": 1}
    a.egress(NETWORKS[family], 1, EGRESS[family])
    assert a.from_pod("client", packet).overlay.inner.source == EGRESS[family]
