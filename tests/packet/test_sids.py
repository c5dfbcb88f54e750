"""What SRv6 packets for the SIDs of a node become: each behaviour, each flavour, each refusal."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from tests.packet.nodes import OK, REDIRECT, Node, addr, addr_value, zoned
from tests.packet.packets import TCP, UDP, Error, Other, Packet, broken_checksums
from tests.packet.tenants import (
    BLUE,
    ETHERNET,
    GREEN,
    HOST,
    IDENTITY,
    IN_IPV6,
    IPIP,
    NEXT_CSID,
    NODE,
    NOWHERE,
    PE,
    PSP,
    ROUTING,
    STRANGER,
    TENANT,
    TENANTS,
    USD,
    front,
    host,
    inner_of,
    inside,
    outer,
    sid,
    srh,
    tenants,
)

Nodes = dict[str, Node]
END, CSID, ADJACENT = "fcbb:bb00:1::", "fcbb:bb00:1::", "fcbb:bb00:1:e0a1::"
NEXT, LAST = "fcbb:bb00:20::", "fcbb:bb00:21:1::"
V4_HOP, V6_HOP = "10.99.0.77", "fd99::77"
BODY = b"answer"


@pytest.fixture
def node(nodes: Nodes) -> Node:
    tenants(nodes["a"])
    return nodes["a"]


def answer(family: int, to: str = "", **changes: object) -> Packet:
    """From a tenant's host to its pod."""
    l4 = UDP(53, 5000)
    return Packet(HOST[family], to or TENANT[family], l4, BODY, **changes)  # type: ignore[arg-type]


def number(family: int) -> int:
    return IPIP if family == 4 else IN_IPV6


# Into a VRF


@pytest.mark.parametrize("segments", [0, 1, 3], ids=["no SRH", "one segment", "three segments"])
def test_a_vrfs_sid_brings_its_packets_to_the_tenants_pod(
    node: Node, family: int, segments: int
) -> None:
    for tenant in TENANTS:
        way = ["fcbb:bb00:31::", "fcbb:bb00:32::", tenant.sid][3 - segments :]
        header = srh(number(family), way, 0) if segments else b""
        got = node.from_uplink(outer(answer(family), tenant.sid, header))
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert got.packet == answer(family)
        assert got.wire[:6] == node.plan.pods[tenant.pod].mac
        assert len(got.events) == 1
        assert got.events[0]["source_identity"] == tenant.identity
    assert node.count(f"mg_ct_v{family}") == 2


def test_a_question_and_its_answer_are_one_connection(node: Node, family: int) -> None:
    sent = node.from_pod(BLUE.pod, answer(family).reply(UDP(5000, 53)))
    assert sent.dropped == {}
    back = node.from_uplink(outer(answer(family), BLUE.sid))
    assert (back.dropped, back.events) == ({}, [])
    assert node.count(f"mg_ct_v{family}") == 1
    other = node.from_uplink(outer(answer(family), GREEN.sid))
    assert len(other.events) == 1, "of the other tenant it is a new one"


@pytest.mark.parametrize("behaviour", ["DT4", "DT6", "DT46"])
def test_a_behaviour_takes_its_family_only(node: Node, family: int, behaviour: str) -> None:
    sid(node, BLUE.sid, behaviour, vrf=BLUE.vrf)
    got = node.from_uplink(outer(answer(family), BLUE.sid))
    fits = behaviour in ("DT46", f"DT{family}")
    assert got.dropped == ({} if fits else {"SID_INNER": 1})


def test_what_is_no_ip_packet_is_refused(node: Node) -> None:
    frame = Packet(PE, BLUE.sid, Other(ETHERNET), bytes(60))
    assert node.from_uplink(frame).dropped == {"SID_INNER": 1}


def test_only_pods_of_the_vrf_are_reached(nodes: Nodes, node: Node, family: int) -> None:
    """Not the mesh, not the tenant's own hosts, not who is in no VRF."""
    cluster = node.plan.pods[BLUE.pod][family]
    for to in (NOWHERE[family], HOST[family], cluster, nodes["b"].plan.pods["web"][family]):
        got = node.from_uplink(outer(answer(family, to), BLUE.sid))
        assert got.dropped == {"UNKNOWN_L3_TARGET": 1}


def test_nobody_outside_has_the_address_of_a_pod_here(node: Node, family: int) -> None:
    forged = answer(family).but(source=TENANT[family])
    assert node.from_uplink(outer(forged, BLUE.sid)).dropped == {"INVALID_SOURCE_IP": 1}


def test_a_sid_that_is_released_goes_on_as_long_as_its_row_stays(node: Node, family: int) -> None:
    sid(node, "fcbb:bb00:1:e077::", "DT46", vrf=BLUE.vrf)
    for one in (BLUE.sid, "fcbb:bb00:1:e077::"):
        assert node.from_uplink(outer(answer(family), one)).dropped == {}


def test_bits_behind_the_function_do_not_count(node: Node, family: int) -> None:
    got = node.from_uplink(outer(answer(family), "fcbb:bb00:1:e007:1:777::1"))
    assert (got.verdict, got.packet) == (REDIRECT, answer(family))


def with_class(wire: bytes, traffic_class: int) -> bytes:
    return wire[:14] + struct.pack("!I", 6 << 28 | traffic_class << 20) + wire[18:]


def ecn_of(wire: bytes) -> int:
    return wire[15] & 3 if wire[14] >> 4 == 4 else wire[15] >> 4 & 3


@pytest.mark.parametrize(("inner", "left"), [(1, 3), (2, 3), (0, 0)], ids=["ECT1", "ECT0", "none"])
def test_what_a_router_says_of_congestion_goes_on_inside(
    node: Node, family: int, inner: int, left: int
) -> None:
    """RFC 6040 4.2."""
    packet = bytearray(answer(family).ip())
    if family == 4:
        packet[1] = inner
        packet[10:12] = struct.pack("!H", struct.unpack_from("!H", packet, 10)[0] - inner)
    else:
        packet[1] = inner << 4
    wire = outer(answer(family), BLUE.sid).wire()[:54] + bytes(packet)
    got = node.from_uplink(with_class(wire, 3))
    assert (got.dropped, ecn_of(got.wire)) == ({}, left)
    assert broken_checksums(got.wire) == []
    plain = node.from_uplink(with_class(wire, 0))
    assert ecn_of(plain.wire) == inner


# Who may send


def test_from_outside_the_sr_domain_nothing_reaches_a_sid(node: Node, family: int) -> None:
    for to in (BLUE.sid, END):
        sid(node, END, "END", function=16)
        got = node.from_uplink(outer(answer(family), to, source=STRANGER))
        assert got.dropped == {"SRV6_DOMAIN": 1}
    inside(node, "2001:db8:6::/48")
    assert node.from_uplink(outer(answer(family), BLUE.sid, source=STRANGER)).dropped == {}


def test_a_source_may_be_bound_to_an_uplink(node: Node, family: int) -> None:
    packet = outer(answer(family), BLUE.sid)
    inside(node, f"{PE}/128", ifindex=node.devices["dpw0"])
    assert node.from_uplink(packet).dropped == {"SRV6_DOMAIN": 1}
    inside(node, f"{PE}/128", ifindex=node.devices["dpwup"])
    assert node.from_uplink(packet).dropped == {}


def test_in_a_locator_of_ours_what_is_for_no_sid_is_dropped(node: Node, family: int) -> None:
    got = node.from_uplink(outer(answer(family), "fcbb:bb00:1:e099::"))
    assert got.dropped == {"NO_SID": 1}
    for l4 in (TCP(1, 2, "S"), Other(58)):
        said = Packet(PE, "fcbb:bb00:1::1", l4, b"\x80\0\0\0\0\0\0\0")
        assert node.from_uplink(said).verdict == OK, "an address of this host may be there"


def test_another_nodes_locator_is_the_stacks(node: Node, family: int) -> None:
    got = node.from_uplink(outer(answer(family), "fcbb:bb00:2:e007::"))
    assert (got.verdict, got.dropped) == (OK, {})


@pytest.mark.parametrize(
    ("says", "source", "known"),
    [
        ("own", NODE, True),
        ("own", PE, False),
        ("other cluster", NODE, False),
        ("reserved", NODE, False),
        ("nothing", NODE, False),
    ],
)
def test_an_argument_says_the_identity_only_from_a_node_of_its_cluster(
    node: Node, family: int, says: str, source: str, *, known: bool
) -> None:
    identity = {"own": 0x10099, "other cluster": 0x20099, "reserved": 2, "nothing": 0}[says]
    sid(node, BLUE.sid, "DT46", vrf=BLUE.vrf, flavours=IDENTITY, argument=24)
    inside(node, f"{NODE}/128", flags=1, cluster=1)
    raw = addr(BLUE.sid)[:8] + identity.to_bytes(3, "big") + bytes(5)
    to = ":".join(raw[at : at + 2].hex() for at in range(0, 16, 2))
    got = node.from_uplink(outer(answer(family), to, source=source))
    assert got.dropped == {}
    assert got.events[0]["source_identity"] == (identity if known else BLUE.identity)


# Broken headers


def broken(family: int, **changes: object) -> Packet:
    values: dict[str, object] = {"left": 0, **changes}
    header = srh(number(family), [BLUE.sid], **values)  # type: ignore[arg-type]
    return outer(answer(family), BLUE.sid, header)


BROKEN = {
    "flags": {"flags": 0x20},
    "an HMAC": {"tlvs": b"\x05\x06" + bytes(6)},
    "an HMAC behind padding": {"tlvs": b"\x04\x02\0\0\x00\x05\x01\0"},
    "a TLV that is cut": {"tlvs": b"\x7c\x40" + bytes(6)},
    "segments left at the last one": {"left": 1},
    "more segments left than there are": {"left": 7},
    "a last entry beyond its end": {"last": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_srh_that_nobody_can_go_by_is_dropped(node: Node, family: int, name: str) -> None:
    assert node.from_uplink(broken(family, **BROKEN[name])).dropped == {"SEGMENTS": 1}


def test_padding_in_an_srh_is_passed_over(node: Node, family: int) -> None:
    got = node.from_uplink(broken(family, tlvs=b"\x04\x06" + bytes(6)))
    assert (got.dropped, got.packet) == ({}, answer(family))


def test_another_routing_header_is_refused(node: Node, family: int) -> None:
    header = bytearray(srh(number(family), [BLUE.sid], 0))
    header[2] = 2
    got = node.from_uplink(outer(answer(family), BLUE.sid, bytes(header)))
    assert got.dropped == {"SEGMENTS": 1}


def test_headers_that_are_cut_are_refused(node: Node, family: int) -> None:
    whole = outer(answer(family), BLUE.sid, srh(number(family), [BLUE.sid], 0)).wire()
    for size in (56, 61, 70, 77):
        wire = bytearray(whole[:size])
        wire[18:20] = struct.pack("!H", size - 54)
        assert set(node.from_uplink(bytes(wire)).dropped) == {"SEGMENTS"}
    bare = outer(answer(family), BLUE.sid).wire()
    for size in (55, 60, 72):
        wire = bytearray(bare[:size])
        wire[18:20] = struct.pack("!H", size - 54)
        assert set(node.from_uplink(bytes(wire)).dropped) == {"INVALID_PACKET"}


def test_an_srh_may_stand_behind_options(node: Node, family: int) -> None:
    options = bytes([ROUTING, 0, 1, 4, 0, 0, 0, 0])
    header = options + srh(number(family), [BLUE.sid], 0)
    packet = outer(answer(family), BLUE.sid, header).but(first=60)
    assert node.from_uplink(packet).packet == answer(family)


# On the way: End, End.X, NEXT-C-SID


def passing(family: int, to: str, segments: Sequence[str], left: int, **changes: object) -> Packet:
    header = srh(number(family), segments, left)
    return outer(answer(family), to, header, **changes)


def test_end_sends_a_packet_on_to_its_next_segment(node: Node, family: int) -> None:
    sid(node, END, "END")
    got = node.from_uplink(passing(family, END, [END, NEXT, LAST], 2, ttl=9))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.wire[14:] == passing(family, NEXT, [END, NEXT, LAST], 1, ttl=8).wire()[14:]


def test_a_reduced_srh_has_one_segment_more_left_than_it_has(node: Node, family: int) -> None:
    sid(node, END, "END")
    got = node.from_uplink(passing(family, END, [NEXT, LAST], 2, ttl=9))
    assert got.wire[14:] == passing(family, NEXT, [NEXT, LAST], 1, ttl=8).wire()[14:]


@pytest.mark.parametrize("flavours", [0, PSP], ids=["plain", "PSP"])
def test_the_last_but_one_takes_the_srh_off_when_its_sid_says_so(
    node: Node, family: int, flavours: int
) -> None:
    sid(node, END, "END", flavours=flavours)
    got = node.from_uplink(passing(family, END, [END, LAST], 1, ttl=9))
    left = outer(answer(family), LAST, ttl=8)
    if not flavours:
        left = passing(family, LAST, [END, LAST], 0, ttl=8)
    assert (got.dropped, got.wire[14:]) == ({}, left.wire()[14:])
    early = node.from_uplink(passing(family, END, [END, NEXT, LAST], 2, ttl=9))
    assert early.wire[14:] == passing(family, NEXT, [END, NEXT, LAST], 1, ttl=8).wire()[14:]


@pytest.mark.parametrize("flavours", [0, PSP], ids=["plain", "PSP"])
def test_the_next_segment_may_be_here_as_well(node: Node, family: int, flavours: int) -> None:
    sid(node, END, "END", flavours=flavours)
    got = node.from_uplink(passing(family, END, [END, END, BLUE.sid], 2))
    assert (got.verdict, got.dropped, got.packet) == (REDIRECT, {}, answer(family))


def test_a_packet_does_not_turn_round_here_for_long(node: Node, family: int) -> None:
    sid(node, END, "END")
    got = node.from_uplink(passing(family, END, [END] * 8, 7))
    assert got.dropped == {"SEGMENTS": 1}


def test_end_x_goes_by_the_hop_that_its_row_names(node: Node, family: int) -> None:
    hop = {"ifindex": node.devices["dpw1"], "next_hop": addr_value(V6_HOP)}
    sid(node, ADJACENT, "END_X", **hop)
    got = node.from_uplink(passing(family, ADJACENT, [ADJACENT, "2001:db8:9::1"], 1, ttl=9))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert front(got.wire).destination == "2001:db8:9::1"


@pytest.mark.parametrize("behaviour", ["END", "END_X"])
def test_the_end_of_a_packet_is_opened_with_usd_only(
    node: Node, family: int, behaviour: str
) -> None:
    hop = {"ifindex": node.devices["dpw1"], "next_hop": addr_value(V6_HOP)}
    row = hop if behaviour == "END_X" else {}
    sid(node, ADJACENT, behaviour, **row)
    packet = outer(answer(family, ttl=9), ADJACENT)
    assert node.from_uplink(packet).dropped == {"SID_INNER": 1}
    sid(node, ADJACENT, behaviour, flavours=USD, **row)
    got = node.from_uplink(packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.packet == answer(family, ttl=8)
    assert broken_checksums(got.wire) == []


@pytest.mark.parametrize("sender", ["outside", "pod"])
def test_what_usd_opens_reaches_a_pod_as_any_packet_of_the_uplink(
    nodes: Nodes, node: Node, family: int, sender: str
) -> None:
    """By the host's route it would enter the pod in the name of whatever source it has."""
    sid(node, ADJACENT, "END", flavours=USD)
    pod, other = node.plan.pods["web"], nodes["b"].plan.pods["web"]
    source = HOST[family] if sender == "outside" else other[family]
    packet = Packet(source, pod[family], UDP(53, 5000), BODY)
    got = node.from_uplink(outer(packet, ADJACENT))
    if sender == "pod":
        assert got.dropped == {"INVALID_SOURCE_IP": 1}
        return
    assert (got.verdict, got.dropped, got.packet) == (OK, {}, packet)
    assert [event["destination_identity"] for event in got.events] == [pod.identity]
    plain = node.from_uplink(packet.but(l4=UDP(54, 5000)))
    assert [e["source_identity"] for e in got.events] == [
        e["source_identity"] for e in plain.events
    ]


def test_a_next_segment_that_is_a_pod_is_reached_as_by_the_uplink(node: Node) -> None:
    sid(node, END, "END", flavours=PSP)
    pod = node.plan.pods["web"]
    got = node.from_uplink(passing(6, END, [END, pod[6]], 1))
    assert (got.verdict, got.dropped) == (OK, {})
    assert [event["destination_identity"] for event in got.events] == [pod.identity]


def test_what_is_said_to_a_nodes_own_sid_is_the_hosts(node: Node) -> None:
    sid(node, END, "END")
    for to in (END, "fcbb:bb00:1::1"):
        sid(node, CSID, "END", flavours=NEXT_CSID, function=0)
        ping = Packet(PE, to, Other(58), b"\x80\0\0\0\0\0\0\0")
        assert (node.from_uplink(ping).verdict, node.from_uplink(ping).dropped) == (OK, {})


def test_a_packet_on_its_last_hop_is_not_passed_on(node: Node, family: int) -> None:
    sid(node, END, "END")
    got = node.from_uplink(passing(family, END, [END, LAST], 1, ttl=1))
    assert got.dropped == {"TTL_EXCEEDED": 1}
    told = Packet.read(got.wire)
    assert isinstance(told.l4, Error)
    assert (told.l4.type, told.destination) == (3, PE)


CONTAINER = "fcbb:bb00:1:20:21:1::"
MOVED = "fcbb:bb00:20:21:1::"


def test_a_csid_of_the_node_moves_up_what_stands_behind_it(node: Node, family: int) -> None:
    """RFC 9800 4.1: without an SRH, as many segments as one address holds."""
    sid(node, CSID, "END", flavours=NEXT_CSID, function=0)
    got = node.from_uplink(outer(answer(family), CONTAINER, ttl=9))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.wire[14:] == outer(answer(family), MOVED, ttl=8).wire()[14:]


def test_a_csid_of_an_adjacency_moves_up_both_parts(node: Node, family: int) -> None:
    hop = {"ifindex": node.devices["dpw1"], "next_hop": addr_value(V6_HOP)}
    sid(node, ADJACENT, "END_X", flavours=NEXT_CSID, **hop)
    got = node.from_uplink(outer(answer(family), "fcbb:bb00:1:e0a1:20:21::"))
    assert (got.verdict, front(got.wire).destination) == (REDIRECT, "fcbb:bb00:20:21::")


def test_the_last_csid_of_a_container_goes_by_the_srh(node: Node, family: int) -> None:
    sid(node, CSID, "END", flavours=NEXT_CSID | PSP, function=0)
    got = node.from_uplink(passing(family, CSID, [CSID, LAST], 1, ttl=9))
    assert got.wire[14:] == outer(answer(family), LAST, ttl=8).wire()[14:]


def test_csids_of_one_node_follow_each_other(node: Node, family: int) -> None:
    sid(node, CSID, "END", flavours=NEXT_CSID, function=0)
    sid(node, BLUE.sid, "DT46", vrf=BLUE.vrf, flavours=NEXT_CSID)
    twice = "fcbb:bb00:1:1:e007::"
    got = node.from_uplink(outer(answer(family), twice))
    assert (got.verdict, got.dropped, got.packet) == (REDIRECT, {}, answer(family))


def test_a_local_csid_without_a_row_goes_nowhere(node: Node, family: int) -> None:
    """Else a tenant's packets for a SID that is gone would leave by the default route."""
    sid(node, CSID, "END", flavours=NEXT_CSID, function=0)
    got = node.from_uplink(outer(answer(family), "fcbb:bb00:1:e0ff::"))
    assert got.dropped == {"NO_SID": 1}


def test_a_csid_that_leads_nowhere_here_is_no_sid(node: Node, family: int) -> None:
    sid(node, END, "END")
    got = node.from_uplink(passing(family, END, [END, "fcbb:bb00:1:e0ff::"], 1))
    assert got.dropped == {"NO_SID": 1}


# To a next hop: End.DX4, End.DX6


@pytest.mark.parametrize("behaviour", ["DX4", "DX6"])
def test_dx_hands_the_inner_packet_to_its_hop(node: Node, family: int, behaviour: str) -> None:
    hop = {"DX4": V4_HOP, "DX6": V6_HOP}[behaviour]
    row = {"ifindex": node.devices["dpw1"], "next_hop": addr_value(hop)}
    sid(node, ADJACENT, behaviour, **row)
    packet = outer(answer(family, ttl=9), ADJACENT, srh(number(family), [ADJACENT], 0))
    got = node.from_uplink(packet)
    if behaviour != f"DX{family}":
        assert got.dropped == {"SID_INNER": 1}
        return
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.packet == answer(family, ttl=8)
    assert broken_checksums(got.wire) == []


# Both ends


def test_a_packet_goes_from_a_tenants_pod_to_the_same_tenants_pod_of_another_node(
    nodes: Nodes, node: Node, family: int
) -> None:
    """What node a sends for a SID, the node of that SID brings to the pod with that address."""
    b = nodes["b"]
    tenants(b)
    inside(b, f"{NODE}/128")
    to = BLUE.far_sid
    b.maps["mg_sid_locator"].update_one(
        {"bits": 64, "addr": addr_value("fcbb:bb00:5::")},
        {"block": 40, "node": 24, "function": 16, "argument": 0},
    )
    for tenant in TENANTS:
        sid(b, tenant.far_sid, "DT46", vrf=tenant.vrf, block=40, node=24)
    packet = Packet("10.200.0.1", TENANT[4], TCP(40000, 80, "S"))
    if family == 6:
        packet = Packet("fd00:200::1", TENANT[6], TCP(40000, 80, "S"))
    # On node a the sender is a pod of blue with another address, and a route leads to b.
    pod = node.plan.pods[BLUE.pod]
    row = {"ifindex": node.devices[pod.device], "identity": pod.identity, "vrf": BLUE.vrf}
    node.maps["mg_vrf_pod"].update_one(zoned(packet.source, BLUE.vrf), row)
    node.maps["mg_vrf_pod"].delete_one(zoned(TENANT[family], BLUE.vrf))
    host(node, BLUE.vrf, TENANT[family], [BLUE.vrf])
    sent = node.from_pod(BLUE.pod, packet)
    assert (front(sent.wire).destination, inner_of(sent.wire).destination) == (to, TENANT[family])
    arrived = b.from_uplink(sent.wire)
    assert (arrived.verdict, arrived.dropped) == (REDIRECT, {})
    assert arrived.packet == packet.but(ttl=63)
