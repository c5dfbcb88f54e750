"""Desired state, one table per noun: writes in, snapshots, changes and wake-ups out.

Tables live on one event loop and are written from it only, so they need no lock. A table keeps
for each key the revision of its last change: a reader that remembers a revision gets what changed
since, and nothing else. ``synced`` stays false until the first complete list of the source was
seen; until then a reconciler may add rows to its target but deletes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

K = TypeVar("K")
V = TypeVar("V")

#: Tombstones kept beyond the number of rows before the log is cut.
LOG_SLACK = 4096


class Source:
    """What rows and columns have in common: name, revision, sync state, listeners."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.revision = 0
        self.synced = False
        self._listeners: list[Callable[[], None]] = []

    def listen(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after every change of rows or of ``synced``."""
        self._listeners.append(wake)

    def mark_synced(self) -> None:
        """Say that the source's first complete list is in."""
        if not self.synced:
            self.synced = True
            self._wake()

    def _wake(self) -> None:
        for wake in self._listeners:
            wake()


@dataclass(frozen=True, slots=True)
class Changes(Generic[K, V]):
    """What happened since a revision: rows that are new or different, keys that are gone."""

    upsert: Mapping[K, V]
    delete: frozenset[K]


class Table(Source, Generic[K, V]):
    """Frozen rows by key."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._rows: dict[K, V] = {}
        self._log: dict[K, int] = {}  # key -> revision of its last change, oldest first
        self._floor = 0  # changes up to this revision have left the log

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
                self._rows[key] = rows[key]
                self._touch(key)
            self._wake()
        return len(changed)

    def delete(self, keys: Iterable[K]) -> int:
        """Remove rows; absent ones are no error. Return how many went."""
        gone = [key for key in keys if key in self._rows]
        if gone:
            self.revision += 1
            for key in gone:
                del self._rows[key]
                self._touch(key)
            self._cut()
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
        if since < self._floor:
            return None
        upsert: dict[K, V] = {}
        delete: list[K] = []
        for key in reversed(self._log):
            if self._log[key] <= since:
                break
            if key in self._rows:
                upsert[key] = self._rows[key]
            else:
                delete.append(key)
        return Changes(upsert, frozenset(delete))

    def _touch(self, key: K) -> None:
        self._log.pop(key, None)  # re-insertion keeps the log in order of revision
        self._log[key] = self.revision

    def _cut(self) -> None:
        if len(self._log) <= len(self._rows) + LOG_SLACK:
            return
        for key in [key for key in self._log if key not in self._rows]:
            self._floor = max(self._floor, self._log.pop(key))


@dataclass(frozen=True, slots=True)
class ColumnChanges:
    """Like ``Changes``, in arrays: ``keys[i]`` has ``values[i]``; ``deleted`` are keys."""

    keys: npt.NDArray[Any]
    values: npt.NDArray[Any]
    deleted: npt.NDArray[Any]


class ColumnTable(Source):
    """Rows as two numpy arrays, for nouns with tens of thousands of rows.

    ``key`` is a fixed-size dtype (its bytes are the identity of a row), ``value`` a structured
    dtype. Writing n rows costs about 0.5 µs each, one row a few µs; ``changes`` costs one pass
    over an int64 array.
    """

    def __init__(self, name: str, key: npt.DTypeLike, value: npt.DTypeLike) -> None:
        super().__init__(name)
        self.key = np.dtype(key)
        self.value = np.dtype(value)
        self._index: dict[bytes, int] = {}
        self._free: list[int] = []
        self._tombs: dict[bytes, int] = {}
        self._floor = 0
        self._keys, self._values = np.zeros(0, self.key), np.zeros(0, self.value)
        self._revisions, self._live = np.zeros(0, np.int64), np.zeros(0, bool)
        self._grow(1024)

    def __len__(self) -> int:
        return len(self._index)

    def upsert(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> int:
        """Write rows; equal ones change nothing. Return how many changed."""
        keys = np.ascontiguousarray(keys, self.key)
        values = np.ascontiguousarray(values, self.value)
        names = _names(keys)
        missing = dict.fromkeys(name for name in names if name not in self._index)
        if missing:
            self._place(missing)
        slots = np.fromiter((self._index[name] for name in names), np.int64, len(names))
        width = f"V{self.value.itemsize}"
        fresh = self._values[slots].view(width) != values.view(width)
        fresh |= self._revisions[slots] == 0
        if fresh.any():
            self.revision += 1
            self._keys[slots[fresh]] = keys[fresh]
            self._values[slots[fresh]] = values[fresh]
            self._revisions[slots[fresh]] = self.revision
            self._wake()
        return int(fresh.sum())

    def delete(self, keys: npt.NDArray[Any]) -> int:
        """Remove rows; absent ones are no error. Return how many went."""
        names = [n for n in _names(np.ascontiguousarray(keys, self.key)) if n in self._index]
        if names:
            self.revision += 1
            for name in names:
                slot = self._index.pop(name, None)
                if slot is None:
                    continue  # the same key twice in one call
                self._free.append(slot)
                self._live[slot] = False
                self._revisions[slot] = 0
                self._tombs.pop(name, None)
                self._tombs[name] = self.revision
            while len(self._tombs) > len(self._index) + LOG_SLACK:
                oldest = next(iter(self._tombs))
                self._floor = max(self._floor, self._tombs.pop(oldest))
            self._wake()
        return len(names)

    def replace(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Make these the whole state and the table synced."""
        self.upsert(keys, values)
        wanted = set(_names(np.ascontiguousarray(keys, self.key)))
        gone = [name for name in self._index if name not in wanted]
        if gone:
            self.delete(np.frombuffer(b"".join(gone), self.key))
        self.mark_synced()

    def rows(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """All keys and values, copied."""
        return self._keys[self._live], self._values[self._live]

    def get(self, key: bytes) -> npt.NDArray[Any] | None:
        """The value of one key as a 0-d structured array, or None."""
        slot = self._index.get(key)
        return None if slot is None else self._values[slot].copy()

    def changes(self, since: int) -> ColumnChanges | None:
        """Changes after revision ``since``; None when the log no longer reaches back so far."""
        if since < self._floor:
            return None
        mask = self._live & (self._revisions > since)
        gone = [n for n, revision in self._tombs.items() if revision > since]
        return ColumnChanges(
            self._keys[mask], self._values[mask], np.frombuffer(b"".join(gone), self.key)
        )

    def _place(self, names: Iterable[bytes]) -> None:
        for name in names:
            if not self._free:
                self._grow(2 * len(self._live))
            slot = self._free.pop()
            self._index[name] = slot
            self._live[slot] = True
            self._tombs.pop(name, None)

    def _grow(self, size: int) -> None:
        old = len(self._live)
        keys, values = np.zeros(size, self.key), np.zeros(size, self.value)
        revisions, live = np.zeros(size, np.int64), np.zeros(size, bool)
        keys[:old], values[:old] = self._keys, self._values
        revisions[:old], live[:old] = self._revisions, self._live
        self._keys, self._values, self._revisions, self._live = keys, values, revisions, live
        self._free.extend(range(size - 1, old - 1, -1))


def _names(keys: npt.NDArray[Any]) -> list[bytes]:
    raw, step = keys.tobytes(), keys.dtype.itemsize
    return [raw[at : at + step] for at in range(0, len(raw), step)]
