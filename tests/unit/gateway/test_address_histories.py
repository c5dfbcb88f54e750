"""Addresses by change and made anew are the same, after each step of a random history."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.controller import EgressController
from gateway.policy import POLICIES
from gateway.pool import POOLS
from gateway.settings import EgressSettings
from mesh.core.model import Listed, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES
from tests.unit.gateway.test_egress_pools import POOL, Cluster, policy

NAMES = ("erp", "crm", "web")
FIXED = ip_address("203.0.113.9")
ADDRESSES = (FIXED, *(ip_address(f"198.51.100.{n}") for n in range(4)))
STEPS = 25


def tables(egress: EgressController) -> dict[str, Any]:
    addresses = egress.addresses
    every: tuple[Table[Any, Any], ...] = (*egress.wants, addresses.draining, addresses.carried)
    return {table.name: (table.synced, dict(table.rows)) for table in every}


def anew(it: Cluster) -> dict[str, Any]:
    """What a controller that starts now makes of the same tables."""
    egress, loop = EgressController("east", EgressSettings(), it.objects, it.own), Loop()
    egress.derive(loop)
    loop.derive_all()
    return tables(egress)


def change(it: Cluster, choose: random.Random) -> None:
    """Something that users, nodes or feeds do."""
    address, name = choose.choice(ADDRESSES), choose.choice(NAMES)
    drains = choose.choice([*it.egress.addresses.draining.rows] or ADDRESSES)
    third = Node("east", "east-3", (ip_address("10.99.0.13"),))
    key = NodeKey("east", "east-3")
    leaving = choose.random() < 0.5
    ports = choose.choice((0, 0, 3))
    nodes = ("east-1", "east-2", "east-3")[: choose.choice((1, 2, 2, 3))]
    policies, pools, listed = it.objects[POLICIES], it.objects[POOLS], it.own.listed
    acts: list[Callable[[], object]] = [
        lambda: policies.delete([name]),
        lambda: policies.upsert({name: policy(name)}),
        lambda: policies.upsert({name: policy(name, pool="", addresses=(FIXED,))}),
        lambda: pools.upsert({POOL.name: replace(POOL, deny=(address,))}),
        lambda: listed.upsert({address: Listed(("dc",), leaving=leaving)}),
        lambda: listed.delete([address]),
        lambda: it.objects[NODES].upsert({key: third}),
        lambda: it.objects[NODES].delete([key]),
        *[lambda: it.report(str(drains), ports, *nodes)] * 3,
    ]
    choose.choice(acts)()


@pytest.mark.parametrize("seed", range(6))
def test_one_change_gives_what_everything_gives(seed: int) -> None:
    it, choose = Cluster(policy("erp"), policy("crm")), random.Random(seed)
    for _ in range(STEPS):
        change(it, choose)
        it.loop.derive_all()
        assert tables(it.egress) == anew(it)
        it.settle()
        assert tables(it.egress) == anew(it)


def test_a_node_that_goes_is_asked_no_more() -> None:
    it = Cluster(policy("erp"))
    it.objects[POLICIES].delete(["erp"])
    it.settle()
    it.report("198.51.100.0", 0, "east-1")
    assert it.addresses() == {"erp draining": ["198.51.100.0"]}, "east-2 has said nothing"
    it.objects[NODES].delete([NodeKey("east", "east-2")])
    it.settle()
    assert it.addresses() == {}
    assert tables(it.egress) == anew(it)
