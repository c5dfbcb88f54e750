"""Column tables on their way into maps that fail, fill up and are full too early."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mesh.core.reconcile import AppliedColumns, Loop, Refers, RowsFailed
from mesh.core.table import ColumnTable, Table
from tests.unit.core.kernels import FakeMap, simulate

VALUE = np.dtype([("x", "u4")])


class FakeColumns:
    """A map of columns with room for ``size`` rows."""

    name = "a map"

    def __init__(self, choose: random.Random, size: int) -> None:
        self.rows: dict[bytes, int] = {}
        self.size = size
        self.failing = 0.0
        self.away = False
        self.reads = 0
        self.tried = 0
        self.check: Callable[[], None] = lambda: None
        self._choose = choose

    async def read(self) -> tuple[Any, Any]:
        self.reads += 1
        await self._pause()
        keys = np.frombuffer(b"".join(self.rows), "V4")
        return keys, np.array([(value,) for value in self.rows.values()], VALUE)

    async def upsert(self, keys: Any, values: Any) -> None:
        failed: dict[int, int] = {}
        for at, (key, value) in enumerate(zip(keys.tolist(), values["x"].tolist(), strict=True)):
            await self._pause()
            self.tried += 1
            if self._choose.random() < self.failing:
                failed[at] = errno.EINVAL
            elif key not in self.rows and len(self.rows) >= self.size:
                failed[at] = errno.E2BIG
            else:
                self.rows[key] = value
                self.check()
        if failed:
            raise RowsFailed(next(iter(failed.values())), f"{len(failed)} rows", failed)

    async def delete(self, keys: Any) -> None:
        for key in keys.tolist():
            await self._pause()
            self.rows.pop(key, None)
            self.check()

    async def _pause(self) -> None:
        if self.away:
            raise OSError(errno.EIO, "away")
        if self._choose.random() < 0.3:
            await asyncio.sleep(0)


def name(number: int) -> bytes:
    return number.to_bytes(4, "big")


class Slots:
    """Backends by slot, and services whose rows name slots."""

    def __init__(self, seed: int, size: int = 1000, capacity: int | None = None) -> None:
        self.choose = random.Random(seed)
        self.loop = Loop()
        self.table = ColumnTable("backend", "V4", VALUE)
        self.map = FakeColumns(self.choose, size)
        self.applied: AppliedColumns = self.loop.apply_columns(
            self.table,
            self.map,
            capacity=capacity,
            rank=lambda values: values["x"].astype(np.int64),
            meaning="services lack backends",
        )
        self.services: Table[int, int] = Table("service")
        self.service_map = FakeMap(self.choose)
        refers = [Refers(self.applied, lambda _key, slot: [name(slot)])]
        self.to_services = self.loop.apply(self.services, self.service_map, refers=refers)
        self.map.check = self.service_map.check = self.check

    def check(self) -> None:
        missing = {
            slot for slot in self.service_map.rows.values() if name(slot) not in self.map.rows
        }
        assert not missing

    def put(self, *rows: tuple[int, int]) -> None:
        keys = np.frombuffer(b"".join(name(key) for key, _ in rows), "V4")
        self.table.upsert(keys, np.array([(value,) for _, value in rows], VALUE))

    def drop(self, *keys: int) -> None:
        self.table.delete(np.frombuffer(b"".join(map(name, keys)), "V4"))

    def event(self) -> None:
        choose, key = self.choose, self.choose.randrange(20)
        kind = choose.random()
        named = set(self.services.rows.values())
        if kind < 0.5:
            self.put(*((key + more, choose.randrange(4)) for more in range(choose.randint(1, 3))))
        elif kind < 0.75:
            self.drop(*({key, key + 1} - named))
        elif kind < 0.9 and self.table.slot(name(key)) is not None:
            self.services.upsert({choose.randrange(5): key})
        else:
            self.services.delete([choose.randrange(5)])

    def fits(self) -> bool:
        """The map has the rows of the lowest ranks, as desired."""
        want = {k: int(v["x"]) for k, v in zip(*map(list, self.columns()), strict=True)}
        room = min(self.map.size, len(want))
        lowest = sorted(want.values())[:room]
        there = self.map.rows
        return sorted(there.values()) == lowest and all(want.get(k) == v for k, v in there.items())

    def columns(self) -> tuple[Any, Any]:
        keys, values = self.table.rows()
        return keys.tolist(), values


def story(it: Slots, tell: Callable[[Slots], Any]) -> None:
    async def run() -> None:
        tasks = [asyncio.create_task(job) for job in (it.loop.run(), tell(it))]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[0].cancel()
        for task in done:
            task.result()

    simulate(run())


async def until(it: Slots, reached: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if reached():
            return
        await asyncio.sleep(0.001)
    pytest.fail(f"{it.applied.report} {it.map.rows} {it.columns()}")


async def history(it: Slots) -> None:
    """Events with rows that fail and a map that is away for a while; then all is well."""
    it.table.mark_synced()
    it.services.mark_synced()
    for number in range(200):
        it.event()
        if number % 40 == 0:
            it.map.failing = it.choose.choice([0, 0.3])
        it.map.away = number % 90 > 80
        if it.choose.random() < 0.03:
            it.applied.recheck()
        for _ in range(it.choose.choice([0, 0, 1, 3, 12])):
            await asyncio.sleep(it.choose.choice([0, 0, 0.003]))
    it.map.failing, it.map.away = 0, False
    it.services.replace({})
    await until(it, lambda: it.fits() and it.applied.current)


@pytest.mark.parametrize("seed", range(15))
def test_a_history_of_columns_ends_with_what_is_desired(seed: int) -> None:
    story(Slots(seed), history)


@pytest.mark.parametrize("seed", range(15))
def test_the_lowest_ranks_are_there_when_not_all_fit(seed: int) -> None:
    story(Slots(seed, size=8, capacity=8), history)


@pytest.mark.parametrize("seed", range(15))
def test_also_when_rows_of_others_take_room_that_nobody_counted(seed: int) -> None:
    story(Slots(seed, size=6, capacity=8), history)


def test_a_full_map_of_columns_is_one_line_and_costs_no_rounds() -> None:
    async def tell(it: Slots) -> None:
        it.put(*((key, key) for key in range(10)))
        it.table.mark_synced()
        await until(it, lambda: it.fits() and it.applied.current)
        full = it.applied.report.full
        assert full is not None
        assert (full.map, full.demand, full.capacity) == ("a map", 10, 4)
        assert not it.applied.report.errors
        reads, tried = it.map.reads, it.map.tried
        for number in range(20):
            it.put((9, 100 + number))  # one that has no room
            await asyncio.sleep(0.1)
        assert (it.map.reads, it.map.tried) == (reads, tried)
        it.drop(0, 1)
        await until(it, lambda: it.fits() and it.applied.current)
        assert sorted(it.map.rows.values()) == [2, 3, 4, 5]

    story(Slots(1, size=4, capacity=4), tell)
    story(Slots(1, size=4, capacity=8), tell)
