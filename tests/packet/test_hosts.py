"""Hosts and pods of other nodes: by the overlay where no native route leads, both ways the same."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.packet.nodes import LEGACY, OK, REDIRECT, SHOT, Got, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Overlay, Packet, broken_checksums

Nodes = dict[str, Node]

A, B, W = "10.99.0.11", "10.99.0.12", "10.99.0.21"
HOST = {name: {4: f"10.99.0.{n}", 6: f"fd99::{n}"} for name, n in (("a", 11), ("b", 12), ("w", 21))}
FLAG = {4: 1, 6: 2}
CONTRACT = 4


def flags(node: Node, endpoint: str, value: int) -> None:
    """The flags of a node in the map of another one."""
    cluster = 2 if endpoint == W else 1
    row = {"next_hop": int(IPv4Address(endpoint)), "cluster": cluster, "flags": value}
    node.maps["mg_node"].update_one(IPv4Address(endpoint).packed, row)


def from_host(node: Node, packet: Packet | bytes) -> Got:
    return node.run("mg_to_vxlan", packet, ifindex=node.devices["dpwup"])


def connect(source: str, destination: str, flags: str = "S") -> Packet:
    return Packet(source, destination, TCP(40000, 80, flags))


@pytest.mark.parametrize("other", ["b", "w"])
def test_a_host_reaches_a_pod_and_gets_its_answer(nodes: Nodes, family: int, other: str) -> None:
    """The answer goes back by the overlay inside a cluster, natively between clusters."""
    a, far = nodes["a"], nodes[other]
    web, endpoint = far.plan.pods["web"], far.plan.endpoint
    packet = connect(HOST["a"][family], web[family])
    sent = from_host(a, packet)
    assert sent.verdict == REDIRECT
    assert sent.overlay == Overlay(A, endpoint, 6, packet)
    assert broken_checksums(sent.wire) == []
    arrived = far.from_uplink(sent.wire)
    assert (arrived.verdict, arrived.packet) == (REDIRECT, packet)
    assert [e["source_identity"] for e in arrived.events] == [6]

    answer = packet.reply(TCP(80, 40000, "SA"))
    back = far.from_pod("web", answer)
    if other == "w":
        assert (back.verdict, back.packet) == (OK, answer)
        return
    assert back.overlay == Overlay(B, A, web.identity, answer)
    home = a.from_uplink(back.wire)
    assert (home.verdict, home.packet, home.dropped) == (OK, answer, {})


def test_a_pod_reaches_a_host_by_the_overlay_where_no_native_route_leads(
    nodes: Nodes, family: int
) -> None:
    a, b = nodes["a"], nodes["b"]
    web = a.plan.pods["web"]
    packet = connect(web[family], HOST["b"][family])
    assert a.from_pod("web", packet).verdict == OK
    a.clear(f"mg_ct_v{family}")
    flags(a, B, FLAG[10 - family])  # of the other family
    assert a.from_pod("web", packet).verdict == OK
    a.clear(f"mg_ct_v{family}")
    flags(a, B, FLAG[family])
    sent = a.from_pod("web", packet)
    assert sent.overlay == Overlay(A, B, web.identity, packet)
    got = b.from_uplink(sent.wire)
    assert (got.verdict, got.packet, got.dropped) == (OK, packet, {})

    answer = packet.reply(TCP(80, 40000, "SA"))
    back = from_host(b, answer)
    assert back.overlay == Overlay(B, A, 6, answer)
    home = a.from_uplink(back.wire)
    assert (home.verdict, home.packet, home.events) == (REDIRECT, answer, [])
    again = a.from_pod("web", connect(web[family], HOST["b"][family], "A"))
    assert again.overlay.vni == web.identity


def test_a_pod_follows_the_way_of_the_hosts_packets(nodes: Nodes, family: int) -> None:
    """Where the two ends differ about the routes, the host's kernel decides."""
    a, web = nodes["a"], nodes["a"].plan.pods["web"]
    out = connect(web[family], HOST["b"][family], "A")
    answer = out.reply(TCP(80, 40000, "A"))

    def natively() -> bool:
        got = a.from_pod("web", out)
        assert got.dropped == {}
        return got.verdict == OK

    flags(a, B, FLAG[family])
    assert not natively()
    assert a.from_uplink(answer).verdict == OK  # natively
    assert natively()
    assert a.from_uplink(Overlay(B, A, 6, answer)).verdict == OK  # as the connection began
    assert not natively()
    flags(a, B, 0)
    assert not natively()
    assert a.from_uplink(answer).verdict == OK
    assert natively()


def test_a_host_that_opens_is_answered_the_way_it_came(nodes: Nodes, family: int) -> None:
    b, web = nodes["b"], nodes["b"].plan.pods["web"]
    packet = connect(HOST["a"][family], web[family])
    answer = packet.reply(TCP(80, 40000, "SA"))
    flags(b, A, FLAG[family])
    assert b.from_uplink(packet).verdict == OK
    assert b.from_pod("web", answer).verdict == OK
    b.clear(f"mg_ct_v{family}")
    flags(b, A, 0)
    assert b.from_uplink(Overlay(A, B, 6, packet)).verdict == REDIRECT
    assert b.from_pod("web", answer).overlay.destination == A


def test_the_overlay_gives_a_host_what_its_own_cluster_sends(nodes: Nodes, family: int) -> None:
    a, web = nodes["a"], nodes["b"].plan.pods["web"]
    host = HOST["a"][family]
    for vni, source in ((web.identity, web[family]), (6, HOST["b"][family])):
        packet = connect(source, host)
        got = a.from_uplink(Overlay(B, A, vni, packet))
        assert (got.verdict, got.packet, got.dropped) == (OK, packet, {})
    for vni, source, reason in (
        (web.identity, HOST["b"][family], "INVALID_SOURCE_IP"),
        (6, web[family], "INVALID_SOURCE_IP"),
        (web.identity, nodes["g"].plan.pods["web"][family], "INVALID_SOURCE_IP"),
        (web.identity, LEGACY[family], "INVALID_SOURCE_IP"),
        (1, HOST["b"][family], "INVALID_IDENTITY"),
    ):
        got = a.from_uplink(Overlay(B, A, vni, connect(source, host)))
        assert (got.verdict, got.dropped) == (SHOT, {reason: 1}), (vni, source)


def test_a_host_is_reached_by_the_addresses_of_its_node_object_only(
    nodes: Nodes, family: int
) -> None:
    a, web = nodes["a"], nodes["b"].plan.pods["web"]
    for other in (
        HOST["b"][family], LEGACY[family], {4: "10.1.0.99", 6: "fd01::99"}[family],
        {4: "127.0.0.1", 6: "::1"}[family], {4: "10.99.0.1", 6: "fd99::1"}[family],
    ):  # fmt: skip
        got = a.from_uplink(Overlay(B, A, web.identity, connect(web[family], other)))
        assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1}), other


def test_a_peer_reaches_a_host_only_by_contract(nodes: Nodes, family: int) -> None:
    a, web = nodes["a"], nodes["w"].plan.pods["web"]
    packets = [(web.identity, web[family]), (6, HOST["w"][family]), (2, HOST["w"][family])]
    for vni, source in packets:
        packet = connect(source, HOST["a"][family])
        flags(a, W, 0)
        got = a.from_uplink(Overlay(W, A, vni, packet))
        assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1})
        flags(a, W, CONTRACT)
        got = a.from_uplink(Overlay(W, A, vni, packet))
        assert (got.verdict, got.packet, got.dropped) == (OK, packet, {})


def test_by_contract_a_peers_host_and_our_pod_speak_by_the_overlay(
    nodes: Nodes, family: int
) -> None:
    """Both contracts say so: the host of w reaches a pod of a, and back, and the host of a."""
    a, w = nodes["a"], nodes["w"]
    web = a.plan.pods["web"]
    packet = connect(HOST["w"][family], web[family])
    answer = packet.reply(TCP(80, 40000, "SA"))
    sent = from_host(w, packet)
    assert a.from_uplink(sent.wire).verdict == REDIRECT
    assert a.from_pod("web", answer).verdict == OK  # natively: no contract
    a.clear(f"mg_ct_v{family}")
    flags(a, W, CONTRACT)
    assert a.from_uplink(sent.wire).verdict == REDIRECT
    back = a.from_pod("web", answer)
    assert back.overlay == Overlay(A, W, web.identity, answer)
    home = w.from_uplink(back.wire)
    assert (home.verdict, home.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1})
    flags(w, A, CONTRACT)
    home = w.from_uplink(back.wire)
    assert (home.verdict, home.packet, home.dropped) == (OK, answer, {})


def test_by_contract_a_pod_reaches_a_peers_host_by_the_overlay(nodes: Nodes, family: int) -> None:
    """Where no native route leads to that node's pods; its flags say so."""
    a, w = nodes["a"], nodes["w"]
    web = a.plan.pods["web"]
    packet = connect(web[family], HOST["w"][family])
    flags(a, W, FLAG[family])
    assert a.from_pod("web", packet).verdict == OK
    a.clear(f"mg_ct_v{family}")
    flags(a, W, FLAG[family] | CONTRACT)
    sent = a.from_pod("web", packet)
    assert sent.overlay == Overlay(A, W, web.identity, packet)
    flags(w, A, CONTRACT)
    assert w.from_uplink(sent.wire).packet == packet
    answer = packet.reply(TCP(80, 40000, "SA"))
    home = a.from_uplink(from_host(w, answer).wire)
    assert (home.verdict, home.packet) == (REDIRECT, answer)


def test_neighbour_discovery_does_not_cross_the_overlay_to_a_host(nodes: Nodes) -> None:
    packet = Packet(HOST["b"][6], HOST["a"][6], Other(58), bytes([136, 0]) + b"\0" * 22, ttl=255)
    got = nodes["a"].from_uplink(Overlay(B, A, 6, packet))
    assert got.dropped == {"INVALID_PACKET": 1}


def test_a_host_sends_into_the_overlay_by_its_own_addresses_only(nodes: Nodes, family: int) -> None:
    a, web = nodes["a"], nodes["b"].plan.pods["web"]
    for source in (
        LEGACY[family], HOST["b"][family], web[family],
        {4: "172.17.0.2", 6: "fd17::2"}[family],
    ):  # fmt: skip
        got = from_host(a, connect(source, web[family]))
        assert (got.verdict, got.dropped) == (SHOT, {"INVALID_SOURCE_IP": 1}), source


def test_a_host_sends_into_the_overlay_to_pods_of_other_nodes_only(
    nodes: Nodes, family: int
) -> None:
    a = nodes["a"]
    for to in (LEGACY[family], HOST["b"][family], a.plan.pods["web"][family]):
        got = from_host(a, connect(HOST["a"][family], to))
        assert (got.verdict, got.dropped) == (SHOT, {"UNKNOWN_L3_TARGET": 1}), to
    late = {4: "10.1.1.99", 6: "fd01:0:0:1::99"}[family]
    assert from_host(a, connect(HOST["a"][family], late)).overlay.destination == B


def test_what_concerns_the_link_is_left_to_the_device(nodes: Nodes) -> None:
    arp = b"\xff" * 6 + b"\x02" * 6 + b"\x08\x06" + b"\0" * 28
    listener = Packet("fe80::1", "ff02::16", Other(58), bytes([143, 0]) + b"\0" * 22)
    for packet in (arp, listener.wire()):
        got = from_host(nodes["a"], packet)
        assert (got.verdict, got.dropped) == (OK, {})


def test_a_packet_of_the_host_that_does_not_fit_is_answered(nodes: Nodes, family: int) -> None:
    a, web = nodes["a"], nodes["b"].plan.pods["web"]
    host = HOST["a"][family]
    packet = Packet(host, web[family], UDP(40000, 80), bytes(1450))
    got = from_host(a, packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
    assert (got.packet.source, got.packet.destination) == (web[family], host)
    assert isinstance(got.packet.l4, Error)
    assert got.packet.l4.value == 1450
    assert broken_checksums(got.wire) == []


def test_ping_passes_both_ways(nodes: Nodes, family: int) -> None:
    a, b = nodes["a"], nodes["b"]
    web = b.plan.pods["web"]
    ask = Packet(HOST["a"][family], web[family], Echo(7))
    assert b.from_uplink(from_host(a, ask).wire).packet == ask
    answer = ask.reply(Echo(7, answer=True))
    home = a.from_uplink(b.from_pod("web", answer).wire)
    assert (home.verdict, home.packet) == (OK, answer)


def test_only_the_own_host_is_the_host_to_a_pod(nodes: Nodes, family: int) -> None:
    """A node's packet that the kernel has forwarded to the pod is still a remote node's."""
    a, web = nodes["a"], nodes["a"].plan.pods["web"]
    for name, identity in (("a", 1), ("b", 6), ("w", 6)):
        got = a.to_pod("web", connect(HOST[name][family], web[family]))
        assert [e["source_identity"] for e in got.events] == [identity]
