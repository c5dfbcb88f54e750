"""Desired -> diff -> target: the one loop that every feature uses.

Rule 1: a target never decides, it only reads and writes.
Rule 2: ``diff`` and every ``desire`` function are pure; whatever can be wrong about policy is
        wrong before this file.
Rule 3: create and update before delete, so that a moved row is never absent in between; nothing
        is deleted before the table is synced, nor while rows of another target refer to it
        (``Refers``), nor before what that other target was to have at the time has arrived
        (``delete_after``).
Rule 4: one failed row never stops the rest: it alone is tried again, with back-off. A target that
        is out of reach is read and compared afterwards.
Rule 5: a target sees tables only at the end of a pass over all derivations (``passes.py``).
Rule 6: what does not fit into a target is chosen by rank and costs nothing until room appears.

Each target has a task of its own, so that a store that is away never delays a map.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from mesh.core.groups import By, Followed, Grouped, To
from mesh.core.limits import Choice, Full, column_choice
from mesh.core.passes import SLICE_S, Gate, Passes, Whole
from mesh.core.table import Changes, ColumnTable, Source, Table, column_names

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Seconds between full read-and-diff rounds of a healthy target.
FULL_INTERVAL_S = 60.0
#: Pause after a round with errors: first, and longest.
BACKOFF_S = (0.1, 5.0)
#: Waits for ``after`` before a round writes rows that changed during the wait, too.
_WAITS = 2
#: How much too early a timer of an event loop may end.
_TIMER_S = 0.001
#: Rows between two looks at the clock.
_ROWS_PER_LOOK = 256
#: How the kernel says that a map is full.
_FULL = (errno.E2BIG, errno.ENOSPC)

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


@runtime_checkable
class Comparing(Protocol[K, V]):
    """A target that finds out more cheaply which rows are there when it is told which may be."""

    async def read_known(self, known: Mapping[K, V]) -> Mapping[K, V]:
        """``read``; rows that are equal to those of ``known`` are the same objects."""


class RowsFailed(OSError):
    """Some rows of a column target failed: ``failed`` has the errno by index."""

    def __init__(self, number: int, text: str, failed: Mapping[int, int]) -> None:
        super().__init__(number, text)
        self.failed = failed


class ColumnTarget(Protocol):
    """A target for column tables: a BPF map written in batches.

    ``upsert`` raises RowsFailed when the other rows are written; OSError means out of reach.
    """

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
    waiting: int = 0  # rows that refer to rows that are not there yet
    full: Full | None = None
    errors: dict[str, str] = field(default_factory=dict)
    at: float = 0.0
    since: float = 0.0  # Unix time since when there have been errors; 0: healthy


@dataclass(frozen=True, slots=True)
class Limit:
    """How many rows a target has room for, and which go first."""

    capacity: int | None = None
    rank: Callable[..., Any] | None = None
    meaning: str = ""


@dataclass(frozen=True)
class Refers(Generic[K, V]):
    """Rows refer to rows of the target ``to`` by the tokens that ``tokens(key, row)`` gives."""

    to: Applied
    tokens: Callable[[K, V], Iterable[Hashable]]


class _Names(Generic[K, V]):
    """The tokens that rows in a target name, or may name while they are being written."""

    def __init__(self, by: AppliedRows[K, V], refers: Refers[K, V]) -> None:
        self.by = by
        self.refers = refers
        self.of: dict[K, tuple[Hashable, ...]] = {}  # of rows that are or may be in the target
        self._count: dict[Hashable, int] = {}

    def add(self, key: K, row: V) -> None:
        """The row is being written: the target has the former one or this one."""
        tokens = tuple(self.refers.tokens(key, row))
        for token in tokens:
            self._count[token] = self._count.get(token, 0) + 1
        self.of[key] = (*self.of.get(key, ()), *tokens)

    def settle(self, key: K, row: V) -> None:
        """The target has exactly this row of the key."""
        former = self.of.pop(key, ())
        self.add(key, row)
        self._forget(former)

    def drop(self, key: K) -> None:
        """The target has no row of the key."""
        self._forget(self.of.pop(key, ()))

    def has(self, token: Hashable) -> bool:
        """Whether a row names the token."""
        return token in self._count

    def stale(self, token: Hashable) -> bool:
        """Whether a row names it that is in the target and is not as desired."""
        return any(token in self.of.get(key, ()) for key in self.by.unsettled())

    def _forget(self, tokens: Iterable[Hashable]) -> None:
        for token in tokens:
            self._count[token] -= 1
            if not self._count[token]:
                del self._count[token]


class Applied:
    """One table on its way into one target; ``revision`` is what has arrived there.

    Arrived means written: deletes may come later, and nobody waits for them. Rows for which the
    target has no room do not count.
    """

    def __init__(self, table: Source, after: Sequence[Applied], limit: Limit) -> None:
        self.table = table
        self.after = tuple(after)
        self.limit = limit
        self.gate = Gate()
        self.revision = -1
        self.report = Report(table.name)
        self.full = True
        #: Whether the rows of the target have ever been read.
        self.known = False
        self.waiting: list[Callable[[], None]] = []
        self.referrers: list[_Names[Any, Any]] = []
        self._doomed: dict[Any, tuple[int, ...]] = {}  # -> revisions of ``_deletes_after``
        self._deletes_after: tuple[Applied, ...] = ()
        self._failed: dict[Any, str] = {}  # rows to be tried again, with the reason
        self._room = limit.capacity  # less than the capacity when the target says so
        self._choose_due = False
        self._deleting = False
        self._blocked = 0  # rows that the last plan could not take
        self._waited = 0  # those of them that refer to missing rows
        self._recheck = False
        self._changed = asyncio.Event()
        self._done = asyncio.Event()
        self._told = (-1, -1, False)
        self._pause = self._retry_at = self._read_by = 0.0
        table.listen(self._changed.set)

    def delete_after(self, *others: Applied) -> None:
        """Delete rows only when what was desired of ``others`` at the time has been written.

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
        return self.arrived and not self.full and not self._doomed and not self._deleting

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

    # What other targets ask

    def merge(self) -> None:
        """Take in what the table has changed; called while the tables fit together."""
        raise NotImplementedError

    def stands(self, token: Hashable) -> bool:
        """Whether there are rows of this token and all of them are in the target as desired."""
        raise NotImplementedError

    def wants(self, token: Hashable) -> bool:
        """Whether rows of this token are to be in the target."""
        raise NotImplementedError

    # A round

    async def round(self) -> None:
        """Read and diff when ``full``, else only what changed; raises OSError."""
        if self.full:
            await self._read()
            self._deleting = False
            self._read_by = _now() + FULL_INTERVAL_S
        plan = await self._planned()
        report = Report(self.table.name, plan.revision, plan.rows, since=self.report.since)
        self.report = report
        failure = await self._write(plan)
        self._written(plan.revision, failed=failure is not None)
        await self._delete()
        report.waiting, report.full = self._waited, self.overflow()
        report.errors = {str(key): text for key, text in self._failed.items()}
        if failure:  # only now: deletes make room in a full map
            raise failure

    async def run(self) -> None:
        """Rounds for ever: on every change, after errors with back-off, on a slow timer."""
        self._changed.set()
        while True:
            self.full = not await self._due() or self.full
            self.full |= bool(self._failed) and _now() > self._read_by
            self._recheck = False
            self._changed.clear()
            await self._paced_round()

    async def _due(self) -> bool:
        """Wait for the next round; False: nothing has changed for long."""
        await asyncio.sleep(0)  # a round that has nothing to wait for would let nobody else run
        now = _now()
        if self._pause and not self._failed:  # a change does not shorten a back-off
            await asyncio.sleep(self._pause)
            return True
        retry = max(self._retry_at - now, 0) if self._failed else FULL_INTERVAL_S
        with suppress(TimeoutError):
            async with asyncio.timeout(min(retry, FULL_INTERVAL_S)):
                await self._changed.wait()
        return bool(self._failed) or self._changed.is_set()

    async def _paced_round(self) -> None:
        started, retries = self.report.since, self._retries()
        try:
            await self.round()
        except OSError as error:
            self.report.errors = {"*": str(error)}
            self.revision, self._recheck, retries = -1, True, True
            self._failed.clear()
        self.report.at = time.time()
        self.full = self._recheck
        if not self.report.errors:
            self.report.since = self._pause = 0.0
            self._done.set()
            return
        if retries or not self._pause:
            self._pause = min(max(2 * self._pause, BACKOFF_S[0]), BACKOFF_S[1])
            self._retry_at = _now() + self._pause
        self.report.since = started or self.report.at
        if not started:
            log.warning("table=%s errors=%s", self.table.name, self.report.errors)

    async def _planned(self) -> Plan:
        """What to write, when the rows that it may refer to have been written.

        ``after`` counts as it was when the wait began. Rows that changed during a wait get one
        more; then the ones of its begin are written, because there may always be newer ones.
        """
        for _ in range(_WAITS):
            plan = await self.gate.look(self._plan)
            before = zip(self.after, plan.after, strict=True)
            late = [(one, revision) for one, revision in before if one.revision < revision]
            for one, revision in late:
                await one.reached(revision)
            if not late or plan.table == self.table.revision:
                break
        return plan

    def _plan(self) -> Plan:
        """What can be written now; noted as being written."""
        raise NotImplementedError

    def overflow(self) -> Full | None:
        """The report of a target that has not room for everything."""
        raise NotImplementedError

    async def _read(self) -> None:
        raise NotImplementedError

    async def _write(self, plan: Any) -> OSError | None:
        raise NotImplementedError

    async def _delete(self) -> None:
        raise NotImplementedError

    def _written(self, revision: int, *, failed: bool) -> None:
        """Note the end of a round's writes; a target to be read again has none for certain."""
        failed = failed or any(key not in self._doomed for key in self._failed)
        if self._recheck or failed:
            self.revision = -1
        elif not self._blocked:
            self.revision = revision
        self._done.set()
        told, self._told = self._told, (revision, self.revision, self.table.synced)
        if self.report.written or told != self._told:  # else two that wait wake each other for ever
            self._tell()

    def _tell(self) -> None:
        self._done.set()
        for wake in self.waiting:
            wake()

    def _deletes_may_go(self) -> None:
        if self._doomed:
            self._changed.set()

    def _references_stand(self) -> None:
        if self._waited:
            self._changed.set()

    def _doom(self, key: Any) -> None:
        if key not in self._doomed:
            self._doomed[key] = tuple(o.table.revision for o in self._deletes_after)

    def _may_go(self, token: Hashable, marks: tuple[int, ...]) -> bool:
        """Whether nothing that is in another target refers to the row any more."""
        for other, revision in zip(self._deletes_after, marks, strict=True):
            if not other.table.synced or other.revision < revision:
                return False
        return all(self._released(names, token) for names in self.referrers)

    def _released(self, names: _Names[Any, Any], token: Hashable) -> bool:
        if not names.by.known:
            return False
        if not names.has(token):
            return True
        return self.wants(token) and self.stands(token) and not names.stale(token)

    def _merge_all(self) -> None:
        """Take in the changes of the table and of those that refer to it, at one moment."""
        self.merge()
        for names in self.referrers:
            names.by.merge()

    def _freed(self, *, undesired: bool) -> None:
        """Deletes let rows of this target and deletes of others go.

        A target that was full before its capacity may have room again, but not because of rows
        that were only deleted for lack of room.
        """
        if self._blocked:
            self._changed.set()
        if undesired and self._room != self.limit.capacity:
            self._room_appeared()
            self._choose_due = True
            self._changed.set()
        self._tell()

    def _retries(self) -> bool:
        return _now() + _TIMER_S >= self._retry_at

    def _learn(self, rows: int) -> None:
        """The target says that it is full: rows that nobody counted take room."""
        if self.limit.capacity is not None:
            self._room = min(rows, self.limit.capacity)

    def _room_appeared(self) -> None:
        self._room = self.limit.capacity


def _now() -> float:
    return asyncio.get_running_loop().time()


A = TypeVar("A", bound=Applied)


@dataclass(slots=True)
class Plan:
    """A round's writes, and the revisions at the time when they were chosen."""

    revision: int
    table: int
    rows: int
    after: tuple[int, ...]


@dataclass(slots=True)
class RowPlan(Plan, Generic[K, V]):
    """Writes of rows."""

    upsert: dict[K, V]


class AppliedRows(Applied, Generic[K, V]):
    """``Applied`` for a table of rows."""

    def __init__(  # noqa: PLR0913 - as ``Loop.apply``
        self,
        table: Table[K, V],
        target: Target[K, V],
        after: Sequence[Applied] = (),
        *,
        token: Callable[[K], Hashable] | None = None,
        refers: Sequence[Refers[K, V]] = (),
        limit: Limit = Limit(),
    ) -> None:
        super().__init__(table, after, limit)
        self.rows = table
        self.target = target
        #: Tokens of rows for which the target has no room, or has none until rows go that others
        #: still refer to: who waits for such a row and keeps one of those would wait for ever.
        self.left_out: Table[Any, bool] = Table(f"{table.name} without room")
        if limit.capacity is None:
            self.left_out.mark_synced()
        self._token = token
        self._names = [_Names(self, one) for one in refers]
        self._seen = -1
        self._have: dict[K, V] = {}  # rows that the target has
        self._owed: dict[K, None] = {}  # rows to be written
        self._unsure: set[K] = set()  # rows that may be there, in part or whole
        self._flying: dict[K, V] = {}  # rows that are being written
        self._members: dict[Hashable, dict[K, None]] = {}  # rows of a token, where it is no key
        self._choice: Choice[Any] | None = None
        self._short: set[Any] = set()  # tokens of rows that wait until deletes make room
        self._told_short: set[Any] = set()
        self._publish_due = False
        for names in self._names:
            names.refers.to.referrers.append(names)
            names.refers.to.waiting.append(self._references_stand)
            self.waiting.append(names.refers.to._deletes_may_go)  # noqa: SLF001 - the same class

    # What other targets ask

    def merge(self) -> None:
        if not self.known or (self._seen == self.rows.revision and not self._choose_due):
            return
        changes = self.rows.changes(self._seen)
        if changes is None:
            self._merge_whole()
        else:
            for key, row in changes.upsert.items():
                self._want(key, row)
            for key in changes.delete:
                self._unwant(key)
        self._seen = self.rows.revision
        self._choose(None if self._choose_due else changes)
        self._choose_due = False

    def stands(self, token: Hashable) -> bool:
        if not self.known:
            return False
        if self._token is None:
            return self._settled(token)
        members = self._members.get(token, ())
        return bool(members) and all(map(self._settled, members))

    def wants(self, token: Hashable) -> bool:
        if self._choice and token in self._choice.out:
            return False
        return token in (self.rows.rows if self._token is None else self._members)

    def unsettled(self) -> Iterable[K]:
        """Keys of rows that are not as desired."""
        return chain(self._owed, self._doomed, self._unsure, self._flying)

    def _settled(self, key: Hashable) -> bool:
        return key in self._have and key not in self._owed and key not in self._doomed

    # Desired against there

    def _want(self, key: K, row: V) -> None:
        self._failed.pop(key, None)
        if self._token is not None:
            self._members.setdefault(self._token(key), {})[key] = None
        if self._choice and self._name(key) in self._choice.out:
            return
        self._doomed.pop(key, None)
        certain = key in self._have and key not in self._unsure and key not in self._flying
        if certain and self._have[key] == row:
            self._owed.pop(key, None)
        else:
            self._owed[key] = None

    def _unwant(self, key: K) -> None:
        if self._token is not None:
            members = self._members.get(self._token(key), {})
            members.pop(key, None)
            if not members:
                self._members.pop(self._token(key), None)
        self._exclude(key)

    def _exclude(self, key: K) -> None:
        """The row is not to be in the target."""
        self._owed.pop(key, None)
        self._failed.pop(key, None)
        if key in self._have or key in self._unsure or key in self._flying:
            self._doom(key)

    def _merge_whole(self) -> None:
        """``_want`` and ``_unwant`` of every row, quickly."""
        rows, have, unsure = self.rows.rows, self._have, {*self._unsure, *self._flying}
        if self._token is not None:
            self._members = {}
            for key in rows:
                self._members.setdefault(self._token(key), {})[key] = None
        out = self._choice.out if self._choice else ()
        self._owed = {
            key: None
            for key, row in rows.items()
            if not (key in have and (have[key] is row or have[key] == row)) or key in unsure
        }
        for key in (key for key in rows if key not in self._owed):
            have[key] = rows[key]  # the same object: a row is kept once
        if out:
            self._owed = {key: None for key in self._owed if self._name(key) not in out}
        for key in [key for key in self._doomed if key in rows and self._name(key) not in out]:
            del self._doomed[key]
        for key in [key for key in (*have, *unsure) if key not in rows]:
            self._exclude(key)
        self._failed = {key: text for key, text in self._failed.items() if key in self._owed}

    # Room

    def _name(self, key: K) -> Any:
        return key if self._token is None else self._token(key)

    def _unit(self, name: Any) -> Iterable[K]:
        return (name,) if self._token is None else self._members.get(name, ())

    def _choose(self, changes: Changes[K, V] | None) -> None:
        """Keep the choice of rows up to date, if there must be one."""
        if self._room is None:
            return
        if len(self.rows.rows) <= self._room:
            left, self._choice = self._choice.out if self._choice else set(), None
            self._put_in(left)
            self._publish_due |= bool(left)
        elif self._choice is None or self._choice.capacity != self._room or changes is None:
            self._choose_anew(self._room)
        else:
            self._rechoose(self._choice, {**changes.upsert, **dict.fromkeys(changes.delete)})
        self._publish()

    def _choose_anew(self, room: int) -> None:
        before = self._choice.out if self._choice else set()
        choice: Choice[Any] = Choice(room)
        self._choice = choice
        rows = self.rows.rows
        names = dict.fromkeys(self._name(key) for key in self._have if key in rows)
        names |= dict.fromkeys(self._name(key) for key in rows)
        for name in names:
            self._put(choice, name)
        self._put_in(name for name in before if name not in choice.out)
        self._leave_out(choice.out)
        self._publish_due = True

    def _rechoose(self, choice: Choice[Any], changed: Iterable[K]) -> None:
        for name in dict.fromkeys(self._name(key) for key in changed):
            if self.rows_of(name):
                self._put(choice, name)
            else:
                choice.remove(name)
                self._publish_due = True
        moved = list(choice.moved())
        self._publish_due |= bool(moved)
        self._put_in(name for name in moved if name not in choice.out)
        self._leave_out(name for name in moved if name in choice.out)

    def rows_of(self, name: Any) -> bool:
        """Whether rows of this name are desired."""
        return name in (self.rows.rows if self._token is None else self._members)

    def _put(self, choice: Choice[Any], name: Any) -> None:
        rank, rows = self.limit.rank, self.rows.rows
        keys = list(self._unit(name))
        choice.put(name, len(keys), min(rank(key, rows[key]) for key in keys) if rank else 0)

    def _put_in(self, names: Iterable[Any]) -> None:
        rows = self.rows.rows
        for name in list(names):
            for key in self._unit(name):
                if key in rows:
                    self._want(key, rows[key])

    def _leave_out(self, names: Iterable[Any]) -> None:
        for name in names:
            for key in self._unit(name):
                self._exclude(key)

    def _publish(self) -> None:
        if self.rows.synced:
            self.left_out.mark_synced()
        if not self._publish_due and self._short == self._told_short:
            return
        self._publish_due, self._told_short = False, set(self._short)
        out = {*(self._choice.out if self._choice else ()), *self._short}
        self.left_out.upsert(dict.fromkeys(out, True))
        self.left_out.delete([name for name in self.left_out.rows if name not in out])

    def overflow(self) -> Full | None:
        if not self._choice or not self._choice.out:
            return None
        demand, room = len(self.rows.rows), self._choice.capacity
        return Full(self.rows.name, demand, room, self.limit.meaning)

    # A round

    async def _read(self) -> None:
        self._room_appeared()
        if isinstance(self.target, Comparing):
            found = await self.target.read_known(self._have or dict(self.rows.rows))
        else:
            found = await self.target.read()
        before, self._have = self._have, dict(found)
        unsure = {*self._unsure, *self._flying}
        self._unsure, self._flying = set(), {}
        self._failed.clear()
        for names in self._names:
            for key in [key for key in names.of if key not in self._have]:
                names.drop(key)
            for key, row in self._have.items():
                if before.get(key) is not row or key in unsure:
                    names.settle(key, row)
        self._doomed = {key: marks for key, marks in self._doomed.items() if key in self._have}
        self._seen, self.known = -1, True

    def _plan(self) -> RowPlan[K, V]:
        self._land()
        self._merge_all()
        for names in self._names:
            names.refers.to.merge()
        revision = self.rows.revision
        after = tuple(one.table.revision for one in self.after)
        upsert = self._flying = self._writable()
        for names in self._names:
            for key, row in upsert.items():
                names.add(key, row)
        return RowPlan(revision, revision, len(self.rows.rows), after, upsert)

    def _land(self) -> None:
        """Rows of a plan that was given up were not written."""
        flying, self._flying = self._flying, {}
        for names in self._names:
            for key in flying:
                if key in self._have and key not in self._unsure:
                    names.settle(key, self._have[key])
                elif key not in self._unsure:
                    names.drop(key)

    def _writable(self) -> dict[K, V]:
        """The owed rows that may be written now; those that do not fit one step come next."""
        rows, chosen, retries = self.rows.rows, dict[K, V](), self._retries()
        room = self._free()
        self._blocked = self._waited = 0
        self._short = set()
        end = time.thread_time() + SLICE_S
        for number, key in enumerate(self._owed):
            if number % _ROWS_PER_LOOK == _ROWS_PER_LOOK - 1 and time.thread_time() > end:
                self._blocked += 1
                self._changed.set()
                break
            if key not in rows or (key in self._failed and not retries):
                self._blocked += key in rows
            elif not self._refers_to_standing(key, rows[key]):
                self._blocked, self._waited = self._blocked + 1, self._waited + 1
            elif (new := key not in self._have and key not in self._unsure) and room <= 0:
                self._blocked += 1
                self._short.add(self._name(key))
            else:
                room -= new
                chosen[key] = rows[key]
        return chosen

    def _free(self) -> float:
        return float("inf") if self._room is None else self._room - self._count()

    def _count(self) -> int:
        """Rows that are or may be in the target."""
        return len(self._have) + sum(key not in self._have for key in self._unsure)

    def _refers_to_standing(self, key: K, row: V) -> bool:
        return all(
            names.refers.to.stands(token)
            for names in self._names
            for token in names.refers.tokens(key, row)
        )

    async def _write(self, plan: RowPlan[K, V]) -> OSError | None:
        if not plan.upsert:
            return None
        errors = await self.target.upsert(plan.upsert)
        self._flying = {}
        for key, row in plan.upsert.items():
            if key not in errors:
                self._arrive(key, row)
        self._unsure.update(errors)
        self._fail(errors)
        self.report.written = len(plan.upsert) - len(errors)
        return None

    def _arrive(self, key: K, row: V) -> None:
        """The row is written; by now another one may be desired."""
        self._failed.pop(key, None)
        self._unsure.discard(key)
        self._have[key] = row
        for names in self._names:
            names.settle(key, row)
        now = self.rows.rows.get(key, row)
        if now is row or now == row:
            self._owed.pop(key, None)
        elif key not in self._doomed:
            self._owed[key] = None

    def _fail(self, errors: Errors[K]) -> None:
        full = self.limit.capacity is not None
        refused = [k for k, e in errors.items() if full and getattr(e, "errno", 0) in _FULL]
        for key in refused:  # the map has nothing of a row that it refused
            self._unsure.discard(key)
            self._have.pop(key, None)
            for names in self._names:
                names.drop(key)
        if refused:
            self._learn(self._count())
            self._choose_due = True
            self._blocked += 1
            self._changed.set()
        for key, error in errors.items():
            if key not in refused:
                self._failed[key] = str(error)

    async def _delete(self) -> None:
        if self._doomed and self.rows.synced:
            await self._delete_due()
        if not self._doomed:  # room is there by now
            self._short = set()
        if self._room is not None:
            self._publish()

    async def _delete_due(self) -> None:
        due = [key for key, marks in self._doomed.items() if self._goes(key, marks)]
        if not due:
            return
        held = {key: self._doomed.pop(key) for key in due}
        for key in due:
            self._have.pop(key, None)
        self._unsure.update(due)
        self._deleting = True
        failed = await self.target.delete(due)
        self._deleting = False
        for key in due:
            if key in failed and key not in self._owed:
                self._doomed.setdefault(key, held[key])
                self._failed[key] = str(failed[key])
            elif key in failed:
                continue  # desired again by now, and not there for certain
            else:
                self._gone(key)
        self.report.deleted = len(due) - len(failed)
        if self.report.deleted:
            self._freed(undesired=any(key not in self.rows.rows for key in due))

    def _gone(self, key: K) -> None:
        self._unsure.discard(key)
        self._failed.pop(key, None)
        for names in self._names:
            names.drop(key)

    def _goes(self, key: K, marks: tuple[int, ...]) -> bool:
        if key in self._failed and not self._retries():
            return False
        token = self._name(key)
        back = key in self.rows.rows and not (self._choice and token in self._choice.out)
        return not back and self._may_go(token, marks)


Slots = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
ColumnRank = Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]


@dataclass(slots=True)
class ColumnPlan(Plan):
    """Writes of columns."""

    slots: Slots
    keys: npt.NDArray[Any]
    values: npt.NDArray[Any]


class AppliedColumns(Applied):
    """``Applied`` for a column table; what is there is noted by slot, in arrays of flags."""

    def __init__(
        self,
        table: ColumnTable,
        target: ColumnTarget,
        after: Sequence[Applied] = (),
        *,
        limit: Limit = Limit(),
    ) -> None:
        super().__init__(table, after, limit)
        self.columns = table
        self.target = target
        self._seen = -1
        self._there: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
        #: By slot: the key is or may be in the target; the row is to be written, is being written,
        #: has failed, has no room.
        self._inside, self._owed, self._flying, self._broken, self._out = (
            np.zeros(0, bool) for _ in range(5)
        )
        self._new: Slots = np.zeros(0, np.int64)  # being written, and not in the target before
        self._aloft: Slots = self._new  # being written
        self._look: list[Slots] = []  # where rows may be owed: a change costs no pass over all
        self._grow()

    # What other targets ask

    def merge(self) -> None:
        if not self.known or (self._seen == self.columns.revision and not self._choose_due):
            return
        moved = self.columns.moved(self._seen)
        if moved is None:  # which keys left which slots is no longer known
            self.known = False
            self.recheck()
            return
        self._grow()
        for name, slot in moved.gone:
            if self._inside[slot]:
                self._doom(name)
            for flags in self._flags():
                flags[slot] = False
        self._come_back(moved.slots)
        self._owe(moved.slots)
        self._broken[moved.slots] = False
        self._seen = self.columns.revision
        self._choose()

    def stands(self, token: Hashable) -> bool:
        slot = self._slot(token)
        if slot is None or not self.known or self._out[slot]:
            return False
        return bool(self._inside[slot] and not self._owed[slot] and not self._flying[slot])

    def wants(self, token: Hashable) -> bool:
        slot = self._slot(token)
        return slot is not None and not self._out[slot]

    def _slot(self, token: Hashable) -> int | None:
        slot = self.columns.slot(token) if isinstance(token, bytes) else None
        return None if slot is None or slot >= len(self._owed) else slot

    # Desired against there

    def _flags(self) -> tuple[Flags, ...]:
        return self._inside, self._owed, self._flying, self._broken, self._out

    def _owe(self, slots: Slots) -> None:
        self._owed[slots] = True
        self._look.append(slots)

    def _grow(self) -> None:
        more = np.zeros(self.columns.size - len(self._owed), bool)
        if len(more):
            self._inside, self._owed, self._flying, self._broken, self._out = (
                np.concatenate([flags, more]) for flags in self._flags()
            )

    def _come_back(self, slots: Slots) -> None:
        """Keys whose delete has not begun are in the target still."""
        if not self._doomed:
            return
        names = column_names(self.columns.at(slots)[0])
        for name, slot in zip(names, slots.tolist(), strict=True):
            if self._doomed.pop(name, None) is not None:
                self._inside[slot] = True

    def _choose(self) -> None:
        """Which rows have no room: one pass over the ranks, none while there is room for all."""
        self._choose_due = False
        if self._room is None or (len(self.columns) <= self._room and not self._out.any()):
            return
        slots = self.columns.slots()
        rank = self.limit.rank or _equal_ranks
        ranks = rank(self.columns.at(slots)[1])
        fits = column_choice(ranks, self._inside[slots], self._room)
        came = slots[fits & self._out[slots]]
        self._out[:] = False
        self._out[slots[~fits]] = True
        self._broken &= ~self._out
        self._owe(came)
        self._come_back(came)
        losers = np.flatnonzero(self._out & self._inside)
        for name in column_names(self.columns.at(losers)[0]):
            self._doom(name)
        self._inside[losers] = False

    def overflow(self) -> Full | None:
        if self._room is None or not self._out.any():
            return None
        return Full(self.columns.name, len(self.columns), self._room, self.limit.meaning)

    # A round

    async def _read(self) -> None:
        self._there = await self.target.read()
        self._room_appeared()
        self._failed.clear()

    def _compare(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Note what the read has found, at a moment when the table does not change."""
        self._grow()
        for flags in self._flags():
            flags[:] = False
        self._owed[self.columns.slots()] = True
        names, marks = column_names(keys), self._doomed
        places = [self.columns.slot(name) for name in names]
        ours = np.array([place is not None for place in places], bool)
        found = np.array([place for place in places if place is not None], np.int64)
        width = f"V{self.columns.value.itemsize}"
        want = np.ascontiguousarray(self.columns.at(found)[1]).view(width)
        have = np.ascontiguousarray(values[ours]).view(width)
        self._inside[found] = True
        self._owed[found] = want.ravel() != have.ravel()
        self._look = [np.flatnonzero(self._owed)]
        gone = [name for name, place in zip(names, places, strict=True) if place is None]
        self._doomed = {name: marks[name] for name in gone if name in marks}
        for name in gone:
            self._doom(name)
        self._seen, self.known = self.columns.revision, True
        self._choose()

    def _plan(self) -> ColumnPlan:
        self._land()
        if self._there is not None:
            there, self._there = self._there, None
            self._compare(*there)
        self._merge_all()
        slots = self._writable()
        self._new = slots[~self._inside[slots]]
        self._inside[slots], self._owed[slots], self._flying[slots] = True, False, True
        self._aloft = slots
        keys, values = self.columns.at(slots)
        revision = self.columns.revision
        after = tuple(one.table.revision for one in self.after)
        return ColumnPlan(revision, revision, len(self.columns), after, slots, keys, values)

    def _land(self) -> None:
        """Rows of a plan that was given up were not written."""
        flying = self._aloft[self._flying[self._aloft]]
        self._owe(flying)
        self._inside[self._new[self._flying[self._new]]] = False
        self._flying[flying] = False

    def _writable(self) -> Slots:
        """Slots of the owed rows that may be written now."""
        slots = np.unique(np.concatenate([self._new[:0], *self._look]))
        slots = slots[self._owed[slots] & ~self._out[slots]]
        self._look = []
        self._blocked = int(not self.known)
        if not self._broken.any():  # rows that failed may have gone
            self._failed.clear()
        if self._failed and not self._retries():
            slots = self._put_off(slots, self._broken[slots])
        if self._room is not None and len(self.columns) + len(self._doomed) > self._room:
            new = ~self._inside[slots]
            slots = self._put_off(slots, new & (np.cumsum(new) > self._room - self._count()))
        return slots

    def _put_off(self, slots: Slots, late: Flags) -> Slots:
        """The slots that are not late; the others are looked at in the next round."""
        self._look.append(slots[late])
        self._blocked += int(late.sum())
        return slots[~late]

    def _count(self) -> int:
        """Rows in the target."""
        return int(self._inside.sum()) + len(self._doomed)

    async def _write(self, plan: ColumnPlan) -> OSError | None:
        if not len(plan.slots):
            return None
        try:
            await self.target.upsert(plan.keys, plan.values)
        except RowsFailed as error:
            self._fail(plan, error)
        except OSError as error:
            return error
        self.report.written += len(plan.slots)
        self._broken[plan.slots] &= self._owed[plan.slots]
        self._flying[plan.slots] = False
        if not self._broken.any():
            self._failed.clear()
        return None

    def _fail(self, plan: ColumnPlan, error: RowsFailed) -> None:
        counted = self.limit.capacity is not None
        full = [at for at, number in error.failed.items() if counted and number in _FULL]
        rest = [at for at in error.failed if at not in set(full)]
        refused, broken = (self._still(plan, which) for which in (full, rest))
        self._owe(refused)
        self._owe(broken)
        self._broken[broken] = True
        self._inside[refused] = False
        if full:  # the map has nothing of a row that it refused
            self._learn(self._count())
            self._choose_due = True
            self._blocked += len(full)
            self._changed.set()
        if rest:
            self._failed["*"] = str(error)
        self.report.written -= len(error.failed)

    def _still(self, plan: ColumnPlan, which: Sequence[int]) -> Slots:
        """The slots of these rows of a plan, unless other keys have them by now."""
        slots = plan.slots[np.array(which, np.int64)]
        return slots[self._flying[slots]]

    async def _delete(self) -> None:
        if not self._doomed or not self.columns.synced:
            return
        due = [name for name, marks in self._doomed.items() if self._goes(name, marks)]
        if not due:
            return
        for name in due:
            del self._doomed[name]
        self._deleting = True
        await self.target.delete(np.frombuffer(b"".join(due), self.columns.key))
        self._deleting = False
        self.report.deleted = len(due)
        self._freed(undesired=any(self.columns.slot(name) is None for name in due))

    def _goes(self, name: bytes, marks: tuple[int, ...]) -> bool:
        return not self.wants(name) and self._may_go(name, marks)


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
        *inputs: By[Any, Any, Any] | To[Any, Any],
        whole: Sequence[Source] = (),
        name: str = "",
    ) -> None:
        """Keep ``out`` equal to ``make`` of every group (``mesh/core/groups.py``)."""
        grouped = Grouped(out, make, *inputs, whole=whole)
        self._passes.add(name or out.name, [*grouped.sources, *grouped.whole], (), grouped)

    def follow(
        self, table: Table[K, V], take: Callable[[Changes[K, V]], None], *, name: str = ""
    ) -> None:
        """Give ``take`` what has changed in a table, once the table is synced."""
        self._passes.add(name or f"follow {table.name}", [table], (), Followed(table, take))

    def apply(  # noqa: PLR0913 - each of them is a property of the target
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
    ) -> AppliedRows[K, V]:
        """Keep ``target`` equal to ``table``; a round waits until ``after`` have arrived.

        ``token`` says by which name rows of other targets refer to a row, ``refers`` to which rows
        of other targets a row refers. At most ``capacity`` rows are written, those of the lowest
        ``rank``; ``meaning`` says who lacks what when there are more.
        """
        limit = Limit(capacity, rank or (lambda _key, _row: 0), meaning)
        applied = AppliedRows(table, target, after, token=token, refers=refers, limit=limit)
        return self._add(applied)

    def apply_columns(  # noqa: PLR0913 - each of them is a property of the target
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
            table, target, after, limit=Limit(capacity, rank or _equal_ranks, meaning)
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

    def derive_all(self) -> None:
        """Run every derivation whose inputs changed since its last run, to its end."""
        self._passes.once()

    async def run(self) -> None:
        """Derive and apply until cancelled."""
        async with asyncio.TaskGroup() as group:
            for applied in self.applied:
                group.create_task(applied.run(), name=f"apply {applied.table.name}")
            await self._passes.run()


def _equal_ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.zeros(len(values), np.int64)
