"""The folder of manifests as a source of objects.

Rule 1: what cannot be read or used keeps the last good row of its object, also over a restart.
Rule 2: only an object that a readable file no longer contains, or whose file is gone, is deleted;
        a folder that cannot be read deletes nothing, and a delete waits while another file is
        yet to be read: the object may have moved there.
Rule 3: everything that is not used as written is a finding that names file, object and field.
Rule 4: a look costs what changed: files (``mesh/objects/folder.py``), their documents
        (``reading.py``), and the rows that follow (``precedence.py``). It runs in a thread, and the
        event loop takes the rows over in slices.

The API server (``mesh/k8s/source.py``) is the other source: it fills the same ``Objects`` by the
same functions. The features that read the tables do not see the difference.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mesh.core.model import Finding
from mesh.core.strict import Wrong
from mesh.core.ticks import tick
from mesh.objects.findings import BROKEN_FILE, FOLDER, STATE
from mesh.objects.folder import CUT_REST_S, UNREAD_S, Folder, read_text, torn_rest_s
from mesh.objects.last_good import LastGood, LastGoodStore
from mesh.objects.precedence import Difference, Precedence, RowKey, Shown, finding_key
from mesh.objects.reading import (
    NOTHING,
    Content,
    by_object,
    digest_of,
    parse,
    read,
    read_documents,
)
from mesh.objects.schema import Kinds
from mesh.objects.tables import Objects

log = logging.getLogger(__name__)

#: Seconds between looks; longer when looking is expensive, so that it takes 2 % of a core.
INTERVAL_S = 0.2
MAX_INTERVAL_S = 5.0
_LOOK_SHARE = 50
#: Seconds after which a file has rested for sure.
_RIPE_S = 0.005
#: Seconds of looking after which files that never rest no longer delay the first sync.
_SYNC_S = 2.0
#: Rows that are written to a table in one step of the event loop: at most about 2 ms.
_SLICE = 500


@dataclass(slots=True)
class _File:
    """One manifest: the digest of its last good text, its objects, what is wrong with it now."""

    digest: bytes = b""
    content: Content = NOTHING
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """Outcome of one look, for the tables. ``synced``: every file has been read."""

    cost_s: float
    difference: Difference | None
    source: Sequence[Finding]
    synced: bool


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
        self._files: dict[str, _File] = {}
        self._unloaded = set(self._store.names)
        self._folder = Folder(directory, self._store.names)
        self._precedence = Precedence(str(directory))
        self._changed: set[str] = set(self._unloaded)
        self._hidden: frozenset[str] = frozenset()
        self._problem = ""
        self._looks = 0
        self._gone: dict[RowKey, None] = {}
        self._source_keys: frozenset[str] = frozenset()
        self._deferred_since = 0.0
        self._stopped = False
        #: A file that goes, goes by itself: a folder that cannot be read changes nothing.
        self.absent_at = -math.inf

    @property
    def deferred(self) -> bool:
        """Whether deletes wait for a file."""
        return self._deferred_since > 0

    async def run(self) -> None:
        """Watch for ever."""
        self._stopped = False
        try:
            while True:
                seen = await asyncio.to_thread(self._look, whole=False)
                for _ in self._settle(seen):
                    await asyncio.sleep(0)
                pause = self._pause_s(seen.cost_s)
                await (asyncio.sleep(pause) if pause < self.interval_s else tick(pause))
        finally:
            self._stopped = True  # a first look takes seconds, and a thread cannot be cancelled

    def _pause_s(self, cost_s: float) -> float:
        """Until the next look; where looks are cheap, a changed file is read once it has rested."""
        pause = min(max(self.interval_s, cost_s * _LOOK_SHARE), MAX_INTERVAL_S)
        ripens = self._folder.ripens_s() if pause == self.interval_s else None
        return pause if ripens is None else min(pause, ripens + _RIPE_S)

    def scan(self, *, whole: bool = True) -> None:
        """One look in the foreground, at everything or as ``run`` does it.

        For tests, for commands that read once, and for processes without an event loop.
        """
        for _ in self._settle(self._look(whole=whole)):
            pass

    def place(self, noun: str, key: Any) -> str:
        """The object that gives a row, as findings name it."""
        return self._precedence.place(noun, key)

    def findings(self) -> Iterable[Finding]:
        """What is wrong with the folder stands among the findings about its objects."""
        return ()

    def write_back(self, _: object, __: object, ___: object) -> None:
        """Nobody writes into a folder but its owner."""

    @property
    def generations(self) -> Mapping[str, int]:
        """A file has no generation."""
        return {}

    # In a thread: from files to what changes

    def _look(self, *, whole: bool) -> _Seen:
        started = time.thread_time()
        look = self._folder.look(whole=whole)
        cost_s = time.thread_time() - started
        for name in look.read:
            if not self._stopped:
                self._read_alone(name)
        for name in look.gone:
            self._files.pop(name, None)  # it may have come and gone unread
            self._unloaded.discard(name)
            self._store.drop(name)
        self._store.flush()
        self._looks += not look.problem
        changed = bool(self._changed or look.gone) or self._problem != look.problem
        self._problem = look.problem
        self._changed.update(look.gone)
        first = not self.objects.findings.synced
        patient = self._folder.waiting() and self._looks * self.interval_s < _SYNC_S
        ready = not look.problem and not patient
        publish = changed or self.deferred or (first and ready) or self._looks == 1
        difference = self._difference() if publish else None
        return _Seen(cost_s, difference, tuple(self._source_findings()), first and ready)

    def _difference(self) -> Difference:
        """What the changed files change in the tables."""
        missing = self._folder.missing
        # A file that is missing at the start was most likely removed while we were down.
        hidden = frozenset() if self.objects.findings.synced else missing
        for name in self._unloaded - hidden:
            self._restore(name)
        changed = self._changed | (hidden ^ self._hidden)
        self._changed, self._hidden = set(), hidden
        return self._precedence.update(
            {name: self._shown(name) for name in sorted(changed)}, missing
        )

    def _shown(self, name: str) -> Shown | None:
        file = self._files.get(name)
        if file is None or name in self._hidden:
            return None
        return Shown(file.content.held, file.findings)

    def _read_alone(self, name: str) -> None:
        """Read a file; a mistake of ours costs that file, whose objects stay."""
        try:
            self._read(name)
        except Exception as error:
            log.exception("event=not_read file=%s", name)
            self._folder.done(name)
            self._spoil(name, "", f"meets a mistake in Meshgate: {error!r}")

    def _read(self, name: str) -> None:
        path = self.directory / name
        try:
            text = read_text(path)
        except OSError as error:
            self._spoil(name, "", error.strerror or str(error))
            return  # not done: it may be readable at the next look
        except ValueError as error:
            self._folder.done(name)
            self._spoil(name, "", str(error))
            return
        last = self._last(name, text)
        rest_s = 0.0 if name.endswith(".json") else torn_rest_s(text, last)
        if self._folder.rested_s(name) < rest_s:
            if rest_s >= CUT_REST_S:
                self._spoil(name, "", _cut_text(rest_s))
            if rest_s == math.inf:
                self._folder.done(name)
            return
        self._folder.done(name)
        self._take(name, text)

    def _last(self, name: str, text: str) -> str:
        """The last good text of a file, which now has this one."""
        file = self._files.get(name)
        if file and file.digest == digest_of(text):
            return text
        last = self._store.last(name)
        if name in self._unloaded and last == LastGood(text):
            self._unloaded.discard(name)  # it is read now, no need to restore it
        return last.text if last else ""

    def _take(self, name: str, text: str) -> None:
        """Use what is readable in the text of a file."""
        file, digest = self._file(name), digest_of(text)
        if file.digest == digest and not file.findings:
            return
        path = str(self.directory / name)
        try:
            content = read(self.kinds, self.cluster, path, text, file.content)
        except Wrong as error:
            self._spoil(name, error.path, error.text)
            return
        self._save(name, text, content)
        self._files[name] = _File(digest, content, content.findings)
        self._changed.add(name)

    def _save(self, name: str, text: str, content: Content) -> None:
        """Keep a copy, unless it is there."""
        file = self._files[name]
        another = file.digest not in {b"", digest_of(text)}
        old = None if another and not content.kept else self._store.last(name)
        new = LastGood(text, self._in_use(name, text, content, old) if content.kept else None)
        if new != old:
            self._store.save(name, new)

    def _in_use(
        self, name: str, text: str, content: Content, old: LastGood | None
    ) -> tuple[Any, ...]:
        """Documents of all objects; a kept object has its document in an earlier text."""
        path = str(self.directory / name)
        now = by_object(self.kinds, self.cluster, path, parse(name, text))
        before = by_object(self.kinds, self.cluster, path, _documents(name, old))
        documents = [(before if key in content.kept else now).get(key) for key in content.held]
        return tuple(document for document in documents if document is not None)

    def _file(self, name: str) -> _File:
        """What is known of a file."""
        if name in self._unloaded:
            self._restore(name)
        return self._files.setdefault(name, _File())

    def _restore(self, name: str) -> None:
        """Take a file's last good version from the store."""
        self._unloaded.discard(name)
        last = self._store.last(name)
        if last is None:
            return
        path = str(self.directory / name)
        content = read_documents(self.kinds, self.cluster, path, _documents(name, last))
        self._files[name] = _File(content=content)
        self._changed.add(name)

    def _spoil(self, name: str, place: str, problem: str) -> None:
        """The file cannot be used; its objects stay."""
        file = self._file(name)
        kept = f"; {len(file.content.held)} objects stay as they were" if file.content.held else ""
        path = str(self.directory / name)
        findings = (Finding(BROKEN_FILE, path, place, problem + kept),)
        if findings != file.findings:
            file.findings = findings
            self._changed.add(name)
            last = self._store.last(name)
            if last and last.documents is None:
                self._store.save(name, LastGood(last.text, tuple(_documents(name, last))))

    def _source_findings(self) -> Iterator[Finding]:
        if self._problem:
            yield Finding(FOLDER, str(self.directory), "", self._problem)
        for path, problem in self._store.problems.items():
            yield Finding(STATE, path, "", problem)

    # On the event loop: into the tables, in slices

    def _settle(self, seen: _Seen) -> Iterator[None]:
        """Bring the tables up to date after a look; yields between two slices."""
        if seen.difference:
            yield from self._write_rows(seen.difference)
            yield from self._write_findings(seen.difference, seen.source)
        if seen.synced:
            for table in (*self.objects.tables().values(), self.objects.findings):
                table.mark_synced()

    def _write_rows(self, difference: Difference) -> Iterator[None]:
        """New rows at once; a row that no file gives any more goes once all files were read."""
        tables = self.objects.tables()
        order = list(tables)  # nodes before policies that name them
        for part in _slices(sorted(difference.rows, key=lambda row: order.index(row[0]))):
            for noun in {noun for noun, _ in part}:
                rows = {key: difference.rows[of, key] for of, key in part if of == noun}
                tables[noun].upsert(rows)
            for row in part:
                self._gone.pop(row, None)
            yield
        self._gone |= dict.fromkeys(
            (noun, key) for noun, key in difference.gone if key in tables[noun].rows
        )
        if self._deletes_wait():
            return
        gone, self._gone = self._gone, {}
        for part in _slices(gone):
            for noun in {noun for noun, _ in part}:
                tables[noun].delete([key for of, key in part if of == noun])
            yield

    def _deletes_wait(self) -> bool:
        now = time.monotonic()
        since = self._deferred_since or now
        waits = bool(self._gone) and self._folder.unread() and now - since < UNREAD_S
        self._deferred_since = since if waits else 0.0
        return waits

    def _write_findings(self, difference: Difference, source: Sequence[Finding]) -> Iterator[None]:
        table = self.objects.findings
        found = {finding_key(one): one for one in source}
        gone = [*difference.findings_gone, *(self._source_keys - found.keys())]
        self._source_keys = frozenset(found)
        found = difference.findings | found
        for part in _slices(found):
            table.upsert({key: found[key] for key in part})
            yield
        table.delete([key for key in gone if key not in found])


def _documents(name: str, last: LastGood | None) -> Sequence[Any]:
    """Documents that were in use when a file was last good."""
    if last is None:
        return ()
    if last.documents is not None:
        return last.documents
    with suppress(Wrong):  # not a text that we kept: another one has been put in its place
        return parse(name, last.text)
    return ()


def _cut_text(rest_s: float) -> str:
    if rest_s == math.inf:
        return "cut off: it is the beginning of the last good text and ends inside a line"
    return f"seems cut off: it is used when it stays as it is for {rest_s:.0f} s"


def _slices(keys: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(keys)
    while part := list(islice(left, _SLICE)):
        yield part
