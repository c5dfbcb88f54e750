"""What the verbs of ``meshgate lab kube`` do (``verbs.py``)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from mesh.lab import enter, neighbours, network, places, processes
from mesh.lab.forms import print_tree
from mesh.lab.kube import bringup, credentials, node, topology
from mesh.lab.kube.topology import Topology
from mesh.lab.places import Lab, LabError

Command = Callable[[Lab, argparse.Namespace], int]
#: The variables that name the bed and its folder, with their defaults. Its folder is no part of
#: /run: each node has a /run of its own.
NAME = ("MESHGATE_KUBE", "mgk")
RUN = ("MESHGATE_KUBE_RUN", "/var/lib/meshgate-kube")


def run(verb: str, options: argparse.Namespace) -> int:
    """Exit status of a verb on the bed of this environment."""
    try:
        return VERBS[verb](places.current(NAME, RUN), options)
    except LabError as error:
        print(f"meshgate lab kube: {error}", file=sys.stderr)
        return error.status


def _up(lab: Lab, options: argparse.Namespace) -> int:
    shape = topology.load(options.file)
    state = processes.read(lab)
    if state is not None and state.complete and processes.alive(lab):
        if topology.load(lab.topology) != shape:
            raise LabError("a bed of another topology is up: `meshgate lab kube down` first")
        print(f"lab {lab.name} is up already")
        return 0
    if state is not None:
        print(f"removing what an earlier run of lab {lab.name} left", flush=True)
        bringup.down(lab)
    bringup.up(lab, shape, options.file.read_text())
    return 0


def _down(lab: Lab, options: argparse.Namespace) -> int:
    for line in processes.take_down(lab, bringup.down, force=options.force):
        print(line)
    return 0


def _show(lab: Lab, options: argparse.Namespace) -> int:
    print_tree(shown(lab, current(lab)), options.output)
    return 0


def shown(lab: Lab, shape: Topology) -> dict[str, object]:
    """All that a script must know of the bed."""
    return {
        "clusters": {
            each.name: {
                "id": each.id,
                "cni": each.cni,
                "proxy": each.proxy,
                "controlPlane": each.control_plane.name,
                "server": credentials.server(each),
                "kubeconfig": str(credentials.kubeconfig(lab, each)),
                "egress": [str(address) for address in each.egress],
            }
            for each in shape.clusters
        },
        "nodes": {each.name: _node(lab, cluster.name, each) for cluster, each in shape.nodes},
        "hosts": {
            host: {
                "netns": lab.host(host).netns,
                "addresses": [str(address) for address in shape.addresses[host]],
            }
            for host in network.hosts(shape)
        },
        "etcd": neighbours.etcd_shown(lab, shape, bringup.etcd_users(shape)),
        "legacy": neighbours.legacy_shown(lab, shape),
        "vtySocketDir": str(lab.host_run("router")),
        "programs": str(node.programs_folder(lab)),
    }


def _node(lab: Lab, cluster: str, each: topology.Node) -> dict[str, object]:
    return {
        "cluster": cluster,
        "pid": node.pid(lab, each.name) or None,
        "services": node.service_pids(lab, each.name),
        "netns": lab.host(each.name).netns,
        "cgroup": str(lab.host(each.name).cgroup),
        "addresses": [str(address) for address in each.addresses],
        "folder": str(lab.host_run(each.name)),
    }


def _exec(lab: Lab, options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LabError("exec: say which command")
    found = current(lab).node(options.host)
    if found is None:
        arguments = enter.argv(lab.find(options.host), command)
    else:
        os.environ |= node.kubectl_environment(lab)
        os.environ["KUBECONFIG"] = str(credentials.kubeconfig(lab, found[0]))
        arguments = node.argv(lab, options.host, command)
    os.execv(arguments[0], arguments)  # noqa: S606  # the point of it: nothing stays in between


def _kubeconfig(lab: Lab, options: argparse.Namespace) -> int:
    cluster = current(lab).cluster(options.cluster)
    if cluster is None:
        known = ", ".join(each.name for each in current(lab).clusters)
        raise LabError(f"no cluster {options.cluster}; known: {known}")
    try:
        print(credentials.for_this_machine(lab, cluster), end="")
    except (OSError, ValueError) as error:
        raise LabError(f"cluster {cluster.name} is not up yet: {error}") from error
    return 0


def _start(lab: Lab, options: argparse.Namespace) -> int:
    name, _, service = options.what.partition("/")
    _, each = _known(lab, name)
    if service:
        node.start_service(lab, name, service)
    else:
        node.start(lab, current(lab), each)
    print(f"{options.what} runs")
    return 0


def _stop(lab: Lab, options: argparse.Namespace) -> int:
    name, _, service = options.what.partition("/")
    _known(lab, name)
    if service:
        node.stop_service(lab, name, service)
    else:
        node.stop(lab, name)
    print(f"{options.what} has ended")
    return 0


def _known(lab: Lab, name: str) -> tuple[topology.Cluster, topology.Node]:
    found = current(lab).node(name)
    if found is None:
        raise LabError(f"no node {name}: `meshgate lab kube show`")
    return found


def current(lab: Lab) -> Topology:
    """The topology of the bed that is up. Raises LabError."""
    if processes.read(lab) is None:
        raise LabError(f"no lab {lab.name} is up: `meshgate lab kube up`")
    return topology.load(lab.topology)


VERBS: dict[str, Command] = {
    "up": _up,
    "down": _down,
    "show": _show,
    "exec": _exec,
    "kubeconfig": _kubeconfig,
    "start": _start,
    "stop": _stop,
}
