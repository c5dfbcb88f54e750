"""A mistake of ours costs what it concerns: a group, a row, a derivation, a target, a task."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping

import pytest

from mesh.core.groups import By, To
from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.core.table import Changes, Table
from mesh.health import mistakes
from mesh.health.findings import MISTAKE
from mesh.health.mistakes import Mistakes, named


class Memory:
    """A target that cannot bear the row ``bad``."""

    name = "memory"

    def __init__(self, bad: str = "") -> None:
        self.bad = bad
        self.rows: dict[str, int] = {}

    async def read(self) -> Mapping[str, int]:
        return dict(self.rows)

    async def upsert(self, rows: Mapping[str, int]) -> Mapping[str, Exception]:
        if self.bad in rows:
            raise TypeError("bad")
        self.rows |= rows
        return {}

    async def delete(self, keys: Collection[str]) -> Mapping[str, Exception]:
        if self.bad in keys:
            raise TypeError("bad")
        for key in keys:
            self.rows.pop(key, None)
        return {}


def inverse(key: str, number: int | None) -> dict[str, int]:
    return {} if number is None else {key: 60 // number}


def derive(loop: Loop) -> None:
    """A pass of a process: whatever a derivation meets, nothing is raised."""

    async def once() -> None:
        running = asyncio.ensure_future(loop.run())
        await loop.gate.look(lambda: None)
        await asyncio.sleep(0)
        while not loop.gate.open:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(once())


def test_a_group_that_raises_keeps_its_rows_and_the_others_go_on() -> None:
    numbers: Table[str, int] = Table("number")
    out: Table[str, int] = Table("inverse")
    below: Table[str, int] = Table("below")
    loop = Loop()
    loop.group(out, inverse, By(numbers))
    loop.group(below, inverse, By(out))
    numbers.replace({"a": 1, "b": 2})
    derive(loop)
    assert (dict(out.rows), out.synced, loop.failures()) == ({"a": 60, "b": 30}, True, {})
    numbers.upsert({"a": 0, "b": 3, "c": 4})
    derive(loop)
    assert dict(out.rows) == {"a": 60, "b": 20, "c": 15}
    assert not out.synced  # nothing is deleted for its sake, and nothing is derived from it
    assert dict(below.rows) == {"a": 1, "b": 2}
    assert set(loop.failures()["inverse"]) == {"a"}
    numbers.upsert({"a": 6})
    derive(loop)
    assert (dict(out.rows), out.synced, loop.failures()) == ({"a": 10, "b": 20, "c": 15}, True, {})
    assert dict(below.rows) == {"a": 6, "b": 3, "c": 4}


def test_a_group_that_raises_goes_when_its_rows_do() -> None:
    numbers: Table[str, int] = Table("number")
    out: Table[str, int] = Table("inverse")
    loop = Loop()
    loop.group(out, inverse, By(numbers))
    numbers.replace({"a": 0, "b": 2})
    derive(loop)
    assert (dict(out.rows), out.synced) == ({"b": 30}, False)
    numbers.delete(["a"])
    derive(loop)
    assert (dict(out.rows), out.synced, loop.failures()) == ({"b": 30}, True, {})


def test_a_row_whose_groups_cannot_be_told_stays_in_those_it_has() -> None:
    numbers: Table[str, int] = Table("number")
    names: Table[int, str] = Table("name")
    out: Table[int, int] = Table("sum")
    loop = Loop()

    def groups(_: str, number: int) -> list[int]:
        return [60 // number]

    def make(group: int, rows: Mapping[str, int], name: str | None) -> dict[int, int]:
        return {group: sum(rows.values()) + len(name or "")} if rows else {}

    loop.group(out, make, By(numbers, groups), To(names, lambda group, _: group))
    names.mark_synced()
    numbers.replace({"a": 1, "b": 2})
    derive(loop)
    assert dict(out.rows) == {60: 1, 30: 2}
    numbers.upsert({"a": 0, "b": 3})
    derive(loop)
    assert dict(out.rows) == {60: 1, 20: 3}
    assert set(loop.failures()["sum"]) == {"a"}
    numbers.upsert({"a": 5})
    derive(loop)
    assert (dict(out.rows), loop.failures()) == ({12: 5, 20: 3}, {})


def test_what_a_whole_derivation_makes_waits_until_it_has_run_to_its_end() -> None:
    numbers: Table[str, int] = Table("number")
    first: Table[str, int] = Table("first")
    second: Table[str, int] = Table("second")
    below: Table[str, int] = Table("below")
    loop = Loop()

    def both() -> None:
        first.replace(dict(numbers.rows))
        second.replace({key: 60 // number for key, number in numbers.rows.items()})

    loop.derive([numbers], both)
    loop.derive([first, second], lambda: below.replace({**first.rows, **second.rows}) and None)
    numbers.replace({"a": 1})
    derive(loop)
    assert (first.synced, second.synced, dict(below.rows)) == (True, True, {"a": 60})
    numbers.replace({"a": 0})
    derive(loop)
    assert (first.synced, second.synced, dict(below.rows)) == (False, False, {"a": 60})
    [(name, failures)] = loop.failures().items()
    assert name.endswith("both")
    assert [type(error) for error in failures.values()] == [ZeroDivisionError]
    numbers.replace({"a": 2})
    derive(loop)
    assert (first.synced, second.synced, dict(below.rows)) == (True, True, {"a": 30})
    assert loop.failures() == {}


def test_who_follows_a_table_gets_a_key_again_that_was_not_taken() -> None:
    numbers: Table[str, int] = Table("number")
    taken: list[dict[str, int]] = []
    broken = True

    def take(changes: Changes[str, int]) -> None:
        if broken and "b" in changes.upsert:
            raise ValueError
        taken.append(dict(changes.upsert))

    loop = Loop()
    loop.follow(numbers, take)
    numbers.replace({"a": 1, "b": 2, "c": 3})
    derive(loop)
    assert taken == [{"a": 1}, {"c": 3}]
    broken = False
    numbers.upsert({"d": 4})
    derive(loop)
    assert taken[-1] == {"b": 2, "d": 4}
    assert loop.failures() == {}


def test_a_row_that_a_target_cannot_bear_costs_itself() -> None:
    table: Table[str, int] = Table("number")
    table.replace({f"k{number}": number for number in range(20)})
    target, loop = Memory("k7"), Loop()
    applied = loop.apply(table, target)

    async def rounds() -> None:
        await applied.round()
        assert set(applied.report.errors) == {"k7"}
        assert len(target.rows) == 19
        table.replace({})
        running = asyncio.ensure_future(applied.run())
        await applied.settled()
        running.cancel()

    asyncio.run(rounds())
    assert target.rows == {}


def test_a_target_that_makes_a_mistake_as_a_whole_is_tried_again() -> None:
    table: Table[str, int] = Table("number")
    table.replace({"a": 1})
    target, other, loop = Memory(), Memory(), Loop()
    broken = True

    async def read() -> Mapping[str, int]:
        if broken:
            raise KeyError("read")
        return {}

    target.read = read  # type: ignore[method-assign]
    failing = loop.apply(table, target)
    loop.apply(table, other)

    async def live() -> None:
        nonlocal broken
        running = asyncio.ensure_future(loop.run())
        while not (other.rows and failing.report.errors):
            await asyncio.sleep(0)
        assert failing.report.errors == {"*": "KeyError('read')"}
        broken = False
        await failing.settled()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(live())
    assert target.rows == other.rows == {"a": 1}


def test_tasks_reports_and_derivations_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "PAUSE_S", (0.0, 30.0))
    loop, numbers = Loop(), Table[str, int]("number")
    loop.derive([numbers], lambda: numbers.rows["a"] and None, name="first number")
    numbers.mark_synced()
    it = Mistakes("east-1", "agent", loop)
    begun = 0

    async def job() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ValueError(begun)

    def report() -> Iterator[Finding]:
        yield Finding(MISTAKE, "x", "", "")
        raise LookupError("\udcff")

    derive(loop)
    asyncio.run(it.keep("a task", job))
    assert len(list(it.of("a part", report))) == 1
    found = {one.field: one.text for one in it.findings()}
    assert begun == 3
    assert found == {
        "derivation first number": "KeyError('a')",
        "task a task": "ValueError(2)",
        "findings of a part": "LookupError('\\udcff')",
    }
    assert {one.object for one in it.findings()} == {"east-1/agent"}


class Base:
    async def run(self) -> None:
        """Two classes have this method."""


class One(Base):
    """A task."""


class Two(Base):
    """Another one."""


def test_each_task_of_a_feature_has_a_name_of_its_own() -> None:
    """Also two of one base class, and two of one class: none is left out."""

    async def alone() -> None:
        """No method."""

    tasks = [One().run, Two().run, One().run, alone]
    found = named(tasks)
    assert list(found.values()) == tasks
    assert list(found)[:3] == ["One", "Two", "One 2"]
    assert list(found)[3].endswith("alone")
