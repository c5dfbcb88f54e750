"""The last good objects on the disk: an object that is wrong keeps its row, also over a restart.

The API server's own checks make wrong objects rare, and what changes all the time (pods, slices)
comes from programs, not from people. So documents of such kinds (``Kind.churns``) are not kept. The
others are written when their row changes: a node's heartbeat writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mesh.core import journal
from mesh.core.files import in_words
from mesh.core.journal import Journal

#: Name of the file in the state directory.
FILE = "apiserver.journal"
#: Seconds between writes: changes of that time share one sync of the disk.
_PAUSE_S = 1.0

_encode = msgspec.json.Encoder().encode


class Kept:
    """Documents by name; no ``file``: they end with the process."""

    def __init__(self, file: Path | None) -> None:
        #: Why a document cannot be kept or read, in words.
        self.problem = ""
        self._file = file
        self._journal = Journal(file) if file else None
        self._changes: dict[str, bytes | None] = {}
        self._changed = asyncio.Event()
        #: Those of the last process, until everything was listed.
        self._former: dict[str, bytes] | None = self._read()

    def last(self, name: str) -> Any:
        """The document of an object that is wrong from the start; None: none is kept."""
        with suppress(msgspec.MsgspecError):
            raw = (self._former or {}).get(name)
            return None if raw is None else msgspec.json.decode(raw)
        return None

    def save(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep the document of an object that is good."""
        if self._journal is None:
            return
        raw = _encode(_trimmed(document))
        if self._former is None or self._former.get(name) != raw:
            self._change(name, raw)

    def drop(self, name: str) -> None:
        """Forget an object that is gone."""
        self._change(name, None)

    def listed(self, names: Mapping[str, object]) -> None:
        """Everything was listed: what is not among the names is gone."""
        former, self._former = self._former or {}, None
        for name in former.keys() - names.keys():
            self.drop(name)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            changes, self._changes = self._changes, {}
            if self._journal is not None and changes:
                try:
                    await asyncio.to_thread(self._journal.append, changes)
                    self.problem = ""
                except OSError as error:
                    self.problem = f"{self._file}: {in_words(error)}"
                    self._changes = {**changes, **self._changes}
                    self._changed.set()
            await asyncio.sleep(_PAUSE_S)

    def close(self) -> None:
        """Let another process write."""
        if self._journal is not None:
            self._journal.close()

    def _change(self, name: str, raw: bytes | None) -> None:
        if self._journal is not None:
            self._changes[name] = raw
            self._changed.set()

    def _read(self) -> dict[str, bytes]:
        if self._file is None:
            return {}
        try:
            return journal.read(self._file)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.problem = f"{self._file}: {error}"
            return {}


def _trimmed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its long parts, which no kind reads."""
    found = dict(document)
    metadata, status = found.get("metadata"), found.get("status")
    if isinstance(metadata, dict):
        found["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    if isinstance(status, dict):
        found["status"] = {k: v for k, v in status.items() if k != "images"}
    return found
