"""Facts that no other cluster may claim: the union of those that the features declare.

A feature that forgets to declare its addresses leaves them to the first claimant, so the
union is made from the list of features and from nothing else. The contracts with other clusters,
and networks that only a contract gives, take the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Protocol, Self, TypeVar

from clustermesh.contract import Contract
from clustermesh.remote.holdings import Bar, OwnChange
from clustermesh.remote.tables import RemoteTables
from mesh.core.model import IP, Network
from mesh.core.passes import Sliced
from mesh.core.reconcile import Loop
from mesh.core.table import Changes, Source, Table

F = TypeVar("F")

#: Facts that are handed over in one piece.
_PART = 256


class Declares(Protocol):
    """The declarations of a feature, as ``mesh/core/feature.py`` has them."""

    ours: Sequence[Table[Network, None]]
    own_addresses: Sequence[Table[IP, None]]
    barred: Sequence[Table[Network, None]]
    routed: Sequence[Table[Network, None]]


def _no_contracts() -> Table[str, Contract]:
    table: Table[str, Contract] = Table("contract")
    table.mark_synced()
    return table


@dataclass(frozen=True, slots=True)
class OwnTables:
    """All that the features of a process declare."""

    networks: Sequence[Table[Network, None]] = ()
    addresses: Sequence[Table[IP, None]] = ()
    barred: Sequence[Table[Network, None]] = ()
    routed: Sequence[Table[Network, None]] = ()
    contracts: Table[str, Contract] = field(default_factory=_no_contracts)

    @classmethod
    def of(cls, features: Iterable[Declares], contracts: Table[str, Contract]) -> Self:
        """The tables of the features."""
        some = list(features)
        return cls(
            [table for one in some for table in one.ours],
            [table for one in some for table in one.own_addresses],
            [table for one in some for table in one.barred],
            [table for one in some for table in one.routed],
            contracts,
        )


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

    def word(self, one: F) -> str:
        """The name of the table that has it."""
        return next((table.name for table in self.tables if one in table.rows), "")


class Ours(Sliced):
    """Hands the union to the import firewall; nothing is judged before all tables are synced."""

    def __init__(self, remote: RemoteTables, declared: OwnTables) -> None:
        self._remote, self._contracts = remote, declared.contracts
        self._networks, self._addresses = _Union(declared.networks), _Union(declared.addresses)
        self._barred = {Bar.ALL: _Union(declared.barred), Bar.PODS: _Union(declared.routed)}

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        sources: list[Source] = [self._contracts]
        for networks in (self._networks, *self._barred.values()):
            sources += networks.tables
            for table in networks.tables:
                loop.follow(table, networks.note)
        for addresses in self._addresses.tables:
            loop.follow(addresses, self._addresses.note)
        loop.work("own facts", self, [*sources, *self._addresses.tables])
        self._remote.rest_between_pieces(loop)

    def steps(self) -> Iterator[None]:
        """Hand over some networks and addresses at a time, with the contracts at the end."""
        self.groups = self.rows = 0
        while True:
            changes = (*self._networks.take_change(), *self._addresses.take_change())
            barred = {bar: union.take_change() for bar, union in self._barred.items()}
            more = self._networks.has_more or self._addresses.has_more
            more = more or any(union.has_more for union in self._barred.values())
            self.rows += sum(map(len, changes)) + sum(len(c) + len(g) for c, g in barred.values())
            change = OwnChange(
                *changes,
                barred={bar: self._words(bar, came) for bar, (came, _) in barred.items()},
                gone_barred={bar: gone for bar, (_, gone) in barred.items()},
                contracts=None if more else tuple(self._contracts.rows.values()),
                more=more,
            )
            self._remote.change_own(change)
            if not more:
                return
            yield

    def _words(self, bar: Bar, networks: Iterable[Network]) -> dict[Network, str]:
        return {network: self._barred[bar].word(network) for network in networks}
