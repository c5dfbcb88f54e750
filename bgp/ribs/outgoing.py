"""What routers were sent, as ExaBGP reports each UPDATE that it has written (Adj-RIBs-Out).

An acknowledgement by ExaBGP is no delivery: it says that a command was parsed. So the rows come
from the bytes on their way to the router, read by our own decoder. They go with the session.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from itertools import islice

from bgp.received import family_of, key_of, rows
from bgp.route import Family
from bgp.wire.rows import Update
from mesh.core.model import IP
from mesh.core.received import Received, ReceivedKey
from mesh.core.table import Table

#: Rows that are changed between two looks at the clock.
_STEP = 200


class RibOut:
    """``table`` has the rows; ``problems`` are UPDATEs of ours that cannot be read, by router."""

    def __init__(self) -> None:
        self.table: Table[ReceivedKey, Received] = Table("sent route")
        self.problems: dict[IP, str] = {}
        self._keys: dict[tuple[IP, Family], set[ReceivedKey]] = {}

    def count(self, peer: IP, family: Family) -> int:
        """Rows of a session."""
        return len(self._keys.get((peer, family), ()))

    @property
    def peers(self) -> set[IP]:
        """Routers that have rows."""
        return {peer for (peer, _), keys in self._keys.items() if keys}

    def load(self, found: Iterable[tuple[ReceivedKey, Received]]) -> Iterator[None]:
        """Rows of the last speaker."""
        left = iter(found)
        while some := dict(islice(left, _STEP)):
            for key in some:
                self._keys.setdefault((key.peer, family_of(key)), set()).add(key)
            self.table.upsert(some)
            yield

    def hear(self, peer: IP, update: Update) -> None:
        """Take in an UPDATE that was sent."""
        if why := update.treat_as_withdraw or update.reset:
            self.problems[peer] = why
            return
        self._drop(key_of(peer, one) for one in update.withdrawn)
        come = dict(rows(peer, update))
        for key in come:
            self._keys.setdefault((peer, family_of(key)), set()).add(key)
        self.table.upsert(come)

    def forget(self, peer: IP, but: Container[ReceivedKey] = ()) -> Iterator[None]:
        """The session has ended, or was another one; ``but`` was sent all the same."""
        self.problems.pop(peer, None)
        parts = [part for part in self._keys if part[0] == peer]
        for part in parts:
            left = iter([key for key in self._keys[part] if key not in but])
            while some := list(islice(left, _STEP)):
                self._drop(some)
                yield

    def _drop(self, keys: Iterable[ReceivedKey]) -> None:
        gone = list(keys)
        for key in gone:
            self._keys.get((key.peer, family_of(key)), set()).discard(key)
        self.table.delete(gone)
