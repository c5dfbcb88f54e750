"""Derivations by group: a change costs the groups that it touches.

    loop.group(out, make, By(pods, kind_of), By(entries), To(namespaces, namespace_of))

``By`` says to which groups each row of an input belongs. Without ``groups`` a row belongs to one
group, its own key. ``To`` is an input that a group refers to: ``key`` computes the key from the
group's rows of the inputs before it. ``make`` gets a group and the group's rows of every input,
and returns the rows of ``out`` that follow; it is not asked for groups without a row of any
``By``. When rows change, the groups that they were in, are in now or are referred to by are made
anew, and the difference goes into ``out``.

Rule 1: ``make`` looks at nothing but its arguments and at what stands in ``whole``, whose changes
        make every group anew. So the result never depends on the order of events: it equals what
        one run over everything gives.
Rule 2: one group at a time makes a key of ``out``. The key may move to another group.
Rule 3: groups are made piece by piece (``mesh/core/passes.py``), ``out`` changes in one step. A
        group whose inputs changed between two pieces is made again, so ``out`` never mixes states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mesh.core.passes import Sliced
from mesh.core.table import Changes, Source, Table

G = TypeVar("G", bound=Hashable)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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

    def __init__(self, declared: By[Any, Any, Any] | To[Any, Any]) -> None:
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
        if isinstance(self.declared, To):
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
        if isinstance(self.declared, To):
            return ()
        return self.declared.table.rows if self.declared.groups is None else self.index.keys

    def has(self, group: Any) -> bool:
        """Whether the group exists because of rows of this input."""
        if isinstance(self.declared, To):
            return False
        there = self.declared.table.rows if self.declared.groups is None else self.index.keys
        return group in there

    def leave(self, group: Any) -> None:
        """The group is no more: it refers to nothing."""
        if isinstance(self.declared, To):
            self.index.move(group, ())

    def rows(self, group: Any, before: Sequence[Any]) -> Any:
        """What ``make`` gets; ``before`` are the rows of the inputs above."""
        rows = self.declared.table.rows
        if isinstance(self.declared, To):
            key = self.declared.key(group, *before)
            self.index.move(group, () if key is None else (key,))
            return None if key is None else rows.get(key)
        if self.declared.groups is None:
            return rows.get(group)
        return {key: rows[key] for key in self.index.keys.get(group, ())}


#: Groups made again before a run of few groups gets longer slices.
_PATIENCE = 64


class Grouped(Sliced, Generic[K, V]):
    """Keeps ``out`` equal to what ``make`` gives for every group."""

    def __init__(
        self,
        out: Table[K, V],
        make: Callable[..., Mapping[K, V]],
        *inputs: By[Any, Any, Any] | To[Any, Any],
        whole: Sequence[Source] = (),
    ) -> None:
        self.out = out
        self.sources: list[Source] = [one.table for one in inputs]
        self.whole = list(whole)
        self._make = make
        self._inputs = [_Input(one) for one in inputs]
        self._made: dict[Any, tuple[K, ...]] = {}
        self._seen: list[int] = []
        self._waiting: deque[Any] = deque()
        self._touched: dict[Any, None] = {}  # the groups in ``_waiting``
        self._fresh: dict[Any, Mapping[K, V]] = {}  # the groups made in this run
        self._overtaken = 0

    @property
    def doublings(self) -> int:
        """A run that its inputs overtake gets longer slices, else it might never end."""
        return self._overtaken // (_PATIENCE + len(self._fresh) + len(self._touched))

    def run(self) -> None:
        """Make what has changed; call it when the inputs are synced."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """``run`` group by group; the last step writes."""
        self.groups = self.rows = self._overtaken = 0
        self._collect()
        while self._waiting:
            group = self._waiting.popleft()
            del self._touched[group]
            self._fresh[group] = self._make_group(group)
            self.groups += 1
            if self._waiting:
                yield
        self._write()

    def _make_group(self, group: Any) -> Mapping[K, V]:
        if not any(one.has(group) for one in self._inputs):
            for one in self._inputs:
                one.leave(group)
            return {}
        rows: list[Any] = []
        for one in self._inputs:
            rows.append(one.rows(group, rows))
        return self._make(group, *rows)

    def again(self) -> None:
        """Groups whose inputs changed meanwhile wait once more."""
        self._collect()

    def _collect(self) -> None:
        moved = [one.moved() for one in self._inputs]
        seen = [source.revision for source in self.whole]
        if seen == self._seen and None not in moved:
            groups: Iterable[Any] = (group for touched in moved for group in touched or ())
        else:
            self._seen = seen
            self._overtaken += bool(self._fresh) * (_PATIENCE + len(self._fresh))
            groups = [*self._made, *self._fresh, *(g for one in self._inputs for g in one.all())]
        for group in groups:
            if group not in self._touched:
                self._overtaken += self._fresh.pop(group, None) is not None
                self._touched[group] = None
                self._waiting.append(group)

    def _write(self) -> None:
        fresh: dict[K, V] = {}
        gone: list[K] = []
        for group, made in self._fresh.items():
            before = self._made.get(group, ())
            if made.keys() != set(before):
                gone += [key for key in before if key not in made]
                self._remember(group, made)
            fresh.update(made)
        self._fresh = {}
        self.rows = self.out.upsert(fresh)
        self.rows += self.out.delete([key for key in gone if key not in fresh])
        self.out.mark_synced()

    def _remember(self, group: Any, made: Mapping[K, V]) -> None:
        if made:
            self._made[group] = tuple(made)
        else:
            self._made.pop(group, None)


class Followed(Sliced, Generic[K, V]):
    """Gives ``take`` what has changed in a table: for outputs that are no tables of rows.

    After a gap in the table's change log ``take`` gets every row and the keys that it was given
    before and that are gone.
    """

    def __init__(self, table: Table[K, V], take: Callable[[Changes[K, V]], None]) -> None:
        self.table = table
        self._take = take
        self._revision = -1
        self._known: set[K] = set()

    def steps(self) -> Iterator[None]:
        """One piece: hand over what changed since the last run."""
        self.run()
        return iter(())

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
