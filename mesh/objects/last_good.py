"""The last good version of each manifest, in a directory that outlives the process.

One file for each manifest. Mostly it is a line of JSON and the text itself. Where the text alone
does not say which documents are in use, it is one JSON object with the text and the documents: a
manifest that is broken now, or an object that was refused and stays as an earlier text had it. The
former version of Meshgate reads this form too, and needs no other. Nothing stays in memory, but
for a copy that could not be written.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.core.files import private_folder, replace_files

#: Name of a kept file: that of the manifest and this.
KEPT_SUFFIX = ".last"
#: First line of a copy whose text follows.
_PLAIN = {"documents": None}
#: Copies that wait for their common sync.
_BATCH = 500


@dataclass(frozen=True, slots=True)
class LastGood:
    """A manifest when it was last good; ``documents`` in use, None: exactly those of the text."""

    text: str = ""
    documents: tuple[Any, ...] | None = None


class LastGoodStore:
    """Last good manifests by file name; no directory: they end with the process."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        #: Why a copy could not be read or written, by path.
        self.problems: dict[str, str] = {}
        self._stored: set[str] = set(self._names())
        self._unwritten: dict[str, LastGood] = {}
        self._pending: dict[str, LastGood] = {}

    @property
    def names(self) -> frozenset[str]:
        """Manifests that have a copy."""
        return frozenset(self._stored | self._unwritten.keys() | self._pending.keys())

    def last(self, name: str) -> LastGood | None:
        """The copy of a manifest; None: no copy, or an unreadable one."""
        found = self._pending.get(name) or self._unwritten.get(name)
        if found or name not in self._stored:
            return found
        path = self._path(name)
        try:
            return _parse(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.problems[str(path)] = f"cannot be read: {error}"
            return None

    def save(self, name: str, last: LastGood) -> None:
        """Keep a copy; on the disk after the next ``flush``."""
        self._pending[name] = last
        if len(self._pending) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the copies that wait, with one sync for all; a failure is a problem."""
        pending, self._pending = self._pending, {}
        self._unwritten |= pending
        if self.directory is None or not pending:
            return
        paths = {self._path(name): name for name in pending}
        try:
            for folder in {path.parent for path in paths}:
                private_folder(folder)
            errors = replace_files({path: _text(pending[paths[path]]) for path in paths})
        except OSError as error:
            errors = dict.fromkeys(paths, error)
        for path, name in paths.items():
            if path in errors:
                self.problems[str(path)] = f"cannot be written: {errors[path].strerror}"
            else:
                self._note_written(name)

    def drop(self, name: str) -> None:
        """Forget a manifest that is gone."""
        self._pending.pop(name, None)
        self._unwritten.pop(name, None)
        if name in self._stored:
            self._stored.discard(name)
            with suppress(OSError):
                self._path(name).unlink(missing_ok=True)

    def _note_written(self, name: str) -> None:
        self._stored.add(name)
        self._unwritten.pop(name, None)
        self.problems.pop(str(self._path(name)), None)

    def _names(self) -> list[str]:
        if self.directory is None or not self.directory.is_dir():
            return []
        paths = self.directory.rglob(f"*{KEPT_SUFFIX}")
        return [str(path.relative_to(self.directory).with_suffix("")) for path in paths]

    def _path(self, name: str) -> Path:
        return (self.directory or Path()) / f"{name}{KEPT_SUFFIX}"


def _parse(raw: bytes) -> LastGood:
    line, _, text = raw.partition(b"\n")
    content = json.loads(line)
    if content == _PLAIN:
        return LastGood(text.decode())
    return LastGood(str(content["text"]), tuple(content["documents"]))


def _text(last: LastGood) -> str:
    if last.documents is None:  # no JSON: its codec would hold up all threads for a large text
        return f"{json.dumps(_PLAIN)}\n{last.text}"
    return json.dumps({"text": last.text, "documents": last.documents})
