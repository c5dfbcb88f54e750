"""``meshgate egress activate`` and ``release``: what an operator asks of the feed of a cluster.

A request is a key of the cluster's own subtree, put with the rights of a controller; the feed does
it and takes the key away. So it works from any machine that has a controller's configuration, and
takes effect when the feed runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core.arguments import address, agrees

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    activate = verbs.add_parser(
        "activate", help="let an address carry traffic without waiting for firewalls (M234)"
    )
    activate.add_argument("address", metavar="ADDRESS", type=address)
    text = "a firewall that is not waited for; may be given again"
    activate.add_argument("--without", action="append", default=[], metavar="FIREWALL", help=text)
    _add_common(activate)
    activate.set_defaults(run=_activate)
    release = verbs.add_parser(
        "release", help="give up the addresses of a group that rest for firewalls (M236)"
    )
    release.add_argument("group", metavar="GROUP", help="as `meshgate feed list` has it")
    _add_common(release)
    release.set_defaults(run=_release)


def _add_common(parser: argparse.ArgumentParser) -> None:
    text = "a controller's configuration; without it all of the run directory"
    parser.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _activate(parsed: argparse.Namespace) -> int:
    return _guarded(parsed, f"{parsed.address} is not activated", _activate_in)


def _release(parsed: argparse.Namespace) -> int:
    return _guarded(parsed, f"{parsed.group} is not released", _release_in)


def _guarded(
    parsed: argparse.Namespace, failed: str, act: Callable[[argparse.Namespace, Any], bool | None]
) -> int:
    """Do it in each cluster that has it; 1 when none has, or when somebody says no."""
    try:
        done = [act(parsed, one) for one in _clusters(parsed)]
    except (OSError, ValueError) as error:
        print(f"meshgate: {failed}: {error}", file=sys.stderr)
        return 1
    known = [one for one in done if one is not None]
    if not known:
        text = "no feed of these clusters has it; `meshgate feed list` has all"
        print(f"meshgate: {failed}: {text}", file=sys.stderr)
    return 0 if known and all(known) else 1


def _clusters(parsed: argparse.Namespace) -> Iterator[Any]:
    """Clusters of the configurations, with the way to their store. Raises OSError, ValueError."""
    # The door to etcd is a sibling of this room, so it is called by its name.
    yield from import_module("clustermesh.forget").of_controllers(parsed.config).values()


def _activate_in(parsed: argparse.Namespace, asked: Any) -> bool | None:
    from gateway.feed import keys

    store, own = import_module("clustermesh.accept"), import_module("clustermesh.store.own")
    value = store.get(asked, own.listed_key(asked.cluster, parsed.address))
    row = own.listed_of(value) if value else None
    if row is None or row.leaving:
        return None
    if row.acknowledged:
        print(f"{asked.cluster}: {parsed.address} carries traffic already")
        return True
    unknown = sorted(set(parsed.without) - {*row.waits, *row.without})
    if unknown:
        waits = ", ".join(row.waits) or "none that is registered"
        raise ValueError(f"it does not wait for {', '.join(unknown)}, but for {waits}")
    rest = [one for one in row.waits if one not in parsed.without]
    if not parsed.yes and not agrees(
        f"Firewalls that have not loaded {parsed.address} may refuse its connections.", "Activate"
    ):
        return False
    key = f"{keys.prefix(asked.cluster)}{keys.OVERRIDE}{parsed.address}"
    store.put(asked, key, keys.override_row(sorted({*row.without, *parsed.without})))
    then = f"waits for {', '.join(rest)} only" if rest else "carries traffic from now on"
    print(f"{asked.cluster}: {parsed.address} {then}")
    return True


def _release_in(parsed: argparse.Namespace, asked: Any) -> bool | None:
    from gateway.feed import keys

    store = import_module("clustermesh.accept")
    place = keys.prefix(asked.cluster)
    value = store.get(asked, f"{place}{keys.GROUP}{parsed.group}")
    if value is None:
        return None
    group = keys.group_of(value)
    resting = [one for one, _ in (*(group.listed if group.deleted else ()), *group.left)]
    if not resting:
        raise ValueError("its addresses are in use, and none rests")
    text = f"Others may get {', '.join(map(str, resting))}, also while a firewall lets them pass."
    if not parsed.yes and not agrees(text, "Release them"):
        return False
    store.put(asked, f"{place}{keys.RELEASE}{parsed.group}", b"{}")
    print(f"{asked.cluster}: {', '.join(map(str, resting))} may be used again")
    return True
