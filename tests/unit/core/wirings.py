"""Random wirings of groups over three small tables, and random events for them.

Everything that a wiring does follows from its seed, so two copies of it give equal tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh.core.groups import By, To
from mesh.core.reconcile import Loop
from mesh.core.table import LOG_SLACK, Table

Rows = dict[int, int]
#: Keys and values of the base tables are below these.
KEYS, VALUES = 12, 6


def _groups(salt: int) -> Callable[[Any, int], Sequence[int]]:
    def groups(_key: Any, row: int) -> Sequence[int]:
        return [(row + salt) % 5, (row * salt) % 7][: 1 + row % 2]

    return groups


def _reference(salt: int) -> Callable[..., int | None]:
    def key(group: Any, *before: Any) -> int | None:
        number = hash((group, salt)) + sum(_digest(rows) for rows in before)
        return None if number % 5 == 0 else number % KEYS

    return key


def _digest(rows: Any) -> int:
    if isinstance(rows, Mapping):
        return hash(frozenset(rows.items()))
    return hash(rows) if rows is not None else 77


def _make(salt: int) -> Callable[..., Mapping[Any, int]]:
    def make(group: Any, *rows: Any) -> Mapping[Any, int]:
        if not any(bool(one) if isinstance(one, Mapping) else one is not None for one in rows):
            return {}
        digest = sum((place + 1) * _digest(one) for place, one in enumerate(rows)) + salt
        return {hash((group, salt, at)) % 1_000_003: digest % 9 for at in range(digest % 3)}

    return make


class Wiring:
    """Base tables, derivations above each other, and their outputs."""

    def __init__(self, seed: int, loop: Loop) -> None:
        choose = random.Random(seed)
        self.loop = loop
        self.base: list[Table[int, int]] = [Table(f"base {at}") for at in range(3)]
        self.small: Table[int, int] = Table("small")
        self.out: list[Table[Any, int]] = []
        for at in range(choose.randint(2, 5)):
            self._derive(choose, at)

    def _derive(self, choose: random.Random, at: int) -> None:
        tables = [*self.base, *self.out]
        inputs: list[By[Any, Any, Any] | To[Any, Any]] = []
        first = choose.choice(tables)
        grouped = choose.random() < 0.6
        inputs.append(By(first, _groups(choose.randint(1, 9)) if grouped else None))
        for _ in range(choose.randint(0, 2)):
            other, salt = choose.choice(tables), choose.randint(1, 9)
            kind = choose.random()
            if kind < 0.5:
                inputs.append(To(other, _reference(salt)))
            elif grouped:
                inputs.append(By(other, _groups(salt)))
        out: Table[Any, int] = Table(f"out {at}")
        whole = [self.small] if choose.random() < 0.3 else []
        self.loop.group(out, self._bound(_make(choose.randint(1, 99)), whole), *inputs, whole=whole)
        self.out.append(out)

    def _bound(self, make: Callable[..., Mapping[Any, int]], whole: Sequence[Any]) -> Any:
        if not whole:
            return make

        def bound(group: Any, *rows: Any) -> Mapping[Any, int]:
            return make(group, *rows, dict(self.small.rows))

        return bound

    def sources(self) -> list[Table[int, int]]:
        return [*self.base, self.small]

    def state(self) -> list[dict[Any, int]]:
        return [dict(table.rows) for table in self.out]


def whole(seed: int, like: Wiring) -> list[dict[Any, int]]:
    """The outputs of a wiring that sees the present inputs at once."""
    fresh = Wiring(seed, Loop())
    for table, source in zip(fresh.sources(), like.sources(), strict=True):
        table.upsert(source.rows)
        if source.synced:
            table.mark_synced()
    fresh.loop.derive_all()
    return fresh.state()


def event(choose: random.Random, tables: Sequence[Table[int, int]]) -> None:
    """One thing that happens to one table."""
    table, kind = choose.choice(tables), choose.random()
    if kind < 0.55:
        table.upsert({choose.randrange(KEYS): choose.randrange(VALUES)})
    elif kind < 0.85:
        table.delete([choose.randrange(KEYS)])
    elif kind < 0.95:
        rows = {choose.randrange(KEYS): choose.randrange(VALUES) for _ in range(6)}
        table.write(rows, complete=table.synced)
    else:
        table.mark_synced()


def storm(choose: random.Random, table: Table[int, int]) -> None:
    """More changes than the log keeps."""
    key = choose.randrange(KEYS)
    for number in range(2 * LOG_SLACK + 2):
        table.upsert({key: number % VALUES})
