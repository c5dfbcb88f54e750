"""Verbs of ``meshgate cluster`` beside ``list``; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from clustermesh.users import CiliumUser

_RUN = Path("/run/meshgate")


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    user = verbs.add_parser(
        "user",
        help="make an etcd user for a Cilium cluster; print certificate, key and configuration",
        epilog="One kvstoremesh writes into an etcd, with a file for each Cilium cluster; it runs "
        "without --enable-heartbeat, since our controllers put the heartbeat.",
    )
    user.add_argument("cluster", metavar="CLUSTER")
    roles = "writer: its kvstoremesh; reader: a Cilium that reads all clusters"
    user.add_argument("--role", required=True, choices=("writer", "reader"), help=roles)
    _add_etcd(user)
    user.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    user.set_defaults(run=_user)

    forget = verbs.add_parser(
        "forget", help="wait no longer for a cluster that a replaced store does not have"
    )
    forget.add_argument("cluster", metavar="NAME")
    text = "a controller's configuration; without it all of the run directory"
    forget.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    forget.add_argument("--yes", action="store_true", help="do not ask")
    forget.set_defaults(run=_forget)


def _add_etcd(parser: argparse.ArgumentParser) -> None:
    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    text = "where etcd answers; without it as in a configuration file of the run directory"
    parser.add_argument("--etcd", action="append", metavar="URL", help=text)
    text = "folder with ca.crt, ca.key, root.crt and root.key"
    parser.add_argument("--pki", type=Path, default=run / "pki", metavar="DIR", help=text)


def _user(parsed: argparse.Namespace) -> int:
    from clustermesh import users

    try:
        endpoints = parsed.etcd or _endpoints()
        made = users.make(parsed.cluster, parsed.role, parsed.pki, endpoints)
    except (OSError, ValueError, TypeError) as error:
        print(f"meshgate: no user for {parsed.cluster}: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(_text(made, parsed.output))
    return 0


def _forget(parsed: argparse.Namespace) -> int:
    from clustermesh import forget

    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    paths = parsed.config or sorted([*run.glob("controller.yaml"), *run.glob("*/controller.yaml")])
    try:
        found = {one.cluster: one for one in map(forget.read, paths)}
        asked = {name: one for name, one in found.items() if name != parsed.cluster}
        if not asked:
            text = f"no controller.yaml of another cluster under {run}; say --config FILE"
            raise FileNotFoundError(text)
        there = [one for one in asked.values() if forget.is_there(one, parsed.cluster)]
        if there and not parsed.yes and not _is_sure(parsed.cluster):
            return 1
        for one in asked.values():
            forget.ask(one, parsed.cluster)
            print(f"{one.cluster}: its leader tells all agents to forget {parsed.cluster}")
    except (OSError, ValueError) as error:
        print(f"meshgate: {parsed.cluster} is not forgotten: {error}", file=sys.stderr)
        return 1
    return 0


def _is_sure(name: str) -> bool:
    """Ask whether a cluster that publishes its config is to be forgotten all the same."""
    print(f"Cluster {name} still publishes its cluster-config.", file=sys.stderr)
    print("Its pods and backends go from all agents until it is complete. ", file=sys.stderr)
    try:
        return input("Forget it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _text(made: CiliumUser, form: str) -> str:
    """The files one after the other, each below its name; or an object."""
    if form == "table":
        return "".join(f"# {name}\n{text}" for name, text in made.files.items())
    ca, certificate, key, config = made.files.values()
    row = {"user": made.user, "ca": ca, "certificate": certificate, "key": key, "config": config}
    if form == "json":
        return json.dumps(row, indent=2) + "\n"
    import yaml

    return str(yaml.safe_dump(row, sort_keys=False))


def _endpoints() -> list[str]:
    """The endpoints of the first configuration file of the run directory. Raises OSError."""
    import yaml

    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    for path in sorted([*run.glob("*.yaml"), *run.glob("*/*.yaml")]):
        document = yaml.safe_load(path.read_text())
        etcd = document.get("etcd") if isinstance(document, dict) else None
        if isinstance(etcd, dict) and etcd.get("endpoints"):
            return [str(endpoint) for endpoint in etcd["endpoints"]]
    raise FileNotFoundError(f"no configuration file under {run} names an etcd; say --etcd URL")
