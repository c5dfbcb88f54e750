"""What no other cluster may claim: the union of what the features of this process declare.

A feature that forgets to declare its addresses leaves them to whoever claims them first, so the
union is made from the list of features and from nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

from clustermesh.remote.holdings import OwnChange
from clustermesh.remote.tables import RemoteTables
from mesh.core.model import IP, Network
from mesh.core.passes import Sliced
from mesh.core.reconcile import Loop
from mesh.core.table import Changes, Source, Table

F = TypeVar("F")

#: Facts that are handed over in one piece.
_PART = 256


class _Union(Generic[F]):
    """The keys of several tables, and how they changed since ``take_change``."""

    def __init__(self, tables: Sequence[Table[F, None]]) -> None:
        self.tables = tuple(tables)
        self._all: set[F] = set()
        self._touched: dict[F, None] = {}

    def note(self, changes: Changes[F, None]) -> None:
        """Keys of one table may have come or gone."""
        self._touched.update(dict.fromkeys((*changes.upsert, *changes.delete)))

    @property
    def has_more(self) -> bool:
        """Whether ``take_change`` has not given everything."""
        return bool(self._touched)

    def take_change(self) -> tuple[frozenset[F], frozenset[F]]:
        """Some keys that came, and some that went."""
        touched = dict(islice(self._touched.items(), _PART))
        for one in touched:
            del self._touched[one]
        present = {one for one in touched if any(one in table.rows for table in self.tables)}
        came, went = present - self._all, (self._all & touched.keys()) - present
        self._all |= came
        self._all -= went
        return frozenset(came), frozenset(went)


class Ours(Sliced):
    """Hands the union to the import firewall; nothing is judged before all tables are synced."""

    def __init__(
        self,
        remote: RemoteTables,
        networks: Sequence[Table[Network, None]],
        addresses: Sequence[Table[IP, None]],
    ) -> None:
        self._remote = remote
        self._networks, self._addresses = _Union(networks), _Union(addresses)

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        for networks in self._networks.tables:
            loop.follow(networks, self._networks.note)
        for addresses in self._addresses.tables:
            loop.follow(addresses, self._addresses.note)
        tables: list[Source] = [*self._networks.tables, *self._addresses.tables]
        loop.work("own facts", self, tables)
        self._remote.rest_between_pieces(loop)

    def steps(self) -> Iterator[None]:
        """Hand over some networks and addresses at a time."""
        self.groups = self.rows = 0
        networks, addresses = self._networks, self._addresses
        while True:
            changes = (*networks.take_change(), *addresses.take_change())
            more = networks.has_more or addresses.has_more
            self.rows += sum(map(len, changes))
            self._remote.change_own(OwnChange(*changes, more=more))
            if not more:
                return
            yield
