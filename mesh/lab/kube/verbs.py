"""``meshgate lab kube …``: up, down, show, exec, kubeconfig, start, stop.

The parsers only: the bed is imported when a verb runs, because scripts call ``lab exec`` hundreds
of times.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.lab.forms import outputs
from mesh.lab.places import KUBE_TOPOLOGY

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Subparsers = _SubParsersAction[argparse.ArgumentParser]


def add(verbs: Subparsers) -> None:
    """Register ``kube`` and its verbs among those of ``lab``."""
    text = "real Kubernetes clusters on this machine"
    kube = verbs.add_parser("kube", help=text, description=text)
    own = kube.add_subparsers(dest="kube_verb", required=True, metavar="VERB")
    verb = _verb(own, "up", "build and start everything, wait until the nodes are ready")
    verb.add_argument("--file", type=Path, default=KUBE_TOPOLOGY, metavar="TOPOLOGY")
    verb = _verb(own, "down", "stop and remove everything that `up` has made")
    verb.add_argument("--force", action="store_true", help="also what only carries the bed's name")
    outputs(_verb(own, "show", "clusters, nodes with their pids, etcd, legacy server"))
    verb = _verb(own, "exec", "run a command on a node or another host")
    verb.add_argument("host", metavar="NODE")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD…")
    verb = _verb(own, "kubeconfig", "print an administrator's kubeconfig for this machine")
    verb.add_argument("cluster", metavar="CLUSTER")
    for name, words in (
        ("start", "start a node, or a service that was stopped"),
        ("stop", "cut the power of a node, or end a service"),
    ):
        verb = _verb(own, name, words)
        verb.add_argument("what", metavar="NODE[/SERVICE]")


def _verb(verbs: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=lambda options: _run(name, options))
    return parser


def _run(name: str, options: argparse.Namespace) -> int:
    from mesh.lab.kube import cli

    return cli.run(name, options)
