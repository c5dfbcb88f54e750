"""Rows as people and scripts read them: tables, JSON, YAML, and the status screen.

Colour and boxes only on a terminal; otherwise plain columns, so that a pipe gets plain text. Texts
of others come out in ASCII, whatever the form: a name may hold letters that look like others, marks
that turn the direction of writing, and codes that a terminal obeys.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import msgspec

from mesh.core.noun import Row
from mesh.observe.status import Status

FORMATS = ("table", "json", "yaml")
#: Rows of a long list that are made into text at a time.
_PIECE = 1000


#: All that is no plain letter, but for the dots with which we cut texts.
_FOREIGN = re.compile(r"[^ -~…]")


def marked(text: str) -> str:
    """``text`` with everything but printable ASCII as Python escapes it, by number."""
    return _FOREIGN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_ascii(text: str) -> str:
    """Equal JSON in ASCII: other letters stand in strings only (RFC 8259 7)."""
    return re.sub(r"[^ -~\n]", lambda found: json.dumps(found[0])[1:-1], text)


def document(value: object, form: str) -> str:
    """``value`` as indented JSON or as YAML."""
    if form == "json":
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        return in_ascii(text) + "\n"
    import yaml  # noqa: PLC0415 (0.1 s that only this format needs)

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=False, default_flow_style=False)


def rows(listed: Sequence[Row], form: str) -> Iterator[str]:
    """Rows as one JSON array or one YAML list, in pieces."""
    if form != "json" or not listed:
        yield document(listed, form)
        return
    for begin in range(0, len(listed), _PIECE):
        yield ",\n" if begin else "[\n"
        yield document(listed[begin : begin + _PIECE], form)[2:-3]
    yield "\n]\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO | None = None) -> None:
    """Print rows under their heads."""
    out = out or sys.stdout
    if out.isatty():
        _rich(heads, rows)
    else:
        out.writelines(f"{line}\n" for line in plain(heads, rows))


def sheet(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row as lines of its own, a column a line, with an empty line between rows."""
    width = max(map(len, heads))
    for number, row in enumerate(rows):
        if number:
            yield ""
        cells = zip(heads, map(marked, row), strict=True)
        yield from (f"{head.upper().ljust(width)}  {cell}" for head, cell in cells)


def _rich(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import console, table, text  # noqa: PLC0415 (0.1 s that only a terminal needs)

    grid = table.Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        grid.add_column(head.upper(), overflow="fold")
    for row in rows:
        grid.add_row(*(text.Text(marked(cell)) for cell in row))
    console.Console().print(grid)


def plain(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Aligned lines, two spaces between columns."""
    lines = [[head.upper() for head in heads], *(list(map(marked, row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        yield "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()


def flow_line(cells: Sequence[str]) -> str:
    """One flow of ``flow watch``; its columns cannot be aligned with those of later flows."""
    at, node, source, destination, protocol, verdict, reason, translated, service = map(
        marked, cells
    )
    details = [reason] if reason != "-" else []
    if translated != "-":
        details.append(f"as {translated}")
    if service != "-":
        details.append(f"asked for {service}")
    end = f" ({', '.join(details)})" if details else ""
    return f"{at} {node}: {source} -> {destination} {protocol} {verdict}{end}"


def screen(status: Status, now: float) -> str:
    """The one screen of ``meshgate status``; findings last."""
    return "\n".join(map(marked, _screen(status, now))) + "\n"


def _screen(status: Status, now: float) -> Iterator[str]:
    up = sum(row["agent"] == "up" for row in status.nodes)
    yield f"Nodes: {len(status.nodes)}, {up} with an agent here"
    yield from _section(("cluster", "name", "agent", "addresses"), status.nodes)
    yield ""
    yield f"Clusters: {len({row['cluster'] for row in status.clusters})}"
    aged = [row | {"synced": _synced(row, now)} for row in status.clusters]
    heads = ("cluster", "id", "seenBy", "synced", "nodes", "identities", "addresses", "services")
    yield from _section(heads, aged)
    yield ""
    for section in status.sections:
        yield section.title
        yield from _section(section.columns, section.rows)
        yield ""
    yield from _health(status)
    yield from _findings(status, now)


#: A map of rows is a line from this share on; connections, mappings and ports always are.
_SHOWN_FROM = 1 / 2
_ALWAYS = ("connections", "mappings", "ports")


def _synced(row: Row, now: float) -> str:
    """When a cluster was last seen whole; of one that is only kept, that it is."""
    return "held" if row.get("state") == "held" else age(row["synced"], now)


def _health(status: Status) -> Iterator[str]:
    """What was dropped, and how much of what has an end is in use."""
    packets = sum(row["packets"] for row in status.drops)
    yield f"Drops in the last minute: {packets}"
    yield from _section(("reason", "packets", "node"), status.drops)
    yield ""
    if status.unshown:
        events = sum(row["events"] for row in status.unshown)
        yield f"Flows not shown in the last minute, beyond their sender's share: {events}"
        yield from _section(("sender", "events", "node"), status.unshown)
        yield ""
    usage = [row for row in status.usage if _is_shown(row)]
    yield "In use:" if usage else "In use: nothing is known"
    yield from _section(
        ("what", "node", "used", "size", "share"),
        [row | {"share": f"{row['used'] / (row['size'] or 1):.0%}"} for row in usage],
    )
    yield ""


def _is_shown(row: Row) -> bool:
    always = str(row["what"]).partition(" ")[0] in _ALWAYS
    return always or row["used"] >= _SHOWN_FROM * row["size"] > 0


def _section(heads: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        lines = plain(heads, [[_cell(row.get(head)) for head in heads] for row in rows])
        yield from (f"  {line}" for line in lines)


def _findings(status: Status, now: float) -> Iterator[str]:
    if not status.findings:
        yield "Healthy: nothing found"
        return
    yield f"Findings: {len(status.findings)}"
    for one, said_by in zip(status.findings, status.said_by, strict=True):
        thing = f"{one['object']} {one['field']}".strip()
        many = f", said by {said_by} processes" if said_by > 1 else ""
        yield f"  {one['code']}  {thing}: {one['text']} (since {age(one['since'], now)}{many})"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return str(value)


def age(at: object, now: float) -> str:
    """``12 s ago`` for a Unix time; ``never`` for none."""
    if not isinstance(at, int | float) or at <= 0:
        return "never" if at == 0 else "-"
    seconds = max(0, int(now - at))
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


_UNITS: Iterable[tuple[str, int]] = (("d", 86400), ("h", 3600), ("min", 60))
