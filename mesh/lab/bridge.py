"""Another CNI in the lab: the reference plugin ``bridge`` connects the pods of a cluster beside.

Addresses come from a subnet of each node (``host-local``), which the lab's kubelet writes into the
status of the pod's manifest, as a real one does. Nodes have routes to each other's subnets, and
masquerade what leaves the cluster. Nothing of Meshgate is needed for that, or known to it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_interface
from pathlib import Path

import yaml

from mesh.core.files import replace_file
from mesh.core.model import IP
from mesh.lab import enter
from mesh.lab.places import Lab, Place
from mesh.lab.topology import Cluster, NodeHost

#: Where Debian has the plugins.
PLUGINS = Path("/usr/lib/cni")
BRIDGE = "cni0"
_V4, _V6 = IPv4Network("10.244.0.0/16"), IPv6Network("fd44::/48")


def subnets(cluster: Cluster, node: NodeHost) -> tuple[IPv4Network, IPv6Network]:
    """The pod networks of a node."""
    number = cluster.id * 16 + cluster.nodes.index(node)
    v6 = int(_V6.network_address) + (number << 64)
    return list(_V4.subnets(new_prefix=24))[number], IPv6Network((v6, 64))


def prepare(lab: Lab, cluster: Cluster, node: NodeHost) -> None:
    """Routes to the pods of the other nodes, and masquerade of what leaves for the world."""
    place = lab.host(node.name)
    lines = []
    for other in cluster.nodes:
        if other != node:
            pairs = zip(subnets(cluster, other), other.addresses, strict=True)
            lines += [f"route replace {net} via {address}" for net, address in pairs]
    _run(place, ["ip", "-batch", "-"], "\n".join(lines))
    _run(place, ["nft", "-f", "-"], _masquerade())


def connect(lab: Lab, cluster: Cluster, node: NodeHost, pod: Place) -> tuple[IP, ...]:
    """Connect a pod as a container runtime does; its addresses."""
    answer = _plugin(lab, cluster, node, pod, "ADD")
    return tuple(ip_interface(one["address"]).ip for one in answer["ips"])


def disconnect(lab: Lab, cluster: Cluster, node: NodeHost, pod: Place) -> None:
    """Give a pod's addresses back."""
    _plugin(lab, cluster, node, pod, "DEL")


def report(manifest: Path, addresses: tuple[IP, ...]) -> None:
    """Write the addresses into the status of the pod that the manifest holds."""
    document = yaml.safe_load(manifest.read_text())
    status = {"phase": "Running", "podIPs": [{"ip": str(one)} for one in addresses]}
    if document.get("status") != status:
        text = str(yaml.safe_dump({**document, "status": status}, sort_keys=False))
        replace_file(manifest, text, mode=0o644)


def _plugin(
    lab: Lab, cluster: Cluster, node: NodeHost, pod: Place, command: str
) -> Mapping[str, list[Mapping[str, str]]]:
    network = {
        "cniVersion": "1.0.0",
        "name": f"{lab.name}-{node.name}",
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(lab.host_run(node.name) / "cni"),
            "ranges": [[{"subnet": str(net)}] for net in subnets(cluster, node)],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    words = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod.netns.replace(".", "-"),
        "CNI_NETNS": str(pod.netns_path),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGINS),
    }
    argv = ["env", *(f"{name}={value}" for name, value in words.items()), str(PLUGINS / "bridge")]
    said = _run(lab.host(node.name), argv, json.dumps(network))
    answer: Mapping[str, list[Mapping[str, str]]] = json.loads(said) if said.strip() else {}
    return answer


def _masquerade() -> str:
    return f"""table inet lab_cni {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {_V4} ip daddr != {_V4} masquerade
    ip6 saddr {_V6} ip6 daddr != {_V6} masquerade
  }}
}}
"""


def _run(place: Place, command: list[str], text: str) -> str:
    argv = enter.argv(place, command)
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    if done.returncode:
        raise OSError(f"{command[0]} on {place.netns}: {done.stderr}{done.stdout}")
    return done.stdout
