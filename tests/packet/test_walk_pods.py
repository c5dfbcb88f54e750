"""Pod to pod: on one node, across nodes, across clusters."""

from tests.packet.nodes import REDIRECT, Node
from tests.packet.packets import TCP, Overlay, Packet, broken_checksums


def test_pods_of_one_node_reach_each_other_by_redirect(nodes: dict[str, Node], family: int) -> None:
    a = nodes["a"]
    web, client = a.plan.pods["web"], a.plan.pods["client"]
    packet = Packet(client[family], web[family], TCP(40000, 80, "S"))
    got = a.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.packet == packet
    assert got.packet.mac == web.mac


def test_pods_of_two_nodes_reach_each_other_with_the_identity_in_the_vni(
    nodes: dict[str, Node], family: int
) -> None:
    a, b = nodes["a"], nodes["b"]
    client, web = a.plan.pods["client"], b.plan.pods["web"]
    packet = Packet(client[family], web[family], TCP(40000, 80, "S"))

    sent = a.from_pod("client", packet)
    assert sent.verdict == REDIRECT
    assert sent.overlay == Overlay("10.99.0.11", "10.99.0.12", client.identity, packet)
    assert broken_checksums(sent.wire) == []
    arrived = b.from_uplink(sent.wire)
    assert (arrived.verdict, arrived.dropped) == (REDIRECT, {})
    assert arrived.packet == packet

    answer = packet.reply(TCP(80, 40000, "SA"))
    back = b.from_pod("web", answer)
    assert back.overlay == Overlay("10.99.0.12", "10.99.0.11", web.identity, answer)
    home = a.from_uplink(back.wire)
    assert home.packet == answer
    assert [len(g.events) for g in (sent, arrived, back, home)] == [1, 1, 0, 0]
