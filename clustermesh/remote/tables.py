"""What other clusters publish and the import firewall accepts, as tables.

Agents and the controller follow ``cilium/`` and give every batch to ``RemoteTables.take``.
``expected`` are clusters that were known in another store: nothing counts as complete until their
canaries stand in this one, so an agent that starts beside an empty new store deletes nothing (D8).
What is told is kept at once; it is judged by ``Lanes``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from clustermesh.etcd.client import Client
from clustermesh.kept import KeptContracts
from clustermesh.remote.changes import Draft, ImportChanges
from clustermesh.remote.holdings import OwnChange, OwnFacts
from clustermesh.remote.importer import Imports, finish
from clustermesh.remote.lanes import PAUSE_S, Lanes
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
from clustermesh.remote.wire import ADDRESSES, canary_key, split_key
from clustermesh.store.follow import Batch
from mesh.core.address import OfCluster
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
from mesh.core.passes import Gate, Sliced
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
        #: UDP port of the overlay by name of another cluster (``remote/counters.py``).
        self.ports: Table[str, int] = Table("overlay port of cluster")
        self.ports.mark_synced()
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
        #: Keys that the store lacks and that are kept; set by whoever follows the store.
        self.held: Callable[[], frozenset[str]] = frozenset
        self._expected = set(expected) - {own.cluster}
        self._addresses_changed = addresses_changed
        self._lanes = Lanes(self.imports, self._writing)
        self._queued = Queued("keys of other clusters")
        self._gate: Gate | None = None  # work rests
        self._again: asyncio.Handle | asyncio.Task[None] | None = None
        self._leftovers = Leftovers(self.imports.keys_of)
        self._lists = False  # pages of a list have come
        self._has_list = False  # and one was complete
        self._knows_own = False  # nothing is judged before

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
        """What is refused, by etcd key, and clusters that are too fast."""
        return {**self.imports.findings, **self._lanes.findings()}

    def take(self, batch: Batch) -> None:
        """Take in what ``Follow`` saw; judged once our own facts are known."""
        if batch.page and not self._lists:
            self._leftovers.begin_list()
        self._lists = batch.page
        alive, gone = self._leftovers.take(batch.puts, batch.deletes)
        puts = {entry.key: entry.value for entry in alive}
        if batch.page:
            self.imports.note(puts)
            return
        self.imports.tell(puts, [*batch.deletes, *gone])
        if batch.listed:
            self._has_list = True
            self._lanes.list_told()
        self._go()

    def rest_between_pieces(self, loop: Loop) -> None:
        """Judge in pieces, by a derivation; what comes meanwhile waits, key by key."""
        self._gate = loop.gate
        loop.work("judge other clusters", self, [], [self._queued])

    @property
    def is_behind(self) -> bool:
        """Whether something that was told is yet to be judged."""
        return not self._knows_own or self._lanes.wait_s is not None

    def _go(self) -> None:
        """Something is to be judged."""
        if self._gate is None:
            finish(self.steps())
        else:
            self._queued.tell()

    def steps(self) -> Iterator[None]:
        """Judge what waits, as much as one pass has room for."""
        self.groups = self.rows = 0
        if not self._knows_own:
            return
        running = _running_loop() if self._gate else None
        yield from self._lanes.steps(rests=running is not None)
        self._settle()
        if running is not None:
            self._go_on(running, self._lanes.wait_s)

    def _go_on(self, running: asyncio.AbstractEventLoop, wait_s: float | None) -> None:
        """Have the rest judged: after everybody has seen the tables, or later."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if wait_s:
            self._again = running.call_later(wait_s, self._queued.tell)
        elif wait_s is not None:
            self._again = running.create_task(self._after_a_look(), name="judge on")

    async def _after_a_look(self) -> None:
        if self._gate is not None:
            await self._gate.look(lambda: None)
        await asyncio.sleep(PAUSE_S)
        self._queued.tell()

    def expect(self, clusters: Collection[str]) -> None:
        """Clusters that must be complete before anything counts as complete."""
        self._expected = set(clusters) - {self.imports.ledger.own_cluster}
        self._settle()

    def complete_clusters(self) -> list[str]:
        """Other clusters that are complete in the store."""
        return [name for name, one in self.imports.importers.items() if one.is_complete]

    def held_clusters(self) -> set[str]:
        """Clusters with a key that is kept from another store."""
        found = {split_key(key)[1] for key in self.held() if key.startswith(PREFIX)}
        return {cluster for cluster in found if cluster}

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
        self._knows_own = True
        self._go()

    def change_own(self, change: OwnChange) -> None:
        """Judge anew what changed facts of ours concern.

        Nothing is judged before the first call: a cluster could otherwise claim what is ours until
        we have learned it.
        """
        self.imports.change_own(change)
        self._note_contracts()
        self._knows_own |= not change.more
        self._go()

    def _note_contracts(self) -> None:
        contracts = self.imports.ledger.contracts
        self.hosts.replace({one.cluster: True for one in contracts.values() if one.hosts})
        if self._kept is not None:
            self._kept.write(contracts)

    def _writing(self, cluster: str, draft: Draft) -> Iterator[None]:
        """Write what a run has changed."""
        self.ids.replace({self._own: self.ids.rows[self._own], **self.clusters})
        others = frozenset(number for name, number in self.ids.rows.items() if name != cluster)
        for part in draft.parts(_WRITTEN):
            self._write(part, others)
            yield
        self._settle()

    def _write(self, changes: ImportChanges, others: frozenset[int] = frozenset()) -> None:
        for noun, table in self.tables.items():
            self.rows += table.upsert(changes.of(noun).upsert)
            self.rows += table.delete(changes.of(noun).delete)
        columns = changes.addresses
        if len(columns.keys) or len(columns.deleted):
            self.rows += len(columns.keys) + len(columns.deleted)
            arrays = columns.keys, columns.values, columns.deleted
            self._addresses_changed(OfCluster(*arrays, others))

    def _settle(self) -> None:
        importers = self.imports.importers
        waiting = {
            name
            for name in self._expected
            if name not in importers or ADDRESSES not in importers[name].canaries
        }
        listed = self._has_list and not self._lanes.lists
        if listed:
            self.awaited.replace(dict.fromkeys(sorted(self._incomplete())))
            self.heard.mark_synced()
        if listed and not waiting and not self.complete.synced:
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


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
