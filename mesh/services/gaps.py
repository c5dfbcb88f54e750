"""Free slots of a map, in gaps. Pure.

``take`` gives the smallest gap that is long enough, of equal ones the lowest: big gaps stay whole.
The gaps stand in one list that is sorted by length, so a search is a bisection.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable


class Gaps:
    """Slots from 0 to ``capacity`` without those in ``used``: ranges [start, end), disjoint."""

    def __init__(self, capacity: int, used: Iterable[tuple[int, int]] = ()) -> None:
        self._capacity = capacity
        self._end: dict[int, int] = {}  # start of a gap -> its end
        self._start: dict[int, int] = {}  # end of a gap -> its start
        self._lengths: list[tuple[int, int]] = []  # length and start, sorted
        place = 0
        for start, end in sorted(used):
            self.release(place, start)
            place = end
        self.release(place, capacity)

    @property
    def longest(self) -> int:
        """Slots of the longest gap."""
        return self._lengths[-1][0] if self._lengths else 0

    def take(self, count: int) -> int | None:
        """The first of ``count`` slots in a row; None when no gap is so long."""
        at = bisect_left(self._lengths, (count, 0))
        if at == len(self._lengths):
            return None
        _, start = self._lengths.pop(at)
        end = self._end.pop(start)
        del self._start[end]
        self._add(start + count, end)
        return start

    def release(self, start: int, end: int) -> None:
        """Slots are free again; a gap beside them grows. Slots beyond the capacity are gone."""
        end = min(end, self._capacity)
        if start >= end:
            return
        if start in self._start:
            start = self._remove(self._start[start])[0]
        if end in self._end:
            end = self._remove(end)[1]
        self._add(start, end)

    def _add(self, start: int, end: int) -> None:
        if start < end:
            self._end[start], self._start[end] = end, start
            insort(self._lengths, (end - start, start))

    def _remove(self, start: int) -> tuple[int, int]:
        end = self._end.pop(start)
        del self._start[end]
        del self._lengths[bisect_left(self._lengths, (end - start, start))]
        return start, end
