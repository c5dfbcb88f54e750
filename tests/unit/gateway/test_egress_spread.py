"""Spreading over addresses: which address a pod takes, and when a policy gets a further one."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

import pytest

from clustermesh.store.own import Own
from gateway.blocks import always_wanted, wants_of
from gateway.claims import (
    EMPTY,
    Fill,
    drain_key,
    egress_want,
    named_number,
    wanted_addresses,
    with_addresses,
)
from gateway.lending import Demand
from gateway.plan import egress_classes
from gateway.policy import EgressPolicy
from gateway.rows import EgressKey, egress_rows
from gateway.spread import Filling, Lent, crowded_blocks, is_full, words_of
from mesh.core.model import IP, Claim, ClaimKey
from tests.unit.gateway.test_egress_pools import POOL, Cluster, policy

A, B, C = (ip_address(f"198.51.100.{n}") for n in (0, 1, 2))
A6, B6 = ip_address("2001:db8:100::"), ip_address("2001:db8:100::1")
POD, OTHER = ip_address("10.1.0.2"), ip_address("10.1.0.3")
CROWDED = Fill(used=True, crowded=True, roomy=False)
HALF = Fill(used=True, crowded=False, roomy=False)
USED = Fill(used=True, crowded=False, roomy=True)


def out(*addresses: IP) -> EgressPolicy:
    return policy("out", pool="", addresses=addresses or (A, B, C, A6, B6))


def words(
    before: str | None = "out",
    held: Collection[IP] = (),
    full: Collection[IP] = (),
    without: Collection[IP] = (),
    lent: dict[IP, int] | None = None,
) -> str:
    node = Filling(lambda one: one not in without, full, lent or {})
    former = (before,) if before is not None else ()
    (word,) = words_of(("out",), former, {"out": out()}, held, node)
    return word


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "out"),
        ({"full": {A}}, f"out@{B}"),
        ({"full": {A, B}}, f"out@{C}"),
        ({"full": {A, A6}}, f"out@{B}@{B6}"),
        ({"full": {A}, "held": {A}}, "out"),  # with ports of it, the pod stays
        ({"full": {A}, "held": {A}, "before": f"out@{B}"}, "out"),
        ({"held": {B}}, f"out@{B}"),  # the agent begins anew, and the first one has room
        ({"held": {A, B}, "before": f"out@{B}"}, f"out@{B}"),
        ({"before": f"out@{B}"}, f"out@{B}"),
        ({"before": f"out@{B}", "full": {B}}, "out"),
        ({"full": {A}, "without": {B}}, f"out@{C}"),
        ({"full": {A}, "without": {B, C}}, "out"),
        ({"full": {A, B, C}}, "out"),
        ({"full": {A, B, C}, "before": f"out@{C}"}, f"out@{C}"),
        ({"full": {A, B, C}, "before": None, "lent": {A: 9, B: 7, C: 8}}, f"out@{B}"),
    ],
)
def test_a_pod_takes_one_address_and_stays_with_it(given: dict[str, object], word: str) -> None:
    assert words(**given) == word  # type: ignore[arg-type]


def test_pods_of_two_addresses_have_classes_and_rows_of_their_own() -> None:
    classes = egress_classes([("out",), (f"out@{B}@{B6}",)])
    rows = {}
    for word, number in classes.items():
        rows |= egress_rows(word, number, {"out": out()}, ("out",), {A, B, A6, B6})
    net = out().destinations[0]
    assert rows[EgressKey(classes["out",], net)].address == A
    assert rows[EgressKey(classes[f"out@{B}@{B6}",], net)].address == B
    gone = egress_rows((f"out@{B}",), 9, {"out": out()}, ("out",), {A, A6})
    assert gone[EgressKey(9, net)].address == A, "an address without a gateway leads nobody"


@pytest.mark.parametrize(
    ("lent", "blocks", "full"),
    [(0, 0, False), (307, 32, False), (308, 32, True), (24, 2, False), (25, 2, True)],
)
def test_an_address_is_full_at_60_percent_or_when_blocks_do_not_come(
    lent: int, blocks: int, *, full: bool
) -> None:
    """Of 32 blocks of 16 runs each; with two blocks, half of the spare one is in use."""
    assert is_full(lent, blocks, 32, 256) is full


def test_what_is_lent_is_counted_as_it_changes() -> None:
    lent = Lent()
    lent.begin([(A, 1, POD), (A, 2, POD), (B, 1, OTHER)])
    assert (lent.held.rows, lent.runs.rows) == ({POD: (A,), OTHER: (B,)}, {A: 2, B: 1})
    lent.take([(A, 1, POD, False), (B, 2, POD, True), (B, 1, OTHER, False)])
    assert (lent.held.rows, lent.runs.rows) == ({POD: (A, B)}, {A: 1, B: 1})
    lent.take([(A, 2, POD, False), (A, 2, OTHER, True), (A, 2, OTHER, True)])
    assert (lent.held.rows, lent.runs.rows) == ({POD: (B,), OTHER: (A,)}, {A: 1, B: 1})
    lent.take([(A, 2, OTHER, False), (A, 9, OTHER, False), (B, 2, POD, False)])
    assert (lent.held.rows, lent.runs.rows) == ({}, {})


def test_a_node_says_60_percent_only_when_it_uses_as_much() -> None:
    demand = Demand(crowded_blocks(32))
    said = []
    for used in (1, 2, 10, 19, 20):
        demand.look({A: used}, 0.0)
        said.append(demand.used[A])
    assert said == [1, 4, 19, 19, 40]


# Further addresses of a pool


def wanted(fills: dict[IP, Fill], *held: IP, size: int = 8) -> tuple[list[IP], bool]:
    """The addresses of the policy `a`, and whether it needs one that is not there."""
    cidrs = tuple(POOL.cidrs[0].subnets(new_prefix=33 - size.bit_length()))[:1]
    pool = POOL.__class__(POOL.name, cidrs)
    claimed = dict.fromkeys(held, "a")
    found = wanted_addresses([policy("a")], {pool.name: pool}, claimed, {}, fills)
    return sorted(found.addresses, key=int), bool(found.crowded)


def test_a_policy_gets_a_further_address_when_a_node_fills_those_it_has() -> None:
    assert wanted({}) == ([A], False)
    assert wanted({A: HALF}, A) == ([A], False)
    assert wanted({A: CROWDED}, A) == ([A, B], False)
    assert wanted({A: CROWDED}, A, B) == ([A, B], False)
    assert wanted({A: CROWDED, B: CROWDED}, A, B) == ([A, B, C], False)


def test_it_keeps_a_further_address_while_that_is_in_use_or_needed() -> None:
    assert wanted({A: HALF}, A, B) == ([A, B], False)
    assert wanted({A: USED, B: USED}, A, B) == ([A, B], False)
    assert wanted({A: USED, B: EMPTY}, A, B) == ([A], False)
    assert wanted({A: EMPTY, B: USED}, A, B) == ([A, B], False)


def test_a_pool_without_a_further_address_is_a_finding_and_takes_nothing_away() -> None:
    assert wanted({A: CROWDED, B: CROWDED}, A, B, size=2) == ([A, B], True)


def test_every_policy_has_an_address_before_another_has_two() -> None:
    pool = POOL.__class__(POOL.name, (POOL.cidrs[0],))
    small = pool.__class__(pool.name, tuple(pool.cidrs[0].subnets(new_prefix=31))[:1])
    found = wanted_addresses(
        [policy("a"), policy("b")], {pool.name: small}, {A: "a"}, {}, {A: CROWDED}
    )
    assert dict(found.addresses) == {A: "a", B: "b"}
    assert found.crowded == (("a", 4),)


def test_a_node_gets_blocks_of_a_further_address_when_it_fills_the_first() -> None:
    one = policy("a", addresses=(A, B))

    def places(**used: int) -> dict[str, int]:
        rows = {("east-1", ip_address(text)): n for text, n in used.items()}
        found = wants_of(("a", "east-1"), one, rows, 32)
        return {pool: sum(w.pool == pool for w in found) for pool in {w.pool for w in found}}

    assert places() == {str(A): 2}
    assert places(**{str(A): 19}) == {str(A): 20}
    assert places(**{str(A): 20}) == {str(A): 21, str(B): 2}
    assert places(**{str(B): 1}) == {str(A): 2, str(B): 2}
    assert always_wanted(one) == [A], "a new pod does not wait for ports of a further one"
    assert always_wanted(out(A, B)) == [A, B]


def test_an_address_that_drains_is_none_of_its_policy_any_more() -> None:
    wants = {one: egress_want(one, "a") for one in (A, B)}
    held = {
        ClaimKey(want.noun, want.pool, named_number(want) or 0): Claim(
            want.noun, want.pool, named_number(want) or 0, want.owner, 1
        )
        for want in wants.values()
    }
    drain = {drain_key(B): Claim("draining", str(B), 0, "draining", 2)}
    (row,) = with_addresses("a", policy("a"), held, POOL, {}, drain).values()
    assert row.addresses == (A,)
    both = drain | {drain_key(A): Claim("draining", str(A), 0, "draining", 2)}
    (row,) = with_addresses("a", policy("a"), held, POOL, {}, both).values()
    assert row.addresses == (A,), "its only one is better than none"


def test_the_controller_adds_and_drains_what_nodes_fill() -> None:
    it = Cluster(policy("erp"))
    own: Own = it.own
    own.demand.upsert({"east-1": {A: 20}})
    it.settle()
    it.settle()
    assert it.addresses() == {"erp active": [str(A), str(B)]}
    own.demand.upsert({"east-1": {A: 20, B: 1}})
    it.settle()
    own.demand.upsert({"east-1": {A: 2}})
    it.settle()
    it.settle()
    assert it.addresses() == {"erp active": [str(A)], "erp draining": [str(B)]}
    it.report(str(B), 0, "east-1", "east-2")
    assert it.addresses() == {"erp active": [str(A)]}
