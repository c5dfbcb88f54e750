"""Every refusal has a name: (what happens, packet in, reason)."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from bpf.testrun import run
from tests.packet.nodes import EGRESS, LEGACY, OK, REDIRECT, SHOT, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Overlay, Packet

Nodes = dict[str, Node]
Make = Callable[[Nodes, int], Any]


def pod(nodes: Nodes, name: str, family: int, role: str = "web") -> str:
    return nodes[name].plan.pods[role][family]


def open_tcp(source: str, destination: str) -> Packet:
    return Packet(source, destination, TCP(40000, 80, "S"))


FROM_POD: list[tuple[str, str, Make]] = [
    (
        "a pod uses another pod's address",
        "INVALID_SOURCE_IP",
        lambda n, f: open_tcp(pod(n, "a", f, "web"), pod(n, "b", f)),
    ),
    (
        "a pod uses an address of another node",
        "INVALID_SOURCE_IP",
        lambda n, f: open_tcp(pod(n, "b", f), pod(n, "a", f)),
    ),
    (
        "a pod uses the egress address",
        "INVALID_SOURCE_IP",
        lambda _, f: open_tcp(EGRESS[f], LEGACY[f]),
    ),
    (
        "a pod's address is not known yet",
        "ENDPOINT_NOT_READY",
        lambda _, f: open_tcp({4: "10.1.0.99", 6: "fd01::99"}[f], LEGACY[f]),
    ),
    (
        "a covered pod sends the middle of a connection",
        "MID_STREAM",
        lambda n, f: Packet(pod(n, "a", f, "client"), LEGACY[f], TCP(40000, 80, "A")),
    ),
    (
        "a covered pod answers what nobody asked",
        "MID_STREAM",
        lambda n, f: Packet(pod(n, "a", f, "client"), LEGACY[f], TCP(40000, 80, "SA")),
    ),
    (
        "a covered pod sends GRE",
        "NAT_UNSUPPORTED_PROTOCOL",
        lambda n, f: Packet(pod(n, "a", f, "client"), LEGACY[f], Other(47), b"\0" * 8),
    ),
    (
        "a covered pod sends SCTP",
        "NAT_UNSUPPORTED_PROTOCOL",
        lambda n, f: Packet(pod(n, "a", f, "client"), LEGACY[f], Other(132), b"\0" * 12),
    ),
    (
        "a covered pod sends an echo reply of no request",
        "NAT_UNSUPPORTED_PROTOCOL",
        lambda n, f: Packet(pod(n, "a", f, "client"), LEGACY[f], Echo(7, answer=True)),
    ),
    (
        "a covered pod sends another ICMP query",
        "NAT_UNSUPPORTED_PROTOCOL",
        lambda n, f: Packet(
            pod(n, "a", f, "client"),
            LEGACY[f],
            Other({4: 1, 6: 58}[f]),
            bytes([{4: 13, 6: 135}[f], 0]) + b"\0" * 18,
        ),
    ),
    (
        "a covered pod sends an ICMP error about a connection that is none",
        "NO_NAT_MAPPING",
        lambda n, f: Packet(
            pod(n, "a", f, "client"),
            LEGACY[f],
            Error(
                {4: 3, 6: 1}[f],
                1,
                Packet(LEGACY[f], pod(n, "a", f, "client"), UDP(53, 5000), b"12345678").ip(),
            ),
        ),
    ),
]


@pytest.mark.parametrize(
    ("reason", "make"), [r[1:] for r in FROM_POD], ids=[r[0] for r in FROM_POD]
)
def test_from_pod(nodes: Nodes, family: int, reason: str, make: Make) -> None:
    got = nodes["a"].from_pod("client", make(nodes, family))
    assert (got.verdict, got.dropped) == (SHOT, {reason: 1})
    assert [e["verdict"] for e in got.events] == [2]


@pytest.mark.parametrize(
    ("action", "reason"), [(3, "NO_EGRESS_GATEWAY"), (4, "NO_EGRESS_IP"), (5, "EGRESS_NO_ROOM")]
)
def test_a_policy_that_cannot_be_met(nodes: Nodes, family: int, action: int, reason: str) -> None:
    nodes["a"].egress({4: "203.0.113.0/24", 6: "2001:db8:77::/48"}[family], action)
    to = {4: "203.0.113.7", 6: "2001:db8:77::7"}[family]
    got = nodes["a"].from_pod("client", open_tcp(pod(nodes, "a", family, "client"), to))
    assert (got.verdict, got.dropped) == (SHOT, {reason: 1})


def test_a_policy_with_the_other_familys_address(nodes: Nodes, family: int) -> None:
    nodes["a"].egress({4: "203.0.113.0/24", 6: "2001:db8:77::/48"}[family], 1, EGRESS[10 - family])
    to = {4: "203.0.113.7", 6: "2001:db8:77::7"}[family]
    got = nodes["a"].from_pod("client", open_tcp(pod(nodes, "a", family, "client"), to))
    assert got.dropped == {"NO_EGRESS_IP": 1}


def test_a_node_without_a_block(nodes: Nodes, family: int) -> None:
    nodes["a"].clear("mg_own_block")
    got = nodes["a"].from_pod("client", open_tcp(pod(nodes, "a", family, "client"), LEGACY[family]))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_BLOCK": 1})
    assert nodes["a"].count(f"mg_nat_v{family}") == 0


def test_an_egress_address_without_a_gateway(nodes: Nodes, family: int) -> None:
    nodes["a"].clear("mg_egress_addr")
    got = nodes["a"].from_pod("client", open_tcp(pod(nodes, "a", family, "client"), LEGACY[family]))
    assert got.dropped == {"NO_EGRESS_GATEWAY": 1}


def test_another_node_that_is_not_known(nodes: Nodes, family: int) -> None:
    nodes["a"].clear("mg_node")
    got = nodes["a"].from_pod(
        "client", open_tcp(pod(nodes, "a", family, "client"), pod(nodes, "b", family))
    )
    assert got.dropped == {"NO_TUNNEL_ENDPOINT": 1}


A, B, G, W = "10.99.0.11", "10.99.0.12", "10.99.0.13", "10.99.0.21"
WEB_B = 1 << 16 | 1 << 8 | 7
OVERLAY: list[tuple[str, str, Make]] = [
    (
        "an unknown sender",
        "UNKNOWN_SENDER",
        lambda n, f: Overlay("10.99.0.77", A, WEB_B, open_tcp(pod(n, "b", f), pod(n, "a", f))),
    ),
    (
        "an identity of another cluster than the sender's",
        "INVALID_CLUSTER_ID",
        lambda n, f: Overlay(W, A, WEB_B, open_tcp(pod(n, "w", f), pod(n, "a", f))),
    ),
    (
        "the host's identity",
        "INVALID_IDENTITY",
        lambda n, f: Overlay(B, A, 1, open_tcp(pod(n, "b", f), pod(n, "a", f))),
    ),
    (
        "no identity",
        "INVALID_IDENTITY",
        lambda n, f: Overlay(B, A, 0, open_tcp(pod(n, "b", f), pod(n, "a", f))),
    ),
    (
        "a pod of another node than the sender",
        "INVALID_SOURCE_IP",
        lambda n, f: Overlay(B, A, WEB_B, open_tcp(pod(n, "g", f), pod(n, "a", f))),
    ),
    (
        "a pod of our own",
        "INVALID_SOURCE_IP",
        lambda n, f: Overlay(B, A, WEB_B, open_tcp(pod(n, "a", f, "client"), pod(n, "a", f))),
    ),
    (
        "a node's address with a pod's identity",
        "INVALID_SOURCE_IP",
        lambda n, f: Overlay(
            B, A, WEB_B, open_tcp({4: "10.99.0.12", 6: "fd99::12"}[f], pod(n, "a", f))
        ),
    ),
    (
        "a pod's address with a node's identity",
        "INVALID_SOURCE_IP",
        lambda n, f: Overlay(B, A, 6, open_tcp(pod(n, "b", f), pod(n, "a", f))),
    ),
    (
        "the world",
        "INVALID_SOURCE_IP",
        lambda n, f: Overlay(B, A, WEB_B, open_tcp(LEGACY[f], pod(n, "a", f))),
    ),
    (
        "to a pod that is not here",
        "UNKNOWN_L3_TARGET",
        lambda n, f: Overlay(
            B, A, WEB_B, open_tcp(pod(n, "b", f), {4: "10.1.0.99", 6: "fd01::99"}[f])
        ),
    ),
    (
        "the way back of egress from a node that is not the gateway",
        "NOT_FROM_GATEWAY",
        lambda _, f: Overlay(B, A, 2, Packet(LEGACY[f], EGRESS[f], TCP(443, 1800, "SA"))),
    ),
    (
        "the way back of egress to a pod",
        "NOT_FROM_GATEWAY",
        lambda n, f: Overlay(G, A, 2, Packet(LEGACY[f], pod(n, "a", f), TCP(443, 1800, "SA"))),
    ),
    (
        "a reply without a mapping",
        "NO_NAT_MAPPING",
        lambda _, f: Overlay(G, A, 2, Packet(LEGACY[f], EGRESS[f], TCP(443, 1800, "SA"))),
    ),
    (
        "the egress address, at a node that is not its gateway",
        "NO_EGRESS_GATEWAY",
        lambda _, f: Overlay(B, A, WEB_B, Packet(EGRESS[f], LEGACY[f], TCP(1800, 443, "S"))),
    ),
]


@pytest.mark.parametrize(("reason", "make"), [r[1:] for r in OVERLAY], ids=[r[0] for r in OVERLAY])
def test_from_the_overlay(nodes: Nodes, family: int, reason: str, make: Make) -> None:
    got = nodes["a"].from_uplink(make(nodes, family))
    assert (got.verdict, got.dropped) == (SHOT, {reason: 1})


GATEWAY: list[tuple[str, str, Make]] = [
    (
        "a port of another node's block",
        "BLOCK_NOT_OWNED",
        lambda _, f: Overlay(
            B, G, WEB_B, Packet(EGRESS[f], LEGACY[f], TCP(1024 + 3 * 256, 443, "S"))
        ),
    ),
    (
        "a port of nobody's block",
        "BLOCK_NOT_OWNED",
        lambda _, f: Overlay(B, G, WEB_B, Packet(EGRESS[f], LEGACY[f], TCP(60000, 443, "S"))),
    ),
    (
        "a port below all blocks",
        "BLOCK_NOT_OWNED",
        lambda _, f: Overlay(B, G, WEB_B, Packet(EGRESS[f], LEGACY[f], TCP(80, 443, "S"))),
    ),
    (
        "a protocol without ports",
        "BLOCK_NOT_OWNED",
        lambda _, f: Overlay(B, G, WEB_B, Packet(EGRESS[f], LEGACY[f], Other(47), b"\0" * 8)),
    ),
    (
        "from outside to a port of nobody's block",
        "BLOCK_NO_OWNER",
        lambda _, f: Packet(LEGACY[f], EGRESS[f], TCP(443, 60000, "SA")),
    ),
    (
        "from outside to a port below all blocks",
        "BLOCK_NO_OWNER",
        lambda _, f: Packet(LEGACY[f], EGRESS[f], TCP(443, 80, "S")),
    ),
    (
        "a ping from outside",
        "BLOCK_NO_OWNER",
        lambda _, f: Packet(LEGACY[f], EGRESS[f], Echo(2000)),
    ),
    (
        "from outside to a free port of our own block",
        "NO_NAT_MAPPING",
        lambda _, f: Packet(LEGACY[f], EGRESS[f], TCP(443, 1024 + 7 * 256, "S")),
    ),
    (
        "from outside with a pod's address",
        "INVALID_SOURCE_IP",
        lambda n, f: open_tcp(pod(n, "b", f), pod(n, "g", f)),
    ),
    (
        "from outside with an address of a pod CIDR",
        "INVALID_SOURCE_IP",
        lambda n, f: open_tcp({4: "10.1.1.99", 6: "fd01:0:0:1::99"}[f], pod(n, "g", f)),
    ),
]


@pytest.mark.parametrize(("reason", "make"), [r[1:] for r in GATEWAY], ids=[r[0] for r in GATEWAY])
def test_at_the_gateway(nodes: Nodes, family: int, reason: str, make: Make) -> None:
    got = nodes["g"].from_uplink(make(nodes, family))
    assert (got.verdict, got.dropped) == (SHOT, {reason: 1})


def test_a_pod_on_the_gateway_node_passes_the_same_check(nodes: Nodes, family: int) -> None:
    nodes["g"].block(family, 7, "a")
    got = nodes["g"].from_pod("client", open_tcp(pod(nodes, "g", family, "client"), LEGACY[family]))
    assert got.dropped == {"BLOCK_NOT_OWNED": 1}


PASS: list[tuple[str, Make]] = [
    ("to a node", lambda n, f: open_tcp(pod(n, "a", f), {4: "10.99.0.12", 6: "fd99::12"}[f])),
    ("to this node", lambda n, f: open_tcp(pod(n, "a", f), {4: "10.99.0.11", 6: "fd99::11"}[f])),
    ("to the world", lambda n, f: open_tcp(pod(n, "a", f), LEGACY[f])),
    (
        "to a pod address of this node that is free",
        lambda n, f: open_tcp(pod(n, "a", f), {4: "10.1.0.99", 6: "fd01::99"}[f]),
    ),
    (
        "to all of the link",
        lambda n, f: Packet(pod(n, "a", f), {4: "224.0.0.1", 6: "ff02::1"}[f], UDP(5353, 5353)),
    ),
]


@pytest.mark.parametrize("make", [r[1] for r in PASS], ids=[r[0] for r in PASS])
def test_the_stack_gets(nodes: Nodes, family: int, make: Make) -> None:
    packet = make(nodes, family)
    got = nodes["a"].from_pod("web", packet)
    assert (got.verdict, got.dropped, got.packet) == (OK, {}, packet)


@pytest.mark.parametrize("source", ["fe80::1", "::"])
def test_only_neighbours_may_use_link_local_sources(nodes: Nodes, source: str) -> None:
    packet = Packet(source, LEGACY[6], UDP(1, 2))
    assert nodes["a"].from_pod("client", packet).dropped == {"INVALID_SOURCE_IP": 1}


def test_other_traffic_of_the_host_is_left_alone(nodes: Nodes, family: int) -> None:
    """Also what no pod may send: other protocols, routing headers, odd ICMP."""
    a = nodes["a"]
    host = {4: "10.99.0.11", 6: "fd99::11"}[family]
    routing = bytes([6, 2, 4, 1]) + b"\0" * 4 + b"\0" * 16
    packets = [
        Packet(LEGACY[family], host, TCP(1, 22, "S")),
        Packet(LEGACY[family], host, Other(89), b"\0" * 4),
        Packet(LEGACY[family], host, Other({4: 1, 6: 58}[family]), b"\3"),
        Packet(EGRESS[family], LEGACY[family], UDP(1, 2)),
    ]
    if family == 6:
        packets.append(Packet(LEGACY[6], host, TCP(1, 22, "S"), options=routing, first=43))
    for packet in packets:
        got = a.from_uplink(packet)
        assert (got.verdict, got.dropped, got.wire) == (OK, {}, packet.wire())


def test_mapped_ipv4_addresses_are_none_on_the_wire(nodes: Nodes) -> None:
    for source, destination in (("::ffff:10.1.0.8", LEGACY[6]), (LEGACY[6], "::ffff:10.1.0.8")):
        packet = Packet(source, destination, UDP(1, 2))
        assert nodes["a"].from_pod("client", packet).dropped == {"INVALID_SOURCE_IP": 1}
        assert nodes["a"].from_uplink(packet).dropped == {"INVALID_SOURCE_IP": 1}


def test_a_routing_header_with_segments_left_is_refused(nodes: Nodes) -> None:
    routing = bytes([6, 2, 4, 1]) + b"\0" * 4 + b"\0" * 16
    source = nodes["a"].plan.pods["client"][6]
    packet = Packet(source, LEGACY[6], TCP(1, 22, "S"), options=routing, first=43)
    assert nodes["a"].from_pod("client", packet).dropped == {"INVALID_IPV6_EXTENSION": 1}


def test_drop_events_are_rate_limited_and_say_how_many_are_missing(nodes: Nodes) -> None:
    a = nodes["a"]
    packet = Packet("10.9.9.9", LEGACY[4], UDP(1, 2)).wire()
    program, device = a.programs["mg_from_pod"], a.devices[a.plan.pods["client"].device]
    sent = 3000  # more than two windows take
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})  # the limit is one per CPU
    try:
        burst = a.watch(lambda: run(program, packet, sent, {"ifindex": device}))
        events = burst.events
        deadline = time.monotonic() + 10
        while not events[-1]["lost"] and time.monotonic() < deadline:
            sent += 1
            events += a.from_pod("client", packet).events
    finally:
        os.sched_setaffinity(0, cpus)
    assert burst.dropped == {"INVALID_SOURCE_IP": 3000}
    assert len(burst.events) <= 2000
    assert sum(1 + int(event["lost"]) for event in events) == sent
    assert events[-1]["lost"]


def test_a_host_packet_to_a_pod_opens_a_connection(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    host = {4: "10.99.0.11", 6: "fd99::11"}[family]
    packet = open_tcp(host, pod(nodes, "a", family))
    got = a.to_pod("web", packet)
    assert (got.verdict, got.packet) == (OK, packet)
    assert [(e["source_identity"], e["point"]) for e in got.events] == [(1, 101)]
    answer = a.from_pod("web", packet.reply(TCP(80, 40000, "SA")))
    assert (answer.verdict, answer.events) == (OK, [])


def test_a_host_of_another_node_reaches_a_pod_by_the_overlay(nodes: Nodes, family: int) -> None:
    packet = open_tcp({4: "10.99.0.12", 6: "fd99::12"}[family], pod(nodes, "a", family))
    got = nodes["a"].from_uplink(Overlay(B, A, 6, packet))
    assert (got.verdict, got.packet) == (REDIRECT, packet)
