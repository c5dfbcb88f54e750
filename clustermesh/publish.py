"""What this cluster publishes: rows of its own to keys and values of the cached layout.

Pure, one function per noun; the controller writes the results as leased keys, and the canaries
after everything else. ``PodAddresses`` is incremental, because there are tens of thousands of
addresses: an event touches the rows it concerns and no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from clustermesh import wire
from clustermesh.subtree import PodEntry, PodRef
from mesh.core.model import IP, Address, Identity, Node, PodKey, Service
from mesh.core.table import Table

#: Prefixes that are published, each with a canary.
PREFIXES = (wire.NODES, wire.SERVICES, wire.IDENTITIES, wire.ADDRESSES)


def config(cluster: str, cluster_id: int) -> dict[str, bytes]:
    """The key that peers read first."""
    return {wire.config_key(cluster): wire.cluster_config(cluster_id)}


def nodes(rows: Iterable[Node], cluster_id: int) -> dict[str, bytes]:
    """Nodes of this cluster that have their pod CIDRs; others are not there yet."""
    return {
        wire.node_key(row.cluster, row.name): wire.node_value(row, cluster_id)
        for row in rows
        if row.pod_cidrs
    }


def identities(rows: Iterable[Identity]) -> dict[str, bytes]:
    """Identities of this cluster by number."""
    return {wire.identity_key(row.cluster, row.id): row.labels.encode() for row in rows}


def services(rows: Iterable[Service], cluster_id: int) -> dict[str, bytes]:
    """Global services that are shared, with the backends of this cluster alone."""
    return {
        wire.service_key(row.cluster, row.namespace, row.name): wire.service_value(row, cluster_id)
        for row in rows
        if row.is_global and row.is_shared
    }


def canaries(cluster: str, since: str) -> dict[str, bytes]:
    """What says that each prefix is complete; ``since`` is RFC 3339 and stays the same."""
    return {wire.canary_key(cluster, prefix): since.encode() for prefix in PREFIXES}


class PodAddresses:
    """Address keys of own pods in ``table``.

    A row needs three facts that arrive in any order: the agent's key (addresses, labels), the
    identity claimed for the labels, the tunnel endpoint of the node. While two pods claim one
    address, the one that came last has it.
    """

    def __init__(self, table: Table[str, bytes], cluster: str) -> None:
        self._table = table
        self._cluster = cluster
        self._pods: dict[PodRef, PodEntry] = {}
        self._identities: Mapping[str, int] = {}
        self._endpoints: Mapping[str, IPv4Address] = {}
        self._by_labels: dict[str, set[PodRef]] = {}
        self._owners: dict[IP, PodRef] = {}

    def pods(self, puts: Mapping[PodRef, PodEntry], deletes: Collection[PodRef]) -> None:
        """Take in what agents wrote and removed."""
        gone: set[IP] = set()
        for ref in (*deletes, *puts):
            gone.update(self._forget(ref))
        for ref, facts in puts.items():
            self._pods[ref] = facts
            self._by_labels.setdefault(facts.labels, set()).add(ref)
            self._owners.update(dict.fromkeys(facts.addresses, ref))
        self._write(puts)
        self._table.delete(self._key(a) for a in gone if a not in self._owners)

    def identities(self, known: Mapping[str, int]) -> None:
        """Take in the identity of every label text that has one."""
        before, self._identities = self._identities, known
        changed = {labels for labels, number in known.items() if before.get(labels) != number}
        self._write(ref for labels in changed for ref in self._by_labels.get(labels, ()))

    def endpoints(self, known: Mapping[str, IPv4Address]) -> None:
        """Take in the tunnel endpoint of every node of the cluster; a node without one is gone."""
        before, self._endpoints = self._endpoints, known
        changed = {name for name in {*known, *before} if before.get(name) != known.get(name)}
        if changed:
            moved = [ref for ref in self._pods if ref.node in changed]
            self._write(moved)
            self._withdraw(ref for ref in moved if ref.node not in known)

    def _forget(self, ref: PodRef) -> list[IP]:
        facts = self._pods.pop(ref, None)
        if facts is None:
            return []
        self._by_labels[facts.labels].discard(ref)
        mine = [address for address in facts.addresses if self._owners.get(address) == ref]
        for address in mine:
            del self._owners[address]
        return mine

    def _write(self, pods: Iterable[PodRef]) -> None:
        rows: dict[str, bytes] = {}
        for ref in pods:
            facts = self._pods[ref]
            identity, node = self._identities.get(facts.labels), self._endpoints.get(ref.node)
            if identity is None or node is None:
                continue
            for address in facts.addresses:
                if self._owners.get(address) == ref:
                    row = Address(address, identity, self._cluster, node)
                    rows[self._key(address)] = wire.address_value(row, self._pod(ref), facts.labels)
        self._table.upsert(rows)

    def _withdraw(self, pods: Iterable[PodRef]) -> None:
        mine = ((ref, address) for ref in pods for address in self._pods[ref].addresses)
        self._table.delete(self._key(a) for ref, a in mine if self._owners.get(a) == ref)

    def _pod(self, ref: PodRef) -> PodKey:
        return PodKey(self._cluster, ref.namespace, ref.name)

    def _key(self, address: IP) -> str:
        return wire.address_key(self._cluster, address)
