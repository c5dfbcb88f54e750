"""Verbs of ``meshgate vrf`` beside ``list`` and ``show``; imports happen when a verb runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core import arguments
from mesh.core.noun import Row

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from mesh.core.model import IP

WAIT_S = 1.0


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    text = "send echo requests to an address of a VRF, from a pod of the VRF on this host"
    ping = verbs.add_parser("ping", help=text)
    ping.add_argument("vrf", metavar="VRF")
    ping.add_argument("address", metavar="ADDRESS", type=arguments.address)
    text = "from this pod; without it from the first one on this host"
    ping.add_argument("--pod", default="", metavar="NAMESPACE/NAME", help=text)
    ping.add_argument("--count", type=int, default=3, metavar="N", help="requests (3)")
    ping.add_argument("-o", "--output", choices=("table", "json"), default="table")
    ping.set_defaults(run=_ping)


def _ping(parsed: argparse.Namespace) -> int:
    """0 when a reply came, as ping(8) has it."""
    from srv6.vrf import nouns

    # The pods' room stands beside this one, and the process sockets above: both go by their names.
    links = import_module("mesh.pods.nouns").LINK.name
    rows = _asked((nouns.TENANT.name, links))
    try:
        pod = chosen(rows[nouns.TENANT.name], rows[links], parsed.vrf, parsed.pod)
        source = source_of(pod, parsed.address)
        echoes = list(_echoes(pod, source, parsed))
    except (OSError, ValueError) as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 1
    if parsed.output == "json":
        print(json.dumps(echoes))
    return 0 if any(one["ms"] is not None for one in echoes) else 1


def _echoes(pod: Row, source: IP | None, parsed: argparse.Namespace) -> Iterator[Row]:
    from srv6.vrf.ping import Pinger

    name = f"{pod['namespace']}/{pod['name']}"
    pinger = Pinger(Path(pod["netns"]), source, parsed.address)
    try:
        for echo in pinger.ask(parsed.count, WAIT_S):
            said = f"{echo.ms:g} ms" if echo.ms is not None else echo.error
            if parsed.output == "table":
                print(f"{name} {source or ''} -> {parsed.address} {echo.sequence}: {said}")
            yield {
                "vrf": parsed.vrf,
                "pod": name,
                "source": str(source or ""),
                "destination": str(parsed.address),
                "sequence": echo.sequence,
                "ms": echo.ms,
                "error": echo.error,
            }
    finally:
        pinger.close()


def chosen(tenants: Iterable[Row], links: Iterable[Row], vrf: str, pod: str) -> Row:
    """The pod that asks, with its network namespace. Raises ValueError."""
    there = {_key(row): row for row in links}
    mine = [row for row in tenants if row["vrf"] == vrf and _key(row) in there]
    found = [row for row in mine if pod in ("", f"{row['namespace']}/{row['name']}")]
    if not found:
        which = f"pod {pod} of VRF {vrf} is not" if pod else f"no pod of VRF {vrf} is"
        others = ", ".join(f"{row['namespace']}/{row['name']}" for row in mine)
        raise ValueError(f"{which} on this host{f'; there are {others}' if others else ''}")
    first = min(found, key=_key)
    return first | {"netns": there[_key(first)]["netns"]}


def source_of(pod: Row, destination: IP) -> IP | None:
    """The pod's address in its VRF; None: it has no other than its own. Raises ValueError."""
    addresses = [ip_address(text) for text in pod["addresses"]]
    if not addresses:
        return None
    for address in addresses:
        if address.version == destination.version:
            return address
    raise ValueError(
        f"{pod['namespace']}/{pod['name']} has no IPv{destination.version} address in its VRF"
    )


def _key(row: Row) -> tuple[str, str, str]:
    return row["cluster"], row["namespace"], row["name"]


def _asked(names: Sequence[str]) -> dict[str, list[Row]]:
    """Rows of the agents of this host; an agent that does not answer is named."""
    tables: Any = import_module("mesh.observe.tables")
    agents = [one for one in tables.processes(tables.run_directory()) if one.role == "agent"]
    found: dict[str, list[Row]] = {name: [] for name in names}
    for answer in tables.ask(agents, list(names), patient=True):
        for why in (answer.error, *answer.refused.values()):
            if why:
                print(f"meshgate: {answer.process.name}: {why}", file=sys.stderr)
        for name, rows in answer.rows.items():
            found[name] += rows
    return found
