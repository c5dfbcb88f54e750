"""What pods in VRFs send: two tenants on one node, with the same addresses (tenants.py)."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.packet.nodes import LEGACY, OK, REDIRECT, Node, addr, addr_value, ip, text_of, zoned
from tests.packet.packets import TCP, UDP, Echo, Error, Other, Packet, Transport, broken_checksums
from tests.packet.tenants import (
    BLUE,
    GREEN,
    HOST,
    IN_IPV6,
    IPIP,
    NEIGHBOUR,
    NETWORK,
    NODE,
    NOWHERE,
    ROUTER,
    ROUTING,
    TENANT,
    TENANTS,
    Front,
    destination,
    front,
    host,
    in_vrf,
    inner_of,
    inside,
    outer,
    prefix,
    srh,
    tenants,
    via,
)

Nodes = dict[str, Node]
UNREACHABLE = {4: (3, 0), 6: (1, 0)}


@pytest.fixture
def node(nodes: Nodes) -> Node:
    tenants(nodes["a"])
    return nodes["a"]


def question(family: int, to: str = "", l4: Transport | None = None, **changes: object) -> Packet:
    return Packet(TENANT[family], to or HOST[family], l4 or UDP(5000, 53), b"hi", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("l4", [TCP(40000, 80, "S"), UDP(5000, 53), Echo(77), Other(132)], ids=str)
def test_each_tenants_packet_leaves_for_its_own_sid(node: Node, family: int, l4: Transport) -> None:
    """H.Encaps.Red with one segment has no SRH; one hop of the packet has gone."""
    packet = question(family, l4=l4, ttl=33)
    for tenant in TENANTS:
        got = node.from_pod(tenant.pod, packet)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        seen = front(got.wire)
        assert (seen.source, seen.destination) == (NODE, tenant.far_sid)
        assert (seen.next, seen.hop_limit) == (IPIP if family == 4 else IN_IPV6, 64)
        assert seen.payload == len(packet.ip())
        assert inner_of(got.wire) == packet.but(ttl=32)
        assert broken_checksums(got.wire[:14] + got.wire[54:]) == []
    assert node.count(f"mg_ct_v{family}") == 2, "each tenant has a connection of its own"


def test_a_host_row_decides_before_a_prefix(node: Node, family: int) -> None:
    via(node, 71, ["fcbb:bb00:9:1::"])
    host(node, BLUE.vrf, HOST[family], [71])
    near = node.from_pod(BLUE.pod, question(family, NEIGHBOUR[family]))
    assert front(near.wire).destination == BLUE.far_sid
    assert front(node.from_pod(BLUE.pod, question(family)).wire).destination == "fcbb:bb00:9:1::"


@pytest.mark.parametrize("longer", [False, True], ids=["equal", "longer"])
def test_of_equal_prefixes_etcd_decides_and_a_longer_one_before_it(
    node: Node, family: int, *, longer: bool
) -> None:
    via(node, 71, ["fcbb:bb00:9:1::"], bgp=True)
    cidr = {4: "10.101.3.0/28", 6: "fd00:101::/124"}[family] if longer else NETWORK[family]
    prefix(node, BLUE.vrf, cidr, [71], bgp=True)
    got = node.from_pod(BLUE.pod, question(family, NEIGHBOUR[family]))
    assert front(got.wire).destination == ("fcbb:bb00:9:1::" if longer else BLUE.far_sid)


def test_a_route_by_bgp_alone_is_enough(node: Node, family: int) -> None:
    via(node, 71, ["fcbb:bb00:9:1::"], bgp=True)
    host(node, BLUE.vrf, NOWHERE[family], [71], bgp=True)
    got = node.from_pod(BLUE.pod, question(family, NOWHERE[family]))
    assert front(got.wire).destination == "fcbb:bb00:9:1::"


def test_a_default_route_of_one_family_holds_nothing_of_the_other(node: Node) -> None:
    prefix(node, BLUE.vrf, "::/0", [BLUE.vrf])
    six = node.from_pod(BLUE.pod, question(6, NOWHERE[6]))
    assert front(six.wire).destination == BLUE.far_sid
    four = node.from_pod(BLUE.pod, question(4, NOWHERE[4]))
    assert four.dropped == {"NO_VRF_ROUTE": 1}


def check_told(wire: bytes, packet: Packet, kind: tuple[int, int]) -> None:
    """The pod hears, in the name of where it sent to."""
    told = Packet.read(wire)
    assert isinstance(told.l4, Error)
    assert (told.l4.type, told.l4.code) == kind
    assert (told.source, told.destination) == (packet.destination, packet.source)
    assert told.l4.quoted == packet.ip()[: len(told.l4.quoted)]
    assert broken_checksums(wire) == []


def test_without_a_route_the_packet_is_dropped_and_its_sender_told(node: Node, family: int) -> None:
    packet = question(family, NOWHERE[family])
    got = node.from_pod(BLUE.pod, packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_VRF_ROUTE": 1})
    check_told(got.wire, packet, UNREACHABLE[family])
    assert node.count(f"mg_ct_v{family}") == 0


@pytest.mark.parametrize("row", ["closed", "no path", "path gone", "path down"])
def test_a_route_that_cannot_be_used_lets_nothing_out(node: Node, family: int, row: str) -> None:
    to = HOST[family]
    if row == "closed":
        host(node, BLUE.vrf, to, [BLUE.vrf], flags=1)
    elif row == "no path":
        host(node, BLUE.vrf, to, [])
    elif row == "path gone":
        host(node, BLUE.vrf, to, [4711])
    else:
        via(node, BLUE.vrf, [BLUE.far_sid], bfd=9)
        node.maps["mg_bfd_state"].update_one(9, 2)
    try:
        assert node.from_pod(BLUE.pod, question(family)).dropped == {"NO_VRF_ROUTE": 1}
        assert node.from_pod(GREEN.pod, question(family)).dropped == {}
    finally:
        node.maps["mg_bfd_state"].update_one(9, 0)


def test_equal_paths_share_the_flows_and_a_path_that_is_down_has_none(
    node: Node, family: int
) -> None:
    sids = {71: "fcbb:bb00:9:1::", 72: "fcbb:bb00:a:1::"}
    for number, sid in sids.items():
        via(node, number, [sid], bfd=number)
    host(node, BLUE.vrf, HOST[family], list(sids))
    flows = [question(family, l4=UDP(port, 53)) for port in range(5000, 5016)]

    def taken() -> set[str]:
        return {front(node.from_pod(BLUE.pod, flow).wire).destination for flow in flows}

    assert taken() == set(sids.values())
    one = front(node.from_pod(BLUE.pod, flows[0]).wire)
    assert one == front(node.from_pod(BLUE.pod, flows[0]).wire), "a flow keeps its path"
    node.maps["mg_bfd_state"].update_one(71, 2)
    try:
        assert taken() == {sids[72]}
    finally:
        node.maps["mg_bfd_state"].update_one(71, 0)


def test_the_label_is_of_the_flow_and_the_traffic_class_the_packets(
    node: Node, family: int
) -> None:
    labels = set()
    for port in range(5000, 5008):
        wire = bytearray(question(family, l4=UDP(port, 53)).wire())
        if family == 4:
            wire[15] = 0xB8
            wire[24:26] = bytes(2)
            total = sum(struct.unpack("!10H", wire[14:34]))
            total = (total & 0xFFFF) + (total >> 16)
            wire[24:26] = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
        else:
            wire[14:16] = struct.pack("!H", 0x6B80)
        seen = front(node.from_pod(BLUE.pod, bytes(wire)).wire)
        assert seen.traffic_class == 0xB8
        labels.add(seen.label)
    assert len(labels) == 8


SEGMENTS = [f"fcbb:bb00:{n}::" for n in range(0x20, 0x28)]


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("full", [False, True], ids=["reduced", "full"])
def test_the_srh_has_the_segments_last_to_first(
    node: Node, family: int, count: int, *, full: bool
) -> None:
    """RFC 8754 4.1: a reduced one leaves out the first segment, which is the destination."""
    segments = SEGMENTS[:count]
    via(node, BLUE.vrf, segments, flags=1 if full else 0)
    packet = question(family, ttl=9)
    got = node.from_pod(BLUE.pod, packet)
    seen = front(got.wire)
    assert (seen.destination, seen.next) == (segments[0], ROUTING)
    header = srh(IPIP if family == 4 else IN_IPV6, segments if full else segments[1:], count - 1)
    assert got.wire[54 : 54 + len(header)] == header
    assert seen.payload == len(header) + len(packet.ip())
    assert inner_of(got.wire) == packet.but(ttl=8)


def test_one_segment_may_have_an_srh_too(node: Node, family: int) -> None:
    via(node, BLUE.vrf, [BLUE.far_sid], flags=1)
    got = node.from_pod(BLUE.pod, question(family))
    header = srh(IPIP if family == 4 else IN_IPV6, [BLUE.far_sid], 0)
    assert (front(got.wire).next, got.wire[54:78]) == (ROUTING, header)


def by_kernel(node: Node, *segments: str) -> None:
    """The tenant's path has no next hop of its own."""
    via(node, BLUE.vrf, segments, next_hop=addr_value("::"), ifindex=0)


def test_without_a_next_hop_the_kernels_route_to_the_segment_decides(
    node: Node, family: int
) -> None:
    by_kernel(node, BLUE.far_sid)
    for _ in range(2):
        got = node.from_pod(BLUE.pod, question(family))
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert front(got.wire).destination == BLUE.far_sid
    row = node.maps["mg_vrf_via"].lookup(BLUE.vrf)
    assert row is not None
    assert (text_of(row["hop"]), int(row["hop_mtu"])) == (ROUTER, 1500)
    assert int(row["hop_ifindex"]) == node.devices["dpwup"]
    assert int(row["asked"]) > 0


def test_without_a_route_to_the_segment_the_pod_is_told(node: Node, family: int) -> None:
    ip(node.space.name, "-6", "route", "add", "blackhole", "fcbb:bbff::/32")
    try:
        by_kernel(node, "fcbb:bbff:1::")
        packet = question(family)
        got = node.from_pod(BLUE.pod, packet)
        assert got.dropped == {"NO_VRF_ROUTE": 1}
        check_told(got.wire, packet, UNREACHABLE[family])
    finally:
        ip(node.space.name, "-6", "route", "del", "fcbb:bbff::/32")


def test_the_mtu_of_the_route_counts(node: Node, family: int) -> None:
    route = ("fcbb:bbfe::/32", "via", ROUTER, "mtu", "lock", "1400")
    ip(node.space.name, "-6", "route", "add", *route)
    try:
        by_kernel(node, "fcbb:bbfe:1::")
        room = 1360 - {4: 28, 6: 48}[family]
        assert node.from_pod(BLUE.pod, question(family).but(payload=b"x" * room)).dropped == {}
        big = node.from_pod(BLUE.pod, question(family).but(payload=b"x" * (room + 1)))
        assert big.dropped == {"FRAGMENTATION_NEEDED": 1}
    finally:
        ip(node.space.name, "-6", "route", "del", "fcbb:bbfe::/32")


def test_the_identity_is_in_the_argument_of_a_nodes_sid(node: Node, family: int) -> None:
    via(node, BLUE.vrf, ["fcbb:bb00:2:e007::"], flags=2, argument=64)
    got = node.from_pod(BLUE.pod, question(family))
    identity = node.plan.pods[BLUE.pod].identity
    assert addr(front(got.wire).destination) == addr("fcbb:bb00:2:e007::")[:8] + (
        identity.to_bytes(3, "big") + bytes(5)
    )
    segments = ["fcbb:bb00:20::", "fcbb:bb00:2:e007::"]
    via(node, BLUE.vrf, segments, flags=2, argument=64)
    got = node.from_pod(BLUE.pod, question(family))
    assert front(got.wire).destination == segments[0]
    assert got.wire[62 + 8 : 62 + 11] == identity.to_bytes(3, "big")


def test_pods_of_a_vrf_on_one_node_reach_each_other_inside_it(node: Node, family: int) -> None:
    other = {4: "10.100.0.3", 6: "fd00:100::3"}[family]
    client = node.plan.pods["client"]
    in_vrf(node, GREEN, [])
    row = {"ifindex": node.devices["dpw1"], "identity": client.identity, "mac": list(client.mac)}
    node.maps["mg_vrf_pod"].update_one(zoned(other, BLUE.vrf), row | {"vrf": BLUE.vrf})
    packet = question(family, other)
    got = node.from_pod("web", packet)
    assert (got.verdict, got.dropped, got.packet, got.wire[:6]) == (
        REDIRECT, {}, packet, client.mac,
    )  # fmt: skip


def test_a_tenant_address_is_none_of_the_mesh(node: Node, family: int) -> None:
    """Of another pod, or of a pod in no VRF, it is a forged source."""
    tenant = {4: "10.100.0.9", 6: "fd00:100::9"}[family]
    forged = question(family).but(source=tenant)
    assert node.from_pod(BLUE.pod, forged).dropped == {"INVALID_SOURCE_IP": 1}
    node.maps["mg_vrf_link"].delete_one(node.devices["dpw1"])
    got = node.from_pod(GREEN.pod, question(family))
    assert got.dropped == {"INVALID_SOURCE_IP": 1}


def test_from_its_cluster_address_a_tenant_reaches_the_mesh_but_not_its_vrf(
    nodes: Nodes, node: Node, family: int
) -> None:
    own, far = node.plan.pods[BLUE.pod][family], nodes["b"].plan.pods["web"][family]
    mesh = node.from_pod(BLUE.pod, Packet(own, far, UDP(1, 2)))
    assert (mesh.verdict, mesh.overlay.destination) == (REDIRECT, "10.99.0.12")
    world = node.from_pod(BLUE.pod, Packet(own, HOST[family], UDP(1, 2)))
    assert world.dropped == {"VRF_SOURCE": 1}


def test_what_the_world_opens_to_the_cluster_address_is_answered_there(
    node: Node, family: int
) -> None:
    own = node.plan.pods[BLUE.pod][family]
    opening = Packet(LEGACY[family], own, TCP(40000, 80, "S"))
    assert node.from_uplink(opening).dropped == {}
    answer = node.from_pod(BLUE.pod, opening.reply(TCP(80, 40000, "SA")))
    assert (answer.verdict, answer.dropped) == (OK, {})


def test_without_tenant_addresses_the_destination_says_what_is_for_the_vrf(
    nodes: Nodes, node: Node, family: int
) -> None:
    own = node.plan.pods[BLUE.pod].addresses
    node.clear("mg_vrf_pod")
    in_vrf(node, BLUE, list(own.values()), flags=0)
    got = node.from_pod(BLUE.pod, Packet(own[family], HOST[family], UDP(1, 2)))
    assert front(got.wire).destination == BLUE.far_sid
    far = nodes["b"].plan.pods["web"][family]
    mesh = node.from_pod(BLUE.pod, Packet(own[family], far, UDP(1, 2)))
    assert mesh.overlay.destination == "10.99.0.12"
    node.clear("mg_vrf_dest")
    world = node.from_pod(BLUE.pod, Packet(own[family], HOST[family], UDP(3, 4)))
    assert (world.verdict, world.dropped) == (OK, {})


@pytest.mark.parametrize("flags", [0, 1], ids=["cluster", "tenant"])
def test_what_a_pod_had_open_before_it_was_in_a_vrf_does_not_go_on_outside(
    node: Node, family: int, flags: int
) -> None:
    own = node.plan.pods[BLUE.pod].addresses
    packet = Packet(own[family], HOST[family], UDP(1, 2))
    node.clear("mg_vrf_dest")
    if not flags:
        node.clear("mg_vrf_pod")
        in_vrf(node, BLUE, list(own.values()), flags=0)
    assert node.from_pod(BLUE.pod, packet).verdict == OK
    destination(node, BLUE.vrf, {4: "0.0.0.0/0", 6: "::/0"}[family])
    got = node.from_pod(BLUE.pod, packet)
    if flags:
        assert got.dropped == {"VRF_SOURCE": 1}
    else:
        assert front(got.wire).destination == BLUE.far_sid


def test_a_stray_packet_of_the_world_opens_no_way_around_the_vrf(node: Node, family: int) -> None:
    """An ACK that no SYN came before: what the pod sends is no answer."""
    own = node.plan.pods[BLUE.pod][family]
    stray = Packet(HOST[family], own, TCP(80, 40000, "A"))
    assert node.from_uplink(stray).dropped == {}
    got = node.from_pod(BLUE.pod, stray.reply(TCP(40000, 80, "A")))
    assert got.dropped == {"VRF_SOURCE": 1}


def test_a_forged_datagram_opens_no_way_around_the_vrf(node: Node, family: int) -> None:
    """The same port has to be declared, as towards an egress policy (S10)."""
    own = node.plan.pods[BLUE.pod][family]
    forged = Packet(HOST[family], own, UDP(53, 5000))
    assert node.from_uplink(forged).dropped == {}
    answer = forged.reply(UDP(5000, 53))
    assert node.from_pod(BLUE.pod, answer).dropped == {"VRF_SOURCE": 1}
    node.declare(BLUE.pod, 5000)
    assert node.from_pod(BLUE.pod, answer).verdict == OK


def test_a_forged_syn_opens_no_way_around_the_vrf(node: Node, family: int) -> None:
    own = node.plan.pods[BLUE.pod][family]
    forged = Packet(HOST[family], own, TCP(80, 40000, "S"))
    assert node.from_uplink(forged).dropped == {}
    for flags in ("A", "PA", "RA"):
        got = node.from_pod(BLUE.pod, forged.reply(TCP(40000, 80, flags)))
        assert got.dropped == {"VRF_SOURCE": 1}


# Covered by an egress policy


@pytest.fixture
def covered(node: Node) -> Node:
    """A policy covers the world for the pod of blue."""
    for cidr in ("0.0.0.0/0", "::/0"):
        node.egress(cidr, 3, pod_class=5)
    for name in ("mg_pod_addr", "mg_vrf_pod"):
        keys, values = node.maps[name].dump()
        values["egress_class"][values["vrf"] == BLUE.vrf] = 5
        node.maps[name].update(keys, values)
    return node


def test_the_vrfs_own_destinations_stay_the_vrfs(covered: Node, family: int) -> None:
    got = covered.from_pod(BLUE.pod, question(family))
    assert front(got.wire).destination == BLUE.far_sid


@pytest.mark.parametrize("bgp", [False, True], ids=["ours", "a router's"])
def test_what_a_router_alone_has_told_the_vrf_is_the_policys(
    covered: Node, family: int, *, bgp: bool
) -> None:
    """It would leave untranslated; a pod of the VRF on another node is the VRF's."""
    covered.clear("mg_vrf_dest")
    via(covered, 71, [BLUE.far_sid], bgp=bgp)
    host(covered, BLUE.vrf, NOWHERE[family], [71], bgp=bgp)
    packet = question(family, NOWHERE[family])
    got = covered.from_pod(BLUE.pod, packet)
    if bgp:
        assert got.dropped == {"COVERED_IN_VRF": 1}
        check_told(got.wire, packet, {4: (3, 13), 6: (1, 1)}[family])
    else:
        assert front(got.wire).destination == BLUE.far_sid


def test_outside_of_its_vrf_the_pod_is_covered_as_others(covered: Node, family: int) -> None:
    covered.clear("mg_vrf_dest")
    own = covered.plan.pods[BLUE.pod][family]
    got = covered.from_pod(BLUE.pod, Packet(own, LEGACY[family], TCP(40000, 80, "S")))
    assert got.dropped == {"NO_EGRESS_GATEWAY": 1}


def test_a_pod_sends_nothing_to_the_sids_of_other_nodes(node: Node, family: int) -> None:
    """RFC 8754 5.1: a NAT of the host gives it the node's address, which they believe."""
    inside(node, "fcbb:bb00::/32")
    node.clear("mg_vrf_dest")
    source = node.plan.pods[BLUE.pod][6]
    header = srh(IPIP if family == 4 else IN_IPV6, [BLUE.far_sid], 0)
    for front_of in (b"", header):
        sent = outer(question(family), BLUE.far_sid, front_of, source=source)
        assert node.from_pod(BLUE.pod, sent).dropped == {"SRV6_DOMAIN": 1}
    tunnel = outer(question(family), "2001:db8:9::1", source=source)
    assert (node.from_pod(BLUE.pod, tunnel).verdict, node.from_pod(BLUE.pod, tunnel).dropped) == (
        OK, {},
    )  # fmt: skip


def test_what_a_tenant_wraps_itself_stays_in_its_vrf(node: Node, family: int) -> None:
    """There the same addresses are its own affair."""
    inside(node, "fd00:101::/64")
    sent = outer(question(family), HOST[6], source=TENANT[6])
    assert front(node.from_pod(BLUE.pod, sent).wire).destination == BLUE.far_sid


@pytest.mark.parametrize("missing", ["mg_vrf_link", "mg_vrf_pod"])
def test_a_pod_that_should_be_in_a_vrf_sends_nothing_before_its_rows_are_there(
    node: Node, family: int, missing: str
) -> None:
    own = node.plan.pods[BLUE.pod].addresses
    in_vrf(node, BLUE, [], flags=0)
    node.clear(missing)
    got = node.from_pod(BLUE.pod, Packet(own[family], HOST[family], UDP(1, 2)))
    assert (got.dropped, got.packet.destination) == ({"ENDPOINT_NOT_READY": 1}, HOST[family])
    tenant = node.from_pod(BLUE.pod, question(family))
    assert tenant.dropped == {"INVALID_SOURCE_IP": 1}


@pytest.mark.parametrize("segments", [1, 2])
def test_a_pod_learns_what_fits_into_the_outer_packet(
    node: Node, family: int, segments: int
) -> None:
    via(node, BLUE.vrf, SEGMENTS[:segments])
    most = 1500 - 40 - (24 if segments == 2 else 0)
    room = most - {4: 28, 6: 48}[family]
    packet = question(family).but(payload=b"x" * (room + 1), df=False)
    got = node.from_pod(BLUE.pod, packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"FRAGMENTATION_NEEDED": 1})
    check_told(got.wire, packet, {4: (3, 4), 6: (2, 0)}[family])
    told = Packet.read(got.wire).l4
    assert isinstance(told, Error)
    assert told.value == most
    fits = node.from_pod(BLUE.pod, packet.but(payload=b"x" * room))
    assert (fits.dropped, front(fits.wire).next != 58) == ({}, True)


def test_a_router_on_the_way_that_cannot_pass_it_is_heard_of(node: Node, family: int) -> None:
    """Its ICMP error is about the outer packet; the pod's next packet that is too big tells it."""
    packet = question(family).but(payload=b"x" * (1400 - {4: 28, 6: 48}[family]))
    sent = node.from_pod(BLUE.pod, packet)
    assert sent.dropped == {}
    quoted = sent.wire[14 : 14 + 1000]
    told = Packet("fd99::77", NODE, Error(2, 0, quoted, 1400))
    assert node.from_uplink(told).verdict == OK, "the host may have use for it, too"
    again = node.from_pod(BLUE.pod, packet)
    check_told(again.wire, packet, {4: (3, 4), 6: (2, 0)}[family])
    error = Packet.read(again.wire).l4
    assert isinstance(error, Error)
    assert error.value == 1360
    assert node.from_pod(GREEN.pod, packet).dropped == {}, "another way"


def test_nobody_makes_a_path_smaller_than_every_network_has(node: Node, family: int) -> None:
    packet = question(family).but(payload=b"x" * 1200)
    sent = node.from_pod(BLUE.pod, packet)
    node.from_uplink(Packet("fd99::77", NODE, Error(2, 0, sent.wire[14:600], 68)))
    assert node.from_pod(BLUE.pod, packet).dropped == {}
    _, paths = node.maps["mg_srv6_path"].dump()
    assert paths["mtu"].tolist() == [1280]


def test_the_last_hop_is_told_in_the_tenants_view(node: Node, family: int) -> None:
    packet = question(family, ttl=1)
    got = node.from_pod(BLUE.pod, packet)
    assert got.dropped == {"TTL_EXCEEDED": 1}
    check_told(got.wire, packet, {4: (11, 0), 6: (3, 0)}[family])


def test_fragments_of_two_tenants_with_one_number_are_kept_apart(node: Node, family: int) -> None:
    for tenant, port in ((BLUE, 5000), (GREEN, 6000)):
        first = question(family, l4=UDP(port, 53), id=4711, more=True, df=False)
        assert node.from_pod(tenant.pod, first).dropped == {}
    later = question(family, l4=Other(17), id=4711, offset=16, df=False)
    labels = {front(node.from_pod(tenant.pod, later).wire).label for tenant in TENANTS}
    assert len(labels) == 2, "the ports of each flow make its label"
    assert node.count("mg_frag") == 2
    keys, _ = node.maps["mg_frag"].dump()
    assert sorted(keys["zone"].tolist()) == [BLUE.vrf, GREEN.vrf]


def test_a_tenants_neighbour_discovery_is_its_links(node: Node, family: int) -> None:
    """In its own name only; the gateway, which is link-local, may be asked."""
    device = node.devices[node.plan.pods[BLUE.pod].device]
    if family == 4:
        mac = bytes.fromhex("0a0000000001")
        own, gateway = addr(TENANT[4])[12:], addr("169.254.1.1")[12:]
        head = bytes.fromhex("ffffffffffff") + mac + b"\x08\x06"
        ask = head + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + own + bytes(6) + gateway
        other = ask.replace(own, addr("10.100.0.9")[12:])
    else:
        ask = solicitation(TENANT[6])
        other = solicitation("fd00:100::9")
    assert node.run("mg_from_pod", ask, ifindex=device).dropped == {}
    assert node.run("mg_from_pod", other, ifindex=device).dropped == {"NEIGHBOUR_CLAIM": 1}


def solicitation(source: str) -> bytes:
    body = struct.pack("!BBHI", 135, 0, 0, 0) + addr("fe80::1")
    return Packet(source, "ff02::1:ff00:1", Other(58), body, ttl=255).wire()


GOLDEN = (
    "60000000001e0440fd66000a000000000000000000000001fcbbbb00000100010000000000000000"
    "45b8001e4b8040002111f6910a0101010a010203"
    "0fa00fa1000a17216869"
)


def test_the_kernels_own_packet_comes_out_but_for_label_and_traffic_class(node: Node) -> None:
    """The frame of kernel seg6 (encap.red, one SID): the same octets, with what we do better."""
    wire = bytes.fromhex(GOLDEN)
    inner = Packet.read_ip(wire[40:])
    pod = node.plan.pods[BLUE.pod]
    row = {"ifindex": node.devices[pod.device], "identity": pod.identity, "vrf": BLUE.vrf}
    node.maps["mg_vrf_pod"].update_one(zoned(inner.source, BLUE.vrf), row)
    via(node, 71, ["fcbb:bb00:1:1::"], source=addr_value("fd66:a::1"))
    host(node, BLUE.vrf, inner.destination, [71])
    sent = bytearray(wire[40:])
    sent[8] += 1  # the hop that goes here
    sent[10:12] = struct.pack("!H", struct.unpack_from("!H", sent, 10)[0] - 0x100)
    got = node.from_pod(BLUE.pod, bytes(12) + b"\x08\x00" + bytes(sent))
    seen = front(got.wire)
    assert seen == Front("fd66:a::1", "fcbb:bb00:1:1::", 0xB8, seen.label, 30, 4, 64)
    assert got.wire[54:] == wire[40:]
    assert got.wire[18:54] == wire[4:40]


def test_a_flow_is_told_of_once_with_both_identities(node: Node, family: int) -> None:
    got = node.from_pod(BLUE.pod, question(family))
    assert len(got.events) == 1
    event = got.events[0]
    pod = node.plan.pods[BLUE.pod]
    assert (event["source_identity"], event["destination_identity"]) == (
        pod.identity, BLUE.identity,
    )  # fmt: skip
    assert node.from_pod(BLUE.pod, question(family)).events == []
    assert np.asarray(event["translated"]["w"]).sum() == 0
