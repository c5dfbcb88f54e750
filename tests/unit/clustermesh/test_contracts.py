"""A peer gets what its contract gives, and without one what anybody gets: keys in, findings out.

We are east (id 1: 10.1.0.0/16, fd01::/48, nodes 10.99.0.11 and .12); the peer is west (id 2). Each
attack is told in both families. ``EGRESS`` are destinations of an egress policy of ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path

import pytest

from clustermesh.contract import Contract, Limits, in_force
from clustermesh.kept import KeptContracts
from clustermesh.remote import wire
from clustermesh.remote.changes import Draft
from clustermesh.remote.holdings import Bar, OwnChange, OwnFacts
from clustermesh.remote.importer import Imports
from clustermesh.remote.lanes import Lanes
from clustermesh.remote.ours import Ours, OwnTables
from clustermesh.remote.slices import slice_values
from clustermesh.remote.tables import RemoteTables
from clustermesh.store.follow import Batch, Entry
from mesh.core.model import (
    Backend,
    Network,
    NodeKey,
    Service,
)
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from tests.unit.clustermesh.test_imports import (
    CONFIG,
    LABELS,
    NODE,
    OWN,
    cloud,
    held,
    pair,
    refused,
    west,
    west_node,
)


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


GIVEN = Contract(
    "west",
    "west",
    2,
    networks("10.2.0.0/16", "fd02::/48"),
    networks("10.99.0.0/24", "fd99::/64", "fcbb:bb02::/32"),
    networks("10.97.2.0/24", "fd97:2::/112"),
    ("shop",),
    origin="contracts.yaml ClusterPeer/west",
)
EGRESS = dict.fromkeys(networks("192.0.2.0/24", "2001:db8:2::/64"), "a destination")
BARRED = dict.fromkeys(networks("10.77.0.0/16", "fd77::/48"), "a destination")
ROUTED = dict.fromkeys(networks("10.88.0.0/16", "fd88::/48"), "a route")
AT = {4: "IPv4AllocCIDR", 6: "IPv6AllocCIDR"}
FAMILY = pytest.mark.parametrize("family", [4, 6])


def imports(*contracts: Contract) -> Imports:
    it = Imports(OWN)
    change(it, contracts)
    return it


def change(it: Imports, contracts: Iterable[Contract] | None = None, **barred: object) -> None:
    objects = None if contracts is None else tuple(contracts)
    it.change_own(OwnChange(contracts=objects, **barred))  # type: ignore[arg-type]
    it.apply({})


def bar(it: Imports) -> None:
    """Learn where our egress policies and routes lead."""
    change(it, barred={Bar.ALL: EGRESS | BARRED, Bar.PODS: ROUTED})


def put_node(it: Imports, name: str = "west-1", **fields: object) -> tuple[str, str] | None:
    """West publishes a node; code and field of the refusal, or None."""
    key = wire.node_key("west", name)
    it.apply({key: wire.node_value(west_node(1, name=name, **fields), 2)})
    return refused(it).get(key)


def nodes(it: Imports) -> set[str]:
    return {key.name for key in it.importers["west"].nodes}


def services(it: Imports) -> set[str]:
    return {f"{key.namespace}/{key.name}" for key in it.importers["west"].services}


def cidr(family: int, four: str, six: str) -> dict[str, object]:
    return {"pod_cidrs": networks(four if family == 4 else six)}


def endpoint(four: str, six: str = "fd99::21") -> dict[str, object]:
    return {"addresses": (ip_address(four), ip_address(six))}


# --- By contract --------------------------------------------------------------------------------


def test_what_is_given_is_accepted_whole() -> None:
    it = imports(GIVEN)
    it.apply(west())
    assert (nodes(it), services(it), it.findings) == ({"west-1"}, {"shop/web"}, {})
    assert set(held(it)) == {"10.2.1.5", "fd02:0:0:1::5"}


@FAMILY
def test_a_pod_cidr_over_a_destination_of_our_egress_is_not_given(family: int) -> None:
    """Seen: a node with pod CIDR 192.0.2.0/24 drew a covered pod's traffic, untranslated."""
    it = imports(GIVEN)
    it.apply(west())
    foreign = cidr(family, "192.0.2.0/24", "2001:db8:2::/64")
    evil = {**endpoint("10.99.0.77", "fd99::77"), **foreign, "locator": None}
    assert put_node(it, "evil", **evil) == ("M177", AT[family])
    assert nodes(it) == {"west-1"}


@FAMILY
def test_an_endpoint_outside_of_the_node_cidrs_is_not_given(family: int) -> None:
    it = imports(GIVEN)
    it.apply(west())
    where = endpoint("203.0.113.7", "fd99::77")
    if family == 6:
        where = endpoint("10.99.0.77", "2001:db8:7::7")
    empty = {"pod_cidrs": (), "locator": None}
    assert put_node(it, "evil", **where, **empty) == ("M177", "IPAddresses")
    assert nodes(it) == {"west-1"}


def test_a_locator_outside_of_the_node_cidrs_is_not_given() -> None:
    it = imports(GIVEN)
    it.apply(west())
    locator = ip_network("fcbb:bb07:1::/48")
    found = put_node(
        it, "evil", **endpoint("10.99.0.77", "fd99::77"), pod_cidrs=(), locator=locator
    )
    assert found == ("M177", f"Annotations.{wire.LOCATOR}")


@FAMILY
def test_a_service_address_outside_of_the_service_cidrs_is_not_given(family: int) -> None:
    it = imports(GIVEN)
    it.apply(west())
    inside, outside = (
        ip_address(text)
        for text in (("10.97.2.10", "10.97.1.10") if family == 4 else ("fd97:2::a", "fd97:1::a"))
    )
    for name, virtual in (("good", inside), ("evil", outside)):
        backends = (Backend(ip_address("10.2.1.5"), 80, "", "TCP", "west"),)
        row = Service("west", "shop", name, (virtual,), (), backends=backends)
        it.apply({wire.service_key("west", "shop", name): wire.service_value(row, 2)})
    assert services(it) == {"shop/web", "shop/good"}
    assert refused(it) == {wire.service_key("west", "shop", "evil"): ("M177", "frontends")}


@FAMILY
def test_services_and_identities_of_a_namespace_that_is_not_given_are_refused(family: int) -> None:
    it = imports(GIVEN)
    it.apply(west())
    backend = "10.2.1.5" if family == 4 else "fd02:0:0:1::5"
    rows = (Backend(ip_address(backend), 80, "", "TCP", "west"),)
    bank = Service("west", "bank", "web", (), (), backends=rows)
    service, identity = wire.service_key("west", "bank", "web"), wire.identity_key("west", 131_080)
    it.apply(
        {service: wire.service_value(bank, 2), identity: LABELS.replace("shop", "bank").encode()}
    )
    assert services(it) == {"shop/web"}
    assert refused(it) == {service: ("M177", "namespace"), identity: ("M177", "labels")}
    change(it, [replace(GIVEN, namespaces=("bank",))])
    assert services(it) == {"bank/web"}
    change(it, [replace(GIVEN, namespaces=("*",))])
    assert (services(it), it.findings) == ({"bank/web", "shop/web"}, {})


@FAMILY
def test_a_single_address_outside_of_the_pod_cidrs_is_not_given(family: int) -> None:
    """A cluster whose pods have addresses of a cloud gets those of its contract."""
    inside, outside = ("172.31.5.6", "192.0.2.10") if family == 4 else ("2600:1f::7", "2001:db8::7")
    clouds = networks("172.31.0.0/16", "2600:1f::/32")
    it = imports(Contract("north", "north", 3, clouds, networks("10.99.0.0/24")))
    it.apply(cloud("north", 3, inside, outside))
    assert held(it) == {inside: 3}
    assert refused(it) == {wire.address_key("north", ip_address(outside)): ("M177", "IP")}


def test_rows_over_the_limits_are_one_finding_and_those_that_were_there_stay() -> None:
    it = imports(replace(GIVEN, limits=Limits(nodes=2, addresses=2, services=1, identities=1)))
    it.apply(west())
    it.apply({wire.node_key("west", f"n{n}"): node_value(n) for n in (2, 3, 4)})
    more = [pair(f"10.2.1.{n}") for n in (6, 7)]
    it.apply(dict(more))
    it.apply({wire.identity_key("west", 131_080): LABELS.encode()})
    it.apply({wire.service_key("west", "shop", "db"): DB})
    assert nodes(it) == {"west-1", "n2"}
    assert set(held(it)) == {"10.2.1.5", "fd02:0:0:1::5"}
    assert services(it) == {"shop/web"}
    found = {(f.code, f.object.split("/")[2], f.text.split()[0]) for f in it.findings.values()}
    kinds = (("nodes", "2"), ("ip", "2"), ("services", "1"), ("identities", "1"))
    assert found == {("M178", kind, number) for kind, number in kinds}
    it.apply({}, [wire.node_key("west", "n2"), wire.address_key("west", ip_address("10.2.1.5"))])
    assert nodes(it) == {"west-1", "n3"}
    assert set(held(it)) == {"fd02:0:0:1::5", "10.2.1.6"}
    change(it, [GIVEN])
    assert nodes(it) == {"west-1", "n3", "n4"}
    assert set(held(it)) == {"fd02:0:0:1::5", "10.2.1.6", "10.2.1.7"}
    assert it.findings == {}


DB = wire.service_value(Service("west", "shop", "db", (), ()), 2)


def node_value(number: int) -> bytes:
    return wire.node_value(replace(west_node(number), name=f"n{number}"), 2)


def test_limits_count_services_of_slices_too() -> None:
    backends = (Backend(ip_address("10.2.1.5"), 80, "", "TCP", "west"),)
    keys = {wire.canary_key("west", wire.SLICES): b"now"}
    for name in ("db", "web"):
        row = Service("west", "shop", name, (), (), is_global=True, backends=backends)
        for part, value in slice_values(row, 2).items():
            keys[f"{wire.SLICES}west/shop/{part}"] = value
    mode = wire.Capabilities(endpoint_slices_export_mode=wire.SLICES_ONLY)
    it = imports(replace(GIVEN, limits=Limits(services=1)))
    it.apply({**west(), CONFIG: wire.encode(wire.ClusterConfig(2, mode)), **keys})
    assert len(services(it)) == 1
    assert {finding.code for finding in it.findings.values()} == {"M178"}
    change(it, [GIVEN])
    assert (services(it), it.findings) == ({"shop/db", "shop/web"}, {})


# --- Without a contract -------------------------------------------------------------------------


def test_private_space_is_anybodys() -> None:
    it = imports()
    bar(it)
    it.apply(west())
    assert (nodes(it), services(it), it.findings) == ({"west-1"}, {"shop/web"}, {})


@FAMILY
@pytest.mark.parametrize(
    ("four", "six"),
    [
        ("192.0.2.0/24", "2001:db8:2::/64"),  # a destination, and public
        ("203.0.113.0/24", "2001:db8:3::/64"),  # public
        ("10.77.3.0/24", "fd77:0:0:3::/64"),  # in a destination
        ("10.76.0.0/15", "fd76::/15"),  # around one
        ("10.88.3.0/24", "fd88:0:0:3::/64"),  # in a route
    ],
)
def test_a_provisional_cluster_has_no_pods_there(family: int, four: str, six: str) -> None:
    it = imports()
    bar(it)
    it.apply({CONFIG: west()[CONFIG]})
    assert put_node(it, **cidr(family, four, six)) == ("M176", AT[family])
    assert nodes(it) == set()
    change(it, [replace(GIVEN, pod_cidrs=networks(four, six))])
    assert (nodes(it), it.findings) == ({"west-1"}, {})


@FAMILY
def test_a_provisional_cluster_has_no_node_where_our_egress_leads(family: int) -> None:
    """Its endpoints may be behind a route: tunnels are routed, too."""
    it = imports()
    bar(it)
    it.apply({CONFIG: west()[CONFIG]})
    bad = endpoint("192.0.2.7") if family == 4 else endpoint("10.99.0.21", "2001:db8:2::7")
    assert put_node(it, **bad) == ("M176", "IPAddresses")
    good = endpoint("10.88.0.7") if family == 4 else endpoint("10.99.0.21", "fd88::7")
    assert put_node(it, **good) is None


@FAMILY
def test_what_one_contract_gives_is_taken_from_a_provisional_cluster(family: int) -> None:
    """Also when the provisional one was there first."""
    it = imports()
    it.apply(west())
    theirs = "10.2.0.0/15" if family == 4 else "fd02::/47"
    north = Contract("north", "north", 3, networks(theirs), networks("10.98.0.0/24"))
    change(it, [north])
    assert refused(it)[NODE] == ("M176", AT[family])
    assert nodes(it) == set()
    change(it, [])
    assert (nodes(it), it.findings) == ({"west-1"}, {})


@FAMILY
def test_our_later_facts_are_judged_and_lifted(family: int) -> None:
    """A policy that comes takes the place away, one that goes gives it back: pods and singles."""
    it = imports()
    single = "10.5.0.7" if family == 4 else "fd05::7"
    it.apply({**west(), **cloud("north", 3, single)})
    new = dict.fromkeys(
        networks(
            *(("10.2.1.128/25", "10.5.0.0/24") if family == 4 else ("fd02::/48", "fd05::/64"))
        ),
        "a destination",
    )
    change(it, barred={Bar.ALL: new})
    assert nodes(it) == set()
    assert single not in held(it)
    assert {code for code, _ in refused(it).values()} == {"M176", "M127", "M131"}
    change(it, gone_barred={Bar.ALL: frozenset(new)})
    assert (nodes(it), set(held(it)), it.findings) == (
        {"west-1"}, {"10.2.1.5", "fd02:0:0:1::5", single}, {},
    )  # fmt: skip


def test_a_destination_of_everything_leaves_provisional_clusters_nothing_of_its_family() -> None:
    it = imports()
    change(it, barred={Bar.ALL: {ip_network("::/0"): "a destination"}})
    it.apply({CONFIG: west()[CONFIG]})
    four = networks("10.2.1.0/24")
    assert put_node(it, pod_cidrs=four, addresses=(ip_address("10.99.0.21"),), locator=None) is None
    assert put_node(it) == ("M176", "IPv6AllocCIDR")


# --- Contracts that come, change and go ---------------------------------------------------------


@FAMILY
def test_a_narrower_contract_takes_rows_away_and_a_wider_one_gives_them_back(family: int) -> None:
    it = imports(GIVEN)
    it.apply(west())
    kept = networks("fd02::/48" if family == 4 else "10.2.0.0/16")
    change(it, [replace(GIVEN, pod_cidrs=kept)])
    assert (nodes(it), held(it), services(it)) == (set(), {}, set())
    assert refused(it)[NODE] == ("M177", AT[family])
    change(it, [GIVEN])
    assert (nodes(it), services(it), it.findings) == ({"west-1"}, {"shop/web"}, {})
    change(it, [])
    assert (nodes(it), it.findings) == ({"west-1"}, {})


def test_a_change_is_judged_in_pieces_and_for_its_peer_alone() -> None:
    it = imports(GIVEN)
    it.apply({**west(), **dict(pair(f"10.2.1.{n}") for n in range(6, 200))})
    it.apply(cloud("north", 3, "172.31.5.6"))
    wider = replace(GIVEN, node_cidrs=(*GIVEN.node_cidrs, ip_network("10.98.0.0/24")))
    it.change_own(OwnChange(contracts=(wider,)))
    assert list(it.waiting) == ["west"]
    assert sum(1 for _ in it.settling("west", Draft())) >= 6
    it.follow_up()
    assert list(it.waiting) == []


def test_a_peer_that_was_too_fast_does_not_delay_its_contract() -> None:
    """Else it could keep for a while what it was given no more."""
    it, seconds = imports(GIVEN), count(step=50)
    lanes = Lanes(it, lambda *_: iter(()), cpu=lambda: float(next(seconds)), clock=lambda: 0.0)
    for number in range(3):
        it.tell(west() if not number else dict([pair(f"10.2.1.{number}")]))
        list(lanes.steps(rests=False))
    assert (lanes.wait_s or 0) > 10
    it.change_own(OwnChange(contracts=(replace(GIVEN, pod_cidrs=networks("10.3.0.0/16")),)))
    assert lanes.wait_s == 0
    list(lanes.steps(rests=False))
    assert (nodes(it), held(it)) == (set(), {})


def test_what_is_told_with_a_new_contract_is_judged_with_it() -> None:
    """A key that goes and one that comes, before the contract was judged."""
    it = imports(GIVEN)
    it.apply(west())
    it.change_own(OwnChange(contracts=(replace(GIVEN, namespaces=("*",)),)))
    key, value = pair("10.2.1.9")
    it.apply({key: value}, [wire.address_key("west", ip_address("10.2.1.5"))])
    assert set(held(it)) == {"10.2.1.9", "fd02:0:0:1::5"}


def test_a_contract_with_another_id_is_a_finding_and_an_accepted_peer_stays() -> None:
    it = imports()
    it.apply(west())
    change(it, [replace(GIVEN, id=7)])
    found = {(f.code, f.object, f.field) for f in it.findings.values()}
    assert found == {("M181", GIVEN.origin, "spec.id"), ("M181", CONFIG, "id")}
    assert (nodes(it), services(it)) == ({"west-1"}, {"shop/web"})
    change(it, [GIVEN])
    assert it.findings == {}
    new = imports(replace(GIVEN, id=7))
    new.apply(west())
    assert nodes(new) == set()


def test_nothing_is_judged_before_the_contracts_and_the_routes_are_known() -> None:
    """After a restart: a cluster that is provisional for a moment would lose what it was given."""
    public = replace(GIVEN, pod_cidrs=networks("192.0.2.0/24"), hosts=True)
    remote = RemoteTables(OwnFacts("east", 1), lambda _: None)
    contracts: Table[str, Contract] = Table("contract")
    routes: Table[Network, None] = Table("a route")
    loop = Loop()
    Ours(remote, OwnTables(routed=[routes], contracts=contracts)).derive(loop)
    row = west_node(pod_cidrs=networks("192.0.2.0/25"))
    keys = {CONFIG: wire.cluster_config(2), NODE: wire.node_value(row, 2)}
    entries = [Entry(key, value, 5, 5, 0) for key, value in keys.items()]
    remote.take(Batch(5, entries, (), listed=True))
    for table in (routes, contracts):
        loop.derive_all()
        assert (dict(remote.nodes.rows), remote.complete.synced) == ({}, False)
        table.replace({} if table is routes else {"west": public})  # type: ignore[arg-type, dict-item]
    loop.derive_all()
    assert (list(remote.nodes.rows), remote.findings) == ([NodeKey("west", "west-1")], {})
    assert dict(remote.hosts.rows) == {"west": True}
    contracts.replace({})
    loop.derive_all()
    assert (dict(remote.nodes.rows), dict(remote.hosts.rows)) == ({}, {})
    assert remote.findings[NODE].text == (
        "192.0.2.0/25: it is no private or unique-local space; cluster west has no contract that "
        "gives it"
    )
    contracts.replace({"west": replace(GIVEN, hosts=True)})
    routes.replace(dict.fromkeys(networks("10.2.0.0/16")))
    loop.derive_all()
    assert remote.findings[NODE].text == "192.0.2.0/25 is not in spec.podCIDRs of ClusterPeer/west"


def test_a_finding_says_where_a_provisional_cluster_was_met() -> None:
    remote, loop = RemoteTables(OwnFacts("east", 1), lambda _: None), Loop()
    routes: Table[Network, None] = Table("a route of this host")
    routes.replace(dict.fromkeys(networks("10.2.0.0/16")))
    Ours(remote, OwnTables(routed=[routes])).derive(loop)
    loop.derive_all()
    entries = [Entry(key, value, 5, 5, 0) for key, value in west().items()]
    remote.take(Batch(5, entries, (), listed=True))
    loop.derive_all()
    text = "10.2.1.0/24: it meets 10.2.0.0/16, a route of this host; cluster west has no contract"
    assert remote.findings[NODE].text.startswith(text)
    routes.replace({})
    loop.derive_all()
    assert remote.findings == {}


# --- Contracts among each other -----------------------------------------------------------------


def choose(
    *contracts: Contract, before: Iterable[Contract] = ()
) -> tuple[set[Contract], set[tuple[str, str, str]]]:
    """Those in force, and code, object and field of each finding; 10.1.0.0/16 is ours, id 1."""
    ours = ip_network("10.1.0.0/16")

    def meeting(network: Network) -> Network | None:
        return ours if network.version == 4 and network.overlaps(ours) else None

    found = in_force(contracts, {one.cluster: one for one in before}, 1, meeting)
    return set(found.contracts.values()), {(f.code, f.object, f.field) for f in found.findings}


def contract(name: str, cidr: str, number: int, cluster: str = "") -> Contract:
    return Contract(name, cluster or name, number, networks(cidr), networks("10.99.0.0/24"))


def test_of_two_contracts_for_one_cluster_the_one_in_force_stays() -> None:
    one, two = contract("a", "10.5.0.0/16", 5, "west"), contract("b", "10.6.0.0/16", 5, "west")
    assert choose(one, two) == ({one}, {("M179", "ClusterPeer/b", "spec.cluster")})
    assert choose(one, two, before=[two]) == ({two}, {("M179", "ClusterPeer/a", "spec.cluster")})
    assert choose(one, before=[two]) == ({one}, set())


def test_a_contract_that_meets_ours_or_another_one_changes_nothing() -> None:
    west_, north = contract("west", "10.5.0.0/16", 5), contract("north", "10.6.0.0/16", 6)
    bad = replace(north, pod_cidrs=networks("10.6.0.0/16", "10.5.7.0/24"))
    field = ("M180", "ClusterPeer/north", "spec.podCIDRs[1]")
    assert choose(west_, bad, before=[west_]) == ({west_}, {field})
    assert choose(west_, bad, before=[west_, north]) == ({west_, north}, {field})
    ours = replace(north, pod_cidrs=networks("10.1.9.0/24"))
    field = ("M180", "ClusterPeer/north", "spec.podCIDRs[0]")
    assert choose(west_, ours, before=[north]) == ({west_, north}, {field})
    assert choose(ours) == (set(), {field})
    assert choose(ours, before=[ours]) == ({ours}, {field})  # ours has grown since


def test_an_id_belongs_to_one_cluster() -> None:
    west_, north = contract("west", "10.5.0.0/16", 5), contract("north", "10.6.0.0/16", 5)
    found = {("M181", "ClusterPeer/north", "spec.id")}
    assert choose(west_, north, before=[west_]) == ({west_}, found)
    assert choose(replace(north, id=1)) == (set(), found)


def test_two_clusters_may_change_places_in_one_step() -> None:
    west_, north = contract("west", "10.5.0.0/16", 5), contract("north", "10.6.0.0/16", 6)
    swapped = (
        replace(west_, pod_cidrs=north.pod_cidrs), replace(north, pod_cidrs=west_.pod_cidrs),
    )  # fmt: skip
    assert choose(*swapped, before=[west_, north]) == (set(swapped), set())


def test_a_restart_chooses_as_before(tmp_path: Path) -> None:
    """Of contracts that contradict each other the one in force is known from the disk."""
    path = tmp_path / "state" / "contracts.json"
    first = replace(GIVEN, limits=Limits(nodes=7), hosts=True)
    other = replace(contract("alpha", "10.2.9.0/24", 9), origin="a.yaml ClusterPeer/alpha")

    def start(*objects: Contract) -> RemoteTables:
        remote = RemoteTables(OWN, lambda _: None, kept=KeptContracts(path))
        remote.change_own(OwnChange(contracts=objects))
        return remote

    start(first)
    for _ in range(2):
        remote = start(other, first)
        assert remote.imports.ledger.contracts == {"west": first}
        assert [(f.code, f.object) for f in remote.findings.values()] == [("M180", other.origin)]
        assert dict(remote.hosts.rows) == {"west": True}
    assert start().imports.ledger.contracts == {}
    assert start(other, first).imports.ledger.contracts == {"alpha": other}
    path.write_text("{")
    assert start(first).imports.ledger.contracts == {"west": first}
    kept = KeptContracts(path).contracts["west"]
    assert (kept, kept.origin) == (first, first.origin)


# --- History ------------------------------------------------------------------------------------

POOL = [
    GIVEN,
    replace(GIVEN, pod_cidrs=networks("10.2.1.0/24", "fd02::/48")),
    replace(GIVEN, node_cidrs=networks("10.99.0.21/32", "fd99::/64", "fcbb:bb02::/32")),
    replace(GIVEN, namespaces=()),
    replace(GIVEN, limits=Limits(nodes=1, addresses=1)),
    replace(GIVEN, id=7),
    contract("north", "10.2.2.0/24", 3),
]


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_events_decides_nothing_but_who_is_within_the_limits(seed: int) -> None:
    """After any history, what stands is what a new process would make of the same things."""
    chance, it = random.Random(seed), imports()
    keys = {
        **west(),
        wire.node_key("west", "n2"): node_value(2),
        **dict(pair(f"10.2.2.{n}", host="10.99.0.22") for n in (5, 6)),
    }
    there: dict[str, bytes] = {CONFIG: keys[CONFIG]}
    it.apply(there)
    contracts: list[Contract] = []
    barred: dict[Network, str] = {}
    for _ in range(30):
        key, what = chance.choice(list(keys)), chance.random()
        if what < 0.3:
            contracts = [chance.choice(POOL)] if chance.random() < 0.7 else []
            change(it, contracts)
        elif what < 0.5:
            some = chance.choice([*networks("10.2.2.0/25", "fd02::/48", "10.0.0.0/9")])
            gone = frozenset({some} & barred.keys())
            change(
                it,
                barred={} if gone else {Bar.ALL: {some: "a destination"}},
                gone_barred={Bar.ALL: gone} if gone else {},
            )
            barred = dict.fromkeys(barred.keys() ^ {some}, "a destination")
        elif key in there and key != CONFIG:
            del there[key]
            it.apply({}, [key])
        else:
            there[key] = keys[key]
            it.apply({key: keys[key]})
    new = imports()
    change(new, contracts, barred={Bar.ALL: barred})
    limited = any(one.limits != Limits() for one in contracts)
    if any(one.id == 7 for one in contracts):
        return  # an accepted peer stays, a new one does not come
    new.apply(there)
    if limited:
        assert len(nodes(it)) == len(nodes(new))
        assert len(held(it)) <= 1
    else:
        assert (nodes(it), held(it), services(it)) == (nodes(new), held(new), services(new))
        assert refused(it) == refused(new)
