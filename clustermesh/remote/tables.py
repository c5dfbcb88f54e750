"""What other clusters publish and the import firewall accepts, as tables.

Agents and the controller follow ``cilium/`` and give every batch to ``RemoteTables.take``.
``expected`` are clusters that were known in another store: nothing counts as complete until their
canaries stand in this one, so an agent that starts beside an empty new store deletes nothing (D8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from clustermesh.etcd.client import Client
from clustermesh.kept import KeptContracts
from clustermesh.remote.changes import Draft, ImportChanges
from clustermesh.remote.holdings import OwnChange, OwnFacts
from clustermesh.remote.importer import Imports, finish
from clustermesh.remote.leftovers import Leftovers
from clustermesh.remote.shared import (
    ADDRESS,
    CONFIG,
    IDENTITY,
    NODE,
    SERVICE,
    SHARED,
    SLICE,
    Shared,
)
from clustermesh.remote.wire import ADDRESSES, CANARIES, CONFIGS, canary_key
from clustermesh.store.follow import Batch
from mesh.core.model import (
    IP,
    Finding,
    Identity,
    Node,
    NodeKey,
    PodKey,
    Service,
    ServiceKey,
)
from mesh.core.passes import Sliced
from mesh.core.reconcile import Loop
from mesh.core.table import ColumnChanges, Source, Table

PREFIX = "cilium/"
#: Addresses that are written in one piece.
_WRITTEN = 2048


class Queued(Source):
    """Wakes the derivation that judges."""

    def tell(self) -> None:
        """Something waits."""
        self.revision += 1
        self._wake()


class RemoteTables(Sliced):
    """Accepted nodes, services and identities as tables; addresses go to a callback."""

    def __init__(
        self,
        own: OwnFacts,
        addresses_changed: Callable[[ColumnChanges], None],
        expected: Collection[str] = (),
        nouns: Sequence[Shared[Any, Any, Any]] = SHARED,
        kept: KeptContracts | None = None,
    ) -> None:
        #: Accepted rows of each noun that has rows.
        self.tables: Mapping[Shared[Any, Any, Any], Table[Any, Any]] = {
            noun: Table(f"remote {noun}") for noun in nouns if noun not in (CONFIG, ADDRESS, SLICE)
        }
        self.nodes: Table[NodeKey, Node] = self.tables[NODE]
        self.services: Table[ServiceKey, Service] = self.tables[SERVICE]
        self.identities: Table[int, Identity] = self.tables[IDENTITY]
        #: Cluster id by name, of the own cluster and of every accepted one.
        self.ids: Table[str, int] = Table("id of cluster")
        self.ids.replace({own.cluster: own.id})
        #: Whether the contract of a cluster lets its hosts reach ours, by cluster.
        self.hosts: Table[str, bool] = Table("contract with hosts")
        self.hosts.mark_synced()
        self._own = own.cluster
        self.imports = Imports(own, nouns=nouns)
        self._kept = kept
        if kept is not None:
            self.imports.ledger.restore_contracts(kept.contracts)
        #: Marked synced when the first list of this store has been judged.
        self.heard = Source("remote clusters heard")
        #: Clusters that were known in another store and are not complete in this one.
        self.awaited: Table[str, None] = Table("awaited cluster")
        #: Marked synced when everything that other clusters have is in.
        self.complete = Source("remote clusters")
        self._expected = set(expected) - {own.cluster}
        self._addresses_changed = addresses_changed
        self._listed = False
        self._queue: deque[Batch | OwnChange] = deque()  # its first one is being judged
        self._queued = Queued("batches of other clusters")
        self._rests = False
        self._leftovers = Leftovers(self.imports.keys_of)
        self._lists = False  # pages of a list have come
        self._unjudged: list[Batch] | None = []

    @property
    def clusters(self) -> Mapping[str, int]:
        """Id by name of every other cluster that has an accepted one."""
        ids = {name: one.cluster.id for name, one in self.imports.importers.items()}
        return {name: number for name, number in ids.items() if number}

    def pod_of(self, address: IP) -> PodKey | None:
        """The pod of another cluster's address: a look in each cluster, for people to read."""
        pods = (one.pod_of(address) for one in self.imports.importers.values())
        return next((pod for pod in pods if pod), None)

    @property
    def findings(self) -> Mapping[str, Finding]:
        """What is refused, by etcd key."""
        return self.imports.findings

    def take(self, batch: Batch) -> None:
        """Take in what ``Follow`` saw; judged once our own facts are known."""
        if self._unjudged or (self._unjudged is not None and not batch.page):
            self._unjudged.append(batch)
        elif self._queue or (batch.listed and self._rests):
            self._enqueue(batch)
        else:
            finish(self._taking(batch))

    def rest_between_pieces(self, loop: Loop) -> None:
        """Judge lists in pieces, by a derivation; what comes meanwhile waits in order."""
        self._rests = True
        loop.work("judge other clusters", self, [], [self._queued])

    def steps(self) -> Iterator[None]:
        """Take in what waits."""
        self.groups = self.rows = 0
        while self._queue:
            one = self._queue[0]
            yield from self._taking(one) if isinstance(one, Batch) else self._changing(one)
            self._queue.popleft()

    def _enqueue(self, one: Batch | OwnChange) -> None:
        self._queue.append(one)
        self._queued.tell()

    def _taking(self, batch: Batch) -> Generator[None, None, None]:
        if batch.page and not self._lists:
            self._leftovers.begin_list()
        self._lists = batch.page
        alive, gone = self._leftovers.take(batch.puts, batch.deletes)
        puts = {entry.key: entry.value for entry in alive}
        if batch.page:
            self.imports.note(puts)
            return
        draft = yield from self.imports.applying(puts, [*batch.deletes, *gone])
        yield from self._writing(draft)
        self._listed = self._listed or batch.listed
        config_changed = any(e.key.startswith((CONFIGS, CANARIES)) for e in batch.puts)
        if config_changed or batch.listed:
            self._settle()

    def expect(self, clusters: Collection[str]) -> None:
        """Clusters that must be complete before anything counts as complete."""
        self._expected = set(clusters) - {self.imports.ledger.own_cluster}
        self._settle()

    def complete_clusters(self) -> list[str]:
        """Other clusters that are complete in the store."""
        return [name for name, one in self.imports.importers.items() if one.is_complete]

    def claimant(self, address: IP) -> str:
        """The cluster that has an address of a pod or node, ours included; empty: none."""
        return self.imports.ledger.claimant(address)

    def forget(self, clusters: Collection[str]) -> None:
        """Await these no longer."""
        if self._expected.intersection(clusters):
            self.expect(self._expected.difference(clusters))

    def update_own(self, own: OwnFacts) -> None:
        """``change_own`` to what this cluster has as a whole."""
        self.ids.replace({self._own: self.ids.rows[self._own], **self.clusters})
        self._write(self.imports.update_own(own))
        self._judge_waiting()

    def change_own(self, change: OwnChange) -> None:
        """Judge anew what changed facts of ours concern.

        Nothing is judged before the first call: a cluster could otherwise claim what is ours until
        we have learned it.
        """
        if self._queue:
            self._enqueue(change)
        else:
            finish(self._changing(change))

    def _changing(self, change: OwnChange) -> Generator[None, None, None]:
        draft = yield from self.imports.changing_own(change)
        self._note_contracts()
        yield from self._writing(draft)
        if not change.more:
            self._judge_waiting()

    def _note_contracts(self) -> None:
        contracts = self.imports.ledger.contracts
        self.hosts.replace({one.cluster: True for one in contracts.values() if one.hosts})
        if self._kept is not None:
            self._kept.write(contracts)

    def _judge_waiting(self) -> None:
        waiting, self._unjudged = self._unjudged or (), None
        for batch in waiting:
            self.take(batch)

    def _writing(self, draft: Draft) -> Iterator[None]:
        self.ids.replace({self._own: self.ids.rows[self._own], **self.clusters})
        for part in draft.parts(_WRITTEN):
            self._write(part)
            yield

    def _write(self, changes: ImportChanges) -> None:
        for noun, table in self.tables.items():
            self.rows += table.upsert(changes.of(noun).upsert)
            self.rows += table.delete(changes.of(noun).delete)
        if len(changes.addresses.keys) or len(changes.addresses.deleted):
            self.rows += len(changes.addresses.keys) + len(changes.addresses.deleted)
            self._addresses_changed(changes.addresses)

    def _settle(self) -> None:
        importers = self.imports.importers
        waiting = {
            name
            for name in self._expected
            if name not in importers or ADDRESSES not in importers[name].canaries
        }
        if self._listed:
            self.awaited.replace(dict.fromkeys(sorted(self._incomplete())))
            self.heard.mark_synced()
        if self._listed and not waiting and not self.complete.synced:
            for table in (*self.tables.values(), self.complete):
                table.mark_synced()

    def _incomplete(self) -> Iterable[str]:
        """Expected clusters of which a canary of what is read is missing."""
        importers = self.imports.importers
        for name in self._expected:
            if name not in importers or not importers[name].is_complete:
                yield name


async def all_stand(client: Client, clusters: Iterable[str]) -> bool:
    """Whether each cluster is complete in the store as it is now; what we hold does not count."""
    for cluster in clusters:
        if await client.get(canary_key(cluster, ADDRESSES)) is None:
            return False
    return True
