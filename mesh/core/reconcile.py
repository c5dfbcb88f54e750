"""Desired -> diff -> target: the one loop that every feature uses.

Rule 1: a target never decides, it only reads and writes.
Rule 2: ``diff`` and every ``desire`` function are pure; whatever can be wrong about policy is
        wrong before this file.
Rule 3: create and update before delete, so that a moved row is never absent in between; nothing
        is deleted before the table is synced, nor before the tables that may still refer to it
        have arrived (``delete_after``).
Rule 4: one failed row never stops the rest; the next full round's diff is the retry.

Derivations run first and synchronously, in the order in which they were added. Then each target
has a task of its own, so that a store that is away never delays a map.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mesh.core.groups import Followed, Grouped, Input
from mesh.core.table import Changes, ColumnTable, Source, Table

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Seconds between full read-and-diff rounds of a healthy target.
FULL_INTERVAL_S = 60.0
#: Pause after a round with errors: first, and longest.
BACKOFF_S = (0.1, 5.0)

Errors = Mapping[K, Exception]


class Target(Protocol[K, V]):
    """Something outside the process that holds rows: RTNETLINK, etcd, a BGP session, a map.

    ``upsert`` and ``delete`` return the rows that failed, with the reason; they raise OSError
    when the target as a whole is out of reach. Deleting an absent row is no error.
    """

    async def read(self) -> Mapping[K, V]:
        """Return the rows that are really there."""

    async def upsert(self, rows: Mapping[K, V]) -> Errors[K]:
        """Write rows; idempotent."""

    async def delete(self, keys: Collection[K]) -> Errors[K]:
        """Remove rows."""


class ColumnTarget(Protocol):
    """A target for column tables: a BPF map written in batches. Raises OSError."""

    async def read(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Keys and values that are really there, in the table's dtypes."""

    async def upsert(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Write rows; idempotent."""

    async def delete(self, keys: npt.NDArray[Any]) -> None:
        """Remove rows."""


@dataclass(frozen=True, slots=True)
class Diff(Generic[K, V]):
    """The writes that turn ``actual`` into ``desired``."""

    upsert: Mapping[K, V]
    delete: frozenset[K]


def diff(desired: Mapping[K, V], actual: Mapping[K, V]) -> Diff[K, V]:
    """Compare two states; equal rows produce no write."""
    return Diff(
        upsert={k: v for k, v in desired.items() if k not in actual or actual[k] != v},
        delete=frozenset(k for k in actual if k not in desired),
    )


def column_diff(
    table: ColumnTable, keys: npt.NDArray[Any], values: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Keys and values to write and keys to delete, against the rows of ``table``."""
    want_keys, want_values = table.rows()
    width = f"V{table.key.itemsize}"
    have, want = keys.view(width).ravel(), want_keys.view(width).ravel()
    place = {name: i for i, name in enumerate(have.tolist())}
    at = np.fromiter((place.get(n, -1) for n in want.tolist()), np.int64, len(want))
    stale = at < 0
    if len(keys):
        body = f"V{table.value.itemsize}"
        stale |= values.view(body).ravel()[at] != want_values.view(body).ravel()
    wanted = set(want.tolist())
    gone = np.fromiter((n not in wanted for n in have.tolist()), bool, len(have))
    return want_keys[stale], want_values[stale], keys[gone]


@dataclass(slots=True)
class Report:
    """What the last round of one target did, and what it could not do: its health."""

    table: str
    revision: int = 0
    rows: int = 0
    written: int = 0
    deleted: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    at: float = 0.0
    since: float = 0.0  # Unix time since when there have been errors; 0: healthy


class Applied:
    """One table on its way into one target; ``revision`` is what has arrived there.

    Arrived means written: deletes may come later, and nobody waits for them.
    """

    def __init__(self, table: Source, after: Sequence[Applied]) -> None:
        self.table = table
        self.after = tuple(after)
        self.revision = -1
        self.report = Report(table.name)
        self.full = True
        self._deletes_after: tuple[Applied, ...] = ()
        self._doomed: set[Any] = set()  # keys that the target has and the table had no more
        self._recheck = False
        self._changed = asyncio.Event()
        self._done = asyncio.Event()
        self.waiting: list[Callable[[], None]] = []
        table.listen(self._changed.set)

    def delete_after(self, *others: Applied) -> None:
        """Delete rows only when everything desired of ``others`` has been written.

        They may have this one in their ``after``: they wait for its writes, it for theirs.
        """
        self._deletes_after += others
        for other in others:
            other.waiting.append(self._deletes_may_go)

    @property
    def arrived(self) -> bool:
        """Every desired row is there; some that are not desired may be, too."""
        return self.table.synced and self.revision == self.table.revision

    @property
    def current(self) -> bool:
        """The target holds exactly what is desired."""
        return self.arrived and not self.full and not self._doomed

    def recheck(self) -> None:
        """Read and diff everything at once: the target may have lost rows by itself."""
        self._recheck = self.full = True
        self.revision = -1
        self._changed.set()

    async def reached(self, revision: int) -> None:
        """Wait until ``revision`` of the table has been written without an error."""
        while self.revision < revision:
            self._done.clear()
            await self._done.wait()

    async def settled(self) -> None:
        """Wait until the target holds exactly what is desired, deletes included."""
        while not self.current:
            self._done.clear()
            await self._done.wait()

    async def round(self) -> None:
        """One round: read and diff when ``full``, else only what changed; raises OSError."""
        raise NotImplementedError

    async def run(self) -> None:
        """Rounds for ever: on every change, after errors with back-off, on a slow timer."""
        pause = 0.0
        self._changed.set()
        while True:
            if pause:  # a change does not shorten a back-off
                await asyncio.sleep(pause)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(FULL_INTERVAL_S):
                        await self._changed.wait()
            self.full = self.full or not self._changed.is_set()
            self._recheck = False
            self._changed.clear()
            pause = await self._paced_round(pause)

    async def _paced_round(self, pause: float) -> float:
        await self._those_before()
        started = self.report.since
        try:
            await self.round()
        except OSError as error:
            self.report.errors = {"*": str(error)}
            self.revision = -1
        self.report.at = time.time()
        if not self.report.errors:
            self.report.since = 0.0
            self.full = self._recheck
            self._done.set()
            return 0.0
        self.full = True
        self.report.since = started or self.report.at
        if not started:
            log.warning("table=%s errors=%s", self.table.name, self.report.errors)
        return min(max(2 * pause, BACKOFF_S[0]), BACKOFF_S[1])

    async def _those_before(self) -> None:
        """Return when all of ``after`` have arrived at once, since each wait lets tables change."""
        while late := [o for o in self.after if o.revision < o.table.revision]:
            await late[0].reached(late[0].table.revision)

    def _written(self, revision: int, *, failed: bool) -> None:
        """Note the end of a round's writes; a target to be read again has none for certain."""
        self.revision = -1 if failed or self._recheck else revision
        self._done.set()
        for wake in self.waiting:
            wake()

    def _deletes_may_go(self) -> None:
        if self._doomed:
            self._changed.set()

    def _due(self) -> set[Any]:
        """The doomed keys, as soon as they may be deleted."""
        waits = not self.table.synced or not all(o.arrived for o in self._deletes_after)
        return set() if waits else set(self._doomed)


class AppliedRows(Applied, Generic[K, V]):
    """``Applied`` for a table of rows."""

    def __init__(
        self, table: Table[K, V], target: Target[K, V], after: Sequence[Applied] = ()
    ) -> None:
        super().__init__(table, after)
        self.rows = table
        self.target = target

    async def round(self) -> None:
        revision = self.rows.revision
        changes = None if self.full else self.rows.changes(self.revision)
        if changes is None:
            todo = diff(dict(self.rows.rows), await self.target.read())
            self._doomed = set(todo.delete)
        else:
            todo = Diff(changes.upsert, changes.delete)
            self._doomed |= todo.delete
        report = Report(self.rows.name, revision, len(self.rows.rows), since=self.report.since)
        self.report, errors = report, dict[K, Exception]()
        if todo.upsert:
            errors.update(await self.target.upsert(todo.upsert))
            report.written = len(todo.upsert) - len(errors)
        self._written(revision, failed=bool(errors))
        self._doomed -= self.rows.rows.keys()
        if due := self._due():
            failed = await self.target.delete(due)
            self._doomed -= due
            errors.update(failed)
            report.deleted = len(due) - len(failed)
        report.errors = {str(key): str(error) for key, error in errors.items()}


class AppliedColumns(Applied):
    """``Applied`` for a column table."""

    def __init__(
        self, table: ColumnTable, target: ColumnTarget, after: Sequence[Applied] = ()
    ) -> None:
        super().__init__(table, after)
        self.columns = table
        self.target = target

    async def round(self) -> None:
        revision = self.columns.revision
        changes = None if self.full else self.columns.changes(self.revision)
        if changes is None:
            keys, values, deleted = column_diff(self.columns, *await self.target.read())
            self._doomed = set(_names(deleted))
        else:
            keys, values, deleted = changes.keys, changes.values, changes.deleted
            self._doomed |= set(_names(deleted))
        report = Report(self.columns.name, revision, len(self.columns), since=self.report.since)
        self.report = report
        failed: OSError | None = None
        if len(keys):
            try:
                await self.target.upsert(keys, values)
                report.written = len(keys)
            except OSError as error:
                failed = error
        self._written(revision, failed=failed is not None)
        self._doomed = {name for name in self._doomed if self.columns.get(name) is None}
        if due := self._due():
            await self.target.delete(np.frombuffer(b"".join(due), self.columns.key))
            self._doomed -= due
            report.deleted = len(due)
        if failed:  # only now: deletes make room in a full map
            raise failed


def _names(keys: npt.NDArray[Any]) -> list[bytes]:
    names: list[bytes] = keys.view(f"V{keys.dtype.itemsize}").ravel().tolist()
    return names


class Loop:
    """All derivations and all targets of one process."""

    def __init__(self) -> None:
        self.applied: list[Applied] = []
        self._derivations: list[tuple[tuple[Source, ...], Callable[[], None], list[int]]] = []
        self._changed = asyncio.Event()

    def derive(
        self, inputs: Sequence[Source], run: Callable[[], None], also: Sequence[Source] = ()
    ) -> None:
        """Call ``run`` when an input has changed, once all ``inputs`` are synced.

        ``also`` are inputs that need not be synced. ``run`` reads the inputs, calls a pure
        function and writes output tables; it is called after the derivations added before it, so
        outputs of those may be inputs here.
        """

        def ready() -> None:
            if all(source.synced for source in inputs):
                run()

        for source in (*inputs, *also):
            source.listen(self._changed.set)
        self._derivations.append(((*inputs, *also), ready, []))
        self._changed.set()

    def group(
        self,
        out: Table[K, V],
        make: Callable[..., Mapping[K, V]],
        *inputs: Input,
        whole: Sequence[Source] = (),
        also: Sequence[Source] = (),
    ) -> None:
        """Keep ``out`` equal to ``make`` of every group (``mesh/core/groups.py``).

        Inputs in ``also`` need not be synced; until they are, ``out`` is not synced either.
        """
        grouped = Grouped(out, make, *inputs, whole=whole, also=also)
        known = [one for one in (*grouped.sources, *grouped.whole) if one not in grouped.also]
        self.derive(known, grouped.run, grouped.also)

    def follow(self, table: Table[K, V], take: Callable[[Changes[K, V]], None]) -> None:
        """Give ``take`` what has changed in a table, once the table is synced."""
        self.derive([table], Followed(table, take).run)

    def apply(
        self, table: Table[K, V], target: Target[K, V], after: Sequence[Applied] = ()
    ) -> AppliedRows[K, V]:
        """Keep ``target`` equal to ``table``; a round waits until ``after`` have arrived."""
        applied = AppliedRows(table, target, after)
        self.applied.append(applied)
        return applied

    def apply_columns(
        self, table: ColumnTable, target: ColumnTarget, after: Sequence[Applied] = ()
    ) -> AppliedColumns:
        """``apply`` for a column table."""
        applied = AppliedColumns(table, target, after)
        self.applied.append(applied)
        return applied

    def derive_all(self) -> None:
        """Run every derivation whose inputs changed since its last run."""
        for inputs, run, seen in self._derivations:
            now = [source.revision * 2 + source.synced for source in inputs]
            if now != seen:
                seen[:] = now
                run()

    async def run(self) -> None:
        """Derive and apply until cancelled."""
        async with asyncio.TaskGroup() as group:
            for applied in self.applied:
                group.create_task(applied.run(), name=f"apply {applied.table.name}")
            while True:
                self._changed.clear()
                self.derive_all()
                await self._changed.wait()
