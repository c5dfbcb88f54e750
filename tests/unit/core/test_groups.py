"""Derivations by group give what one run over everything gives, after each event and in slices."""

import asyncio
import random
from collections.abc import Callable, Mapping

import pytest

from mesh.core.groups import By, Grouped, To
from mesh.core.passes import SLICE_S
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from tests.unit.core.wirings import Wiring, event, storm, whole


class Ticking:
    """A CPU clock that goes on by ``step`` seconds with each look."""

    def __init__(self, step: float = SLICE_S) -> None:
        self.step = step
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize("seed", range(10))
def test_after_each_event_the_tables_are_those_of_a_whole_run(seed: int) -> None:
    choose = random.Random(seed)
    it = Wiring(seed, Loop())
    for table in it.sources():
        if choose.random() < 0.7:
            table.mark_synced()
    for number in range(120):
        event(choose, it.sources())
        if number % 50 == 49:
            storm(choose, choose.choice(it.sources()))
        if choose.random() < 0.7:
            it.loop.derive_all()
            assert it.state() == whole(seed, it)
    for table in it.sources():
        table.mark_synced()
    it.loop.derive_all()
    assert it.state() == whole(seed, it)


class Watching:
    """Looks through the gate again and again: each time the tables are those of a whole run."""

    def __init__(self, seed: int, step: float) -> None:
        self.seed = seed
        self.it = Wiring(seed, Loop(clock=Ticking(step)))
        self.looks = 0

    def look(self) -> None:
        self.looks += 1
        assert self.it.state() == whole(self.seed, self.it)

    async def watch(self) -> None:
        while True:
            await self.it.loop.gate.look(self.look)
            await asyncio.sleep(0)

    async def play(self, choose: random.Random) -> None:
        """Three hundred events with a storm among them, and late syncs."""
        sources = self.it.sources()
        for number in range(300):
            event(choose, sources)
            if number == 150:
                storm(choose, choose.choice(sources))
            for _ in range(choose.choice([0, 1, 1, 2, 5])):
                await asyncio.sleep(0)
        for table in sources:
            table.mark_synced()
        seen = self.looks
        assert seen > 3
        async with asyncio.timeout(5):
            while self.looks == seen:
                await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(10))
def test_who_looks_through_the_gate_sees_whole_states_while_events_go_on(seed: int) -> None:
    """Each group is a slice here, and events come between the slices."""

    async def run() -> None:
        choose = random.Random(seed)
        it = Watching(seed, choose.choice([SLICE_S, SLICE_S / 3]))
        jobs = (it.it.loop.run(), it.watch(), it.play(choose))
        tasks = [asyncio.create_task(job) for job in jobs]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for task in done:
            task.result()

    asyncio.run(run())


def test_a_slice_ends_and_the_output_changes_in_one_step() -> None:
    async def run() -> None:
        source: Table[int, int] = Table("source")
        double: Table[int, int] = Table("double")
        loop = Loop(clock=Ticking())
        loop.group(double, lambda key, row: {key: 2 * row} if row is not None else {}, By(source))
        sizes: list[int] = []
        turns = 0
        double.listen(lambda: sizes.append(len(double.rows)))
        source.replace(dict.fromkeys(range(100), 1))
        task = asyncio.create_task(loop.run())
        while not double.synced:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 20
        assert sizes[0] == 100
        task.cancel()

    asyncio.run(run())


def pressed(make_busy: Callable[[Table[int, int], int], object], *, whole: bool) -> None:
    """A derivation whose inputs change at each turn of the event loop still comes to its end."""

    async def run() -> None:
        source: Table[int, int] = Table("source")
        small: Table[int, int] = Table("small")
        out: Table[int, int] = Table("out")
        loop = Loop(clock=Ticking())
        loop.group(
            out,
            lambda key, row: {key: row} if row is not None else {},
            By(source),
            whole=[small] if whole else [],
        )
        source.replace(dict.fromkeys(range(50), -1))
        small.mark_synced()
        task = asyncio.create_task(loop.run())
        looked = asyncio.create_task(loop.gate.look(lambda: dict(out.rows)))
        for number in range(20_000):
            make_busy(small if whole else source, number)
            await asyncio.sleep(0)
            if looked.done():
                break
        assert len(looked.result()) == 50
        task.cancel()

    asyncio.run(run())


def test_groups_that_change_faster_than_they_are_made_come_to_an_end() -> None:
    pressed(lambda table, number: table.upsert(dict.fromkeys(range(40), number)), whole=False)


def test_a_whole_input_that_changes_at_each_turn_is_no_end_either() -> None:
    pressed(lambda table, number: table.upsert({0: number}), whole=True)


def test_each_derivation_reports_its_runs_groups_and_rows() -> None:
    source: Table[int, int] = Table("source")
    double: Table[int, int] = Table("double")
    loop = Loop()
    loop.group(double, lambda key, row: {key: 2 * row} if row is not None else {}, By(source))
    source.replace({1: 1, 2: 2})
    loop.derive_all()
    source.upsert({1: 3})
    loop.derive_all()
    (cost,) = loop.costs()
    assert (cost["name"], cost["runs"], cost["groups"], cost["rows"]) == ("double", 2, 3, 3)
    assert 0 < cost["dearest_run_ms"] <= cost["cpu_ms"]


def test_a_group_follows_the_row_that_it_refers_to() -> None:
    pods: Table[str, str] = Table("pod")
    namespaces: Table[str, str] = Table("namespace")
    looks: Table[str, str] = Table("look")
    loop = Loop()

    def make(_pod: str, namespace: str | None, label: str | None) -> Mapping[str, str]:
        return {_pod: f"{namespace} {label}"} if namespace else {}

    loop.group(looks, make, By(pods), To(namespaces, lambda _pod, namespace: namespace))
    pods.replace({"web": "shop", "db": "back"})
    namespaces.replace({"shop": "green"})
    loop.derive_all()
    assert looks.rows == {"web": "shop green", "db": "back None"}
    namespaces.upsert({"back": "red"})
    loop.derive_all()
    assert looks.rows == {"web": "shop green", "db": "back red"}


def doubled(key: int, row: int | None) -> dict[int, int]:
    return {key: 2 * row} if row is not None else {}


def test_a_change_leaves_the_rows_of_the_other_groups_alone() -> None:
    rows: Table[int, int] = Table("row")
    out: Table[int, int] = Table("doubled")
    grouped = Grouped(out, doubled, By(rows))
    rows.replace({1: 1, 2: 2})
    grouped.run()
    rows.upsert({3: 3})
    grouped.run()
    assert out.rows == {1: 2, 2: 4, 3: 6}


def test_rows_from_before_the_first_run_go_when_no_group_makes_them() -> None:
    rows: Table[int, int] = Table("row")
    out: Table[int, int] = Table("doubled")
    out.upsert({1: 2, 9: 18})
    grouped = Grouped(out, doubled, By(rows))
    rows.replace({1: 1})
    grouped.run()
    assert out.rows == {1: 2}


def test_a_group_without_rows_of_a_needed_input_is_not_made() -> None:
    rows: Table[int, int] = Table("row")
    asked: Table[int, int] = Table("asked")
    out: Table[int, int] = Table("sum")
    made: list[int] = []

    def total(group: int, wanted: dict[int, int], found: dict[int, int]) -> dict[int, int]:
        made.append(group)
        return {group: sum(wanted.values()) + sum(found.values())}

    def last_digit(key: int, _: int) -> list[int]:
        return [key % 10]

    grouped = Grouped(out, total, By(asked, last_digit, needed=True), By(rows, last_digit))
    asked.replace({1: 100})
    rows.replace({1: 1, 11: 2, 2: 3})
    grouped.run()
    assert (made, out.rows) == ([1], {1: 103})
    rows.upsert({12: 4, 21: 5})
    grouped.run()
    assert (made, out.rows) == ([1, 1], {1: 108})
    asked.upsert({2: 200})
    asked.delete([1])
    grouped.run()
    assert out.rows == {2: 207}
