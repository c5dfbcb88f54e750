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
Rule 3: a group, or a row, that makes a function raise costs itself: its rows stay as they were, and
        it is tried again when its inputs change. Until then ``out`` counts as not synced.
Rule 4: groups are made piece by piece (``mesh/core/passes.py``), ``out`` changes in one step. A
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
    """An input in groups: ``make`` gets a mapping; without ``groups`` the group's row or None.

    A group without rows of a ``needed`` input makes nothing, and no input below is looked at.
    """

    table: Table[K, V]
    groups: Callable[[K, V], Iterable[G]] | None = None
    needed: bool = False


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


class _Many(tuple[Any, ...]):
    """Several items where one stands for itself: tuples of one would be a third of the memory."""

    __slots__ = ()


class _Several(dict[Any, None]):
    """Several keys of a group, likewise."""

    __slots__ = ()


_ABSENT: Any = object()


def _packed(items: tuple[Any, ...]) -> Any:
    return items[0] if len(items) == 1 else _Many(items)


def _unpacked(item: Any) -> tuple[Any, ...]:
    if item is _ABSENT:
        return ()
    return item if type(item) is _Many else (item,)


class _Index(Generic[G, K]):
    """Which keys belong to which groups, both ways."""

    def __init__(self) -> None:
        self.groups: dict[K, Any] = {}
        self.keys: dict[G, Any] = {}

    def keys_of(self, group: G) -> Iterable[K]:
        """The keys of a group, in the order in which they came."""
        found = self.keys.get(group, _ABSENT)
        if type(found) is _Several:
            return found
        return () if found is _ABSENT else (found,)

    def move(self, key: K, now: tuple[G, ...]) -> tuple[G, ...]:
        """Put a key into these groups and no others; return the groups where it was."""
        before = _unpacked(self.groups.get(key, _ABSENT))
        if before == now:
            return before
        for group in before:
            self._leave(group, key)
        for group in now:
            self._join(group, key)
        if now:
            self.groups[key] = _packed(now)
        else:
            del self.groups[key]
        return before

    def _join(self, group: G, key: K) -> None:
        found = self.keys.get(group, _ABSENT)
        if found is _ABSENT:
            self.keys[group] = key
        elif type(found) is _Several:
            found[key] = None
        else:
            self.keys[group] = _Several({found: None, key: None})

    def _leave(self, group: G, key: K) -> None:
        found = self.keys[group]
        if type(found) is not _Several:
            del self.keys[group]
            return
        del found[key]
        if len(found) == 1:
            self.keys[group] = next(iter(found))


class _Input:
    """One input as it was last seen."""

    def __init__(self, declared: Input) -> None:
        self.declared = declared
        self.needed = isinstance(declared, By) and declared.needed
        self.index: _Index[Any, Any] = _Index()
        self.backlog: deque[Any] = deque()  # changed keys whose groups are to be found
        self.failures: dict[Any, Exception] = {}  # keys whose groups are not known
        self._revision = -1

    def look(self) -> bool:
        """Note what has changed since the last look; True when that is no longer known."""
        table = self.declared.table
        if self._revision == table.revision:
            return False
        changes = table.changes(self._revision) if self._revision >= 0 else None
        self._revision = table.revision
        if changes is not None:
            self.backlog += (*changes.upsert, *changes.delete)
        elif isinstance(self.declared, By) and self.declared.groups:
            self.backlog = deque({**self.index.groups, **table.rows})
        return changes is None

    def piece(self) -> Iterable[Any]:
        """Groups that some keys of the backlog concern."""
        keys = [self.backlog.popleft() for _ in range(min(_PIECE, len(self.backlog)))]
        if isinstance(self.declared, To | Each):
            return [group for key in keys for group in self.index.keys_of(key)]
        if self.declared.groups is None:
            return keys
        return self._regroup(keys, self.declared.table.rows, self.declared.groups)

    def _regroup(
        self,
        keys: Iterable[Any],
        rows: Mapping[Any, Any],
        groups: Callable[[Any, Any], Iterable[Any]],
    ) -> dict[Any, None]:
        touched: dict[Any, None] = {}
        for key in keys:
            try:
                now = tuple(dict.fromkeys(groups(key, rows[key]))) if key in rows else ()
            except Exception as error:  # noqa: BLE001 - the row's: it stays in its groups
                self.failures[key] = error
                continue
            self.failures.pop(key, None)
            touched.update(dict.fromkeys((*self.index.move(key, now), *now)))
        return touched

    def all(self) -> Iterable[Any]:
        """Every group that has rows of this input."""
        if isinstance(self.declared, To | Each):
            return ()
        return self.declared.table.rows if self.declared.groups is None else self.index.keys

    def has(self, group: Any) -> bool:
        """Whether the group exists because of rows of this input."""
        if isinstance(self.declared, To | Each):
            return False
        there = self.declared.table.rows if self.declared.groups is None else self.index.keys
        return group in there

    def leave(self, group: Any) -> None:
        """The group is no more: it refers to nothing."""
        if isinstance(self.declared, To | Each):
            self.index.move(group, ())

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
        return {key: rows[key] for key in self.index.keys_of(group)}


#: Keys whose groups are found in one piece.
_PIECE = 256
#: Keys that are handed over in one piece, where each costs little.
HANDED = 64
#: Groups made again before a run of few groups gets longer slices.
_PATIENCE = 64


class Grouped(Sliced, Generic[K, V]):
    """Keeps ``out`` equal to what ``make`` gives for every group."""

    def __init__(
        self,
        out: Table[K, V],
        make: Callable[..., Mapping[K, V]],
        *inputs: Input,
        whole: Sequence[Source] = (),
        late: Sequence[Source] = (),
    ) -> None:
        self.out = out
        self.sources: list[Source] = [one.table for one in inputs]
        self.whole = list(whole)
        self.late = list(late)
        self.makes = [out]
        self._failed: dict[Any, Exception] = {}  # groups whose rows stay as they were
        self._before: tuple[K, ...] | None = None  # rows of an earlier process
        self._make = make
        self._inputs = [_Input(one) for one in inputs]
        self._same: set[Any] = set()  # groups that have made one row, whose key is the group
        self._made: dict[Any, Any] = {}  # keys that the other groups have made
        self._makers: dict[K, Any] = {}  # the groups that have made them
        self._seen: list[int] | None = None
        self._everything = False  # every group is to be made
        self._waiting: deque[Any] = deque()
        self._touched: dict[Any, None] = {}  # the groups in ``_waiting``
        self._fresh: dict[Any, Mapping[K, V]] = {}  # the groups made in this run
        self._rows: dict[K, V] = {}  # the rows of ``_fresh``
        self._lost: list[tuple[K, Any]] = []  # keys that groups made before, and not this time
        self._overtaken = 0
        self._again = False  # a group was made twice in this run

    @property
    def doublings(self) -> int:
        """A run that its inputs overtake gets longer slices, else it might never end."""
        return self._overtaken // (_PATIENCE + len(self._fresh) + len(self._touched))

    def run(self) -> None:
        """Make what has changed; call it when the inputs are synced."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """``run`` in pieces; the last one writes."""
        self.groups = self.rows = self._overtaken = 0
        self._again = False
        if self._before is None:
            self._before = tuple(self.out.rows)
        self._look()
        while self._unfinished():
            self._piece()
            if self._unfinished():
                yield
        self._write()

    def _unfinished(self) -> bool:
        return bool(self._waiting or self._everything or any(i.backlog for i in self._inputs))

    def _piece(self) -> None:
        """Find the groups of some changed keys, or make a group."""
        for one in self._inputs:
            if one.backlog:
                self._touch(one.piece())
                return
        if self._everything:
            self._everything = False
            needed = [one for one in self._inputs if one.needed][:1] or self._inputs
            there = [group for one in needed for group in one.all()]
            self._touch([*self._same, *self._made, *there])
            return
        group = self._waiting.popleft()
        del self._touched[group]
        self.groups += 1
        try:
            made = self._make_group(group)
        except Exception as error:  # noqa: BLE001 - the group's
            self._failed[group] = error
            return
        self._failed.pop(group, None)
        self._note(group, made)

    @property
    def failures(self) -> Mapping[Any, Exception]:
        found = dict(self._failed)
        for one in self._inputs:
            found |= one.failures
        return found

    def _make_group(self, group: Any) -> Mapping[K, V]:
        if not any(one.has(group) for one in self._inputs):
            for one in self._inputs:
                one.leave(group)
            return {}
        rows: list[Any] = []
        for one in self._inputs:
            rows.append(one.rows(group, rows))
            if one.needed and not rows[-1]:
                return {}
        return self._make(group, *rows)

    def again(self) -> None:
        """Groups whose inputs changed meanwhile wait once more."""
        before = sum(len(one.backlog) for one in self._inputs)
        self._look()
        self._overtaken += sum(len(one.backlog) for one in self._inputs) - before
        self._overtaken += self._everything * (_PATIENCE + len(self._fresh))

    def _look(self) -> None:
        gaps = [one.look() for one in self._inputs]
        seen = [source.revision for source in self.whole]
        if seen != self._seen or any(gaps):
            self._seen, self._everything = seen, True

    def _touch(self, groups: Iterable[Any]) -> None:
        for group in groups:
            if group not in self._touched:
                self._again |= self._fresh.pop(group, None) is not None
                self._touched[group] = None
                self._waiting.append(group)

    def _note(self, group: Any, made: Mapping[K, V]) -> None:
        """Prepare what ``_write`` does in one step."""
        before = self._keys_of(group)
        self._lost += [(key, group) for key in before if key not in made]
        if len(made) == 1 and group in made:
            self._same.add(group)
            self._makers.pop(group, None)
            self._made.pop(group, None)
        else:
            self._same.discard(group)
            self._makers.update(dict.fromkeys(made, group))
            if made:
                self._made[group] = _packed(tuple(made))
            elif before:
                self._made.pop(group, None)
        self._fresh[group] = made
        self._rows.update(made)

    def _keys_of(self, group: Any) -> tuple[Any, ...]:
        """The keys that the group made last."""
        return (group,) if group in self._same else _unpacked(self._made.get(group, _ABSENT))

    def _write(self) -> None:
        rows, lost = self._rows, self._lost
        if self._again:  # rows of groups that were made again may be among them
            rows = {key: row for made in self._fresh.values() for key, row in made.items()}
        self._fresh, self._rows, self._lost = {}, {}, []
        self._touched = {}  # an emptied dict keeps the room of all that it once held
        self.rows = self.out.upsert(rows)
        gone = [key for key, group in lost if self._gave_up(key, group) and key not in rows]
        complete = all(source.synced for source in self.late)
        self.rows += self.out.delete([*gone, *(self._not_made() if complete else ())])
        if complete:
            self.out.mark_synced()

    def _not_made(self) -> list[K]:
        """Rows that stood in ``out`` before the first run and that no group has made."""
        before, self._before = self._before or (), ()
        return [key for key in before if key not in self._makers and key not in self._same]

    def _gave_up(self, key: K, group: Any) -> bool:
        """Whether the key has no maker any more: another group may have taken it over."""
        itself = key if key in self._same else group
        if self._makers.get(key, itself) != group:
            return False
        self._makers.pop(key, None)
        return True


class Followed(Sliced, Generic[K, V]):
    """Gives ``take`` what has changed in a table: for outputs that are no tables of rows.

    ``take`` gets some keys at a time, with their rows of that moment. After a gap in the table's
    change log it gets every row and the keys that it was given before and that are gone.
    """

    def __init__(
        self, table: Table[K, V], take: Callable[[Changes[K, V]], None], keys: int = HANDED
    ) -> None:
        self.table = table
        self._take = take
        self._piece = keys
        self._revision = -1
        self._known: set[K] = set()
        self._failed: dict[K, Exception] = {}  # handed over again with the next change

    @property
    def failures(self) -> Mapping[K, Exception]:
        return self._failed

    def run(self) -> None:
        """Hand over what changed since the last run."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """``run`` in pieces."""
        self.groups = self.rows = 0
        keys, at = list(dict.fromkeys((*self._failed, *self._changed()))), 0
        while at < len(keys):
            if at:
                yield
            self._hand_over(keys[at : at + self._piece])
            at += self._piece

    def _changed(self) -> list[K]:
        changes = self.table.changes(self._revision) if self._revision >= 0 else None
        self._revision = self.table.revision
        if changes is None:
            return list({**dict.fromkeys(self._known), **self.table.rows})
        return [*changes.delete, *changes.upsert]

    def _hand_over(self, keys: list[K]) -> None:
        """Each key alone when they cannot be taken together."""
        try:
            self._give(keys)
        except Exception as error:  # noqa: BLE001 - one key's
            for key in keys if len(keys) > 1 else ():
                self._hand_over([key])
            if len(keys) == 1:
                self._failed[keys[0]] = error
            return
        for key in keys if self._failed else ():
            self._failed.pop(key, None)

    def _give(self, keys: list[K]) -> None:
        rows = self.table.rows
        changes = Changes(
            {key: rows[key] for key in keys if key in rows},
            frozenset(key for key in keys if key not in rows),
        )
        self._known.update(changes.upsert)
        self._known.difference_update(changes.delete)
        self.rows += len(keys)
        self._take(changes)
