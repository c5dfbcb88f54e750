"""The API server as a source of objects: fills the same tables as a folder, by the same functions.

Rule 1: an object that cannot be used keeps its last good row, also over a restart (``kept.py``).
Rule 2: nothing is deleted before the first complete list of its kind, nor while the API server is
        away, refuses, or is another one than before (``identity.py``).
Rule 3: a table counts as synced once all kinds that fill it were listed; so a kind that is refused
        holds up what depends on it, and nothing else.
Rule 4: an event costs its object. All work is done in slices (``turns.py``).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mesh.core.findings import Code
from mesh.core.model import Finding
from mesh.core.strict import Wrong
from mesh.k8s import findings as codes
from mesh.k8s.api import Api, ApiError, Away, Garbled, NoAccess, Refused
from mesh.k8s.conditions import Owned, owned
from mesh.k8s.identity import FILE as IDENTITY_FILE
from mesh.k8s.identity import Another, Identity
from mesh.k8s.informer import LIFE_S, Informer, Name
from mesh.k8s.kept import FILE as KEPT_FILE
from mesh.k8s.kept import Kept
from mesh.k8s.turns import Turns
from mesh.k8s.watches import Watch
from mesh.k8s.write_back import LOOK_S, WriteBack
from mesh.objects.findings import REFUSED
from mesh.objects.precedence import Difference, Precedence, Shown
from mesh.objects.schema import Kinds, ObjectKey, Parsed, Place, head
from mesh.objects.sources import Lacking
from mesh.objects.tables import Objects

#: What the source is called where a finding is about objects of one kind.
NAME = "API server"
#: Objects whose rows are written at a time.
_PART = 40
#: Seconds without an answer after which the API server counts as away.
AWAY_S = 5.0
_STAYS = "objects stay as they were"
_BY_STATUS = {401: codes.CREDENTIALS, 403: codes.FORBIDDEN, 404: codes.NOT_SERVED}
_BY_CLASS: Mapping[type[ApiError], Code] = {
    Another: codes.REPLACED,
    NoAccess: codes.CREDENTIALS,
    Garbled: codes.UNREADABLE,
}
#: About the API server as a whole: one finding, whatever kind has met it.
_OF_ALL = (codes.AWAY, codes.CREDENTIALS, codes.REPLACED)


class ApiServer:
    """Fills ``objects`` with what ``watches`` read; ``state`` outlives the process.

    ``accepted`` are UIDs of replaced API servers that an operator has accepted. ``times`` are
    arguments of the informers, for tests.
    """

    def __init__(
        self,
        api: Api,
        watches: Sequence[Watch],
        cluster: str,
        state: Path | None = None,
        *,
        kinds: Kinds,
        accepted: Callable[[], Container[str]] = frozenset,
        **times: Any,
    ) -> None:
        self.objects = Objects(kinds.nouns)
        self.api = api
        self.identity = Identity(self.api, state / IDENTITY_FILE if state else None, accepted)
        self._cluster, self._kinds = cluster, kinds
        self._kept = Kept(state / KEPT_FILE if state else None)
        self._turns = Turns()
        times.setdefault("life_s", random.randint(*LIFE_S))  # noqa: S311 - spreads requests
        self.informers = [
            Informer(self.api, watch, self.identity, self._turns, self, **times)
            for watch in watches
        ]
        self._feeds = _feeds(kinds, watches)
        self._shown: dict[str, Shown] = {}
        self._precedence = Precedence(NAME, lambda _, key: str(key))
        self._pending: dict[str, Shown | None] = {}
        self._wake = asyncio.Event()
        self._listed: set[Watch] = set()
        self._owned: dict[str, Owned] = {}  # objects of kinds of ours, by their name in findings
        #: Generation of each of them whose row is in the tables; that of a wrong one is none.
        self.generations: dict[str, int] = {}
        self._read_generations: dict[str, int] = {}  # those on their way into the tables
        self._writing: WriteBack | None = None

    @property
    def absent_at(self) -> float:
        """When a list last lacked an object that had been there, by the monotonic clock."""
        return max(informer.absent_at for informer in self.informers)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for informer in self.informers:
                    group.create_task(informer.run(), name=f"follow {informer.watch.resource}")
                group.create_task(self._write(), name="objects into tables")
                group.create_task(self._kept.run(), name="keep objects")
        finally:
            self._kept.close()
            await self.api.aclose()

    def place(self, noun: str, key: Any) -> str:
        """The object that gives a row, as findings name it."""
        return self._precedence.place(noun, key)

    def write_back(
        self,
        findings: Callable[[], Iterable[Finding]],
        leads: Callable[[], bool],
        lacking: Lacking,
        look_s: float = LOOK_S,
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """What writes conditions and Events about ``findings`` while this process ``leads``.

        ``lacking`` says which nodes do not hold an object's generation.
        """
        self._writing = WriteBack(
            self.api,
            self._owned,
            findings,
            lambda: leads() and self._is_followed(),
            lacking,
            look_s,
        )
        return self._writing.run

    def _is_followed(self) -> bool:
        """Whether everything was listed, and the API server is the one that was."""
        away = (Another, Away, NoAccess)
        failing = any(isinstance(informer.problem, away) for informer in self.informers)
        return self.objects.findings.synced and not failing

    # What the informers tell

    def put(self, watch: Watch, name: Name, document: dict[str, Any]) -> None:
        """An object is new or has changed."""
        key = ObjectKey(watch.kind.kind, *name)
        text = str(key)
        if watch.kind.definition:
            version, kind = watch.kind.api_version, watch.kind.kind
            self._owned[text] = owned(version, kind, *name, watch.path_of(name), document)
        old = self._shown.get(text)
        shown = self._read(watch, key, document, old.held.get(key) if old else None)
        if watch.kind.definition and not any(one.code == REFUSED for one in shown.findings):
            self._read_generations[text] = self._owned[text].generation
        if shown != old:
            self._shown[text] = self._pending[text] = shown
            self._wake.set()
        elif text not in self._pending:
            self._note_generations([text])

    def gone(self, watch: Watch, name: Name) -> None:
        """An object is no more."""
        text = str(ObjectKey(watch.kind.kind, *name))
        self._kept.drop(text)
        self._owned.pop(text, None)
        self._read_generations.pop(text, None)
        self.generations.pop(text, None)
        if self._shown.pop(text, None) is not None:
            self._pending[text] = None
            self._wake.set()

    def complete(self, watch: Watch) -> None:
        """A complete list has been told."""
        if watch not in self._listed:
            self._listed.add(watch)
            self._wake.set()

    def _read(
        self, watch: Watch, key: ObjectKey, document: dict[str, Any], old: Parsed | None
    ) -> Shown:
        place = Place(self._cluster, "", key)
        try:
            parsed = self._kinds.parse(head(document), place, document)
        except Wrong as error:
            old = old or self._last(place)
            kept = "; it stays as it was" if old else ""
            finding = place.finding(REFUSED, error.path, error.text + kept)
            return Shown({key: old} if old else {}, (finding,))
        if not watch.kind.churns and (old is None or old.row != parsed.row):
            self._kept.save(str(key), document)
        return Shown({key: parsed})

    def _last(self, place: Place) -> Parsed | None:
        """What an object that is wrong from the start was when it was last good."""
        document = self._kept.last(str(place.key))
        try:
            if document is not None:
                return self._kinds.parse(head(document), place, document)
        except Wrong:  # good for another version of Meshgate
            pass
        return None

    # Into the tables

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._turns.pause()
                part = list(islice(self._pending, _PART))
                files = {name: self._pending.pop(name) for name in part}
                self._take(self._precedence.update(files, frozenset()))
                self._note_generations(part)
            self._mark_synced()

    def _take(self, difference: Difference) -> None:
        tables = self.objects.tables()
        for noun in dict.fromkeys(noun for noun, _ in difference.rows):
            rows = {key: row for (of, key), row in difference.rows.items() if of == noun}
            tables[noun].upsert(rows)
        for noun in dict.fromkeys(noun for noun, _ in difference.gone):
            tables[noun].delete([key for of, key in difference.gone if of == noun])
        table = self.objects.findings
        table.upsert(difference.findings)
        table.delete([key for key in difference.findings_gone if key not in difference.findings])

    def _note_generations(self, names: Iterable[str]) -> None:
        """The rows of these objects are in the tables."""
        for name in names:
            if name in self._read_generations:
                self.generations[name] = self._read_generations.pop(name)

    def _mark_synced(self) -> None:
        for noun, table in self.objects.tables().items():
            if self._listed.issuperset(self._feeds.get(noun, ())):
                table.mark_synced()
        if len(self._listed) == len(self.informers) and not self.objects.findings.synced:
            self._kept.listed(self._shown)
            self.objects.findings.mark_synced()

    # What is wrong

    def findings(self) -> Iterator[Finding]:
        """What is wrong with the API server, or with our way to it."""
        name, now = self.api.access.name, time.monotonic()
        told: set[str] = set()
        for finding in (one for informer in self.informers for one in _of(name, informer, now)):
            if finding.field or finding.code not in told:
                told.add(finding.code)
                yield finding
        if self._writing:
            yield from self._writing.findings(name)
        for problem in filter(None, (self.identity.problem, self._kept.problem)):
            file, _, text = problem.partition(": ")
            yield Finding(codes.NOT_KEPT, file, "", text)


def _of(name: str, informer: Informer, now: float) -> Iterable[Finding]:
    """What is wrong with one kind; without a field: with all of them."""
    problem, since = informer.problem, informer.failing_since
    silent_s = now - (now if since is None else since)
    if problem is None or (isinstance(problem, Away) and silent_s < AWAY_S):
        return ()
    code = _code(problem)
    field = "" if code in _OF_ALL else f"{informer.verb} {informer.watch.resource}"
    silence = f"; no answer for {_age(silent_s)}" if code == codes.AWAY else ""
    return (Finding(code, name, field, f"{problem}{silence}; {_STAYS}"),)


def _code(problem: ApiError) -> Code:
    if isinstance(problem, Refused):
        return _BY_STATUS.get(problem.status, codes.UNREADABLE)
    return _BY_CLASS.get(type(problem), codes.AWAY)


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _feeds(kinds: Kinds, watches: Iterable[Watch]) -> dict[str, set[Watch]]:
    """The watches that fill the table of each noun; a noun without any is filled by nobody."""
    feeds: dict[str, set[Watch]] = {noun.name: set() for noun in kinds.nouns}
    for watch in watches:
        for noun in (watch.kind.noun, *watch.kind.also):
            feeds[noun.name].add(watch)
    return feeds
