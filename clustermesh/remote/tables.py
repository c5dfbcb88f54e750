"""What other clusters publish and the import firewall accepts, as tables.

Agents and the controller follow ``cilium/`` and give every batch to ``RemoteTables.take``.
``expected`` are clusters that were known in another store: nothing counts as complete until their
canaries stand in this one, so an agent that starts beside an empty new store deletes nothing (D8).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from clustermesh.etcd.client import Client
from clustermesh.remote.changes import ImportChanges
from clustermesh.remote.holdings import OwnChange, OwnFacts
from clustermesh.remote.importer import Imports
from clustermesh.remote.shared import (
    ADDRESS,
    CONFIG,
    IDENTITY,
    NODE,
    SERVICE,
    SHARED,
    Shared,
)
from clustermesh.remote.wire import ADDRESSES, CANARIES, CONFIGS, canary_key
from clustermesh.store.follow import Batch
from mesh.core.model import Finding, Identity, Node, NodeKey, Service, ServiceKey
from mesh.core.table import ColumnChanges, Source, Table

PREFIX = "cilium/"


class RemoteTables:
    """Accepted nodes, services and identities as tables; addresses go to a callback."""

    def __init__(
        self,
        own: OwnFacts,
        addresses_changed: Callable[[ColumnChanges], None],
        expected: Collection[str] = (),
        nouns: Sequence[Shared[Any, Any, Any]] = SHARED,
    ) -> None:
        #: Accepted rows of each noun that has rows.
        self.tables: Mapping[Shared[Any, Any, Any], Table[Any, Any]] = {
            noun: Table(f"remote {noun}") for noun in nouns if noun not in (CONFIG, ADDRESS)
        }
        self.nodes: Table[NodeKey, Node] = self.tables[NODE]
        self.services: Table[ServiceKey, Service] = self.tables[SERVICE]
        self.identities: Table[int, Identity] = self.tables[IDENTITY]
        #: Cluster id by name, of the own cluster and of every accepted one.
        self.ids: Table[str, int] = Table("cluster id")
        self.ids.replace({own.cluster: own.id})
        self._own = own.cluster
        self.imports = Imports(own, nouns=nouns)
        #: Marked synced when everything that other clusters have is in.
        self.complete = Source("remote clusters")
        self._expected = set(expected) - {own.cluster}
        self._addresses_changed = addresses_changed
        self._listed = False
        self._unjudged: list[Batch] | None = []

    @property
    def clusters(self) -> Mapping[str, int]:
        """Id by name of every other cluster that has an accepted one."""
        ids = {name: one.cluster.id for name, one in self.imports.importers.items()}
        return {name: number for name, number in ids.items() if number}

    @property
    def findings(self) -> Mapping[str, Finding]:
        """What is refused, by etcd key."""
        return self.imports.findings

    def take(self, batch: Batch) -> None:
        """Take in what ``Follow`` saw; judged once our own facts are known."""
        if self._unjudged or (self._unjudged is not None and not batch.page):
            self._unjudged.append(batch)
            return
        puts = {entry.key: entry.value for entry in batch.puts}
        if batch.page:
            self.imports.note(puts)
            return
        changes = self.imports.apply(puts, batch.deletes)
        self._write(changes)
        self._listed = self._listed or batch.listed
        config_changed = any(e.key.startswith((CONFIGS, CANARIES)) for e in batch.puts)
        if config_changed or batch.listed:
            self._settle()

    def expect(self, clusters: Collection[str]) -> None:
        """Clusters that must be complete before anything counts as complete."""
        self._expected = set(clusters) - {self.imports.ledger.own_cluster}
        self._settle()

    def update_own(self, own: OwnFacts) -> None:
        """``change_own`` to what this cluster has as a whole."""
        self._write(self.imports.update_own(own))
        self._judge_waiting()

    def change_own(self, change: OwnChange) -> None:
        """Judge anew what changed facts of ours concern.

        Nothing is judged before the first call: a cluster could otherwise claim what is ours until
        we have learned it.
        """
        self._write(self.imports.change_own(change))
        self._judge_waiting()

    def _judge_waiting(self) -> None:
        waiting, self._unjudged = self._unjudged or (), None
        for batch in waiting:
            self.take(batch)

    def _write(self, changes: ImportChanges) -> None:
        self.ids.replace({self._own: self.ids.rows[self._own], **self.clusters})
        for noun, table in self.tables.items():
            table.upsert(changes.of(noun).upsert)
            table.delete(changes.of(noun).delete)
        if len(changes.addresses.keys) or len(changes.addresses.deleted):
            self._addresses_changed(changes.addresses)

    def _settle(self) -> None:
        importers = self.imports.importers
        waiting = {
            name
            for name in self._expected
            if name not in importers or ADDRESSES not in importers[name].canaries
        }
        if self._listed and not waiting and not self.complete.synced:
            for table in (*self.tables.values(), self.complete):
                table.mark_synced()


async def all_stand(client: Client, clusters: Iterable[str]) -> bool:
    """Whether each cluster is complete in the store as it is now; what we hold does not count."""
    for cluster in clusters:
        if await client.get(canary_key(cluster, ADDRESSES)) is None:
            return False
    return True
