"""A folder of manifest files, polled: which files to read now, and what is half-written.

Polling, because a name that was replaced, a mount that came back and a network file system look
all the same to it; a look at twenty files takes about 50 us. A file is read once it has rested for
a moment, so that a writer is not overtaken, and is gone once two looks did not find it, so that an
editor may replace it. Editors' temporary files (``.x``, ``x~``) are no manifests.
"""

from __future__ import annotations

import json
import math
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.core.files import replace_file

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 64 << 20
#: Name of a kept file: that of the manifest and this.
KEPT_SUFFIX = ".last"
#: Rest before a file is read, in seconds; longer when the text ends like a torn one.
REST_S = 0.2
TORN_REST_S = 1.0
CUT_REST_S = 10.0
#: How long a file that is yet to be read holds up deletes: what went may be in it.
UNREAD_S = CUT_REST_S + 2.0


@dataclass(frozen=True, slots=True)
class Stamp:
    """Changes whenever a file may have changed; zero: a name that cannot be looked at."""

    inode: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(slots=True)
class _Seen:
    stamp: Stamp
    since: float  # monotonic time at which the stamp was first seen
    read: Stamp | None = None
    misses: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """Outcome of one look at the folder: names to read and names that are gone."""

    read: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    problem: str = ""


class Folder:
    """Remembers what was seen of each file; ``known`` are names that were there once."""

    def __init__(self, path: Path, known: Iterable[str] = ()) -> None:
        self.path = path
        self._seen = {name: _Seen(Stamp(), 0.0) for name in known}
        self._identity: tuple[int, int] | None = None

    def look(self) -> Look:
        """What to do now; never raises."""
        try:
            found, identity = _stamps(self.path), _identity(self.path)
        except OSError as error:
            return Look(problem=f"{error.strerror}: nothing is deleted")
        if not found and self._seen and self._identity not in {None, identity}:
            return Look(problem="empty since it was replaced: nothing is deleted")
        self._identity = identity
        read = [name for name, stamp in found.items() if self._ripe(name, stamp)]
        gone = [name for name in self._seen if name not in found and self._missed(name)]
        for name in gone:
            del self._seen[name]
        return Look(tuple(sorted(read)), tuple(gone))

    def done(self, name: str) -> None:
        """The file was read as it was when it became ripe; do not read it again as such."""
        self._seen[name].read = self._seen[name].stamp

    def rested_s(self, name: str) -> float:
        """Seconds for which the file has been as it is, whatever becomes of the wall clock."""
        seen = self._seen[name]
        return max(time.monotonic() - seen.since, time.time() - seen.stamp.mtime_ns / 1e9)

    def missing(self, name: str) -> bool:
        """Whether the last look did not find the file."""
        return self._seen[name].misses > 0

    def waiting(self) -> bool:
        """Whether a file is new, changed or missing, but not for sure yet."""
        return any(seen.misses or seen.read != seen.stamp for seen in self._seen.values())

    def unread(self) -> bool:
        """Whether a file has changed a short while ago and was not read since."""
        recent = time.monotonic() - UNREAD_S
        changed = (seen for seen in self._seen.values() if seen.read != seen.stamp)
        return any(seen.since > recent and not seen.misses for seen in changed)

    def _ripe(self, name: str, stamp: Stamp) -> bool:
        now = time.monotonic()
        seen = self._seen.setdefault(name, _Seen(stamp, now))
        seen.misses = 0
        if seen.stamp != stamp:
            seen.stamp, seen.since = stamp, now
        return seen.read != stamp and self.rested_s(name) >= REST_S

    def _missed(self, name: str) -> bool:
        seen = self._seen[name]
        seen.misses += 1
        return seen.misses > 1


def _stamps(path: Path) -> dict[str, Stamp]:
    found = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES):
                continue
            try:
                info = entry.stat()
            except FileNotFoundError:
                if not entry.is_symlink():
                    continue  # removed since it was listed
                found[entry.name] = Stamp()
            except OSError:
                found[entry.name] = Stamp()
            else:
                found[entry.name] = Stamp(
                    info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
                )
    return found


def _identity(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino


def read_text(path: Path) -> str:
    """The text of a manifest. Raises OSError and ValueError (too large, no file, not UTF-8)."""
    # O_NONBLOCK: a FIFO would otherwise hold us until somebody writes.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("not a regular file")
        if info.st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        raw = file.read()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error


def torn_rest_s(text: str, last: str) -> float:
    """How long a text must rest before it is believed; infinite when it is surely cut off.

    The beginning of the last good text was cut off or shortened on purpose: cut inside a line it
    is never believed, between lines after ``CUT_REST_S``, between documents after ``TORN_REST_S``.
    Any other text may be torn, too, when it ends without a newline and the last one did not.
    """
    cut = last[len(text) :] if last.startswith(text) else ""
    if not text.strip():
        return 0.0
    if not cut.strip():
        return _unended_rest_s(text, last)
    if not (text.endswith("\n") or (not last.endswith("\n") and cut.startswith("\n"))):
        return math.inf
    return TORN_REST_S if cut.lstrip("\n").startswith("---") else CUT_REST_S


def _unended_rest_s(text: str, last: str) -> float:
    if text.endswith("\n") or text == last.rstrip():
        return 0.0
    closed = text.rstrip()[-1] in "]}"  # a bracket that was torn open would not parse
    return CUT_REST_S if last.endswith("\n") and not closed else TORN_REST_S


@dataclass(frozen=True, slots=True)
class LastGood:
    """What a file said when it was last good: its text, and the documents that are in use."""

    text: str = ""
    documents: tuple[Any, ...] = field(default=())


class LastGoodStore:
    """Last good manifests in a directory that outlives the process; None: nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        #: What could not be read or written, by path.
        self.problems: dict[str, str] = {}

    def load(self) -> dict[str, LastGood]:
        """Everything that was kept, by file name."""
        if self.directory is None or not self.directory.is_dir():
            return {}
        kept = {}
        for path in sorted(self.directory.iterdir()):
            if path.suffix != KEPT_SUFFIX:
                continue
            try:
                content = json.loads(path.read_text())
                kept[path.stem] = LastGood(content["text"], tuple(content["documents"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.problems[str(path)] = f"cannot be read: {error}"
        return kept

    def save(self, name: str, last: LastGood) -> None:
        """Replace what is kept of a file, atomically."""
        if self.directory is None:
            return
        path = self.directory / f"{name}{KEPT_SUFFIX}"
        content = json.dumps({"text": last.text, "documents": last.documents})
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            replace_file(path, content, durable=True)
            self.problems.pop(str(path), None)
        except OSError as error:
            self.problems[str(path)] = f"cannot be written: {error.strerror}"

    def drop(self, name: str) -> None:
        """Forget a file that is gone."""
        if self.directory is not None:
            with suppress(OSError):
                (self.directory / f"{name}{KEPT_SUFFIX}").unlink(missing_ok=True)
