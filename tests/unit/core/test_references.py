"""Rows that refer to rows of another map, under failures, full maps and many changes.

The story is that of classes (rows (class, network)) and pods that name a class. After every
single write or delete of a map, each pod's row names a class that is there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from mesh.core.groups import By, To
from mesh.core.reconcile import AppliedRows, Loop, Refers
from mesh.core.table import Table
from tests.unit.core.kernels import FakeMap, simulate, tokens

Class = tuple[int, int]
Pod = tuple[int | None, int]


class Node:
    """Two tables, two maps, one loop."""

    def __init__(self, seed: int, size: int = 1_000_000, capacity: int | None = None) -> None:
        self.choose = random.Random(seed)
        self.loop = Loop()
        self.classes: Table[Class, int] = Table("class")
        self.pods: Table[int, Pod] = Table("pod")
        self.marked: Table[int, Pod] = Table("marked")
        self.class_map, self.pod_map = FakeMap(self.choose, size), FakeMap(self.choose)
        self.to_classes: AppliedRows[Class, int] = self.loop.apply(
            self.classes,
            self.class_map,
            token=lambda key: key[0],
            capacity=capacity,
            rank=lambda key, _row: key[0],
            meaning="pods of these classes reach nothing",
        )
        left_out = self.to_classes.left_out
        self.loop.group(self.marked, marked, By(self.pods), To(left_out, class_of))
        refers = [Refers(self.to_classes, tokens)]
        self.to_pods = self.loop.apply(self.marked, self.pod_map, refers=refers)
        self.class_map.check = self.pod_map.check = self.check

    def check(self) -> None:
        there = {number for number, _ in self.class_map.rows}
        named = {row[0] for row in self.pod_map.rows.values()} - {None}
        assert named <= there, f"pods name {named - there}"

    def event(self) -> None:
        choose, number = self.choose, self.choose.randrange(6)
        kind = choose.random()
        if kind < 0.3:
            self.classes.upsert({(number, choose.randrange(3)): choose.randrange(5)})
        elif kind < 0.45:
            kept = {row[0] for row in self.pods.rows.values()}
            gone = [key for key in self.classes.rows if key[0] not in kept]
            self.classes.delete(gone[: choose.randrange(3) + 1])
        elif kind < 0.55:
            spare = [key for key in self.classes.rows if (key[0], 1 - key[1]) in self.classes.rows]
            self.classes.delete(spare[:1])
        elif kind < 0.85:
            classes = [None, *{key[0] for key in self.classes.rows}]
            self.pods.upsert({choose.randrange(8): (choose.choice(classes), choose.randrange(9))})
        else:
            self.pods.delete([choose.randrange(8)])

    def desired_classes(self) -> dict[Class, int]:
        out = self.to_classes.left_out.rows
        return {key: row for key, row in self.classes.rows.items() if key[0] not in out}


def class_of(_pod: int, row: Pod) -> int | None:
    return row[0]


def marked(pod: int, row: Pod, left_out: object) -> dict[int, Pod]:
    """A pod whose class has no room gets a row that names none."""
    return {pod: (None, row[1]) if left_out else row}


async def settle(it: Node, until: Callable[[], bool], what: str) -> None:
    for _ in range(20_000):
        if until():
            return
        await asyncio.sleep(0.001)
    pytest.fail(f"{what}: {it.to_classes.report} {it.to_pods.report}")


def story(it: Node, tell: Callable[[Node], Awaitable[None]]) -> None:
    async def run() -> None:
        task = asyncio.create_task(it.loop.run())
        telling = asyncio.create_task(tell(it))
        done, _ = await asyncio.wait([task, telling], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        for one in done:
            one.result()

    simulate(run())


def calm(it: Node) -> Callable[[], bool]:
    """Whether both maps hold exactly what is desired and has room."""

    def reached() -> bool:
        return (
            it.class_map.rows == it.desired_classes()
            and it.pod_map.rows == it.marked.rows
            and it.to_classes.current
            and it.to_pods.current
        )

    return reached


async def history(it: Node) -> None:
    """Two hundred events, with rows that fail, and a map that is away for a while."""
    choose = it.choose
    it.classes.mark_synced()
    it.pods.mark_synced()
    for number in range(200):
        it.event()
        if number % 40 == 0:
            it.class_map.failing = choose.choice([0, 0, 0.3])
            it.pod_map.failing = choose.choice([0, 0, 0.3])
        if number % 70 == 69:
            it.class_map.away = not it.class_map.away
        if choose.random() < 0.02:
            it.to_pods.recheck()
        for _ in range(choose.choice([0, 0, 1, 3, 12])):
            await asyncio.sleep(choose.choice([0, 0, 0.003]))
    it.class_map.away = it.pod_map.away = False
    it.class_map.failing = it.pod_map.failing = 0
    await settle(it, calm(it), "nothing fails any more")


@pytest.mark.parametrize("seed", range(15))
def test_no_pod_ever_names_a_class_that_is_not_there(seed: int) -> None:
    story(Node(seed), history)


@pytest.mark.parametrize("seed", range(15))
def test_nor_when_the_classes_do_not_all_fit(seed: int) -> None:
    it = Node(seed, size=7, capacity=7)
    story(it, history)
    assert it.class_map.rows.keys() == it.desired_classes().keys()


@pytest.mark.parametrize("seed", range(15))
def test_nor_when_rows_of_others_take_room_that_nobody_counted(seed: int) -> None:
    it = Node(seed, size=5, capacity=7)
    story(it, history)
    for number in {key[0] for key in it.class_map.rows}:
        rows = {key for key in it.classes.rows if key[0] == number}
        assert rows <= it.class_map.rows.keys(), "a class is there whole or not at all"


def test_only_rows_that_refer_to_something_missing_wait() -> None:
    async def tell(it: Node) -> None:
        it.classes.replace({(1, 0): 1})
        it.pods.replace({1: (1, 0), 2: (2, 0), 3: (None, 0)})
        await settle(it, lambda: len(it.pod_map.rows) == 2, "the two others are written")
        assert it.to_pods.report.waiting == 1
        it.classes.upsert({(2, 0): 1})
        await settle(it, calm(it), "the class has come")

    story(Node(1), tell)


def test_a_failing_class_stops_no_pod_of_another() -> None:
    async def tell(it: Node) -> None:
        it.classes.replace({(1, 0): 1})
        it.pods.replace({})
        await settle(it, calm(it), "a class")
        it.class_map.failing = 1
        it.classes.upsert({(2, 0): 1})
        it.pods.upsert({2: (2, 0)})
        await asyncio.sleep(1)
        reads = it.class_map.reads
        it.pods.upsert({1: (1, 0)})
        await asyncio.sleep(0.1)
        assert it.pod_map.rows == {1: (1, 0)}
        assert it.class_map.reads == reads, "only the row that failed is tried again"
        assert list(it.to_classes.report.errors) == ["(2, 0)"]
        it.class_map.failing = 0
        await settle(it, calm(it), "the class has come")

    story(Node(1), tell)


def test_a_full_map_is_one_line_and_costs_no_rounds() -> None:
    async def tell(it: Node) -> None:
        it.classes.replace({(number, 0): 1 for number in range(10)})
        it.pods.replace({number: (number, 0) for number in range(10)})
        await settle(it, calm(it), "what fits")
        assert set(it.class_map.rows) == {(number, 0) for number in range(4)}
        full = it.to_classes.report.full
        assert full is not None
        assert (full.map, full.demand, full.capacity) == ("a map", 10, 4)
        assert not it.to_classes.report.errors
        reads, tried = it.class_map.reads, it.class_map.tried
        for number in range(20):
            it.classes.upsert({(0, 0): number})
            await asyncio.sleep(0.1)
        assert (it.class_map.reads, it.class_map.tried - tried) == (reads, 20)
        it.pods.delete([0, 1])
        it.classes.delete([(0, 0), (1, 0)])
        await settle(it, calm(it), "the next ones")
        assert set(it.class_map.rows) == {(number, 0) for number in range(2, 6)}

    story(Node(1, size=4, capacity=4), tell)
    story(Node(1, size=4, capacity=8), tell)


class Late:
    """How long after its change each row arrived in a map."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.since: dict[tuple[str, int], tuple[float, object]] = {}
        self.worst = 0.0
        self.arrived = 0

    def desire(self, name: str, key: int, row: object) -> None:
        now = self.clock()
        self.since[name, key] = now, row

    def look(self, name: str, rows: dict[int, object]) -> None:
        """Note what has arrived; a row that is desired absent has None."""
        for (of, key), (since, row) in list(self.since.items()):
            if of == name and rows.get(key) == row:
                del self.since[of, key]
                self.arrived += 1
                self.worst = max(self.worst, self.clock() - since)


class SlowMap(FakeMap):
    """Each write and each delete takes 2 ms."""

    async def _pause(self) -> None:
        await asyncio.sleep(0.002)


def pair(*, by_row: bool) -> tuple[Loop, list[Table[int, object]], list[FakeMap]]:
    choose = random.Random(1)
    one, two = Table[int, object]("one"), Table[int, object]("two")
    maps: list[FakeMap] = [SlowMap(choose), SlowMap(choose)]
    loop = Loop()
    first = loop.apply(one, maps[0])
    if by_row:
        refers = [Refers[int, object](first, named)]
        loop.apply(two, maps[1], refers=refers)
    else:
        loop.apply(two, maps[1], after=[first])
    return loop, [one, two], maps


def named(_key: int, row: object) -> Iterable[int]:
    return [row] if isinstance(row, int) else []


@pytest.mark.parametrize("how", ["after", "refers"])
def test_under_200_changes_a_second_everything_arrives_within_a_second(how: str) -> None:
    """A class and a pod that names it come, and 0.5 s later both go, for a minute."""

    async def run() -> None:
        loop, (one, two), maps = pair(by_row=how == "refers")
        clock = asyncio.get_running_loop().time
        late = Late(clock)
        one.mark_synced()
        two.mark_synced()
        task = asyncio.create_task(loop.run())
        for number in range(60 * 100):
            one.upsert({number: number})
            late.desire("one", number, number)
            two.upsert({number: number})
            late.desire("two", number, number)
            gone = number - 50
            if gone >= 0:
                two.delete([gone])
                one.delete([gone])
                late.desire("two", gone, None)
                late.desire("one", gone, None)
            await asyncio.sleep(0.01)
            late.look("one", maps[0].rows)
            late.look("two", maps[1].rows)
        task.cancel()
        assert late.arrived > 20_000
        assert late.worst < 1
        assert all(clock() - since < 1 for since, _ in late.since.values())

    simulate(run())


class HookedMap(FakeMap):
    """Something happens while rows are being written."""

    hook: Callable[[], Awaitable[None]] | None = None

    async def upsert(self, rows: Any) -> Any:
        hook, self.hook = self.hook, None
        if hook:
            await hook()
        return await super().upsert(rows)


def test_a_third_target_that_looks_lets_no_row_go_that_is_still_named() -> None:
    """Pods name classes, classes name gateways. The gateways look while classes are written.

    By then a row of a class is not desired, and pods have another class: both are learned at once.
    """
    choose = random.Random(1)
    loop = Loop()
    gateways: Table[int, int] = Table("gateway")
    classes: Table[Class, int] = Table("class")
    pods: Table[int, Pod] = Table("pod")
    maps = FakeMap(choose), HookedMap(choose), FakeMap(choose)
    to_gateways = loop.apply(gateways, maps[0])
    to_classes = loop.apply(
        classes,
        maps[1],
        token=lambda key: key[0],
        refers=[Refers(to_gateways, lambda _, row: (row,))],
    )
    to_pods = loop.apply(pods, maps[2], refers=[Refers(to_classes, tokens)])

    async def change() -> None:
        classes.replace({(1, 0): 7, (2, 0): 7, (3, 0): 7})
        pods.replace({5: (2, 0)})
        await to_gateways.round()

    async def run() -> None:
        gateways.replace({7: 0})
        classes.replace({(1, 0): 7, (1, 1): 7, (2, 0): 7})
        pods.replace({5: (1, 0)})
        for one in (to_gateways, to_classes, to_pods):
            await one.round()
        classes.upsert({(3, 0): 7})
        maps[1].hook = change
        await to_classes.round()
        assert maps[2].rows[5][0] == 1
        assert (1, 1) in maps[1].rows, "the row of a class went before its pod had another one"
        await to_pods.round()
        await to_classes.round()
        assert (1, 1) not in maps[1].rows

    simulate(run())
