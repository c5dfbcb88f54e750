"""A mapping of text to bytes in a file that grows by what changed.

The file is a header and frames; a frame holds one set of changes with its length and checksum. A
process that dies in the middle of a write, or a power cut, leaves an incomplete last frame: readers
stop before it, so they find the state before those changes or after them. From time to time the
file is written anew without what was overwritten. One process may write: it holds a lock on
``<file>.lock`` as long as it lives.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO
from zlib import crc32

import msgspec

from mesh.core.files import open_private, private_folder, replace_file

#: First bytes of a journal; the number is the version of the form.
HEADER = b"meshgate journal 1\n"
#: Length of the changes in bytes, and a checksum over that length and the changes: a file that a
#: power cut left with zeros at its end must not read as frames.
_FRAME = struct.Struct("<II")
#: Bytes that may be appended before the file is written anew, however small it is.
SLACK = 1 << 20

#: Keys with their new values; None: the key is gone.
Changes = Mapping[str, bytes | None]

_decode = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode


class Occupied(OSError):
    """Another process writes this journal."""


def frame(changes: Changes) -> bytes:
    """The changes as they stand in the file: after a power cut all of them count, or none."""
    content = msgspec.msgpack.encode(changes)
    return _FRAME.pack(len(content), _checksum(content)) + content


def decode(content: bytes) -> tuple[dict[str, bytes], int]:
    """The mapping, and the length of what could be read. Raises ValueError without a header."""
    if not content.startswith(HEADER):
        raise ValueError("is no journal")
    rows: dict[str, bytes] = {}
    length = len(HEADER)
    for changes, end in _frames(content):
        _merge(rows, changes)
        length = end
    return rows, length


def encode(rows: Mapping[str, bytes]) -> bytes:
    """A whole file."""
    return HEADER + frame(rows)


def read(path: Path) -> dict[str, bytes]:
    """The mapping in a file. Raises OSError, and ValueError for a file of another form."""
    return decode(path.read_bytes())[0]


def is_journal(path: Path) -> bool:
    """Whether the file starts as journals do; False when there is none."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER
    return False


class Journal:
    """The writer of one file. All methods raise OSError, after which the next call tries again."""

    def __init__(self, path: Path, former: Path | None = None) -> None:
        """``former`` held the same in another form; it goes when this file is first written."""
        self.path = path
        self._former = former if former != path else None
        self._lock: IO[bytes] | None = None
        self._file: IO[bytes] | None = None  # None: the file's end is unknown, write it anew
        self._appended = self._whole = 0  # bytes since the file was last written anew, and then

    def replace(self, rows: Mapping[str, bytes]) -> None:
        """Make ``rows`` the whole mapping."""
        self._own()
        self._close_file()
        content = encode(rows)
        replace_file(self.path, content, durable=True)
        self._file = os.fdopen(open_private(self.path), "ab", buffering=0)
        self._appended, self._whole = 0, len(content)
        if self._former is not None:
            self._former.unlink(missing_ok=True)

    def append(self, changes: Changes) -> None:
        """Add changes; the time that this takes does not depend on the size of the file."""
        self._own()
        if self._file is None or self._appended > max(self._whole, SLACK):
            self._write_anew(changes)
            return
        content, file, self._file = frame(changes), self._file, None
        _write(file, content)
        os.fsync(file.fileno())
        self._file = file  # only a file that was written without an error is written on
        self._appended += len(content)

    def close(self) -> None:
        """Let another process write."""
        self._close_file()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _own(self) -> None:
        if self._lock is not None:
            return
        private_folder(self.path.parent)
        lock = os.fdopen(open_private(self.path.with_name(f"{self.path.name}.lock")), "ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Occupied(f"another process writes {self.path}") from None
        self._lock = lock

    def _write_anew(self, changes: Changes) -> None:
        rows: dict[str, bytes] = {}
        try:
            rows = read(self.path)
        except FileNotFoundError:
            pass  # the first write
        except ValueError as error:
            raise OSError(f"{self.path} {error}") from error
        _merge(rows, changes)
        self.replace(rows)

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _frames(content: bytes) -> Iterator[tuple[Changes, int]]:
    """Complete frames with the place where each ends."""
    at = len(HEADER)
    while at + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, at)
        start, end = at + _FRAME.size, at + _FRAME.size + length
        if end > len(content) or _checksum(content[start:end]) != checksum:
            return
        try:
            changes = _decode(content[start:end])
        except msgspec.MsgspecError:
            return
        yield changes, end
        at = end


def _checksum(content: bytes) -> int:
    return crc32(content, crc32(len(content).to_bytes(4, "little")))


def _merge(rows: dict[str, bytes], changes: Changes) -> None:
    for key, value in changes.items():
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


def _write(file: IO[bytes], content: bytes) -> None:
    """All of ``content``: a disk that is nearly full takes a part without an error."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
