"""Verbs of ``meshgate peer`` beside ``list`` and ``show``; imports happen when a verb runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core.arguments import address_or_network, agrees, network
from mesh.core.noun import Noun, Row

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    routes = verbs.add_parser("routes", help="routes of a session, and why a prefix is none")
    routes.add_argument("peer", metavar="PEER", help="the router's address, or its BGPPeer")
    which = routes.add_mutually_exclusive_group(required=True)
    text = "what the router has sent"
    which.add_argument("--received", dest="way", action="store_const", const="received", help=text)
    text = "what the router is sent: wanted, sent, or echoed by it"
    which.add_argument(
        "--advertised", dest="way", action="store_const", const="advertised", help=text
    )
    text = "say why this prefix is not accepted, or not announced"
    routes.add_argument("--why-not", metavar="PREFIX", type=network, help=text)
    routes.add_argument("--node", default="", metavar="NAME", help="sessions of this node only")
    routes.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    routes.set_defaults(run=_routes)

    accept = verbs.add_parser(
        "accept", help="let a router's routes go that are held because a list lacks them (B224)"
    )
    accept.add_argument(
        "peer", metavar="PEER", type=address_or_network, help="the router's address, or range"
    )
    text = "a controller's configuration; without it all of the run directory"
    accept.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    accept.add_argument("--yes", action="store_true", help="do not ask")
    accept.set_defaults(run=_accept)


def _accept(parsed: argparse.Namespace) -> int:
    # The door to etcd is a sibling of this room, so it is called by its name.
    accept, forget = (import_module(f"clustermesh.{one}") for one in ("accept", "forget"))
    try:
        asked = forget.of_controllers(parsed.config)
        text = f"Routes to {parsed.peer} go whose objects a list of {', '.join(asked)} lacks."
        if not parsed.yes and not agrees(text, "Withdraw them"):
            return 1
        for one in asked.values():
            accept.accept_peer(one, str(parsed.peer))
    except (OSError, ValueError) as error:
        print(f"meshgate: nothing is accepted: {error}", file=sys.stderr)
        return 1
    print(f"{', '.join(asked)}: routes to {parsed.peer} that were held are withdrawn")
    return 0


def _routes(parsed: argparse.Namespace) -> int:
    from bgp import nouns

    noun = nouns.RECEIVED if parsed.way == "received" else nouns.ADVERTISED
    other = nouns.REFUSED if parsed.way == "received" else nouns.UNANNOUNCED
    asked = [noun, nouns.DETAILS, *([other] if parsed.why_not else [])]
    found, lacks, somebody = _ask(asked)
    if not somebody:
        return _complain(lacks)
    sessions = [row for row in found[nouns.DETAILS.name] if _is_meant(row, parsed)]
    if not sessions:
        lacks.append(f"no session with {parsed.peer}; `meshgate peer list` has all")
        return _complain(lacks)
    mine = {(row["node"], row["address"]) for row in sessions}
    rows = [row for row in found[noun.name] if (row["node"], row["peer"]) in mine]
    if parsed.why_not is None:
        _print(noun, rows, parsed.output)
        return _complain(lacks)
    prefix = str(parsed.why_not)
    others = [row for row in found[other.name] if (row["node"], row["peer"]) in mine]
    why = reasons(parsed.way, prefix, sessions, rows, others)
    _print(nouns.UNANNOUNCED, why, parsed.output)
    return _complain(lacks)


def _is_meant(row: Row, parsed: argparse.Namespace) -> bool:
    if parsed.node not in ("", row["node"]):
        return False
    return bool(parsed.peer in (row["address"], row["name"]))


def reasons(
    way: str, prefix: str, sessions: Sequence[Row], rows: Sequence[Row], others: Sequence[Row]
) -> list[Row]:
    """One row for each session and route distinguisher."""
    found: list[Row] = []
    for session in sessions:
        at = {"node": session["node"], "peer": session["address"], "prefix": prefix}
        there = [row for row in (*rows, *others) if at.items() <= row.items()]
        for row in there:
            reason = row["reason"] or _GOOD[way](row)
            found.append({**at, "rd": row["rd"], "reason": reason})
        if not there:
            found.append({**at, "rd": "", "reason": _NOTHING[way](session)})
    return found


_GOOD: Mapping[str, Callable[[Row], str]] = {
    "received": lambda _: "it is accepted",
    "advertised": lambda row: f"it is announced ({row['state']})",
}


def _unheard(session: Row) -> str:
    if session["state"] != "established":
        return f"the session is {session['state']}: {session['reason'] or 'no answer yet'}"
    return f"the router {session['address']} has not sent it"


_NOTHING: Mapping[str, Callable[[Row], str]] = {
    "received": _unheard,
    "advertised": lambda session: (
        f"node {session['node']} has nothing to announce of this prefix: no pod CIDR, service, "
        "egress address, locator, VRF or object names it"
    ),
}


def _ask(nouns: Sequence[Noun]) -> tuple[dict[str, list[Row]], list[str], bool]:
    """Rows of all speakers by noun, a sentence for each that does not answer, whether one does."""
    # The process sockets lie above this room, so they are called by their name.
    tables: Any = import_module("mesh.observe.tables")
    run = tables.run_directory()
    speakers = [one for one in tables.processes(run) if one.role == "speaker"]
    answers = tables.ask(speakers, [noun.name for noun in nouns], patient=True)
    merge = import_module("mesh.observe.listing").merge
    lacks = list(_lacks(answers))
    somebody = not all(answer.error for answer in answers)
    if not somebody:
        lacks.append(f"no speaker answers under {run} (MESHGATE_RUN names another directory)")
    return {noun.name: merge(noun, answers) for noun in nouns}, lacks, somebody


def _lacks(answers: Sequence[Any]) -> Iterator[str]:
    for answer in answers:
        for why in (answer.error, *answer.refused.values()):
            if why:
                yield f"{answer.process.name}: {why}"


def _print(noun: Noun, rows: Sequence[Row], form: str) -> None:
    render: Any = import_module("mesh.observe.render")
    if form != "table":
        sys.stdout.writelines(render.rows(rows, form))
    else:
        render.table(noun.columns, import_module("mesh.observe.listing").texts(noun, rows))


def _complain(sentences: Sequence[str]) -> int:
    marked = import_module("mesh.observe.render").marked
    for sentence in sentences:
        print(f"meshgate: {marked(sentence)}", file=sys.stderr)
    return 1 if sentences else 0
