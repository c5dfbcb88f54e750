"""The controller's tables and the derivations between them: from objects and the store to keys.

``wire`` is the table of contents: it reads downwards, every derivation's inputs stand above it.
A derivation runs when all of its inputs are synced (ARCHITECTURE.md D6), so that nothing that is
published is ever replaced by something computed from half of the facts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from clustermesh import publish
from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.tables import RemoteTables
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import Own
from gateway import rows as egress
from gateway.plan import Plan, plan
from mesh import allocation
from mesh.allocation import Published, Want
from mesh.config import ControllerConfig
from mesh.core.model import (
    Block,
    BlockKey,
    Finding,
    Identity,
    Node,
    NodeKey,
    PodEntry,
    PodRef,
    Service,
    ServiceKey,
)
from mesh.core.reconcile import Loop
from mesh.core.table import ColumnChanges, Source, Table
from mesh.identity import labels as identity
from mesh.identity.addresses import tunnel_endpoint
from mesh.identity.labels import identity_rows, numbers_by_labels
from mesh.nodes import rows as node_rows
from mesh.objects.tables import Objects
from mesh.services.backends import own_services


class ControllerTables:
    """Sources above, derived tables below; ``mesh/leading.py`` applies them."""

    def __init__(self, config: ControllerConfig, objects: Objects) -> None:
        self.config = config
        self.cluster, self.cluster_id = config.cluster.name, config.cluster.id
        self._stored = allocation.stored_config(config)
        # Sources
        self.objects = objects
        self.published = {prefix: Table[str, bytes](prefix) for prefix in publish.PREFIXES}
        self._pod_addresses = publish.PodAddresses(self.published[wire.ADDRESSES], self.cluster)
        self.subtree = Own(self.cluster, allocation.CLAIMED, self._take_pods)
        self.peers = RemoteTables(OwnFacts(self.cluster, self.cluster_id), _ignore)
        self.foreign: Table[str, Published] = Table("foreign node")
        self.created: Table[str, int] = Table("published node")
        # Derived
        self.plan = Plan()
        self.planned = Source("egress plan")
        self.wanted: Table[Want, bool] = Table("claim wanted")
        self.refused: Table[Want, str] = Table("claim refused")  # by the leader's allocator
        self.node: Table[NodeKey, Node] = Table("node")
        self.identity: Table[int, Identity] = Table("identity")
        self.service: Table[ServiceKey, Service] = Table("service")
        self.block: Table[BlockKey, Block] = Table("block")
        self.config_key: Table[str, bytes] = Table("cluster config")
        self.canaries: Table[str, bytes] = Table("canary")
        self._overlaps: dict[str, list[Finding]] = {}
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def wire(self, loop: Loop) -> None:
        """Derivations, each below its inputs."""
        objects, claims, foreign = self.objects, self.subtree.claims, self.foreign
        covered: list[Source] = [
            objects.egress, objects.pods, objects.namespaces, objects.nodes,
        ]  # fmt: skip
        loop.derive(covered, self._plan)
        needed: list[Source] = [
            self.planned,
            objects.pods,
            objects.namespaces,
            objects.nodes,
            foreign,
        ]
        loop.derive(needed, self._wanted)
        loop.derive([foreign], self._pools)
        loop.derive([claims[identity.NOUN]], self._identities)
        placed: list[Source] = [
            objects.nodes, claims[allocation.POD_CIDR], claims[allocation.LOCATOR], foreign,
        ]  # fmt: skip
        loop.derive(placed, self._nodes, [self.created])
        loop.derive([self.node, self.planned, objects.services], self._own_facts)
        loop.derive([claims[allocation.BLOCK]], self._blocks)
        pods: list[Source] = [objects.services, objects.slices, objects.pods, self.subtree.pods]
        loop.derive(pods, self._services)
        addresses: list[Source] = [self.subtree.pods, self.node, self.identity]
        loop.derive(addresses, self.published[wire.ADDRESSES].mark_synced)
        complete: list[Source] = [
            *self.published.values(), self.wanted, *claims.values(), foreign,
        ]  # fmt: skip
        loop.derive(complete, self._canaries, [self.refused])

    # --- Sources ------------------------------------------------------------------------------

    def take(self, batch: Batch) -> None:
        """Take in what all clusters publish."""
        self.peers.take(batch)
        nodes = [entry for entry in batch.puts if entry.key.startswith(wire.NODES)]
        mine = f"{wire.NODES}{self.cluster}/"
        ours = [entry for entry in nodes if entry.key.startswith(mine)]
        self.created.upsert({_node_name(entry.key): entry.created for entry in ours})
        foreign = {
            entry.key: self._foreign(entry) for entry in nodes if not entry.key.startswith(mine)
        }
        self.foreign.upsert({key: row for key, row in foreign.items() if row})
        self.foreign.delete([*batch.deletes, *(key for key, row in foreign.items() if not row)])
        self.created.delete(_node_name(key) for key in batch.deletes if key.startswith(mine))
        if batch.listed:
            self.created.mark_synced()
            self.foreign.mark_synced()

    def _foreign(self, entry: Entry) -> Published | None:
        """What another cluster publishes out of our pools, whatever we think of it."""
        try:
            row = wire.node_row(wire.decode(wire.WireNode, entry.value))
        except wire.WireError:
            return None
        claimed = (*row.pod_cidrs, row.locator) if row.locator else row.pod_cidrs
        networks = allocation.in_pools(claimed, self.config.pools)
        cluster = wire.cluster_of(entry.key)
        return Published(cluster, row.name, networks, entry.created) if networks else None

    def _take_pods(self, puts: Mapping[PodRef, PodEntry], deletes: Iterable[PodRef]) -> None:
        self._pod_addresses.pods(puts, list(deletes))

    def candidates(self, want: Want) -> Sequence[int]:
        """The numbers that a pool may give."""
        foreign, size = self.foreign.rows.values(), self.config.egress.block_size
        return allocation.candidates(want, self.cluster_id, size, foreign)

    # --- Derivations --------------------------------------------------------------------------

    def _plan(self) -> None:
        objects = self.objects
        self.plan = plan(
            objects.egress.rows.values(),
            objects.pods.rows.values(),
            objects.namespaces.rows,
            objects.nodes.rows,
        )
        self.planned.revision += 1
        self.planned.mark_synced()

    def _wanted(self) -> None:
        objects, config = self.objects, self.config
        wants = allocation.identities(objects.pods.rows.values(), objects.namespaces.rows)
        wants |= allocation.subnets(objects.nodes.rows.values(), config.pools)
        wants |= allocation.blocks(self.plan, objects.pods.rows, config.egress.blocks_per_node)
        self.wanted.replace(dict.fromkeys(wants, True))

    def _pools(self) -> None:
        key, foreign = f"{self.subtree.prefix}config", self.foreign.rows.values()
        self._overlaps["pools"] = allocation.pool_findings(self.config.pools, key, foreign)

    def _identities(self) -> None:
        claims = self.subtree.claims[identity.NOUN].rows.values()
        rows = identity_rows(claims, self.cluster, self.cluster_id)
        self.identity.replace(rows)
        self.published[wire.IDENTITIES].replace(publish.identities(rows.values()))
        self._pod_addresses.identities(numbers_by_labels(rows.values()))

    def _nodes(self) -> None:
        claims, pools = self.subtree.claims, self._stored
        cidrs = allocation.pod_cidrs(claims[allocation.POD_CIDR].rows.values(), pools.pod_cidrs)
        locators = allocation.locators(claims[allocation.LOCATOR].rows.values(), pools.locators)
        own = self.objects.nodes.rows
        rows = node_rows.merged(own, cidrs, locators, {})
        self.node.replace(rows)
        foreign = self.foreign.rows.values()
        leaving, found = allocation.publishable(rows.values(), self.created.rows, foreign)
        self._overlaps["nodes"] = found
        self.published[wire.NODES].replace(publish.nodes(leaving, self.cluster_id))
        self._pod_addresses.endpoints(_endpoints(leaving))

    def _services(self) -> None:
        objects, entries = self.objects, self.subtree.pods.rows
        pods = {
            key: replace(pod, addresses=entry.addresses)
            for key, pod in objects.pods.rows.items()
            if (entry := entries.get(PodRef(pod.node, key.namespace, key.name)))
        }
        rows = own_services(objects.services.rows, pods, objects.slices.rows)
        self.service.replace(rows)
        self.published[wire.SERVICES].replace(publish.services(rows.values(), self.cluster_id))

    def _own_facts(self) -> None:
        policies, services = self.plan.policies.values(), self.objects.services.rows.values()
        nodes = self.node.rows.values()
        self.peers.update_own(allocation.own_facts(self._stored, nodes, policies, services))

    def _blocks(self) -> None:
        size = self.config.egress.block_size
        claims = self.subtree.claims[allocation.BLOCK].rows.values()
        self.block.replace(egress.block_rows(claims, self.cluster, size))

    @property
    def complete(self) -> bool:
        """Whether all that is published has been computed."""
        return all(table.synced for table in self.published.values())

    def _canaries(self) -> None:
        """Complete is what was once seen with every claim made that can be made."""
        if self.canaries.synced:
            return
        tables = self.subtree.claims.values()
        claims = (claim for table in tables for claim in table.rows.values())
        made = {Want(claim.noun, claim.pool, claim.owner) for claim in claims}
        if not self.wanted.rows.keys() <= made | self.refused.rows.keys():
            return
        self.config_key.replace(publish.config(self.cluster, self.cluster_id))
        self.canaries.replace(publish.canaries(self.cluster, self._since))

    # --- What is wrong ------------------------------------------------------------------------

    def findings(self) -> Iterable[Finding]:
        """About objects, about our own subtree, about peers."""
        yield from self.objects.findings.rows.values()
        yield from self.plan.findings
        yield from (
            allocation.refused_finding(self.cluster, *row) for row in self.refused.rows.items()
        )
        for found in self._overlaps.values():
            yield from found
        yield from self.subtree.findings.values()
        yield from self.peers.findings.values()


def _endpoints(nodes: Iterable[Node]) -> dict[str, IPv4Address]:
    """Tunnel endpoints of the nodes that are published."""
    return {node.name: a for node in nodes if node.pod_cidrs and (a := tunnel_endpoint(node))}


def _node_name(key: str) -> str:
    return key.rpartition("/")[2]


def _ignore(_: ColumnChanges) -> None:
    """The controller has no map: it judges addresses only for findings."""
