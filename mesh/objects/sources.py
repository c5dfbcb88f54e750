"""The sources of a process's objects: a folder, an API server, or both, behind one interface.

With one source its tables are the process's. With both, the tables of the process follow the tables
of both: an object that is in both is a finding, and the folder's counts, since it is nearer to the
process. A table is synced, and rows are deleted, only when both sources know everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from mesh.core.findings import Code
from mesh.core.model import Finding
from mesh.core.table import Table
from mesh.objects.fields import Unserved
from mesh.objects.schema import Kinds
from mesh.objects.tables import Objects

#: Rows that are taken over in one step of the event loop: at most about 2 ms.
_SLICE = 500


Job = Callable[[], Coroutine[Any, Any, None]]
#: Everything that is wrong now.
Found = Callable[[], Iterable[Finding]]


#: The nodes that do not hold this generation of an object, by its name in findings.
Lacking = Callable[[str, int], Sequence[str]]


class Source(Protocol):
    """Something that fills ``objects``."""

    objects: Objects

    @property
    def absent_at(self) -> float:
        """When a list last lacked an object that had been there, by the monotonic clock."""

    async def run(self) -> None:
        """Fill them until cancelled."""

    def place(self, noun: str, key: Any) -> str:
        """The object that gives a row, as findings name it; empty: none does."""

    def findings(self) -> Iterable[Finding]:
        """What is wrong with the source itself."""

    def write_back(
        self, findings: Found, leads: Callable[[], bool], lacking: Lacking
    ) -> Job | None:
        """What tells the source about its objects while this process leads, if it can be told."""

    @property
    def generations(self) -> Mapping[str, int]:
        """Generation of each object of ours whose row is in the tables, by its name in findings.

        A source whose objects have no generation has none.
        """


class Sources:
    """``objects`` of all ``sources``, which are named; the first one that has an object counts.

    ``in_both`` is the code of a finding about an object of several sources.
    """

    def __init__(self, sources: Mapping[str, Source], kinds: Kinds, in_both: Code) -> None:
        self._sources = sources
        self.merged = Merged(sources, kinds, in_both) if len(sources) > 1 else None
        self.objects = self.merged.objects if self.merged else _only(sources).objects

    def absent_at(self) -> float:
        """When a list last lacked an object that had been there, by the monotonic clock."""
        return max(source.absent_at for source in self._sources.values())

    def jobs(self) -> dict[str, Job]:
        """What runs as long as the process, by name."""
        merging = {"sources of objects": self.merged.run} if self.merged else {}
        return {name: source.run for name, source in self._sources.items()} | merging

    @property
    def generations(self) -> Mapping[str, int]:
        """Generation of each object of ours whose row is in the tables of its source."""
        (first, *others) = (source.generations for source in self._sources.values())
        return {**first, **{k: v for one in others for k, v in one.items()}} if others else first

    def write_back(
        self, findings: Found, leads: Callable[[], bool], lacking: Lacking
    ) -> dict[str, Job]:
        """What tells the sources what is wrong with their objects while this process leads.

        ``lacking`` says which nodes do not hold an object's generation.
        """
        jobs = {
            f"write back to {name}": source.write_back(findings, leads, lacking)
            for name, source in self._sources.items()
        }
        return {name: job for name, job in jobs.items() if job is not None}

    def findings(self, served: Container[str] | None = None) -> Iterator[Finding]:
        """What is wrong with the objects, and with their sources.

        ``served`` are the servers (``mesh/objects/fields.py``) that this node has. A process that
        knows none of any node says nothing about what they may serve.
        """
        for finding in self.objects.findings.rows.values():
            if not isinstance(finding, Unserved) or (
                served is not None and finding.server not in served
            ):
                yield finding
        for source in self._sources.values():
            yield from source.findings()


def _only(sources: Mapping[str, Source]) -> Source:
    (source,) = sources.values()
    return source


class Merged:
    """The tables of several sources, followed."""

    def __init__(self, sources: Mapping[str, Source], kinds: Kinds, in_both: Code) -> None:
        self.objects = Objects(kinds.nouns)
        self._in_both = in_both
        self._names, self._sources = list(sources), list(sources.values())
        #: Nouns whose rows share their names with those of a noun: pods, and pods of a host.
        self._space = _spaces(kinds)
        self._wake = asyncio.Event()
        self._revisions: dict[tuple[int, str], int] = {}
        self._found: dict[str, Table[str, Finding]] = {}
        self._clashes: Table[str, Finding] = Table("object in both")
        for table in self._tables():
            table.listen(self._wake.set)
        self._wake.set()

    def _tables(self) -> Iterator[Table[Any, Any]]:
        for source in self._sources:
            yield from source.objects.tables().values()
            yield source.objects.findings

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for _ in self.step():
                await asyncio.sleep(0)

    def step(self) -> Iterator[None]:
        """Take over what has changed; yields between two slices."""
        for noun, table in self.objects.tables().items():
            yield from self._follow(noun, table)
        yield from self._follow_findings()

    def _follow(self, noun: str, table: Table[Any, Any]) -> Iterator[None]:
        synced = all(source.objects.tables()[noun].synced for source in self._sources)
        nouns = self._space[noun]
        touched = {key for of in nouns for key in self._changed(noun, of)}
        for part in _slices(touched):
            rows, gone = {}, []
            for key in part:
                giver = self._giver(nouns, key)
                row = None if giver is None else self._rows(giver, noun).get(key)
                if row is None:
                    gone.append(key)
                else:
                    rows[key] = row
            table.upsert(rows)
            table.delete(gone)
            yield
        if synced:
            table.mark_synced()

    def _changed(self, reader: str, noun: str) -> Iterator[Any]:
        """Keys of a noun that changed in any source since the reader's last look."""
        for number, source in enumerate(self._sources):
            table, mark = source.objects.tables()[noun], (number, f"{reader} {noun}")
            changes = table.changes(self._revisions.get(mark, 0))
            self._revisions[mark] = table.revision
            if changes is None:
                yield from [*table.rows, *self.objects.tables()[noun].rows]
            else:
                yield from [*changes.upsert, *changes.delete]

    def _rows(self, number: int, noun: str) -> Mapping[Any, Any]:
        return self._sources[number].objects.tables()[noun].rows

    def _giver(self, nouns: Sequence[str], key: Any) -> int | None:
        """The first source that has a row of this key; a finding about the others."""
        having = [
            (number, noun)
            for number in range(len(self._sources))
            for noun in nouns
            if key in self._rows(number, noun)
        ]
        mark = f"{nouns[0]} {key}"
        if len({number for number, _ in having}) > 1:
            (first, _), (other, noun) = having[0], having[-1]
            counts = self._sources[first].place(having[0][1], key) or self._names[first]
            place = self._sources[other].place(noun, key) or f"{noun} {key}"
            text = f"also in {counts}, which counts"
            self._clashes.upsert({mark: Finding(self._in_both, place, "metadata.name", text)})
        else:
            self._clashes.delete([mark])
        return having[0][0] if having else None

    def _follow_findings(self) -> Iterator[None]:
        table = self.objects.findings
        tables = [source.objects.findings for source in self._sources]
        for number, of in enumerate((*tables, self._clashes)):
            mark = number, "finding"
            changes = of.changes(self._revisions.get(mark, 0))
            self._revisions[mark] = of.revision
            prefix = f"{number} "  # the same place and field may be wrong in both
            if changes is None:
                stale = [key for key in table.rows if key.startswith(prefix)]
                table.delete([key for key in stale if key.removeprefix(prefix) not in of.rows])
            else:
                table.delete([f"{prefix}{key}" for key in changes.delete])
            found = of.rows if changes is None else changes.upsert
            for part in _slices(found):
                table.upsert({f"{prefix}{key}": of.rows[key] for key in part if key in of.rows})
                yield
        if all(of.synced for of in tables):
            table.mark_synced()


def _spaces(kinds: Kinds) -> dict[str, tuple[str, ...]]:
    """The nouns whose rows share their names, by noun."""
    spaces: dict[str, tuple[str, ...]] = {noun.name: (noun.name,) for noun in kinds.nouns}
    for kind in kinds:
        if kind.also:
            names = tuple(noun.name for noun in (kind.noun, *kind.also))
            spaces |= dict.fromkeys(names, names)
    return spaces


def _slices(keys: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(list(keys))
    while part := list(islice(left, _SLICE)):
        yield part
