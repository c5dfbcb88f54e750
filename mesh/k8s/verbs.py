"""Verbs of ``meshgate cluster`` about its API server; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from mesh.k8s.accept import Asked

_RUN = Path("/run/meshgate")


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    accept = verbs.add_parser(
        "accept-apiserver",
        help="let an API server that was made anew count in place of the former one (M204)",
    )
    text = "UID of its namespace kube-system; without it that of the API server that answers now"
    accept.add_argument("--uid", metavar="UID", help=text)
    text = "a controller's configuration; without it all of the run directory"
    accept.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    accept.add_argument("--yes", action="store_true", help="do not ask")
    accept.set_defaults(run=_accept)


def _accept(parsed: argparse.Namespace) -> int:
    from mesh.k8s import accept

    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    paths = parsed.config or sorted([*run.glob("controller.yaml"), *run.glob("*/controller.yaml")])
    try:
        asked = {one.cluster: one for one in map(accept.read, paths) if one}
        if len(asked) != 1:
            names = ", ".join(asked) or "none"
            text = f"expected one controller.yaml that names an API server, found {names}"
            raise FileNotFoundError(f"{text} under {run}; say --config FILE")
        (one,) = asked.values()
        uid = parsed.uid or accept.uid_of(one)
        if not parsed.yes and not _is_sure(one, uid):
            return 1
        accept.accept(one, uid)
    except (OSError, ValueError) as error:
        print(f"meshgate: no API server is accepted: {error}", file=sys.stderr)
        return 1
    print(f"{one.cluster}: the API server {uid} counts; all processes list its objects anew")
    return 0


def _is_sure(one: Asked, uid: str) -> bool:
    print(f"Objects that API server {uid} does not have go from {one.cluster}.", file=sys.stderr)
    try:
        return input("Accept it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
