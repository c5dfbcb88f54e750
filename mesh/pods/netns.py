"""Network namespaces of pods: a folder and those of attachments, looked at five times a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mesh.core.model import Attachment, Finding, Sandbox
from mesh.core.table import Table
from mesh.pods.findings import NAMESPACES

#: Seconds between looks.
INTERVAL_S = 0.2


class Namespaces:
    """The folder of ``pattern``, the path of a pod's network namespace; empty: no folder."""

    def __init__(self, pattern: str) -> None:
        self._folder = Path(pattern).parent if pattern else None
        self._problem = ""

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
                found = inodes(self._folder) if self._folder else {}
                table.replace(found | {row.netns: row.inode for row in rows})
                self._problem = ""
            except OSError as error:
                self._problem = f"{error.strerror}: pods stay wired as they are"
            await asyncio.sleep(interval_s)

    def findings(self) -> Iterable[Finding]:
        """Why pods are not looked for."""
        if self._problem and self._folder:
            yield Finding(NAMESPACES, str(self._folder), "", self._problem)


def inodes(folder: Path) -> dict[str, int]:
    """Inode by path of the files in a folder, none if there is no folder. Raises OSError."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # gone in between
                found[entry.path] = entry.stat().st_ino
    return found
