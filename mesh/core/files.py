"""Files that are replaced as a whole: a reader finds the old content or the new."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Make ``content`` the file; its writers take turns.

    ``durable``: also after a power cut, at the price of an fsync. Raises OSError; then the file is
    as it was and nothing is left beside it.
    """
    fresh = path.with_name(f"{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
