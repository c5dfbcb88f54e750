"""Derivations by group: a change costs the groups that it touches.

    loop.group(out, make, By(pods, kind_of), By(entries), To(namespaces, namespace_of))

``By`` says to which groups each row of an input belongs. Without ``groups`` a row belongs to one
group, its own key. ``To`` is an input that a group refers to: ``key`` computes the key from the
group's rows of the inputs before it. ``Each`` is a ``To`` with several keys. ``make`` gets a group
and the group's rows of every input, and returns the rows of ``out`` that follow. When rows change,
the groups that they were in, are in now or are referred to by are made anew, and the difference
goes into ``out``.

Rule 1: ``make`` looks at nothing but its arguments and at what stands in ``whole``, whose changes
        make every group anew. So the result never depends on the order of events: it equals what
        one run over everything gives.
Rule 2: one group at a time makes a key of ``out``. The key may move to another group.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mesh.core.table import Changes, Source, Table

G = TypeVar("G", bound=Hashable)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


#: The group of rows that stand in ``out`` before the first run: a restarted process read them.
_BEFORE = object()


@dataclass(frozen=True, slots=True)
class By(Generic[G, K, V]):
    """An input in groups: ``make`` gets a mapping; without ``groups`` the group's row or None."""

    table: Table[K, V]
    groups: Callable[[K, V], Iterable[G]] | None = None


@dataclass(frozen=True, slots=True)
class To(Generic[K, V]):
    """An input that groups refer to: ``make`` gets the row of ``key(group, *rows)``, or None."""

    table: Table[K, V]
    key: Callable[..., K | None]


@dataclass(frozen=True, slots=True)
class Each(Generic[K, V]):
    """An input of which a group refers to several rows: ``make`` gets those that exist, by key."""

    table: Table[K, V]
    keys: Callable[..., Iterable[K]]


Input = By[Any, Any, Any] | To[Any, Any] | Each[Any, Any]


class _Index(Generic[G, K]):
    """Which keys belong to which groups, both ways."""

    def __init__(self) -> None:
        self.groups: dict[K, tuple[G, ...]] = {}
        self.keys: dict[G, dict[K, None]] = {}

    def move(self, key: K, now: tuple[G, ...]) -> tuple[G, ...]:
        """Put a key into these groups and no others; return the groups where it was."""
        before = self.groups.get(key, ())
        if before == now:
            return before
        for group in before:
            keys = self.keys[group]
            keys.pop(key, None)
            if not keys:
                del self.keys[group]
        for group in now:
            self.keys.setdefault(group, {})[key] = None
        if now:
            self.groups[key] = now
        else:
            del self.groups[key]
        return before


class _Input:
    """One input as it was last seen. ``moved`` gives None when everything may have changed."""

    def __init__(self, declared: Input) -> None:
        self.declared = declared
        self.index: _Index[Any, Any] = _Index()
        self._revision = -1

    def moved(self) -> Iterable[Any] | None:
        """Groups that changed rows concern since the last call."""
        table = self.declared.table
        if self._revision == table.revision:
            return ()
        changes = table.changes(self._revision) if self._revision >= 0 else None
        self._revision = table.revision
        if isinstance(self.declared, To | Each):
            return None if changes is None else self._referring(changes)
        if self.declared.groups is None:
            return None if changes is None else [*changes.upsert, *changes.delete]
        if changes is None:
            gone = self.index.groups.keys() - table.rows.keys()
            self._regroup(Changes(table.rows, frozenset(gone)), self.declared.groups)
            return None
        return self._regroup(changes, self.declared.groups)

    def _referring(self, changes: Changes[Any, Any]) -> Iterable[Any]:
        groups = self.index.keys
        changed = (*changes.upsert, *changes.delete)
        return [group for key in changed for group in groups.get(key, ())]

    def _regroup(
        self, changes: Changes[Any, Any], groups: Callable[[Any, Any], Iterable[Any]]
    ) -> dict[Any, None]:
        touched: dict[Any, None] = {}
        for key in changes.delete:
            touched.update(dict.fromkeys(self.index.move(key, ())))
        for key, row in changes.upsert.items():
            now = tuple(dict.fromkeys(groups(key, row)))
            touched.update(dict.fromkeys((*self.index.move(key, now), *now)))
        return touched

    def all(self) -> Iterable[Any]:
        """Every group that has rows of this input."""
        if isinstance(self.declared, To | Each):
            return ()
        return self.declared.table.rows if self.declared.groups is None else self.index.keys

    def rows(self, group: Any, before: Sequence[Any]) -> Any:
        """What ``make`` gets; ``before`` are the rows of the inputs above."""
        rows = self.declared.table.rows
        if isinstance(self.declared, To):
            key = self.declared.key(group, *before)
            self.index.move(group, () if key is None else (key,))
            return None if key is None else rows.get(key)
        if isinstance(self.declared, Each):
            keys = tuple(dict.fromkeys(self.declared.keys(group, *before)))
            self.index.move(group, keys)
            return {key: rows[key] for key in keys if key in rows}
        if self.declared.groups is None:
            return rows.get(group)
        return {key: rows[key] for key in self.index.keys.get(group, ())}


class Grouped(Generic[K, V]):
    """Keeps ``out`` equal to what ``make`` gives for every group."""

    def __init__(
        self,
        out: Table[K, V],
        make: Callable[..., Mapping[K, V]],
        *inputs: Input,
        whole: Sequence[Source] = (),
        also: Sequence[Source] = (),
    ) -> None:
        self.out = out
        self.sources: list[Source] = [one.table for one in inputs]
        self.whole = list(whole)
        self.also = list(also)
        self._makers: dict[K, Any] = {}
        self._make = make
        self._inputs = [_Input(one) for one in inputs]
        self._made: dict[Any, tuple[K, ...]] = {}
        self._seen: list[int] = []

    def run(self) -> None:
        """Make what has changed; call it when the inputs are synced, but those in ``also``."""
        if not self._seen:  # rows from before the first run: nobody makes them
            self._made[_BEFORE] = tuple(self.out.rows)
            self._makers.update(dict.fromkeys(self.out.rows, _BEFORE))
        fresh: dict[K, V] = {}
        gone: dict[K, Any] = {}
        for group in [_BEFORE, *self._touched()]:
            rows: list[Any] = []
            for one in self._inputs if group is not _BEFORE else ():
                rows.append(one.rows(group, rows))
            made = self._make(group, *rows) if group is not _BEFORE else {}
            gone.update((key, group) for key in self._made.pop(group, ()) if key not in made)
            if made:
                self._made[group] = tuple(made)
                self._makers.update(dict.fromkeys(made, group))
                fresh.update(made)
        self.out.upsert(fresh)
        self.out.delete([key for key, group in gone.items() if self._gave_up(key, group)])
        if all(source.synced for source in self.also):
            self.out.mark_synced()

    def _gave_up(self, key: K, group: Any) -> bool:
        """Whether the key has no maker any more: another group may have taken it over."""
        if self._makers.get(key, group) != group:
            return False
        self._makers.pop(key, None)
        return True

    def _touched(self) -> Iterable[Any]:
        moved = [one.moved() for one in self._inputs]
        seen = [source.revision for source in self.whole]
        if seen == self._seen and None not in moved:
            return dict.fromkeys(group for groups in moved for group in groups or ())
        self._seen = seen
        every = [*self._made, *(g for one in self._inputs for g in one.all())]
        return dict.fromkeys(group for group in every if group is not _BEFORE)


class Followed(Generic[K, V]):
    """Gives ``take`` what has changed in a table: for outputs that are no tables of rows.

    After a gap in the table's change log ``take`` gets every row and the keys that it was given
    before and that are gone.
    """

    def __init__(self, table: Table[K, V], take: Callable[[Changes[K, V]], None]) -> None:
        self.table = table
        self._take = take
        self._revision = -1
        self._known: set[K] = set()

    def run(self) -> None:
        """Hand over what changed since the last run."""
        changes = self.table.changes(self._revision) if self._revision >= 0 else None
        if changes is None:
            gone = frozenset(key for key in self._known if key not in self.table.rows)
            changes = Changes(dict(self.table.rows), gone)
        self._revision = self.table.revision
        self._known.update(changes.upsert)
        self._known.difference_update(changes.delete)
        self._take(changes)
