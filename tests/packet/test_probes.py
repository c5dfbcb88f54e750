"""Probes of gateways: made of the packets that go to them, sent back, judged; nobody else decides.

a: client -> egress address -> b, g or w -> legacy      the pod's node is a
a: a copy of the packet -> mg_to_vxlan -> probe -> b, g or w -> back -> a
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from os import getpid
from typing import Any

import pytest

from bpf import netns
from tests.packet.nodes import LEGACY, OK, PLANS, REDIRECT, SHOT, Node, pinned_in
from tests.packet.packets import TCP, UDP, Packet
from tests.packet.test_echo import frame
from tests.packet.test_gateways import GATEWAYS, send

Nodes = dict[str, Node]

MARK, PROBE, ANSWER = 0x6D677062, 2, 1
OUTER, INNER = 14, 14 + 50  # Ethernet header; headers up to the inner packet
MS = 1_000_000
#: enum probe_number
UNANSWERED, GOOD, HOLD_NS = 3, 5, 1000 * MS
SIZE = 100


@pytest.fixture
def judged(nodes: Nodes, family: int) -> Nodes:
    """All nodes know three gateways, and a judges them."""
    for node in nodes.values():
        node.gateways(family, *GATEWAYS)
    for name in GATEWAYS:
        live(nodes["a"], name)
    return nodes


def key(name: str) -> bytes:
    return IPv4Address(PLANS[name].endpoint).packed


def live(node: Node, name: str, **fields: int) -> None:
    """A row as the agent makes it, with what the datapath would have written."""
    node.maps["mg_gw_live"].update_one(key(name), fields)


def row(node: Node, name: str) -> Any:
    return node.maps["mg_gw_live"].lookup(key(name))


def down(node: Node, *names: str) -> None:
    """They have left their probes unanswered; the next packet finds it out."""
    for name in names:
        sent = time.monotonic_ns() - 300 * MS
        live(node, name, sent=sent, heard=1, asked=9, answered=9 - UNANSWERED, took=1)


def client(nodes: Nodes, family: int) -> str:
    return nodes["a"].plan.pods["client"][family]


def one(nodes: Nodes, family: int, port: int = 5000) -> Packet:
    return Packet(client(nodes, family), LEGACY[family], UDP(port, 53), b"secret of the pod" * 9)


def made(node: Node, packet: Packet, gateway: str, **ctx: object) -> bytes:
    """The probe that becomes of a copy of the packet."""
    word = int.from_bytes(key(gateway), "little")
    got = node.run(
        "mg_to_vxlan", packet, ifindex=node.devices["dpwup"], mark=MARK,
        cb=[word, 0, 0, 0, 0], **ctx,
    )  # fmt: skip
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    return got.wire


def answered(nodes: Nodes, gateway: str, probe: bytes) -> bytes:
    got = nodes[gateway].from_uplink(probe)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    return got.wire


def hear(node: Node, answer: bytes) -> None:
    got = node.from_uplink(answer)
    assert (got.verdict, got.dropped) == (OK, {})


# What becomes a probe


def test_one_packet_in_an_interval_becomes_a_probe_for_its_gateway(
    judged: Nodes, family: int
) -> None:
    a = judged["a"]
    name, _ = send(judged, one(judged, family))
    sent = int(row(a, name)["sent"])
    assert sent
    assert all(not int(row(a, other)["sent"]) for other in GATEWAYS if other != name)
    for _ in range(5):
        sent = time.monotonic_ns()
        live(a, name, sent=sent)
        send(judged, one(judged, family))
        if time.monotonic_ns() - sent < 90 * MS:  # else the machine has stalled
            assert int(row(a, name)["sent"]) == sent, "the first answers may take 100 ms"
    long_ago = time.monotonic_ns() - 110 * MS
    live(a, name, sent=long_ago)
    send(judged, one(judged, family))
    assert int(row(a, name)["sent"]) > long_ago


def test_the_interval_is_twice_what_answers_take_and_at_least_10_ms(
    judged: Nodes, family: int
) -> None:
    a = judged["a"]
    name, _ = send(judged, one(judged, family))
    for took_us, waited_ms, due in (
        (1, 9, False),
        (1, 11, True),
        (40_000, 79, False),
        (40_000, 99, True),
    ):
        sent = time.monotonic_ns() - waited_ms * MS
        live(a, name, sent=sent, heard=1, asked=1, answered=0, took=took_us)
        begun = time.monotonic_ns()
        send(judged, one(judged, family))
        if time.monotonic_ns() - begun < MS or due:  # else the machine has stalled
            assert (int(row(a, name)["sent"]) != sent) is due, (took_us, waited_ms)


@pytest.mark.parametrize("size", [0, 10, 1300])
@pytest.mark.parametrize("l4", [UDP(5000, 53), TCP(5000, 53, "S")], ids=str)
def test_a_probe_is_small_and_has_nothing_of_the_packet(
    judged: Nodes, family: int, l4: UDP | TCP, size: int
) -> None:
    a = judged["a"]
    wire = made(a, Packet(client(judged, family), LEGACY[family], l4, b"s" * size), "b")
    assert len(wire) == INNER + SIZE
    source, destination = wire[OUTER + 12 : OUTER + 16], wire[OUTER + 16 : OUTER + 20]
    assert (source, destination) == (key("a"), key("b"))
    port, flags, vni = struct.unpack_from("!H4xII", wire, OUTER + 22)
    assert (port, flags, vni >> 8) == (8472, 8 << 24, 6)
    assert wire[INNER - 2 : INNER] == b"\x88\xb5"
    kind, number, sent = struct.unpack_from("=B7xI4xQ", wire, INNER)
    assert (kind, number) == (PROBE, 1)
    assert 0 <= time.monotonic_ns() - sent < 1000 * MS
    assert not any(wire[INNER + 24 :])
    assert int(row(a, "b")["asked"]) == 1


def test_an_aggregate_becomes_a_probe_too(judged: Nodes, family: int) -> None:
    packet = Packet(client(judged, family), LEGACY[family], TCP(5000, 53, "A"), b"s" * 3000)
    wire = made(judged["a"], packet, "b", gso_segs=3, gso_size=1200)
    assert len(wire) == INNER + SIZE


def test_a_copy_for_a_node_that_is_no_gateway_goes_nowhere(judged: Nodes, family: int) -> None:
    a = judged["a"]
    a.maps["mg_gw_live"].delete_one(key("b"))
    word = int.from_bytes(key("b"), "little")
    got = a.run(
        "mg_to_vxlan", one(judged, family), ifindex=a.devices["dpwup"], mark=MARK,
        cb=[word, 0, 0, 0, 0],
    )  # fmt: skip
    assert (got.verdict, got.dropped) == (SHOT, {"NO_TUNNEL_ENDPOINT": 1})


def test_a_frame_of_the_agent_is_a_probe_unless_packets_go(judged: Nodes) -> None:
    a = judged["a"]
    asked = frame(PLANS["b"].endpoint, PROBE)
    got = a.run("mg_to_vxlan", asked, ifindex=a.devices["dpwup"])
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert struct.unpack_from("=B7xI", got.wire, 14) == (PROBE, 1)
    got = a.run("mg_to_vxlan", asked, ifindex=a.devices["dpwup"])
    assert (got.verdict, got.dropped) == (OK, {}), "the device drops it: there is one on its way"
    assert int(row(a, "b")["asked"]) == 1


# There and back


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_sends_a_probe_back_and_the_answer_is_heard(
    judged: Nodes, family: int, name: str
) -> None:
    """Node w is another cluster's."""
    a = judged["a"]
    hear(a, answered(judged, name, made(a, one(judged, family), name)))
    found = row(a, name)
    assert (int(found["asked"]), int(found["answered"])) == (1, 1)
    assert 0 < int(found["took"]) < 1_000_000
    assert int(found["heard"]) == int(found["since"])


def test_probes_do_not_share_the_rate_of_errors(judged: Nodes, family: int) -> None:
    probe = made(judged["a"], one(judged, family), "b")
    with node_b(judged, icmp_errors=0) as quiet:
        got = quiet.from_uplink(probe)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert got.wire[INNER] == ANSWER


@contextmanager
def node_b(nodes: Nodes, **config: object) -> Iterator[Node]:
    """Another node b, of another configuration."""
    space = nodes["b"].space
    with pinned_in(f"dpw-{getpid()}-probe") as directory, netns.enter(space):
        node = Node(PLANS["b"], space, directory, **config)
        try:
            yield node
        finally:
            node.close()


def test_an_answer_that_is_late_double_or_invented_says_nothing(judged: Nodes, family: int) -> None:
    a = judged["a"]
    answers = [answered(judged, "b", made(a, one(judged, family), "b")) for _ in range(3)]
    hear(a, answers[2])
    before = row(a, "b")
    invented = answers[2][: INNER + 8] + struct.pack("=I", 4) + answers[2][INNER + 12 :]
    for answer in (answers[0], answers[2], invented):
        hear(a, answer)
        assert (row(a, "b") == before).all()


# What follows


def spread(nodes: Nodes, family: int, ports: range = range(5000, 5060)) -> dict[int, str]:
    """The gateway of each flow."""
    return {port: send(nodes, one(nodes, family, port))[0] for port in ports}


def test_flows_of_a_dead_gateway_are_spread_and_all_others_stay(judged: Nodes, family: int) -> None:
    a = judged["a"]
    before = spread(judged, family)
    down(a, "g")
    after = spread(judged, family)
    moved = {port for port, name in before.items() if name == "g"}
    assert all(after[port] == before[port] for port in before.keys() - moved)
    assert set(Counter(after[port] for port in moved)) == {"b", "w"}
    assert spread(judged, family) == after, "each flow keeps its new gateway"
    found = row(a, "g")
    assert (int(found["state"]), int(found["downs"])) == (1, 1)
    assert int(found["since"])


def test_two_of_three_dead_leave_the_third(judged: Nodes, family: int) -> None:
    down(judged["a"], "g", "w")
    assert set(spread(judged, family).values()) == {"b"}


def test_a_gateway_is_down_only_after_the_third_probe_has_had_its_time(
    judged: Nodes, family: int
) -> None:
    a = judged["a"]
    name, _ = send(judged, one(judged, family))
    for unanswered, waited_ms in ((UNANSWERED, 5), (UNANSWERED - 1, 300)):
        sent = time.monotonic_ns() - waited_ms * MS
        live(a, name, sent=sent, heard=1, asked=9, answered=9 - unanswered, took=5000)
        begun = time.monotonic_ns()
        send(judged, one(judged, family))
        assert time.monotonic_ns() - begun > 4 * MS or not int(row(a, name)["state"])


def test_what_goes_to_a_dead_gateway_still_becomes_its_probes(judged: Nodes, family: int) -> None:
    a = judged["a"]
    name, _ = send(judged, one(judged, family))
    down(a, name)
    other, _ = send(judged, one(judged, family))
    assert other != name
    assert time.monotonic_ns() - int(row(a, name)["sent"]) < 200 * MS


def test_one_that_answers_again_gets_its_flows_back_after_a_while(
    judged: Nodes, family: int
) -> None:
    a = judged["a"]
    before = spread(judged, family)
    down(a, "g")
    spread(judged, family)
    for number in range(GOOD + 2):
        hear(a, answered(judged, "g", made(a, one(judged, family), "g")))
        assert int(row(a, "g")["state"]) == 1, f"answer {number} is too early"
    found = {
        name: int(row(a, "g")[name]) for name in ("sent", "asked", "answered", "good", "state")
    }
    live(a, "g", **found, since=time.monotonic_ns() - HOLD_NS)
    hear(a, answered(judged, "g", made(a, one(judged, family), "g")))
    assert int(row(a, "g")["state"]) == 0
    assert spread(judged, family) == before


def test_when_none_lives_packets_are_dropped_and_connections_go_on_later(
    judged: Nodes, family: int
) -> None:
    a = judged["a"]
    packet = one(judged, family)
    name, seen = send(judged, packet)
    down(a, *GATEWAYS)
    for port in (5000, 5001):
        got = a.from_pod("client", one(judged, family, port))
        assert (got.verdict, got.dropped) == (SHOT, {"NO_EGRESS_GATEWAY": 1})
    spread_over = {one_: row(a, one_) for one_ in GATEWAYS}
    other = next(one_ for one_ in GATEWAYS if one_ != name)
    for one_ in GATEWAYS:
        if not int(spread_over[one_]["state"]):
            live(a, one_, sent=time.monotonic_ns(), heard=1, state=1, asked=9, answered=6)
    hear(a, answered(judged, other, made(a, packet, other)))
    assert send(judged, packet) == (other, seen), (
        "the first answer is enough when there is no other"
    )


def test_one_that_has_never_answered_gets_packets_when_no_other_lives(
    judged: Nodes, family: int
) -> None:
    """It may be of a version that knows no probes."""
    a = judged["a"]
    never = {"sent": time.monotonic_ns() - 300 * MS, "asked": 9, "answered": 0}
    for name in GATEWAYS:
        live(a, name, **never)
    assert set(spread(judged, family).values()) == set(GATEWAYS)
    live(a, "g", sent=time.monotonic_ns(), heard=1, asked=9, answered=9, took=1)
    assert set(spread(judged, family).values()) == {"g"}
    down(a, "g")
    assert set(spread(judged, family).values()) == {"b", "w"}


def test_tcp_is_not_reset_while_no_gateway_lives(judged: Nodes, family: int) -> None:
    a = judged["a"]
    syn = Packet(client(judged, family), LEGACY[family], TCP(5000, 443, "S"))
    send(judged, syn)
    for name in GATEWAYS:
        live(a, name, sent=time.monotonic_ns(), heard=1, state=1, asked=9, answered=6)
    got = a.from_pod("client", Packet(syn.source, syn.destination, TCP(5000, 443, "A"), b"x"))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_EGRESS_GATEWAY": 1})
    a.clear("mg_gw_live")
    _, seen = send(judged, Packet(syn.source, syn.destination, TCP(5000, 443, "A"), b"x"))
    assert seen.payload == b"x"


def test_the_only_gateway_of_an_address_is_judged_too(judged: Nodes, family: int) -> None:
    a = judged["a"]
    a.gateways(family, "g")
    down(a, "g")
    got = a.from_pod("client", one(judged, family))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_EGRESS_GATEWAY": 1})
