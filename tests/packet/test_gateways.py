"""An egress address with three gateways: b, g and w. The pod's node is a.

    a: client -> egress address --picks one of b, g, w for each connection--> legacy
    legacy -> whichever gateway the fabric chooses -> a

No gateway knows a connection, so a reply may come by another one than the packet left by.
"""

from collections import Counter
from ipaddress import IPv4Address

import pytest

from mesh.pods.rows import second
from tests.packet.nodes import EGRESS, LEGACY, PLANS, REDIRECT, Node, addr_value
from tests.packet.packets import TCP, UDP, Echo, Packet, Transport
from tests.packet.test_fragments import BODY, wires

Nodes = dict[str, Node]
GATEWAYS = ("b", "g", "w")
BY_ENDPOINT = {PLANS[name].endpoint: name for name in GATEWAYS}


@pytest.fixture
def three(nodes: Nodes, family: int) -> Nodes:
    for node in nodes.values():
        node.gateways(family, *GATEWAYS)
    return nodes


def send(nodes: Nodes, packet: Packet) -> tuple[str, Packet]:
    """The gateway that a picks, and the packet as legacy gets it from there."""
    sent = nodes["a"].from_pod("client", packet)
    assert (sent.verdict, sent.dropped) == (REDIRECT, {})
    name = BY_ENDPOINT[sent.overlay.destination]
    left = nodes[name].from_uplink(sent.wire)
    assert (left.verdict, left.dropped) == (REDIRECT, {})
    return name, left.packet


def source_port(packet: Packet) -> int:
    assert isinstance(packet.l4, TCP | UDP)
    return packet.l4.source


def seen_s(node: Node, family: int, name: str) -> int:
    """The second of the last packet of a gateway that has left; 0: none."""
    key = {"address": addr_value(EGRESS[family]), "node": int(IPv4Address(PLANS[name].endpoint))}
    row = node.maps["mg_gateway"].lookup(key)
    assert row is not None
    return int(row["seen"])


def test_connections_are_spread_and_each_stays(three: Nodes, family: int) -> None:
    client = three["a"].plan.pods["client"][family]
    picked = {}
    for port in range(5000, 5090):
        picked[port], seen = send(three, Packet(client, LEGACY[family], UDP(port, 53)))
        assert seen.source == EGRESS[family]
    assert set(picked.values()) == set(GATEWAYS)
    assert min(Counter(picked.values()).values()) > 15
    for port, name in picked.items():
        assert send(three, Packet(client, LEGACY[family], UDP(port, 53)))[0] == name


@pytest.mark.parametrize("names", [("b", "g"), GATEWAYS], ids=len)
@pytest.mark.parametrize("step", [1, 2])
def test_connections_to_one_port_are_spread_evenly(
    three: Nodes, family: int, names: tuple[str, ...], step: int
) -> None:
    """Linux takes every other port for its connections."""
    three["a"].gateways(family, *names)
    client = three["a"].plan.pods["client"][family]
    ports = range(40000, 40000 + 60 * step, step)
    sent = (Packet(client, LEGACY[family], UDP(port, 7711)) for port in ports)
    picked = Counter(three["a"].from_pod("client", one).overlay.destination for one in sent)
    assert len(picked) == len(names)
    assert min(picked.values()) > 60 // len(names) // 2


@pytest.mark.parametrize("by", GATEWAYS)
def test_a_reply_may_come_by_any_of_them(three: Nodes, family: int, by: str) -> None:
    client = three["a"].plan.pods["client"][family]
    _, seen = send(three, Packet(client, LEGACY[family], TCP(40000, 443, "S")))
    back = three[by].from_uplink(seen.reply(TCP(443, source_port(seen), "SA"), b"answer"))
    assert back.overlay.destination == "10.99.0.11"
    home = three["a"].from_uplink(back.wire)
    assert (home.verdict, home.dropped) == (REDIRECT, {})
    assert home.packet.destination == client


def test_a_node_that_is_no_gateway_may_not_reply(three: Nodes, family: int) -> None:
    a = three["a"]
    client = a.plan.pods["client"][family]
    _, seen = send(three, Packet(client, LEGACY[family], UDP(5000, 53)))
    back = three["g"].from_uplink(seen.reply(UDP(53, source_port(seen))))
    a.gateways(family, "b", "w")
    assert a.from_uplink(back.wire).dropped == {"NOT_FROM_GATEWAY": 1}


@pytest.mark.parametrize("l4", [UDP(5000, 53), Echo(77)], ids=str)
def test_all_pieces_of_a_datagram_go_to_one_gateway(
    three: Nodes, family: int, l4: Transport
) -> None:
    client = three["a"].plan.pods["client"][family]
    used = set()
    for number in range(40):
        parts = [
            part.but(id=number)
            for part in map(Packet.read, wires(Packet(client, LEGACY[family], l4, BODY)))
        ]
        ends = {three["a"].from_pod("client", part).overlay.destination for part in parts}
        assert len(ends) == 1
        used |= ends
    assert used == set(BY_ENDPOINT)


def test_a_gateway_that_has_left_is_not_picked_but_still_believed(
    three: Nodes, family: int
) -> None:
    a, g = three["a"], three["g"]
    client = a.plan.pods["client"][family]
    packets = [Packet(client, LEGACY[family], UDP(port, 53)) for port in range(5000, 5030)]
    seen = {packet: send(three, packet) for packet in packets}
    late = next(packet for packet in packets if seen[packet][0] == "g")
    sent = a.from_pod("client", late)
    for node in three.values():
        node.gateways(family, "b", "w")
        node.gateway(family, "g", sends=False, accepts=True)
    for packet in packets:
        name, left = send(three, packet)
        assert name != "g"
        assert left == seen[packet][1], "the translation is the connection's, not the gateway's"
    assert not seen_s(g, family, "g")
    assert g.from_uplink(sent.wire).dropped == {}, "what was on its way"
    assert 0 <= second() - seen_s(g, family, "g") <= 2, "it still carries"
    assert not seen_s(g, family, "b"), "of those that are in the set nobody needs to know"
    _, left = seen[late]
    back = g.from_uplink(left.reply(UDP(53, source_port(left))))
    assert a.from_uplink(back.wire).dropped == {}
    assert 0 <= second() - seen_s(a, family, "g") <= 2
    for node in three.values():
        node.gateway(family, "g", sends=False, accepts=False)
    assert g.from_uplink(sent.wire).dropped == {"NO_EGRESS_GATEWAY": 1}
    assert a.from_uplink(back.wire).dropped == {"NOT_FROM_GATEWAY": 1}


def test_a_gateways_own_pods_need_no_tunnel(three: Nodes, family: int) -> None:
    g = three["g"]
    client = g.plan.pods["client"][family]
    for port in range(5000, 5020):
        got = g.from_pod("client", Packet(client, LEGACY[family], UDP(port, 53)))
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert got.packet.source == EGRESS[family]
    for node in three.values():
        node.gateways(family, "b", "w")
        node.gateway(family, "g", sends=False, accepts=True)
    got = g.from_pod("client", Packet(client, LEGACY[family], UDP(6000, 53)))
    assert got.overlay.inner.source == EGRESS[family], "it has left, and others send for its pods"


def test_no_gateway_at_all(three: Nodes, family: int) -> None:
    a = three["a"]
    a.gateways(family)
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], UDP(5000, 53))
    assert a.from_pod("client", packet).dropped == {"NO_EGRESS_GATEWAY": 1}
    assert a.count(f"mg_nat_v{family}") == 0
