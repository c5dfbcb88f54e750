"""Desired state, one table per noun: writes in, snapshots, changes and wake-ups out.

Tables live on one event loop and are written from it only, so they need no lock. A table keeps
for each key the revision of its last change: a reader that remembers a revision gets what changed
since, and nothing else. ``synced`` stays false until the first complete list of the source was
seen; until then a reconciler may add rows to its target but deletes nothing.

The log of changes is bounded. A reader that has slept longer than the log reaches back gets None
and looks at everything.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

K = TypeVar("K")
V = TypeVar("V")

#: Changes that the log of a small table keeps at least.
LOG_SLACK = 4096
#: A big table keeps changes of one row in so many: beyond that, looking at everything is cheap.
_LOG_SHARE = 4


class Source:
    """What rows and columns have in common: name, revision, sync state, listeners.

    Whoever makes a source and has failed at a part of it *holds* it: until then it does not count
    as synced, so nothing is deleted for its sake and nothing is derived from it.
    """

    #: Collects the sources that change while a derivation runs: they are what it makes.
    noted: ClassVar[set[Source] | None] = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.revision = 0
        self._complete = False
        self._held: set[object] = set()
        self._listeners: list[Callable[[], None]] = []

    @property
    def synced(self) -> bool:
        """Whether the first complete list is in, and nobody holds the source."""
        return self._complete and not self._held

    def listen(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after every change of rows or of ``synced``."""
        self._listeners.append(wake)

    def mark_synced(self) -> None:
        """Say that the source's first complete list is in."""
        if not self._complete:
            self._complete = True
            self._wake()

    def hold(self, holder: object) -> None:
        """A part of the source could not be made: it counts as not synced."""
        self._held.add(holder)

    def release(self, holder: object) -> None:
        """The part has been made."""
        if holder in self._held:
            self._held.discard(holder)
            self._wake()

    def _wake(self) -> None:
        if Source.noted is not None:
            Source.noted.add(self)
        for wake in self._listeners:
            wake()


@dataclass(frozen=True, slots=True)
class Changes(Generic[K, V]):
    """What happened since a revision: rows that are new or different, keys that are gone."""

    upsert: Mapping[K, V]
    delete: frozenset[K]


class _Log(Generic[K]):
    """Changed keys with their revisions, oldest first: 16 bytes a change."""

    def __init__(self, keys: MutableSequence[K]) -> None:
        self._keys = keys
        self._revisions = array("q")
        self._floor = 0  # changes up to this revision have left the log

    def add(self, keys: Sequence[K], revision: int, rows: int) -> None:
        """Note changes in a table of ``rows`` rows; half of a log that is too long goes."""
        self._keys.extend(keys)
        self._revisions.extend([revision] * len(keys))
        keep = max(LOG_SLACK, rows // _LOG_SHARE)
        if len(self._keys) > 2 * keep:
            self._floor = self._revisions[-keep - 1]
            del self._keys[:-keep], self._revisions[:-keep]

    def since(self, revision: int) -> Sequence[K] | None:
        """Keys that changed after ``revision``, or None."""
        if revision < self._floor:
            return None
        return self._keys[bisect_right(self._revisions, revision) :]


class Table(Source, Generic[K, V]):
    """Frozen rows by key."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._rows: dict[K, V] = {}
        self._log: _Log[K] = _Log([])

    @property
    def rows(self) -> Mapping[K, V]:
        """The rows as they are now, read-only."""
        return MappingProxyType(self._rows)

    def upsert(self, rows: Mapping[K, V]) -> int:
        """Write rows; equal ones change nothing. Return how many changed."""
        have = self._rows
        changed = [key for key, row in rows.items() if key not in have or have[key] != row]
        if changed:
            self.revision += 1
            for key in changed:
                have[key] = rows[key]
            self._log.add(changed, self.revision, len(have))
            self._wake()
        return len(changed)

    def delete(self, keys: Iterable[K]) -> int:
        """Remove rows; absent ones are no error. Return how many went."""
        gone = list(dict.fromkeys(key for key in keys if key in self._rows))
        if gone:
            self.revision += 1
            for key in gone:
                del self._rows[key]
            self._log.add(gone, self.revision, len(self._rows))
            self._wake()
        return len(gone)

    def replace(self, rows: Mapping[K, V]) -> int:
        """Make ``rows`` the whole state and the table synced. Return how many rows changed."""
        changed = self.upsert(rows)
        changed += self.delete([key for key in self._rows if key not in rows])
        self.mark_synced()
        return changed

    def write(self, rows: Mapping[K, V], *, complete: bool) -> None:
        """``replace`` when the rows are all there are, else only add them."""
        if complete:
            self.replace(rows)
        else:
            self.upsert(rows)

    def changes(self, since: int) -> Changes[K, V] | None:
        """Changes after revision ``since``; None when the log no longer reaches back so far."""
        changed = self._log.since(since)
        if changed is None:
            return None
        keys, rows = dict.fromkeys(changed), self._rows
        upsert = {key: rows[key] for key in keys if key in rows}
        return Changes(upsert, frozenset(key for key in keys if key not in rows))


@dataclass(frozen=True, slots=True)
class ColumnChanges:
    """Like ``Changes``, in arrays: ``keys[i]`` has ``values[i]``; ``deleted`` are keys."""

    keys: npt.NDArray[Any]
    values: npt.NDArray[Any]
    deleted: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Moved:
    """Like ``ColumnChanges``, in places: ``slots`` hold new or different rows.

    ``gone`` are the keys that left a slot, oldest first, with the slot; the key may have come back
    since, and the slot may have another key.
    """

    slots: npt.NDArray[np.int64]
    gone: Sequence[tuple[bytes, int]]


class ColumnTable(Source):
    """Rows as two numpy arrays, for nouns with tens of thousands of rows.

    ``key`` is a fixed-size dtype (its bytes are the identity of a row), ``value`` a structured
    dtype. A row keeps its slot, its place in the arrays, as long as it lives. Writing n rows costs
    about 0.5 µs each, one row a few µs; ``changes`` costs what has changed.
    """

    def __init__(self, name: str, key: npt.DTypeLike, value: npt.DTypeLike) -> None:
        super().__init__(name)
        self.key = np.dtype(key)
        self.value = np.dtype(value)
        self._index: dict[bytes, int] = {}
        self._free: list[int] = []
        self._keys, self._values = np.zeros(0, self.key), np.zeros(0, self.value)
        self._live = np.zeros(0, bool)
        self._moved: _Log[int] = _Log(array("q"))
        self._gone: _Log[tuple[bytes, int]] = _Log([])
        self._grow(1024)

    def __len__(self) -> int:
        return len(self._index)

    def upsert(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> int:
        """Write rows; equal ones change nothing. Return how many changed."""
        keys = np.ascontiguousarray(keys, self.key)
        values = np.ascontiguousarray(values, self.value)
        names = column_names(keys)
        for name in names:
            if name not in self._index:
                self._place(name)
        slots = np.fromiter((self._index[name] for name in names), np.int64, len(names))
        width = f"V{self.value.itemsize}"
        fresh = self._values[slots].view(width) != values.view(width)
        fresh |= ~self._live[slots]
        if fresh.any():
            self.revision += 1
            changed = slots[fresh]
            self._keys[changed] = keys[fresh]
            self._values[changed] = values[fresh]
            self._live[changed] = True
            self._moved.add(array("q", changed.tobytes()), self.revision, len(self))
            self._wake()
        return int(fresh.sum())

    def delete(self, keys: npt.NDArray[Any]) -> int:
        """Remove rows; absent ones are no error. Return how many went."""
        named = column_names(np.ascontiguousarray(keys, self.key))
        names = [name for name in named if name in self._index]
        if names:
            self.revision += 1
            gone = [(name, self._index.pop(name)) for name in dict.fromkeys(names)]
            slots = [slot for _, slot in gone]
            self._free.extend(slots)
            self._live[slots] = False
            self._gone.add(gone, self.revision, len(self))
            self._wake()
        return len(names)

    def replace(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Make these the whole state and the table synced."""
        self.upsert(keys, values)
        wanted = set(column_names(np.ascontiguousarray(keys, self.key)))
        gone = [name for name in self._index if name not in wanted]
        if gone:
            self.delete(np.frombuffer(b"".join(gone), self.key))
        self.mark_synced()

    def rows(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """All keys and values, copied."""
        return self._keys[self._live], self._values[self._live]

    def existing(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Those of the keys that have a row, and their values."""
        there = [name for name in column_names(keys) if name in self._index]
        slots = np.fromiter((self._index[name] for name in there), np.int64, len(there))
        return self._keys[slots], self._values[slots]

    def get(self, key: bytes) -> npt.NDArray[Any] | None:
        """The value of one key as a 0-d structured array, or None."""
        slot = self._index.get(key)
        return None if slot is None else self._values[slot].copy()

    def changes(self, since: int) -> ColumnChanges | None:
        """Changes after revision ``since``; None when the log no longer reaches back so far."""
        moved = self.moved(since)
        if moved is None:
            return None
        gone = dict.fromkeys(name for name, _ in moved.gone if name not in self._index)
        return ColumnChanges(*self.at(moved.slots), np.frombuffer(b"".join(gone), self.key))

    # Places, for targets that note by slot which rows they have

    @property
    def size(self) -> int:
        """How many slots exist, free ones included."""
        return len(self._live)

    def slot(self, key: bytes) -> int | None:
        """The slot of a key, or None."""
        return self._index.get(key)

    def slots(self) -> npt.NDArray[np.int64]:
        """The slots that hold rows."""
        return np.flatnonzero(self._live)

    def at(self, slots: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Keys and values of slots, copied."""
        return self._keys[slots], self._values[slots]

    def moved(self, since: int) -> Moved | None:
        """``changes`` in places; None when the log no longer reaches back so far."""
        changed, gone = self._moved.since(since), self._gone.since(since)
        if changed is None or gone is None:
            return None
        slots = np.unique(np.array(changed, np.int64))
        return Moved(slots[self._live[slots]], gone)

    def _place(self, name: bytes) -> None:
        if not self._free:
            self._grow(2 * len(self._live))
        self._index[name] = self._free.pop()

    def _grow(self, size: int) -> None:
        old = len(self._live)
        keys, values, live = (
            np.zeros(size, self.key),
            np.zeros(size, self.value),
            np.zeros(size, bool),
        )
        keys[:old], values[:old], live[:old] = self._keys, self._values, self._live
        self._keys, self._values, self._live = keys, values, live
        self._free.extend(range(size - 1, old - 1, -1))


def column_names(keys: npt.NDArray[Any]) -> list[bytes]:
    """The keys of a column table as bytes."""
    raw, step = keys.tobytes(), keys.dtype.itemsize
    return [raw[at : at + step] for at in range(0, len(raw), step)]
