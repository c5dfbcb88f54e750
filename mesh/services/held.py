"""Backends of a former process that belong to clusters which this store does not have yet.

An agent that was started again beside a store that was replaced knows which clusters it had (D8)
and awaits them. Until an awaited cluster is back, a global service keeps the backends that the maps
held and that no cluster claims that is there: they can only be an awaited one's. Everything else of
a service follows its own cluster and the clusters that are there at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mesh.core.passes import Sliced
from mesh.core.sources import Remote
from mesh.core.table import Table
from mesh.services.backends import BackendAddress, ServiceAddress, Translation
from mesh.services.slots import SlotRange

#: Service addresses that are looked at in one piece.
_PIECE = 128

Backends = tuple[BackendAddress, ...]


def read_back(
    services: Mapping[ServiceAddress, SlotRange], slots: Mapping[int, BackendAddress]
) -> dict[ServiceAddress, Backends]:
    """The backends of each service address that the two maps hold."""
    rows = {}
    for ask, row in services.items():
        found = [slots[at] for at in range(row.first, row.first + row.count) if at in slots]
        if found:
            rows[ask] = tuple(dict.fromkeys(found))
    return rows


def with_held(row: Translation, held: Backends) -> Translation:
    """The translation of a global service, with what is held for it."""
    both = tuple(dict.fromkeys((*row.backends, *held)))
    return Translation(row.owner, both, row.refused)


class Held(Sliced):
    """``table`` has what is held, by service address; empty once no cluster is awaited."""

    def __init__(self, remote: Remote) -> None:
        self.table: Table[ServiceAddress, Backends] = Table("held backends")
        self._remote = remote
        self._left: dict[ServiceAddress, Backends] = {}

    def take_over(self, found: Mapping[ServiceAddress, Backends]) -> None:
        """What the maps held when this process started."""
        self._left = dict(found)

    def steps(self) -> Iterator[None]:
        """Drop what is claimed by now; a cluster that has claimed a backend decides about it."""
        self.groups = self.rows = 0
        awaited = self._remote.awaited.rows
        if not awaited:
            self._left = {}
        left: dict[ServiceAddress, Backends] = {}
        for number, (ask, backends) in enumerate(self._left.items(), 1):
            rest = tuple(one for one in backends if self._is_open(one))
            if rest:
                left[ask] = rest
            if number % _PIECE == 0:
                self.groups += _PIECE
                yield
        self._left = left
        self.rows = self.table.replace(left)

    def _is_open(self, backend: BackendAddress) -> bool:
        whose = self._remote.claimant(backend.address)
        return not whose or whose in self._remote.awaited.rows
