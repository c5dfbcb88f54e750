"""Which backends services lead to, by protocol; those that lose the last service are *lost*.

A count instead of a table by group: one more backend of a service with a thousand costs that
backend, and a group would cost the thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from mesh.core.groups import Followed
from mesh.core.model import IP
from mesh.core.table import Changes, Table
from mesh.services.backends import BackendAddress, ServiceAddress, Translation

#: A protocol (TCP, UDP) and a backend.
Use = tuple[str, BackendAddress]


class Uses(Followed[ServiceAddress, Translation]):
    """Listeners are called after each run; ``whole`` is false while one has seen only a part."""

    def __init__(self, translations: Table[ServiceAddress, Translation]) -> None:
        super().__init__(translations, self.take)
        self._listeners: list[Callable[[], None]] = []
        self._seen = False
        self._backends: dict[ServiceAddress, frozenset[BackendAddress]] = {}
        self._counts: Counter[Use] = Counter()
        self._lost: dict[Use, None] = {}

    @property
    def whole(self) -> bool:
        """Whether every service is known as it is now."""
        return self._seen and self.table.synced

    def listen(self, told: Callable[[], None]) -> None:
        """Call ``told`` after each run."""
        self._listeners.append(told)

    def recover(self, uses: Iterable[Use]) -> None:
        """What the last process knew: each of them is lost unless a service leads to it."""
        self._lost.update(dict.fromkeys(uses))

    def steps(self) -> Iterator[None]:
        """One run in pieces."""
        self._seen = False
        yield from super().steps()
        self._seen = True
        for told in self._listeners:
            told()

    def take(self, changes: Changes[ServiceAddress, Translation]) -> None:
        """Take in a change."""
        for ask, row in changes.upsert.items():
            self._move(ask, row.backends)
        for ask in changes.delete:
            self._move(ask, ())

    def _move(self, ask: ServiceAddress, backends: Iterable[BackendAddress]) -> None:
        before, now = self._backends.get(ask, frozenset()), frozenset(backends)
        for backend in now - before:
            use = ask.protocol, backend
            self._counts[use] += 1
            self._lost.pop(use, None)
        for backend in before - now:
            use = ask.protocol, backend
            self._counts[use] -= 1
            if not self._counts[use]:
                del self._counts[use]
                self._lost[use] = None
        if now:
            self._backends[ask] = now
        else:
            self._backends.pop(ask, None)

    @property
    def lost(self) -> int:
        """How many backends are lost."""
        return len(self._lost)

    def take_gone(self, is_known: Callable[[IP], bool], limit: int) -> list[Use]:
        """Those of the first ``limit`` that are gone, once; the others go to the end.

        A backend that is lost and known is not ready, or drains; its sockets go on.
        """
        looked = list(islice(self._lost, limit))
        gone = []
        for use in looked:
            del self._lost[use]
            if is_known(use[1].address):
                self._lost[use] = None
            else:
                gone.append(use)
        return gone
