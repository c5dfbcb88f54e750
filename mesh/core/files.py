"""Files of our own: replaced as a whole, made for their owner alone, and never through a link.

Every writer of state goes through here. A folder of state is its owner's alone, so nobody else can
lay a link into it; where it is not, nothing is written. A reader finds the old content or the new.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

#: More files than these share one sync of all disks; fewer are synced one by one.
_FEW = 8
#: Bytes of a log; one that was longer lies beside it.
LONGEST_LOG = 4 << 20
#: Made by us and by nobody before us; a link in its place is an error.
_EXCLUSIVE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600
#: Bytes of the longest file that is read although another user may write to it.
_FOREIGN = 64


class UnsafeError(PermissionError):
    """A file or folder that others can change, or have laid there; nothing is written to it."""


def in_words(error: OSError) -> str:
    """The reason of an error, without its number and without the path that the caller names."""
    words = error.strerror or str(error) or type(error).__name__
    return words[:1].lower() + words[1:]


def private_folder(folder: Path) -> None:
    """Make ``folder``, and what leads to it, with mode 0700; one that is there gets that mode.

    Raises UnsafeError when it belongs neither to root nor to us, or others may write to it: what
    lies in it may be theirs. Raises OSError when it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for found in (folder.lstat(), folder.stat()):  # a link of another user leads where he likes
        if found.st_uid not in (0, os.geteuid()):
            raise _unsafe(folder, f"belongs to user {found.st_uid}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _unsafe(folder, f"is writable by others (mode {mode:04o})")
    if mode != stat.S_IRWXU and found.st_uid == os.geteuid():
        folder.chmod(stat.S_IRWXU)  # of a version that left it readable


def open_private(path: Path) -> int:
    """A descriptor that appends to ``path``; a new file is its owner's alone.

    Raises UnsafeError for a link, for a file of another user and for one that has a second name.
    """
    with suppress(FileExistsError):
        return os.open(path, _EXCLUSIVE | os.O_APPEND, _PRIVATE)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _unsafe(path, "is a link") from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or _shared(found):
        os.close(descriptor)
        raise _unsafe(path, f"is no file of ours (user {found.st_uid})")
    return descriptor


def read_foreign(path: Path) -> str:
    """A file of a few characters that another user writes.

    Raises OSError for a longer one, for a link, and for what is no file: a pipe would hold us up.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _unsafe(path, "is no file")
        content = file.read(_FOREIGN + 1)
    if len(content) > _FOREIGN:
        raise _unsafe(path, "is too long")
    return content.decode(errors="replace")


def rotate(path: Path, longest: int = LONGEST_LOG) -> None:
    """Keep a log that is longer as ``<path>.1`` and let its writers, who append, begin anew.

    Raises OSError. What is written in between is lost: the writers keep the file open.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size > longest:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "rb+") as file:
                file.seek(-longest, os.SEEK_END)
                replace_file(path.with_name(f"{path.name}.1"), file.read())
                file.truncate(0)


def replace_file(
    path: Path, content: str | bytes, *, durable: bool = False, mode: int = _PRIVATE
) -> None:
    """Make ``content`` the file; its writers take turns. A link in its place is replaced.

    ``durable``: also after a power cut, at the price of two fsyncs (the file, and the folder that
    names it: what is appended to the new file must not be lost with its name). Raises OSError; then
    the file is as it was and nothing is left beside it.
    """
    try:
        _write_fresh(path, content, durable=durable, mode=mode)
        _fresh(path).replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError:
        _remove_fresh(path)
        raise


def _unsafe(path: Path, why: str) -> UnsafeError:
    return UnsafeError(errno.EPERM, f"{path} {why}: make it root's, mode 0700, after a look at it")


def _shared(found: os.stat_result) -> bool:
    return found.st_nlink > 1


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_files(contents: Mapping[Path, str | bytes]) -> dict[Path, OSError]:
    """Replace many files, durably, with one sync for all. Return the failures.

    No file takes its name before the contents of all are on the disk. So a power cut leaves each
    one with its old content or its new one.
    """
    single = len(contents) <= _FEW
    errors: dict[Path, OSError] = {}
    for path, content in contents.items():
        try:
            _write_fresh(path, content, durable=single, mode=_PRIVATE)
        except OSError as error:
            errors[path] = error
    if not single:
        os.sync()
    for path in contents.keys() - errors.keys():
        try:
            _fresh(path).replace(path)
        except OSError as error:
            errors[path] = error
    for path in errors:
        _remove_fresh(path)
    return errors


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _write_fresh(path: Path, content: str | bytes, *, durable: bool, mode: int) -> None:
    fresh = _fresh(path)
    fresh.unlink(missing_ok=True)  # of a writer that was killed, or a link
    with os.fdopen(os.open(fresh, _EXCLUSIVE, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever our umask is
        _hand_over(file.fileno(), path)
        file.write(content.encode() if isinstance(content, str) else content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _hand_over(descriptor: int, former: Path) -> None:
    """What root replaces stays the user's that had it."""
    with suppress(FileNotFoundError):
        found = former.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid != os.geteuid():
            os.fchown(descriptor, found.st_uid, found.st_gid)


def _remove_fresh(path: Path) -> None:
    with suppress(OSError):
        _fresh(path).unlink(missing_ok=True)
