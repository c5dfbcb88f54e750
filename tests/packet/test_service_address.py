"""Packets to the address of a service: sockets get backends instead, so nothing answers them."""

from __future__ import annotations

import sys
from ipaddress import ip_address

import pytest

from mesh.core.address import encode_address
from tests.packet.nodes import EGRESS, LEGACY, OK, REDIRECT, SHOT, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Packet

Nodes = dict[str, Node]
Content = TCP | UDP | Echo

SERVICE = {4: "10.97.1.10", 6: "fd97:1::10"}
ASKED = [TCP(40000, 81, "S"), UDP(40000, 80, b"x"), Echo(7)]


#: enum service_owner.
OURS, PROXIED = 1, 2


def serve(node: Node, address: str, owner: int = OURS) -> None:
    value = owner.to_bytes(4, sys.byteorder)
    node.maps["mg_service_ip"].update_one(encode_address(ip_address(address)), value)


@pytest.mark.parametrize("content", ASKED, ids=["port", "protocol", "ping"])
def test_a_pod_hears_that_the_service_has_no_such_port(
    nodes: Nodes, family: int, content: Content
) -> None:
    a, web = nodes["a"], nodes["a"].plan.pods["web"]
    packet = Packet(web[family], SERVICE[family], content)
    assert a.from_pod("web", packet).verdict == OK  # before there is the service
    a.clear(f"mg_ct_v{family}")
    serve(a, SERVICE[family])
    got = a.from_pod("web", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_SERVICE": 1})
    error = got.packet
    assert (error.source, error.destination) == (SERVICE[family], web[family])
    assert isinstance(error.l4, Error)


def test_a_covered_pod_hears_it_too(nodes: Nodes, family: int) -> None:
    """No egress address is spent on it."""
    a, client = nodes["a"], nodes["a"].plan.pods["client"]
    serve(a, LEGACY[family])
    got = a.from_pod("client", Packet(client[family], LEGACY[family], TCP(40000, 81, "S")))
    assert got.dropped == {"NO_SERVICE": 1}
    assert got.verdict in (REDIRECT, SHOT)


@pytest.mark.parametrize("content", ASKED, ids=["port", "protocol", "ping"])
@pytest.mark.parametrize("pod", ["web", "client"])
def test_a_proxys_service_is_asked_through_the_stack_whatever_policy_covers_the_pod(
    nodes: Nodes, family: int, pod: str, content: Content
) -> None:
    a, source = nodes["a"], nodes["a"].plan.pods[pod]
    a.egress({4: "0.0.0.0/0", 6: "::/0"}[family], 1, EGRESS[family])
    serve(a, SERVICE[family], PROXIED)
    packet = Packet(source[family], SERVICE[family], content)
    got = a.from_pod(pod, packet)
    assert (got.verdict, got.dropped, got.wire) == (OK, {}, packet.wire())


def test_nor_does_a_policy_reset_what_a_proxys_service_answers(nodes: Nodes, family: int) -> None:
    a, client = nodes["a"], nodes["a"].plan.pods["client"]
    a.egress({4: "0.0.0.0/0", 6: "::/0"}[family], 1, EGRESS[family])
    serve(a, SERVICE[family], PROXIED)
    asked = Packet(client[family], SERVICE[family], TCP(40000, 80, "S"))
    assert a.from_pod("client", asked).dropped == {}
    for flags in ("SA", "PA"):
        answer = asked.reply(TCP(80, 40000, flags))
        got = a.to_pod("client", answer)
        assert (got.verdict, got.dropped, got.packet) == (OK, {}, answer)
    more = asked.but(l4=TCP(40000, 80, "PA"))
    assert a.from_pod("client", more).dropped == {}


# Of the host: its raw sockets, ping, and what it forwards for others than pods.

OWN = {4: "10.99.0.11", 6: "fd99::11"}
STRANGER = {4: "172.30.0.9", 6: "fd30::9"}
#: TCX_NEXT: the packet leaves.
NEXT = (1 << 32) - 1


@pytest.mark.parametrize("content", ASKED, ids=["port", "protocol", "ping"])
@pytest.mark.parametrize("masquerade", [False, True], ids=["plain", "masquerade"])
def test_the_host_hears_that_the_service_has_no_such_port(
    nodes: Nodes, family: int, content: Content, *, masquerade: bool
) -> None:
    a = nodes["a"]
    if masquerade:
        a.masquerade(family)
    packet = Packet(OWN[family], SERVICE[family], content)
    got = a.to_uplink(packet)
    assert (got.verdict, got.dropped) == (NEXT, {})  # before there is the service
    serve(a, SERVICE[family])
    got = a.to_uplink(packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_SERVICE": 1})
    error = got.packet
    assert (error.source, error.destination) == (SERVICE[family], OWN[family])
    assert isinstance(error.l4, Error)
    [event] = got.events
    assert (event["point"], event["source_identity"]) == (11, 1)


def test_errors_and_later_fragments_of_the_host_go_unanswered(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    serve(a, SERVICE[family])
    asked = Packet(SERVICE[family], OWN[family], UDP(9, 7), b"x")
    kind = {4: (3, 3), 6: (1, 4)}[family]
    error = Packet(OWN[family], SERVICE[family], Error(*kind, asked.wire()[14:]))
    later = Packet(OWN[family], SERVICE[family], Other(17), b"y" * 64, offset=64)
    for packet in (error, later):
        got = a.to_uplink(packet)
        assert (got.verdict, got.dropped) == (SHOT, {"NO_SERVICE": 1})


def test_what_the_host_forwards_for_others_stays_here_too(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    serve(a, SERVICE[family])
    got = a.to_uplink(Packet(STRANGER[family], SERVICE[family], TCP(40000, 81, "S")))
    assert got.dropped == {"NO_SERVICE": 1}
    assert got.verdict in (REDIRECT, SHOT)


def test_a_proxys_service_is_the_stacks_affair(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    serve(a, SERVICE[family], PROXIED)
    packet = Packet(OWN[family], SERVICE[family], TCP(40000, 80, "S"))
    got = a.to_uplink(packet)
    assert (got.verdict, got.dropped, got.wire) == (NEXT, {}, packet.wire())
