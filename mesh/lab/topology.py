"""The lab's shape, read from one YAML file.

Strict: an unknown or wrong field names its path (``clusters[0].nodes[1].name``) and nothing is
built. Rules between fields (unique names, an address inside its network) are checked here too, so
that the builders can trust a ``Topology``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from gateway.settings import EgressSettings
from mesh.core.strict import AnyAddress, AnyNetwork
from mesh.lab import fabric
from mesh.lab.fabric import Fabric, Part
from mesh.masquerade.settings import MasqueradeSettings
from mesh.pools.settings import Pool

GATEWAY_LABEL = ("role", "gateway")


class Pods(Part, frozen=True):
    """One pod of each app on every node."""

    namespace: str
    per_node: tuple[str, ...]


class NodeHost(Part, frozen=True):
    """A node: a host that runs an agent and a speaker."""

    name: str
    addresses: tuple[AnyAddress, ...]
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Cluster(Part, frozen=True):
    """A cluster; its controllers run on the first node."""

    name: str
    id: int
    asn: int
    pod_cidrs: tuple[Pool, ...] = msgspec.field(name="podCIDRs")
    locators: tuple[Pool, ...]
    services: tuple[AnyNetwork, ...]
    egress: tuple[AnyAddress, ...]
    nodes: tuple[NodeHost, ...]
    mode: Literal["whole", "beside"] = "whole"
    """``beside``: the reference plugin bridge connects the pods (``bridge.py``)."""

    @property
    def gateway(self) -> str:
        """The name of the node that carries the egress addresses."""
        key, value = GATEWAY_LABEL
        return next(node.name for node in self.nodes if node.labels.get(key) == value)


class Feed(Part, frozen=True):
    """The feed of a cluster, on its first node; the lab's firewall fetches it."""

    cluster: str
    port: int
    settle_seconds: float = 1.0


class Topology(Fabric, frozen=True, kw_only=True):
    """The whole file."""

    lease_seconds: int
    egress: EgressSettings
    pods: Pods
    clusters: tuple[Cluster, ...]
    hosts: Literal["overlay", "native"] = "overlay"
    """``hosts`` of every agent."""
    hubble: bool = False
    """Whether agents listen for a Hubble relay."""
    bgp: bool = True
    """Whether the nodes peer with the router."""
    masquerade: MasqueradeSettings | None = None
    """``masquerade`` of every agent."""
    feed: Feed | None = None
    """A feed for the firewall; absent: the firewall lets pass what it did at the start."""
    contracts: bool = True
    """Whether each cluster has contracts with the others, made from this file."""

    @property
    def nodes(self) -> Iterator[tuple[Cluster, NodeHost]]:
        """All nodes with their clusters."""
        return ((cluster, node) for cluster in self.clusters for node in cluster.nodes)

    @property
    def feeding(self) -> Cluster | None:
        """The cluster that has a feed."""
        named = self.feed.cluster if self.feed else ""
        return next((one for one in self.clusters if one.name == named), None)

    @property
    def fed(self) -> Sequence[AnyAddress]:
        return self.feeding.egress if self.feeding else ()

    @property
    def sites(self) -> Sequence[Cluster]:
        return self.clusters

    @property
    def members(self) -> Iterator[tuple[Cluster, NodeHost]]:
        return self.nodes

    @property
    def pod_names(self) -> Iterator[tuple[Cluster, NodeHost, str]]:
        """(cluster, node, pod name) of each pod that the lab starts with."""
        for cluster in self.clusters:
            for number, node in enumerate(cluster.nodes, 1):
                for app in self.pods.per_node:
                    yield cluster, node, f"{app}-{number}"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.feed and not self.feeding:
            yield f"feed.cluster: no cluster is called {self.feed.cluster}"
        key, value = GATEWAY_LABEL
        for number, cluster in enumerate(self.clusters):
            if not any(node.labels.get(key) == value for node in cluster.nodes):
                yield f"clusters[{number}].nodes: none has the label {key}: {value}"


def load(path: Path) -> Topology:
    """The topology in ``path``. Raises TopologyError."""
    return fabric.load(path, Topology)
