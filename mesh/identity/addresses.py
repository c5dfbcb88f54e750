"""Who every address of the mesh is: own pods, peers' pods, nodes, joined as they arrive.

The table ``address`` has tens of thousands of rows, so this join is incremental: an event touches
the rows it concerns and no other. A pod's row needs facts that arrive in any order: what counts of
its agent's key (``counted.py``), and its node's endpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
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
from mesh.identity.counted import CountedPods

#: ``enum address_kind`` and ``struct address``. They stand here, because a controller judges
#: addresses of other clusters without a datapath; ``tests/unit/datapath/test_numbers.py`` compares.
KIND_POD = 1
KIND_NODE = 2
KIND_ROUTER = 3
VALUE = np.dtype(
    [("identity", "u4"), ("node", ">u4"), ("kind", "u1"), ("cluster", "u1"), ("pad", "u2")]
)


class PodJoin(ABC):
    """Pods of the own cluster that count, joined with their nodes as both arrive.

    A subclass says where rows go: ``write`` and ``withdraw``.
    """

    def __init__(self, counted: CountedPods) -> None:
        self._counted = counted
        self._endpoints: dict[str, IPv4Address] = {}
        self._written: dict[PodRef, tuple[IP, ...]] = {}

    @abstractmethod
    def write(self, rows: Mapping[IP, Joined]) -> None:
        """Take rows that are new or may have changed."""

    @abstractmethod
    def withdraw(self, addresses: Collection[IP]) -> None:
        """Remove the rows of addresses that have no pod any more."""

    def pods(self, changes: Changes[PodRef, PodEntry]) -> None:
        """Take in the entries that count."""
        rows: dict[IP, Joined] = {}
        left: list[IP] = []
        for ref in changes.delete:
            left += self._written.pop(ref, ())
        for ref, entry in changes.upsert.items():
            node = self._endpoints.get(ref.node)
            now = entry.addresses if entry.identity and node else ()
            before = self._written.get(ref, ())
            if before != now:
                left += [address for address in before if address not in now]
                self._written[ref] = now
            if node is not None and now:
                rows.update(dict.fromkeys(now, Joined(ref, entry.labels, entry.identity, node)))
        if rows:
            self.write(rows)
        gone = [address for address in left if address not in rows and self._is_gone(address)]
        if gone:
            self.withdraw(gone)

    def endpoints(self, changes: Changes[str, IPv4Address]) -> None:
        """Take in tunnel endpoints of nodes of the cluster; a node without one is gone."""
        self._endpoints.update(changes.upsert)
        for name in changes.delete:
            self._endpoints.pop(name, None)
        for name in (*changes.upsert, *changes.delete):
            self.pods(Changes(self._counted.of_node(name), frozenset()))

    def owner(self, address: IP) -> PodRef | None:
        """The pod that has an address."""
        return self._counted.holder(address)

    def _is_gone(self, address: IP) -> bool:
        """Whether no other pod has a row with it by now."""
        holder = self._counted.holder(address)
        return holder is None or address not in self._written.get(holder, ())


class OwnPods(PodJoin):
    """Rows of the own cluster's pods in a table of ``VALUE``."""

    def __init__(self, counted: CountedPods, table: ColumnTable, cluster_id: int) -> None:
        super().__init__(counted)
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
