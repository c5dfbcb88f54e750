"""The bed's shape, read from one YAML file: clusters of real nodes in the fabric of every lab.

The first node of a cluster that is its control plane runs the API server in its own network
namespace, so whatever the API server calls (webhooks, kubelets, proxied pods) goes over the
cluster's network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from mesh.core.model import IP, Network
from mesh.core.strict import AnyAddress, AnyNetwork
from mesh.lab import fabric
from mesh.lab.fabric import Fabric, Part

#: Characters in a device's name; the router's devices are called like the hosts.
LONGEST_NAME = 15
#: Bits that kube-controller-manager leaves to a node's pods when it is not told otherwise.
NODE_PREFIX = {4: 24, 6: 64}


class Node(Part, frozen=True):
    """A node: a namespace with kubelet and containerd."""

    name: str
    addresses: tuple[AnyAddress, ...]
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    control_plane: bool = False
    """Whether etcd, API server, controller-manager and scheduler run here."""
    schedulable: bool | None = None
    """Whether pods without a toleration run here; by default on all nodes but the control plane."""

    @property
    def is_open(self) -> bool:
        """Whether pods without a toleration run here."""
        return not self.control_plane if self.schedulable is None else self.schedulable


class Cluster(Part, frozen=True):
    """One Kubernetes cluster."""

    name: str
    id: int
    asn: int
    cni: Literal["none", "bridge", "kube-router"]
    """``none``: nodes stay NotReady until a conflist is in their /etc/cni/net.d."""
    proxy: Literal["nftables", "none"]
    """The mode of kube-proxy, or that there is none."""
    pod_cidrs: tuple[AnyNetwork, ...] = msgspec.field(name="podCIDRs")
    services: tuple[AnyNetwork, ...]
    egress: tuple[AnyAddress, ...]
    nodes: tuple[Node, ...]
    taints: tuple[str, ...] = ()
    """Taints of each node from its start, as ``key=value:effect``."""

    @property
    def control_plane(self) -> Node:
        """The node that runs the API server."""
        return next(node for node in self.nodes if node.control_plane)

    @property
    def dns(self) -> IP:
        """The address of the cluster's DNS service."""
        return self.services[0][10]

    @property
    def api_service(self) -> IP:
        """The address of the service ``kubernetes``."""
        return self.services[0][1]


class Topology(Fabric, frozen=True, kw_only=True):
    """The whole file."""

    clusters: tuple[Cluster, ...]

    @property
    def nodes(self) -> Iterator[tuple[Cluster, Node]]:
        """All nodes with their clusters, control planes first."""
        for cluster in self.clusters:
            for node in sorted(cluster.nodes, key=lambda node: not node.control_plane):
                yield cluster, node

    @property
    def sites(self) -> Sequence[Cluster]:
        return self.clusters

    @property
    def members(self) -> Iterator[tuple[Cluster, Node]]:
        return self.nodes

    def cluster(self, name: str) -> Cluster | None:
        """The cluster of that name."""
        return next((one for one in self.clusters if one.name == name), None)

    def node(self, name: str) -> tuple[Cluster, Node] | None:
        """The node of that name, with its cluster."""
        return next(((c, n) for c, n in self.nodes if n.name == name), None)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for number, cluster in enumerate(self.clusters):
            for problem in _cluster_problems(cluster):
                yield f"clusters[{number}].{problem}"


def load(path: Path) -> Topology:
    """The topology in ``path``. Raises TopologyError."""
    return fabric.load(path, Topology)


def _cluster_problems(cluster: Cluster) -> Iterator[str]:
    if sum(node.control_plane for node in cluster.nodes) != 1:
        yield "nodes: one node needs `controlPlane: true`, and no other"
    for number, node in enumerate(cluster.nodes):
        if len(node.name) > LONGEST_NAME:
            yield f"nodes[{number}].name: {node.name} has more than {LONGEST_NAME} characters"
    families = [net.version for net in cluster.pod_cidrs]
    if families not in ([4], [6], [4, 6], [6, 4]):
        yield "podCIDRs: need one network of each family at most, and one at least"
    if families != [net.version for net in cluster.services]:
        yield "services: need the families of podCIDRs, in their order"
    for number, net in enumerate(cluster.pod_cidrs):
        if _pieces(net) < len(cluster.nodes):
            yield f"podCIDRs[{number}]: {net} has no /{NODE_PREFIX[net.version]} for each node"


def _pieces(network: Network) -> int:
    return 1 << max(0, NODE_PREFIX[network.version] - network.prefixlen)
