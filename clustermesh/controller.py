"""Other clusters in the controller: what we publish, what we accept, and what is wrong with it.

node, identity, service, pod entries -> keys that other clusters read, then the canaries
keys of other clusters               -> the import firewall, for findings and listings
nodes of other clusters              -> prefixes of ours that they publish (``foreign``)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

from clustermesh import foreign as prefixes
from clustermesh import publish
from clustermesh.contract import Contract
from clustermesh.etcd.client import EtcdAddress
from clustermesh.findings import SERVICE_TOO_LARGE
from clustermesh.nouns import cluster_row, own_row
from clustermesh.remote import wire
from clustermesh.remote.ours import Ours, OwnTables
from clustermesh.remote.tables import RemoteTables
from clustermesh.remote.vanished import Vanished
from clustermesh.store.complete import AllClaimed
from clustermesh.store.follow import Batch
from clustermesh.store.own import (
    PODS_SYNCED,
    Own,
    all_confirmed_key,
    confirmed_key,
    confirmed_value,
)
from mesh.core.feature import ControllerFeature, Want
from mesh.core.groups import By, Followed
from mesh.core.model import (
    OVERLAY_PORT,
    Confirmed,
    Finding,
    ForeignNode,
    Identity,
    Network,
    Node,
    NodeKey,
    PodRef,
    Service,
    ServiceKey,
)
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop
from mesh.core.table import Source, Table
from mesh.identity.counted import CountedPods


class Foreign:
    """Who publishes prefixes of our pools, and since when our own nodes are published.

    ``meet`` says whether two networks overlap.
    """

    def __init__(self, cluster: str, pools: Sequence[Network], meet: prefixes.Meet) -> None:
        self.table: Table[str, ForeignNode] = Table("foreign node")
        self.locks = prefixes.Locks()
        self.created: Table[NodeKey, int] = Table("published node")
        self.meet = meet
        self.pools = tuple(pools)
        self.cluster = cluster

    def take(self, batch: Batch) -> None:
        """Take in what all clusters publish."""
        self.locks.take(batch)
        mine = f"{wire.NODES}{self.cluster}/"
        nodes = [entry for entry in batch.puts if entry.key.startswith(wire.NODES)]
        ours = [entry for entry in nodes if entry.key.startswith(mine)]
        self.created.upsert({self._own(entry.key): entry.created for entry in ours})
        rows = {
            entry.key: prefixes.foreign_node(entry, self.pools, self.meet)
            for entry in nodes
            if not entry.key.startswith(mine)
        }
        self.table.upsert({key: row for key, row in rows.items() if row})
        self.table.delete([*batch.deletes, *(key for key, row in rows.items() if not row)])
        self.created.delete(self._own(key) for key in batch.deletes if key.startswith(mine))
        if batch.listed:
            self.created.mark_synced()
            self.table.mark_synced()

    def _own(self, key: str) -> NodeKey:
        return NodeKey(self.cluster, key.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Said:
    """What the cluster says of itself.

    ``counter_s`` is for how long its counter may stand until others take it for gone, ``port`` the
    UDP port of its overlay. ``bare``: its nodes need no pod CIDRs, as another CNI has the pods.
    """

    id: int
    counter_s: int
    port: int = OVERLAY_PORT
    bare: bool = False


class PublishController(ControllerFeature):
    """Keys of this cluster; ``counted`` are its pods, ``confirmed`` is what we say of them."""

    def __init__(
        self,
        said: Said,
        foreign: Foreign,
        store: Own,
        node: Table[NodeKey, Node],
        identity: Table[int, Identity],
        counted: CountedPods,
        confirmed: Table[PodRef, Confirmed],
        service: Table[ServiceKey, Service],
    ) -> None:
        self.published = {prefix: Table[str, bytes](prefix) for prefix in publish.PREFIXES}
        self.config_key: Table[str, bytes] = Table("cluster config")
        #: Where other clusters' nodes read the port of the overlay; it stays when nobody leads.
        self.overlay: Table[str, bytes] = Table("overlay of cluster")
        self.overlay.replace(publish.overlay(foreign.cluster, said.port))
        self.canaries: Table[str, bytes] = Table("canary")
        self.later: Table[str, bytes] = Table("canary")
        self._cluster, self._id, self._counter_s = foreign.cluster, said.id, said.counter_s
        self._bare = said.bare
        self._foreign, self._store = foreign, store
        self._node, self._identity = node, identity
        self._counted, self._confirmed, self._service = counted, confirmed, service
        #: Keys for our own agents, which stay when no controller runs.
        self.confirmed: Table[str, bytes] = Table("key of confirmed pod")
        self._leaving: Table[NodeKey, Node] = Table("node to publish")
        self._endpoint: Table[str, IPv4Address] = Table("endpoint of published node")
        addresses = self.published[wire.ADDRESSES]
        self._addresses = publish.PodAddresses(counted, addresses, foreign.cluster)
        self._slices_only: dict[ServiceKey, int] = {}  # too large for the first form
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    @property
    def complete(self) -> bool:
        """Whether all that is published has been computed."""
        return all(table.synced for table in self.published.values())

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of rows of our own cluster, by column of ``cluster list``."""
        return {
            "nodes": len(self._node.rows),
            "identities": len(self._identity.rows),
            "addresses": len(self.published[wire.ADDRESSES].rows),
            "services": len(self.published[wire.SERVICES].rows),
        }

    def derive(self, loop: Loop) -> None:
        by_key = partial(publish.node_keys, cluster_id=self._id, bare=self._bare)
        loop.group(
            self._leaving,
            self._publishable,
            By(self._node),
            By(self._foreign.created),
            whole=[self._foreign.table],
            also=[self._foreign.created],
        )
        loop.group(self.published[wire.NODES], by_key, By(self._leaving))
        ends = partial(publish.endpoint, bare=self._bare)
        loop.group(self._endpoint, ends, By(self._leaving))
        loop.group(self.published[wire.IDENTITIES], publish.identity_keys, By(self._identity))
        loop.group(self.published[wire.SERVICES], self._first_form, By(self._service))
        parts = partial(publish.slice_keys, cluster_id=self._id)
        loop.group(self.published[wire.SLICES], parts, By(self._service))
        pods = Followed(self._counted.table, self._addresses.pods)
        loop.work("published addresses of pods", pods, [], [self._counted.table])
        loop.follow(self._endpoint, self._addresses.endpoints, keys=1)
        loop.group(self.confirmed, self._confirmed_key, By(self._confirmed))
        loop.derive([self._confirmed], self._say_confirmed)
        sources: list[Source] = [self._counted.table, self._endpoint]
        loop.derive(sources, self.published[wire.ADDRESSES].mark_synced)

    def derive_canaries(
        self, loop: Loop, wanted: Table[Want, bool], refused: Table[Want, str]
    ) -> None:
        """Add the derivation of the canaries, which stand below everything else."""
        held = [claims.held for claims in self._store.claims.values()]
        sources: list[Source] = [*self.published.values(), wanted, self._foreign.table, *held]
        complete = AllClaimed(wanted, refused, held, self._mark_complete)
        loop.work("canary", complete, sources, [refused])

    def _mark_complete(self) -> None:
        """Put the canaries; they are never taken back."""
        config = publish.config(self._cluster, self._id, self._counter_s)
        self.config_key.replace(config)
        late, rest = publish.LATER, [p for p in publish.PREFIXES if p not in publish.LATER]
        self.canaries.replace(publish.canaries(self._cluster, self._since, rest))
        self.later.replace(publish.canaries(self._cluster, self._since, late))

    def _confirmed_key(self, ref: PodRef, row: Confirmed | None) -> dict[str, bytes]:
        return {confirmed_key(self._cluster, ref): confirmed_value(row)} if row else {}

    def _say_confirmed(self) -> None:
        """All pods are confirmed; the key is put after all others, and never taken back."""
        self.confirmed.upsert({all_confirmed_key(self._cluster): PODS_SYNCED})

    def _publishable(
        self, key: NodeKey, node: Node | None, created: int | None
    ) -> dict[NodeKey, Node]:
        if node is None:
            return {}
        others = self._foreign.table.rows.values()
        row, _ = prefixes.publishable(node, created, others, self._foreign.meet)
        return {key: row}

    def _first_form(self, key: ServiceKey, service: Service | None) -> dict[str, bytes]:
        self._slices_only.pop(key, None)
        keys = publish.service_keys(key, service, self._id)
        if service is not None and service.is_global and service.is_shared and not keys:
            self._slices_only[key] = len(service.backends)
        return keys

    def findings(self) -> Iterable[Finding]:
        yield from self._foreign.locks.findings()
        yield from self._left_out()
        others, created = list(self._foreign.table.rows.values()), self._foreign.created.rows
        for key, node in self._node.rows.items() if others else ():
            _, left_out = prefixes.publishable(node, created.get(key), others, self._foreign.meet)
            yield from left_out

    def _left_out(self) -> Iterable[Finding]:
        """Services of which others see a part only."""
        for service, number in self._slices_only.items():
            place = f"Service/{service.namespace}/{service.name}"
            text = f"{number} backends: published in slices only"
            yield Finding(SERVICE_TOO_LARGE, place, "backends", text)


class RemoteController(ControllerFeature):
    """Other clusters; ``features`` are all others of the process: what is ours they declare.

    ``forgotten`` has the clusters for which nobody is to wait.
    """

    def __init__(
        self,
        cluster: str,
        id_: int,
        remote: RemoteTables,
        contracts: Table[str, Contract],
        store: EtcdAddress,
        forgotten: Table[str, None],
        publishing: PublishController,
        features: Iterable[ControllerFeature],
    ) -> None:
        self.barred = (Table[Network, None]("where the store is"),)
        self.barred[0].replace(store.networks)
        self._cluster, self._id = cluster, id_
        self._remote, self._publishing = remote, publishing
        self._ours = Ours(remote, OwnTables.of([*features, self], contracts))
        self._vanished, self._forgotten = Vanished(cluster), forgotten

    def derive(self, loop: Loop) -> None:
        self._ours.derive(loop)
        loop.follow(self._remote.ids, self._vanished.take)
        loop.derive([self._forgotten], self._forget)

    def _forget(self) -> None:
        self._vanished.forget(self._forgotten.rows)

    def listings(self) -> Mapping[str, Listing]:
        return {"cluster": self._rows}

    def _rows(self) -> list[dict[str, object]]:
        publishing = self._publishing
        own = own_row(self._cluster, self._id, publishing.counts, synced=publishing.canaries.synced)
        others = sorted(self._remote.imports.importers.items())
        held = self._remote.held_clusters()
        rows = [cluster_row(wire.plain(name), one, is_held=name in held) for name, one in others]
        return [own, *rows]

    def findings(self) -> Iterable[Finding]:
        yield from self._remote.findings.values()
        yield from self._vanished.findings()
