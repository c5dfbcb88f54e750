"""``meshgate lab …``: up, down, show, exec, ps, start, stop.

Each verb imports what it needs when it runs: tests and scripts call ``exec`` hundreds of times.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.lab import places
from mesh.lab.forms import outputs, print_tree
from mesh.lab.kube import verbs as kube
from mesh.lab.places import Lab, LabError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from mesh.lab.topology import Topology

    Subparsers = _SubParsersAction[argparse.ArgumentParser]

Command = Callable[[Lab, argparse.Namespace], int]


def add(subparsers: Subparsers) -> None:
    """Register ``lab`` and its verbs; ``run`` of the parsed options runs one."""
    lab = subparsers.add_parser("lab", help="two clusters, a router and a firewall on this machine")
    verbs = lab.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = _verb(verbs, "up", _up, "build and start everything, wait until it is healthy")
    verb.add_argument("--file", type=Path, default=places.TOPOLOGY, metavar="TOPOLOGY")
    verb.add_argument("--bare", action="store_true", help="without Meshgate's processes and pods")
    verb = _verb(verbs, "down", _down, "stop and remove everything that `up` has made")
    verb.add_argument("--force", action="store_true", help="also what only carries the lab's name")
    outputs(
        _verb(verbs, "show", _show, "hosts, pods, addresses, etcd users, manifests, legacy server")
    )
    outputs(_verb(verbs, "ps", _ps, "the processes that run"))
    verb = _verb(verbs, "exec", _exec, "run a command on a host or in a pod")
    verb.add_argument("host", metavar="HOST", help="a host, or a pod as cluster/namespace/name")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD…")
    for name, run, text in (("start", _start, "again, as before"), ("stop", _stop, "by SIGTERM")):
        verb = _verb(verbs, name, run, f"{name} a process {text}")
        verb.add_argument("process", metavar="HOST/ROLE")
    verb = _verb(verbs, "urpf", _urpf, "strict source checks at the router's port for a node")
    verb.add_argument("node", metavar="NODE")
    verb.add_argument("state", choices=("on", "off"))
    kube.add(verbs)


def _verb(verbs: Subparsers, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=lambda options: _guarded(run, options))
    return parser


def _guarded(run: Command, options: argparse.Namespace) -> int:
    try:
        return run(places.current(), options)
    except LabError as error:
        print(f"meshgate lab: {error}", file=sys.stderr)
        return error.status


def _up(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import bringup, processes, topology

    shape = topology.load(options.file)
    text = options.file.read_text()
    state = processes.read(lab)
    if state is not None and state.complete and processes.alive(lab):
        return _up_already(lab, shape)
    if state is not None:
        print(f"removing what an earlier run of lab {lab.name} left", flush=True)
        bringup.down(lab)
    return 0 if bringup.up(lab, shape, text, bare=options.bare) else 1


def _up_already(lab: Lab, shape: Topology) -> int:
    from mesh.lab import bringup, topology

    if topology.load(lab.topology) != shape:
        raise LabError("a lab of another topology is up: `meshgate lab down` first")
    problems = bringup.settled_problems()
    print(f"lab {lab.name} is up already and {'not ' if problems else ''}healthy")
    for line in problems:
        print(f"    {line}")
    return 1 if problems else 0


def _down(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import bringup, processes

    for line in processes.take_down(lab, bringup.down, force=options.force):
        print(line)
    return 0


def _show(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import neighbours, network, settings, tenants

    shape = _current(lab)
    tree: dict[str, object] = {
        "hosts": {host: _host(lab, shape, host) for host in network.hosts(shape)},
        "etcd": neighbours.etcd_shown(lab, shape, settings.etcd_users(shape)),
        "manifests": {each.name: str(lab.manifests(each.name)) for each in shape.clusters},
        "egress": [
            {
                "cluster": each.name,
                "policy": settings.POLICY,
                "addresses": [str(address) for address in each.egress],
                "gateway": each.gateway,
            }
            for each in shape.clusters
        ],
        "legacy": neighbours.legacy_shown(lab, shape),
        "vtySocketDir": str(lab.host_run("router")),
        "tenants": tenants.shown(lab, shape),
        "feed": settings.feed_shown(lab, shape),
    }
    if options.output == "table":  # for people; scripts have the keys that they know
        tree["pods"] = _pods(lab)
    print_tree(tree, options.output)
    return 0


def _pods(lab: Lab) -> dict[str, object]:
    """Pods by the name that ``exec`` takes."""
    return {
        name: {"netns": place.netns, "cgroup": str(place.cgroup)}
        for name, place in sorted(lab.pods().items())
    }


def _host(lab: Lab, shape: Topology, host: str) -> dict[str, object]:
    from mesh.lab import edge, fake_pe

    place = lab.host(host)
    pinned = host in {node.name for _, node in shape.nodes}
    behind = edge.addresses(shape.pe) if shape.pe else {}
    own: dict[str, object] = {}
    if host == "pe":
        own = {"vtySocketDir": str(lab.host_run(host)), "fake_pe": fake_pe.shown(lab)}
    return {
        "netns": place.netns,
        "bpffs": str(lab.bpffs(host)) if pinned else None,
        "cgroup": str(place.cgroup),
        "addresses": [str(address) for address in {**behind, **shape.addresses}[host]],
        **own,
    }


def _ps(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import processes

    rows = processes.shown(lab)
    if options.output != "table":
        print_tree(rows, options.output)
        return 0
    print(f"{'HOST':<10} {'ROLE':<12} {'PID':>7}  LOG")
    for row in rows:
        print(f"{row['host']:<10} {row['role']:<12} {row['pid']:>7}  {row['log']}")
    return 0


def _exec(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import enter

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LabError("exec: say which command")
    arguments = enter.argv(lab.find(options.host), command)
    os.execv(arguments[0], arguments)  # noqa: S606  # the point of it: nothing stays in between


def _start(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import processes

    process = processes.start(lab, options.process)
    if process.role == "etcd":
        from mesh.lab import neighbours, settings

        shape = _current(lab)
        neighbours.authorise_etcd(lab, shape, settings.etcd_users(shape))
    print(f"{process.name} runs (pid {process.pid})")
    return 0


def _stop(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import processes

    processes.stop(lab, options.process)
    print(f"{options.process} has ended")
    return 0


def _urpf(lab: Lab, options: argparse.Namespace) -> int:
    from mesh.lab import urpf

    urpf.switch(lab, _current(lab), options.node, on=options.state == "on")
    print(f"strict source checks at the port of {options.node} are {options.state}")
    return 0


def _current(lab: Lab) -> Topology:
    from mesh.lab import processes, topology

    if processes.read(lab) is None:
        raise LabError(f"no lab {lab.name} is up: `meshgate lab up`")
    return topology.load(lab.topology)
