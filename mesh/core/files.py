"""Files that are replaced as a whole: a reader finds the old content or the new."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

#: More files than these share one sync of all disks; fewer are synced one by one.
_FEW = 8


def in_words(error: OSError) -> str:
    """The reason of an error, without its number and without the path that the caller names."""
    words = error.strerror or str(error) or type(error).__name__
    return words[:1].lower() + words[1:]


def replace_file(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Make ``content`` the file; its writers take turns.

    ``durable``: also after a power cut, at the price of two fsyncs (the file, and the folder that
    names it: what is appended to the new file must not be lost with its name). Raises OSError; then
    the file is as it was and nothing is left beside it.
    """
    try:
        _write_fresh(path, content, durable=durable)
        _fresh(path).replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError:
        _remove_fresh(path)
        raise


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
            _write_fresh(path, content, durable=single)
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


def _write_fresh(path: Path, content: str | bytes, *, durable: bool) -> None:
    with _fresh(path).open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _remove_fresh(path: Path) -> None:
    with suppress(OSError):
        _fresh(path).unlink(missing_ok=True)
