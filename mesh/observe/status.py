"""The health of everything on this machine, from what all processes answered.

``summarize`` is pure. A process reports its own findings. Findings that only an outsider can make
are made here: processes that do not answer, nodes without an agent, sessions that are down. Their
codes end in 90 to 99.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.core.findings import STORE, Code
from mesh.core.noun import Noun, Row, Shown
from mesh.observe import findings as codes
from mesh.observe.listing import merge
from mesh.observe.tables import Answer

#: Nouns that ``summarize`` reads beside those that are ``Shown``.
_READ = ("node", "cluster")
#: By role of a process that is away: the code of the finding, and the consequence.
_AWAY = {
    "agent": (
        codes.AGENT_AWAY,
        "what is programmed goes on forwarding; new pods, services and addresses wait",
    ),
    "controller": (
        codes.CONTROLLER_AWAY,
        "its cluster stays as published until the lease ends; claims and imports wait",
    ),
    "speaker": (
        codes.SPEAKER_AWAY,
        "ExaBGP keeps its sessions and routes; changes of routes wait",
    ),
}
_STARTING = {
    "agent": codes.AGENT_STARTING,
    "controller": codes.CONTROLLER_STARTING,
    "speaker": codes.SPEAKER_STARTING,
}


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of a noun; sections stand in the order of their titles."""

    title: str
    columns: tuple[str, ...]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Status:
    """The content of ``meshgate status``.

    ``findings`` has {code, object, field, text, about, since}; ``said_by`` is how many processes
    say each of them.

    ``drops`` of the last minute are {reason, packets, node}; ``usage`` of tables, ports and maps
    is {what, node, used, size}. ``unshown`` are flow events of the last minute beyond their
    sender's share, {sender, events, node}.
    ``processes`` has how long each event loop was busy and with what; only JSON and YAML show it.
    """

    nodes: list[Row]
    clusters: list[Row]
    sections: list[Section]
    findings: list[Row]
    said_by: list[int] = field(default_factory=list)
    processes: list[Row] = field(default_factory=list)
    drops: list[Row] = field(default_factory=list)
    usage: list[Row] = field(default_factory=list)
    unshown: list[Row] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Nothing is wrong."""
        return not self.findings


def asked(nouns: Mapping[str, Noun]) -> list[str]:
    """Nouns that ``summarize`` reads; more may be in the answers."""
    return [*_READ, *(name for name, _ in _shown(nouns))]


def summarize(
    answers: Sequence[Answer], now: float, nouns: Mapping[str, Noun], run: str = ""
) -> Status:
    """Merge all answers; ``now`` dates the findings that are made here.

    ``run`` is the run directory in which the processes were looked for.

    Processes that do not answer come first, because they explain the rest.
    """
    rows = {noun: merge(nouns[noun], answers) for noun in asked(nouns)}
    agents = {_host(answer) for answer in answers if _role(answer) == "agent" and not answer.error}
    missing = list(_missing(answers, rows["node"], agents, run))
    reported = list(_reported(answers))
    known = _known(answers)
    derived = [
        *_starting(answers),
        *_broken(answers),
        *_unsaid(nouns, rows, known),
    ]
    ordered = [*_ordered(missing), *_ordered([*reported, *derived])]
    found, said_by = [one for one, _ in ordered], [count for _, count in ordered]
    nodes = [row | {"agent": "up" if row["name"] in agents else "-"} for row in rows["node"]]
    return Status(
        nodes=nodes,
        clusters=_clusters(nouns["cluster"], _dated(rows["cluster"], answers, now), rows["node"]),
        sections=_sections(nouns, rows),
        findings=[one | {"since": one["since"] or now} for one in found],
        said_by=said_by,
        processes=list(_busy(answers)),
        drops=_said(answers, "drops", ("reason", "packets", "node")),
        usage=_said(answers, "usage", ("what", "node", "used", "size")),
        unshown=_said(answers, "unshown", ("sender", "events", "node")),
    )


def _said(answers: Iterable[Answer], part: str, columns: Sequence[str]) -> list[Row]:
    """Rows of a part of the processes' own view, with exactly these columns."""
    return [
        {column: row.get(column) for column in columns}
        for answer in answers
        for row in answer.status.get(part) or ()
    ]


def _busy(answers: Iterable[Answer]) -> Iterator[Row]:
    for answer in answers:
        loop = answer.status.get("loop")
        if isinstance(loop, Mapping):
            yield {"process": answer.process.name, **loop}


def _host(answer: Answer) -> str:
    return str(answer.status.get("host") or answer.process.host)


def _role(answer: Answer) -> str:
    return answer.process.role.rstrip("0123456789")


def _finding(code: Code, thing: str, text: str, field: str = "", about: Sequence[str] = ()) -> Row:
    """A finding of our own, not dated yet."""
    row = {"code": str(code), "object": thing, "field": field, "text": text}
    return row | {"about": list(about), "since": 0.0}


def _missing(
    answers: Sequence[Answer], nodes: Iterable[Row], agents: set[str], run: str
) -> Iterator[Row]:
    """Processes that do not answer, and nodes of our clusters that have no agent at all."""
    if not answers:
        text = f"no process of Meshgate runs here: {run or 'it'} has no socket and no configuration"
        yield _finding(codes.NO_PROCESS, "run directory", f"{text}; MESHGATE_RUN names another one")
    for answer in answers:
        if answer.error:
            code, means = _AWAY.get(_role(answer), (codes.PROCESS_AWAY, "its part stands still"))
            yield _finding(code, answer.process.name, f"{answer.error}; {means}")
    if not any(answer.process.host for answer in answers):
        return  # the flat layout: other nodes are other machines
    known = agents | {a.process.host for a in answers if a.error and _role(a) == "agent"}
    clusters = {answer.cluster for answer in answers if not answer.error}
    for row in nodes:
        if row["cluster"] in clusters and row["name"] not in known:
            text = f"no agent has been started on this node; {_AWAY['agent'][1]}"
            about = (f"node/{row['name']}",)
            yield _finding(codes.NO_AGENT, f"{row['name']}/agent", text, about=about)
    yield from _leaderless(answers, clusters)


def _leaderless(answers: Sequence[Answer], clusters: set[str]) -> Iterator[Row]:
    controllers = [answer for answer in answers if _role(answer) == "controller"]
    if any(answer.error for answer in controllers):
        return  # named already
    for cluster in sorted(clusters - {answer.cluster for answer in controllers} - {""}):
        text = f"no controller has been started; {_AWAY['controller'][1]}"
        yield _finding(
            codes.NO_CONTROLLER, f"cluster {cluster}", text, about=(f"cluster/{cluster}",)
        )


def _starting(answers: Iterable[Answer]) -> Iterator[Row]:
    """Processes that say of themselves that not everything desired has arrived yet."""
    for answer in answers:
        if answer.status.get("ready") is False:
            code = _STARTING.get(_role(answer), codes.PROCESS_STARTING)
            yield _finding(code, answer.process.name, "not everything has been synced yet", "ready")


def _broken(answers: Iterable[Answer]) -> Iterator[Row]:
    for answer in answers:
        for noun, why in answer.refused.items():
            yield _finding(codes.TABLE_BROKEN, answer.process.name, f"cannot list: {why}", noun)


def _reported(answers: Iterable[Answer]) -> Iterator[Row]:
    for answer in answers:
        for one in answer.status.get("findings") or ():
            row: Row = {key: str(one.get(key, "")) for key in ("code", "object", "field", "text")}
            about = [str(name) for name in one.get("about") or ()]
            yield row | {"about": about, "since": float(one.get("since") or 0.0)}


def _known(answers: Iterable[Answer]) -> Callable[..., bool]:
    """Whether a process has already reported a finding about all of these.

    What a process reports is about its own cluster, too.
    """
    reported = [
        {*one["about"], f"cluster/{answer.cluster}"}
        for answer in answers
        for one in _reported([answer])
    ]
    return lambda *names: any(about.issuperset(names) for about in reported)


def _unsaid(
    nouns: Mapping[str, Noun], rows: Mapping[str, list[Row]], known: Callable[..., bool]
) -> Iterator[Row]:
    """Findings about a row that no process has itself."""
    for name, shown in _shown(nouns):
        for problem in filter(None, map(shown.problem, rows[name])):
            if not known(*problem.about):
                yield _finding(
                    problem.code, problem.object, problem.text, problem.field, problem.about
                )


def _shown(nouns: Mapping[str, Noun]) -> list[tuple[str, Shown]]:
    return [(noun.name, noun.shown) for noun in nouns.values() if noun.shown]


def _sections(nouns: Mapping[str, Noun], rows: Mapping[str, list[Row]]) -> list[Section]:
    sections = [
        Section(
            shown.title(rows[name]),
            shown.columns,
            [shown.row(row) for row in rows[name] if shown.kept(row)],
        )
        for name, shown in _shown(nouns)
    ]
    return sorted(sections, key=lambda section: section.title)


def _ordered(findings: Iterable[Row]) -> list[tuple[Row, int]]:
    """Each finding once, with its earliest time and its number, by code, object and field."""
    first: dict[tuple[str, ...], Row] = {}
    counts: dict[tuple[str, ...], int] = {}
    for one in findings:
        name = (one["code"], one["object"], one["field"], one["text"], *one["about"])
        counts[name] = counts.get(name, 0) + 1
        if name not in first or 0 < one["since"] < (first[name]["since"] or float("inf")):
            first[name] = one
    return [(first[name], counts[name]) for name in sorted(first)]


def _dated(clusters: list[Row], answers: Iterable[Answer], now: float) -> list[Row]:
    """The rows with the time at which they were last known to be complete; 0: never.

    A complete view ages from the moment at which its process lost etcd.
    """
    lost: dict[str, float] = {}
    for answer in answers:
        for one in _reported([answer]):
            if STORE in one["about"]:
                lost[answer.cluster] = min(one["since"] or now, lost.get(answer.cluster, now))
    return [
        row | {"synced": lost.get(row["seenBy"], now) if row["synced"] else 0} for row in clusters
    ]


def _clusters(noun: Noun, clusters: list[Row], nodes: Iterable[Row]) -> list[Row]:
    """Rows of ``cluster``; one made from its nodes for a cluster that nobody reports."""
    count: dict[str, int] = {}
    for row in nodes:
        count[row["cluster"]] = count.get(row["cluster"], 0) + 1
    missing = sorted(count.keys() - {row["cluster"] for row in clusters})
    blank: Mapping[str, Any] = dict.fromkeys(noun.columns)
    return clusters + [{**blank, "cluster": name, "nodes": count[name]} for name in missing]
