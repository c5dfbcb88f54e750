"""One command for everything. NOUN list, NOUN show, flow watch and status only read.

Each command imports what it needs when it runs: ``meshgate node list`` answers in 0.3 s.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.install import verbs as install

if TYPE_CHECKING:
    from mesh.core.noun import Noun, Row
    from mesh.observe.tables import Answer, Process
    from mesh.observe.watch import Wanted

_PROCESSES = {
    "agent": "the datapath of this node",
    "controller": "claims, publishing and imports of a cluster",
    "speaker": "BGP of this node",
    "feed": "lists of egress addresses for firewalls",
}
_FORMATS = ("table", "json", "yaml")
_ENVIRONMENT = (
    "MESHGATE_RUN names the run directory, in which the processes have their sockets; it is "
    "/run/meshgate by default. MESHGATE_ANSWER_S says for how many seconds the command waits for "
    "the answer of a process, 2 by default."
)
_SET_RUN = "MESHGATE_RUN names another directory"
_LAST = 1000
#: Columns by which rows of a list may be chosen.
_CHOSEN_BY = ("cluster", "namespace", "node")
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


class _Version(argparse.Action):
    """Looks for the version only when it is asked for: that takes 0.05 s."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        print(f"meshgate {version('meshgate')}")
        parser.exit()


def _nouns() -> Mapping[str, Noun]:
    from mesh.nouns import NOUNS

    return NOUNS


def _parser(
    given: Sequence[str], nouns: Mapping[str, Noun] | None = None
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshgate", description=__doc__.splitlines()[0], epilog=_ENVIRONMENT
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    if given[:1] == ["lab"]:  # called hundreds of times by tests and scripts: nothing else is asked
        import mesh.lab.cli

        mesh.lab.cli.add(commands)
        return parser
    nouns = nouns or _nouns()
    for role, text in _PROCESSES.items():
        if role in nouns:
            continue  # `meshgate feed` is the process, `meshgate feed list` shows its rows
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
    _add_cni(commands)
    install.add(commands)
    import_module("bgp.routers.command").add(commands)
    commands.add_parser("lab", help="two clusters, a router and a firewall on this machine")
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=_FORMATS, default="table")


def _add_nouns(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], nouns: Mapping[str, Noun]
) -> None:
    for name, noun in nouns.items():
        parser = commands.add_parser(name, help=noun.text)
        verbs = parser.add_subparsers(metavar="VERB", required=name not in _PROCESSES)
        if name in _PROCESSES:
            text = f"without a verb: run the {name}, {_PROCESSES[name]}"
            parser.add_argument("--config", type=Path, metavar="FILE", help=text)
            parser.set_defaults(run=_run_noun, role=name, parser=parser)
        listing = verbs.add_parser("list", help=noun.text)
        _add_output(listing)
        listing.set_defaults(run=_flow_list if name == "flow" else _list, noun=noun, whole=False)
        if name != "flow":
            _add_choice(listing, noun, nargs="?")
            showing = verbs.add_parser("show", help="everything about one of them")
            _add_output(showing)
            _add_choice(showing, noun)
            showing.set_defaults(run=_list, noun=noun.details or noun, whole=True)
        for module in noun.verbs.split():
            import_module(module).add(verbs)
        if name == "host":
            text = "undo what the agent of this configuration has set on this host; stop it first"
            restoring = verbs.add_parser("restore", help=text)
            restoring.add_argument("--config", required=True, type=Path, metavar="FILE")
            restoring.set_defaults(run=_restore)
        if name == "flow":
            watching = verbs.add_parser("watch", help="flows as they happen")
            watching.set_defaults(run=_flow_watch, last=0, noun=noun)
            _add_output(watching)
            _add_filters(watching)
            _add_filters(listing)
            text = f"the newest N, 0: all; without it the newest {_LAST} of each agent"
            listing.add_argument("--last", type=_count, metavar="N", help=text)


def _add_choice(parser: argparse.ArgumentParser, noun: Noun, nargs: str | None = None) -> None:
    """A name as the noun's key says it, and columns."""
    text = f"as {'/'.join(noun.key)}, from any part on"
    parser.add_argument("name", nargs=nargs, default="", metavar="NAME", help=text)
    for column in _CHOSEN_BY:
        if column in noun.columns:
            parser.add_argument(f"--{column}", default="", metavar="NAME")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--node", default="", metavar="NAME", help="seen on this node")
    parser.add_argument("--verdict", type=str.upper, choices=_VERDICTS, default="")
    parser.add_argument(
        "--pod", default="", metavar="[[CLUSTER/]NAMESPACE/]NAME", help="prefix of a pod's name"
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _add_cni(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The plugin of container runtimes; the init container of the agent runs it."""
    text = "the CNI plugin of this host"
    verbs = commands.add_parser("cni", help=text).add_subparsers(metavar="VERB", required=True)
    for verb, text in (("install", "put it into a folder"), ("uninstall", "take it away")):
        acting = verbs.add_parser(verb, help=text)
        folder = "where the runtime finds plugins; /opt/cni/bin by default"
        default = Path("/opt/cni/bin")
        acting.add_argument("--bin-dir", type=Path, default=default, metavar="DIR", help=folder)
        acting.set_defaults(run=_cni, verb=verb)


def _cni(parsed: argparse.Namespace) -> int:
    act = getattr(import_module("mesh.cni.install"), parsed.verb)
    try:
        act(parsed.bin_dir)
    except OSError as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 1
    return 0


def _run_noun(parsed: argparse.Namespace) -> int | None:
    """Run a process that has the name of a noun."""
    if parsed.config is None:
        parsed.parser.error("expected a VERB, or --config FILE to run the process")
    return _run_process(parsed)


def _run_process(parsed: argparse.Namespace) -> int | None:
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
        _complain([*lacks, f"no process answers under {tables.run_directory()} ({_SET_RUN})"])
        return 1
    lacks += listing.unknown_columns(noun, answers)
    columns = {column: getattr(parsed, column, "") for column in _CHOSEN_BY}
    choice = listing.Choice(parsed.name or "", columns)
    rows = choice.of(noun, listing.merge(noun, answers))
    if parsed.whole and not rows:
        lacks.append(f"no {noun.name} is called {parsed.name}; `meshgate {noun.name} list` has all")
    if noun.noted and parsed.output == "table":
        rows = [noun.noted(row, listing.against(answers)) for row in rows]
    _print_rows(noun, rows, parsed.output, whole=parsed.whole)
    return _complain(lacks)


def _restore(parsed: argparse.Namespace) -> int:
    from mesh.agent import restore
    from mesh.config import ConfigError

    try:
        for line in restore(parsed.config):
            print(line)
    except (ConfigError, OSError) as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 1
    return 0


def _lacks(answers: Sequence[Answer]) -> Iterator[str]:
    """A sentence for each process whose answer is not whole."""
    for answer in answers:
        for why in [answer.error, *answer.refused.values()]:
            if why:
                yield f"{answer.process.name}: {why}"


def _complain(sentences: Sequence[str]) -> int:
    """Say on stderr why an answer is not whole; the exit status."""
    from mesh.observe.render import marked

    for sentence in sentences:
        print(f"meshgate: {marked(sentence)}", file=sys.stderr)
    return 1 if sentences else 0


def _print_rows(noun: Noun, rows: list[Row], form: str, *, whole: bool = False) -> None:
    from mesh.observe import listing, render

    if form != "table":
        sys.stdout.writelines(render.rows(rows, form))
        return
    if whole:
        lines = render.sheet(noun.columns, listing.texts(noun, rows))
        sys.stdout.writelines(f"{line}\n" for line in lines)
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
        _complain([*lacks, f"no agent answers under {tables.run_directory()} ({_SET_RUN})"])
        return 1
    rows = [row for row in rows if parsed.node in ("", row["node"])]
    rows = rows[-parsed.last :] if parsed.last else rows
    if parsed.output != "table":
        rows = [listing.exact_flow(row) for row in rows]
    _print_rows(parsed.noun, rows, parsed.output)
    return _complain(lacks)


def _flow_watch(parsed: argparse.Namespace) -> int:
    from mesh.observe import watch
    from mesh.observe.render import marked

    try:
        for item in watch.live(_agents(), _wanted(parsed)):
            if isinstance(item, str):
                print(f"meshgate: {marked(item)}", file=sys.stderr, flush=True)
            elif parsed.node in ("", item["node"]):
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
        return render.in_ascii(tables.encode(listing.exact_flow(row)).decode())
    if form == "yaml":
        return "---\n" + render.document(listing.exact_flow(row), form).rstrip()
    return render.flow_line(listing.texts(noun, [row])[0])


def _status(parsed: argparse.Namespace) -> int:
    from mesh.observe import render, status, tables

    now = time.time()
    run = tables.run_directory()
    answers = tables.ask(tables.processes(run), status.asked(parsed.nouns))
    whole = status.summarize(answers, now, parsed.nouns, str(run))
    if parsed.output == "table":
        sys.stdout.write(render.screen(whole, now))
    else:
        answer: dict[str, object] = {
            "healthy": whole.healthy,
            "findings": whole.findings,
            "drops": whole.drops,
            "usage": whole.usage,
            "unshown": whole.unshown,
        }
        if whole.processes:
            answer["processes"] = whole.processes
        sys.stdout.write(render.document(answer, parsed.output))
    return 0 if whole.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
