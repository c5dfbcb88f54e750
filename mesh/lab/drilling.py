"""``meshgate egress drill``: the command of ``drill.py``, which is loaded when it runs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING

from mesh.lab import places
from mesh.lab.forms import print_tree

if TYPE_CHECKING:
    from argparse import _SubParsersAction

#: Ways to lose a gateway: the names of ``LOSSES`` in ``drill.py``.
HOW = ("kill", "cut", "hang", "kill-agent", "drain", "none")


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``drill`` beside the verbs of ``egress``."""
    text = "lose gateways of the lab under load; survivors, and the gap of each direction"
    verb = verbs.add_parser("drill", help=text, description=text)
    text = "the node that is lost; several of them are lost at once"
    verb.add_argument("--kill", required=True, nargs="+", metavar="GATEWAY", help=text)
    text = (
        "how: its host (default), its link, its agent, which stands still or is killed; it is "
        "drained; or nothing happens"
    )
    verb.add_argument("--how", choices=HOW, default="kill", help=text)
    verb.add_argument("--pod", default="", metavar="CLUSTER/NAMESPACE/NAME", help="who talks")
    text = "the agents of the pod's node and of the gateway stand still meanwhile"
    verb.add_argument("--alone", action="store_true", help=text)
    for name, kind, most, text in (
        ("connections", int, 50, "TCP connections"),
        ("lanes", int, 4, "UDP flows"),
        ("rate", int, 250, "datagrams a second of each flow, each way"),
        ("seconds", float, 4.0, "how long the gateway stays lost"),
    ):
        verb.add_argument(f"--{name}", type=kind, default=most, metavar="N", help=text)
    verb.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    verb.set_defaults(run=_command)


def _command(options: argparse.Namespace) -> int:
    drill, lab = import_module("mesh.lab.drill"), places.current()
    try:
        drill.check(lab, options.kill)
        load = drill.Load(
            options.connections, options.lanes, options.rate, options.seconds, options.alone
        )
        outcome = drill.drill(lab, options.kill, options.how, options.pod, load)
    except (drill.DrillError, places.LabError) as error:
        print(f"meshgate egress drill: {error}", file=sys.stderr)
        return 2
    if options.output == "table":
        print("\n".join(drill.lines(outcome)))
    else:
        print_tree(asdict(outcome), options.output)
    return 0 if outcome.clean else 1
