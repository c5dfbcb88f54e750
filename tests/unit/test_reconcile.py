"""The loop, against a target that can be told to fail. Stories: insert, fail, recover, delete."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import numpy as np

from mesh.core.reconcile import AppliedRows, Loop, column_diff, diff
from mesh.core.table import ColumnTable, Table


class Shelf:
    """A real, if small, target: rows in a dict; ``broken`` keys refuse, ``away`` refuses all."""

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
    assert diff({"a": 1}, {"a": 1}) == diff({}, {})


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
        assert applied.report.since == 0
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


def test_column_diff_finds_stale_missing_and_foreign_rows() -> None:
    table = ColumnTable("address", "V4", [("x", "u4")])
    keys = np.frombuffer(b"aaaabbbbcccc", "V4")
    values = np.array([(1,), (2,), (3,)], table.value)
    table.replace(keys[:2], values[:2])
    actual_values = values[[0, 2]].copy()
    actual_values["x"][0] = 9
    write_keys, write_values, gone = column_diff(table, keys[[0, 2]], actual_values)
    assert sorted(write_keys.tolist()) == [b"aaaa", b"bbbb"]
    assert sorted(write_values["x"].tolist()) == [1, 2]
    assert gone.tolist() == [b"cccc"]
