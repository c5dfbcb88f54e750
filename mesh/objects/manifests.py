"""The folder of manifests as a source of objects.

Rule 1: what cannot be read or used keeps the last good row of its object, also over a restart.
Rule 2: only an object that a readable file no longer contains, or whose file is gone, is deleted;
        a folder that cannot be read deletes nothing, and a delete waits while another file is
        yet to be read: the object may have moved there.
Rule 3: everything that is not used as written is a finding that names file, object and field.

Another source (the API server, ``mesh/k8s.py``) fills the same ``Objects`` through
``mesh/objects/kinds.py``; whoever reads the tables does not see the difference.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mesh.core.model import Finding
from mesh.core.strict import Wrong, parse_json, parse_yaml
from mesh.core.table import Table
from mesh.objects.folder import (
    CUT_REST_S,
    UNREAD_S,
    Folder,
    LastGood,
    LastGoodStore,
    Look,
    read_text,
    torn_rest_s,
)
from mesh.objects.schema import REFUSED, Head, Kinds, ObjectKey, Parsed, Place, head, items
from mesh.objects.tables import Objects

__all__ = ["Manifests", "Objects"]

FOLDER = "M101"
BROKEN_FILE = "M102"
DUPLICATE = "M104"
UNKNOWN_KIND = "M105"
STATE = "M107"

#: Seconds between looks; longer when looking is expensive, so that it takes 0.5 % of a core.
INTERVAL_S = 0.2
MAX_INTERVAL_S = 5.0
_LOOK_SHARE = 200
#: Looks after which files that never rest no longer delay the first sync.
_SYNC_LOOKS = 10


@dataclass(frozen=True, slots=True)
class _Held:
    """The last good version of one object."""

    parsed: Parsed
    document: Any


@dataclass(slots=True)
class _File:
    """One manifest file: its last good text and objects, and what is wrong with it now."""

    text: str = ""
    held: dict[ObjectKey, _Held] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def last_good(self) -> LastGood:
        return LastGood(self.text, tuple(held.document for held in self.held.values()))


class _Reading:
    """The documents of one readable file, one after the other."""

    def __init__(
        self, kinds: Kinds, cluster: str, path: str, last: Mapping[ObjectKey, _Held]
    ) -> None:
        self.kinds = kinds
        self.cluster = cluster
        self.path = path
        self.last = last
        self.held: dict[ObjectKey, _Held] = {}
        self.findings: list[Finding] = []
        self._doubtful: set[str] = set()
        self._nameless = False

    def add(self, number: int, document: object) -> None:
        try:
            found = head(document)
        except Wrong as error:
            self._nameless = True
            where = f"document {number}: {error.path}".rstrip(": ")
            self.findings.append(Finding(REFUSED, self.path, where, error.text))
            return
        place = Place(self.cluster, self.path, self.kinds.key_of(found))
        if not self.kinds.known(found):
            self._doubtful.add(found.metadata.name)
            text = f"{found.kind} of {found.api_version} is not read"
            self.findings.append(place.finding(UNKNOWN_KIND, "kind", text))
        elif place.key in self.held:
            text = f"the object is in {self.path} twice: the first one counts"
            self.findings.append(place.finding(DUPLICATE, "metadata.name", text))
        else:
            self._parse(found, place, document)

    def _parse(self, found: Head, place: Place, document: object) -> None:
        old = self.last.get(place.key)
        try:
            self.held[place.key] = _Held(self.kinds.parse(found, place, document), document)
        except Wrong as error:
            kept = "; it stays as it was" if old else ""
            self.findings.append(place.finding(REFUSED, error.path, error.text + kept))
            if old:
                self.held[place.key] = old

    def keep_doubtful(self) -> None:
        """Keep a missing object that an unreadable document may be.

        That is one of an unknown kind with its name (a typing error), or one without a name.
        """
        for key, old in self.last.items():
            if self._nameless or key.name in self._doubtful:
                self.held.setdefault(key, old)


class Manifests:
    """Fills ``objects`` from the files of ``directory``; ``state`` keeps the last good ones."""

    def __init__(
        self,
        directory: Path,
        cluster: str,
        state: Path | None = None,
        interval_s: float = INTERVAL_S,
        *,
        kinds: Kinds,
    ) -> None:
        self.directory = directory
        self.cluster = cluster
        self.kinds = kinds
        self.objects = Objects(kinds.nouns)
        self.interval_s = interval_s
        self._store = LastGoodStore(state / "manifests" if state else None)
        self._files = {
            name: self._restored(name, last) for name, last in self._store.load().items()
        }
        self._folder = Folder(directory, self._files)
        self._problem = ""
        self._changed = False
        self._looks = 0
        self._deferred_since = 0.0

    @property
    def deferred(self) -> bool:
        """Whether deletes wait for a file."""
        return self._deferred_since > 0

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            started = time.thread_time()
            look = self._folder.look()
            cost = time.thread_time() - started
            if look.read:
                await asyncio.to_thread(self._read_all, look.read)
            self._settle(look)
            pause = min(max(self.interval_s, cost * _LOOK_SHARE), MAX_INTERVAL_S)
            await asyncio.sleep(pause)

    def scan(self) -> None:
        """One look, in the foreground: for tests and for commands that read once."""
        look = self._folder.look()
        self._read_all(look.read)
        self._settle(look)

    # From files to held objects

    def _read_all(self, names: Iterable[str]) -> None:
        for name in names:
            file = self._files.setdefault(name, _File())
            held, findings = file.held, file.findings
            self._read(name, file)
            self._changed |= file.held is not held or file.findings != findings

    def _read(self, name: str, file: _File) -> None:
        path = self.directory / name
        try:
            text = read_text(path)
        except OSError as error:
            file.findings = [self._broken(path, "", error.strerror or str(error), file)]
            return  # not done: it may be readable at the next look
        except ValueError as error:
            self._folder.done(name)
            file.findings = [self._broken(path, "", str(error), file)]
            return
        rest_s = 0.0 if name.endswith(".json") else torn_rest_s(text, file.text)
        if self._folder.rested_s(name) < rest_s:
            if rest_s >= CUT_REST_S:
                file.findings = [self._broken(path, "", _cut_text(rest_s), file)]
            if rest_s == math.inf:
                self._folder.done(name)
            return
        self._folder.done(name)
        self._take(name, file, text)

    def _take(self, name: str, file: _File, text: str) -> None:
        """Use what is readable in the text of a file."""
        path = self.directory / name
        try:
            documents = parse_json(text) if name.endswith(".json") else parse_yaml(text)
        except Wrong as error:
            file.findings = [self._broken(path, error.path, error.text, file)]
            return
        if file.held and not documents:
            problem = "no object in it; remove the file to delete its objects"
            file.findings = [self._broken(path, "", problem, file)]
            return
        before = file.last_good()
        file.text = text
        file.held, file.findings = self._objects(str(path), documents, file.held)
        if file.last_good() != before:
            self._store.save(name, file.last_good())

    def _broken(self, path: Path, place: str, problem: str, file: _File) -> Finding:
        kept = f"; {len(file.held)} objects stay as they were" if file.held else ""
        return Finding(BROKEN_FILE, str(path), place, problem + kept)

    def _restored(self, name: str, last: LastGood) -> _File:
        held, _ = self._objects(str(self.directory / name), last.documents, {})
        return _File(last.text, held)

    def _objects(
        self, path: str, documents: Iterable[object], last: Mapping[ObjectKey, _Held]
    ) -> tuple[dict[ObjectKey, _Held], list[Finding]]:
        """Objects of a readable file, and its findings; ``last`` stands in for refused ones."""
        reading = _Reading(self.kinds, self.cluster, path, last)
        listed = [item for document in documents for item in items(document)]
        for number, item in enumerate(listed, start=1):
            reading.add(number, item)
        reading.keep_doubtful()
        return reading.held, reading.findings

    # From held objects to tables

    def _settle(self, look: Look) -> None:
        """Bring the tables up to date after a look."""
        for name in look.gone:
            self._files.pop(name, None)  # it may have come and gone unread
            self._store.drop(name)
        self._looks += not look.problem
        changed = self._changed or bool(look.gone) or self._problem != look.problem
        changed = changed or self.deferred
        self._problem, self._changed = look.problem, False
        first = not self.objects.findings.synced
        ready = not look.problem and (not self._folder.waiting() or self._looks >= _SYNC_LOOKS)
        if changed or (first and ready) or self._looks == 1:
            self._publish()
        if first and ready:
            for table in (*self.objects.tables().values(), self.objects.findings):
                table.mark_synced()

    def _publish(self) -> None:
        findings = [*self._source_findings()]
        rows: dict[str, dict[Any, Any]] = {noun: {} for noun in self.objects.tables()}
        origin: dict[tuple[str, Any], str] = {}
        for name in self._published():
            findings += self._files[name].findings
            path = str(self.directory / name)
            for key, held in self._files[name].held.items():
                parsed = held.parsed
                findings += parsed.findings
                other = origin.setdefault((parsed.noun, parsed.key), f"{path} {key}")
                if other == f"{path} {key}":
                    rows[parsed.noun][parsed.key] = parsed.row
                elif not self._folder.missing(name):
                    text = f"also in {other}, which counts"
                    findings.append(Finding(DUPLICATE, f"{path} {key}", "metadata.name", text))
        present = {
            noun: {key: row for key, row in found.items() if row is not None}
            for noun, found in rows.items()
        }
        self._write(present)
        self._write_findings(findings)

    def _write(self, rows: Mapping[str, Mapping[Any, Any]]) -> None:
        """Fill the tables; what is in no file any more goes once all files have been read."""
        tables, now = self.objects.tables(), time.monotonic()
        gone = any(table.rows.keys() - rows[noun].keys() for noun, table in tables.items())
        since = self._deferred_since or now
        waits = gone and self._folder.unread() and now - since < UNREAD_S
        self._deferred_since = since if waits else 0.0
        for noun, table in tables.items():
            if waits:
                table.upsert(rows[noun])
            else:
                _write(table, rows[noun])

    def _published(self) -> list[str]:
        """File names in order of precedence; one that seems gone comes last, and not at the start.

        At the start it was most likely removed while nobody looked.
        """
        missing, synced = self._folder.missing, self.objects.findings.synced
        names = [name for name in self._files if synced or not missing(name)]
        return sorted(names, key=lambda name: (missing(name), name))

    def _source_findings(self) -> Iterator[Finding]:
        if self._problem:
            yield Finding(FOLDER, str(self.directory), "", self._problem)
        for path, problem in self._store.problems.items():
            yield Finding(STATE, path, "", problem)

    def _write_findings(self, findings: Iterable[Finding]) -> None:
        """Findings keep the time since when they hold."""
        table, now = self.objects.findings, time.time()
        rows: dict[str, Finding] = {}
        for finding in findings:
            key = f"{finding.code} {finding.object} {finding.field}"
            since = table.rows[key].since if key in table.rows else now
            rows.setdefault(key, replace(finding, since=since))
        _write(table, rows)


def _cut_text(rest_s: float) -> str:
    if rest_s == math.inf:
        return "cut off: it is the beginning of the last good text and ends inside a line"
    return f"seems cut off: it is used when it stays as it is for {rest_s:.0f} s"


def _write(table: Table[Any, Any], rows: Mapping[Any, Any]) -> None:
    table.upsert(rows)
    table.delete([key for key in table.rows if key not in rows])
