"""Who every address of the mesh is: own pods, peers' pods, nodes, joined as they arrive.

The table ``address`` has tens of thousands of rows, so this join is incremental: an event touches
the rows it concerns and no other. A pod's row needs three facts that arrive in any order: its
agent's key (addresses and labels), the identity claimed for the labels, its node's endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np

from mesh.core.address import ADDRESS, column, packed
from mesh.core.model import (
    IDENTITY_HOST,
    IDENTITY_REMOTE_NODE,
    IP,
    Node,
    NodeKey,
    PodEntry,
    PodRef,
)
from mesh.core.table import ColumnTable

KIND_POD = 1
KIND_NODE = 2
#: ``struct address`` of bpf/include/addresses.h, by field name.
VALUE = np.dtype(
    [("identity", "u4"), ("node", ">u4"), ("kind", "u1"), ("cluster", "u1"), ("pad", "u2")]
)


@dataclass(frozen=True, slots=True)
class Joined:
    """A pod with all three facts; ``node`` is its tunnel endpoint."""

    ref: PodRef
    labels: str
    identity: int
    node: IPv4Address


class PodJoin:
    """Pods of the own cluster, joined as their facts arrive.

    While two pods claim one address, the one that came last has it. A subclass says where rows
    go: ``write`` and ``withdraw``.
    """

    def __init__(self) -> None:
        self._pods: dict[PodRef, PodEntry] = {}
        self._identities: Mapping[str, int] = {}
        self._endpoints: Mapping[str, IPv4Address] = {}
        self._by_labels: dict[str, set[PodRef]] = {}
        self._owners: dict[IP, PodRef] = {}

    def write(self, rows: Mapping[IP, Joined]) -> None:
        """Take rows that are new or may have changed."""
        raise NotImplementedError

    def withdraw(self, addresses: Collection[IP]) -> None:
        """Remove the rows of addresses that have no pod any more."""
        raise NotImplementedError

    def pods(self, puts: Mapping[PodRef, PodEntry], deletes: Collection[PodRef]) -> None:
        """Take in what agents wrote and removed."""
        gone: set[IP] = set()
        for ref in (*deletes, *puts):
            gone.update(self._forget(ref))
        for ref, entry in puts.items():
            self._pods[ref] = entry
            self._by_labels.setdefault(entry.labels, set()).add(ref)
            self._owners.update(dict.fromkeys(entry.addresses, ref))
        self._write(puts)
        self._withdraw(a for a in gone if a not in self._owners)

    def identities(self, known: Mapping[str, int]) -> None:
        """Take in the identity of every label text that has one."""
        before, self._identities = self._identities, dict(known)
        changed = {labels for labels, number in known.items() if before.get(labels) != number}
        self._write(ref for labels in changed for ref in self._by_labels.get(labels, ()))

    def endpoints(self, known: Mapping[str, IPv4Address]) -> None:
        """Take in the tunnel endpoint of every node of the cluster; a node without one is gone."""
        before, self._endpoints = self._endpoints, dict(known)
        changed = {name for name in {*known, *before} if before.get(name) != known.get(name)}
        moved = [ref for ref in self._pods if ref.node in changed] if changed else []
        self._write(moved)
        lost = (ref for ref in moved if ref.node not in known)
        self._withdraw(address for ref in lost for address in self._held(ref))

    def owner(self, address: IP) -> PodRef | None:
        """The pod that has an address."""
        return self._owners.get(address)

    def _held(self, ref: PodRef) -> list[IP]:
        entry = self._pods.get(ref)
        addresses = entry.addresses if entry else ()
        return [address for address in addresses if self._owners.get(address) == ref]

    def _forget(self, ref: PodRef) -> list[IP]:
        mine = self._held(ref)
        for address in mine:
            del self._owners[address]
        entry = self._pods.pop(ref, None)
        if entry:
            self._by_labels[entry.labels].discard(ref)
        return mine

    def _write(self, refs: Iterable[PodRef]) -> None:
        rows: dict[IP, Joined] = {}
        for ref in refs:
            labels = self._pods[ref].labels
            identity, node = self._identities.get(labels), self._endpoints.get(ref.node)
            if identity is not None and node is not None:
                joined = Joined(ref, labels, identity, node)
                rows.update(dict.fromkeys(self._held(ref), joined))
        if rows:
            self.write(rows)

    def _withdraw(self, addresses: Iterable[IP]) -> None:
        gone = list(addresses)
        if gone:
            self.withdraw(gone)


class OwnPods(PodJoin):
    """Rows of the own cluster's pods in a table of ``VALUE``."""

    def __init__(self, table: ColumnTable, cluster_id: int) -> None:
        super().__init__()
        self._table = table
        self._cluster_id = cluster_id

    def write(self, rows: Mapping[IP, Joined]) -> None:
        values = [
            (row.identity, int(row.node), KIND_POD, self._cluster_id, 0) for row in rows.values()
        ]
        self._table.upsert(column(rows), np.array(values, VALUE))

    def withdraw(self, addresses: Collection[IP]) -> None:
        self._table.delete(column(addresses))


class NodeAddresses:
    """Rows of all nodes' addresses in ``table``."""

    def __init__(self, table: ColumnTable, own: NodeKey) -> None:
        self._table = table
        self._own = own
        self._written: set[bytes] = set()

    def nodes(self, known: Mapping[NodeKey, Node], cluster_ids: Mapping[str, int]) -> None:
        """Take in all nodes; those of clusters without a known id wait."""
        rows: dict[bytes, tuple[int, int, int, int, int]] = {}
        for key, node in known.items():
            endpoint, cluster = tunnel_endpoint(node), cluster_ids.get(key.cluster)
            if endpoint is None or cluster is None:
                continue
            identity = IDENTITY_HOST if key == self._own else IDENTITY_REMOTE_NODE
            for address in node.addresses:
                rows[packed(address)] = (identity, int(endpoint), KIND_NODE, cluster, 0)
        if rows:
            self._table.upsert(
                np.frombuffer(b"".join(rows), ADDRESS), np.array(list(rows.values()), VALUE)
            )
        gone = self._written - rows.keys()
        if gone:
            self._table.delete(np.frombuffer(b"".join(gone), ADDRESS))
        self._written = set(rows)


def tunnel_endpoint(node: Node) -> IPv4Address | None:
    """The outer address of tunnels to a node: its first IPv4 address."""
    return next((a for a in node.addresses if isinstance(a, IPv4Address)), None)
