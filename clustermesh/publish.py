"""What this cluster publishes: rows of its own to keys and values of the cached layout.

Pure, one function per noun; the controller writes the results as leased keys, and the canaries
after everything else. ``PodAddresses`` is incremental, because there are tens of thousands of
addresses: an event touches the rows it concerns and no other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Address

import msgspec

from clustermesh.remote import wire
from clustermesh.remote.shared import CONFIG, SERVICE, SHARED
from clustermesh.remote.slices import slice_values
from mesh.core.model import (
    IP,
    Address,
    Identity,
    Joined,
    Node,
    NodeKey,
    PodKey,
    Service,
    ServiceKey,
)
from mesh.core.table import Table
from mesh.identity.addresses import PodJoin, tunnel_endpoint
from mesh.identity.counted import CountedPods

#: Prefixes that are published, each with a canary.
PREFIXES = tuple(noun.prefix for noun in SHARED if noun is not CONFIG)
#: The roles of a store that an earlier version made do not have these: only their own canaries wait
#: for them.
LATER = (wire.SLICES,)


def config(cluster: str, cluster_id: int, counter_s: int = 0) -> dict[str, bytes]:
    """The key that other clusters read first."""
    return {wire.config_key(cluster): wire.cluster_config(cluster_id, counter_s)}


def overlay(cluster: str, port: int) -> dict[str, bytes]:
    """The key that says on which UDP port the cluster's nodes take the overlay."""
    return {wire.overlay_key(cluster): msgspec.json.encode(wire.Overlay(port))}


def node_keys(
    _: NodeKey, row: Node | None, cluster_id: int, *, bare: bool = False
) -> dict[str, bytes]:
    """The key of a node of this cluster that has its pod CIDRs; others are not there yet.

    ``bare``: beside another CNI a node need not have any.
    """
    if row is None or not (row.pod_cidrs or bare):
        return {}
    return {wire.node_key(row.cluster, row.name): wire.node_value(row, cluster_id)}


def identity_keys(_: int, row: Identity | None) -> dict[str, bytes]:
    """The key of an identity of this cluster."""
    return {wire.identity_key(row.cluster, row.id): row.labels.encode()} if row else {}


def service_keys(_: ServiceKey, row: Service | None, cluster_id: int) -> dict[str, bytes]:
    """The key of a global service that is shared, with the backends of this cluster alone.

    None when no cluster would read so long a value.
    """
    if row is None or not (row.is_global and row.is_shared):
        return {}
    key = wire.service_key(row.cluster, row.namespace, row.name)
    value = wire.service_value(row, cluster_id)
    return {key: value} if len(value) <= SERVICE.largest else {}


def slice_keys(_: ServiceKey, row: Service | None, cluster_id: int) -> dict[str, bytes]:
    """The same in the second form: a key for some backends each."""
    if row is None or not (row.is_global and row.is_shared):
        return {}
    values = slice_values(row, cluster_id)
    return {wire.slice_key(row.cluster, row.namespace, name): v for name, v in values.items()}


def endpoint(key: NodeKey, row: Node | None, *, bare: bool = False) -> dict[str, IPv4Address]:
    """Tunnel endpoint of a node that is published, by name."""
    address = tunnel_endpoint(row) if row and (row.pod_cidrs or bare) else None
    return {key.name: address} if address else {}


def canaries(cluster: str, since: str, prefixes: Sequence[str] = PREFIXES) -> dict[str, bytes]:
    """What says that each prefix is complete; ``since`` is RFC 3339 and stays the same."""
    return {wire.canary_key(cluster, prefix): since.encode() for prefix in prefixes}


class PodAddresses(PodJoin):
    """Address keys of own pods in ``table``."""

    def __init__(self, counted: CountedPods, table: Table[str, bytes], cluster: str) -> None:
        super().__init__(counted)
        self._table = table
        self._cluster = cluster

    def write(self, rows: Mapping[IP, Joined]) -> None:
        values = {}
        for address, joined in rows.items():
            row = Address(address, joined.identity, self._cluster, joined.node)
            pod = PodKey(self._cluster, joined.ref.namespace, joined.ref.name)
            values[self._key(address)] = wire.address_value(row, pod, joined.labels)
        self._table.upsert(values)

    def withdraw(self, addresses: Collection[IP]) -> None:
        self._table.delete([self._key(address) for address in addresses])

    def _key(self, address: IP) -> str:
        return wire.address_key(self._cluster, address)
