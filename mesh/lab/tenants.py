"""The tenants of the provider edge, as the clusters see them: VRFs, pods, and what ``show`` says.

Both tenants have a pod on each node, and both have the same addresses there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from mesh.core.model import IP, Network
from mesh.lab.fabric import Edge, Tenant
from mesh.lab.places import Lab
from mesh.lab.topology import Cluster, NodeHost, Topology

APP = "app"
LABEL = "tenant"
#: Pods say their addresses themselves, so that scripts know them before a lab is up.
ANNOTATION = "meshgate.io/tenant-addresses"
#: Bits that a cluster's part of the tenants' pod networks has.
_PART_BITS = {4: 24, 6: 64}


@dataclass(frozen=True, slots=True)
class TenantPod:
    """A pod of a tenant, with its addresses in the tenant's network."""

    cluster: Cluster
    node: NodeHost
    tenant: Tenant
    name: str
    addresses: tuple[IP, ...]

    @property
    def full_name(self) -> str:
        """``cluster/namespace/name``."""
        return f"{self.cluster.name}/{self.tenant.name}/{self.name}"


def part(network: Network, cluster: Cluster) -> Network:
    """A cluster's part of a network of the tenants' pods."""
    bits = _PART_BITS[network.version]
    size = 1 << (network.max_prefixlen - bits)
    return ip_network((int(network.network_address) + cluster.id * size, bits))


def made(topology: Topology) -> list[TenantPod]:
    """The pods of tenants that the lab starts with."""
    return list(pods(topology)) if topology.pe and topology.pe.vrfs else []


def namespaces(topology: Topology) -> list[str]:
    """The namespaces of the tenants' pods."""
    return sorted({one.tenant.name for one in made(topology)})


def pods(topology: Topology) -> Iterator[TenantPod]:
    """All pods of all tenants, as they are where the clusters have them."""
    for tenant in topology.pe.tenants if topology.pe else ():
        for cluster in topology.clusters:
            for number, node in enumerate(cluster.nodes, 1):
                networks = topology.pe.pods if topology.pe else ()
                addresses = tuple(part(network, cluster)[number] for network in networks)
                yield TenantPod(cluster, node, tenant, f"{APP}-{number}", addresses)


def vrf(edge: Edge, cluster: Cluster, tenant: Tenant) -> dict[str, object]:
    """The VRF object of a tenant."""
    spec = {
        "pods": [{"namespaceSelector": {"matchLabels": {LABEL: tenant.name}}}],
        "destinations": destinations(edge),
        "import": [tenant.target],
        "export": [tenant.target],
        "addresses": [str(part(network, cluster)) for network in edge.pods],
    }
    return {
        "apiVersion": "meshgate.io/v1alpha1",
        "kind": "VRF",
        "metadata": {"name": tenant.name},
        "spec": spec,
    }


def namespace(tenant: Tenant) -> dict[str, object]:
    """The namespace of a tenant's pods, which its VRF selects."""
    metadata = {"name": tenant.name, "labels": {LABEL: tenant.name}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def pod(one: TenantPod, command: Sequence[str]) -> dict[str, object]:
    """A pod that runs the command."""
    metadata = {
        "name": one.name,
        "namespace": one.tenant.name,
        "labels": {"app": APP},
        "annotations": {ANNOTATION: ",".join(map(str, one.addresses))},
    }
    containers = [{"name": APP, "command": list(command)}]
    spec = {"nodeName": one.node.name, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def destinations(edge: Edge) -> list[str]:
    """What a tenant's pods send into its VRF."""
    return [str(network) for network in (*edge.networks, *edge.pods)]


def shown(lab: Lab, topology: Topology) -> dict[str, object]:
    """The tenants for ``show``."""
    edge = topology.pe
    if edge is None:
        return {}
    return {
        tenant.name: {
            "vrf": tenant.name,
            "target": tenant.target,
            "host": tenant.name,
            "addresses": [str(address) for address in edge.hosts],
            "networks": [str(network) for network in edge.networks],
            "tcp": edge.tcp,
            "udp": edge.udp,
            "log": str(lab.host_run(tenant.name) / "tenant.log"),
            "pods": {
                one.full_name: [str(address) for address in one.addresses]
                for one in made(topology)
                if one.tenant == tenant
            },
        }
        for tenant in edge.tenants
    }
