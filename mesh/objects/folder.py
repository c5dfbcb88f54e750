"""A folder of manifest files, polled: which files to read now, and what is half-written.

Polling, because a name that was replaced, a mount that came back and a network file system look
all the same to it. A file is read once it has rested for a moment, so that a writer is not
overtaken, and is gone once two looks did not find it, so that an editor may replace it. Editors'
temporary files (``.x``, ``x~``) are no manifests. Subfolders belong to the folder, and a name is a
path below it; hidden ones (``.git``) and links to folders do not.

A look costs what changed. The times of the folder and its subfolders say whether a name came, went
or was replaced; only then are the names listed, and only names with another inode are looked at. A
file that was edited in place changes no folder: for these each look goes through a share of all
names, so that an edit in a folder of more than ``SHARE`` files is found some looks later.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 64 << 20
#: Rest before a file is read, in seconds; longer when the text ends like a torn one.
REST_S = 0.2
TORN_REST_S = 1.0
CUT_REST_S = 10.0
#: How long a file that is yet to be read holds up deletes: its objects may have moved there.
UNREAD_S = CUT_REST_S + 2.0
#: Files that each look examines at least (2 ms), and looks that examine all files.
SHARE = 1000
ROUND_LOOKS = 25
#: A folder that changed so short a while ago may change again within one tick of its clock: it is
#: listed once more. Some file systems count whole seconds.
_TICK_S = 0.05
_COARSE_TICK_S = 2.0

#: Inode, size, mtime and ctime: another stamp whenever a file may have changed.
Stamp = tuple[int, int, int, int]
#: Stamp of a name that cannot be looked at.
NO_STAMP: Stamp = (0, 0, 0, 0)
#: Directory entries of links: what they lead to may change while the entry stays.
_LINK = -1
#: Folders below each other that are looked at.
_DEEPEST = 16
#: Byte-order marks, and how the text behind them is to be read.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: A mark that came with a file which was appended to another one.
_INNER_MARK = re.compile("^\ufeff(?=---)", re.MULTILINE)


@dataclass(slots=True)
class _Seen:
    stamp: Stamp
    since: float  # monotonic time at which the stamp was first seen
    read: Stamp | None = None
    misses: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """Outcome of one look at the folder: names to read and names that are gone.

    With a ``problem`` not everything was seen; nothing that was not seen is gone.
    """

    read: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    problem: str = ""


class Folder:
    """Remembers what was seen of each file; ``known`` are names that were there once.

    ``share``: files that each look examines at least.
    """

    def __init__(self, path: Path, known: Iterable[str] = (), share: int = SHARE) -> None:
        self.path = path
        self.share = share
        self._prefix = f"{path}/"
        self._seen = {name: _Seen(NO_STAMP, 0.0) for name in known}
        self._unsettled = set(self._seen)  # new, changed or missing, but not for sure yet
        self._missing: set[str] = set()
        self._entries: dict[str, int] = {}  # inode, or _LINK, of the names that were listed last
        self._identity: tuple[int, int] | None = None
        #: Of the folder and its subfolders when they were listed; None: list again.
        self._times: dict[str, tuple[int, ...]] | None = None
        self._unlisted = ""  # why names of a subfolder are not known
        self._round: list[str] = []  # names that this round has yet to examine

    def look(self, *, whole: bool = False) -> Look:
        """Names to read now, and names that are gone; never raises. ``whole``: examine all."""
        suspects: set[str] = set()
        gone: list[str] = []
        try:
            info = self.path.stat()
            if whole or not self._round or self._missing or self._is_touched():
                suspects, absent = self._list()
                if self._is_replaced(info):
                    return Look(problem="empty since it was replaced: nothing is deleted")
                self._identity = info.st_dev, info.st_ino
                gone = [name for name in absent if self._miss(name)]
        except OSError as error:
            return Look(problem=f"{error.strerror}: nothing is deleted")
        read = []
        for name in suspects | (self._unsettled - self._missing) | self._share(whole=whole):
            stamp = self._stamp(name)
            if stamp is None:
                gone += [name] if self._miss(name) else []
            elif self._is_ripe(name, stamp):
                read.append(name)
        return Look(tuple(sorted(read)), tuple(gone), self._unlisted)

    def done(self, name: str) -> None:
        """The file was read as it was when it became ripe; do not read it again as such."""
        self._seen[name].read = self._seen[name].stamp
        self._unsettled.discard(name)

    def rested_s(self, name: str) -> float:
        """Seconds for which the file has been as it is, whatever becomes of the wall clock."""
        seen = self._seen[name]
        return max(time.monotonic() - seen.since, time.time() - seen.stamp[2] / 1e9)

    @property
    def missing(self) -> frozenset[str]:
        """Files that the last look did not find."""
        return frozenset(self._missing)

    def waiting(self) -> bool:
        """Whether a file is new, changed or missing, but not for sure yet."""
        return bool(self._unsettled)

    def ripens_s(self) -> float | None:
        """Seconds until the next changed file has rested; None: none rests."""
        there = self._unsettled - self._missing
        left = [REST_S - self.rested_s(name) for name in there]
        return min((one for one in left if one > 0), default=None)

    def unread(self) -> bool:
        """Whether a file has changed a short while ago and was not read since."""
        recent = time.monotonic() - UNREAD_S
        waiting = (self._seen[name] for name in self._unsettled - self._missing)
        return any(seen.since > recent for seen in waiting)

    def _is_touched(self) -> bool:
        """Whether a name may have come or gone since the folders were listed."""
        if self._times is None:
            return True
        try:
            return any(
                _times(os.stat(f"{self._prefix}{folder}")) != times  # noqa: PTH116 (as in _stamp)
                for folder, times in self._times.items()
            )
        except FileNotFoundError:  # a subfolder has gone
            return True

    def _is_replaced(self, info: os.stat_result) -> bool:
        other = self._identity not in {None, (info.st_dev, info.st_ino)}
        return other and bool(self._seen) and not self._entries

    def _list(self) -> tuple[set[str], AbstractSet[str]]:
        """Names that are new, or have another inode, and seen names that are not there."""
        listed = _Listing(self._prefix, self._entries)
        fresh, hidden = listed.fresh, tuple(listed.unreadable)
        again = sum(name in self._entries for name in fresh)
        if listed.count + again < len(self._entries):
            names = _Listing(self._prefix, {}).fresh.keys() | fresh.keys()
            self._entries = {
                name: at
                for name, at in self._entries.items()
                if name in names or name.startswith(hidden)
            }
        self._entries |= fresh
        self._times = None if hidden else _settled_times(listed.folders)
        self._unlisted = "; ".join(listed.unreadable.values())
        for name in fresh:
            self._seen.setdefault(name, _Seen(NO_STAMP, time.monotonic()))
        for name in self._missing & self._entries.keys():
            self._missing.discard(name)
            self._seen[name].misses = 0
        if len(self._entries) == len(self._seen):
            return set(fresh), frozenset()
        absent = self._seen.keys() - self._entries.keys()
        return set(fresh), {name for name in absent if not name.startswith(hidden)}

    def _share(self, *, whole: bool) -> set[str]:
        """The next names of the round."""
        if whole or not self._round:
            self._round = list(self._seen)
        count = len(self._seen) if whole else max(self.share, len(self._seen) // ROUND_LOOKS + 1)
        share, self._round = self._round[-count:], self._round[:-count]
        return (self._seen.keys() & share) - self._missing

    def _stamp(self, name: str) -> Stamp | None:
        """The file's stamp now; None when it was removed since the folder was listed."""
        try:
            info = os.stat(f"{self._prefix}{name}")  # noqa: PTH116 (a Path costs more than the call)
        except FileNotFoundError:
            return NO_STAMP if self._entries.get(name) == _LINK else None
        except OSError:
            return NO_STAMP
        return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns

    def _is_ripe(self, name: str, stamp: Stamp) -> bool:
        """Whether the file, which has this stamp, is to be read now."""
        seen = self._seen[name]
        if seen.stamp != stamp:
            seen.stamp, seen.since = stamp, time.monotonic()
        if seen.read == stamp:
            self._unsettled.discard(name)
            return False
        self._unsettled.add(name)
        return self.rested_s(name) >= REST_S

    def _miss(self, name: str) -> bool:
        """Count a look that did not find the file; whether it is gone, which forgets it."""
        seen = self._seen[name]
        seen.misses += 1
        if seen.misses == 1:
            self._missing.add(name)
            self._unsettled.add(name)
            return False
        del self._seen[name]
        self._entries.pop(name, None)
        self._missing.discard(name)
        self._unsettled.discard(name)
        return True


def _times(info: os.stat_result) -> tuple[int, ...]:
    return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_ctime_ns


def _settled_times(folders: Mapping[str, os.stat_result]) -> dict[str, tuple[int, ...]] | None:
    """Times of folders that change with their next change; None: one has only just changed."""
    now = time.time()
    for info in folders.values():
        tick_s = _TICK_S if info.st_mtime_ns % 1_000_000_000 else _COARSE_TICK_S
        if abs(now - info.st_mtime) < tick_s:
            return None
    return {name: _times(info) for name, info in folders.items()}


class _Listing:
    """The names below a folder, and its subfolders. Asks for no file.

    ``fresh`` are inodes by name of the manifests that are not ``known`` as they are, and ``count``
    is how many are. A link (``_LINK``) never is. ``unreadable`` says of subfolders why their names
    are missing here.
    """

    def __init__(self, prefix: str, known: Mapping[str, int]) -> None:
        self.fresh: dict[str, int] = {}
        self.count = 0
        self.folders: dict[str, os.stat_result] = {}
        self.unreadable: dict[str, str] = {}
        self._prefix, self._known = prefix, known
        waiting = [""]
        while waiting:
            waiting += self._list(waiting.pop())

    def _list(self, folder: str) -> list[str]:
        """Take in the names of one folder; its subfolders."""
        path = f"{self._prefix}{folder}"
        try:
            self.folders[folder] = os.stat(path)  # noqa: PTH116 (as in _stamp)
            with os.scandir(path) as found:
                below = [name for entry in found if (name := self._take(folder, entry))]
        except OSError as error:
            if not folder:
                raise
            self.folders.pop(folder, None)
            if not isinstance(error, FileNotFoundError):  # it did not just go
                text = f"subfolder {folder[:-1]}: {error.strerror}: nothing of it is deleted"
                self.unreadable[folder] = text
            return []
        return below if folder.count("/") < _DEEPEST else []

    def _take(self, folder: str, entry: os.DirEntry[str]) -> str:
        """Take in a name; a subfolder's, with a slash, is returned."""
        name = f"{folder}{entry.name}"
        if self._known.get(name) == entry.inode() and not entry.is_symlink():
            self.count += 1
        elif entry.name.startswith("."):
            return ""
        elif name.endswith(SUFFIXES):
            self.fresh[name] = _LINK if entry.is_symlink() else entry.inode()
        elif entry.is_dir(follow_symlinks=False):
            return f"{name}/"
        return ""


def read_text(path: Path) -> str:
    """The text of a manifest. Raises OSError and ValueError (too large, no file, no text)."""
    # O_NONBLOCK: a FIFO would otherwise hold us until somebody writes.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("not a regular file")
        if info.st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        raw = file.read()
    return _decode(raw)


def _decode(raw: bytes) -> str:
    """The text behind a byte-order mark; without one it is UTF-8. Raises ValueError."""
    mark, coding = next((one for one in _MARKS if raw.startswith(one[0])), (b"", "utf-8"))
    try:
        return _INNER_MARK.sub("", raw[len(mark) :].decode(coding))
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        raise ValueError(f"not {coding.upper()} at byte {at}") from error


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
