"""Who every address of the mesh is: own pods, peers' pods, nodes, joined as they arrive.

The table ``address`` has tens of thousands of rows, so this join is incremental: an event touches
the rows it concerns and no other. A pod's row needs three facts that arrive in any order: its
agent's key (addresses and labels), the identity claimed for the labels, its node's endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mesh.core.address import ADDRESS, packed
from mesh.core.model import IDENTITY_HOST, IDENTITY_REMOTE_NODE, IP, Node, NodeKey
from mesh.core.table import ColumnTable

KIND_POD = 1
KIND_NODE = 2
#: ``struct address`` of bpf/include/types.h, by field name.
VALUE = np.dtype(
    [("identity", "u4"), ("node", ">u4"), ("kind", "u1"), ("cluster", "u1"), ("pad", "u2")]
)


class Ref(Protocol):
    """A pod as its agent's key names it (``clustermesh.subtree.PodRef``)."""

    @property
    def node(self) -> str:
        """The node whose agent wrote the key."""


class Entry(Protocol):
    """What an agent says of its pod (``clustermesh.subtree.PodEntry``)."""

    @property
    def addresses(self) -> tuple[IP, ...]:
        """Both families."""

    @property
    def labels(self) -> str:
        """Wire form."""


R = TypeVar("R", bound=Ref)


class OwnPods(Generic[R]):
    """Rows of the own cluster's pods in ``table``."""

    def __init__(self, table: ColumnTable, cluster_id: int) -> None:
        self._table = table
        self._cluster_id = cluster_id
        self.entries: dict[R, Entry] = {}
        self._identities: dict[str, int] = {}
        self._endpoints: dict[str, IPv4Address] = {}
        self._refs_of_labels: dict[str, set[R]] = {}
        self._owner: dict[IP, R] = {}

    def pods(self, puts: Mapping[R, Entry], deletes: Collection[R]) -> None:
        """Take in what agents wrote and removed."""
        gone: list[IP] = []
        for ref in deletes:
            gone += self._forget(ref)
        for ref, entry in puts.items():
            gone += [a for a in self._forget(ref) if a not in entry.addresses]
            self.entries[ref] = entry
            self._refs_of_labels.setdefault(entry.labels, set()).add(ref)
            self._owner.update(dict.fromkeys(entry.addresses, ref))
        self._write(puts)
        self._remove(a for a in gone if a not in self._owner)

    def identities(self, known: Mapping[str, int]) -> None:
        """Take in the identity of every label set that has one."""
        changed = [labels for labels, id_ in known.items() if self._identities.get(labels) != id_]
        self._identities = dict(known)
        self._write(ref for labels in changed for ref in self._refs_of_labels.get(labels, ()))

    def endpoints(self, known: Mapping[str, IPv4Address]) -> None:
        """Take in the tunnel endpoint of every node of the cluster."""
        changed = {name for name, a in known.items() if self._endpoints.get(name) != a}
        self._endpoints = dict(known)
        if changed:
            self._write(ref for ref in self.entries if ref.node in changed)

    def owner(self, address: IP) -> R | None:
        """The pod that has an address."""
        return self._owner.get(address)

    def _forget(self, ref: R) -> list[IP]:
        entry = self.entries.pop(ref, None)
        if entry is None:
            return []
        self._refs_of_labels[entry.labels].discard(ref)
        mine = [a for a in entry.addresses if self._owner.get(a) == ref]
        for address in mine:
            del self._owner[address]
        return mine

    def _write(self, refs: Iterable[R]) -> None:
        keys: list[bytes] = []
        values: list[tuple[int, int, int, int, int]] = []
        for ref in refs:
            entry = self.entries[ref]
            identity, node = self._identities.get(entry.labels), self._endpoints.get(ref.node)
            if identity is None or node is None:
                continue
            for address in entry.addresses:
                if self._owner.get(address) == ref:
                    keys.append(packed(address))
                    values.append((identity, int(node), KIND_POD, self._cluster_id, 0))
        if keys:
            self._table.upsert(np.frombuffer(b"".join(keys), ADDRESS), np.array(values, VALUE))

    def _remove(self, addresses: Iterable[IP]) -> None:
        keys = b"".join(packed(address) for address in addresses)
        if keys:
            self._table.delete(np.frombuffer(keys, ADDRESS))


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


def value_of(identity: int, node: IPv4Address, kind: int, cluster: int) -> npt.NDArray[Any]:
    """One row's value."""
    return np.array([(identity, int(node), kind, cluster, 0)], VALUE)
