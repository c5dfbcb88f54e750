"""The loop, against a target that can be told to fail. Stories: insert, fail, recover, delete."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import numpy as np
import pytest

from mesh.core.reconcile import AppliedColumns, AppliedRows, Loop, Refers
from mesh.core.table import ColumnTable, Table


class Shelf:
    """A real, if small, target: rows in a dict; ``broken`` keys refuse, ``away`` refuses all."""

    name = "shelf"

    def __init__(self, rows: dict[str, int] | None = None) -> None:
        self.rows = rows or {}
        self.broken: set[str] = set()
        self.away = False
        self.log: list[str] = []

    async def read(self) -> Mapping[str, int]:
        self._reach()
        return dict(self.rows)

    async def upsert(self, rows: Mapping[str, int]) -> Mapping[str, Exception]:
        self._reach()
        good = {k: v for k, v in rows.items() if k not in self.broken}
        self.log += [f"+{k}" for k in good]
        self.rows |= good
        return {k: OSError(7, "full") for k in rows if k in self.broken}

    async def delete(self, keys: Collection[str]) -> Mapping[str, Exception]:
        self._reach()
        self.log += [f"-{k}" for k in keys]
        for key in keys:
            self.rows.pop(key, None)
        return {}

    def _reach(self) -> None:
        if self.away:
            raise OSError(111, "away")


def story(
    tell: Callable[[Table[str, int], Shelf, AppliedRows[str, int]], Awaitable[None]],
    rows: dict[str, int] | None = None,
) -> Shelf:
    """Run a story against one table and one shelf."""
    shelf = Shelf(rows)

    async def run() -> None:
        table: Table[str, int] = Table("t")
        await tell(table, shelf, AppliedRows(table, shelf))

    asyncio.run(run())
    return shelf


def test_equal_rows_produce_no_write() -> None:
    async def tell(table: Table[str, int], shelf: Shelf, applied: AppliedRows[str, int]) -> None:
        table.replace({"a": 1, "b": 2})
        await applied.round()
        assert shelf.log == ["+b"]

    story(tell, {"a": 1})


def test_nothing_is_deleted_before_the_first_sync() -> None:
    async def tell(table: Table[str, int], shelf: Shelf, applied: AppliedRows[str, int]) -> None:
        table.upsert({"b": 2})
        await applied.round()
        assert shelf.rows == {"a": 1, "b": 2}
        table.mark_synced()
        await applied.round()
        assert shelf.rows == {"b": 2}

    story(tell, {"a": 1})


def test_rows_are_written_before_others_are_deleted() -> None:
    async def tell(table: Table[str, int], shelf: Shelf, applied: AppliedRows[str, int]) -> None:
        table.replace({"b": 2})
        await applied.round()
        assert shelf.log == ["+b", "-a"]

    story(tell, {"a": 1})


class Telling(Shelf):
    """Its row ``synced`` tells readers that all others are there."""

    def tells(self, key: str) -> bool:
        return key == "synced"


def test_a_row_that_tells_of_all_others_is_written_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the rows of a table are too many for one step; it stands first in the table."""
    monkeypatch.setattr("mesh.core.applied_rows._CHOICE_S", -1.0)
    shelf = Telling()

    async def run() -> None:
        table: Table[str, int] = Table("t")
        table.replace({"synced": 1, **{str(number): number for number in range(1000)}})
        applied = AppliedRows(table, shelf)
        await applied.round()
        assert 0 < len(shelf.rows) < 1000, "one step is not enough"
        for _ in range(20):
            await applied.round()

    asyncio.run(run())
    assert len(shelf.log) == 1001
    assert shelf.log[-1] == "+synced"


def test_one_failed_row_does_not_stop_the_rest_and_is_retried() -> None:
    async def tell(table: Table[str, int], shelf: Shelf, applied: AppliedRows[str, int]) -> None:
        shelf.broken = {"a"}
        table.replace({"a": 1, "b": 2})
        await applied.round()
        assert shelf.rows == {"b": 2}
        assert applied.report.errors == {"a": "[Errno 7] full"}
        shelf.broken = set()
        applied.full = True
        await applied.round()
        assert shelf.rows == {"a": 1, "b": 2}
        assert not applied.report.errors

    story(tell)


def test_a_healthy_round_writes_only_what_changed() -> None:
    async def tell(table: Table[str, int], shelf: Shelf, applied: AppliedRows[str, int]) -> None:
        table.replace({"a": 1, "b": 2})
        await applied.round()
        applied.full = False
        shelf.log.clear()
        table.upsert({"a": 1, "b": 3})
        table.delete(["a"])
        await applied.round()
        assert shelf.log == ["+b", "-a"]

    story(tell)


def test_the_loop_survives_a_target_that_is_away() -> None:
    async def run() -> None:
        table: Table[str, int] = Table("t")
        shelf = Shelf()
        shelf.away = True
        loop = Loop()
        applied = loop.apply(table, shelf)
        table.replace({"a": 1})
        task = asyncio.create_task(loop.run())
        async with asyncio.timeout(5):
            while not applied.report.errors:
                await asyncio.sleep(0)
            shelf.away = False
            await applied.reached(table.revision)
        assert shelf.rows == {"a": 1}
        assert not applied.report.errors
        task.cancel()

    asyncio.run(run())


def test_a_target_waits_for_the_ones_before_it() -> None:
    async def run() -> None:
        first: Table[str, int] = Table("first")
        second: Table[str, int] = Table("second")
        one, two = Shelf(), Shelf()
        one.away = True
        loop = Loop()
        before = loop.apply(first, one)
        behind = loop.apply(second, two, after=[before])
        first.replace({"a": 1})
        second.replace({"b": 1})
        task = asyncio.create_task(loop.run())
        async with asyncio.timeout(5):
            while not before.report.errors:
                await asyncio.sleep(0)
            assert two.rows == {}
            one.away = False
            await behind.reached(second.revision)
        assert two.rows == {"b": 1}
        task.cancel()

    asyncio.run(run())


def test_a_target_that_lost_its_rows_during_a_round_is_read_again() -> None:
    async def tell(table: Table[str, int], shelf: Shelf, applied: AppliedRows[str, int]) -> None:
        table.replace({"a": 1})
        running = asyncio.create_task(applied.run())
        await applied.reached(table.revision)
        shelf.rows.clear()
        applied.recheck()
        assert not applied.current
        await applied.reached(table.revision)
        assert shelf.rows == {"a": 1}
        running.cancel()

    story(tell)


def test_derivations_run_in_order_and_only_on_change() -> None:
    async def run() -> None:
        source: Table[str, int] = Table("source")
        double: Table[str, int] = Table("double")
        total: Table[str, int] = Table("total")
        runs: list[str] = []

        def doubled() -> None:
            runs.append("double")
            double.replace({k: 2 * v for k, v in source.rows.items()})

        def summed() -> None:
            runs.append("total")
            total.replace({"all": sum(double.rows.values())})

        loop = Loop()
        loop.derive([source], doubled)
        loop.derive([double], summed)
        source.replace({"a": 1, "b": 2})
        loop.derive_all()
        loop.derive_all()
        assert total.rows == {"all": 6}
        assert runs == ["double", "total"]

    asyncio.run(run())


class Held(Shelf):
    """A shelf whose writes wait for ``open``."""

    def __init__(self, rows: dict[str, int] | None = None) -> None:
        super().__init__(rows)
        self.open = asyncio.Event()

    async def upsert(self, rows: Mapping[str, int]) -> Mapping[str, Exception]:
        await self.open.wait()
        return await super().upsert(rows)


CLASSES = {1: "old", 2: "new", 3: "newer"}


def referring(
    tell: Callable[[Table[str, int], Table[str, int], Shelf, Held], Awaitable[None]],
) -> None:
    """A story of classes and the pods that name them by number, with rows of an earlier run."""

    async def run() -> None:
        classes: Table[str, int] = Table("class")
        pods: Table[str, int] = Table("pod")
        one, two = Shelf({"old": 1}), Held({"pod": 1})
        loop = Loop()
        before = loop.apply(classes, one)
        loop.apply(pods, two, refers=[Refers(before, lambda _, number: [CLASSES[number]])])
        task = asyncio.create_task(loop.run())
        async with asyncio.timeout(5):
            await tell(classes, pods, one, two)
        task.cancel()

    asyncio.run(run())


async def settle(until: Callable[[], bool]) -> None:
    while not until():
        await asyncio.sleep(0)


async def a_while() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_row_that_others_still_name_goes_after_they_have_changed() -> None:
    async def tell(classes: Table[str, int], pods: Table[str, int], one: Shelf, two: Held) -> None:
        classes.replace({"new": 2})
        pods.replace({"pod": 2})
        await settle(lambda: "new" in one.rows)
        await a_while()
        assert one.rows == {"old": 1, "new": 2}
        two.open.set()
        await settle(lambda: "old" not in one.rows)
        assert two.rows == {"pod": 2}

    referring(tell)


def test_deletes_wait_for_the_sync_of_those_that_name_the_rows() -> None:
    """The store is away: nobody knows yet whether the pod that names the class has gone."""

    async def tell(classes: Table[str, int], pods: Table[str, int], one: Shelf, two: Held) -> None:
        two.open.set()
        classes.replace({"new": 2})
        pods.upsert({"other": 2})
        await settle(lambda: two.rows == {"pod": 1, "other": 2})
        await a_while()
        assert one.rows == {"old": 1, "new": 2}
        pods.mark_synced()
        await settle(lambda: one.rows == {"new": 2})
        assert two.rows == {"other": 2}

    referring(tell)


def test_writes_go_on_while_deletes_wait() -> None:
    async def tell(classes: Table[str, int], pods: Table[str, int], one: Shelf, two: Held) -> None:
        classes.replace({"new": 2})
        pods.replace({"pod": 2})
        await settle(lambda: "new" in one.rows)
        classes.replace({"newer": 3})
        await settle(lambda: "newer" in one.rows)
        pods.replace({"pod": 3})
        two.open.set()
        await settle(lambda: one.rows == {"newer": 3})
        assert two.rows == {"pod": 3}

    referring(tell)


def test_a_row_that_comes_back_while_its_delete_waits_stays() -> None:
    async def tell(classes: Table[str, int], pods: Table[str, int], one: Shelf, two: Held) -> None:
        classes.replace({"new": 2})
        pods.replace({"pod": 2})
        await settle(lambda: "new" in one.rows)
        await a_while()
        classes.replace({"old": 1, "new": 2})
        await a_while()
        two.open.set()
        await settle(lambda: two.rows == {"pod": 2})
        await a_while()
        assert one.rows == {"old": 1, "new": 2}
        assert "-old" not in one.log

    referring(tell)


def test_deletes_that_wait_hold_nobody_up_before_the_first_sync() -> None:
    """``reached`` is about what has been written."""

    async def tell(table: Table[str, int], shelf: Shelf, applied: AppliedRows[str, int]) -> None:
        running = asyncio.create_task(applied.run())
        table.upsert({"b": 2})
        async with asyncio.timeout(5):
            await applied.reached(table.revision)
        assert shelf.rows == {"a": 1, "b": 2}
        assert not applied.current
        running.cancel()

    story(tell, {"a": 1})


def test_one_wait_for_several_ends_when_all_have_arrived_at_once() -> None:
    """The first may change again while the second is waited for."""

    async def run() -> None:
        first: Table[str, int] = Table("first")
        second: Table[str, int] = Table("second")
        pods: Table[str, int] = Table("pod")
        one, two, three = Held(), Held(), Shelf()
        loop = Loop()
        before = [loop.apply(first, one), loop.apply(second, two)]
        loop.apply(pods, three, after=before)
        first.replace({"a": 1})
        second.replace({"a": 1})
        pods.replace({"pod": 1})
        task = asyncio.create_task(loop.run())
        one.open.set()
        async with asyncio.timeout(5):
            await settle(lambda: one.rows == {"a": 1})
            await a_while()
            one.open.clear()
            first.replace({"a": 1, "b": 2})
            pods.replace({"pod": 2})
            two.open.set()
            await settle(lambda: two.rows == {"a": 1})
            await a_while()
            assert three.rows == {}
            one.open.set()
            await settle(lambda: three.rows == {"pod": 2})
        task.cancel()

    asyncio.run(run())


class Full:
    """A map with room for two rows."""

    name = "full map"

    def __init__(self, table: ColumnTable, rows: dict[bytes, int]) -> None:
        self.table = table
        self.rows = rows

    async def read(self) -> tuple[Any, Any]:
        keys = np.frombuffer(b"".join(self.rows), self.table.key)
        return keys, np.array([(value,) for value in self.rows.values()], self.table.value)

    async def upsert(self, keys: Any, values: Any) -> None:
        for key, value in zip(keys.tolist(), values["x"].tolist(), strict=True):
            if key not in self.rows and len(self.rows) == 2:
                raise OSError(7, "full")
            self.rows[key] = value

    async def delete(self, keys: Any) -> None:
        for key in keys.tolist():
            del self.rows[key]


def test_a_full_map_is_emptied_of_what_nobody_desires() -> None:
    """Else the rows that have no room would never get it."""

    async def run() -> None:
        table = ColumnTable("address", "V4", [("x", "u4")])
        target = Full(table, {b"old1": 1, b"old2": 2})
        applied = AppliedColumns(table, target)
        table.replace(np.frombuffer(b"new1", "V4"), np.array([(3,)], table.value))
        with pytest.raises(OSError, match="full"):
            await applied.round()
        assert not applied.arrived
        await applied.round()
        assert target.rows == {b"new1": 3}
        assert applied.arrived

    asyncio.run(run())
