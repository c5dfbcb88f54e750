"""Which manifest's object stands in the tables, and what a change of some manifests changes.

An object may be in several files: the first file by name counts, and each other one gets a finding.
A file that is missing, but not gone for sure, comes last. Pure, and costs what changed: the objects
of changed files, and the objects that other files share with them. Fields that are not used make
one finding for each kind and field (``fields.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from mesh.core.model import Finding
from mesh.objects.fields import UnusedFields
from mesh.objects.findings import DUPLICATE
from mesh.objects.schema import ObjectKey, Parsed

#: A row of a table: the noun of the table, or the space of its names, and the row's key.
RowKey = tuple[str, Any]
#: An object that gives a row: file name and object.
Giver = tuple[str, ObjectKey]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a file shows: its objects, and what is wrong with it."""

    held: Mapping[ObjectKey, Parsed] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes in the tables: rows, and findings by their key in the table."""

    rows: dict[RowKey, Any] = field(default_factory=dict)
    gone: list[RowKey] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    findings_gone: list[str] = field(default_factory=list)


_NOTHING = Shown()


def finding_key(finding: Finding) -> str:
    """Key of a finding in the table of findings."""
    return f"{finding.code} {finding.object} {finding.field}"


class Precedence:
    """All files of a folder by name, as they were last shown.

    The API server shows each object as a file of its own. ``place`` is how a finding names an
    object in a file: by the path of both, unless the source says otherwise.
    """

    def __init__(self, folder: str, place: Callable[[str, ObjectKey], str] | None = None) -> None:
        self._named = place or (lambda name, key: f"{folder}/{name} {key}")
        self._shown: dict[str, Shown] = {}
        self._missing: AbstractSet[str] = frozenset()
        self._givers: dict[RowKey, tuple[Giver, ...]] = {}
        self._finding_keys: dict[str, tuple[str, ...]] = {}  # by file, of files that have any
        #: Rows that stand in another table than that of their space.
        self._elsewhere: dict[RowKey, RowKey] = {}
        self._unused = UnusedFields(folder)

    def update(self, files: Mapping[str, Shown | None], missing: AbstractSet[str]) -> Difference:
        """Take in what files show now (None: nothing any more), and which files are missing."""
        touched: dict[RowKey, None] = {}
        for name, shown in files.items():
            touched |= dict.fromkeys(self._take(name, shown or _NOTHING))
        for name in self._missing ^ missing:
            touched |= dict.fromkeys(map(_row_key, self._shown.get(name, _NOTHING).held.values()))
        self._missing = missing
        difference = Difference()
        changed = dict.fromkeys([*files, *sorted(self._others(touched) - files.keys())])
        self._compare_rows(touched, difference)
        for name in changed:
            self._compare_findings(name, difference)
        for key, finding in self._unused.changes().items():
            if finding is None:
                difference.findings_gone.append(key)
            else:
                difference.findings[key] = finding
        return difference

    def place(self, noun: str, key: Any) -> str:
        """Which object gives a row, as findings name it; empty: none does."""
        row = noun, key
        if row not in self._givers:  # it stands in another table than its space
            row = next((of for of, now in self._elsewhere.items() if now == row), row)
        return self._place(self._first(row)) if row in self._givers else ""

    def _take(self, name: str, shown: Shown) -> Iterator[RowKey]:
        """Replace what a file shows; yields the rows that this may concern."""
        old, new = self._shown.get(name, _NOTHING).held, shown.held
        if shown is _NOTHING:
            self._shown.pop(name, None)
        else:
            self._shown[name] = shown
        for key, parsed in old.items():
            if new.get(key) is not parsed:
                row = _row_key(parsed)
                self._forget(row, (name, key))
                yield row
        for key, parsed in new.items():
            row = _row_key(parsed)
            if old.get(key) is not parsed:
                self._givers[row] = (*self._givers.get(row, ()), (name, key))
                yield row
            elif len(self._givers[row]) > 1:  # its place in the file may be another
                yield row

    def _forget(self, row: RowKey, giver: Giver) -> None:
        left = tuple(one for one in self._givers[row] if one != giver)
        if left:
            self._givers[row] = left
        else:
            del self._givers[row]

    def _others(self, rows: Iterable[RowKey]) -> set[str]:
        return {name for row in rows for name, _ in self._givers.get(row, ())}

    def _compare_rows(self, touched: Iterable[RowKey], difference: Difference) -> None:
        for row in touched:
            giver = self._first(row) if row in self._givers else None
            parsed = self._parsed(giver) if giver else None
            before = self._elsewhere.pop(row, row)
            if giver is None or parsed is None or parsed.row is None:
                difference.gone.append(before)
                self._unused.note(row, "", "", ())
            else:
                now = parsed.noun, parsed.key
                difference.rows[now] = parsed.row
                if now != before:
                    difference.gone.append(before)
                if now != row:
                    self._elsewhere[row] = now
                of = giver[1]
                name = f"{of.namespace}/{of.name}" if of.namespace else of.name
                self._unused.note(row, of.kind, name, parsed.unused)

    def _compare_findings(self, name: str, difference: Difference) -> None:
        found: dict[str, Finding] = {}
        for finding in self._findings(name):
            found.setdefault(finding_key(finding), finding)
        old = self._finding_keys.pop(name, ())
        if found:
            self._finding_keys[name] = tuple(found)
        difference.findings.update(found)
        difference.findings_gone.extend(key for key in old if key not in found)

    def _findings(self, name: str) -> Iterator[Finding]:
        shown = self._shown.get(name, _NOTHING)
        yield from shown.findings
        for key, parsed in shown.held.items():
            yield from parsed.findings
            givers = self._givers[_row_key(parsed)]
            if len(givers) == 1 or name in self._missing:
                continue
            first = self._first(_row_key(parsed))
            if first != (name, key):
                text = f"also in {self._place(first)}, which counts"
                yield Finding(DUPLICATE, self._place((name, key)), "metadata.name", text)

    def _place(self, giver: Giver) -> str:
        return self._named(*giver)

    def _parsed(self, giver: Giver) -> Parsed:
        name, key = giver
        return self._shown[name].held[key]

    def _first(self, row: RowKey) -> Giver:
        givers = self._givers[row]
        return givers[0] if len(givers) == 1 else min(givers, key=self._rank)

    def _rank(self, giver: Giver) -> tuple[bool, str, int]:
        name, key = giver
        return name in self._missing, name, list(self._shown[name].held).index(key)


def _row_key(parsed: Parsed) -> RowKey:
    return parsed.space or parsed.noun, parsed.key
