"""Fields of the documents that are read: which are used, and what follows where one is not.

Each kind has a list of its fields, made by reading its API. A field is *used*, or it is *not used
and would change where traffic goes*, or it is of *no concern* here. The second sort is a finding,
one for each kind and field (``precedence.py``). ``docs/objects.md`` is written from the lists.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import partial
from typing import Any

from mesh.core.model import Finding
from mesh.objects.findings import UNSUPPORTED

_STEP = re.compile(r"([^.\[\]]+)|\[([^\]]*)\]")
#: Objects that a finding names.
_NAMED = 3
#: From so many changes on, a list of names is sorted as a whole.
_MANY = 64
_LIST = ""


class FieldServer(StrEnum):
    """What may serve a field that we do not. Each agent knows which of them its node has."""

    PROXY = "service proxy"
    PORTMAP = "portmap"
    CNI = "another CNI"


class Use(Enum):
    """What becomes of a field."""

    USED = "used"
    FINDING = "finding"
    IRRELEVANT = "no concern"


def _never(_: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """``path`` is written as ``spec.ports[].nodePort`` or ``metadata.labels[KEY]``.

    ``text`` says what the field is used for, what follows because it is not, or why it is of no
    concern. ``finding`` is what follows where ``found`` is true of a document. ``server``: what may
    serve the field beside us.
    """

    path: str
    use: Use
    text: str
    found: Callable[[Any], bool] = _never
    finding: str = ""
    server: FieldServer | None = None


@dataclass(frozen=True, slots=True)
class Unserved(Finding):
    """About a field that something else may serve: each node knows whether there it does."""

    server: FieldServer = FieldServer.PROXY


def used(path: str, text: str, finding: str = "") -> Field:
    """A field that is used; ``finding`` is what follows when its value is not supported."""
    return Field(path, Use.USED, text, finding=finding)


def unused(
    path: str,
    text: str,
    *,
    same: Iterable[object] = (),
    when: Callable[[Any], bool] | None = None,
    server: FieldServer | None = None,
) -> Field:
    """A field that is not used and would change where traffic goes.

    ``same`` are values that mean what an absent field means. Only documents of which ``when`` is
    true count.
    """
    found = partial(_is_set, tuple(_steps(path)), (None, "", 0, False, *same), when)
    return Field(path, Use.FINDING, text, found, text, server)


def reported(path: str, text: str) -> Field:
    """A field that is not used, about which each object has a finding of its own."""
    return Field(path, Use.FINDING, text)


def irrelevant(path: str, text: str) -> Field:
    """A field that does not change where traffic goes, or that others have acted on already."""
    return Field(path, Use.IRRELEVANT, text)


def unused_in(fields: Iterable[Field], document: Any) -> tuple[Field, ...]:
    """The fields of a document that are not used and would change where traffic goes."""
    return tuple(field for field in fields if field.found(document))


def _steps(path: str) -> Iterator[str]:
    for name, key in _STEP.findall(path):
        yield name or key  # ``[]`` is the empty step


def _is_set(
    steps: tuple[str, ...],
    same: tuple[object, ...],
    when: Callable[[Any], bool] | None,
    document: Any,
) -> bool:
    found = any(
        value not in same and value not in ([], {}) for value in _values(document, steps, 0)
    )
    return found and (when is None or when(document))


def _values(node: Any, steps: tuple[str, ...], at: int) -> Iterator[Any]:
    """Every value at the path; a document may have anything there."""
    if at == len(steps):
        yield node
    elif steps[at] == _LIST:
        for item in node if isinstance(node, list) else ():
            yield from _values(item, steps, at + 1)
    elif isinstance(node, dict) and steps[at] in node:
        yield from _values(node[steps[at]], steps, at + 1)


@dataclass(frozen=True, slots=True)
class _Having:
    """An object that has fields."""

    kind: str
    name: str
    fields: tuple[Field, ...]


_NOBODY = _Having("", "", ())


class UnusedFields:
    """Counts, for each kind and field, the objects that have it. A change costs its own fields."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._of: dict[Any, _Having] = {}
        self._names: dict[tuple[str, str], list[str]] = {}
        self._added: dict[tuple[str, str], list[str]] = {}
        self._removed: dict[tuple[str, str], list[str]] = {}
        self._fields: dict[tuple[str, str], Field] = {}

    def note(self, row: Any, kind: str, name: str, fields: tuple[Field, ...]) -> None:
        """The object that gives a row has these fields now; no row any more: none."""
        before = self._of.pop(row, _NOBODY)
        if fields:
            self._of[row] = _Having(kind, name, fields)
        was = {(before.kind, field.path, before.name): field for field in before.fields}
        now = {(kind, field.path, name): field for field in fields}
        for of_kind, path, of_name in (one for one in was if one not in now):
            self._removed.setdefault((of_kind, path), []).append(of_name)
        for (of_kind, path, of_name), field in now.items():
            if (of_kind, path, of_name) not in was:
                self._fields[of_kind, path] = field
                self._added.setdefault((of_kind, path), []).append(of_name)

    def changes(self) -> dict[str, Finding | None]:
        """Findings that changed since the last call, by an own key; None: it holds no longer."""
        added, self._added = self._added, {}
        removed, self._removed = self._removed, {}
        changed: dict[str, Finding | None] = {}
        for place in dict.fromkeys((*removed, *added)):
            names = self._names.setdefault(place, [])
            _take_in(names, added.get(place, ()))
            _take_out(names, removed.get(place, ()))
            changed[f"{UNSUPPORTED} {place[0]} {place[1]}"] = self._finding(place, names)
            if not names:
                del self._names[place], self._fields[place]
        return changed

    def _finding(self, place: tuple[str, str], names: list[str]) -> Finding | None:
        if not names:
            return None
        kind, path = place
        field = self._fields[place]
        more = ", …" if len(names) > _NAMED else ""
        count = f"{len(names)} object{'s' if len(names) > 1 else ''}"
        text = f"{count} ({', '.join(names[:_NAMED])}{more}): {field.finding}"
        where = f"{self._folder} {kind}"
        if field.server is not None:
            return Unserved(UNSUPPORTED, where, path, text, server=field.server)
        return Finding(UNSUPPORTED, where, path, text)


def _take_in(names: list[str], added: Iterable[str]) -> None:
    fresh = list(added)
    if len(fresh) > _MANY:
        names += fresh
        names.sort()
        return
    for name in fresh:
        insort(names, name)


def _take_out(names: list[str], removed: Iterable[str]) -> None:
    """Remove one entry for each name."""
    gone = sorted(removed)
    if len(gone) <= _MANY:
        for name in gone:
            del names[bisect_left(names, name)]
        return
    left = iter(gone)
    next_gone = next(left, None)
    kept = []
    for name in names:
        if name == next_gone:
            next_gone = next(left, None)
        else:
            kept.append(name)
    names[:] = kept


# --- The document -----------------------------------------------------------------------------

_HEAD = """# Objects

Which kinds of objects are read, and what becomes of each field. This page is written by
`make docs` from the lists of the rooms that read them. Our own kinds (EgressPolicy, BGPPeer,
ClusterPeer, see [contracts.md](contracts.md)) are not listed: they refuse a field that they do not
know. All other kinds are left alone: a folder may have them, and nothing is said about them.

*used*: the field decides as its API says. *finding*: the field is not used, and it would change
where traffic goes. `meshgate status` then has one finding M106 for the kind and field, with the
number of objects and the first three names. *no concern*: the field does not change where traffic
goes, or somebody else has acted on it already. A field that is not listed is of no concern.

Others may serve some of these fields: those with * a kube-proxy of the node, those with † the
plugin portmap in the runtime's list, those with ‡ another CNI beside which Meshgate runs; that one
serves the former two as well. Each agent knows which of them its node has (`services.kubeProxy`,
`cni.binDir`, `mode`). So these findings come from the agents of nodes that have none, and from no
other process.
"""
#: How the page marks the fields that others may serve.
_MARKS = {FieldServer.PROXY: "*", FieldServer.PORTMAP: "†", FieldServer.CNI: "‡"}


def document(kinds: Iterable[tuple[str, Iterable[Field]]]) -> str:
    """The lists as Markdown; each kind is named with its API version."""
    return "\n".join([_HEAD, *_sections(kinds)])


def _sections(kinds: Iterable[tuple[str, Iterable[Field]]]) -> Iterator[str]:
    for title, fields in kinds:
        yield f"## {title}\n\n| field | | what for, or what follows |\n|---|---|---|"
        yield from (_line(field) for field in fields)
        yield ""


def _line(field: Field) -> str:
    use = f"{field.use.value} {_MARKS[field.server]}" if field.server else field.use.value
    first, *_ = field.text.split()
    names_a_field = "." in first or not first.strip(",;:").islower()
    text = field.text if names_a_field else field.text[:1].upper() + field.text[1:]
    return f"| `{field.path}` | {use} | {text}. |"
