"""A node whose egress maps have not room for everything: nothing leaves untranslated.

Each story is told with many seeds. ``Covered.check`` looks after every single write and delete.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.policy import POLICIES
from gateway.rows import Action
from mesh.objects.kubernetes import PODS
from tests.fixtures.rooms import policy
from tests.unit.agent.covered import NO_ROOM, PLENTY, Covered
from tests.unit.core.kernels import simulate

Story = Callable[[Covered], Awaitable[None]]


def story(it: Covered, tell: Story) -> None:
    async def run() -> None:
        await it.begin()
        task = asyncio.create_task(it.loop.run())
        telling = asyncio.create_task(tell(it))
        done, _ = await asyncio.wait([task, telling], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        for one in done:
            one.result()

    simulate(run())


async def settle(it: Covered, what: str = "calm") -> None:
    for _ in range(5_000):
        await asyncio.sleep(0.01)
        if it.calm:
            return
    pytest.fail(f"{what}: {[one.report for one in it.loop.applied]}")


def covered_pods_are_safe(it: Covered) -> None:
    """Each covered pod has the class of its policies or the one that drops, never none."""
    classes, without = it.egress.classes.rows, it.egress.no_class.rows
    for key, number in it.classes().items():
        own = classes[it.egress.coverage.covered.rows[key]]
        assert number == (NO_ROOM if own in without else own), key


def no_room_is_wasted(it: Covered, room: int) -> None:
    """What is left out would not fit beside what is there."""
    used = len(it.maps.of["mg_egress"].rows)
    for number in it.egress.no_class.rows:
        assert used + len(it.networks(number)) > room


async def history(it: Covered) -> None:
    """Sixty events, with rows that fail for a while."""
    for number in range(60):
        it.event(number)
        if number % 15 == 0:
            for one in it.maps.of.values():
                one.failing = it.choose.choice([0, 0, 0.3])
        for _ in range(it.choose.choice([0, 0, 1, 3, 12])):
            await asyncio.sleep(it.choose.choice([0, 0, 0.003]))
    for one in it.maps.of.values():
        one.failing = 0
    await settle(it, "after the history")
    covered_pods_are_safe(it)


async def room_appears(it: Covered) -> None:
    """All policies but one go: that one fits."""
    for name in sorted(it.objects[POLICIES].rows)[1:]:
        it.delete_policy(name)
    await settle(it, "room for all")
    assert not it.egress.no_class.rows
    assert not it.egress.no_egress_address.rows


def like(it: Covered, state: Path) -> Covered:
    """A node with room for everything and the same objects."""
    twin = Covered(random.Random(0), {}, state)
    twin.policies = it.policies
    for one in it.objects[POLICIES].rows.values():
        twin.put_policy(one)
    for key, pod in it.objects[PODS].rows.items():
        twin.put(int(key.name.removeprefix("pod")), dict(pod.labels)["app"])
    return twin


def rows_of_pods(it: Covered) -> dict[object, object]:
    """What the maps say about each pod: the actions of its class."""
    egress = it.maps.of["mg_egress"].rows
    return {
        (key, entry.network): egress[entry]
        for key, number in it.classes().items()
        for entry in it.networks(number)
    }


#: Capacities of maps by seed, and how many entries fewer the kernel takes.
SIZES = (
    ({"mg_egress": 6}, 0),
    ({"mg_egress": 9}, 0),
    ({"mg_egress": 9}, 3),
    ({"mg_egress": 12, "mg_egress_addr": 3}, 0),
    ({"mg_egress": 9, "mg_gateway": 2}, 0),
    ({"mg_egress_addr": 2, "mg_gateway": 3}, 0),
)


@pytest.mark.parametrize("seed", range(36))
def test_no_covered_pod_is_uncovered_while_maps_are_full(seed: int, tmp_path: Path) -> None:
    told, fewer = SIZES[seed % len(SIZES)]
    it = Covered(random.Random(seed), told, tmp_path / "it")
    it.maps.of["mg_egress"].size -= fewer

    async def tell(it: Covered) -> None:
        await history(it)
        no_room_is_wasted(it, told.get("mg_egress", PLENTY) - fewer)
        await room_appears(it)
        covered_pods_are_safe(it)

    story(it, tell)
    twin = like(it, tmp_path / "twin")
    story(twin, settle)
    assert twin.classes() == it.classes()
    assert rows_of_pods(twin) == rows_of_pods(it)


def restarted(it: Covered, state: Path) -> Covered:
    """The next agent of the node: the maps are as the last one left them."""
    now = like(it, state)
    now.maps, now.names = it.maps, dict(it.names)
    now.pods.held = dict(it.pods.held)
    now.pods.take_held(it.maps.of["mg_pod_addr"].rows)
    return now


@pytest.mark.parametrize("seed", range(12))
def test_a_restarted_agent_keeps_who_has_room(seed: int, tmp_path: Path) -> None:
    it = Covered(random.Random(seed), SIZES[seed % 2][0], tmp_path / "it")
    story(it, history)
    now = restarted(it, tmp_path / "now")

    async def tell(now: Covered) -> None:
        await settle(now)
        covered_pods_are_safe(now)
        assert now.classes() == it.classes()

    story(now, tell)


def test_a_class_keeps_its_place_and_the_next_one_drops(tmp_path: Path) -> None:
    async def tell(it: Covered) -> None:
        it.put_policy(policy("p1", ("web",), 2, "a"))
        it.put(1, "web")
        await settle(it)
        first = it.class_of("pod1")
        it.put_policy(policy("p2", ("api",), 1, "a"))
        it.put(2, "api")
        it.put(3, "mail")
        await settle(it)
        assert (it.class_of("pod1"), it.class_of("pod2"), it.class_of("pod3")) == (
            first, NO_ROOM, 0,
        )  # fmt: skip
        full = it.loop.applied[-2].report.full
        assert full is not None
        assert (full.map, full.demand, full.capacity) == ("mg_egress", 6, 4)
        assert "EGRESS_NO_ROOM" in full.meaning
        it.delete_policy("p1")
        await settle(it)
        assert it.class_of("pod1") == 0
        assert it.class_of("pod2") not in (0, NO_ROOM)

    story(Covered(random.Random(1), {"mg_egress": 4}, tmp_path), tell)


def test_classes_that_no_pod_has_make_way(tmp_path: Path) -> None:
    async def tell(it: Covered) -> None:
        for number in range(1, 8):
            it.put_policy(policy(f"p{number}", ("web",), 1, "a"))
            it.put(1, "web")
            await settle(it)
            assert it.class_of("pod1") not in (0, NO_ROOM)
            it.delete_policy(f"p{number}")

    story(Covered(random.Random(1), {"mg_egress": 4}, tmp_path), tell)


def test_a_class_that_outgrows_the_map_drops_until_it_fits_again(tmp_path: Path) -> None:
    async def tell(it: Covered) -> None:
        it.put_policy(policy("p1", ("web",), 2, "a"))
        it.put(1, "web")
        await settle(it)
        number = it.class_of("pod1")
        it.put_policy(policy("p2", ("web",), 1, "a"))
        await settle(it)
        assert it.class_of("pod1") == NO_ROOM
        assert not it.maps.of["mg_egress"].rows
        it.delete_policy("p2")
        await settle(it)
        assert it.class_of("pod1") == number

    story(Covered(random.Random(1), {"mg_egress": 4}, tmp_path), tell)


@pytest.mark.parametrize("name", ["mg_egress_addr", "mg_gateway"])
def test_an_address_without_room_counts_as_one_without_a_gateway(name: str, tmp_path: Path) -> None:
    async def tell(it: Covered) -> None:
        it.put_policy(policy("p1", ("web",), 1, "a"))
        it.put(1, "web")
        await settle(it)
        it.put_policy(policy("p2", ("api",), 1, "a"))
        it.put(2, "api")
        await settle(it)
        egress = it.maps.of["mg_egress"].rows
        actions = {
            row.action for key, row in egress.items() if key.egress_class == it.class_of("pod2")
        }
        assert actions == {Action.NO_GATEWAY}
        it.delete_policy("p1")
        await settle(it)
        egress = it.maps.of["mg_egress"].rows
        actions = {
            row.action for key, row in egress.items() if key.egress_class == it.class_of("pod2")
        }
        assert actions == {Action.TRANSLATE}

    story(Covered(random.Random(1), {name: 2}, tmp_path), tell)


def test_a_change_in_a_full_map_costs_its_own_rows(tmp_path: Path) -> None:
    async def tell(it: Covered) -> None:
        for number in range(1, 4):
            it.put_policy(policy(f"p{number}", ("web", "api"), 1, "a"))
        it.put_policy(policy("p4", ("mail",), 1, "a"))
        it.put(1, "web")
        it.put(2, "mail")
        await settle(it)
        assert it.loop.applied[-2].report.full
        reads = {name: one.reads for name, one in it.maps.of.items()}
        tried = it.maps.of["mg_pod_addr"].tried
        for number in range(20):
            it.put(3 + number % 4, "mail" if number % 2 else "cart")
            await settle(it)
        assert {name: one.reads for name, one in it.maps.of.items()} == reads
        assert it.maps.of["mg_pod_addr"].tried - tried <= 20

    story(Covered(random.Random(1), {"mg_egress": 4}, tmp_path), tell)
