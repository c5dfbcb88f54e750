"""Network namespaces of pods: a folder and those of attachments, looked at five times a second.

A node has hundreds of namespaces. While the folder's own time stands still, its files are looked at
more seldom: a namespace that is mounted over a file changes the file alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mesh.core.model import Attachment, Finding, Sandbox
from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.pods.findings import NAMESPACES

#: Seconds between looks.
INTERVAL_S = 0.2
#: Seconds between looks at all files of a folder that has not changed for as long.
SELDOM_S = 2.0


class Namespaces:
    """The folder of ``pattern``, the path of a pod's network namespace; empty: no folder."""

    def __init__(self, pattern: str) -> None:
        self._folder = Path(pattern).parent if pattern else None
        self._problem = ""
        self._found: dict[str, int] = {}
        self._time: int | None = None
        self._changed_s = self._looked_s = 0.0

    async def run(
        self,
        table: Table[str, int],
        interval_s: float = INTERVAL_S,
        attached: Table[Sandbox, Attachment] | None = None,
    ) -> None:
        """Keep ``table`` (path -> inode) until cancelled; an unreadable folder changes nothing.

        ``attached`` are attachments, whose namespaces are in the table, too.
        """
        while True:
            rows = attached.rows.values() if attached else ()
            try:
                table.replace(self._look() | {row.netns: row.inode for row in rows})
                self._problem = ""
            except OSError as error:
                self._problem = f"{error.strerror}: pods stay wired as they are"
            await tick(interval_s)

    def _look(self) -> dict[str, int]:
        """Inode by path of the folder's files. Raises OSError."""
        if self._folder is None:
            return {}
        now, changed = time.monotonic(), _changed(self._folder)
        if changed != self._time:
            self._time, self._changed_s = changed, now
        if now - self._changed_s < SELDOM_S or now - self._looked_s >= SELDOM_S:
            self._found, self._looked_s = inodes(self._folder), now
        return self._found

    def findings(self) -> Iterable[Finding]:
        """Why pods are not looked for."""
        if self._problem and self._folder:
            yield Finding(NAMESPACES, str(self._folder), "", self._problem)


def _changed(folder: Path) -> int | None:
    """When a name came or went, in ns; None: there is no folder. Raises OSError."""
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime_ns
    return None


def inodes(folder: Path) -> dict[str, int]:
    """Inode by path of the files in a folder, none if there is no folder. Raises OSError."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # gone in between
                found[entry.path] = entry.stat().st_ino
    return found
