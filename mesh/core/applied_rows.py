"""A table of rows on its way into its target.

Noted are the rows that the target has, and the exceptions: rows that are owed, doomed, being
written, or of which nobody knows whether they are there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

from mesh.core.applied import Applied, Limit, Names, Plan, Refers
from mesh.core.limits import Choice, Full
from mesh.core.table import Changes, Table
from mesh.core.target import MAP_FULL, Comparing, Errors, Target, Telling

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Seconds for which the rows of one round are chosen: writing them takes three times as long, and
#: several targets write in one turn of the event loop.
_CHOICE_S = 0.002
#: Rows between two looks at the clock.
_ROWS_PER_LOOK = 128


def _tells_nothing(_: Any) -> bool:
    return False


@dataclass(slots=True)
class RowPlan(Plan, Generic[K, V]):
    """Writes of rows."""

    upsert: dict[K, V]


class AppliedRows(Applied, Generic[K, V]):
    """``Applied`` for a table of rows."""

    def __init__(
        self,
        table: Table[K, V],
        target: Target[K, V],
        after: Sequence[Applied] = (),
        *,
        token: Callable[[K], Hashable] | None = None,
        refers: Sequence[Refers[K, V]] = (),
        limit: Limit | None = None,
        left_out: Table[Any, bool] | None = None,
    ) -> None:
        super().__init__(table, after, limit)
        self.rows = table
        self.target = target
        #: Tokens of rows for which the target has no room, or has none until rows go that others
        #: still refer to: who waits for such a row and keeps one of those would wait for ever.
        if left_out is None:
            left_out = Table(f"{table.name} without room")
        self.left_out = left_out
        if self.limit.capacity is None:
            self.left_out.mark_synced()
        self._token = token
        self._names = [Names(self, one) for one in refers]
        self._seen = -1
        self._have: dict[K, V] = {}  # rows that the target has
        self._owed: dict[K, None] = {}  # rows to be written
        self._unsure: set[K] = set()  # rows that may be there, in part or whole
        self._flying: dict[K, V] = {}  # rows that are being written
        self._members: dict[Hashable, dict[K, None]] = {}  # rows of a token, where it is no key
        self._tells = target.tells if isinstance(target, Telling) else _tells_nothing
        self._choice: Choice[Any] | None = None
        self._short: set[Any] = set()  # tokens of rows that wait until deletes make room
        self._told_short: set[Any] = set()
        self._publish_due = False
        for names in self._names:
            names.refers.to.referrers.append(names)
            names.refers.to.waiting.append(self._references_stand)
            self.waiting.append(names.refers.to.deletes_may_go)

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

    def holds(self, key: K) -> bool:
        """Whether the target has exactly the desired row of a key; asked as the tables fit."""
        row = self.rows.rows.get(key)
        sure = key not in self._unsure and key not in self._flying and key not in self._doomed
        return row is not None and sure and self._have.get(key) == row

    def why(self, key: K) -> str:
        """Why the row of a key could not be written last; empty: it was, or is to be."""
        return self._failed.get(key, "") or self.report.errors.get("*", "")

    def wants(self, token: Hashable) -> bool:
        if self._choice and token in self._choice.out:
            return False
        return token in (self.rows.rows if self._token is None else self._members)

    def unsettled(self) -> Iterable[K]:
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
            self._doomed.setdefault(key)

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

    @property
    def name(self) -> str:
        return self.target.name

    def overflow(self) -> Full | None:
        if not self._choice or not self._choice.out:
            return None
        demand, room = len(self.rows.rows), self._choice.capacity
        return Full(self.target.name, demand, room, self.limit.meaning)

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
        self._doomed = {key: None for key in self._doomed if key in self._have}
        self._seen, self.known = -1, True

    def _plan(self) -> RowPlan[K, V]:
        self._land()
        self.merge_all()
        for names in self._names:
            names.refers.to.merge_all()
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
        """The owed rows that may be written now; those that do not fit one step come next.

        A row that tells readers that all others are there waits for the plan that has the rest.
        """
        rows, chosen, retries = self.rows.rows, dict[K, V](), self._retries()
        telling: dict[K, V] = {}
        room = self._free()
        self._blocked = self._waited = 0
        self._short = set()
        end = time.thread_time() + _CHOICE_S
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
                (telling if self._tells(key) else chosen)[key] = rows[key]
        if not self._blocked:
            return chosen | telling if telling else chosen
        self._blocked += len(telling)
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
        errors = await self._upsert(plan.upsert)
        self._flying = {}
        for key, row in plan.upsert.items():
            if key not in errors:
                self._arrive(key, row)
        self._unsure.update(errors)
        self._fail(errors)
        self._owed = self._owed or {}  # a dict is walked with the places of all that it once held
        self.report.written = len(plan.upsert) - len(errors)
        return None

    async def _upsert(self, rows: Mapping[K, V]) -> Errors[K]:
        """Write rows, as ``_apart`` does."""

        async def write(keys: Sequence[K]) -> Errors[K]:
            whole = len(keys) == len(rows)
            return await self.target.upsert(rows if whole else {key: rows[key] for key in keys})

        return await self._apart(list(rows), write)

    async def _apart(
        self, keys: Sequence[K], act: Callable[[Sequence[K]], Awaitable[Errors[K]]]
    ) -> Errors[K]:
        """Write or delete; a row that the target cannot bear is taken apart, and fails alone.

        Raises OSError when the target is out of reach.
        """
        try:
            return await act(keys)
        except OSError:
            raise
        except Exception as error:  # of one row, whichever it is
            if len(keys) == 1:
                log.exception("event=row_not_applied table=%s", self.table.name)
                return dict.fromkeys(keys, error)
        half = len(keys) // 2
        return {**await self._apart(keys[:half], act), **await self._apart(keys[half:], act)}

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
        refused = [k for k, e in errors.items() if full and getattr(e, "errno", 0) in MAP_FULL]
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
        due = [key for key in self._doomed if self._goes(key)]
        if not due:
            return
        for key in due:
            del self._doomed[key]
            self._have.pop(key, None)
        self._doomed = self._doomed or {}  # as ``_owed``
        self._unsure.update(due)
        self._deleting = True
        failed = await self._apart(due, self.target.delete)
        self._deleting = False
        for key in due:
            if key in failed and key not in self._owed:
                self._doomed.setdefault(key)
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

    def _goes(self, key: K) -> bool:
        if key in self._failed and not self._retries():
            return False
        token = self._name(key)
        back = key in self.rows.rows and not (self._choice and token in self._choice.out)
        return not back and self._may_go(token)
