"""``meshgate lab kube …``: up, down, show, exec, kubeconfig, start, stop."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.lab import enter, fabric, neighbours, network, places, processes
from mesh.lab.forms import outputs, print_tree
from mesh.lab.kube import bringup, credentials, node, topology
from mesh.lab.kube.topology import Topology
from mesh.lab.places import Lab, LabError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Subparsers = _SubParsersAction[argparse.ArgumentParser]

Command = Callable[[Lab, argparse.Namespace], int]
#: The variables that name the bed and its folder, with their defaults. Its folder is no part of
#: /run: each node has a /run of its own.
NAME = ("MESHGATE_KUBE", "mgk")
RUN = ("MESHGATE_KUBE_RUN", "/var/lib/meshgate-kube")


def add(verbs: Subparsers) -> None:
    """Register ``kube`` and its verbs among those of ``lab``."""
    text = "real Kubernetes clusters on this machine"
    kube = verbs.add_parser("kube", help=text, description=text)
    own = kube.add_subparsers(dest="kube_verb", required=True, metavar="VERB")
    verb = _verb(own, "up", _up, "build and start everything, wait until the nodes are ready")
    verb.add_argument("--file", type=Path, default=topology.DEFAULT, metavar="TOPOLOGY")
    verb = _verb(own, "down", _down, "stop and remove everything that `up` has made")
    verb.add_argument("--force", action="store_true", help="also what only carries the bed's name")
    outputs(_verb(own, "show", _show, "clusters, nodes with their pids, etcd, legacy server"))
    verb = _verb(own, "exec", _exec, "run a command on a node or another host")
    verb.add_argument("host", metavar="NODE")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD…")
    verb = _verb(
        own,
        "kubeconfig",
        _kubeconfig,
        "print an administrator's kubeconfig for commands of this machine",
    )
    verb.add_argument("cluster", metavar="CLUSTER")
    for name, run, words in (
        ("start", _start, "start a node, or a service that was stopped"),
        ("stop", _stop, "cut the power of a node, or end a service"),
    ):
        verb = _verb(own, name, run, words)
        verb.add_argument("what", metavar="NODE[/SERVICE]")


def _verb(verbs: Subparsers, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=lambda options: _guarded(run, options))
    return parser


def _guarded(run: Command, options: argparse.Namespace) -> int:
    try:
        return run(places.current(NAME, RUN), options)
    except (fabric.TopologyError, LabError) as error:
        print(f"meshgate lab kube: {error}", file=sys.stderr)
        return 2 if isinstance(error, fabric.TopologyError) else 1


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
    if processes.read(lab) is None and not options.force:
        print(f"no lab {lab.name} is recorded in {lab.run}; `--force` goes by name")
        return 0
    bringup.down(lab, force=options.force)
    print(f"lab {lab.name} is down")
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
