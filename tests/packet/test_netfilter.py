"""Netfilter sees both directions of a connection, or neither.

A proxy's rules change destinations in the stack: what the stack has had, it gets both ways.

    pod -> service -> (stack) -> pod of this node, or of another one
    pod <- service <- (stack) <-
"""

from __future__ import annotations

import pytest

from tests.packet.nodes import LEGACY, OK, REDIRECT, Got, Node
from tests.packet.packets import TCP, UDP, Error, Overlay, Packet
from tests.packet.test_hosts import FLAG, HOST
from tests.packet.test_hosts import flags as node_flags

Nodes = dict[str, Node]

NEXT = (1 << 32) - 1
CLUSTER_IP = {4: "10.96.0.10", 6: "fd96::10"}
NODE = {4: "10.99.0.11", 6: "fd99::11"}
A, B = "10.99.0.11", "10.99.0.12"


def to_vxlan(node: Node, packet: Packet) -> Got:
    """A host's route leads into the overlay; here its device is the uplink, too."""
    return node.run("mg_to_vxlan", packet, ifindex=node.devices["dpwup"])


def stacked(got: Got, packet: Packet) -> None:
    assert (got.verdict, got.dropped, got.packet) == (OK, {}, packet)


def asked(family: int, node: Node, to: str, flags: str = "S") -> Packet:
    return Packet(node.plan.pods["web"][family], to, TCP(40000, 80, flags))


def test_what_the_world_opens_natively_goes_through_the_stack_both_ways(
    nodes: Nodes, family: int
) -> None:
    a = nodes["a"]
    opening = Packet(LEGACY[family], a.plan.pods["web"][family], TCP(50000, 22, "S"))
    answer = opening.reply(TCP(22, 50000, "SA"))
    stacked(a.from_uplink(opening), opening)
    stacked(a.to_pod("web", opening), opening)
    stacked(a.from_pod("web", answer), answer)


def test_what_a_pod_opens_to_the_world_is_answered_through_the_stack(
    nodes: Nodes, family: int
) -> None:
    a = nodes["a"]
    packet = asked(family, a, LEGACY[family])
    answer = packet.reply(TCP(80, 40000, "SA"))
    stacked(a.from_pod("web", packet), packet)
    stacked(a.from_uplink(answer), answer)
    stacked(a.to_pod("web", answer), answer)


def test_a_service_with_a_backend_on_this_node(nodes: Nodes, family: int) -> None:
    """Both pods' packets meet the proxy's translation."""
    a = nodes["a"]
    backend = a.plan.pods["client"][family]
    asks = asked(family, a, CLUSTER_IP[family])
    translated = asks.but(destination=backend)
    stacked(a.from_pod("web", asks), asks)
    stacked(a.to_pod("client", translated), translated)
    for flags, back in (("SA", "A"), ("PA", "A"), ("FA", "FA")):
        answer = translated.reply(TCP(80, 40000, flags))
        stacked(a.from_pod("client", answer), answer)
        home = answer.but(source=CLUSTER_IP[family])
        stacked(a.to_pod("web", home), home)
        more = asks.but(l4=TCP(40000, 80, back))
        stacked(a.from_pod("web", more), more)
        stacked(a.to_pod("client", more.but(destination=backend)), more.but(destination=backend))


def test_a_service_whose_backend_asks_it(nodes: Nodes, family: int) -> None:
    """A proxy masquerades what would come back to its sender."""
    a = nodes["a"]
    web = a.plan.pods["web"][family]
    asks = asked(family, a, CLUSTER_IP[family])
    stacked(a.from_pod("web", asks), asks)
    hairpin = Packet(NODE[family], web, TCP(40000, 80, "S"))
    stacked(a.to_pod("web", hairpin), hairpin)
    answer = hairpin.reply(TCP(80, 40000, "SA"))
    stacked(a.from_pod("web", answer), answer)
    home = asks.reply(TCP(80, 40000, "SA"))
    stacked(a.to_pod("web", home), home)


@pytest.mark.parametrize("route", ["overlay", "native"])
def test_a_service_with_a_backend_on_another_node(nodes: Nodes, family: int, route: str) -> None:
    """The overlay carries the pod's identity, and the answer goes up to the proxy."""
    a, b = nodes["a"], nodes["b"]
    backend = b.plan.pods["web"][family]
    asks = asked(family, a, CLUSTER_IP[family])
    translated = asks.but(destination=backend)
    stacked(a.from_pod("web", asks), asks)
    sent = to_vxlan(a, translated) if route == "overlay" else a.to_uplink(translated)
    assert (sent.verdict, sent.dropped) == (REDIRECT, {})
    assert sent.overlay == Overlay(A, B, a.plan.pods["web"].identity, translated)
    arrived = b.from_uplink(sent.wire)
    assert (arrived.verdict, arrived.packet) == (REDIRECT, translated)
    answer = translated.reply(TCP(80, 40000, "SA"))
    back = b.from_pod("web", answer)
    assert back.overlay == Overlay(B, A, b.plan.pods["web"].identity, answer)
    stacked(a.from_uplink(back.wire), answer)
    home = answer.but(source=CLUSTER_IP[family])
    stacked(a.to_pod("web", home), home)


def test_a_service_with_a_backend_on_another_nodes_host(nodes: Nodes, family: int) -> None:
    """The API server is one. The host answers by the overlay, and the proxy must see that."""
    a, b = nodes["a"], nodes["b"]
    node_flags(a, B, FLAG[family])
    asks = asked(family, a, CLUSTER_IP[family])
    translated = asks.but(destination=HOST["b"][family])
    stacked(a.from_pod("web", asks), asks)
    for mine, others in (("S", "SA"), ("A", "PA"), ("FA", "FA")):
        sent = a.to_uplink(translated.but(l4=TCP(40000, 80, mine)))
        assert (sent.verdict, sent.dropped) == (REDIRECT, {})
        assert sent.overlay.vni == a.plan.pods["web"].identity
        stacked(b.from_uplink(sent.wire), translated.but(l4=TCP(40000, 80, mine)))
        answer = translated.reply(TCP(80, 40000, others))
        back = to_vxlan(b, answer)
        assert back.overlay == Overlay(B, A, 6, answer)
        stacked(a.from_uplink(back.wire), answer)
        home = answer.but(source=CLUSTER_IP[family])
        stacked(a.to_pod("web", home), home)


def test_what_the_proxy_does_not_touch_goes_by_redirect(nodes: Nodes, family: int) -> None:
    a, b = nodes["a"], nodes["b"]
    packet = asked(family, a, b.plan.pods["web"][family])
    sent = a.from_pod("web", packet)
    assert sent.overlay.inner == packet
    assert b.from_uplink(sent.wire).verdict == REDIRECT
    back = b.from_pod("web", packet.reply(TCP(80, 40000, "SA")))
    assert a.from_uplink(back.wire).verdict == REDIRECT


def test_a_connection_that_opens_anew_goes_its_own_way(nodes: Nodes, family: int) -> None:
    """The mark ends with the connection."""
    a, b = nodes["a"], nodes["b"]
    packet = asked(family, a, b.plan.pods["web"][family])
    to_vxlan(a, packet)
    a.from_uplink(Overlay(B, A, b.plan.pods["web"].identity, packet.reply(TCP(80, 40000, "RA"))))
    assert a.from_pod("web", packet).overlay.inner == packet
    back = Overlay(B, A, b.plan.pods["web"].identity, packet.reply(TCP(80, 40000, "SA")))
    assert a.from_uplink(back).verdict == REDIRECT


def test_a_row_that_comes_late_leads_to_the_overlay(nodes: Nodes, family: int) -> None:
    """The first datagram was for the world, as far as anybody knew."""
    a, b = nodes["a"], nodes["b"]
    web = b.plan.pods["web"]
    packet = Packet(a.plan.pods["web"][family], web[family], UDP(5000, 53))
    a.clear("mg_address")
    a.clear("mg_addr_cidr")
    stacked(a.from_pod("web", packet), packet)
    a.rows_of_nodes()
    assert a.from_pod("web", packet).overlay.inner == packet


def test_an_error_about_what_the_proxy_has_sent_goes_up_to_it(nodes: Nodes, family: int) -> None:
    """Too big for the overlay: the error quotes the backend's address, which the proxy knows."""
    a, b = nodes["a"], nodes["b"]
    backend = b.plan.pods["web"][family]
    big = asked(family, a, backend, "A").but(payload=b"x" * 1460)
    got = to_vxlan(a, big)
    assert got.dropped == {"FRAGMENTATION_NEEDED": 1}
    assert got.verdict == REDIRECT  # up, as if it had come by the overlay's device
    assert isinstance(got.packet.l4, Error)
    assert got.packet.destination == a.plan.pods["web"][family]


@pytest.mark.parametrize("flags", ["S", "A"])
def test_no_other_nodes_pod_is_spoken_for(nodes: Nodes, family: int, flags: str) -> None:
    a, b = nodes["a"], nodes["b"]
    far = b.plan.pods["client"][family]
    packet = Packet(far, b.plan.pods["web"][family], TCP(40000, 80, flags))
    assert to_vxlan(a, packet).dropped == {"INVALID_SOURCE_IP": 1}
