"""A column table on its way into its target."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.applied import Applied, Limit, Plan
from mesh.core.limits import ColumnChoice, Full, column_choice
from mesh.core.table import ColumnTable, Moved, column_names
from mesh.core.target import MAP_FULL, ColumnTarget, RowsFailed

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
        limit: Limit | None = None,
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
        self._choice: ColumnChoice | None = None  # while not all rows have room
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
                self._doomed[name] = None
            if self._choice:
                self._choice.remove(slot, out=bool(self._out[slot]))
            for flags in self._flags():
                flags[slot] = False
        self._come_back(moved.slots)
        self._owe(moved.slots)
        self._broken[moved.slots] = False
        self._seen = self.columns.revision
        self._choose(moved)

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
            if name in self._doomed:
                del self._doomed[name]
                self._inside[slot] = True

    def _choose(self, moved: Moved | None) -> None:
        """Keep the choice of rows up to date, if there must be one."""
        due, self._choose_due = self._choose_due, False
        if self._room is None or (len(self.columns) <= self._room and not self._choice):
            return
        if due or not (moved and self._choice and self._rechoose(self._choice, moved)):
            self._choose_anew(self._room)
        if self._choice and not self._choice.left:
            self._choice = None

    def _ranked(self, slots: Slots) -> npt.NDArray[np.int64]:
        ranks: npt.NDArray[np.int64] = (self.limit.rank or equal_ranks)(self.columns.at(slots)[1])
        return ranks

    def _choose_anew(self, room: int) -> None:
        """One pass over the ranks."""
        slots = self.columns.slots()
        ranks = self._ranked(slots)
        fits = column_choice(ranks, self._inside[slots], room)
        came = slots[fits & self._out[slots]]
        self._out[:] = False
        self._out[slots[~fits]] = True
        self._choice = ColumnChoice(slots, ranks, self._out)
        self._swap(came, np.flatnonzero(self._out & self._inside))
        self._broken &= ~self._out

    def _rechoose(self, choice: ColumnChoice, moved: Moved) -> bool:
        """Whether the change of a few rows is enough."""
        swapped = choice.put(moved.slots, self._ranked(moved.slots), self._out)
        if swapped is None:
            return False
        came, went = (np.array(slots, np.int64) for slots in swapped)
        self._broken[went] = False
        self._swap(came, went[self._inside[went]])
        return True

    def _swap(self, came: Slots, losers: Slots) -> None:
        """Rows that have room now, and rows in the target that have none any more."""
        self._owe(came)
        self._come_back(came)
        for name in column_names(self.columns.at(losers)[0]):
            self._doomed[name] = None
        self._inside[losers] = False

    @property
    def name(self) -> str:
        return self.target.name

    def overflow(self) -> Full | None:
        if self._room is None or not self._choice or not self._out.any():
            return None
        return Full(self.target.name, len(self.columns), self._room, self.limit.meaning)

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
        names = column_names(keys)
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
        self._doomed = dict.fromkeys(gone)
        self._seen, self.known = self.columns.revision, True
        self._choice = None
        self._choose(None)

    def _plan(self) -> ColumnPlan:
        self._land()
        if self._there is not None:
            there, self._there = self._there, None
            self._compare(*there)
        self.merge_all()
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
        if self._failed and not self._broken.any():  # rows that failed may have gone
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
        if self._failed and not self._broken.any():
            self._failed.clear()
        return None

    def _fail(self, plan: ColumnPlan, error: RowsFailed) -> None:
        counted = self.limit.capacity is not None
        full = [at for at, number in error.failed.items() if counted and number in MAP_FULL]
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
        due = [name for name in self._doomed if self._goes(name)]
        if not due:
            return
        for name in due:
            del self._doomed[name]
        self._deleting = True
        await self.target.delete(np.frombuffer(b"".join(due), self.columns.key))
        self._deleting = False
        self.report.deleted = len(due)
        self._freed(undesired=any(self.columns.slot(name) is None for name in due))

    def _goes(self, name: bytes) -> bool:
        return not self.wants(name) and self._may_go(name)


def equal_ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """No row goes before another."""
    return np.zeros(len(values), np.int64)
