"""An agent's view of the store: own cluster and others followed, own pods' keys kept right.

D8: a store is known by its identity. A store that was seen complete before has told everything
about other clusters; in another one nothing counts as complete before their canaries stand in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from clustermesh.ending import ending
from clustermesh.etcd.client import Client, EtcdAddress, EtcdError
from clustermesh.findings import AWAITED, NOT_REMEMBERED, STORE_AWAY
from clustermesh.kept import FILE as CONTRACTS_FILE
from clustermesh.kept import KeptContracts
from clustermesh.remote.counters import Counters
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.known import KnownClusters
from clustermesh.remote.tables import PREFIX, RemoteTables, all_stand
from clustermesh.remote.wire import plain, split_key
from clustermesh.store.follow import Batch
from clustermesh.store.health import cut_history
from clustermesh.store.keys import PersistentTarget
from clustermesh.store.own import (
    Own,
    PodKeys,
    beat_key,
    beat_value,
    draining_prefix,
    draining_value,
    programmed_key,
)
from clustermesh.store.view import StoreView
from mesh.core.findings import STORE
from mesh.core.model import IP, Beat, Draining, Finding
from mesh.core.reconcile import Applied
from mesh.core.table import ColumnChanges

#: Seconds between corrections of our pods' keys at least.
REWRITE_INTERVAL_S = 1.0
#: Seconds between looks at which clusters stand.
LOOK_INTERVAL_S = 5.0

#: Whether a batch of our own subtree contradicts what this agent has written.
Contradicted = Callable[[Batch], bool]


class AgentStore:
    """``own`` and ``remote`` are filled; addresses of others go to ``addresses_changed``."""

    def __init__(
        self,
        endpoint: EtcdAddress,
        facts: OwnFacts,
        node: str,
        known: Path,
        addresses_changed: Callable[[ColumnChanges], None],
    ) -> None:
        self.client = Client(endpoint)
        self._cluster, self._node = facts.cluster, node
        self.own = Own(facts.cluster)
        kept = KeptContracts(known.with_name(CONTRACTS_FILE))
        self.remote = RemoteTables(facts, addresses_changed, kept=kept)
        self.remote.held = lambda: self.held
        self.counters = Counters(
            self.client, facts.cluster, self.remote.take, lambda: self._view.told(PREFIX),
            ports=self.remote.ports,
        )  # fmt: skip
        self.keys = PodKeys(facts.cluster, node)
        self._drains = draining_prefix(facts.cluster, node)
        self.known = KnownClusters(known)
        self.remote.expect(self.known.clusters)
        self._contradicted = asyncio.Event()
        self._contradicts: Contradicted = lambda _: False

    @cached_property
    def _view(self) -> StoreView:
        """What the features have asked for until the first use, and what other clusters publish."""
        prefixes = {PREFIX: self.counters.take, **dict.fromkeys(self.own.needed, self._take_own)}
        marker = f"{self.own.prefix}synced"
        view = StoreView(self.client, marker, prefixes, on_synced=self._own_synced)
        view.on_replaced = self._contradicted.set  # another store has none of our keys
        self.own.forgotten.listen(self._forget)
        return view

    def entries(self) -> PersistentTarget:
        """The keys of our pods, as a target."""
        return PersistentTarget(self.client, [self.keys.prefix])

    def reports(self) -> PersistentTarget:
        """What we say of draining egress addresses, as a target."""
        return PersistentTarget(self.client, [self._drains])

    def report(self, address: IP, row: Draining | None) -> dict[str, bytes]:
        """The key that says it."""
        return {f"{self._drains}{address}": draining_value(row)} if row else {}

    async def beat(self, beat: Beat) -> None:
        """Say that this node is there (egress addresses on layer 2). Raises OSError."""
        await self.client.put(beat_key(self._cluster, self._node), beat_value(beat))

    def programmed(self) -> PersistentTarget:
        """The key of the generations that this node holds, as a target."""
        return PersistentTarget(self.client, [programmed_key(self._cluster, self._node)])

    def check(self, contradicts: Contradicted) -> None:
        """Ask ``contradicts`` about every batch of our own subtree."""
        self._contradicts = contradicts

    async def run(self, entries: Applied) -> None:
        """Follow the store until cancelled; ``entries`` are our pods' keys on their way."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._view.run(), name="follow the store")
            group.create_task(self.counters.run(), name="look at counters")
            group.create_task(self._remember_for_ever(), name="remember clusters")
            group.create_task(self.rewrite(entries), name="rewrite entries")

    def _take_own(self, batch: Batch) -> None:
        """A new leader gives a replaced store back what it knew, also pods that have gone."""
        self.own.take(batch)
        if self._contradicts(batch):
            self._contradicted.set()

    def _own_synced(self) -> None:
        """A store that was seen complete before has told everything about other clusters."""
        self.own.synced()
        self._forget()
        if self.known.store == self.own.store:
            self.remote.expect(())

    async def rewrite(self, entries: Applied) -> None:
        """Put our pods' keys right; paced, since another writer may do the same."""
        while True:
            await self._contradicted.wait()
            self._contradicted.clear()
            entries.recheck()
            await asyncio.sleep(REWRITE_INTERVAL_S)

    async def _remember_for_ever(self) -> None:
        while True:
            with suppress(EtcdError):
                await self.remember()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _forget(self) -> None:
        """Nobody waits any more for what an operator has given up."""
        forgotten = self.own.forgotten.rows
        self.remote.forget(forgotten)
        self._view.release(lambda key: split_key(key)[1] in forgotten)

    async def remember(self) -> None:
        """Note which clusters this store is known to have, for the next start (D8)."""
        if not (self.remote.complete.synced and self.own.pods.synced):
            return
        store, clusters = self.own.store, list(self.remote.clusters)
        complete = self.known.has(store, clusters) or await all_stand(self.client, clusters)
        if complete and store == self.own.store:
            self.known.write(store, clusters)

    @property
    def held(self) -> frozenset[str]:
        """Keys that the store lacks and that are kept until it is known that they were deleted."""
        return self._view.held

    def findings(self) -> Iterable[Finding]:
        """What is wrong with the store and with our own keys in it."""
        yield from self.own.findings.values()
        yield from self._view.findings()
        yield from self.counters.findings()
        yield from cut_history(self._view, self.client)
        held = map(plain, self.remote.held_clusters())
        for name in sorted({*self.remote.awaited.rows, *held}):
            text = f"cluster {name} was known, and is not complete in this store; what it had stays"
            yield Finding(AWAITED, f"Cluster/{name}", "", text, (f"cluster/{name}",))
        problem = self.client.problem or self._view.problem
        if problem:
            place = f"etcd {self.client.endpoint.text}"
            text = f"{problem}; what is programmed stays as it is"
            yield Finding(STORE_AWAY, place, "", text, (STORE,))
        yield from ending(self.client, f"node/{self._node}")
        if self.known.problem:
            yield Finding(NOT_REMEMBERED, f"{self._node}/peers.json", "", self.known.problem)
