"""``meshgate``: one command for everything. ``NOUN list``, ``flow watch`` and ``status`` only read.

Each command imports what it needs when it runs: ``meshgate node list`` answers in 0.3 s.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.core.noun import Noun, Row
    from mesh.observe.tables import Answer, Process
    from mesh.observe.watch import Wanted

_PROCESSES = {
    "agent": "the datapath of this node",
    "controller": "claims, publishing and imports of a cluster",
    "speaker": "BGP of this node",
}
_FORMATS = ("table", "json", "yaml")
_LAST = 1000
_VERDICTS = ("FORWARDED", "DROPPED")


def main(arguments: Sequence[str] | None = None, nouns: Mapping[str, Noun] | None = None) -> int:
    """Run one command and return its exit status; ``nouns`` stand for ``mesh/nouns.py``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser(given, nouns).parse_args(given)
    try:
        status = int(parsed.run(parsed) or 0)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone; Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _nouns() -> Mapping[str, Noun]:
    from mesh.nouns import NOUNS

    return NOUNS


def _parser(
    given: Sequence[str], nouns: Mapping[str, Noun] | None = None
) -> argparse.ArgumentParser:
    nouns = nouns or _nouns()
    parser = argparse.ArgumentParser(prog="meshgate", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for role, text in _PROCESSES.items():
        process = commands.add_parser(role, help=f"run the {role}: {text}")
        process.add_argument("--config", required=True, type=Path, metavar="FILE")
        process.set_defaults(run=_run_process, role=role)
        if role == "agent":
            only = "only make the pinned datapath that of these object files, and end"
            process.add_argument("--datapath", type=Path, metavar="OBJECTS", help=only)
    status = commands.add_parser("status", help="everything on one screen, findings last")
    _add_output(status)
    status.set_defaults(run=_status, nouns=nouns)
    _add_nouns(commands, nouns)
    _add_lab(commands, given)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=_FORMATS, default="table")


def _add_nouns(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], nouns: Mapping[str, Noun]
) -> None:
    for name, noun in nouns.items():
        verbs = commands.add_parser(name, help=noun.text).add_subparsers(
            metavar="VERB", required=True
        )
        listing = verbs.add_parser("list", help=noun.text)
        _add_output(listing)
        listing.set_defaults(run=_flow_list if name == "flow" else _list, noun=noun)
        if name == "flow":
            watching = verbs.add_parser("watch", help="flows as they happen")
            watching.set_defaults(run=_flow_watch, last=0, noun=noun)
            _add_output(watching)
            _add_filters(watching)
            _add_filters(listing)
            text = f"the newest N, 0: all; without it the newest {_LAST} of each agent"
            listing.add_argument("--last", type=_count, metavar="N", help=text)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verdict", type=str.upper, choices=_VERDICTS, default="")
    parser.add_argument(
        "--pod", default="", metavar="[[CLUSTER/]NAMESPACE/]NAME", help="prefix of a pod's name"
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _add_lab(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], given: Sequence[str]
) -> None:
    if given[:1] == ["lab"]:
        import mesh.lab.cli

        mesh.lab.cli.add(commands)
    else:
        commands.add_parser("lab", help="two clusters, a router and a firewall on this machine")


def _run_process(parsed: argparse.Namespace) -> int | None:
    from importlib import import_module

    only = getattr(parsed, "datapath", None)
    arguments = (parsed.config,) if only is None else (parsed.config, only)
    result: int | None = import_module(f"mesh.{parsed.role}").main(*arguments)
    return result


def _list(parsed: argparse.Namespace) -> int:
    from mesh.observe import listing, tables

    noun: Noun = parsed.noun
    running = tables.processes(tables.run_directory())
    answers = tables.ask(running, [noun.name], patient=True)
    lacks = list(_lacks(answers))
    if all(answer.error for answer in answers):
        _complain([*lacks, f"no process answers under {tables.run_directory()}"])
        return 1
    lacks += listing.unknown_columns(noun, answers)
    _print_rows(noun, listing.merge(noun, answers), parsed.output)
    return _complain(lacks)


def _lacks(answers: Sequence[Answer]) -> Iterator[str]:
    """A sentence for each process whose answer is not whole."""
    for answer in answers:
        for why in [answer.error, *answer.refused.values()]:
            if why:
                yield f"{answer.process.name}: {why}"


def _complain(sentences: Sequence[str]) -> int:
    """Say on stderr why an answer is not whole; the exit status."""
    for sentence in sentences:
        print(f"meshgate: {sentence}", file=sys.stderr)
    return 1 if sentences else 0


def _print_rows(noun: Noun, rows: list[Row], form: str) -> None:
    from mesh.observe import listing, render

    if form != "table":
        sys.stdout.writelines(render.rows(rows, form))
        return
    render.table(noun.columns, listing.texts(noun, rows))


def _agents() -> list[Process]:
    from mesh.observe import tables

    running = tables.processes(tables.run_directory())
    return [process for process in running if process.role == "agent"]


def _wanted(parsed: argparse.Namespace) -> Wanted:
    from mesh.observe.watch import Wanted

    number = _LAST if parsed.last is None else parsed.last
    return Wanted(number, parsed.verdict, parsed.pod)


def _flow_list(parsed: argparse.Namespace) -> int:
    from mesh.observe import listing, tables, watch

    agents = _agents()
    try:
        rows, failed = watch.kept(agents, _wanted(parsed))
    except watch.FlowsError as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 2
    lacks = [f"{name}: {why}" for name, why in failed.items()]
    if len(failed) == len(agents):
        _complain([*lacks, f"no agent answers under {tables.run_directory()}"])
        return 1
    rows = rows[-parsed.last :] if parsed.last else rows
    if parsed.output != "table":
        rows = [listing.exact_flow(row) for row in rows]
    _print_rows(parsed.noun, rows, parsed.output)
    return _complain(lacks)


def _flow_watch(parsed: argparse.Namespace) -> int:
    from mesh.observe import watch

    try:
        for item in watch.live(_agents(), _wanted(parsed)):
            if isinstance(item, str):
                print(f"meshgate: {item}", file=sys.stderr, flush=True)
            else:
                print(_flow_text(parsed.noun, item, parsed.output), flush=True)
    except watch.FlowsError as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 2
    print("meshgate: no agent is left to follow", file=sys.stderr)
    return 1


def _flow_text(noun: Noun, row: Row, form: str) -> str:
    """One line; JSON is one object per line, YAML one document per flow."""
    from mesh.observe import listing, render, tables

    if form == "json":
        return tables.encode(listing.exact_flow(row)).decode()
    if form == "yaml":
        return "---\n" + render.document(listing.exact_flow(row), form).rstrip()
    return render.flow_line(listing.texts(noun, [row])[0])


def _status(parsed: argparse.Namespace) -> int:
    from mesh.observe import render, status, tables

    now = time.time()
    answers = tables.ask(tables.processes(tables.run_directory()), status.asked(parsed.nouns))
    whole = status.summarize(answers, now, parsed.nouns)
    if parsed.output == "table":
        sys.stdout.write(render.screen(whole, now))
    else:
        answer: dict[str, object] = {
            "healthy": whole.healthy,
            "findings": whole.findings,
            "drops": whole.drops,
            "usage": whole.usage,
        }
        if whole.processes:
            answer["processes"] = whole.processes
        sys.stdout.write(render.document(answer, parsed.output))
    return 0 if whole.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
