"""A node's namespaces, folders and process 1: made, started, ended, entered.

The first process is recorded like every process of a lab (role ``node``); what is recorded is
``unshare``, and its only child is the node's process 1, whose death is a power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from mesh.core.files import replace_file
from mesh.lab import enter, network, processes
from mesh.lab.kube import cgroups, configs, credentials
from mesh.lab.kube.init import Plan, children, outer_pids
from mesh.lab.kube.topology import Cluster, Node, Topology
from mesh.lab.places import Lab, LabError
from mesh.lab.processes import Process

ROLE = "node"
STARTS_WITHIN_S = 10.0
#: Every kind of namespace that a node has of its own.
_ALL = ("--mount", "--net", "--pid", "--uts", "--ipc")


def paths(lab: Lab, cluster: Cluster, node: Node) -> configs.Paths:
    """Where a node finds its files."""
    place = credentials.folder(lab, cluster)
    return configs.Paths(lab.host_run(node.name), place, cgroups.root(lab, node.name))


def prepare(
    lab: Lab,
    cluster: Cluster,
    node: Node,
    archives: Sequence[Path],
    plugins: Mapping[str, Path],
) -> None:
    """Write the node's folder: what its programs read, and the plan of its process 1.

    ``archives`` are its images, ``plugins`` its CNI plugins by name.
    """
    found = paths(lab, cluster, node)
    for name in configs.FOLDERS:
        (found.folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("etc-cni/net.d", "opt-cni/bin"):
        (found.folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in configs.files(cluster, node, found).items():
        replace_file(found.folder / name, text, mode=0o644)
    for name, plugin in plugins.items():
        shutil.copy2(plugin, found.folder / "opt-cni" / "bin" / name)
    if cluster.cni == "kube-router":
        set_cni(lab, node.name, configs.KUBE_ROUTER_CONFLIST, configs.kube_router_conflist())
    binds = [(str(found.folder / own), seen) for own, seen in configs.FOLDERS.items()]
    plan = Plan(
        node.name,
        str(found.folder),
        (*binds, (str(lab.host(node.name).cgroup), configs.CGROUP)),
        configs.services(cluster, node, found, archives),
        search_path(lab),
    )
    replace_file(_plan(lab, node.name), json.dumps(asdict(plan), indent=1))


def start(lab: Lab, topology: Topology, node: Node) -> None:
    """Start a node, in a network namespace made anew when it has run before.

    Raises:
        LabError: it runs already, or its process 1 does not start.

    """
    before = recorded(lab, node.name)
    if before is not None:
        if is_up(lab, node.name):
            raise LabError(f"node {node.name} runs already (pid {pid(lab, node.name)})")
        processes.wait_until(lambda: not processes.is_alive(before), STARTS_WITHIN_S)
        network.rebuild(lab, topology, node.name)
        cgroups.clear(lab, node.name)
    cgroups.make(lab, node.name)
    network.add_routes(lab.host(node.name), _routes(lab, topology, node))
    argv = (
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
        *("--uts", "--ipc", "--"),
        *(sys.executable, "-m", "mesh.lab.kube.init", str(_plan(lab, node.name))),
    )
    mounted = _services_file(lab, node.name)
    mounted.unlink(missing_ok=True)
    process = Process(node.name, ROLE, argv, str(lab.host_run(node.name) / "init.log"))
    processes.spawn(lab, process, lab.host(node.name))
    if not processes.wait_until(mounted.exists, STARTS_WITHIN_S):
        raise LabError(f"node {node.name} does not start: see {process.log}")


def stop(lab: Lab, node: str) -> None:
    """Cut the power of a node. Raises LabError when it does not run."""
    number = pid(lab, node)
    if not number:
        raise LabError(f"node {node} does not run")
    os.kill(number, 9)
    if not processes.wait_until(lambda: not is_up(lab, node), STARTS_WITHIN_S):
        raise LabError(f"node {node} (pid {number}) does not end")


def recorded(lab: Lab, node: str) -> Process | None:
    """The node's process as it was started last."""
    state = processes.read(lab)
    return state.processes.get(f"{node}/{ROLE}") if state else None


def is_up(lab: Lab, node: str) -> bool:
    """Whether the node's process 1 runs."""
    return pid(lab, node) > 0


def pid(lab: Lab, node: str) -> int:
    """The number of the node's process 1 on this machine; 0 while it does not run."""
    process = recorded(lab, node)
    if process is None or not processes.is_alive(process):
        return 0
    for child in children(process.pid):
        if processes.born(child) is not None:
            return child
    return 0


def service_pids(lab: Lab, node: str) -> dict[str, int]:
    """The numbers of its services on this machine, by name."""
    try:
        inner = json.loads(_services_file(lab, node).read_text())
    except (OSError, ValueError):
        return {}
    return outer_pids(pid(lab, node), inner)


def stop_service(lab: Lab, node: str, name: str) -> None:
    """End a service of a node, which stays so over reboots. Raises LabError."""
    if name not in service_pids(lab, node):
        raise LabError(f"{node}/{name} does not run")
    (lab.host_run(node) / f"{name}.stop").touch()
    if not processes.wait_until(lambda: name not in service_pids(lab, node), STARTS_WITHIN_S):
        raise LabError(f"{node}/{name} still runs {STARTS_WITHIN_S:.0f} s after SIGTERM")


def start_service(lab: Lab, node: str, name: str) -> None:
    """Let a service run again. Raises LabError."""
    mark = lab.host_run(node) / f"{name}.stop"
    if not mark.exists():
        raise LabError(f"{node}/{name} was not stopped")
    mark.unlink()
    if not processes.wait_until(lambda: name in service_pids(lab, node), STARTS_WITHIN_S):
        raise LabError(f"{node}/{name} does not start: see {lab.host_run(node) / name}.log")


def argv(lab: Lab, node: str, command: Sequence[str]) -> list[str]:
    """The argument list that runs a command on a node, in all of its namespaces.

    Raises:
        LabError: the node does not run.

    """
    number = pid(lab, node)
    if not number:
        raise LabError(f"node {node} does not run: `meshgate lab kube start {node}`")
    inside = ["nsenter", "--target", str(number), *_ALL, "--", *command]
    place = replace(lab.host(node), netns="")
    return enter.argv(place, ["env", f"PATH={search_path(lab)}", *inside])


def search_path(lab: Lab) -> str:
    """PATH of everything on a node: the bed's programs hide others of the same name."""
    return f"{programs_folder(lab)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def kubectl_environment(lab: Lab) -> dict[str, str]:
    """Variables of kubectl: what it remembers of an API server goes with the bed."""
    return {"KUBECACHEDIR": str(lab.run / "kubectl")}


def programs_folder(lab: Lab) -> Path:
    """A folder with a link to each program of the bed, under its own name."""
    return lab.run / "programs"


def set_cni(lab: Lab, node: str, name: str, conflist: str) -> None:
    """Give a node a network."""
    folder = lab.host_run(node) / "etc-cni" / "net.d"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / name, conflist, mode=0o644)


def _routes(lab: Lab, topology: Topology, node: Node) -> list[str]:
    """The routes to the pods of other nodes, where the bed keeps any (``routes.json``)."""
    with suppress(OSError, ValueError):
        lines: dict[str, list[str]] = json.loads(routes_file(lab).read_text())
        others = {other.name for _, other in topology.nodes if other.name != node.name}
        return [line for name, found in lines.items() if name in others for line in found]
    return []


def routes_file(lab: Lab) -> Path:
    """The routes to each node's pods, for nodes that are started again."""
    return lab.run / "routes.json"


def _services_file(lab: Lab, node: str) -> Path:
    """Written by process 1 when everything is mounted, and whenever a service starts or ends."""
    return lab.host_run(node) / "services.json"


def _plan(lab: Lab, node: str) -> Path:
    return lab.host_run(node) / "plan.json"
