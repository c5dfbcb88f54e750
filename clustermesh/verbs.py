"""Verbs of ``meshgate cluster`` beside ``list``; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.core.arguments import agrees

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from clustermesh.etcd.auth import EtcdUser
    from clustermesh.users import MadeUser

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
    _add_output(user)
    user.set_defaults(run=_user)
    _add_process(verbs, "node", "the agent and the speaker of a node", "NAME")
    _add_process(verbs, "controller", "a controller", "INSTANCE")
    feed = _add_process(verbs, "feed", "the feed for firewalls", "INSTANCE")
    text = "with --issue and --into: a certificate of its server, too, for this name or address"
    feed.add_argument("--serve", action="append", default=[], metavar="HOST", help=text)
    renew = verbs.add_parser(
        "renew",
        help="renew the certificates of the CA's folder of which half is over; for a timer",
    )
    _add_pki(renew)
    _add_lifetime(renew)
    renew.set_defaults(run=_renew)

    forget = verbs.add_parser(
        "forget", help="wait no longer for a cluster that a replaced store does not have"
    )
    forget.add_argument("cluster", metavar="NAME")
    text = "a controller's configuration; without it all of the run directory"
    forget.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    forget.add_argument("--yes", action="store_true", help="do not ask")
    forget.set_defaults(run=_forget)

    accept = verbs.add_parser(
        "accept-apiserver",
        help="let an API server that was made anew count in place of the former one (M204)",
    )
    text = "UID of its namespace kube-system; without it that of the API server that answers now"
    accept.add_argument("--uid", metavar="UID", help=text)
    text = "a controller's configuration; without it the one of the run directory"
    accept.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    accept.add_argument("--yes", action="store_true", help="do not ask")
    accept.set_defaults(run=_accept)


def _add_process(
    verbs: _SubParsersAction[argparse.ArgumentParser], role: str, whose: str, metavar: str
) -> argparse.ArgumentParser:
    """The verb that issues and revokes the users of one of our processes."""
    parser = verbs.add_parser(
        role,
        help=f"issue or revoke the etcd users of {whose}",
        epilog="After --revoke each host with a member of etcd needs the new ca.crl, and its open "
        "connections have to end: `ss --kill state established '( sport = :2379 )'`, or a restart "
        "of the member. The verb does this on the host where it runs.",
    )
    parser.add_argument("name", metavar=metavar)
    text = "its cluster; without it as in a configuration file of the run directory"
    parser.add_argument("--cluster", metavar="CLUSTER", help=text)
    does = parser.add_mutually_exclusive_group(required=True)
    text = "make user and certificate, and print certificate, key and configuration"
    does.add_argument("--issue", action="store_true", help=text)
    text = "take certificates, user and role away, and end connections"
    does.add_argument("--revoke", action="store_true", help=text)
    text = "write certificate and key into this folder instead"
    parser.add_argument("--into", type=Path, metavar="DIR", help=text)
    _add_lifetime(parser)
    _add_etcd(parser)
    _add_output(parser)
    parser.set_defaults(run=_process, role=role, serve=())
    return parser


def _add_etcd(parser: argparse.ArgumentParser) -> None:
    text = "where etcd answers; without it as in a configuration file of the run directory"
    parser.add_argument("--etcd", action="append", metavar="URL", help=text)
    _add_pki(parser)


def _add_pki(parser: argparse.ArgumentParser) -> None:
    run = _run()
    text = "folder with ca.crt, ca.key, root.crt and root.key"
    parser.add_argument("--pki", type=Path, default=run / "pki", metavar="DIR", help=text)


def _add_lifetime(parser: argparse.ArgumentParser) -> None:
    text = "hours until the new certificates end; 168 by default, or as long as those of before"
    parser.add_argument("--hours", type=float, metavar="N", help=text)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")


def _user(parsed: argparse.Namespace) -> int:
    from clustermesh import users

    try:
        endpoints = parsed.etcd or _endpoints()
        made = users.make(parsed.cluster, parsed.role, parsed.pki, endpoints)
    except (OSError, ValueError, TypeError) as error:
        print(f"meshgate: no user for {parsed.cluster}: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(_text([made], parsed.output))
    return 0


def _process(parsed: argparse.Namespace) -> int:
    from clustermesh import users

    try:
        endpoints = parsed.etcd or _endpoints()
        cluster = parsed.cluster or _cluster_of(parsed.role, parsed.name)
        processes = users.processes_of(cluster, parsed.role, parsed.name)
        if parsed.revoke:
            return _revoke(processes, parsed.pki, endpoints)
        if parsed.serve and not parsed.into:
            raise ValueError("--serve needs --into")  # noqa: TRY301 - told below, as the rest
        made = users.issue(processes, parsed.pki, endpoints, *_lifetime(parsed), into=parsed.into)
        if parsed.serve:
            users.serve(processes[0], parsed.pki, parsed.serve, parsed.into)
    except (OSError, ValueError, TypeError) as error:
        done = "revoked" if parsed.revoke else "issued"
        print(f"meshgate: {parsed.role} {parsed.name} is not {done}: {error}", file=sys.stderr)
        return 1
    if parsed.into:
        for one in made:
            print(f"{one.user}: {parsed.into}")
    else:
        sys.stdout.write(_text(made, parsed.output))
    return 0


def _revoke(processes: Sequence[EtcdUser], pki: Path, endpoints: Sequence[str]) -> int:
    from clustermesh import users

    number = users.revoke(processes, pki, endpoints)
    for user in processes:
        print(f"{user.cn}: user and role are gone")
    print(f"{pki}/ca.crl: {number} more certificates; copy it to each host with a member of etcd")
    ended = users.end_connections(endpoints)
    if ended is None:
        print("no connection to a member of etcd was open on this host: end them where it runs")
    else:
        print(f"{ended} connections to etcd on this host were ended; do the same on the others")
    return 0


def _renew(parsed: argparse.Namespace) -> int:
    from clustermesh.issued import Folder

    try:
        folder = Folder(parsed.pki)
        with folder.locked():
            renewed = folder.renew(*_lifetime(parsed))
    except (OSError, ValueError, TypeError) as error:
        print(f"meshgate: nothing is renewed: {error}", file=sys.stderr)
        return 1
    for user in renewed:
        print(user)
    return 0


def _lifetime(parsed: argparse.Namespace) -> Sequence[timedelta]:
    return [timedelta(hours=parsed.hours)] if parsed.hours else []


def _forget(parsed: argparse.Namespace) -> int:
    from clustermesh import forget

    try:
        found = forget.of_controllers(parsed.config)
        asked = {name: one for name, one in found.items() if name != parsed.cluster}
        if not asked:
            text = f"no controller.yaml of another cluster under {_run()}; say --config FILE"
            raise FileNotFoundError(text)
        there = [one for one in asked.values() if forget.is_there(one, parsed.cluster)]
        text = (
            f"Cluster {parsed.cluster} still publishes its cluster-config.\n"
            "Its pods and backends go from all agents until it is complete."
        )
        if there and not parsed.yes and not agrees(text, "Forget it"):
            return 1
        for one in asked.values():
            forget.ask(one, parsed.cluster)
            print(f"{one.cluster}: its leader tells all agents to forget {parsed.cluster}")
    except (OSError, ValueError) as error:
        print(f"meshgate: {parsed.cluster} is not forgotten: {error}", file=sys.stderr)
        return 1
    return 0


def _accept(parsed: argparse.Namespace) -> int:
    from clustermesh import accept, forget

    run, paths = _run(), forget.configurations(parsed.config)
    try:
        found = {path: section for path in paths if (section := accept.section(path)) is not None}
        asked = {one.cluster: (path, one) for path in found for one in [forget.read(path)]}
        if len(asked) != 1:
            names = ", ".join(asked) or "none"
            text = f"expected one controller.yaml that names an API server, found {names}"
            raise FileNotFoundError(f"{text} under {run}; say --config FILE")
        ((path, one),) = asked.values()
        # The door to the API server lies above this room, so it is called by its name.
        uid = parsed.uid or import_module("mesh.k8s.ask").uid_of(found[path])
        text = f"Objects that API server {uid} does not have go from {one.cluster}."
        if not parsed.yes and not agrees(text, "Accept it"):
            return 1
        accept.accept(one, uid)
    except (OSError, ValueError) as error:
        print(f"meshgate: no API server is accepted: {error}", file=sys.stderr)
        return 1
    print(f"{one.cluster}: API server {uid} counts; all processes list its objects anew")
    return 0


def _text(made: Sequence[MadeUser], form: str) -> str:
    """The files one after the other, each below its name; or an object for each user."""
    if form == "table":
        files = [file for one in made for file in one.files.items()]
        return "".join(f"# {name}\n{text}" for name, text in files)
    names = ("ca", "certificate", "key", "config")
    rows = [{"user": one.user, **dict(zip(names, one.files.values(), strict=True))} for one in made]
    tree = rows[0] if len(rows) == 1 else rows
    if form == "json":
        return json.dumps(tree, indent=2) + "\n"
    import yaml

    return str(yaml.safe_dump(tree, sort_keys=False))


def _endpoints() -> list[str]:
    """The endpoints of the first configuration file of the run directory. Raises OSError."""
    for document in _configurations():
        etcd = document.get("etcd")
        if isinstance(etcd, dict) and etcd.get("endpoints"):
            return [str(endpoint) for endpoint in etcd["endpoints"]]
    raise FileNotFoundError(f"no configuration file under {_run()} names an etcd; say --etcd URL")


def _cluster_of(role: str, name: str) -> str:
    """The cluster of a node or of a controller's instance, as its configuration says.

    Raises OSError.
    """
    field = "node" if role == "node" else "instance"  # also of a feed
    for document in _configurations():
        cluster = document.get("cluster")
        if document.get(field) == name and isinstance(cluster, dict) and cluster.get("name"):
            return str(cluster["name"])
    raise FileNotFoundError(f"no configuration file under {_run()} is its; say --cluster CLUSTER")


def _configurations() -> Iterator[Mapping[str, object]]:
    import yaml

    run = _run()
    for path in sorted([*run.glob("*.yaml"), *run.glob("*/*.yaml")]):
        document = yaml.safe_load(path.read_text())
        if isinstance(document, dict):
            yield document


def _run() -> Path:
    return Path(os.environ.get("MESHGATE_RUN") or _RUN)
