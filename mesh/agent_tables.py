"""The agent's tables and the derivations between them: from objects and the store to map rows.

``wire`` is the table of contents: it reads downwards, every derivation's inputs stand above it.
A derivation runs when all of its inputs are synced (ARCHITECTURE.md D6) and writes whole tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address, ip_network
from time import monotonic
from typing import Any

import numpy as np

from clustermesh.ledger import OwnFacts
from clustermesh.peers import Peers
from clustermesh.store import Batch
from clustermesh.subtree import PODS_SYNCED, Subtree, pod_key, pod_value, pods_synced_key
from gateway import desired as egress
from gateway.egress import Plan, egress_classes, plan
from gateway.members import GatewayKey, GatewayRow, Gateways, departures, gateway_members
from mesh import allocation
from mesh import nodes as node_rows
from mesh.addresses import VALUE, NodeAddresses, OwnPods, tunnel_endpoint
from mesh.codecs import LocalPod
from mesh.config import AgentConfig
from mesh.core.address import ADDRESS, packed
from mesh.core.model import (
    IP,
    Block,
    BlockKey,
    Finding,
    Network,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    Service,
    ServiceKey,
)
from mesh.core.reconcile import Loop
from mesh.core.table import ColumnChanges, ColumnTable, Source, Table
from mesh.identity import identity_labels, identity_rows, namespace_of, numbers_by_labels
from mesh.objects import Objects
from mesh.pods import Device, PodLink, assign, pod_links
from mesh.services import (
    BackendAddress,
    ServiceAddress,
    merged,
    own_services,
    translations,
)
from mesh.slices import Allocation, Slice, allocate

BLOCK_KEY = np.dtype([("address", ADDRESS), ("number", "u4")])
BLOCK_VALUE = np.dtype([("node", ">u4"), ("epoch", "u4")])


#: Outer Ethernet, IPv4, UDP and VXLAN headers.
OVERHEAD = 50


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel told the agent about the uplink; the datapath was loaded with it."""

    ifindex: int
    mtu: int
    endpoint: IPv4Address

    @property
    def pod_mtu(self) -> int:
        """What a pod may send."""
        return self.mtu - OVERHEAD


def changes(before: Facts, now: Facts) -> dict[str, str]:
    """What differs, in words, by the name of the field."""
    return {
        field.name: f"{getattr(now, field.name)}, {getattr(before, field.name)} at the start"
        for field in fields(Facts)
        if getattr(now, field.name) != getattr(before, field.name)
    }


class AgentTables:
    """Sources above, derived tables below; every one is served or applied by ``mesh/agent.py``."""

    def __init__(self, config: AgentConfig, facts: Facts, objects: Objects) -> None:
        self.config = config
        self.facts = facts
        self.own = NodeKey(config.cluster.name, config.node)
        # Sources
        self.objects = objects
        self.address = ColumnTable("address", ADDRESS, VALUE)
        self._own_pods = OwnPods(self.address, config.cluster.id)
        self._node_addresses = NodeAddresses(self.address, self.own)
        self.subtree = Subtree(config.cluster.name, self._own_pods.pods)
        own_facts = OwnFacts(config.cluster.name, config.cluster.id)
        self.peers = Peers(own_facts, self._take_addresses)
        self.namespaces: Table[str, int] = Table("netns")
        self.next_hops: Table[IPv4Address, IPv4Address | None] = Table("next hop")
        self.devices: Table[PodKey, Device] = Table("device")
        self.held: dict[PodKey, tuple[IP, ...]] = {}
        # Derived
        self.node: Table[NodeKey, Node] = Table("node")
        self.endpoint: Table[IPv4Address, node_rows.Endpoint] = Table("endpoint")
        self.pod_cidr: Table[Network, node_rows.PodCIDR] = Table("pod CIDR")
        self.local_pod: Table[PodKey, Pod] = Table("local pod")
        self.pod_link: Table[PodKey, PodLink] = Table("pod link")
        self.pod_entry: Table[str, bytes] = Table("pod entry of ours")
        self.plan = Plan()
        self.classes: dict[tuple[str, ...], int] = {}
        self.planned = Source("egress plan")
        self.egress: Table[egress.EgressKey, egress.EgressRow] = Table("egress")
        self.egress_addr: Table[IP, tuple[IPv4Address, ...]] = Table("egress address")
        self.gateway: Table[GatewayKey, GatewayRow] = Table("gateway")
        self._gateways_left: dict[GatewayKey, float] = {}
        self.pod: Table[IP, LocalPod] = Table("pod")
        self.block_row: Table[BlockKey, Block] = Table("block row")
        self.block = ColumnTable("block", BLOCK_KEY, BLOCK_VALUE)
        self.own_block: Table[IP, tuple[int, ...]] = Table("own block")
        self.discard: Table[Network, None] = Table("discard route")
        self.service: Table[ServiceKey, Service] = Table("service")
        self.service_slice: Table[ServiceAddress, Slice] = Table("service slice")
        self.backend: Table[int, BackendAddress] = Table("backend")
        self.allocation = Allocation()
        self.services_arrived: Callable[[], bool] = lambda: False
        self._service_findings: list[Finding] = []
        self.identities: dict[str, int] = {}
        self.labels: dict[int, str] = {}

    @property
    def cluster_ids(self) -> dict[str, int]:
        """Id of the own cluster and of every accepted peer, by name."""
        return {self.config.cluster.name: self.config.cluster.id, **self.peers.clusters}

    def pod_of(self, address: IP) -> PodKey | None:
        """The pod of an address, as far as this node knows it by name."""
        ref = self._own_pods.owner(address)
        return PodKey(self.config.cluster.name, ref.namespace, ref.name) if ref else None

    def identity_of(self, pod: Pod) -> int | None:
        """The identity of a pod of ours, once it has one."""
        return self.identities.get(self._labels_of(pod))

    def namespace_names(self) -> list[tuple[str, str]]:
        """Cluster and name of our namespaces."""
        return [(self.config.cluster.name, name) for name in self.objects.namespaces.rows]

    def tunnel_endpoints(self) -> list[IPv4Address]:
        """Outer addresses of all other nodes."""
        nodes = (node for key, node in self.node.rows.items() if key != self.own)
        return [address for node in nodes if (address := tunnel_endpoint(node))]

    def nodes_by_endpoint(self) -> dict[int, str]:
        """Names of nodes by outer address."""
        rows = self.node.rows.values()
        return {int(a): node.name for node in rows if (a := tunnel_endpoint(node))}

    def egress_listed(self) -> list[dict[str, Any]]:
        """Rows of ``egress list``."""
        return egress.listed(self.plan, self.config.cluster.name)

    def findings(self) -> Iterable[Finding]:
        """What is wrong with the objects as this node sees them."""
        yield from self.plan.findings
        yield from self._service_findings
        yield from self._node_findings()
        for key, pod in self.objects.pods.rows.items():
            if (
                pod.node == self.own.name
                and self.local_pod.synced
                and key not in self.local_pod.rows
            ):
                place = f"Pod/{key.namespace}/{key.name}"
                text = "no address is free in the pod CIDRs of the node: the pod is not connected"
                yield Finding("D604", place, "status.podIPs", text)

    def _node_findings(self) -> Iterable[Finding]:
        place, me = f"Node/{self.own.name}", self.objects.nodes.rows.get(self.own)
        if me is None and self.objects.nodes.synced:
            text = "this node has no Node object: new pods get no addresses, others cannot reach it"
            yield Finding("D603", place, "metadata.name", text)
        if me and tunnel_endpoint(me) != self.facts.endpoint:
            text = f"the object says {tunnel_endpoint(me)}, {self.config.uplink} has"
            found = f"{text} {self.facts.endpoint}: others tunnel to the wrong address"
            yield Finding("D602", place, "status.addresses", found)

    def wire(self, loop: Loop) -> None:
        """Derivations, each below its inputs."""
        objects, claims, peers = self.objects, self.subtree.claims, self.peers
        known: list[Source] = [
            objects.nodes, objects.egress, objects.services, claims, self.subtree.config,
        ]  # fmt: skip
        covered: list[Source] = [
            objects.egress, objects.pods, objects.namespaces, objects.nodes,
        ]  # fmt: skip
        wired: list[Source] = [self.local_pod, objects.namespaces, claims, self.planned]
        served: list[Source] = [
            objects.services, objects.slices, objects.pods, self.subtree.pods, peers.complete,
        ]  # fmt: skip
        loop.derive([claims], self._identities)
        loop.derive([], self._labels, [peers.identities])
        loop.derive(known, self._nodes, [peers.nodes])
        loop.derive([self.node, self.next_hops], self._endpoints, [peers.complete])
        loop.derive([objects.pods, self.node], self._assign)
        loop.derive([self.local_pod, self.namespaces], self._pod_links)
        loop.derive([self.local_pod, objects.namespaces], self._entries, [self.devices])
        loop.derive(covered, self._plan)
        loop.derive([self.planned], self._egress)
        loop.derive([self.planned], self._covered)
        loop.derive(wired, self._pods, [self.devices])
        loop.derive([claims, self.subtree.resting, objects.nodes], self._blocks)
        loop.derive([self.node, self.planned], self._discard)
        loop.derive(served, self.derive_services, [peers.services])
        loop.derive([peers.complete, self.subtree.pods, self.node], self.address.mark_synced)

    def _take_addresses(self, changes: ColumnChanges) -> None:
        if len(changes.keys):
            self.address.upsert(changes.keys, changes.values)
        if len(changes.deleted):
            self.address.delete(changes.deleted)

    def _identities(self) -> None:
        cluster = self.config.cluster
        rows = identity_rows(self.subtree.claims.rows.values(), cluster.name, cluster.id)
        self.identities = numbers_by_labels(rows.values())
        self._own_pods.identities(self.identities)
        self._labels()

    def _labels(self) -> None:
        own = {number: labels for labels, number in self.identities.items()}
        peers = {number: row.labels for number, row in self.peers.identities.rows.items()}
        self.labels = peers | own

    def _nodes(self) -> None:
        stored = self.subtree.config.rows.get(self.config.cluster.name)
        if stored is None:
            return
        claims = list(self.subtree.claims.rows.values())
        cidrs = allocation.pod_cidrs(claims, stored.pod_cidrs)
        locators = allocation.locators(claims, stored.locators)
        own = self.objects.nodes.rows
        rows = node_rows.merged(own, cidrs, locators, self.peers.nodes.rows)
        self.node.replace(rows)
        endpoints = {key.name: tunnel_endpoint(node) for key, node in own.items()}
        self._own_pods.endpoints({name: a for name, a in endpoints.items() if a})
        self._node_addresses.nodes(rows, self.cluster_ids)
        policies, services = self.objects.egress.rows.values(), self.objects.services.rows.values()
        self.peers.update_own(allocation.own_facts(stored, own.values(), policies, services))

    def _endpoints(self) -> None:
        nodes, ids, hops = self.node.rows.values(), self.cluster_ids, self.next_hops.rows
        complete = self.peers.complete.synced
        last = {address: row.next_hop for address, row in self.endpoint.rows.items()}
        known = {address: hop or last.get(address) for address, hop in hops.items()}
        endpoints = node_rows.endpoints(nodes, self.own, ids, known)
        asked = all(address in hops for address in self.tunnel_endpoints())
        self.endpoint.write(endpoints, complete=complete and asked)
        self.pod_cidr.write(node_rows.pod_cidrs(nodes, ids), complete=complete)

    def _assign(self) -> None:
        me = self.node.rows.get(self.own)
        mine = {k: pod for k, pod in self.objects.pods.rows.items() if pod.node == self.own.name}
        self.held = assign(mine, me.pod_cidrs if me else (), self.held)
        self.local_pod.replace({k: _with_addresses(mine[k], a) for k, a in self.held.items()})

    def _pod_links(self) -> None:
        pattern, mtu = self.config.pod_netns, self.facts.pod_mtu
        self.pod_link.replace(pod_links(self.local_pod.rows, self.namespaces.rows, pattern, mtu))

    def _entries(self) -> None:
        rows = {}
        for key, pod in self.local_pod.rows.items():
            if key in self.devices.rows:
                ref = PodRef(self.own.name, key.namespace, key.name)
                entry = PodEntry(pod.addresses, self._labels_of(pod))
                rows[pod_key(key.cluster, ref)] = pod_value(entry)
        if self.devices.synced:
            rows[pods_synced_key(self.own.cluster, self.own.name)] = PODS_SYNCED
        self.pod_entry.write(rows, complete=self.devices.synced)

    def contradicted(self, batch: Batch) -> bool:
        """Whether the store has something else about pods of this node than what we say."""
        place, said = f"{self.subtree.prefix}pod/{self.own.name}/", self.pod_entry.rows
        puts = [entry for entry in batch.puts if entry.key.startswith(place)]
        changed = any(said.get(entry.key) != entry.value for entry in puts)
        return changed or any(key in said for key in batch.deletes)

    def _labels_of(self, pod: Pod) -> str:
        return identity_labels(pod, namespace_of(pod, self.objects.namespaces.rows))

    def _plan(self) -> None:
        objects = self.objects
        self.plan = plan(
            objects.egress.rows.values(),
            objects.pods.rows.values(),
            objects.namespaces.rows,
            objects.nodes.rows,
        )
        self.classes = egress_classes(self.plan.covered.values(), self.classes)
        self.planned.revision += 1
        self.planned.mark_synced()

    def _egress(self) -> None:
        self.egress.replace(egress.egress_rows(self.plan, self.classes))
        self.rest_gateways(egress.gateway_rows(self.plan), monotonic())

    def rest_gateways(self, gateways: Gateways, time_s: float) -> None:
        """Take in the gateways of now; those that have left are accepted for a while."""
        before = self.egress_addr.rows
        self._gateways_left = departures(before, gateways, self._gateways_left, time_s)
        self.gateway.replace(gateway_members(gateways, self._gateways_left, time_s))
        self.egress_addr.replace(gateways)

    def _pods(self) -> None:
        classes = egress.pod_classes(self.plan, self.classes, self.local_pod.rows)
        rows: dict[IP, LocalPod] = {}
        for key, pod in self.local_pod.rows.items():
            device = self.devices.rows.get(key)
            for address in pod.addresses if device else ():
                identity = self.identity_of(pod) or self._last_identity(address, device)
                if device and identity:
                    egress_class = classes.get(address, 0)
                    rows[address] = LocalPod(
                        device.ifindex, identity, egress_class, device.mac, device.host_mac
                    )
        self.pod.write(rows, complete=self.devices.synced)

    def _last_identity(self, address: IP, device: Device | None) -> int | None:
        """A pod whose labels changed keeps its identity until the new one is claimed."""
        row = self.pod.rows.get(address)
        return row.identity if row and device and row.ifindex == device.ifindex else None

    def _covered(self) -> None:
        """Classes of the pods in the map, which need no store.

        A policy that came while the agent was dead covers them also when the store is away.
        """
        pods = {
            key: _with_addresses(pod, self.held[key])
            for key, pod in self.objects.pods.rows.items()
            if key in self.held
        }
        classes = egress.pod_classes(self.plan, self.classes, pods)
        addresses = {address for pod in pods.values() for address in pod.addresses}
        self.pod.upsert(
            {
                address: replace(row, egress=classes.get(address, 0))
                for address, row in self.pod.rows.items()
                if address in addresses
            }
        )

    def _blocks(self) -> None:
        """A block that rests serves the connections that are left, and takes no new ones."""
        size, cluster = self.config.egress.block_size, self.config.cluster.name
        rows = egress.block_rows(self.subtree.claims.rows.values(), cluster, size)
        resting = egress.block_rows(self.subtree.resting.rows.values(), cluster, size)
        owners = egress.block_owners(resting | rows, self.objects.nodes.rows)
        self.block_row.replace(rows)
        keys = np.zeros(len(owners), BLOCK_KEY)
        values = np.zeros(len(owners), BLOCK_VALUE)
        for at, (key, owner) in enumerate(owners.items()):
            keys[at] = (packed(key.address), key.number)
            values[at] = (int(owner.node), owner.epoch & 0xFFFFFFFF)
        self.block.replace(keys, values)
        self.own_block.replace(egress.own_blocks(rows, self.own.name))

    def derive_services(self) -> None:
        """Services with the backends of all clusters, and where those stand in the maps."""
        objects, entries = self.objects, self.subtree.pods.rows
        known = {
            key: _with_addresses(pod, entry.addresses)
            for key, pod in objects.pods.rows.items()
            if (entry := entries.get(PodRef(pod.node, key.namespace, key.name)))
        }
        own = own_services(objects.services.rows, known, objects.slices.rows)
        services = merged(own, self.peers.services.rows.values())
        wanted, findings = translations(services)
        self.allocation, refused = allocate(
            self.allocation, wanted, arrived=self.services_arrived()
        )
        self._service_findings = [*findings, *refused]
        self.service.replace({**services, **self.peers.services.rows})
        self.backend.replace(self.allocation.backends())
        self.service_slice.replace(self.allocation.services())

    def _discard(self) -> None:
        mine = [
            ip_network(address)
            for address, nodes in egress.gateway_rows(self.plan).items()
            if self.facts.endpoint in nodes
        ]
        routes = node_rows.discard_routes(self.node.rows.get(self.own), mine)
        self.discard.replace(dict.fromkeys(routes))


def _with_addresses(pod: Pod, addresses: tuple[IP, ...]) -> Pod:
    return Pod(
        pod.cluster, pod.namespace, pod.name, pod.node, pod.labels, addresses,
        pod.service_account, pod.ports,
    )  # fmt: skip
