"""``meshgate egress whois ADDRESS PORT [PROTOCOL] [TIME]``: the pod behind an egress address.

The answer comes from the history in the store (``history.py``), so it needs no node, and the node
that had the pod may be gone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core import arguments

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from mesh.core.model import IP

_RUN = Path("/run/meshgate")
_PROTOCOLS = ("tcp", "udp", "icmp")
#: Seconds by which the clock of the question may be wrong: below half of the rest of a run.
ERROR_S = 30.0
COLUMNS = (
    "cluster", "namespace", "pod", "podAddress", "node", "since", "until", "exact"
)  # fmt: skip


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    whois = verbs.add_parser(
        "whois",
        help="the pod that had a port of an egress address, from the history",
        epilog="A run of ports rests 120 s between two pods, so with an error below 60 s there is "
        "one answer at most; with more, all candidates are printed. Exit status 1: nobody.",
    )
    whois.add_argument("address", metavar="ADDRESS", type=arguments.address)
    whois.add_argument("port", metavar="PORT", type=_port, help="of ICMP echo: its id")
    text = "tcp, udp or icmp: a pod has the same ports of all of them"
    whois.add_argument("protocol", metavar="PROTOCOL", nargs="?", type=str.lower, help=text)
    text = "ISO 8601, UTC without a zone; without it: now"
    whois.add_argument("time", metavar="TIME", nargs="?", help=text)
    text = f"seconds by which the clock of TIME may be wrong; {ERROR_S:.0f} by default"
    whois.add_argument("--error", type=float, default=ERROR_S, metavar="S", help=text)
    text = "a configuration of an agent or controller; without it one of the run directory"
    whois.add_argument("--config", type=Path, metavar="FILE", help=text)
    whois.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    whois.set_defaults(run=_whois)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text) <= 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def time_of(text: str | None, now: float) -> float:
    """Seconds since 1970. Raises ValueError."""
    if text is None:
        return now
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _whois(parsed: argparse.Namespace) -> int:
    protocol, when = parsed.protocol, parsed.time
    if protocol and protocol not in _PROTOCOLS and when is None:
        protocol, when = None, parsed.protocol.upper()  # TIME without PROTOCOL
    if protocol and protocol not in _PROTOCOLS:
        print(f"meshgate: {protocol} is none of {', '.join(_PROTOCOLS)}", file=sys.stderr)
        return 2
    try:
        rows = _ask(parsed, time_of(when, time.time()))
    except (OSError, ValueError) as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 2
    _print(rows, parsed.output)
    if not rows:
        print(f"nobody had port {parsed.port} of {parsed.address} then", file=sys.stderr)
    return int(not rows)


def _ask(parsed: argparse.Namespace, at: float) -> Sequence[Mapping[str, Any]]:
    from gateway.history import day_of

    # The door to the store is a room beside this one, so it is called by its name.
    etcd = import_module("clustermesh.forget").read(parsed.config or _config()).etcd
    days = day_of(at - parsed.error), day_of(at + parsed.error)
    found = import_module("clustermesh.lent").ask(etcd, parsed.address, *days)
    return rows_of(found, parsed.address, parsed.port, at, parsed.error)


def _config() -> Path:
    """A configuration that names the store: of a controller or an agent."""
    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    for name in ("controller.yaml", "agent.yaml"):
        for path in sorted([*run.glob(name), *run.glob(f"*/{name}")]):
            return path
    raise FileNotFoundError(f"no controller.yaml or agent.yaml under {run}; say --config FILE")


def rows_of(
    found: Iterable[Any], address: IP, port: int, at: float, error_s: float
) -> Sequence[Mapping[str, Any]]:
    """Who may be meant; ``found`` are parts of the history (``clustermesh/lent.py``)."""
    from gateway.history import FIRST_PORT

    nodes: dict[tuple[str, str], list[Any]] = {}
    for one in found:
        nodes.setdefault((one.cluster, one.node), []).append(one)
    if port < FIRST_PORT:
        return []
    rows = [
        row
        for (cluster, node), parts in sorted(nodes.items())
        for row in _of_node(parts, address, port, at, error_s, {"cluster": cluster, "node": node})
    ]
    return [{name: row[name] for name in COLUMNS} for row in rows]


def _of_node(
    found: Iterable[Any],
    address: IP,
    port: int,
    at: float,
    error_s: float,
    where: Mapping[str, str],
) -> Iterator[Mapping[str, Any]]:
    from gateway.history import coarse_at, holders_at, is_coarse_since, read_part, run_of

    parts = [
        read_part(address, day, name.partition("-")[0], one.value)
        for one in found
        for day, _, name in [one.place.split("/")]
    ]
    events = [event for part in parts for event in part.events]
    unsure = is_coarse_since(parts, at + error_s)
    for lending in holders_at(events, run_of(port), at, error_s):
        yield {
            **where, **_pod(lending.holder), "since": _text(lending.since),
            "until": _text(lending.until), "exact": lending.until is not None or not unsure,
        }  # fmt: skip
    for holder in coarse_at(parts, port, at, error_s):
        yield {**where, **_pod(holder), "since": None, "until": None, "exact": False}


def _pod(holder: Any) -> Mapping[str, Any]:
    return {"namespace": holder.namespace, "pod": holder.name, "podAddress": holder.address}


def _text(at: float | None) -> str | None:
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _print(rows: Sequence[Mapping[str, Any]], output: str) -> None:
    if output == "json":
        print(json.dumps(rows, indent=1))
    elif output == "yaml":
        print(import_module("yaml").safe_dump([dict(row) for row in rows], sort_keys=False))
    elif rows:
        cells = [COLUMNS, *(tuple(_cell(row[name]) for name in COLUMNS) for row in rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(COLUMNS))]
        for row in cells:
            line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            print(line.rstrip())


def _cell(value: Any) -> str:
    return {None: "-", True: "yes", False: "no"}.get(value, str(value))
