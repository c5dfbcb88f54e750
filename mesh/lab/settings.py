"""The files that the lab's processes read: configurations, manifests, the router's FRR text."""

from __future__ import annotations

import os
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import yaml

from bgp.routers.frr import Neighbor, router_config
from clustermesh.etcd.auth import CONTROLLER, NODE, SPEAKER, EtcdUser
from clustermesh.issued import files_of
from mesh.core.files import replace_file
from mesh.core.model import Network
from mesh.lab import bridge
from mesh.lab.fabric import Fabric
from mesh.lab.places import USERS, Lab
from mesh.lab.processes import speaker_directory
from mesh.lab.topology import GATEWAY_LABEL, Cluster, NodeHost, Topology
from mesh.masquerade.settings import MasqueradeSettings
from mesh.observe.relays import DOMAIN
from mesh.pools.settings import Pool

POLICY = "erp"
WEB_PORT = 8080
SERVICE_PORT = 80
HOLD_S = 9
RESTART_S = 120
HUBBLE_PORT = 4244
#: A relay's certificate as server, the name by which the command line knows it, and the certificate
#: by which it and the command line are clients.
RELAY, RELAY_NAME = "hubble-relay", "lab.hubble-relay.cilium.io"
RELAY_CLIENT = "hubble-client"
_HERE = Path(__file__).parent
_CONTROLLERS = ("controller", "controller2")

Document = dict[str, object]


def node_configs(lab: Lab, topology: Topology, cluster: Cluster, node: NodeHost) -> dict[str, Path]:
    """Write agent.yaml and, where nodes speak BGP, speaker.yaml of a node; the paths by role."""
    common = _common(lab, cluster)
    run = lab.host_run(node.name)
    agent = {
        **common,
        "node": node.name,
        "etcd": etcd_client(lab, topology, EtcdUser(cluster.name, NODE, node.name)),
        "bpffs": str(lab.bpffs(node.name)),
        "cgroup": str(lab.host(node.name).cgroup),
        "uplink": "uplink",
        "socket": str(run / "agent.sock"),
        "podNetns": f"/run/netns/{lab.name}-{{cluster}}_{{namespace}}_{{name}}",
        "hosts": topology.hosts,
        "egress": _egress(topology),
        "stateDir": str(run / "agent"),
    }
    if cluster.mode == "beside":
        agent["mode"] = cluster.mode
        del agent["podNetns"]
    if topology.hubble:
        agent["hubble"] = _hubble(lab, cluster, node)
    if topology.masquerade:
        agent["masquerade"] = _masquerade(topology.masquerade)
    speaker = {
        **common,
        "node": node.name,
        "etcd": etcd_client(lab, topology, EtcdUser(cluster.name, SPEAKER, node.name)),
        "runDir": str(speaker_directory(lab, node.name)),
        "socket": str(run / "speaker.sock"),
        "routerID": str(node.addresses[0]),
        "exabgpUser": str(USERS["exabgp"]),
    }
    configs = {"agent": agent} | ({"speaker": speaker} if topology.bgp else {})
    return {role: _write(run, role, tree) for role, tree in configs.items()}


def controller_configs(lab: Lab, topology: Topology, cluster: Cluster) -> dict[str, Path]:
    """Write controller.yaml and controller2.yaml of a cluster; the paths by role."""
    run = lab.host_run(cluster.nodes[0].name)
    written = {}
    for role, user in zip(_CONTROLLERS, _controllers(cluster), strict=True):
        tree: Document = {
            **_common(lab, cluster),
            "instance": user.name,
            "etcd": etcd_client(lab, topology, user),
            "pools": {
                "podCIDRs": _pool_list(cluster.pod_cidrs),
                "locators": _pool_list(cluster.locators),
            },
            "egress": _egress(topology),
            "leaseSeconds": topology.lease_seconds,
            "stateDir": str(run / role),
            "socket": str(run / role / f"{role}.sock"),
            "mode": cluster.mode,
        }
        written[role] = _write(run, role, tree)
        _hand_over(run / role)
    return written


def _masquerade(settings: MasqueradeSettings) -> Document:
    networks = [str(network) for network in settings.non_masquerade_cidrs]
    return {"mode": settings.mode, "nonMasqueradeCIDRs": networks, "ports": settings.ports}


def etcd_client(lab: Lab, topology: Topology, user: EtcdUser) -> Document:
    """The ``etcd`` section for one user."""
    pki = pki_directory(lab)
    files = files_of(pki, user.cn)
    return {
        "endpoints": [etcd_endpoint(topology)],
        "ca": str(pki / "ca.crt"),
        "cert": str(files.cert),
        "key": str(files.key),
    }


def _hand_over(state: Path) -> None:
    """The controller's folder is its user's, and so is its socket there."""
    state.mkdir(mode=0o700, exist_ok=True)
    os.chown(state, USERS["controller"], USERS["controller"])


def etcd_endpoint(topology: Fabric, number: int = 0) -> str:
    """Where the shared etcd answers, by the number of its address."""
    address = topology.etcd.addresses[number]
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"https://{host}:{topology.etcd.port}"


def meshgate(role: str, config: Path) -> tuple[str, ...]:
    """The command of an agent, a controller or a speaker, with the rights that its unit gives."""
    user = ("--user", str(USERS[role])) if role in USERS else ()
    return (sys.executable, "-m", "mesh.lab.confined", role, "--config", str(config), *user)


def program(name: str, *arguments: object) -> tuple[str, ...]:
    """The command of a program beside this file that needs nothing of the project."""
    return (sys.executable, str(_HERE / name), *map(str, arguments))


def etcd_users(topology: Topology) -> list[EtcdUser]:
    """The users of the lab's processes, beside ``root``."""
    users: list[EtcdUser] = []
    for cluster in topology.clusters:
        users += _controllers(cluster)
        users += [EtcdUser(cluster.name, r, n.name) for n in cluster.nodes for r in (NODE, SPEAKER)]
    return users


def _controllers(cluster: Cluster) -> list[EtcdUser]:
    """The users of both controllers; the name is that of the instance."""
    host = cluster.nodes[0].name
    return [EtcdUser(cluster.name, CONTROLLER, f"{host}-{role}") for role in _CONTROLLERS]


def hubble_names(topology: Topology) -> dict[str, str]:
    """The certificates of a Hubble relay and of each cluster's agents: what they are valid for."""
    if not topology.hubble:
        return {}
    return {RELAY: RELAY_NAME} | {
        f"hubble-{cluster.name}": f"*.{cluster.name}.{DOMAIN}" for cluster in topology.clusters
    }


def pki_directory(lab: Lab) -> Path:
    """Where certificates and keys lie."""
    return lab.run / "pki"


def write_manifests(lab: Lab, topology: Topology) -> None:
    """Write every cluster's objects into its folder, one file per kind."""
    for cluster in topology.clusters:
        directory = lab.manifests(cluster.name)
        directory.mkdir(parents=True, exist_ok=True)
        files = {
            "nodes": [_node(cluster, node) for node in cluster.nodes],
            "namespaces": [_object("v1", "Namespace", {"name": topology.pods.namespace})],
            "services": [_service_cidr(cluster), _service(topology, cluster)],
            "egress": [_egress_policy(topology, cluster)],
            "peers": [_peer(topology, cluster)] if topology.bgp else [],
            "contracts": _contracts(topology, cluster) if topology.contracts else [],
        }
        for _, node, name in (row for row in topology.pod_names if row[0] == cluster):
            files[f"pod-{name}"] = [_pod(topology, cluster, node, name)]
        for name, documents in files.items():
            replace_file(directory / f"{name}.yaml", _yaml(*documents), mode=0o644)


def frr_config(topology: Fabric) -> str:
    """The router's bgpd.conf."""
    peers = [Neighbor(node.addresses[0], cluster.asn) for cluster, node in topology.members]
    address = IPv4Address(topology.router.addresses[0])
    return router_config(topology.router.asn, address, peers)


def _common(lab: Lab, cluster: Cluster) -> Document:
    return {
        "cluster": {"name": cluster.name, "id": cluster.id},
        "manifests": str(lab.manifests(cluster.name)),
    }


def _hubble(lab: Lab, cluster: Cluster, node: NodeHost) -> Document:
    pki = pki_directory(lab)
    return {
        "listen": f"{node.addresses[0]}:{HUBBLE_PORT}",
        "ca": str(pki / "ca.crt"),
        "cert": str(pki / f"hubble-{cluster.name}.crt"),
        "key": str(pki / f"hubble-{cluster.name}.key"),
    }


def _egress(topology: Topology) -> Document:
    block = topology.egress
    return {"blockSize": block.block_size, "blocksPerNode": block.blocks_per_node}


def _pool_list(pools: tuple[Pool, ...]) -> list[Document]:
    return [{"cidr": str(pool.cidr), "nodePrefix": pool.node_prefix} for pool in pools]


def _write(directory: Path, role: str, tree: Document) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{role}.yaml"
    replace_file(path, _yaml(tree), mode=0o644)
    return path


def _object(version: str, kind: str, metadata: Document, **sections: object) -> Document:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **sections}


def _node(cluster: Cluster, node: NodeHost) -> Document:
    addresses = [{"type": "InternalIP", "address": str(each)} for each in node.addresses]
    metadata: Document = {"name": node.name, "labels": node.labels}
    spec: Document = {}
    if cluster.mode == "beside":
        spec["podCIDRs"] = [str(net) for net in bridge.subnets(cluster, node)]
    return _object("v1", "Node", metadata, spec=spec, status={"addresses": addresses})


def _pod(topology: Topology, cluster: Cluster, node: NodeHost, name: str) -> Document:
    app, namespace = name.rpartition("-")[0], topology.pods.namespace
    metadata: Document = {
        "name": name,
        "namespace": namespace,
        "labels": {"app": app},
    }
    command = ["sleep", "infinity"]
    if app == "web":
        command = list(program("web.py", WEB_PORT, f"{cluster.name}/{namespace}/{name}"))
    spec = {"nodeName": node.name, "containers": [{"name": app, "command": command}]}
    return _object("v1", "Pod", metadata, spec=spec)


def _service(topology: Topology, cluster: Cluster) -> Document:
    addresses = [str(network[10]) for network in cluster.services]
    metadata: Document = {
        "name": "web",
        "namespace": topology.pods.namespace,
        "annotations": {"service.cilium.io/global": "true"},
    }
    port = {"name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": WEB_PORT}
    spec = {
        "clusterIP": addresses[0],
        "clusterIPs": addresses,
        "ports": [port],
        "selector": {"app": "web"},
    }
    return _object("v1", "Service", metadata, spec=spec)


def _service_cidr(cluster: Cluster) -> Document:
    spec = {"cidrs": [str(network) for network in cluster.services]}
    return _object("networking.k8s.io/v1", "ServiceCIDR", {"name": "kubernetes"}, spec=spec)


def _egress_policy(topology: Topology, cluster: Cluster) -> Document:
    spec = {
        "selectors": [{"podSelector": {"matchLabels": {"app": "client"}}}],
        "destinationCIDRs": [str(network) for network in topology.legacy.networks],
        "addresses": [str(address) for address in cluster.egress],
        "gateways": {"nodeSelector": {"matchLabels": dict([GATEWAY_LABEL])}},
    }
    return _object("meshgate.io/v1alpha1", "EgressPolicy", {"name": POLICY}, spec=spec)


def _peer(topology: Topology, cluster: Cluster) -> Document:
    spec = {
        "nodeSelector": {},
        "address": str(topology.router.addresses[0]),
        "asn": topology.router.asn,
        "localASN": cluster.asn,
        "advertise": ["podCIDRs", "egressIPs", "srv6Locators"],
        "holdSeconds": HOLD_S,
        "gracefulRestartSeconds": RESTART_S,
    }
    return _object("meshgate.io/v1alpha1", "BGPPeer", {"name": "router"}, spec=spec)


def _contracts(topology: Topology, cluster: Cluster) -> list[Document]:
    others = (other for other in topology.clusters if other.name != cluster.name)
    return [_contract(topology, other) for other in others]


def _contract(topology: Topology, other: Cluster) -> Document:
    """What the other cluster has by the topology; the nodes of all clusters are in one fabric."""
    spec = {
        "cluster": other.name,
        "id": other.id,
        "podCIDRs": [str(cidr) for cidr in _pod_networks(other)],
        "nodeCIDRs": [str(one) for one in (*topology.fabric, *(p.cidr for p in other.locators))],
        "serviceCIDRs": [str(network) for network in other.services],
        "namespaces": [topology.pods.namespace],
    }
    return _object("meshgate.io/v1alpha1", "ClusterPeer", {"name": other.name}, spec=spec)


def _pod_networks(cluster: Cluster) -> list[Network]:
    """Where the pods of a cluster have their addresses."""
    if cluster.mode == "whole":
        return [pool.cidr for pool in cluster.pod_cidrs]
    return [net for node in cluster.nodes for net in bridge.subnets(cluster, node)]


def _yaml(*documents: object) -> str:
    return str(yaml.safe_dump_all(documents, sort_keys=False))
