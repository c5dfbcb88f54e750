"""The files that the lab's processes read: configurations, manifests, the router's FRR text."""

from __future__ import annotations

import json
import os
import sys
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import yaml

from bgp.peer import BFD
from bgp.routers import bird, frr
from bgp.routers.side import UNICAST, VPN, Neighbor
from clustermesh.etcd.auth import CONTROLLER, FEED, NODE, SPEAKER, EtcdUser
from clustermesh.issued import files_of
from mesh.core.files import replace_file
from mesh.core.model import Network
from mesh.lab import bridge, edge, tenants
from mesh.lab.fabric import Edge, Fabric, Router
from mesh.lab.places import USERS, Lab
from mesh.lab.processes import speaker_directory
from mesh.lab.topology import GATEWAY_LABEL, Cluster, Feed, NodeHost, Topology
from mesh.masquerade.settings import MasqueradeSettings
from mesh.observe.relays import DOMAIN
from mesh.pools.settings import Pool

POLICY = "erp"
WEB_PORT = 8080
SERVICE_PORT = 80
HOLD_S = 9
RESTART_S = 120
HUBBLE_PORT = 4244
#: The registered firewall, the stem of its server's files, and how the firewall fetches and loads.
FIREWALL, FEED_SERVER = "firewall", "feed-server"
SYNC = {"poll": 1.0, "load": 0.5, "table": "inet firewall", "sets": ["feed4", "feed6"]}
#: A relay's certificate as server, the name by which the command line knows it, and the certificate
#: by which it and the command line are clients.
RELAY, RELAY_NAME = "hubble-relay", "lab.hubble-relay.cilium.io"
RELAY_CLIENT = "hubble-client"
_HERE = Path(__file__).parent
_ADVERTISED = ("podCIDRs", "egressIPs", "srv6Locators")
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
    if topology.pe:  # it sends from its own address, and the session is the router's
        sources = [str(ip_network(a)) for a in topology.pe.addresses if a.version == 6]
        agent["srv6"] = {"domain": sources}
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
        "bpffs": str(lab.bpffs(node.name)),
        "mode": cluster.mode,
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
        _hand_over(run / role, "controller")
    return written


def feed_config(lab: Lab, topology: Topology, cluster: Cluster, feed: Feed) -> Path:
    """Write feed.yaml of a cluster, and what the firewall fetches by; the path of the former."""
    host = cluster.nodes[0]
    run, pki = lab.host_run(host.name), pki_directory(lab)
    served = files_of(pki, FEED_SERVER)
    firewall: Document = {
        "name": FIREWALL,
        "groups": ["*"],
        "credentials": {"user": FIREWALL, "passwordFile": str(feed_password(lab))},
        "settleSeconds": feed.settle_seconds,
    }
    tree: Document = {
        **_common(lab, cluster),
        "instance": f"{host.name}-feed",
        "etcd": etcd_client(lab, topology, _feed(cluster)),
        "stateDir": str(run / "feed"),
        "socket": str(run / "feed" / "feed.sock"),
        "listen": f"[::]:{feed.port}",
        "tls": {"cert": str(served.cert), "key": str(served.key)},
        "firewalls": [firewall],
    }
    _hand_over(run / "feed", "feed")
    replace_file(firewall_config(lab), json.dumps(feed_shown(lab, topology) | SYNC))
    return _write(run, "feed", tree)


def feed_password(lab: Lab) -> Path:
    """The file with the firewall's password."""
    return pki_directory(lab) / "firewall.password"


def firewall_config(lab: Lab) -> Path:
    """What ``firewall_sync.py`` reads before each round."""
    return lab.host_run("firewall") / "sync.json"


def feed_shown(lab: Lab, topology: Topology) -> Document:
    """The feed for ``show``: where it is, and the firewall's credentials; empty without one."""
    cluster, feed = topology.feeding, topology.feed
    if cluster is None or feed is None:
        return {}
    address = cluster.nodes[0].addresses[0]
    return {
        "host": cluster.nodes[0].name,
        "address": str(address),
        "port": feed.port,
        "url": f"https://{address}:{feed.port}/feeds/",
        "ca": str(pki_directory(lab) / "ca.crt"),
        "firewall": FIREWALL,
        "user": FIREWALL,
        "password": feed_password(lab).read_text().strip() if feed_password(lab).exists() else "",
        "groups": [POLICY],
        "firewallSync": str(firewall_config(lab)),
    }


def feed_names(topology: Topology) -> list[str]:
    """The addresses for which the feed's certificate is valid."""
    cluster = topology.feeding
    return [str(one) for one in cluster.nodes[0].addresses] if cluster else []


def _feed(cluster: Cluster) -> EtcdUser:
    return EtcdUser(cluster.name, FEED, f"{cluster.nodes[0].name}-feed")


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


def _hand_over(state: Path, role: str) -> None:
    """The folder of a process without root is its user's, and so is its socket there."""
    state.mkdir(mode=0o700, exist_ok=True)
    os.chown(state, USERS[role], USERS[role])


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
    if topology.feeding:
        users.append(_feed(topology.feeding))
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
        if topology.pe is not None and topology.pe.vrfs:
            files |= _tenants(topology, topology.pe, cluster)
        for name, documents in files.items():
            replace_file(directory / f"{name}.yaml", _yaml(*documents), mode=0o644)


def _tenants(topology: Topology, pe: Edge, cluster: Cluster) -> dict[str, list[Document]]:
    """VRFs, namespaces and pods of the tenants, one file per kind and pod."""
    files = {
        "vrfs": [tenants.vrf(pe, cluster, tenant) for tenant in pe.tenants],
        "tenants": [tenants.namespace(tenant) for tenant in pe.tenants],
    }
    server = program("legacy.py", pe.tcp, pe.udp)
    for one in tenants.made(topology):
        if one.cluster == cluster:
            files[f"pod-{one.tenant.name}-{one.name}"] = [tenants.pod(one, server)]
    return files


def frr_configs(topology: Fabric) -> dict[str, str]:
    """The router's configuration by daemon, in the order in which they start."""
    peers = _neighbors(topology)
    peers += [edge.neighbor(topology.pe)] if topology.pe else []
    address = IPv4Address(topology.router.addresses[0])
    configs = {"zebra": "", "bgpd": frr.router_config(topology.router.asn, address, peers)}
    return configs | ({"bfdd": frr.bfd_config(peers)} if topology.router.bfd else {})


def edge_configs(pe: Edge, topology: Fabric) -> dict[str, str]:
    """The provider edge's configuration by daemon."""
    return {"zebra": edge.zebra_config(pe), "bgpd": edge.bgpd_config(topology, pe)}


def bird_config(second: Router, topology: Fabric) -> str:
    """The second router's bird.conf: it knows the way to the legacy network, too."""
    address = IPv4Address(second.addresses[0])
    vias = zip(topology.legacy.networks, topology.router.addresses, strict=True)
    static = [(network, f"via {via}") for network, via in vias]
    return bird.router_config(second.asn, address, _neighbors(topology), static)


def _neighbors(topology: Fabric) -> list[Neighbor]:
    """The nodes as a router sees them."""
    families = (*UNICAST, *VPN) if topology.pe else UNICAST
    bfd = BFD(topology.router.bfd_interval) if topology.router.bfd else None
    return [
        Neighbor(node.addresses[0], cluster.asn, name=node.name, families=families, bfd=bfd)
        for cluster, node in topology.members
    ]


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
    spec: Document = {
        "nodeSelector": {},
        "address": str(topology.router.addresses[0]),
        "asn": topology.router.asn,
        "localASN": cluster.asn,
        "advertise": list(_ADVERTISED),
        "holdSeconds": HOLD_S,
        "gracefulRestartSeconds": RESTART_S,
    }
    if topology.router.bfd:
        interval = topology.router.bfd_interval
        spec["bfd"] = {"interval": interval, "multiplier": BFD().multiplier}
    if topology.pe is not None:
        spec["families"] = ["ipv4Unicast", "ipv6Unicast", "vpnv4", "vpnv6"]
        spec["acceptSIDs"] = True
        spec["advertise"] = [*_ADVERTISED, "vrfs"]
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
        "namespaces": sorted({topology.pods.namespace, *tenants.namespaces(topology)}),
    }
    return _object("meshgate.io/v1alpha1", "ClusterPeer", {"name": other.name}, spec=spec)


def _pod_networks(cluster: Cluster) -> list[Network]:
    """Where the pods of a cluster have their addresses."""
    if cluster.mode == "whole":
        return [pool.cidr for pool in cluster.pod_cidrs]
    return [net for node in cluster.nodes for net in bridge.subnets(cluster, node)]


def _yaml(*documents: object) -> str:
    return str(yaml.safe_dump_all(documents, sort_keys=False))
