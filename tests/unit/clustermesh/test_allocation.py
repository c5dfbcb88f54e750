"""Which claims a cluster wants, and what it may publish beside others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from clustermesh import foreign as prefixes
from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.ours import Ours, OwnTables
from clustermesh.remote.tables import RemoteTables
from clustermesh.store.agreed import config_findings, id_findings
from clustermesh.store.own import Own
from gateway.controller import EgressController
from gateway.policy import EgressPolicy
from gateway.settings import EgressSettings
from mesh.config import Pools
from mesh.core.feature import ControllerFeature, Want
from mesh.core.model import (
    IP,
    Claim,
    Finding,
    ForeignNode,
    Node,
    Pod,
    PodKey,
    PodSelector,
    Requirement,
    Selector,
    ServiceKey,
)
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.controller import IdentityController, numbers_of
from mesh.nodes.controller import NodesController
from mesh.objects.kubernetes import PODS
from mesh.objects.tables import Objects
from mesh.pools.foreign import MOST_NODES, free_numbers, meet, pool_findings
from mesh.pools.prefixes import claimed
from mesh.pools.settings import Pool
from mesh.services.controller import ServicesController
from mesh.services.kinds import SERVICES, ServiceObject
from srv6.controller import LocatorsController
from srv6.locators import locators
from tests.fixtures.egress import objects

V4, V6, LOCATORS = "10.1.0.0_16_24", "fd01::_48_64", "fcbb:bb01::_32_48"
POOLS = Pools(
    pod_cidrs=(Pool(cidr=ip_network("10.1.0.0/16"), node_prefix=24),
               Pool(cidr=ip_network("fd01::/48"), node_prefix=64)),
    locators=(Pool(cidr=ip_network("fcbb:bb01::/32"), node_prefix=48),),
)  # fmt: skip
STORED = {
    "name": "east",
    "id": 1,
    "podCIDRs": [V4, V6],
    "locators": [LOCATORS],
    "blockSize": 256,
    "blocksPerNode": 4,
}
NODE = Node("east", "east-1", (ip_address("10.99.0.11"),))
NODE_2 = Node("east", "east-2", (ip_address("10.99.0.12"),))
CLIENT = PodKey("east", "shop", "client-1")


def pod(name: str, node: str, **labels: str) -> Pod:
    return Pod("east", "shop", name, node, tuple(sorted(labels.items())))


def foreign(*networks: str, created: int = 5) -> ForeignNode:
    return ForeignNode("west", "west-1", tuple(map(ip_network, networks)), created)


def claim(noun: str, pool: str, number: int, owner: str = "east-1") -> Claim:
    return Claim(noun, pool, number, owner, 1)


class Cluster:
    """The features of a controller over some objects."""

    def __init__(self, tables: Objects) -> None:
        own, remote = Own("east"), RemoteTables(OwnFacts("east", 1), lambda _: None)
        nowhere: Table[IP, None] = Table("address of node")
        nowhere.mark_synced()
        nobody: Table[str, ForeignNode] = Table("foreign node")
        nobody.mark_synced()
        self.remote = remote
        where = LocatorsController("east", POOLS.locators, tables, own, nobody)
        nodes = NodesController("east", POOLS, tables, own, remote, where.locator, nobody)
        self.features: tuple[ControllerFeature, ...] = (
            where,
            nodes,
            IdentityController("east", 1, (), tables, own, remote, nodes.node),
            EgressController("east", EgressSettings(blocks_per_node=2), tables, own),
            ServicesController(tables, own.pods, (), nowhere, remote.services),
        )
        own.synced()
        self.loop = Loop()
        for feature in self.features:
            feature.derive(self.loop)
        self.loop.derive_all()

    def wants(self, *nouns: str) -> set[Want]:
        tables = [table for feature in self.features for table in feature.wants]
        return {want for table in tables for want in table.rows if want.noun in nouns}


def publishable(
    nodes: list[Node], created: dict[str, int], others: list[ForeignNode]
) -> tuple[list[Node], list[Finding]]:
    made = [prefixes.publishable(node, created.get(node.name), others, meet) for node in nodes]
    return [row for row, _ in made], [finding for _, found in made for finding in found]


def test_pods_with_the_same_labels_want_one_identity() -> None:
    """One want for each label text."""
    pods = [pod("a", "n", app="web"), pod("b", "n", app="web"), pod("c", "n", app="client")]
    wants = Cluster(objects(pods=pods)).wants("identity")
    assert len(wants) == 2
    assert all("io.cilium.k8s.policy.cluster=east;" in want.owner for want in wants)


def test_a_pod_with_too_many_labels_wants_nothing_and_is_found_while_it_is_there() -> None:
    """Field input 07: etcd takes no such claim, and the claims beside it would fail with it."""
    many = {f"example.com/{'k' * 40}-{n:05d}": "v" * 55 for n in range(8000)}
    tables = objects(pods=[pod("giant", "n", **many), pod("web", "n", app="web")])
    cluster = Cluster(tables)
    [want] = cluster.wants("identity")
    assert "app=web" in want.owner
    found = [finding for one in cluster.features for finding in one.findings()]
    assert [(f.code, f.object, f.field) for f in found] == [
        ("M159", "Pod/shop/giant", "metadata.labels")
    ]
    assert len(found[0].text) < 200
    tables[PODS].delete([PodKey("east", "shop", "giant")])
    cluster.loop.derive_all()
    assert not [finding for one in cluster.features for finding in one.findings()]


def test_every_node_wants_a_piece_of_every_pool() -> None:
    """Pod CIDRs of both families and a locator."""
    assert Cluster(objects(nodes=[NODE])).wants("podcidr", "locator") == {
        Want("podcidr", V4, "east-1"),
        Want("podcidr", V6, "east-1"),
        Want("locator", LOCATORS, "east-1"),
    }


def test_nodes_of_covered_pods_want_blocks() -> None:
    """Of each address of each policy that covers one; other nodes, and deleted ones, want none."""
    address = ip_address("198.51.100.10")
    web = PodSelector(None, Selector((Requirement("app", "In", ("client",)),)))
    policy = EgressPolicy("erp", (web,), (), (), (address,), Selector())
    pods = [pod("client-1", "east-1", app="client"), pod("w", "east-2", app="web")]
    assert Cluster(objects([policy], pods, nodes=[NODE])).wants("block") == {
        Want("block", "198.51.100.10", "east-1/0"),
        Want("block", "198.51.100.10", "east-1/1"),
    }
    assert Cluster(objects([policy], pods)).wants("block") == set()


def test_numbers_of_each_pool() -> None:
    """Identities carry the cluster id on top; blocks fill the port space; subnets the pool."""
    claimable = {one.noun: one for f in Cluster(objects()).features for one in f.claims}

    def candidates(want: Want) -> object:
        return claimable[want.noun].candidates(want)

    assert candidates(Want("identity", "labels", "k8s:app=web;")) == range(0x10001, 0x20000)
    assert numbers_of(1) == range(0x10001, 0x20000)
    assert candidates(Want("block", "198.51.100.10", "n/0")) == range(252)
    assert candidates(Want("podcidr", V4, "n")) == range(256)


def test_numbers_that_meet_a_foreign_prefix_are_not_given_away() -> None:
    """Inside, around, of the other family, and beside the pool."""
    numbers = free_numbers(V4, [foreign("10.1.2.0/23", "10.1.7.128/25", "fd01::/48")])
    assert set(range(256)) - set(numbers) == {2, 3, 7}
    assert list(free_numbers(V4, [foreign("0.0.0.0/0")])) == []
    assert free_numbers(V4, [foreign("10.2.0.0/16")]) == range(256)


def test_a_huge_pool_and_a_huge_prefix_cost_little() -> None:
    """An IPv6 pool of 2^56 pieces is not counted through."""
    assert len(free_numbers("fd00::_8_64", ())) == MOST_NODES
    assert list(free_numbers("fd00::_8_64", [foreign("::/0")])) == []


def test_claims_amount_to_prefixes_in_the_order_of_the_pools() -> None:
    """IPv4 first, because the configuration says so."""
    claims = [
        claim("podcidr", V6, 3),
        claim("podcidr", V4, 7),
        claim("locator", LOCATORS, 1),
        claim("identity", "labels", 65537),
    ]
    expected = [ip_network("10.1.7.0/24"), ip_network("fd01:0:0:3::/64")]
    found = claimed([c for c in claims if c.noun == "podcidr"], (V4, V6))
    assert [(claim.owner, network) for network, claim in found] == [("east-1", n) for n in expected]
    mine = [c for c in claims if c.noun == "locator"]
    assert locators(mine, (LOCATORS,)) == {"east-1": ip_network("fcbb:bb01:1::/48")}


def test_damaged_claims_and_pools_are_left_out() -> None:
    """A number outside of its pool, a pool that is none, one of another configuration."""
    claims = [
        claim("podcidr", V4, 256),
        claim("podcidr", "rubbish", 0),
        claim("podcidr", "10.9.0.0_16_24", 0),
        claim("podcidr", V4, 1),
    ]
    found = claimed(claims, (V4, "rubbish"))
    assert found == [(ip_network("10.1.1.0/24"), claims[3])]


def test_own_facts_are_pools_egress_and_service_addresses_and_nodes() -> None:
    """Whole pools, so that a prefix nobody has yet is ours as well."""
    policy = EgressPolicy("erp", (), (), (), (ip_address("198.51.100.10"),), Selector())
    service = ServiceObject("east", "shop", "web", (ip_address("10.97.1.10"),), ())
    tables = objects([policy], nodes=[NODE])
    tables[SERVICES].replace({ServiceKey("east", "shop", "web"): service})
    it = Cluster(tables)
    networks = [table for feature in it.features for table in feature.ours]
    addresses = [table for feature in it.features for table in feature.own_addresses]
    Ours(it.remote, OwnTables(networks, addresses)).derive(it.loop)
    it.loop.derive_all()
    facts = it.remote.imports.ledger.own
    assert (facts.cluster, facts.id) == ("east", 1)
    assert set(facts.networks) == set(
        map(
            ip_network,
            ("10.1.0.0/16", "fd01::/48", "fcbb:bb01::/32", "198.51.100.10/32", "10.97.1.10/32"),
        )
    )
    assert facts.addresses == {ip_address("10.99.0.11")}


def test_a_node_with_pod_cidrs_of_the_cluster_claims_none() -> None:
    """Its locator is claimed as before; what it has nobody else may claim."""
    tables = objects(nodes=[replace(NODE, given=(ip_network("10.244.3.0/24"),)), NODE_2])
    cluster = Cluster(tables)
    assert cluster.wants("podcidr") == {Want("podcidr", pool, "east-2") for pool in (V4, V6)}
    assert cluster.wants("locator") == {
        Want("locator", LOCATORS, name) for name in ("east-1", "east-2")
    }
    nodes = cluster.features[1]
    assert isinstance(nodes, NodesController)
    (row,) = (row for row in nodes.node.rows.values() if row.name == "east-1")
    assert row.pod_cidrs == (ip_network("10.244.3.0/24"),)
    assert ip_network("10.244.3.0/24") in nodes.ours[1].rows


def test_a_prefix_that_was_published_before_ours_holds_ours_back() -> None:
    """The finding names both; the rest of the node is published."""
    cidrs = ip_network("10.1.0.0/24"), ip_network("fd01::/64")
    node = Node("east", "east-1", NODE.addresses, cidrs)
    rows, findings = publishable([node], {}, [foreign("10.1.0.0/16")])
    assert rows[0].pod_cidrs == cidrs[1:]
    assert [(f.object, f.field) for f in findings] == [
        (wire.node_key("east", "east-1"), "IPv4AllocCIDR")
    ]
    assert "10.1.0.0/24" in findings[0].text
    assert "10.1.0.0/16 of cluster west (node west-1)" in findings[0].text


def test_nobody_can_push_a_published_prefix_out() -> None:
    """Who was there first keeps it."""
    node = Node("east", "east-1", NODE.addresses, (ip_network("10.1.0.0/24"),))
    rows, findings = publishable([node], {"east-1": 4}, [foreign("10.1.0.0/16")])
    assert (rows, findings) == ([node], [])


def test_locator_is_held_back_too() -> None:
    """A locator that somebody published before."""
    node = Node("east", "n", (), (ip_network("10.1.0.0/24"),), ip_network("fcbb:bb01:1::/48"))
    rows, findings = publishable([node], {}, [foreign("fcbb::/16")])
    assert rows[0].locator is None
    assert [f.field for f in findings] == [f"Annotations.{wire.LOCATOR}"]


def test_pools_that_others_publish_in_are_findings() -> None:
    """Named by the key that holds the pools."""
    found = pool_findings(
        "podCIDRs",
        [pool.cidr for pool in POOLS.pod_cidrs],
        "meshgate/v1/east/config",
        [foreign("10.1.9.0/24")],
    )
    assert [(f.code, f.object, f.field) for f in found] == [
        ("M148", "meshgate/v1/east/config", "podCIDRs")
    ]
    assert "10.1.0.0/16 overlaps 10.1.9.0/24 of cluster west" in found[0].text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": 2}, "id"),
        ({"podCIDRs": ["10.9.0.0_16_24", V6]}, "podCIDRs"),
        ({"locators": []}, "locators"),
        ({"blockSize": 512}, "blockSize"),
        ({"blocksPerNode": 1}, "blocksPerNode"),
    ],
)
def test_a_different_stored_configuration_names_the_field(
    change: dict[str, object], field: str
) -> None:
    """Both values stand in the text."""
    stored = STORED | change
    found = config_findings("key", msgspec.json.encode(stored), STORED)
    assert [(f.code, f.object, f.field) for f in found] == [("M146", "key", field)]
    ours = STORED[field]
    assert str(ours[0] if isinstance(ours, list) else ours) in found[0].text


def test_the_same_configuration_is_no_finding() -> None:
    """And one that cannot be read is."""
    assert config_findings("key", msgspec.json.encode(STORED), STORED) == []
    assert config_findings("key", b"{", STORED)[0].code == "M146"


def test_our_id_under_another_name() -> None:
    """Our own key and unreadable ones are no finding."""
    configs = {
        wire.config_key("east"): wire.cluster_config(1),
        wire.config_key("west"): wire.cluster_config(2),
        wire.config_key("rubbish"): b"{",
        wire.config_key("north"): wire.cluster_config(1),
    }
    found = id_findings("east", 1, configs)
    assert [(f.code, f.object) for f in found] == [("M147", wire.config_key("north"))]
    assert "east" in found[0].text
