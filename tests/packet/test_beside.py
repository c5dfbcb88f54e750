"""Beside another CNI: what is not ours comes out byte for byte, and the next program is asked.

``beside`` is node a with ``cfg.beside``, which takes the overlay on 8473; ``nodes["a"]`` is the
same node as the CNI. What an egress policy or another cluster's address covers is ours, and both do
the same with it. ``ours`` below is a second opinion on which packet that is.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from os import getpid
from typing import ClassVar

import pytest

from tests.packet import test_guard as guard
from tests.packet import test_neighbours as neighbours
from tests.packet.nodes import (
    COVERED,
    EGRESS,
    EXCLUDED,
    LEGACY,
    PLANS,
    REDIRECT,
    SHOT,
    Got,
    Node,
    pinned_in,
    zoned,
)
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Overlay, Packet
from tests.packet.tenants import BLUE, IPIP, TENANT, front, inside, outer, srh, tenants
from tests.packet.tenants import HOST as VRF_HOST
from tests.packet.test_malformed import HEADER, lying, samples

Nodes = dict[str, Node]
NEXT = (1 << 32) - 1
PORT = 8473
CLIENT, WEB = PLANS["a"].pods["client"], PLANS["a"].pods["web"]
FAR, REMOTE = PLANS["b"].pods["web"], PLANS["w"].pods["web"]
A, B, W = (
    {4: PLANS[name].endpoint, 6: f"fd99::{PLANS[name].endpoint.rpartition('.')[2]}"}
    for name in ("a", "b", "w")
)
ELSEWHERE = {4: "203.0.113.5", 6: "2001:db8:5::5"}
OTHERS_PODS = {4: ip_network("10.2.0.0/24"), 6: ip_network("fd02::/64")}
#: What a packet may leave behind.
TRACES = ("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6", "mg_frag", "mg_used")


class Small(Node):
    """Its tables are read whole before and after each packet."""

    entries: ClassVar[Mapping[str, int]] = dict.fromkeys(TRACES[:4], 2048)


def make(loaded: Nodes, name: str, kind: type[Node] = Small) -> Iterator[Node]:
    with pinned_in(f"dpw-{getpid()}-{name}") as directory:
        node = kind(PLANS["a"], loaded["a"].space, directory, beside=1, overlay_port=PORT)
        yield node
        node.close()


@pytest.fixture(scope="module")
def loaded_beside(loaded: Nodes) -> Iterator[Node]:
    yield from make(loaded, "beside")


@pytest.fixture
def beside(nodes: Nodes, loaded_beside: Node) -> Node:
    assert nodes
    loaded_beside.reset()
    return loaded_beside


def traces(node: Node) -> list[bytes]:
    found = []
    for name in TRACES:
        keys, values = node.maps[name].dump()
        found.append(keys.tobytes() + values.tobytes())
    return found


def untouched(node: Node, run: Callable[[bytes], Got], packet: Packet | Overlay | bytes) -> None:
    """It comes out as it came, and nothing remembers it."""
    wire = packet if isinstance(packet, bytes) else packet.wire()
    before = traces(node)
    got = run(wire)
    assert (got.verdict, got.wire, got.dropped, got.events) == (NEXT, wire, {}, [])
    assert traces(node) == before


def sends(node: Node, pod: str) -> Callable[[bytes], Got]:
    return lambda wire: node.from_pod(pod, wire)


def arrives(node: Node) -> Callable[[bytes], Got]:
    return node.from_uplink


def enters(node: Node) -> Callable[[bytes], Got]:
    return lambda wire: node.to_pod("client", wire)


def leaves(node: Node) -> Callable[[bytes], Got]:
    return lambda wire: node.run("mg_to_uplink", wire, ifindex=node.devices["dpwup"])


def read(wire: bytes) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address] | None:
    """Source and destination of a frame whose IP header holds."""
    kind, body = struct.unpack_from("!H", wire, 12)[0], wire[14:]
    if kind == 0x0800 and len(body) >= 20 and body[0] >> 4 == 4:
        header, length = (body[0] & 15) * 4, int.from_bytes(body[2:4], "big")
        if 20 <= header <= length <= len(body):
            return ip_address(body[12:16]), ip_address(body[16:20])
    if kind == 0x86DD and len(body) >= 40 and body[0] >> 4 == 6:
        mapped = bytes(10) + b"\xff\xff"
        if 40 + int.from_bytes(body[4:6], "big") <= len(body) and mapped not in (
            body[8:20], body[24:36],
        ):  # fmt: skip
            return ip_address(body[8:24]), ip_address(body[24:40])
    return None


def ours(wire: bytes) -> bool:
    """Whether a frame of the pod ``client`` is."""
    ends = read(wire)
    if ends is None or str(ends[0]) not in CLIENT.addresses.values():
        return False
    to, family = ends[1], ends[1].version
    covered = to in ip_network(COVERED[family]) and to not in ip_network(EXCLUDED[family])
    return covered or to in OTHERS_PODS[family]


# What a pod sends

PODS: list[tuple[str, str, Callable[[int], Packet]]] = [
    ("to a pod of the node", "client", lambda f: Packet(CLIENT[f], WEB[f], TCP(1, 80, "S"))),
    ("to a pod of another node", "client", lambda f: Packet(CLIENT[f], FAR[f], TCP(1, 80, "S"))),
    ("an answer to it", "web", lambda f: Packet(WEB[f], FAR[f], TCP(80, 1, "SA"))),
    ("to its node", "client", lambda f: Packet(CLIENT[f], A[f], TCP(1, 10250, "S"))),
    ("to another node", "client", lambda f: Packet(CLIENT[f], B[f], UDP(1, 53))),
    ("to a node of another cluster", "client", lambda f: Packet(CLIENT[f], W[f], UDP(1, 53))),
    ("to the overlay of a node", "client", lambda f: Packet(CLIENT[f], B[f], UDP(1, 8472))),
    ("to ours", "client", lambda f: Packet(CLIENT[f], B[f], UDP(1, PORT))),
    ("to the world", "client", lambda f: Packet(CLIENT[f], ELSEWHERE[f], TCP(1, 80, "S"))),
    ("in the middle of a stream", "client", lambda f: Packet(CLIENT[f], ELSEWHERE[f], TCP(1, 80))),
    ("of a pod without a policy", "web", lambda f: Packet(WEB[f], LEGACY[f], TCP(1, 80, "S"))),
    (
        "excluded",
        "client",
        lambda f: Packet(
            CLIENT[f], {4: "192.0.2.200", 6: "2001:db8:2:8000::1"}[f], TCP(1, 80, "S")
        ),
    ),
    ("in another one's name", "client", lambda f: Packet(WEB[f], LEGACY[f], TCP(1, 80, "S"))),
    ("in nobody's name", "client", lambda f: Packet(ELSEWHERE[f], LEGACY[f], TCP(1, 80, "S"))),
    ("a ping", "client", lambda f: Packet(CLIENT[f], ELSEWHERE[f], Echo(7))),
    ("SCTP", "client", lambda f: Packet(CLIENT[f], FAR[f], Other(132), b"\0" * 16)),
    (
        "a first fragment",
        "client",
        lambda f: Packet(CLIENT[f], FAR[f], UDP(1, 2), b"x" * 64, df=False, more=True, id=3),
    ),
    (
        "a later fragment",
        "client",
        lambda f: Packet(CLIENT[f], FAR[f], Other(17), b"x" * 64, df=False, offset=72, id=9),
    ),
    (
        "an error about others",
        "client",
        lambda f: Packet(
            CLIENT[f],
            FAR[f],
            Error({4: 3, 6: 1}[f], 3, Packet(FAR[f], WEB[f], UDP(1, 2), b"x" * 8).ip()),
        ),
    ),
    ("too big", "client", lambda f: Packet(CLIENT[f], FAR[f], UDP(1, 2), b"x" * 1472)),
    ("at the end of its life", "client", lambda f: Packet(CLIENT[f], FAR[f], UDP(1, 2), ttl=1)),
    (
        "to a group",
        "client",
        lambda f: Packet(CLIENT[f], {4: "224.0.0.9", 6: "ff02::9"}[f], UDP(1, 2)),
    ),
]


@pytest.mark.parametrize(("pod", "packet"), [p[1:] for p in PODS], ids=[p[0] for p in PODS])
def test_what_a_pod_sends_elsewhere_is_not_ours(
    beside: Node, family: int, pod: str, packet: Callable[[int], Packet]
) -> None:
    untouched(beside, sends(beside, pod), packet(family))


@pytest.mark.parametrize("options", [b"\x83\x07\x04\x0a\x01\x01\x07\x00", b"\x01" * 8])
def test_a_source_route_is_not_ours(beside: Node, options: bytes) -> None:
    untouched(
        beside, sends(beside, "client"), Packet(CLIENT[4], FAR[4], UDP(1, 2), options=options)
    )


TALK = [*neighbours.PASSES, *neighbours.CLAIMS]


@pytest.mark.parametrize("packet", [row[1] for row in TALK], ids=[row[0] for row in TALK])
def test_what_a_pod_says_of_neighbours_is_not_ours(beside: Node, packet: Packet | bytes) -> None:
    """Nor when a policy covers whom it says it to: the other CNI's gateway may be anywhere."""
    beside.egress("::/0", 1, EGRESS[6])
    untouched(beside, sends(beside, "client"), packet)


@pytest.mark.parametrize("owner", [1, 2])
def test_the_address_of_a_service_is_whoevers_translates_it(
    beside: Node, family: int, owner: int
) -> None:
    """A policy for all of the world covers those, too. The owner is us, or a kube-proxy."""
    service = {4: "10.96.0.10", 6: "fd96::a"}[family]
    beside.egress({4: "0.0.0.0/0", 6: "::/0"}[family], 1, EGRESS[family])
    beside.maps["mg_service_ip"].update_one(zoned(service), owner)
    untouched(beside, sends(beside, "client"), Packet(CLIENT[family], service, UDP(1, 53)))
    untouched(beside, sends(beside, "client"), Packet(CLIENT[family], service, TCP(1, 53, "S")))


def test_any_packet_is_untouched_or_ours_as_in_whole(
    nodes: Nodes, beside: Node, family: int
) -> None:
    """Cut at every length, and with every byte changed."""
    a = nodes["a"]

    def same(wire: bytes) -> None:
        if not ours(wire):
            untouched(beside, sends(beside, "client"), wire)
            return
        got, whole = beside.from_pod("client", wire), a.from_pod("client", wire)
        assert (got.verdict, got.dropped) == (whole.verdict, whole.dropped), wire.hex()

    for packet in samples(nodes, family):
        wire = packet.wire()
        for length in range(14 + HEADER[family], len(wire)):
            same(wire[:length])
        for length in range(HEADER[family], len(packet.ip())):
            same(lying(packet, length))
        for at in range(12, min(len(wire), 14 + 64)):
            same(wire[:at] + bytes([wire[at] ^ 0x81]) + wire[at + 1 :])


OURS: list[tuple[str, Callable[[int], Packet]]] = [
    ("TCP to legacy", lambda f: Packet(CLIENT[f], LEGACY[f], TCP(40000, 443, "S"))),
    ("UDP to legacy", lambda f: Packet(CLIENT[f], LEGACY[f], UDP(5000, 53))),
    ("a ping", lambda f: Packet(CLIENT[f], LEGACY[f], Echo(77))),
    (
        "SCTP, which cannot be translated",
        lambda f: Packet(CLIENT[f], LEGACY[f], Other(132), b"\0" * 16),
    ),
    ("to a pod of another cluster", lambda f: Packet(CLIENT[f], REMOTE[f], TCP(40000, 80, "S"))),
    ("too big for the way", lambda f: Packet(CLIENT[f], REMOTE[f], UDP(1, 2), b"x" * 1472)),
    (
        "to a pod that is not known yet",
        lambda f: Packet(CLIENT[f], str(OTHERS_PODS[f][99]), TCP(40000, 80, "S")),
    ),
    (
        "a fragment",
        lambda f: Packet(CLIENT[f], LEGACY[f], UDP(5000, 53), b"x" * 64, df=False, more=True),
    ),
]


def seen(got: Got) -> tuple[object, ...]:
    """What became of it, but for the port that a translation has chosen."""
    if got.verdict != REDIRECT or got.wire[23] != 17:
        return got.verdict, got.dropped, len(got.events), got.wire[12:]
    sent = got.overlay
    inner = (
        sent.inner.but(l4=type(sent.inner.l4))
        if sent.inner.source in EGRESS.values()
        else sent.inner
    )
    return got.verdict, got.dropped, len(got.events), sent.destination, sent.to, sent.vni, inner


@pytest.mark.parametrize("packet", [row[1] for row in OURS], ids=[row[0] for row in OURS])
def test_what_is_ours_goes_as_in_whole(
    nodes: Nodes, beside: Node, family: int, packet: Callable[[int], Packet]
) -> None:
    made = packet(family)
    got = [seen(node.from_pod("client", made)) for node in (nodes["a"], beside)]
    assert got[0] == got[1]


def test_a_connection_keeps_its_translation_without_its_policy(beside: Node, family: int) -> None:
    packet = Packet(CLIENT[family], LEGACY[family], TCP(40000, 443, "S"))
    first = beside.from_pod("client", packet).overlay
    beside.clear("mg_egress")
    then = beside.from_pod("client", packet.but(l4=TCP(40000, 443, "A"))).overlay
    assert (then.inner.source, then.inner.l4.source) == (EGRESS[family], first.inner.l4.source)  # type: ignore[union-attr]
    untouched(beside, sends(beside, "client"), packet.but(l4=TCP(40001, 443, "S")))


# What comes in


def test_an_answer_comes_home_by_our_port(nodes: Nodes, beside: Node, family: int) -> None:
    packet = Packet(CLIENT[family], LEGACY[family], TCP(40000, 443, "S"))
    sent = beside.from_pod("client", packet).overlay
    assert nodes["g"].from_uplink(sent).packet.source == EGRESS[family]
    assert isinstance(sent.inner.l4, TCP)
    answer = sent.inner.reply(TCP(443, sent.inner.l4.source, "SA"))
    got = beside.from_uplink(Overlay(PLANS["g"].endpoint, A[4], 2, answer, to=PORT))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.packet == packet.reply(TCP(443, 40000, "SA"))


def test_another_cluster_comes_by_our_port(beside: Node, family: int) -> None:
    packet = Packet(REMOTE[family], CLIENT[family], TCP(40000, 80, "S"))
    got = beside.from_uplink(Overlay(W[4], A[4], REMOTE.identity, packet, to=PORT))
    assert (got.verdict, got.packet, got.dropped) == (REDIRECT, packet, {})
    back = beside.from_pod("client", packet.reply(TCP(80, 40000, "SA")))
    assert (back.overlay.destination, back.overlay.inner) == (
        W[4],
        packet.reply(TCP(80, 40000, "SA")),
    )


ARRIVALS: list[tuple[str, Callable[[int], Packet | Overlay]]] = [
    (
        "the other CNI's overlay",
        lambda f: Overlay(B[4], A[4], FAR.identity, Packet(FAR[f], CLIENT[f], TCP(1, 2, "S"))),
    ),
    ("to a pod", lambda f: Packet(FAR[f], CLIENT[f], TCP(1, 2, "S"))),
    ("of the world to a pod", lambda f: Packet(LEGACY[f], CLIENT[f], TCP(1, 2, "S"))),
    ("to the host", lambda f: Packet(ELSEWHERE[f], A[f], TCP(1, 22, "S"))),
    ("to a stranger", lambda f: Packet(ELSEWHERE[f], LEGACY[f], TCP(1, 22, "S"))),
    (
        "to an egress address of another node",
        lambda f: Packet(LEGACY[f], EGRESS[f], TCP(443, 2000, "SA")),
    ),
    (
        "a fragment to the host",
        lambda f: Packet(B[f], A[f], UDP(1, 8472), b"x" * 64, df=False, more=True),
    ),
    ("a later one", lambda f: Packet(B[f], A[f], Other(17), b"x" * 64, df=False, offset=72)),
]


@pytest.mark.parametrize("packet", [row[1] for row in ARRIVALS], ids=[row[0] for row in ARRIVALS])
def test_what_arrives_for_others_is_not_ours(
    beside: Node, family: int, packet: Callable[[int], Packet | Overlay]
) -> None:
    made = packet(family)
    untouched(beside, arrives(beside), made)
    wire = made.wire()
    for length in range(14 + HEADER[family if isinstance(made, Packet) else 4], len(wire)):
        untouched(beside, arrives(beside), wire[:length])


def test_arp_and_unknown_protocols_are_not_ours(beside: Node) -> None:
    for kind in (b"\x08\x06", b"\x88\xcc", b"\x81\x00"):
        frame = b"\2" * 12 + kind + b"\0" * 46
        for run in (arrives(beside), sends(beside, "client"), enters(beside), leaves(beside)):
            untouched(beside, run, frame)


@pytest.mark.parametrize(
    "packet", [row[1] for row in guard.FORGED], ids=[r[0] for r in guard.FORGED]
)
def test_what_leaves_to_the_other_cnis_overlay_is_not_ours(
    beside: Node, family: int, packet: Callable[[int], Packet]
) -> None:
    untouched(beside, leaves(beside), packet(family))


def test_only_ours_may_send_to_our_port(beside: Node, family: int) -> None:
    row = {"next_hop": int(IPv4Address(B[4])), "cluster": 1, "port": PORT}
    beside.maps["mg_node"].update_one(IPv4Address(B[4]).packed, row)
    assert leaves(beside)(Packet(A[family], B[family], UDP(1, PORT)).wire()).dropped == {
        "OVERLAY_PORT": 1
    }
    untouched(beside, leaves(beside), Packet(A[family], LEGACY[family], UDP(1, PORT)))


# What enters a pod, behind its own device


ENTRIES: list[tuple[str, Callable[[int], Packet]]] = [
    ("of a pod", lambda f: Packet(FAR[f], CLIENT[f], TCP(1, 2, "S"))),
    ("of its node", lambda f: Packet(A[f], CLIENT[f], TCP(1, 2, "S"))),
    ("of the world", lambda f: Packet(ELSEWHERE[f], CLIENT[f], UDP(1, 2))),
    ("to a pod without a policy", lambda f: Packet(LEGACY[f], WEB[f], TCP(1, 2, "S"))),
    ("to nobody we know", lambda f: Packet(LEGACY[f], ELSEWHERE[f], TCP(1, 2, "S"))),
    ("in the middle of a stream", lambda f: Packet(LEGACY[f], CLIENT[f], TCP(1, 2, "A"))),
    ("a reset", lambda f: Packet(LEGACY[f], CLIENT[f], TCP(1, 2, "R"))),
    (
        "a lost fragment",
        lambda f: Packet(LEGACY[f], CLIENT[f], Other(17), b"x" * 64, df=False, offset=72),
    ),
    (
        "an error",
        lambda f: Packet(
            LEGACY[f],
            CLIENT[f],
            Error({4: 3, 6: 1}[f], 1, Packet(CLIENT[f], LEGACY[f], UDP(1, 2), b"x" * 8).ip()),
        ),
    ),
]


@pytest.mark.parametrize("packet", [row[1] for row in ENTRIES], ids=[row[0] for row in ENTRIES])
def test_what_enters_a_pod_is_not_ours(
    beside: Node, family: int, packet: Callable[[int], Packet]
) -> None:
    untouched(beside, enters(beside), packet(family))
    wire = packet(family).wire()
    for length in range(14 + HEADER[family], len(wire)):
        untouched(beside, enters(beside), wire[:length])


@pytest.mark.parametrize(
    "l4",
    [
        (TCP(50000, 22, "S"), TCP(22, 50000, "SA")),
        (UDP(9, 53), UDP(53, 9)),
        (Echo(5), Echo(5, answer=True)),
    ],
)
def test_who_opens_to_a_pod_from_a_covered_network_is_answered_by_the_pod(
    beside: Node, family: int, l4: tuple[TCP | UDP | Echo, TCP | UDP | Echo]
) -> None:
    beside.declare("client", 53)
    asked = Packet(LEGACY[family], CLIENT[family], l4[0])
    got = enters(beside)(asked.wire())
    assert (got.verdict, got.packet, got.dropped) == (NEXT, asked, {})
    answer = asked.reply(l4[1])
    back = beside.from_pod("client", answer)
    assert (back.verdict, back.packet, back.dropped) == (NEXT, answer, {})


def test_who_answers_a_translated_connection_at_the_pods_address_forges(
    beside: Node, family: int
) -> None:
    beside.from_pod("client", Packet(CLIENT[family], LEGACY[family], TCP(40000, 443, "S")))
    forged = Packet(LEGACY[family], CLIENT[family], TCP(443, 40000, "SA"))
    assert enters(beside)(forged.wire()).dropped == {"NO_NAT_MAPPING": 1}


def test_a_pod_of_another_cluster_comes_by_the_overlay_only(beside: Node, family: int) -> None:
    forged = Packet(REMOTE[family], CLIENT[family], TCP(40000, 80, "S"))
    assert enters(beside)(forged.wire()).dropped == {"INVALID_SOURCE_IP": 1}


# A pod that becomes covered


def test_tcp_that_was_open_is_reset_on_both_sides(beside: Node, family: int) -> None:
    """The far end hears it from the other CNI, which knows by which address."""
    packet = Packet(CLIENT[family], LEGACY[family], TCP(40000, 443, "PA", 1000, 7000), b"question")
    got = beside.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (NEXT, {"MID_STREAM": 1})
    assert got.packet == packet.but(l4=TCP(40000, 443, "R", 1000), payload=b"")
    assert got.wire[:14] == packet.wire()[:14], "a bridge may be behind"
    again = beside.from_pod("client", packet)
    assert (again.verdict, again.dropped) == (SHOT, {"MID_STREAM": 1})
    opened = beside.from_pod("client", packet.but(l4=TCP(40000, 443, "S"), payload=b""))
    assert opened.overlay.inner.source == EGRESS[family]


def covered_since(node: Node, seconds: int) -> None:
    """The pod ran before it was covered, which is so many seconds of 2^30 ns ago."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 30
    row = {"ifindex": node.devices["dpw1"], "identity": CLIENT.identity, "egress_class": 1}
    row |= {"since": now - seconds}
    for address in CLIENT.addresses.values():
        node.maps["mg_pod_addr"].update_one(zoned(address), row)


def test_an_answer_of_before_opens_no_way_out_with_the_pods_address(
    beside: Node, family: int
) -> None:
    """The pod has asked before it was covered; the answer finds no entry, as a question would."""
    answer = Packet(LEGACY[family], CLIENT[family], UDP(53, 5000))
    covered_since(beside, 1)
    untouched(beside, enters(beside), answer)
    assert (
        beside.from_pod("client", answer.reply(UDP(5000, 53))).overlay.inner.source
        == EGRESS[family]
    )


def test_after_a_while_a_datagram_from_a_covered_network_is_a_question(
    beside: Node, family: int
) -> None:
    beside.declare("client", 5000)
    asked = Packet(LEGACY[family], CLIENT[family], UDP(53, 5000))
    covered_since(beside, 129)
    assert enters(beside)(asked.wire()).verdict == NEXT
    back = beside.from_pod("client", asked.reply(UDP(5000, 53)))
    assert (back.verdict, back.packet) == (NEXT, asked.reply(UDP(5000, 53)))


# Two generations of programs


def test_while_maps_migrate_the_other_generation_has_its_translations(
    beside: Node, loaded: Nodes, family: int
) -> None:
    """What neither has an entry of is nobody's, and stays untouched."""
    packet = Packet(CLIENT[family], LEGACY[family], TCP(40000, 443, "S"))
    for other in make(loaded, "other"):
        first = other.from_pod("client", packet).overlay
        other.clear("mg_egress")
        beside.clear("mg_egress")
        beside.maps["mg_handover"].update_one(5, other.programs["mg_from_pod"])
        beside.maps["mg_phase"].update_one(0, 2)  # HANDOVER_UNKNOWN
        try:
            got = beside.from_pod("client", packet.but(l4=TCP(40000, 443, "A")))
            assert got.overlay.inner.source == EGRESS[family]
            assert ports(got.overlay) == ports(first)
            for _, pod, make_packet in PODS:
                untouched(beside, sends(beside, pod), make_packet(family))
        finally:
            beside.maps["mg_phase"].update_one(0, 0)
            beside.maps["mg_handover"].delete_one(5)


def ports(overlay: Overlay) -> tuple[int, int]:
    assert isinstance(overlay.inner.l4, TCP)
    return overlay.inner.l4.source, overlay.inner.l4.destination


# Maps that are full


class Few(Node):
    entries: ClassVar[Mapping[str, int]] = {"mg_ct_v4": 64, "mg_ct_v6": 64}


def test_a_full_table_concerns_nobody_else(nodes: Nodes, loaded: Nodes, family: int) -> None:
    assert nodes
    for node in make(loaded, "few", Few):
        for number in range(100):
            got = node.from_pod(
                "client", Packet(CLIENT[family], LEGACY[family], UDP(10000 + number, 53))
            )
        assert got.dropped
        for _, pod, packet in PODS:
            untouched(node, sends(node, pod), packet(family))
        for _, entering in ENTRIES:
            untouched(node, enters(node), entering(family))
        for _, arriving in ARRIVALS:
            untouched(node, arrives(node), arriving(family))


def test_an_unknown_egress_class_is_ours_whatever_it_covers(beside: Node, family: int) -> None:
    beside.maps["mg_pod_addr"].update_one(
        zoned(CLIENT[family]),
        {
            "ifindex": beside.devices["dpw1"],
            "identity": CLIENT.identity,
            "egress_class": 0x7FFFFFFF,
        },
    )
    packet = Packet(CLIENT[family], ELSEWHERE[family], TCP(1, 80, "S"))
    assert beside.from_pod("client", packet).dropped == {"EGRESS_NO_ROOM": 1}


def test_a_tenants_pod_has_its_vrf_and_else_the_other_cni(beside: Node, family: int) -> None:
    tenants(beside)
    packet = Packet(TENANT[family], VRF_HOST[family], UDP(5000, 53), b"question")
    sent = beside.from_pod(BLUE.pod, packet)
    assert (sent.verdict, front(sent.wire).destination) == (REDIRECT, BLUE.far_sid)
    answer = outer(packet.reply(UDP(53, 5000), b"answer"), BLUE.sid)
    back = beside.from_uplink(answer)
    assert (back.verdict, back.dropped) == (REDIRECT, {})
    pod = beside.plan.pods[BLUE.pod]
    mesh = Packet(pod[family], FAR[family], UDP(1, 2))
    untouched(beside, sends(beside, BLUE.pod), mesh)
    leak = Packet(pod[family], VRF_HOST[family], UDP(1, 2))
    assert beside.from_pod(BLUE.pod, leak).dropped == {"VRF_SOURCE": 1}
    beside.clear("mg_vrf_dest")
    untouched(beside, sends(beside, BLUE.pod), leak)


@pytest.mark.parametrize("left", [None, 0, 1], ids=["no SRH", "SRH", "segments left"])
def test_a_pod_sends_nothing_to_the_sids_of_other_nodes(beside: Node, left: int | None) -> None:
    """The other CNI would give it the node's address, which those behind SIDs believe."""
    inside(beside, "fcbb:bb00::/32")
    pod = beside.plan.pods[BLUE.pod]
    inner = Packet(TENANT[4], VRF_HOST[4], UDP(1, 2))
    header = b"" if left is None else srh(IPIP, [BLUE.far_sid, BLUE.far_sid], left)
    got = beside.from_pod(BLUE.pod, outer(inner, BLUE.far_sid, header, source=pod[6]))
    assert got.dropped == {"INVALID_IPV6_EXTENSION" if left else "SRV6_DOMAIN": 1}
    tunnel = outer(inner, "2001:db8:9::1", source=pod[6])
    assert (beside.from_pod(BLUE.pod, tunnel).verdict, beside.count("mg_ct_v6")) == (NEXT, 0)
