"""Who every address of the mesh is: own pods, peers' pods, nodes, joined as they arrive.

The table ``address`` has tens of thousands of rows, so this join is incremental: an event touches
the rows it concerns and no other. A pod's row needs three facts that arrive in any order: its
agent's key (addresses and labels), the identity claimed for the labels, its node's endpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.address import ADDRESS, OfCluster, column, packed
from mesh.core.model import (
    IDENTITY_HOST,
    IDENTITY_REMOTE_NODE,
    IP,
    Joined,
    Node,
    NodeKey,
    PodEntry,
    PodRef,
)
from mesh.core.table import Changes, ColumnChanges, ColumnTable

#: ``enum address_kind`` and ``struct address``. They stand here, because a controller judges
#: addresses of other clusters without a datapath; ``tests/unit/datapath/test_numbers.py`` compares.
KIND_POD = 1
KIND_NODE = 2
KIND_ROUTER = 3
VALUE = np.dtype(
    [("identity", "u4"), ("node", ">u4"), ("kind", "u1"), ("cluster", "u1"), ("pad", "u2")]
)


class PodJoin(ABC):
    """Pods of the own cluster, joined as their facts arrive.

    While two pods claim one address, the one that came last has it. A subclass says where rows
    go: ``write`` and ``withdraw``.
    """

    def __init__(self) -> None:
        self._pods: dict[PodRef, PodEntry] = {}
        self._identities: dict[str, int] = {}
        self._endpoints: dict[str, IPv4Address] = {}
        self._by_labels: dict[str, set[PodRef]] = {}
        self._by_node: dict[str, set[PodRef]] = {}
        self._owners: dict[IP, PodRef] = {}

    @abstractmethod
    def write(self, rows: Mapping[IP, Joined]) -> None:
        """Take rows that are new or may have changed."""

    @abstractmethod
    def withdraw(self, addresses: Collection[IP]) -> None:
        """Remove the rows of addresses that have no pod any more."""

    def pods(self, puts: Mapping[PodRef, PodEntry], deletes: Collection[PodRef]) -> None:
        """Take in what agents wrote and removed."""
        gone: set[IP] = set()
        for ref in (*deletes, *puts):
            gone.update(self._forget(ref))
        for ref, entry in puts.items():
            self._pods[ref] = entry
            self._by_labels.setdefault(entry.labels, set()).add(ref)
            self._by_node.setdefault(ref.node, set()).add(ref)
            self._owners.update(dict.fromkeys(entry.addresses, ref))
        self._write(puts)
        self._withdraw(a for a in gone if a not in self._owners)

    def identities(self, changes: Changes[str, int]) -> None:
        """Take in identities by label text. A pod whose identity is gone keeps its row."""
        self._identities.update(changes.upsert)
        for labels in changes.delete:
            self._identities.pop(labels, None)
        self._write(ref for labels in changes.upsert for ref in self._by_labels.get(labels, ()))

    def endpoints(self, changes: Changes[str, IPv4Address]) -> None:
        """Take in tunnel endpoints of nodes of the cluster; a node without one is gone."""
        self._endpoints.update(changes.upsert)
        for name in changes.delete:
            self._endpoints.pop(name, None)
        self._write(ref for name in changes.upsert for ref in self._by_node.get(name, ()))
        lost = (ref for name in changes.delete for ref in self._by_node.get(name, ()))
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
            _drop(self._by_labels, entry.labels, ref)
            _drop(self._by_node, ref.node, ref)
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


def _drop(index: dict[str, set[PodRef]], name: str, ref: PodRef) -> None:
    index[name].discard(ref)
    if not index[name]:
        del index[name]


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


def address_ranks(cluster_id: int, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Which rows have room first: own nodes, peers' nodes and routers, own pods, peers' pods.

    A pod without a row is known by the pod CIDR of its node. A node without one would count as the
    world, and packets to it would be translated.
    """
    ranks: npt.NDArray[np.int64] = (values["cluster"] != cluster_id).astype(np.int64)
    ranks[values["kind"] == KIND_POD] += 2
    return ranks


#: The value of an address: identity, tunnel endpoint, kind, cluster id, padding.
AddressValue = tuple[int, int, int, int, int]


def node_addresses(
    key: NodeKey, node: Node | None, cluster_id: int | None, own: NodeKey
) -> dict[tuple[bytes, NodeKey], AddressValue]:
    """Rows of a node's addresses and routers, each with the node that asks for the row."""
    endpoint = tunnel_endpoint(node) if node else None
    if node is None or endpoint is None or cluster_id is None:
        return {}
    identity = IDENTITY_HOST if key == own else IDENTITY_REMOTE_NODE
    host = (identity, int(endpoint), KIND_NODE, cluster_id, 0)
    router = (identity, int(endpoint), KIND_ROUTER, cluster_id, 0)
    rows = {(packed(address), key): router for address in node.routers}
    return rows | {(packed(address), key): host for address in node.addresses}


def first_asked(
    address: bytes, values: Mapping[tuple[bytes, NodeKey], AddressValue]
) -> dict[bytes, AddressValue]:
    """Of two nodes with one address the first by name has it."""
    return {address: values[min(values)]} if values else {}


def write_columns(table: ColumnTable, changes: Changes[bytes, AddressValue]) -> None:
    """Write changed address rows of nodes into ``table``.

    An address that a node has no more may be a pod's by now: that row stays.
    """
    if changes.upsert:
        keys = np.frombuffer(b"".join(changes.upsert), ADDRESS)
        table.upsert(keys, np.array(list(changes.upsert.values()), VALUE))
    if changes.delete:
        keys, values = table.existing(np.frombuffer(b"".join(changes.delete), ADDRESS))
        table.delete(keys[values["kind"] != KIND_POD])


def take_remote(table: ColumnTable, changes: ColumnChanges) -> None:
    """Write accepted addresses of other clusters into ``table``.

    A router's row goes with its node (``write_columns``), whether or not it has a key of its own.
    A cluster takes away no row that has become another cluster's meanwhile.
    """
    if len(changes.keys):
        table.upsert(changes.keys, changes.values)
    if len(changes.deleted):
        keys, values = table.existing(changes.deleted)
        others = list(changes.others) if isinstance(changes, OfCluster) else []
        mine = ~np.isin(values["cluster"], others)
        table.delete(keys[mine & (values["kind"] == KIND_POD)])


def tunnel_endpoint(node: Node) -> IPv4Address | None:
    """The outer address of tunnels to a node: its first IPv4 address."""
    return next((a for a in node.addresses if isinstance(a, IPv4Address)), None)
