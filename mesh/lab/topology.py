"""The lab's shape, read from one YAML file.

Strict: an unknown or wrong field names its path (``clusters[0].nodes[1].name``) and nothing is
built. Rules between fields (unique names, an address inside its network) are checked here too, so
that the builders can trust a ``Topology``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from gateway.settings import EgressSettings
from mesh.core.strict import AnyAddress, AnyNetwork, convert, parse_yaml
from mesh.pools.settings import Pool

DEFAULT = Path(__file__).with_name("topology.yaml")

#: Hosts that every lab has, besides the nodes of its clusters.
FIXED_HOSTS = ("router", "firewall", "legacy", "etcd")
GATEWAY_LABEL = ("role", "gateway")


class TopologyError(ValueError):
    """The topology file cannot be used; the text names the file and the field."""


class _Section(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True
):
    """A part of the file."""


class Pods(_Section, frozen=True):
    """One pod of each app on every node."""

    namespace: str
    per_node: tuple[str, ...]


class Router(_Section, frozen=True):
    """The data-centre router."""

    asn: int
    addresses: tuple[AnyAddress, ...]


class Etcd(_Section, frozen=True):
    """The shared store."""

    addresses: tuple[AnyAddress, ...]
    port: int


class Legacy(_Section, frozen=True):
    """The network behind the firewall and the echo server in it."""

    networks: tuple[AnyNetwork, ...]
    addresses: tuple[AnyAddress, ...]
    tcp: int
    udp: int
    closed: int


class NodeHost(_Section, frozen=True):
    """A node: a host that runs an agent and a speaker."""

    name: str
    addresses: tuple[AnyAddress, ...]
    labels: dict[str, str] = {}


class Cluster(_Section, frozen=True):
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


class Topology(_Section, frozen=True):
    """The whole file."""

    lease_seconds: int
    egress: EgressSettings
    pods: Pods
    fabric: tuple[AnyNetwork, ...]
    transit: tuple[AnyNetwork, ...]
    router: Router
    etcd: Etcd
    legacy: Legacy
    clusters: tuple[Cluster, ...]
    hosts: Literal["overlay", "native"] = "overlay"
    """``hosts`` of every agent."""
    hubble: bool = False
    """Whether agents listen for a Hubble relay."""
    bgp: bool = True
    """Whether the nodes peer with the router."""
    contracts: bool = True
    """Whether each cluster has contracts with the others, made from this file."""

    @property
    def nodes(self) -> Iterator[tuple[Cluster, NodeHost]]:
        """All nodes with their clusters."""
        return ((cluster, node) for cluster in self.clusters for node in cluster.nodes)

    @property
    def addresses(self) -> dict[str, tuple[AnyAddress, ...]]:
        """Each host's addresses on its uplink (the router's: on the fabric)."""
        found = {node.name: node.addresses for _, node in self.nodes}
        found["router"] = self.router.addresses
        found["firewall"] = tuple(net[2] for net in self.transit)
        found["legacy"] = self.legacy.addresses
        found["etcd"] = self.etcd.addresses
        return found

    @property
    def pod_names(self) -> Iterator[tuple[Cluster, NodeHost, str]]:
        """(cluster, node, pod name) of each pod that the lab starts with."""
        for cluster in self.clusters:
            for number, node in enumerate(cluster.nodes, 1):
                for app in self.pods.per_node:
                    yield cluster, node, f"{app}-{number}"


def load(path: Path) -> Topology:
    """The topology in ``path``.

    Raises:
        TopologyError: the file is unreadable, or a field is unknown, missing or wrong.

    """
    try:
        (document,) = parse_yaml(path.read_text(encoding="utf-8"))
        topology = convert(document, Topology)
    except (OSError, ValueError) as error:
        raise TopologyError(f"{path}: {error}") from error
    for problem in _problems(topology):
        raise TopologyError(f"{path}: {problem}")
    return topology


def _problems(topology: Topology) -> Iterator[str]:
    hosts = [*FIXED_HOSTS, *(node.name for _, node in topology.nodes)]
    yield from _repeated("clusters[…].nodes[…].name", hosts)
    yield from _repeated("clusters[…].name", [cluster.name for cluster in topology.clusters])
    yield from _repeated("clusters[…].id", [cluster.id for cluster in topology.clusters])
    for number, cluster in enumerate(topology.clusters):
        key, value = GATEWAY_LABEL
        if not any(node.labels.get(key) == value for node in cluster.nodes):
            yield f"clusters[{number}].nodes: none has the label {key}: {value}"
    inside = [(f"host {host}", topology.fabric, found) for host, found in _fabric_hosts(topology)]
    inside.append(("legacy", topology.legacy.networks, topology.legacy.addresses))
    for name, networks, addresses in inside:
        yield from _misplaced(name, networks, addresses)


def _fabric_hosts(topology: Topology) -> Iterator[tuple[str, tuple[AnyAddress, ...]]]:
    for host, addresses in topology.addresses.items():
        if host not in ("firewall", "legacy"):
            yield host, addresses


def _repeated(path: str, values: Iterable[object]) -> Iterator[str]:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            yield f"{path}: {value} is used twice"
        seen.add(value)


def _misplaced(
    name: str, networks: tuple[AnyNetwork, ...], addresses: tuple[AnyAddress, ...]
) -> Iterator[str]:
    if [a.version for a in addresses] != [n.version for n in networks]:
        yield f"{name}.addresses: need one address in each of {', '.join(map(str, networks))}"
        return
    for address, network in zip(addresses, networks, strict=True):
        if address not in network:
            yield f"{name}.addresses: {address} is outside {network}"
