"""One table on its way into one target: rounds, waits, retries. Rows and columns have files below.

The order of a round: read when all must be compared, choose the writes at the end of a pass over
the derivations, wait for ``after``, write, then delete what nobody refers to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Generic, TypeVar

from mesh.core.limits import Full
from mesh.core.passes import Gate
from mesh.core.table import Source

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


class Names(Generic[K, V]):
    """The tokens that rows in a target name, or may name while they are being written."""

    def __init__(self, by: Applied, refers: Refers[K, V]) -> None:
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


class Applied(ABC):
    """One table on its way into one target; ``revision`` is what has arrived there.

    Arrived means written: deletes may come later, and nobody waits for them. Rows for which the
    target has no room do not count.
    """

    def __init__(self, table: Source, after: Sequence[Applied], limit: Limit | None) -> None:
        self.table = table
        self.after = tuple(after)
        self.limit = limit or Limit()
        self.gate = Gate()
        self.revision = -1
        self.report = Report(table.name)
        self.full = True
        #: Whether the rows of the target have ever been read.
        self.known = False
        self.waiting: list[Callable[[], None]] = []
        self.referrers: list[Names[Any, Any]] = []
        self._doomed: dict[Any, None] = {}  # rows that are there and not desired, in order
        self._failed: dict[Any, str] = {}  # rows to be tried again, with the reason
        self._room = self.limit.capacity  # less than the capacity when the target says so
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

    @property
    def arrived(self) -> bool:
        """Every desired row is there; some that are not desired may be, too."""
        return self.table.synced and self.revision == self.table.revision

    @property
    def current(self) -> bool:
        """The target holds exactly what is desired."""
        return self.arrived and not self.full and not self._doomed and not self._deleting

    @property
    @abstractmethod
    def name(self) -> str:
        """The target's name, by which the configuration gives it a size."""

    @property
    def used(self) -> int:
        """Rows that are or may be in the target."""
        return self._count()

    @abstractmethod
    def _count(self) -> int:
        """Rows that are or may be in the target."""

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

    @abstractmethod
    def merge(self) -> None:
        """Take in what the table has changed; called while the tables fit together."""

    @abstractmethod
    def stands(self, token: Hashable) -> bool:
        """Whether there are rows of this token and all of them are in the target as desired."""

    @abstractmethod
    def wants(self, token: Hashable) -> bool:
        """Whether rows of this token are to be in the target."""

    def unsettled(self) -> Iterable[Any]:
        """Keys of rows that are not in the target as desired."""
        return ()

    # A round

    async def round(self) -> None:
        """Read and diff when ``full``, else only what changed; raises OSError."""
        if self.full:
            for one in self.after:  # its writes may change what is there
                await one.reached(one.table.revision)
            await self._read()
            self._deleting = False
            self._read_by = now_s() + FULL_INTERVAL_S
        plan = await self._planned()
        report = self._next_report(plan)
        self.report = report
        failure = await self._write(plan)
        self._written(plan.revision, failed=failure is not None)
        await self._delete()
        report.waiting, report.full = self._waited, self.overflow()
        report.errors = {_spelled(key): text for key, text in self._failed.items()}
        if failure:  # only now: deletes make room in a full map
            raise failure

    def _next_report(self, plan: Plan) -> Report:
        """A report that says of errors and room what the last one says, until it is known."""
        last = self.report
        report = Report(self.table.name, plan.revision, plan.rows)
        report.waiting, report.full, report.errors = last.waiting, last.full, last.errors
        return report

    async def run(self) -> None:
        """Rounds for ever: on every change, after errors with back-off, on a slow timer."""
        self._changed.set()
        while True:
            self.full = not await self._due() or self.full
            self.full |= bool(self._failed) and now_s() > self._read_by
            self._recheck = False
            self._changed.clear()
            await self._paced_round()

    async def _due(self) -> bool:
        """Wait for the next round; False: nothing has changed for long."""
        await asyncio.sleep(0)  # a round that has nothing to wait for would let nobody else run
        now = now_s()
        if self._pause and not self._failed:  # a change does not shorten a back-off
            await asyncio.sleep(self._pause)
            return True
        retry = max(self._retry_at - now, 0) if self._failed else FULL_INTERVAL_S
        with suppress(TimeoutError):
            async with asyncio.timeout(min(retry, FULL_INTERVAL_S)):
                await self._changed.wait()
        return bool(self._failed) or self._changed.is_set()

    async def _paced_round(self) -> None:
        failed, retries = bool(self.report.errors), self._retries()
        try:
            await self.round()
        except OSError as error:
            self._lose(str(error))
            retries = True
        except Exception as error:  # a mistake of ours ends no other target
            log.exception("event=round_failed table=%s", self.table.name)
            self._lose(repr(error))
            retries = True
        self.report.at = time.time()
        self.full = self._recheck
        if not self.report.errors:
            self._pause = 0.0
            self._done.set()
            return
        if retries or not self._pause:
            self._pause = min(max(2 * self._pause, BACKOFF_S[0]), BACKOFF_S[1])
            self._retry_at = now_s() + self._pause
        if not failed:
            log.warning("table=%s errors=%s", self.table.name, self.report.errors)

    def _lose(self, why: str) -> None:
        """Nothing is certain about the target: the next round reads it."""
        self.report.errors = {"*": why}
        self.revision, self._recheck = -1, True
        self._failed.clear()

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

    @abstractmethod
    def _plan(self) -> Plan:
        """What can be written now; noted as being written."""

    @abstractmethod
    def overflow(self) -> Full | None:
        """The report of a target that has not room for everything."""

    @abstractmethod
    async def _read(self) -> None:
        """Take in what the target holds."""

    @abstractmethod
    async def _write(self, plan: Any) -> OSError | None:
        """Write the rows of the plan; the error that holds for all of them."""

    @abstractmethod
    async def _delete(self) -> None:
        """Delete the rows that may go now."""

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

    def deletes_may_go(self) -> None:
        if self._doomed:
            self._changed.set()

    def _references_stand(self) -> None:
        if self._waited:
            self._changed.set()

    def _may_go(self, token: Hashable) -> bool:
        """Whether nothing that is in another target refers to the row any more."""
        return all(self._released(names, token) for names in self.referrers)

    def _released(self, names: Names[Any, Any], token: Hashable) -> bool:
        if not names.by.known:
            return False
        if not names.has(token):
            return True
        return self.wants(token) and self.stands(token) and not names.stale(token)

    def merge_all(self) -> None:
        """Take in the changes of the table, and of those that refer to it, at one moment.

        Also of those that refer to them: a row of theirs that is not desired any more must not go
        while rows are counted as desired that name it and have changed by now.
        """
        self.merge()
        for names in self.referrers:
            names.by.merge_all()

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
        return now_s() + _TIMER_S >= self._retry_at

    def _learn(self, rows: int) -> None:
        """The target says that it is full: rows that nobody counted take room."""
        if self.limit.capacity is not None:
            self._room = min(rows, self.limit.capacity)

    def _room_appeared(self) -> None:
        self._room = self.limit.capacity


def _spelled(key: Any) -> str:
    """A key as people write it: the parts of a row's name with slashes between."""
    if not is_dataclass(key):
        return str(key)
    return "/".join(str(getattr(key, part.name)) for part in fields(key))


def now_s() -> float:
    """The clock that the event loop's timers use."""
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class Plan:
    """A round's writes, and the revisions at the time when they were chosen."""

    revision: int
    table: int
    rows: int
    after: tuple[int, ...]
