"""An agent that begins anew, before it has read the store: covered pods stay where they were led.

Addresses are acknowledged, exchanged and claimed in the store, so an agent without it knows of
none. Maps outlive the agent; a packet finds what the last one has written.
"""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from gateway.policy import EgressPolicy
from gateway.rows import Action
from mesh.core.model import IP, Listed
from tests.fixtures.rooms import policy
from tests.unit.agent.covered import Covered
from tests.unit.agent.test_full_egress import settle, story

ONE = replace(policy("p1", ["web"], 1, "a"), activation="Acknowledged")
OTHER = replace(ONE, addresses=(ip_address("198.51.1.20"), ip_address("2001:db8:100:1::20")))
BOTH = replace(ONE, addresses=(*OTHER.addresses, *ONE.addresses))
POOLED = replace(ONE, activation="Immediate", pool="p", addresses=())
YES = Listed(("p1",), acknowledged=True)

Rows = dict[str, tuple[Action, IP | None]]


def found(it: Covered) -> tuple[int, Rows]:
    """What a packet of the pod finds: its class, and the rows of that."""
    maps = it.maps.of
    (number,) = {dict(row.marks)["egress_class"] for row in maps["mg_pod_addr"].rows.values()}
    return number, {
        str(key.network): (row.action, row.address)
        for key, row in maps["mg_egress"].rows.items()
        if key.egress_class == number
    }


def led_to(one: EgressPolicy) -> Rows:
    return {
        str(network): (Action.TRANSLATE, address)
        for network, address in zip(one.destinations, one.addresses, strict=True)
    }


def left(tmp: Path, one: EgressPolicy, *lent: IP) -> Covered:
    """What an agent has left with a pod that has ports of ``lent``; firewalls have all addresses.

    It is dead by now.
    """
    it = Covered(random.Random(1), {}, tmp / "first")
    it.put(1, "web")
    it.put_policy(one)
    it.store.listed.upsert(dict.fromkeys(one.addresses, YES))
    it.egress.wired = it.pods.local_pod

    async def tell(_: Covered) -> None:
        await settle(it)
        (pod,) = it.pods.local_pod.rows.values()
        it.egress.lent.held.replace(dict.fromkeys(pod.addresses, lent))
        await settle(it)

    story(it, tell)
    return it


def next_of(it: Covered, tmp: Path, one: EgressPolicy) -> Covered:
    """The next agent, over the same maps; it has read the objects and the kernel, no store."""
    later = Covered(random.Random(2), {}, tmp / "later", synced=False)
    later.maps, later.names = it.maps, dict(it.names)
    later.egress.wired = later.pods.local_pod
    later.pods.held = dict(it.pods.held)
    later.pods.take_held(it.maps.of["mg_pod_addr"].rows)
    later.put(1, "web")
    later.put_policy(one)
    return later


def hear_objects(it: Covered) -> None:
    for table in (*it.objects.tables().values(), it.pods.devices):
        table.mark_synced()


@pytest.mark.parametrize("now", [ONE, OTHER, BOTH], ids=["as it was", "exchanged", "both"])
@pytest.mark.parametrize("then", [ONE, BOTH], ids=["alone", "second"])
def test_a_pod_keeps_class_and_address_until_feeds_are_known(
    tmp_path: Path, then: EgressPolicy, now: EgressPolicy
) -> None:
    """It had ports of its address, which was the policy's only one or the second one."""
    it = left(tmp_path, then, *ONE.addresses)
    before, seen = found(it), list[Rows]()
    assert before[1] == led_to(ONE)
    later = next_of(it, tmp_path, now)

    async def tell(_: Covered) -> None:
        for one in later.maps.of.values():
            one.check = lambda: seen.append(found(later)[1])
        later.egress.lent.held.replace(it.egress.lent.held.rows)
        hear_objects(later)
        await settle(later, "without the store")
        assert found(later) == before
        later.store.listed.upsert(dict.fromkeys((*ONE.addresses, *OTHER.addresses), YES))
        later.sync()
        await settle(later, "with the store")

    story(later, tell)
    assert found(later)[1] == led_to(OTHER if now is OTHER else ONE)
    assert {action for rows in seen for action, _ in rows.values()} <= {Action.TRANSLATE}


def test_a_pod_of_a_pool_keeps_its_further_address_until_claims_are_known(tmp_path: Path) -> None:
    it = left(tmp_path, replace(BOTH, activation="Immediate"), *ONE.addresses)
    before = found(it)
    assert before[1] == led_to(ONE)
    later = next_of(it, tmp_path, POOLED)

    async def tell(_: Covered) -> None:
        hear_objects(later)
        await settle(later, "without the store")

    story(later, tell)
    assert found(later) == before


def test_a_pod_that_another_policy_covers_by_now_is_led_to_the_same_address(tmp_path: Path) -> None:
    it = left(tmp_path, ONE)
    later = next_of(it, tmp_path, OTHER)
    more = policy("p2", ["web"], 1, "a")
    later.put_policy(more)

    async def tell(_: Covered) -> None:
        hear_objects(later)
        await settle(later, "without the store")

    story(later, tell)
    assert found(later)[1] == led_to(ONE) | led_to(more)


def test_an_address_that_no_firewall_has_is_not_used(tmp_path: Path) -> None:
    """The last agent has refused it, and so does the next one."""
    it = Covered(random.Random(1), {}, tmp_path / "first")
    it.put(1, "web")
    it.put_policy(ONE)

    async def tell(one: Covered) -> None:
        await settle(one)

    story(it, tell)
    before = found(it)
    assert {action for action, _ in before[1].values()} == {Action.NOT_ACKNOWLEDGED}
    later = next_of(it, tmp_path, OTHER)

    async def again(_: Covered) -> None:
        hear_objects(later)
        await settle(later, "without the store")

    story(later, again)
    assert found(later) == before
