"""Nodes of all clusters as rows for the datapath and the kernel. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Network

from mesh.core.model import Network, Node, NodeKey
from mesh.identity.addresses import tunnel_endpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Value of ``mg_node``: how the outer packet to a node leaves, and whose node it is."""

    next_hop: IPv4Address
    cluster: int


@dataclass(frozen=True, slots=True)
class PodCIDR:
    """Value of ``mg_addr_cidr``: the node behind a pod CIDR."""

    node: IPv4Address
    cluster: int


def merged(
    own: Mapping[NodeKey, Node],
    pod_cidrs: Mapping[str, tuple[Network, ...]],
    locators: Mapping[str, IPv6Network],
    imported: Mapping[NodeKey, Node],
) -> dict[NodeKey, Node]:
    """Own nodes with what they have claimed, and the nodes accepted from peers."""
    rows = dict(imported)
    for key, node in own.items():
        rows[key] = replace(
            node,
            pod_cidrs=pod_cidrs.get(key.name, ()),
            locator=locators.get(key.name),
        )
    return rows


def endpoints(
    nodes: Iterable[Node],
    own: NodeKey,
    cluster_ids: Mapping[str, int],
    next_hops: Mapping[IPv4Address, IPv4Address | None],
) -> dict[IPv4Address, Endpoint]:
    """Rows of ``mg_node``: every other node to which the kernel has a route (None: it has not)."""
    rows = {}
    for node in nodes:
        address, cluster = tunnel_endpoint(node), cluster_ids.get(node.cluster)
        if address is None or cluster is None or NodeKey(node.cluster, node.name) == own:
            continue
        hop = next_hops.get(address)
        if hop is not None:
            rows[address] = Endpoint(hop, cluster)
    return rows


def pod_cidrs(nodes: Iterable[Node], cluster_ids: Mapping[str, int]) -> dict[Network, PodCIDR]:
    """Rows of ``mg_addr_cidr``."""
    rows: dict[Network, PodCIDR] = {}
    for node in nodes:
        address, cluster = tunnel_endpoint(node), cluster_ids.get(node.cluster)
        if address is not None and cluster is not None:
            rows |= dict.fromkeys(node.pod_cidrs, PodCIDR(address, cluster))
    return rows


def discard_routes(node: Node | None, egress: Iterable[Network]) -> frozenset[Network]:
    """What a node announces and therefore must never send back where it came from.

    An announced prefix without a more specific route of its own would loop between router and
    node until the TTL ends (``reference/egress.md`` 10.4).
    """
    if node is None:
        return frozenset(egress)
    locator = (node.locator,) if node.locator else ()
    return frozenset({*node.pod_cidrs, *locator, *egress})
