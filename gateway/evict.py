"""``meshgate egress evict ADDRESS``: the connections of a draining address end with a reset.

The answer is a key of the cluster's own subtree that names the drain (``claims.DRAINING``), put
with the rights of a controller. Agents then write ``mg_ended``; an address that a policy wants is
no drain, and is not evicted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core.arguments import address, agrees

if TYPE_CHECKING:
    from argparse import _SubParsersAction

#: `egress list` shows a drain once a controller wants it; its claim is in etcd a moment later.
CLAIMED_S = 2.0


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    evict = verbs.add_parser(
        "evict", help="end the connections of an address that no policy wants any more"
    )
    evict.add_argument("address", metavar="ADDRESS", type=address)
    text = "a controller's configuration; without it all of the run directory"
    evict.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    evict.add_argument("--yes", action="store_true", help="do not ask")
    evict.set_defaults(run=_evict)


def _draining(drains: Callable[[Any], bool], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The clusters in which the address drains; one that has just begun is waited for."""
    end = time.monotonic() + CLAIMED_S
    while True:
        found = {name: one for name, one in asked.items() if drains(one)}
        if found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def _evict(parsed: argparse.Namespace) -> int:
    # The door to etcd is a sibling of this room, so it is called by its name.
    accept, forget = (import_module(f"clustermesh.{one}") for one in ("accept", "forget"))
    try:
        asked = forget.of_controllers(parsed.config)
        found = _draining(lambda one: accept.drains(one, parsed.address), asked)
        if not found:
            text = "it does not drain: a policy wants it, or nobody has it (`meshgate egress list`)"
            print(f"meshgate: {parsed.address}: {text}", file=sys.stderr)
            return 1
        text = f"Connections that leave with {parsed.address} are reset on both sides."
        if not parsed.yes and not agrees(text, "End them"):
            return 1
        for one in found.values():
            accept.evict(one, parsed.address)
    except (OSError, ValueError) as error:
        print(f"meshgate: nothing is evicted: {error}", file=sys.stderr)
        return 1
    print(f"{', '.join(found)}: connections of {parsed.address} end with their next packet")
    return 0
