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

    from clustermesh.users import Made

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


def _add_etcd(parser: argparse.ArgumentParser) -> None:
    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    text = "where etcd answers; without it as in a configuration file of the run directory"
    parser.add_argument("--etcd", action="append", metavar="URL", help=text)
    text = "folder with ca.crt, ca.key, root.crt and root.key"
    parser.add_argument("--pki", type=Path, default=run / "pki", metavar="DIR", help=text)


def _user(parsed: argparse.Namespace) -> int:
    from clustermesh import users  # noqa: PLC0415

    try:
        endpoints = parsed.etcd or _endpoints()
        made = users.make(parsed.cluster, parsed.role, parsed.pki, endpoints)
    except (OSError, ValueError, TypeError) as error:
        print(f"meshgate: no user for {parsed.cluster}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    sys.stdout.write(_text(made, parsed.output))
    return 0


def _text(made: Made, form: str) -> str:
    """The files one after the other, each below its name; or an object."""
    if form == "table":
        return "".join(f"# {name}\n{text}" for name, text in made.files.items())
    ca, certificate, key, config = made.files.values()
    row = {"user": made.user, "ca": ca, "certificate": certificate, "key": key, "config": config}
    if form == "json":
        return json.dumps(row, indent=2) + "\n"
    import yaml  # noqa: PLC0415

    return str(yaml.safe_dump(row, sort_keys=False))


def _endpoints() -> list[str]:
    """The endpoints of the first configuration file of the run directory. Raises OSError."""
    import yaml  # noqa: PLC0415

    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    for path in sorted([*run.glob("*.yaml"), *run.glob("*/*.yaml")]):
        document = yaml.safe_load(path.read_text())
        etcd = document.get("etcd") if isinstance(document, dict) else None
        if isinstance(etcd, dict) and etcd.get("endpoints"):
            return [str(endpoint) for endpoint in etcd["endpoints"]]
    raise FileNotFoundError(f"no configuration file under {run} names an etcd; say --etcd URL")
