"""Keys that the predecessor of a publisher has left behind. Pure.

A kvstoremesh does not list the keys that its predecessor wrote into a store, so a pod that was
deleted while it was away stays in the store until the predecessor's lease ends, up to 15 min
(``reference/cilium-peer.md`` B10). A new publisher puts every key of a prefix on leases of its own,
and then the prefix's canary. So when a canary that stands is put on another lease, a key that still
hangs on the leases of before is gone.

Which leases are of before: those on which a key was put not later than the former canary. A lease
that the former publisher opened after it counts as new; its keys end with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from clustermesh.remote.wire import CANARIES, split_key
from clustermesh.store.follow import Entry

#: The keys of a prefix of a cluster, as they are known.
KeysOf = Callable[[str, str], Iterable[str]]
#: A prefix and the cluster that writes it.
_Place = tuple[str, str]


@dataclass(slots=True)
class _Prefix:
    """The leases of one prefix of one cluster."""

    canary: Entry | None = None
    old: set[int] = field(default_factory=set)  # on which keys were put before the canary
    where: dict[str, int] = field(default_factory=dict)  # key -> lease, of the other leases
    first: dict[int, int] = field(default_factory=dict)  # and the revision of their first put
    dead: set[int] = field(default_factory=set)

    def put(self, entry: Entry) -> bool:
        """Whether the key counts."""
        if entry.lease in self.dead:
            return False
        if entry.lease in self.old:
            self.drop(entry.key)
            return True
        first = self.first.get(entry.lease, entry.modified)
        self.first[entry.lease] = min(first, entry.modified)
        self.where[entry.key] = entry.lease
        return True

    def drop(self, key: str) -> None:
        """The key is gone, or on another lease."""
        self.where.pop(key, None)

    def put_canary(self, entry: Entry) -> Collection[str] | None:
        """The keys that are alive when another publisher is complete; None: it is the same."""
        before, self.canary = self.canary, entry
        alive = None
        moved = before is not None and before.created == entry.created
        if moved and before and entry.lease != before.lease and entry.lease not in self.old:
            self.dead |= self.old
            self.old = set()
            alive = frozenset(self.where)
        # A key without a lease ends with no publisher: it counts as new.
        aged = {lease for lease, first in self.first.items() if lease and first <= entry.modified}
        if aged:
            self.old |= aged
            self.where = {key: lease for key, lease in self.where.items() if lease not in aged}
            self.first = {lease: at for lease, at in self.first.items() if lease not in aged}
        return alive


class Leftovers:
    """All prefixes of a store; ``keys_of`` says which keys are known."""

    def __init__(self, keys_of: KeysOf) -> None:
        self._keys_of = keys_of
        self._prefixes: dict[_Place, _Prefix] = {}

    def begin_list(self) -> None:
        """A list begins: it may be of another store, whose revisions say nothing about before."""
        self._prefixes = {place: _Prefix(dead=one.dead) for place, one in self._prefixes.items()}

    def take(
        self, puts: Sequence[Entry], deletes: Iterable[str]
    ) -> tuple[Sequence[Entry], Sequence[str]]:
        """The entries that count, and keys that are gone although the store has them."""
        for key in deletes:
            known = self._prefixes.get(split_key(key))
            if known:
                known.drop(key)
        alive = [entry for entry in puts if entry.key.startswith(CANARIES) or self._put(entry)]
        gone: list[str] = []
        for entry in alive:
            if entry.key.startswith(CANARIES):
                gone += self._canary(entry)
        return alive, [*gone, *(entry.key for entry in puts if self._is_dead(entry))]

    def _put(self, entry: Entry) -> bool:
        return self._prefixes.setdefault(split_key(entry.key), _Prefix()).put(entry)

    def _is_dead(self, entry: Entry) -> bool:
        known = self._prefixes.get(split_key(entry.key))
        return known is not None and entry.lease in known.dead

    def _canary(self, entry: Entry) -> list[str]:
        cluster, _, prefix = entry.key[len(CANARIES) :].partition("/")
        place = f"{prefix}/", cluster
        alive = self._prefixes.setdefault(place, _Prefix()).put_canary(entry)
        if alive is None:
            return []
        return [key for key in self._keys_of(*place) if key not in alive]
