"""``lab kube up`` and ``down``: real clusters in the fabric of the lab, each step with its time.

Up: programs and images (built once per machine), namespaces, shared etcd, router, legacy server,
then each cluster: its nodes, the control plane first, its network, its DNS. It ends when all nodes
are Ready, or with ``cni: none`` when they are registered. What fails stays up for inspection.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from string import Template
from typing import Any

from clustermesh.etcd.auth import CONTROLLER, NODE, SPEAKER, EtcdUser
from clustermesh.issued import ROOT, write_pki
from mesh.core.files import replace_file
from mesh.core.model import Network
from mesh.lab import enter, neighbours, network, processes, settings
from mesh.lab.bringup import Progress
from mesh.lab.kube import builds, cgroups, configs, credentials, images, machine, node
from mesh.lab.kube.topology import Cluster, Topology
from mesh.lab.places import NETNS, OWN, Lab, LabError

#: Generous: a loaded machine starts slowly, and whoever is ready ends the wait.
API_WITHIN_S = 180.0
NODES_WITHIN_S = 300.0
DNS_WITHIN_S = 180.0
#: Programs of each node, by their names.
_PROGRAMS = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"),
    *("kubectl", "containerd", "containerd-shim-runc-v2", "ctr"),
)
_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
_FABRIC_MTU = 1500
_SYSTEM = Path(__file__).with_name("system.yaml")
_FOLDERS = ("pki", "secrets", "programs", "kubectl", OWN)
_FILES = ("lab.json", "lab.json.new", "topology.yaml", "routes.json", "machine.json", "lock")


def up(lab: Lab, topology: Topology, text: str) -> None:
    """Build and start everything. ``text`` is the topology's file.

    Raises:
        LabError: a part could not be built or started; what stands is left for inspection.

    """
    progress = Progress()
    _claim(lab, topology, text)
    try:
        parts = _parts(lab, topology)
        progress.say("programs and images are built")
        _build_fabric(lab, topology)
        progress.say(f"{len(network.hosts(topology))} hosts are connected, etcd and router run")
        for cluster in topology.clusters:
            _start_cluster(lab, topology, cluster, parts, progress)
        for cluster in topology.clusters:
            _connect(lab, cluster, progress)
    except subprocess.CalledProcessError as error:
        words = (error.stderr or error.stdout or "").strip()
        raise LabError(f"{' '.join(map(str, error.cmd))}: {words}") from error
    processes.update(lab, lambda state: replace(state, complete=True))
    progress.say(f"lab {lab.name} is up")


def down(lab: Lab, *, force: bool = False) -> None:
    """Kill and remove everything that was recorded; with ``force`` also what is named like it."""
    state = processes.read(lab)
    for process in processes.alive(lab):
        processes.kill(process)  # a node's process 1 takes all of its pods along
    processes.kill_tree(lab.cgroup)
    names = set(state.netns if state else ())
    if force:
        names |= {path.name for path in NETNS.glob(f"{lab.name}-*")}
    network.remove(sorted(names))
    cgroups.remove(lab)
    machine.restore(lab)
    _remove_run(lab, {name.removeprefix(f"{lab.name}-") for name in names})


def etcd_users(topology: Topology) -> list[EtcdUser]:
    """The users of the shared etcd, beside ``root``: those of each cluster."""
    users = []
    for cluster in topology.clusters:
        users.append(EtcdUser(cluster.name, CONTROLLER, cluster.control_plane.name))
        users += [EtcdUser(cluster.name, r, n.name) for n in cluster.nodes for r in (NODE, SPEAKER)]
    return users


def kubectl(lab: Lab, cluster: Cluster, *arguments: str, given: str = "") -> str:
    """What ``kubectl`` prints, run where the API server is; ``given`` is its standard input.

    Raises:
        subprocess.CalledProcessError: it failed; its words are in the error.

    """
    program = str(node.programs_folder(lab) / "kubectl")
    config = str(credentials.kubeconfig(lab, cluster))
    place = lab.host(cluster.control_plane.name)
    command = enter.argv(place, [program, "--kubeconfig", config, *arguments])
    environment = {**os.environ, **node.kubectl_environment(lab)}
    answer = subprocess.run(
        command, input=given, text=True, capture_output=True, check=True, env=environment
    )
    return answer.stdout


def _claim(lab: Lab, topology: Topology, text: str) -> None:
    """Record what is about to be made, so that even a killed run can be taken down."""
    lab.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(lab.topology, text)
    names = tuple(lab.host(name).netns for name in network.hosts(topology))
    for name in names:
        if (NETNS / name).exists():
            raise LabError(f"namespace {name} exists already: `meshgate lab kube down --force`")
    processes.update(lab, lambda _: processes.State(netns=names))
    machine.keep(lab)


@dataclass(frozen=True, slots=True)
class Parts:
    """What every node gets a copy of."""

    archives: Sequence[Path]
    plugins: Mapping[str, Path]


def _parts(lab: Lab, topology: Topology) -> Parts:
    """Build programs and images, and lay the programs where the nodes' PATH leads."""
    used = {cluster.cni for cluster in topology.clusters}
    programs = builds.programs(*_PROGRAMS, *(used & {"kube-router"}))
    folder = node.programs_folder(lab)
    folder.mkdir(exist_ok=True)
    for name, path in programs.items():
        (folder / name).symlink_to(path)
    return Parts(images.ready(), builds.programs(*_PLUGINS))


def _build_fabric(lab: Lab, topology: Topology) -> None:
    for host in (OWN, *network.hosts(topology)):
        lab.host(host).cgroup.mkdir(parents=True, exist_ok=True)
        lab.host_run(host).mkdir(parents=True, exist_ok=True)
    network.build(lab, topology)
    # A switch hands no frame to netfilter; the setting exists once the kernel has the module.
    switch = {f"net.bridge.bridge-nf-call-{name}": 0 for name in ("iptables", "ip6tables")}
    network.set_sysctls(lab.host("router"), switch)
    served = [str(address) for address in topology.etcd.addresses]
    users = etcd_users(topology)
    write_pki(settings.pki_directory(lab), [ROOT], served, [user.cn for user in users])
    neighbours.start(lab, topology, users)


def _start_cluster(
    lab: Lab, topology: Topology, cluster: Cluster, parts: Parts, progress: Progress
) -> None:
    """Start its nodes; the API server's is first, since kubelets wait for it a while."""
    credentials.write(lab, cluster)
    api = (str(cluster.control_plane.addresses[0]), str(credentials.API_PORT))
    namespace, port = lab.host("router").netns_path, credentials.port_file(lab, cluster)
    module = (sys.executable, "-m", "mesh.lab.kube.forward")
    command = (*module, str(namespace), *api, str(port))
    neighbours.spawn(lab, OWN, f"api-{cluster.name}", command)
    for _, each in (row for row in topology.nodes if row[0] == cluster):
        node.prepare(lab, cluster, each, parts.archives, parts.plugins)
        node.start(lab, topology, each)
    _wait(API_WITHIN_S, lambda: _api_problem(lab, cluster))
    progress.say(f"{cluster.name}: the API server is ready")
    values = {
        "COREDNS": images.COREDNS,
        "DNS": str(cluster.dns),
        "KUBELET_CLIENT": credentials.KUBELET_CLIENT,
    }
    documents = Template(_SYSTEM.read_text()).safe_substitute(values)
    kubectl(lab, cluster, "apply", "-f", "-", given=documents)


def _connect(lab: Lab, cluster: Cluster, progress: Progress) -> None:
    """Wait for its nodes, give them their network, and wait until they are Ready."""
    _wait(NODES_WITHIN_S, lambda: _unregistered(lab, cluster))
    for each in cluster.nodes:
        labels = [f"{name}={value}" for name, value in each.labels.items()]
        if each.control_plane:
            labels.append("node-role.kubernetes.io/control-plane=")
        if labels:
            kubectl(lab, cluster, "label", "--overwrite", "node", each.name, *labels)
    progress.say(f"{cluster.name}: {len(cluster.nodes)} nodes are registered")
    if cluster.cni == "none":
        return
    if cluster.cni == "bridge":
        _bridge(lab, cluster)
    _wait(NODES_WITHIN_S, lambda: _not_ready(lab, cluster))
    progress.say(f"{cluster.name}: the nodes are Ready")
    wait = f"--timeout={DNS_WITHIN_S:.0f}s"
    kubectl(lab, cluster, "-n", "kube-system", "rollout", "status", "deployment/coredns", wait)
    progress.say(f"{cluster.name}: DNS is ready")


def _bridge(lab: Lab, cluster: Cluster) -> None:
    """The reference bridge on each node; nodes and router have routes to each node's pods."""
    cidrs = pod_cidrs(nodes(lab, cluster))
    routes = {each.name: configs.pod_routes(cidrs[each.name], each) for each in cluster.nodes}
    known = json.loads(node.routes_file(lab).read_text()) if node.routes_file(lab).exists() else {}
    replace_file(node.routes_file(lab), json.dumps(known | routes, indent=1))
    for name in ("router", *(each.name for each in cluster.nodes)):
        lines = [line for owner, found in routes.items() if owner != name for line in found]
        network.add_routes(lab.host(name), lines)
    for each in cluster.nodes:
        conflist = configs.bridge_conflist(cidrs[each.name], _FABRIC_MTU)
        node.set_cni(lab, each.name, configs.CONFLIST, conflist)


def pod_cidrs(nodes: list[dict[str, Any]]) -> dict[str, list[Network]]:
    """The pod CIDRs of each node, from Node objects; they are not handed out in any order."""
    return {
        each["metadata"]["name"]: [ip_network(text) for text in each["spec"].get("podCIDRs", ())]
        for each in nodes
    }


def nodes(lab: Lab, cluster: Cluster) -> list[dict[str, Any]]:
    """The Node objects of a cluster."""
    items: list[dict[str, Any]] = json.loads(kubectl(lab, cluster, "get", "nodes", "-o", "json"))[
        "items"
    ]
    return items


def _wait(seconds: float, problem: Callable[[], str]) -> None:
    """Wait until there is no problem any more. Raises LabError with the last one."""
    last = [""]

    def gone() -> bool:
        last[0] = problem()
        return not last[0]

    if not processes.wait_until(gone, seconds, pause=0.3):
        raise LabError(f"{last[0]} (after {seconds:.0f} s)")


def _api_problem(lab: Lab, cluster: Cluster) -> str:
    try:
        kubectl(lab, cluster, "get", "--raw", "/readyz")
        kubectl(lab, cluster, "get", "namespace", "kube-system")  # made some time afterwards
    except subprocess.CalledProcessError as error:
        log = lab.host_run(cluster.control_plane.name) / "kube-apiserver.log"
        return f"{cluster.name}: the API server is not ready: {error.stderr.strip()}; see {log}"
    return ""


def _unregistered(lab: Lab, cluster: Cluster) -> str:
    ready = {name for name, cidrs in pod_cidrs(nodes(lab, cluster)).items() if cidrs}
    missing = [each.name for each in cluster.nodes if each.name not in ready]
    return f"{cluster.name}: no pod CIDR has {', '.join(missing)}" if missing else ""


def _not_ready(lab: Lab, cluster: Cluster) -> str:
    missing = [row for row in nodes(lab, cluster) if not is_ready(row)]
    names = ", ".join(row["metadata"]["name"] for row in missing)
    return f"{cluster.name}: not Ready: {names}" if missing else ""


def is_ready(document: dict[str, Any]) -> bool:
    """Whether a Node object says Ready."""
    conditions = document["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _remove_run(lab: Lab, hosts: set[str]) -> None:
    """Remove what the bed has written; a file that somebody else left there stays."""
    if not lab.run.is_dir():
        return
    for name in {*_FOLDERS, *hosts}:
        shutil.rmtree(lab.run / name, ignore_errors=True)
    for name in _FILES:
        (lab.run / name).unlink(missing_ok=True)
    if not any(lab.run.iterdir()):
        lab.run.rmdir()
