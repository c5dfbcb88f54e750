"""The nouns that ``meshgate NOUN list`` prints, and how rows of several processes become one list.

The columns are the interface that others script against: each row has exactly these keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line knows its nouns without gRPC
    from mesh.observe.tables import Answer, Row


@dataclass(frozen=True, slots=True)
class Noun:
    """``key`` are the columns that identify a row."""

    name: str
    text: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


def _noun(name: str, text: str, columns: str, key: str) -> Noun:
    return Noun(name, text, tuple(columns.split()), tuple(key.split()))


NOUNS = {
    noun.name: noun
    for noun in (
        _noun(
            "node",
            "nodes of all clusters",
            "cluster name addresses podCIDRs locator",
            "cluster name",
        ),
        _noun(
            "pod",
            "pods of this machine's clusters",
            "cluster namespace name node addresses identity",
            "cluster namespace name",
        ),
        _noun("identity", "label sets and their numbers", "cluster id labels", "id"),
        _noun(
            "address",
            "who an address is, behind which node",
            "address identity cluster node",
            "address",
        ),
        _noun(
            "service",
            "services and their backends",
            "cluster namespace name addresses ports global backends",
            "cluster namespace name",
        ),
        _noun(
            "egress",
            "egress policies, their addresses and gateways",
            "cluster policy addresses gateway pods",
            "cluster policy",
        ),
        _noun(
            "block",
            "port blocks of egress addresses",
            "address number first last cluster node epoch",
            "address number",
        ),
        _noun("peer", "BGP sessions", "node address asn state reason", "node address"),
        _noun(
            "flow",
            "new connections and drops",
            "time node source destination protocol verdict reason translated",
            "time node source destination protocol",
        ),
        _noun("drop", "dropped packets by reason", "node reason number packets", "node number"),
        _noun(
            "cluster",
            "clusters as each cluster sees them",
            "cluster id nodes identities addresses services state synced seenBy",
            "cluster seenBy",
        ),
        _noun(
            "route",
            "BGP routes that nodes announce",
            "node peer prefix nextHop announced",
            "node peer prefix",
        ),
    )
}


def merge(noun: Noun, answers: Iterable[Answer]) -> list[Row]:
    """Rows of all answers, each once, with exactly the noun's columns, in the order of its key.

    Of two rows with one key the one of a process of the row's own cluster wins, then the first
    answer's. A row of ``cluster`` says whose view it is.
    """
    found: dict[str, tuple[bool, Row]] = {}
    for answer in answers:
        for given in answer.rows.get(noun.name, ()):
            row: Row = {"seenBy": answer.cluster, **given}
            row = {column: row.get(column) for column in noun.columns}
            name = repr([row[column] for column in noun.key])
            own = bool(answer.cluster) and row.get("cluster") == answer.cluster
            if name not in found or (own and not found[name][0]):
                found[name] = own, row
    return sorted((row for _, row in found.values()), key=lambda row: _order(row, noun.key))


def _order(row: Row, key: Sequence[str]) -> list[tuple[int, int | float, str]]:
    return [_sortable(row[column]) for column in key]


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
