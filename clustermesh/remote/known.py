"""Which clusters a store is known to have, on disk (ARCHITECTURE.md D8)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from mesh.core.files import private_folder, replace_file


class _Known(msgspec.Struct, frozen=True):
    store: str = ""
    clusters: tuple[str, ...] = ()


class KnownClusters:
    """The last store that was seen complete, and the clusters that it had."""

    def __init__(self, path: Path) -> None:
        #: Why the file cannot be written, in words.
        self.problem = ""
        self._path = path
        self._known = self._read()

    @property
    def store(self) -> str:
        """Its id; empty when none was seen."""
        return self._known.store

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of its clusters."""
        return self._known.clusters

    def has(self, store: str, clusters: Iterable[str]) -> bool:
        """Whether just this is remembered."""
        return self._known == _Known(store, tuple(sorted(clusters)))

    def write(self, store: str, clusters: Iterable[str]) -> None:
        """Remember; written only when it differs."""
        if self.has(store, clusters):
            return
        known = _Known(store, tuple(sorted(clusters)))
        try:
            private_folder(self._path.parent)
            replace_file(self._path, msgspec.json.encode(known))
        except OSError as error:  # the next start would only hold more than it needs to
            self.problem = str(error)
            return
        self._known, self.problem = known, ""

    def _read(self) -> _Known:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Known)
        except (OSError, msgspec.DecodeError):
            return _Known()
