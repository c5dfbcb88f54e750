"""What one session announces of what a node may announce: selection, attributes, aggregates."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

from bgp.desired import Peering, Wanted, derive, peerings, routes, without_password
from bgp.networks import attracted
from bgp.passwords import known
from bgp.peer import Advertise, BGPPeer, Override, Password
from bgp.route import Family, Route, RouteKey, ServiceSID
from bgp.routes import PIECE, Made, routes_of
from bgp.speaker import Anew
from mesh.core.feature import Offer
from mesh.core.model import Node, Requirement, Selector
from mesh.core.table import Table

ROUTER = ip_address("10.99.0.1")
V4, V6 = ip_address("10.99.0.11"), ip_address("fd99::11")
NODE = Node("east", "east-1", (V4, V6))
UNICAST = (Family.IPV4, Family.IPV6)
EDGE = Selector((Requirement("tier", "In", ("edge",)),))
ADDRESSES = [
    Offer(ip_network("198.51.100.10/32"), (("tier", "edge"),)),
    Offer(ip_network("198.51.100.11/32"), (("tier", "core"),)),
    Offer(ip_network("2001:db8:100::10/128"), (("tier", "edge"),)),
]
VPN = Offer(
    ip_network("10.1.2.0/24"),
    rd="10.99.0.11:7",
    targets=("target:65001:100",),
    sid=ip_address("fcbb:bb00:1:1::"),
    behaviour=19,
    structure=(32, 16, 16, 0, 0, 0),
)


def made(*entries: Advertise, families: tuple[Family, ...] = UNICAST, **own: list[Offer]) -> Made:
    return routes_of(entries, families, own, {4: V4, 6: V6}, ROUTER)


def prefixes(found: Made) -> list[str]:
    return [str(prefix) for prefix, _ in found.rows]


def test_a_selector_chooses_by_the_labels_of_the_object() -> None:
    found = made(Advertise("egressIPs", EDGE), egressIPs=ADDRESSES)
    assert prefixes(found) == ["198.51.100.10/32", "2001:db8:100::10/128"]


def test_an_entry_may_name_the_range_of_its_prefixes() -> None:
    within = (ip_network("198.51.100.8/31"), ip_network("198.51.100.11/32"))
    found = made(Advertise("egressIPs", prefixes=within), egressIPs=ADDRESSES)
    assert prefixes(found) == ["198.51.100.11/32"]


def test_attributes_are_those_of_the_entry() -> None:
    entry = Advertise("egressIPs", EDGE, ("65001:1",), ("1:2:3",), ("target:1:1",), 50, 200, 2)
    found = made(entry, egressIPs=ADDRESSES[:1])
    (route,) = found.rows.values()
    assert route == Route(
        ADDRESSES[0].prefix, V4, ("65001:1",), ("1:2:3",), ("target:1:1",), 50, 200, 2
    )


def test_entries_that_cover_the_same_prefix_are_united() -> None:
    one = Advertise("egressIPs", EDGE, ("65001:2",), med=50, local_preference=100)
    two = Advertise("egressIPs", communities=("65001:1",), med=20, local_preference=200, prepend=1)
    found = made(one, two, egressIPs=ADDRESSES[:2])
    assert found.rows[ADDRESSES[0].prefix, ""] == Route(
        ADDRESSES[0].prefix, V4, ("65001:1", "65001:2"), (), (), 20, 200, 1
    )
    assert found.rows[ADDRESSES[1].prefix, ""].communities == ("65001:1",)


def test_an_aggregate_stands_for_what_lies_in_it_while_something_does() -> None:
    whole = ip_network("198.51.100.0/24")
    entry = Advertise("egressIPs", communities=("65001:1",), aggregates=(whole,))
    found = made(entry, egressIPs=ADDRESSES)
    assert prefixes(found) == ["2001:db8:100::10/128", "198.51.100.0/24"]
    assert found.rows[whole, ""].communities == ("65001:1",)
    assert prefixes(made(entry, egressIPs=ADDRESSES[2:])) == ["2001:db8:100::10/128"]


def test_a_default_route_and_the_routers_own_prefix_are_announced_by_name_only() -> None:
    offers = [Offer(ip_network(one)) for one in ("0.0.0.0/0", "10.99.0.0/24", "10.1.0.0/24")]
    found = made(Advertise("podCIDRs"), podCIDRs=offers)
    assert prefixes(found) == ["10.1.0.0/24"]
    assert {str(prefix) for prefix in found.withheld} == {"0.0.0.0/0", "10.99.0.0/24"}
    named = tuple(offer.prefix for offer in offers)
    assert prefixes(made(Advertise("prefixes", prefixes=named))) == [str(one) for one in named]


def test_an_aggregate_in_which_the_router_lies_is_withheld() -> None:
    entry = Advertise("podCIDRs", aggregates=(ip_network("10.0.0.0/8"),))
    found = made(entry, podCIDRs=[Offer(ip_network("10.1.0.0/24"))])
    assert (prefixes(found), [str(one) for one in found.withheld]) == ([], ["10.0.0.0/8"])


def test_a_family_that_the_session_lacks_has_no_routes() -> None:
    found = made(Advertise("egressIPs"), families=(Family.IPV6,), egressIPs=ADDRESSES)
    assert prefixes(found) == ["2001:db8:100::10/128"]
    assert not made(Advertise("vrfs"), vrfs=[VPN]).rows


def test_a_vpn_route_has_rd_targets_and_sid_and_an_ipv6_next_hop() -> None:
    """RFC 9252 5.1: the next hop is an address of the node whose SID it is."""
    entry = Advertise("vrfs", extended=("target:65001:9",))
    found = made(entry, families=(Family.VPNV4,), vrfs=[VPN])
    sid = ServiceSID(ip_address("fcbb:bb00:1:1::"), 19, (32, 16, 16, 0, 0, 0))
    targets = ("target:65001:100", "target:65001:9")
    expected = Route(VPN.prefix, V6, extended=targets, rd="10.99.0.11:7", sid=sid)
    assert found.rows == {(VPN.prefix, "10.99.0.11:7"): expected}


def session(asn: int, *entries: Advertise) -> Peering:
    peer = BGPPeer("r", Selector(), ROUTER, asn, 65101, entries)
    (row,) = peerings(NODE, [peer])[0].values()
    return row


def test_local_preference_stays_inside_and_prepending_outside() -> None:
    entry = Advertise("egressIPs", local_preference=200, prepend=2)
    own = {"egressIPs": ADDRESSES[:1]}
    key = RouteKey(ROUTER, ADDRESSES[0].prefix)
    inside = routes(NODE, [session(65101, entry)], own)[0][key]
    outside = routes(NODE, [session(65000, entry)], own)[0][key]
    assert (inside.local_preference, inside.prepend) == (200, 0)
    assert (outside.local_preference, outside.prepend) == (None, 2)


def test_an_entry_that_selects_nothing_is_a_finding_though_others_do() -> None:
    one = session(65000, Advertise("podCIDRs"), Advertise("egressIPs", EDGE))
    own = {"podCIDRs": [Offer(ip_network("10.1.0.0/24"))], "egressIPs": ADDRESSES[1:2]}
    rows, findings = routes(NODE, [one], own)
    assert len(rows) == 1
    assert [finding.code for finding in findings] == ["B223"]
    assert "egressIPs" in findings[0].text


def test_an_override_is_for_its_node() -> None:
    other = ip_address("10.99.0.77")
    one = Override("east-1", 65555, other, IPv4Address("10.0.0.9"))
    peer = BGPPeer("r", Selector(), ROUTER, 65000, 65101, (), overrides=(one,))
    (row,) = peerings(NODE, [peer])[0].values()
    assert (row.local_asn, row.local_address, row.router_id) == (65555, other, one.router_id)
    (row,) = peerings(replace(NODE, name="east-2"), [peer])[0].values()
    assert (row.local_asn, row.local_address, row.router_id) == (65101, V4, None)


def test_overlapping_ranges_are_a_finding_and_an_address_within_one_is_not() -> None:
    def peer(name: str, address: str) -> BGPPeer:
        network = ip_network(address)
        whole = network.network_address if network.prefixlen == 32 else network
        return BGPPeer(name, Selector(), whole, 65000, 65101, (), passive=True)

    peers = [peer("a", "10.99.0.0/24"), peer("b", "10.99.0.128/25"), peer("c", "10.99.0.1/32")]
    rows, findings = peerings(NODE, peers)
    assert {row.name for row in rows.values()} == {"a", "c"}
    assert [(one.code, one.object) for one in findings] == [("B221", "BGPPeer/b")]
    assert [row.dynamic for row in rows.values()] == [True, False]


def test_a_session_without_its_password_does_not_start() -> None:
    place = Password(file="/run/key")
    peer = BGPPeer("r", Selector(), ROUTER, 65000, 65101, (), password=place)
    rows, findings = peerings(NODE, [peer], {})
    assert (rows, [one.code for one in findings]) == ({}, ["B220"])
    assert list(peerings(NODE, [peer])[0]) == [ROUTER], "who opens no session needs no password"
    assert "/run/key" in findings[0].text
    (row,) = peerings(NODE, [peer], {place: "s3cret"})[0].values()
    assert row.password == "s3cret"  # noqa: S105 - of this test
    assert "s3cret" not in repr(row)


def test_a_session_that_is_there_keeps_its_password() -> None:
    place = Password(secret="leaf")  # noqa: S106 - its name
    peer = BGPPeer("r", Selector(), ROUTER, 65000, 65101, (), password=place)
    rows, _ = peerings(NODE, [peer], {place: "s3cret"})
    keys = known({}, rows, [peer])
    again, findings = peerings(NODE, [peer], keys)
    assert (again, findings) == (rows, [])
    assert [one.code for one in without_password(NODE, [peer], {}, keys)] == ["B220"]
    assert not list(without_password(NODE, [peer], {place: "x"}, keys))


def test_a_node_attracts_an_aggregate_of_which_it_has_a_part() -> None:
    whole = ip_network("198.51.100.0/24")
    entry = Advertise("egressIPs", aggregates=(whole, ip_network("203.0.113.0/24")))
    chosen = Selector((Requirement("rack", "In", ("a",)),))
    peers = {"r": BGPPeer("r", chosen, ROUTER, 65000, 65101, (entry,))}
    parts = [ADDRESSES[0].prefix]
    assert list(attracted(peers, (("rack", "a"),), parts)) == [whole]
    assert not list(attracted(peers, (), parts))
    assert not list(attracted(peers, (("rack", "a"),), []))


def test_routes_are_derived_in_pieces() -> None:
    """10,000 routes to each of two routers in one piece stopped everything for 0.2 s."""
    many = [ip_network((0x0A010000 + 256 * n, 24)) for n in range(10 * PIECE)]
    own = {"podCIDRs": [Offer(prefix) for prefix in many]}
    found = Wanted()
    pieces = sum(1 for _ in derive(found, NODE, [session(65000, Advertise("podCIDRs"))], own))
    assert pieces >= 2 * len(many) // PIECE
    assert {key.prefix for key in found.rows} == set(many)


def test_a_derivation_begins_anew_when_its_inputs_change_between_two_pieces() -> None:
    table: Table[int, int] = Table("input")
    begun: list[dict[int, int]] = []
    written: list[dict[int, int]] = []

    def begin() -> Iterator[None]:
        rows = dict(table.rows)
        begun.append(rows)
        yield
        yield
        written.append(rows)

    work = Anew(begin, [table])
    steps = work.steps()
    next(steps)
    work.again()
    next(steps)
    table.upsert({1: 1})
    work.again()
    assert work.doublings == 1
    for _ in steps:
        work.again()
    assert begun == [{}, {1: 1}]
    assert written == [{1: 1}]
