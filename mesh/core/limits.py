"""Which rows of a table go into a target that has not room for all.

A *unit* is in the target whole or not at all: a row, or the rows of one token. Units of lower rank
go first; of equal rank, those that came first. A unit that does not fit beside the ones before it
is left out, and smaller ones behind it may still fit.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

U = TypeVar("U", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Full:
    """A target that has not room for every row that is desired: one line of a report.

    ``map`` is the target's own name, by which the configuration gives it a size.
    """

    map: str
    demand: int
    capacity: int
    meaning: str

    def __str__(self) -> str:
        return f"{self.demand} rows desired, room for {self.capacity}: {self.meaning}"


Place = tuple[int, int]  # rank, then number of arrival


class Choice(Generic[U]):
    """The units that fit, kept up to date: a change costs its own unit and those that it moves."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self.out: set[U] = set()
        self._moved: dict[U, None] = {}
        self._units: dict[U, tuple[Place, int]] = {}  # with the size
        self._in: list[tuple[Place, U]] = []  # sorted; places differ, so units are never compared
        self._out: list[tuple[Place, U]] = []
        self._arrived = 0

    def put(self, unit: U, size: int, rank: int) -> None:
        """A unit is new, or has another size or rank."""
        before = self._units.get(unit)
        if before and before[1] == size and before[0][0] == rank:
            return
        self._arrived += not before
        number = before[0][1] if before else self._arrived
        self._take(unit)
        self._units[unit] = ((rank, number), size)
        self._leave(unit)
        if before:
            self._admit()
        elif not self._enter(unit):
            return
        elif self.out:
            self._admit()

    def remove(self, unit: U) -> None:
        """A unit is no longer desired."""
        if unit in self._units:
            self._take(unit)
            del self._units[unit]
            self._moved.pop(unit, None)
            self._admit()

    def moved(self) -> Iterable[U]:
        """Units that may have gone in or out since the last call."""
        moved, self._moved = self._moved, {}
        return moved

    def _take(self, unit: U) -> None:
        if unit not in self._units:
            return
        place, size = self._units[unit]
        if unit in self.out:
            _remove(self._out, place)
            self.out.discard(unit)
        else:
            _remove(self._in, place)
            self.used -= size

    def _leave(self, unit: U) -> None:
        insort(self._out, (self._units[unit][0], unit), key=_place)
        self.out.add(unit)
        self._moved[unit] = None

    def _admit(self) -> None:
        """Take in, by rank, each unit that fits beside the ones before it."""
        at = 0
        while at < len(self._out) and not self._hopeless(self._out[at][0]):
            at += not self._enter(self._out[at][1])

    def _hopeless(self, place: Place) -> bool:
        """Whether neither this unit nor one behind it can fit."""
        return self.used >= self.capacity and (not self._in or self._in[-1][0][0] <= place[0])

    def _enter(self, unit: U) -> bool:
        """Take a unit in if it fits, in place of units of higher rank if need be."""
        place, size = self._units[unit]
        losers = self._losers(place[0], self.used + size - self.capacity)
        if losers is None:
            return False
        _remove(self._out, place)
        self.out.discard(unit)
        for loser in losers:
            self._take(loser)
            self._leave(loser)
        insort(self._in, (place, unit), key=_place)
        self.used += size
        self._moved[unit] = None
        return True

    def _losers(self, rank: int, over: int) -> list[U] | None:
        """Units of higher rank that make room for ``over`` rows; None when they are too few."""
        losers: list[U] = []
        for place, unit in reversed(self._in):
            if over <= 0 or place[0] <= rank:
                break
            losers.append(unit)
            over -= self._units[unit][1]
        return None if over > 0 else losers


def _place(entry: tuple[Place, object]) -> Place:
    return entry[0]


def _remove(entries: list[tuple[Place, U]], place: Place) -> None:
    del entries[bisect_left(entries, place, key=_place)]


def column_choice(
    ranks: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_], capacity: int
) -> npt.NDArray[np.bool_]:
    """Which rows fit: those of lower rank, of equal rank those inside, then by place."""
    count = len(ranks)
    if count <= capacity:
        return np.ones(count, bool)
    order = (ranks.astype(np.int64) << 33) + (np.where(inside, 0, 1) << 32) + np.arange(count)
    fits: npt.NDArray[np.bool_] = order < np.partition(order, capacity)[capacity]
    return fits


#: Rows at the border that a choice knows; when they are used up, it is made anew.
_BORDER = 1024
_ABSENT = np.iinfo(np.int64).min


class ColumnChoice:
    """The rows of a column table that fit, kept up to date: a change costs its own rows.

    It knows some rows at the border: the last ones inside and the first ones outside. ``out`` are
    the flags, by slot, of the rows that do not fit.
    """

    def __init__(
        self, slots: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64], out: npt.NDArray[np.bool_]
    ) -> None:
        outside = out[slots]
        self.used = int((~outside).sum())
        self.capacity = self.used
        self.left = len(slots) - self.used  # rows outside
        self._ranks = np.full(len(out), _ABSENT, np.int64)
        self._ranks[slots] = ranks
        inside_ranks, outside_ranks = ranks[~outside], ranks[outside]
        self._worst = int(inside_ranks.max(initial=_ABSENT))
        self._best = int(outside_ranks.min(initial=np.iinfo(np.int64).max))
        last = slots[~outside][inside_ranks == self._worst]
        following = slots[outside][outside_ranks == self._best]
        self._last: list[int] = last[-_BORDER:].tolist()
        self._next: list[int] = following[:_BORDER][::-1].tolist()

    def remove(self, slot: int, *, out: bool) -> None:
        """The row of a slot is no longer desired."""
        if slot < len(self._ranks) and self._ranks[slot] != _ABSENT:
            self._ranks[slot] = _ABSENT
            self.left -= out
            self.used -= not out

    def put(
        self, slots: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64], out: npt.NDArray[np.bool_]
    ) -> tuple[list[int], list[int]] | None:
        """Rows are new, or have other values: the slots that came in and that went out.

        None: the choice must be made anew.
        """
        if len(out) > len(self._ranks):
            more = np.full(len(out) - len(self._ranks), _ABSENT, np.int64)
            self._ranks = np.concatenate([self._ranks, more])
        before = self._ranks[slots]
        new = before == _ABSENT
        if (before[~new] != ranks[~new]).any():
            return None
        self._ranks[slots] = ranks
        came, went = list[int](), list[int]()
        places = zip(slots[new].tolist(), ranks[new].tolist(), strict=True)
        placed = all(self._place(slot, rank, out, went) for slot, rank in places)
        if placed and self._fill(out, came):
            return came, went
        # As if nothing had been tried.
        out[came], out[went], out[slots[new]] = True, False, False
        return None

    def _fill(self, out: npt.NDArray[np.bool_], came: list[int]) -> bool:
        """Whether it is known which rows come in where others have gone."""
        while self.used < self.capacity and self.left:
            if (following := self._pop(self._next, self._best, out, outside=True)) is None:
                return False
            self.left -= 1
            self._enter(following, self._best, out)
            came.append(following)
        return True

    def _place(self, slot: int, rank: int, out: npt.NDArray[np.bool_], went: list[int]) -> bool:
        """Whether it is known where a new row belongs."""
        if self.used < self.capacity and (rank <= self._best or not self.left):
            self._enter(slot, rank, out)
        elif self.used >= self.capacity and rank < self._worst:
            if (loser := self._pop(self._last, self._worst, out, outside=False)) is None:
                return False
            self.used -= 1
            self._leave(loser, self._worst, out)
            went.append(loser)
            self._enter(slot, rank, out)
        else:
            self._leave(slot, rank, out)
        return True

    def _enter(self, slot: int, rank: int, out: npt.NDArray[np.bool_]) -> None:
        out[slot] = False
        self.used += 1
        if rank > self._worst:
            self._worst, self._last = rank, []
        if rank == self._worst:
            self._last.append(slot)

    def _leave(self, slot: int, rank: int, out: npt.NDArray[np.bool_]) -> None:
        out[slot] = True
        self.left += 1
        if rank < self._best:
            self._best, self._next = rank, []
        if rank == self._best:
            self._next.append(slot)

    def _pop(
        self, border: list[int], rank: int, out: npt.NDArray[np.bool_], *, outside: bool
    ) -> int | None:
        while border:
            slot = border.pop()
            if self._ranks[slot] == rank and bool(out[slot]) == outside:
                return slot
        return None
