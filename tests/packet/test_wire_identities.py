"""What nodes of other makes put on the wire: by egress address, then by source, then by VNI.

Node w of cluster 2 stands for a Cilium node: beside its pods it has a router, an address of its
host inside its pod CIDR.
"""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.packet.nodes import EGRESS, LEGACY, OK, PLANS, REDIRECT, SHOT, Got, Node, zoned
from tests.packet.packets import TCP, UDP, Error, Overlay, Packet

Nodes = dict[str, Node]

A, B, G, W = "10.99.0.11", "10.99.0.12", "10.99.0.13", "10.99.0.21"
HOST = {4: W, 6: "fd99::21"}
ROUTER = {4: "10.2.0.115", 6: "fd02::1243"}
LATE = {4: "10.2.0.99", 6: "fd02::99"}  # a pod whose row has not come yet
SECOND = {4: "10.2.1.7", 6: "fd02:0:0:1::7"}  # a pod of another node of cluster 2
OWN_HOST = {4: A, 6: "fd99::11"}
SIBLING = {4: B, 6: "fd99::12"}
POD_W, POD_B = PLANS["w"].pods["web"], PLANS["b"].pods["web"]
RESERVED = (4, 5, 6, 7, 8, 100, 107, 115)
NOBODYS = (0, 1, 3, 9, 10, 11, 99, 116, 255)


@pytest.fixture
def a(nodes: Nodes) -> Node:
    """Node a with the rows of a Cilium cluster's node."""
    node = nodes["a"]
    for texts, kind, endpoint, identity in (
        (ROUTER, 3, W, 6),
        (SECOND, 1, "10.99.0.22", 2 << 16 | 77),
    ):
        row = {"identity": identity, "node": int(IPv4Address(endpoint)), "kind": kind, "cluster": 2}
        for text in texts.values():
            node.maps["mg_address"].update_one(zoned(text), row)
    return node


def overlay(a: Node, vni: int, source: str, sender: str = W, flags: str = "S") -> Got:
    """A packet to pod web of node a."""
    web = a.plan.pods["web"][6 if ":" in source else 4]
    return a.from_uplink(Overlay(sender, A, vni, Packet(source, web, TCP(40000, 80, flags))))


def identities(got: Got) -> list[int]:
    return [int(event["source_identity"]) for event in got.events]


@pytest.mark.parametrize("vni", [2, *RESERVED])
def test_a_peers_host_is_a_remote_node_or_speaks_for_the_world(
    a: Node, family: int, vni: int
) -> None:
    for source in (HOST[family], ROUTER[family]):
        got = overlay(a, vni, source)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert identities(got) == [2 if vni == 2 else 6]


@pytest.mark.parametrize("vni", [POD_W.identity, 2 << 16 | 999, 2, *RESERVED])
def test_a_peers_pod_is_what_its_row_says(a: Node, family: int, vni: int) -> None:
    known, unknown = overlay(a, vni, POD_W[family]), overlay(a, vni, LATE[family])
    assert [known.verdict, unknown.verdict] == [REDIRECT, REDIRECT]
    assert (identities(known), identities(unknown)) == ([POD_W.identity], [0])


@pytest.mark.parametrize("vni", NOBODYS)
def test_other_reserved_identities_are_nobodys(a: Node, family: int, vni: int) -> None:
    for source in (HOST[family], ROUTER[family], POD_W[family], LATE[family]):
        got = overlay(a, vni, source)
        assert (got.verdict, got.dropped) == (SHOT, {"INVALID_IDENTITY": 1})


@pytest.mark.parametrize("vni", [2, *[each for each in RESERVED if each != 6], *NOBODYS])
def test_nodes_of_our_cluster_say_nothing_reserved_but_remote_node(
    a: Node, family: int, vni: int
) -> None:
    for source in (SIBLING[family], POD_B[family]):
        got = overlay(a, vni, source, B)
        assert (got.verdict, got.dropped) == (SHOT, {"INVALID_IDENTITY": 1})


@pytest.mark.parametrize("vni", [3 << 16 | 5, 1 << 16 | 5])
def test_identities_of_a_third_cluster_are_refused(a: Node, family: int, vni: int) -> None:
    for source in (HOST[family], POD_W[family], LATE[family]):
        got = overlay(a, vni, source)
        assert (got.verdict, got.dropped) == (SHOT, {"INVALID_CLUSTER_ID": 1})


@pytest.mark.parametrize("vni", [POD_W.identity, *RESERVED])
def test_a_source_that_is_not_the_senders_is_refused(a: Node, family: int, vni: int) -> None:
    """Also one inside the sender's pod CIDR whose row names another node."""
    inside = {4: "10.2.0.66", 6: "fd02::66"}[family]
    row = {"identity": 2 << 16 | 9, "node": int(IPv4Address("10.99.0.22")), "kind": 1, "cluster": 2}
    a.maps["mg_address"].update_one(zoned(inside), row)
    for source in (
        inside, SECOND[family], POD_B[family], SIBLING[family], OWN_HOST[family], LEGACY[family],
        a.plan.pods["client"][family],
    ):  # fmt: skip
        got = overlay(a, vni, source)
        assert (got.verdict, got.dropped) == (SHOT, {"INVALID_SOURCE_IP": 1}), source


def test_the_world_is_spoken_for_by_the_senders_own_hosts_only(a: Node, family: int) -> None:
    got = overlay(a, 2, LEGACY[family])
    assert (got.verdict, got.dropped) == (SHOT, {"NOT_FROM_GATEWAY": 1})
    got = overlay(a, 2, SECOND[family])
    assert (got.verdict, got.dropped) == (SHOT, {"INVALID_SOURCE_IP": 1})


def test_a_node_port_answers_with_its_pods_identity_and_opens_nothing(a: Node, family: int) -> None:
    """Cilium translates back first, and takes the identity of the pod that answers."""
    got = overlay(a, POD_W.identity, HOST[family])
    assert (got.verdict, got.dropped) == (SHOT, {"INVALID_SOURCE_IP": 1})
    web = a.plan.pods["web"]
    asked = Packet(web[family], HOST[family], TCP(40000, 31503, "S"))
    sent = a.from_pod("web", asked)
    assert (sent.verdict, sent.packet) == (OK, asked)  # a peer's host: natively
    answer = asked.reply(TCP(31503, 40000, "SA"))
    got = a.from_uplink(Overlay(W, A, POD_W.identity, answer))
    assert (got.verdict, got.packet, got.events) == (OK, answer, [])
    other = asked.reply(TCP(31504, 40000, "SA"))
    got = a.from_uplink(Overlay(W, A, POD_W.identity, other))
    assert got.dropped == {"INVALID_SOURCE_IP": 1}
    again = a.from_pod("web", Packet(web[family], HOST[family], TCP(40000, 31503, "A")))
    assert again.verdict == OK  # still natively: peers take nothing for their hosts


def test_the_way_back_to_a_router_is_the_overlay(a: Node, family: int) -> None:
    got = overlay(a, 6, ROUTER[family])
    answer = Packet(got.packet.destination, ROUTER[family], TCP(80, 40000, "SA"))
    back = a.from_pod("web", answer)
    assert back.overlay == Overlay(A, W, a.plan.pods["web"].identity, answer)
    assert back.events == []


def test_a_router_is_no_native_sender(a: Node, family: int) -> None:
    web = a.plan.pods["web"]
    got = a.from_uplink(Packet(ROUTER[family], web[family], TCP(40000, 80, "S")))
    assert got.dropped == {"INVALID_SOURCE_IP": 1}


@pytest.mark.parametrize("vni", [1 << 16 | 7, 6, 4, 0])
def test_to_an_egress_address_only_its_gateway_speaks(a: Node, family: int, vni: int) -> None:
    for sender, source in ((G, PLANS["g"].pods["web"][family]), (W, POD_W[family])):
        packet = Packet(source, EGRESS[family], TCP(443, 1800, "SA"))
        got = a.from_uplink(Overlay(sender, A, vni, packet))
        assert (got.verdict, got.dropped) == (SHOT, {"NOT_FROM_GATEWAY": 1})
    packet = Packet(HOST[family], EGRESS[family], TCP(443, 1800, "SA"))
    assert a.from_uplink(Overlay(W, A, 2, packet)).dropped == {"NOT_FROM_GATEWAY": 1}


def test_a_gateway_that_has_left_still_answers(a: Node, family: int) -> None:
    """For the 120 s that a block rests it accepts, though the address names it no more."""
    a.clear("mg_egress_addr")
    a.gateway(family, "g", sends=False, accepts=True)
    packet = Packet(LEGACY[family], EGRESS[family], TCP(443, 1800, "SA"))
    assert a.from_uplink(Overlay(G, A, 2, packet)).dropped == {"NO_NAT_MAPPING": 1}
    a.gateway(family, "g", sends=False, accepts=False)
    assert a.from_uplink(Overlay(G, A, 2, packet)).dropped == {"NOT_FROM_GATEWAY": 1}


def test_errors_about_a_pods_packets_come_in_its_name(a: Node, family: int) -> None:
    """A node answers for a pod that has gone, and for packets that are too big (VNI 6)."""
    web, gone = a.plan.pods["web"], {4: "10.1.1.99", 6: "fd01:0:0:1::99"}[family]
    for target in (gone, POD_B[family]):
        sent = Packet(web[family], target, UDP(40000, 53), b"12345678")
        a.from_pod("web", sent)
        error = Packet(target, web[family], Error({4: 3, 6: 1}[family], 1, sent.ip()))
        got = a.from_uplink(Overlay(B, A, 6, error))
        assert (got.verdict, got.dropped) == (REDIRECT, {}), target
    got = overlay(a, 6, POD_B[family], B)
    assert got.dropped == {"INVALID_SOURCE_IP": 1}
    got = overlay(a, 6, POD_B[family], B, flags="RA")
    assert (got.verdict, got.dropped) == (REDIRECT, {})


def test_a_new_pod_of_our_cluster_is_known_by_the_wire(a: Node, family: int) -> None:
    late = {4: "10.1.1.99", 6: "fd01:0:0:1::99"}[family]
    assert identities(overlay(a, 1 << 16 | 42, late, B)) == [1 << 16 | 42]
    assert identities(overlay(a, 1 << 16 | 42, POD_B[family], B)) == [POD_B.identity]


def test_a_drop_event_carries_the_sender(a: Node, family: int) -> None:
    for got in (
        overlay(a, 3, HOST[family]),
        overlay(a, 6, LEGACY[family]),
        overlay(a, 6, HOST[family], "10.99.0.77"),
    ):
        assert [e["verdict"] for e in got.events] == [2]
    senders = [
        int(overlay(a, vni, source, sender).events[0]["sender"])
        for vni, source, sender in ((3, HOST[family], W), (6, HOST[family], "10.99.0.77"))
    ]
    assert senders == [int(IPv4Address(W)), int(IPv4Address("10.99.0.77"))]
    native = a.from_pod("web", Packet(LEGACY[family], POD_B[family], UDP(1, 2)))
    assert [int(e["sender"]) for e in native.events] == [0]
