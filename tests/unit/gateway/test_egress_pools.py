"""Addresses out of pools: which policy has which, which address drains, and when it is free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from clustermesh.store.own import Own
from gateway import claims
from gateway.claims import address_of, egress_want, named_number, wanted_addresses
from gateway.controller import EgressController
from gateway.policy import POLICIES, EgressPolicy
from gateway.pool import POOLS, EgressPool, accepted, addresses_of
from gateway.settings import EgressSettings
from gateway.speaker import is_announced
from mesh.core.feature import Want
from mesh.core.model import (
    Claim,
    ClaimKey,
    Draining,
    Listed,
    Node,
    NodeKey,
    Pod,
    PodKey,
    PodSelector,
    Selector,
)  # fmt: skip
from mesh.core.reconcile import Loop
from mesh.objects import kubernetes
from mesh.objects.kubernetes import PODS
from tests.fixtures.egress import objects

V4, V6 = ip_network("198.51.100.0/29"), ip_network("2001:db8:100::/64")
POOL = EgressPool("legacy", (V4, V6))
NODES = [
    Node("east", f"east-{n}", (ip_address(f"10.99.0.1{n}"),), labels=(("role", f"r{n}"),))
    for n in (1, 2)
]


def policy(
    name: str, to: str = "192.0.2.0/24", *, pool: str = "legacy", **more: object
) -> EgressPolicy:
    row = EgressPolicy(
        name,
        (PodSelector(None, Selector()),),
        (ip_network(to),),
        (),
        (),
        Selector(),
        origin=f"{name}.yaml",
        pool=pool,
    )
    return replace(row, **more)  # type: ignore[arg-type]


def wanted(
    *policies: EgressPolicy,
    held: dict[str, str] | None = None,
    resting: dict[str, str] | None = None,
    pool: EgressPool = POOL,
) -> dict[str, str]:
    given = (
        {ip_address(address): name for address, name in (rows or {}).items()}
        for rows in (held, resting)
    )
    found = wanted_addresses(policies, {pool.name: pool}, *given)
    return {str(address): name for address, name in found.addresses.items()}


@pytest.mark.parametrize(
    "text", ["0.0.0.1", "198.51.100.7", "255.255.255.254", "2001:db8::", "::1:ffff:ffff"]
)
def test_an_address_is_one_number_whatever_the_pool_is(text: str) -> None:
    want = egress_want(ip_address(text), "erp")
    number = named_number(want)
    assert number is not None
    assert address_of(ClaimKey(want.noun, want.pool, number)) == ip_address(text)
    assert number < 1 << 62


def test_a_claim_that_is_no_address_is_none() -> None:
    assert address_of(ClaimKey("egress", "rubbish", 1)) is None
    assert address_of(ClaimKey("carrier", "rubbish", 1)) is None
    assert named_number(Want("egress", "0.0.0.0_0_32", "erp")) is None


def test_each_policy_has_an_address_of_each_family_that_it_needs() -> None:
    both = replace(policy("b"), destinations=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
    assert wanted(policy("a"), both) == {
        "198.51.100.0": "a", "198.51.100.1": "b", "2001:db8:100::": "b"
    }  # fmt: skip


def test_a_policy_keeps_its_address_and_nobody_else_gets_it() -> None:
    assert wanted(policy("a"), policy("b"), held={"198.51.100.0": "b", "198.51.100.1": "gone"}) == {
        "198.51.100.2": "a", "198.51.100.0": "b"
    }  # fmt: skip


def test_a_denied_address_is_exchanged() -> None:
    pool = replace(POOL, deny=(ip_address("198.51.100.0"),))
    assert wanted(policy("a"), held={"198.51.100.0": "a"}, pool=pool) == {"198.51.100.1": "a"}


def test_addresses_that_rest_come_last_and_fixed_ones_never() -> None:
    small = replace(POOL, cidrs=(ip_network("198.51.100.0/31"),))
    fixed = policy("f", pool="", addresses=(ip_address("198.51.100.1"),))
    resting = {"198.51.100.0": "gone"}
    assert wanted(policy("a"), pool=small, resting=resting) == {"198.51.100.1": "a"}
    assert wanted(policy("a"), fixed, pool=small, resting=resting) == {
        "198.51.100.0": "a", "198.51.100.1": "f"
    }  # fmt: skip
    found = wanted_addresses([policy("a"), policy("b"), fixed], {"legacy": small}, {}, {})
    assert found.full == (("b", 4),)


def test_the_ends_of_a_network_are_given_away_unless_hosts_answer_for_them() -> None:
    assert len(list(addresses_of(POOL, 4))) == 8
    on_link = replace(POOL, announce="L2")
    assert [str(a) for a in addresses_of(on_link, 4)][::5] == ["198.51.100.1", "198.51.100.6"]
    assert next(addresses_of(on_link, 6)) == ip_address("2001:db8:100::1")
    assert sum(1 for _ in addresses_of(POOL, 6)) == 1 << 16


def test_of_two_pools_that_overlap_the_older_one_has_the_network() -> None:
    older = EgressPool("z", (ip_network("198.51.100.0/24"),), created="2026-01-01T00:00:00+00:00")
    pools, [finding] = accepted([replace(POOL, origin="legacy.yaml"), older])
    assert {name: pool.cidrs for name, pool in pools.items()} == {"z": older.cidrs, "legacy": (V6,)}
    assert (finding.code, finding.object, finding.field) == ("M210", "legacy.yaml", "spec.cidrs[0]")


def test_routers_hear_of_pools_that_say_so_and_of_addresses_outside() -> None:
    address = ip_address("198.51.100.1")
    assert is_announced(address, [POOL])
    assert is_announced(address, [])
    assert not is_announced(address, [replace(POOL, announce="None")])
    assert not is_announced(address, [replace(POOL, announce="L2")])


ALL_NOUNS = (claims.NOUN, claims.CARRIER, claims.DRAINING, "block")


class Cluster:
    """The controller of egress, its claims being granted at once."""

    def __init__(self, *policies: EgressPolicy, pools: Iterable[EgressPool] = (POOL,)) -> None:
        self.objects = objects(policies, nodes=NODES)
        self.objects[POOLS].replace({one.name: one for one in pools})
        self.own, self.loop = Own("east"), Loop()
        self.egress = EgressController("east", EgressSettings(), self.objects, self.own)
        self.own.synced()
        self.egress.derive(self.loop)
        self._epoch = 0
        #: Nouns whose claims the store makes and gives back before the others.
        self.first: Sequence[str] = ()
        self.settle()

    def settle(self) -> None:
        for number in range(4):
            self.loop.derive_all()
            self._grant(self.first if self.first and not number else ALL_NOUNS)

    def _grant(self, nouns: Sequence[str]) -> None:
        wants = {want for table in self.egress.wants for want in table.rows}
        for noun in nouns:
            held = self.own.claims_of(noun).held
            of_noun = {want for want in wants if want.noun == noun}
            owners = {(claim.pool, claim.owner) for claim in held.rows.values()}
            gone = {(want.pool, want.owner) for want in of_noun}
            held.delete([k for k, c in held.rows.items() if (c.pool, c.owner) not in gone])
            for want in of_noun:
                if (want.pool, want.owner) not in owners:
                    self._epoch += 1
                    number = named_number(want) if noun == claims.NOUN else self._epoch
                    number = 0 if noun == claims.DRAINING else number  # the only one there is
                    key = ClaimKey(noun, want.pool, number or 0)
                    held.upsert(
                        {key: Claim(*(noun, want.pool, key.number, want.owner, self._epoch))}
                    )

    def cover(self, node: str) -> None:
        """A pod of the node that every policy covers."""
        key = PodKey("east", "shop", node)
        self.objects[PODS].upsert({key: Pod("east", "shop", node, node)})
        self.settle()

    def addresses(self) -> dict[str, list[str]]:
        rows = self.egress.listings()["egress"]()
        return {f"{row['policy']} {row['state']}": row["addresses"] for row in rows}

    def carriers(self, address: str) -> list[str]:
        held = self.own.claims_of(claims.CARRIER).held.rows.values()
        return sorted(claim.owner for claim in held if claim.pool == address)

    def report(self, address: str, ports: int, *nodes: str) -> None:
        one = ip_address(address)
        epochs = {
            claim.epoch
            for claim in self.own.claims_of(claims.DRAINING).held.rows.values()
            if claim.pool == address
        }
        for node in nodes:
            self.own.draining.upsert({(node, one): Draining(ports, max(epochs, default=0))})
        self.settle()

    def findings(self) -> dict[str, str]:
        return {finding.code: finding.field for finding in self.egress.findings()}


def test_an_address_drains_until_every_node_has_said_that_nothing_has_it() -> None:
    it = Cluster(policy("erp"))
    assert it.addresses() == {"erp active": ["198.51.100.0"]}
    assert it.carriers("198.51.100.0") == ["east-1", "east-2"]
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    assert it.addresses() == {"erp draining": ["198.51.100.0"]}
    assert it.carriers("198.51.100.0") == ["east-1", "east-2"]
    it.report("198.51.100.0", 0, "east-1")
    assert it.addresses() == {"erp draining": ["198.51.100.0"]}, "east-2 has said nothing"
    it.report("198.51.100.0", 3, "east-2")
    assert it.addresses() == {"erp draining": ["198.51.100.0"]}
    it.report("198.51.100.0", 0, "east-2")
    assert (it.addresses(), it.carriers("198.51.100.0")) == ({}, [])
    assert not [want for table in it.egress.wants for want in table.rows]


def test_a_node_that_says_nothing_keeps_a_drain_until_its_object_is_deleted() -> None:
    it = Cluster(policy("erp"))
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    it.report("198.51.100.0", 0, "east-1")
    assert it.addresses() == {"erp draining": ["198.51.100.0"]}
    it.objects[kubernetes.NODES].delete([NodeKey("east", "east-2")])
    it.settle()
    assert it.addresses() == {}


@pytest.mark.parametrize("first", [[claims.NOUN], [claims.CARRIER], [claims.DRAINING], ["block"]])
def test_an_address_is_free_whichever_of_its_claims_goes_first(first: list[str]) -> None:
    it = Cluster(policy("erp"))
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    it.first = first
    it.report("198.51.100.0", 0, "east-1", "east-2")
    assert (it.addresses(), it.carriers("198.51.100.0")) == ({}, [])
    assert not [want for table in it.egress.wants for want in table.rows]


def test_an_address_is_given_back_when_firewalls_know_that_it_has_gone() -> None:
    it, one = Cluster(policy("erp")), ip_address("198.51.100.0")
    it.own.listed.upsert({one: Listed(("dc",), acknowledged=True)})
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    it.report(str(one), 0, "east-1", "east-2")
    assert it.addresses() == {"erp draining": [str(one)]}, "the feed lists it"
    it.own.listed.upsert({one: Listed(("dc",), waits=("pan",), leaving=True)})
    it.settle()
    assert (it.addresses(), it.carriers(str(one))) == ({}, []), "nothing of it is in use"
    (kept,) = it.own.claims_of(claims.NOUN).held.rows.values()
    assert claims.policy_of(kept.owner) == "erp"
    late = policy("late")
    it.objects[POLICIES].upsert({"late": late})
    it.settle()
    assert it.addresses() == {"late active": ["198.51.100.1"]}, "it is nobody else's yet"
    it.own.listed.delete([one])
    it.settle()
    assert len(it.own.claims_of(claims.NOUN).held.rows) == 1


def test_what_was_said_in_an_earlier_drain_counts_for_nothing() -> None:
    it = Cluster(policy("erp"))
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    it.report("198.51.100.0", 0, "east-1")
    it.objects[POLICIES].upsert({"erp": policy("erp")})
    it.settle()
    assert it.addresses() == {"erp active": ["198.51.100.0"]}, "it has its former address"
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    it.report("198.51.100.0", 0, "east-2")
    assert it.addresses() == {"erp draining": ["198.51.100.0"]}


def test_fixed_addresses_drain_likewise_and_blocks_stay_with_their_nodes() -> None:
    it = Cluster(policy("erp", pool="", addresses=(ip_address("203.0.113.9"),)), pools=())
    block = Claim("block", "203.0.113.9", 5, "east-1/0", 1)
    it.own.claims_of("block").held.upsert({ClaimKey("block", "203.0.113.9", 5): block})
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    assert it.addresses() == {"erp draining": ["203.0.113.9"]}
    assert Want("block", "203.0.113.9", "east-1/0") in it.egress.wants[0].rows
    it.own.demand.upsert({"east-1": {}})
    it.settle()
    assert Want("block", "203.0.113.9", "east-1/0") in it.egress.wants[0].rows
    it.report("203.0.113.9", 0, "east-1", "east-2")
    assert not it.egress.wants[0].rows


def test_a_policy_without_a_gateway_leaves_its_address_on_those_that_had_it() -> None:
    it = Cluster(policy("erp"))
    nobody = replace(policy("erp"), gateways=Selector(()), max_gateways=0)
    it.objects[POLICIES].upsert({"erp": nobody})
    it.settle()
    assert it.addresses() == {"erp waiting": ["198.51.100.0"]}
    assert it.carriers("198.51.100.0") == ["east-1", "east-2"]


def test_another_pool_gives_another_address_and_the_former_one_drains() -> None:
    other = EgressPool("other", (ip_network("203.0.113.0/30"),))
    it = Cluster(policy("erp"), pools=(POOL, other))
    it.objects[POLICIES].upsert({"erp": policy("erp", pool="other")})
    it.settle()
    assert it.addresses() == {"erp active": ["203.0.113.0"], "erp draining": ["198.51.100.0"]}


def test_mistakes_about_pools_name_the_object_and_the_field() -> None:
    it = Cluster(policy("erp", pool="lost"))
    assert it.findings() == {"M212": "spec.pool", "E303": "addresses (IPv4)"}
    full = EgressPool("legacy", (ip_network("198.51.100.0/32"),))
    it = Cluster(policy("a"), policy("b", to="192.0.3.0/24"), pools=(full,))
    assert it.findings() == {"M213": "spec.pool", "E303": "addresses (IPv4)"}
    outside = policy("f", pool="", addresses=(ip_address("203.0.113.9"),))
    assert Cluster(outside).findings() == {"M211": "spec.addresses[0]"}
    assert Cluster(outside, pools=()).findings() == {}
    denied = replace(POOL, deny=(ip_address("203.0.113.9"),))
    assert Cluster(outside, pools=(denied,)).findings() == {
        "M214": "spec.addresses[0]", "E303": "addresses (IPv4)"
    }  # fmt: skip


def test_a_policy_of_a_pool_of_another_cluster_gets_no_address() -> None:
    it = Cluster(policy("erp", pool="east/legacy"))
    assert it.addresses() == {"erp waiting": []}
