"""Desired -> diff -> target: the one loop that every feature uses.

Rule 1: a target never decides, it only reads and writes.
Rule 2: every derivation is pure; whatever can be wrong about policy is wrong before this file.
Rule 3: create and update before delete, so that a moved row is never absent in between; nothing
        is deleted before the table is synced, nor while rows of another target refer to it
        (``Refers``).
Rule 4: one failed row never stops the rest: it alone is tried again, with back-off. A target that
        is out of reach is read and compared afterwards.
Rule 5: a target sees tables only at the end of a pass over all derivations (``passes.py``).
Rule 6: what does not fit into a target is chosen by rank and costs nothing until room appears.

Each target has a task of its own, so that a store that is away never delays a map.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from mesh.core.applied import Applied, Limit, Refers, Report
from mesh.core.applied_columns import AppliedColumns, ColumnRank, equal_ranks
from mesh.core.applied_rows import AppliedRows
from mesh.core.groups import HANDED, Followed, Grouped, Input
from mesh.core.limits import Full
from mesh.core.passes import Gate, Passes, Sliced, Whole
from mesh.core.table import Changes, ColumnTable, Source, Table
from mesh.core.target import ColumnTarget, Errors, RowsFailed, Target

__all__ = [  # the names that features use
    "Applied",
    "AppliedColumns",
    "AppliedRows",
    "ColumnTarget",
    "Errors",
    "Full",
    "Loop",
    "Refers",
    "Report",
    "RowsFailed",
    "Target",
]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
A = TypeVar("A", bound=Applied)


class Loop:
    """All derivations and all targets of one process.

    ``gate`` is that of another loop whose derivations make the tables that go into targets here.
    ``clock`` says how much CPU time has been used; it decides when long work rests.
    """

    def __init__(
        self, gate: Gate | None = None, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self.applied: list[Applied] = []
        self.gate = gate or Gate()
        self._passes = Passes(Gate() if gate else self.gate, clock)

    def derive(
        self,
        inputs: Sequence[Source],
        run: Callable[[], None],
        also: Sequence[Source] = (),
        *,
        name: str = "",
    ) -> None:
        """Call ``run`` when an input has changed, once all ``inputs`` are synced.

        ``also`` are inputs that need not be synced. ``run`` reads the inputs, calls a pure
        function and writes output tables; it is called after the derivations added before it, so
        outputs of those may be inputs here. It is one piece: for tables that are small.
        """
        named = name or getattr(run, "__qualname__", "derivation")
        self._passes.add(named, inputs, also, Whole(run))

    def group(
        self,
        out: Table[K, V],
        make: Callable[..., Mapping[K, V]],
        *inputs: Input,
        whole: Sequence[Source] = (),
        also: Sequence[Source] = (),
        late: Sequence[Source] = (),
        name: str = "",
    ) -> None:
        """Keep ``out`` equal to ``make`` of every group (``mesh/core/groups.py``).

        Sources in ``also`` and ``late`` need not be synced for a run. ``out`` is not marked synced
        before those in ``late`` are.
        """
        grouped = Grouped(out, make, *inputs, whole=whole, late=late)
        free = [*also, *late]
        known = [one for one in (*grouped.sources, *grouped.whole) if one not in free]
        self._passes.add(name or out.name, known, free, grouped)

    def follow(
        self, table: Table[K, V], take: Callable[[Changes[K, V]], None], *, keys: int = HANDED
    ) -> None:
        """Give ``take`` what has changed in a table, once the table is synced.

        It gets ``keys`` at a time: fewer where much hangs on each.
        """
        self._passes.add(f"follow {table.name}", [table], (), Followed(table, take, keys))

    def work(
        self, name: str, work: Sliced, inputs: Sequence[Source], also: Sequence[Source] = ()
    ) -> None:
        """``derive`` for work that rests between its pieces."""
        self._passes.add(name, inputs, also, work)

    def apply(
        self,
        table: Table[K, V],
        target: Target[K, V],
        after: Sequence[Applied] = (),
        *,
        token: Callable[[K], Hashable] | None = None,
        refers: Sequence[Refers[K, V]] = (),
        capacity: int | None = None,
        rank: Callable[[K, V], int] | None = None,
        meaning: str = "",
        left_out: Table[Any, bool] | None = None,
    ) -> AppliedRows[K, V]:
        """Keep ``target`` equal to ``table``; a round waits until ``after`` have arrived.

        ``token`` says by which name rows of other targets refer to a row, ``refers`` to which rows
        of other targets a row refers. At most ``capacity`` rows are written, those of the lowest
        ``rank``; ``meaning`` says who lacks what when there are more, and stays empty when the
        feature has a finding of its own. The tokens without room go into ``left_out``: derivations
        that are added before the target read them there.
        """
        limit = Limit(capacity, rank or (lambda _key, _row: 0), meaning)
        applied = AppliedRows(
            table, target, after, token=token, refers=refers, limit=limit, left_out=left_out
        )
        return self._add(applied)

    def apply_columns(
        self,
        table: ColumnTable,
        target: ColumnTarget,
        after: Sequence[Applied] = (),
        *,
        capacity: int | None = None,
        rank: ColumnRank | None = None,
        meaning: str = "",
    ) -> AppliedColumns:
        """``apply`` for a column table; ``rank`` gets an array of values, gives an array."""
        applied = AppliedColumns(
            table, target, after, limit=Limit(capacity, rank or equal_ranks, meaning)
        )
        return self._add(applied)

    def _add(self, applied: A) -> A:
        applied.gate = self.gate
        self.applied.append(applied)
        return applied

    def costs(self) -> list[dict[str, object]]:
        """What each derivation has cost since the start, the dearest first."""
        costs = sorted((one.cost for one in self._passes.all), key=lambda c: -c.cpu_s)
        return [
            {
                "name": cost.name,
                "runs": cost.runs,
                "groups": cost.groups,
                "rows": cost.rows,
                "cpu_ms": round(1000 * cost.cpu_s, 3),
                "dearest_run_ms": round(1000 * cost.dearest_s, 3),
            }
            for cost in costs
        ]

    def failures(self) -> Mapping[str, Mapping[Any, Exception]]:
        """What derivations could not make, by name; ``None`` stands for all of it."""
        return {one.cost.name: one.failures for one in self._passes.all if one.failures}

    def derive_all(self) -> None:
        """Run every derivation whose inputs changed since its last run, to its end."""
        self._passes.once()

    async def run(self) -> None:
        """Derive and apply until cancelled."""
        async with asyncio.TaskGroup() as group:
            for applied in self.applied:
                group.create_task(applied.run(), name=f"apply {applied.table.name}")
            await self._passes.run()
