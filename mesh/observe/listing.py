"""Rows of several processes as one list, and as cells for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from mesh.core.noun import Noun, Row

if TYPE_CHECKING:  # the rules of a list need no gRPC
    from mesh.observe.tables import Answer


def merge(noun: Noun, answers: Iterable[Answer]) -> list[Row]:
    """Rows of all answers, each once, with exactly the noun's columns, in the order of its key.

    Of two rows with one key the one of a process of the row's own cluster wins, then the first
    answer's. A column that the winner does not have is filled from the others; a null that it has
    is its answer and stands. Columns of ``noun.joined`` are made of the values of all that have
    one. A row of ``cluster`` says whose view it is.
    """
    joined: dict[str, tuple[bool, Row]] = {}  # by key; whether the winner is of the own cluster
    for answer in answers:
        for given in answer.rows.get(noun.name, ()):
            row = {"seenBy": answer.cluster, **given}
            name = repr([row.get(column) for column in noun.key])
            own = bool(answer.cluster) and row.get("cluster") == answer.cluster
            before = joined.get(name)
            parts = _together(noun, before[1], row) if before else {}
            if before is None:
                joined[name] = own, row
            elif own and not before[0]:
                joined[name] = True, before[1] | row | parts
            else:
                joined[name] = before[0], row | before[1] | parts
    rows = [{column: row.get(column) for column in noun.columns} for _, row in joined.values()]
    return sorted(rows, key=lambda row: _order(row, noun.key))


def _together(noun: Noun, one: Row, other: Row) -> Row:
    """The columns of which each of two rows of one key has a part."""
    return {
        column: join(one[column], other[column])
        for column, join in noun.joined.items()
        if column in one and column in other
    }


#: Columns by which people call a row, beside its key.
_NAMES = ("name", "policy", "address", "prefix", "setting", "reason")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of a list: ``name`` as the key says it, from its end on, and values of columns.

    ``web-1``, ``shop/web-1`` and ``east/shop/web-1`` are one pod.
    """

    name: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def of(self, noun: Noun, rows: Iterable[Row]) -> list[Row]:
        """The chosen rows."""
        return [row for row in rows if self._takes(noun, row)]

    def _takes(self, noun: Noun, row: Row) -> bool:
        if any(value and row.get(column) != value for column, value in self.columns.items()):
            return False
        return not self.name or self.name in _called(noun, row)


def _called(noun: Noun, row: Row) -> set[str]:
    """Everything that a row is called."""
    key = [str(row.get(column)) for column in noun.key]
    names = {"/".join(key[at:]) for at in range(len(key))}
    return names | {str(row[column]) for column in _NAMES if row.get(column)}


def unknown_columns(noun: Noun, answers: Iterable[Answer]) -> Iterator[str]:
    """A sentence for each process whose rows have columns that the noun does not have."""
    for answer in answers:
        unknown = noun.unknown(answer.rows.get(noun.name, ()))
        if unknown:
            columns = ", ".join(sorted(unknown))
            yield f"{answer.process.name}: columns that {noun.name} does not have: {columns}"


def _order(row: Row, key: Sequence[str]) -> list[tuple[int, int | float, str]]:
    return [_sortable(row.get(column)) for column in key]


def _sortable(value: object) -> tuple[int, int | float, str]:
    if isinstance(value, int | float):
        return 0, value, ""
    return 1, 0, "" if value is None else str(value)


def exact_flow(row: Row) -> Row:
    """A flow with exactly the keys of the interface; the rest is for people."""
    ends = {
        side: {key: row[side][key] for key in ("address", "port", "identity", "labels")}
        for side in ("source", "destination")
    }
    return row | ends


def against(answers: Iterable[Answer]) -> Callable[[object], str]:
    """Faults of a node, in words: its agent does not answer, or has findings of it."""
    known: dict[str, str] = {}
    for answer in answers:
        if answer.process.role == "agent":
            node = str(answer.status.get("host") or answer.process.host)
            known[node] = "its agent does not answer" if answer.error else _codes(node, answer)
    return lambda node: known.get(str(node), "")


def _codes(node: str, answer: Answer) -> str:
    """Codes about the datapath of a node."""
    found = [
        str(one.get("code"))
        for one in answer.status.get("findings") or ()
        if f"node/{node}" in (one.get("about") or ()) and str(one.get("code")).startswith("D")
    ]
    return ", ".join(sorted(set(found)))


def texts(noun: Noun, rows: Iterable[Row]) -> list[list[str]]:
    """The rows as cells for people."""
    return [[_text(row[column], column) for column in noun.columns] for row in rows]


def _text(value: Any, column: str = "") -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return _dict_text(value)
    if isinstance(value, list):
        return ",".join(_text(one) for one in value) or "-"
    return _SHORT.get(column, str)(value)


_SHORT: dict[str, Callable[[Any], str]] = {
    "since": lambda at: f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}",
    "time": lambda at: f"{str(at)[:23]}Z",  # milliseconds are enough for people
    "labels": lambda labels: str(labels).rstrip(";").replace(";", ","),
}


def _dict_text(value: Row) -> str:
    if "address" in value:
        return _end_text(value)
    if "port" in value:
        return f"{value['port']}/{value.get('protocol', 'TCP')}"
    if "name" in value:
        return "/".join(
            str(value[part]) for part in ("cluster", "namespace", "name") if part in value
        )
    return " ".join(chain.from_iterable((f"{key}={_text(item)}",) for key, item in value.items()))


def _end_text(end: Row) -> str:
    """``east/shop/client-1:40000 (70001)``: the pod when it is known, else the address."""
    address, port = str(end["address"]), end.get("port")
    bare = f"[{address}]" if port and ":" in address else address
    who = f"{end.get('pod') or bare}{f':{port}' if port else ''}"
    return f"{who} ({end['identity']})" if "identity" in end else who
