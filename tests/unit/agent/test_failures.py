"""What targets of a node say, as findings."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from mesh.agent import failures
from mesh.core.model import Finding, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table

MEANING = "pods of peers are the world to the pods of this node"


Key = str | PodKey
REFUSED = ("bad", PodKey("east", "shop", "bad"))


class FakeMap:
    """A map that refuses some keys."""

    name = "mg_address"

    async def read(self) -> Mapping[Key, int]:
        return {}

    async def upsert(self, rows: Mapping[Key, int]) -> Mapping[Key, Exception]:
        return {key: OSError(5, "broken") for key in rows if key in REFUSED}

    async def delete(self, _: Collection[Key]) -> Mapping[Key, Exception]:
        return {}


def found(rows: Mapping[Key, int], capacity: int) -> list[Finding]:
    async def run() -> list[Finding]:
        table: Table[Key, int] = Table("address")
        applied = Loop().apply(table, FakeMap(), capacity=capacity, meaning=MEANING)
        table.replace(rows)
        await applied.round()
        return list(failures("east-1", applied))

    return asyncio.run(run())


def test_a_full_map_is_one_finding_with_demand_capacity_and_meaning() -> None:
    [one] = found({"a": 1, "b": 2, "c": 3}, 2)
    assert (one.code, one.object, one.field) == ("D608", "east-1/mg_address", "max_entries")
    assert one.text == f"3 rows desired, room for 2: {MEANING}"
    assert one.about == ("node/east-1",)


def test_a_row_that_cannot_be_written_is_another_finding() -> None:
    [one] = found({"a": 1, "bad": 2}, 2)
    assert (one.code, one.object, one.field) == ("D601", "east-1/address", "bad")


def test_a_key_and_its_error_are_words() -> None:
    """Not as Python spells them."""
    [one] = found({PodKey("east", "shop", "bad"): 2}, 2)
    assert (one.field, one.text) == ("east/shop/bad", "broken")


def test_a_target_that_has_everything_says_nothing() -> None:
    assert found({"a": 1}, 2) == []
