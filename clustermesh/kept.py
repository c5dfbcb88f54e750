"""Which contracts are in force, on disk: a wrong one changes nothing, after a restart neither."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from clustermesh.contract import Contract, from_text, to_text
from mesh.core.files import replace_file
from mesh.core.strict import Wrong

#: Name of the file in the state directory.
FILE = "contracts.json"

log = logging.getLogger(__name__)


class KeptContracts:
    """The contracts that were in force last, in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = self._read()

    @property
    def contracts(self) -> Mapping[str, Contract]:
        """By cluster; none of an unreadable file."""
        return self._kept

    def write(self, contracts: Mapping[str, Contract]) -> None:
        """Keep these; written only when they differ."""
        if contracts == self._kept:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, _text(contracts.values()))
        except OSError as error:  # the next start chooses by name where contracts contradict
            log.warning("event=contracts_not_kept path=%s reason=%s", self._path, error)
            return
        self._kept = dict(contracts)

    def _read(self) -> Mapping[str, Contract]:
        try:
            rows = msgspec.json.decode(self._path.read_bytes(), type=list[object])
            return {one.cluster: one for one in map(from_text, rows)}
        except (OSError, msgspec.DecodeError, Wrong):
            return {}


def _text(contracts: Iterable[Contract]) -> bytes:
    return msgspec.json.encode([to_text(one) for one in contracts])
