"""Nodes of all clusters as rows for the datapath and the kernel. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntFlag
from ipaddress import IPv4Address, IPv6Network
from types import MappingProxyType

from mesh.core.model import (
    IP,
    OVERLAY_PORT,
    Claim,
    ClaimKey,
    Network,
    Node,
    NodeKey,
    PodEntry,
    PodRef,
)
from mesh.identity.addresses import tunnel_endpoint
from mesh.pools.prefixes import claimed

#: A node with this label is behind a fabric that knows its pod CIDRs, for hosts of any cluster.
NATIVE_LABEL = ("meshgate.io/hosts", "native")


@dataclass(frozen=True, slots=True)
class NodeHop:
    """Value of ``mg_node``: how the outer packet to a node leaves, and whose node it is."""

    next_hop: IPv4Address
    cluster: int
    flags: int = 0
    mtu: int = 0
    """That the route to it was given; 0: none."""
    port: int = OVERLAY_PORT
    """UDP port on which it takes the overlay."""


@dataclass(frozen=True, slots=True)
class PodCIDR:
    """Value of ``mg_addr_cidr``: the node behind a pod CIDR."""

    node: IPv4Address
    cluster: int


class HostFlag(IntFlag):
    """``enum node_flag``; ``tests/unit/datapath/test_numbers.py`` compares."""

    OVERLAY_V4 = 1
    OVERLAY_V6 = 2
    HOSTS = 4


class Native(Enum):
    """Whether the kernel knows a native route to a pod CIDR."""

    NO = "no"
    YES = "yes"


@dataclass(frozen=True, slots=True)
class Behind:
    """A pod CIDR of another node: its tunnel endpoint, whether the node is of our cluster.

    ``hosts``: it is of another one, whose contract lets hosts reach each other.
    """

    node: IPv4Address
    own: bool
    hosts: bool = False

    @property
    def by_overlay(self) -> bool:
        """Whether the host of the node takes packets out of the overlay."""
        return self.own or self.hosts


@dataclass(frozen=True, slots=True)
class OverlayRoute:
    """A route of this host to a pod CIDR by the overlay."""

    source: IP
    mtu: int


def own_node(
    key: NodeKey,
    node: Node | None,
    claims: Mapping[ClaimKey, Claim],
    locator: IPv6Network | None,
    pools: Sequence[str],
) -> dict[NodeKey, Node]:
    """A node of our cluster with its locator and its pod CIDRs.

    These are the ones that the cluster has handed out to it; else those that it has claimed.
    """
    if node is None:
        return {}
    cidrs = node.given or tuple(network for network, _ in claimed(claims.values(), pools))
    return {key: replace(node, pod_cidrs=cidrs, locator=locator)}


def beside_node(
    key: NodeKey,
    node: Node | None,
    pods: Mapping[PodRef, PodEntry],
    locator: IPv6Network | None,
) -> dict[NodeKey, Node]:
    """A node of our cluster, whose pods another CNI connects.

    Its pod CIDRs are those that Kubernetes has given to it, if every pod of it has its addresses
    inside: else the CNI gives them by other rules, and the CIDRs say nothing.
    """
    if node is None:
        return {}
    addresses = (address for pod in pods.values() for address in pod.addresses)
    inside = all(any(address in cidr for cidr in node.given) for address in addresses)
    return {key: replace(node, pod_cidrs=node.given if inside else (), locator=locator)}


def known_node(key: NodeKey, own: Node | None, remote: Node | None) -> dict[NodeKey, Node]:
    """A node of ours, or one accepted from another cluster."""
    node = own or remote
    return {key: node} if node else {}


def node_hop(
    endpoint: IPv4Address,
    nodes: Mapping[NodeKey, Node],
    cluster_ids: Mapping[str, int],
    hop: IPv4Address | None,
    recovered: NodeHop | None,
    flags: int | None = None,
    mtu: int | None = None,
    hosts: Collection[str] = (),
    ports: Mapping[str, int] = MappingProxyType({}),
) -> dict[IPv4Address, NodeHop]:
    """The row of ``mg_node`` of a tunnel endpoint to which the kernel has, or had, a route (D13).

    Of two nodes with one endpoint the first by name counts. ``hosts`` are other clusters whose
    contract lets their hosts reach ours; what the last agent wrote of that does not count.
    ``ports`` are the overlay's by cluster. Until that of a cluster is known, the one counts that
    the last agent wrote. Without it the node has no row: another port may be another program's.
    """
    cluster = next((key.cluster for key in sorted(nodes) if key.cluster in cluster_ids), None)
    next_hop = hop or (recovered and recovered.next_hop)
    port = ports.get(cluster or "", recovered and recovered.port)
    if cluster is None or not next_hop or not port:
        return {}
    given = (flags or 0) & ~HostFlag.HOSTS | (HostFlag.HOSTS if cluster in hosts else 0)
    return {endpoint: NodeHop(next_hop, cluster_ids[cluster], int(given), mtu or 0, port)}


def overlay_ports(port: int, hops: Mapping[IPv4Address, NodeHop]) -> dict[int, None]:
    """A port on which nodes take the overlay."""
    return {port: None} if hops else {}


def pod_cidrs(_: NodeKey, node: Node | None, cluster_id: int | None) -> dict[Network, PodCIDR]:
    """Rows of ``mg_addr_cidr`` of a node."""
    address = tunnel_endpoint(node) if node else None
    if node is None or address is None or cluster_id is None:
        return {}
    return dict.fromkeys(node.pod_cidrs, PodCIDR(address, cluster_id))


def behind(
    key: NodeKey,
    node: Node | None,
    cluster_id: int | None,
    hosts: Collection[str] = (),
    *,
    own: NodeKey,
    native: bool,
) -> dict[Network, Behind]:
    """Pod CIDRs of another node, unless a fabric that knows them is named (``hosts``).

    ``native``: our configuration says so of our cluster. Of any node its label may say so.
    ``hosts`` has the cluster when its contract lets hosts reach each other.
    """
    address = tunnel_endpoint(node) if node else None
    if node is None or address is None or cluster_id is None or key == own:
        return {}
    ours = key.cluster == own.cluster
    if (ours and native) or NATIVE_LABEL in node.labels:
        return {}
    return dict.fromkeys(node.pod_cidrs, Behind(address, ours, hosts=key.cluster in hosts))


def by_overlay(
    prefix: Network, behind: Behind | None, natively: Native | None
) -> dict[Network, Behind]:
    """A pod CIDR to which the kernel knows no native route; it has been asked."""
    return {prefix: behind} if behind and natively is Native.NO else {}


def overlay_route(
    prefix: Network, behind: Behind | None, this: Node | None, *, mtu: int
) -> dict[Network, OverlayRoute]:
    """The route to a pod CIDR by the overlay, from this node's first address of the family."""
    addresses = this.addresses if this else ()
    source = next((a for a in addresses if a.version == prefix.version), None)
    return {prefix: OverlayRoute(source, mtu)} if behind and source else {}


def host_flags(endpoint: IPv4Address, prefixes: Mapping[Network, Behind]) -> dict[IPv4Address, int]:
    """How pods of ours reach the host of another node that takes packets out of the overlay."""
    versions = {prefix.version for prefix in prefixes}
    flags = HostFlag.OVERLAY_V4 * (4 in versions) | HostFlag.OVERLAY_V6 * (6 in versions)
    return {endpoint: int(flags)} if prefixes else {}


def one_node(key: NodeKey, nodes: Mapping[NodeKey, Node]) -> dict[NodeKey, Node]:
    """The node of a group of one."""
    return {key: nodes[key]} if nodes else {}


def given_to(_: NodeKey, node: Node) -> list[Network]:
    """Pod CIDRs in force that the cluster has handed out to the node."""
    return [network for network in node.pod_cidrs if network in node.given]


def handed_out(network: Network, nodes: Mapping[NodeKey, Node]) -> dict[Network, None]:
    """A pod CIDR that the cluster has handed out to nodes of ours."""
    return {network: None} if nodes else {}


def own_address(address: IP, nodes: Mapping[NodeKey, Node]) -> dict[IP, None]:
    """An address of nodes of our cluster."""
    return {address: None} if nodes else {}


def announced(_: NodeKey, node: Node | None) -> dict[Network, None]:
    """Pod CIDRs that this node announces."""
    return dict.fromkeys(node.pod_cidrs) if node else {}


def endpoint_of(key: NodeKey, node: Node | None) -> dict[str, IPv4Address]:
    """Tunnel endpoint of a node of ours, by its name."""
    endpoint = tunnel_endpoint(node) if node else None
    return {key.name: endpoint} if endpoint else {}
