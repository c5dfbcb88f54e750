"""The pinned maps of a node as targets, for the rooms (``mesh/core/feature.py``, ``Maps``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bpf.maps import MapTarget, RowTarget
from bpf.sys import MapType
from mesh.core.feature import Entry
from mesh.core.reconcile import ColumnTarget, Target
from mesh.core.table import ColumnTable
from mesh.datapath.programs import Datapath


class PinnedMaps:
    """Maps, layouts and programs of a started datapath, by name."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath

    def rows(
        self, name: str, encode: Callable[[Any, Any], Entry], decode: Callable[[Any, Any], Any]
    ) -> Target[Any, Any]:
        """A map as the target of a table of rows."""
        return RowTarget(self._datapath.map(name), encode, decode)

    def columns(self, name: str, table: ColumnTable) -> ColumnTarget:
        """A map as the target of a column table, in the table's dtypes."""
        return MapTarget(self._datapath.map(name), table.key, table.value)

    def enum(self, name: str) -> Mapping[str, int]:
        """Names and numbers of a C enum."""
        return self._datapath.enum(name)

    def struct(self, name: str) -> np.dtype[Any]:
        """Layout of a C struct."""
        return self._datapath.struct(name)

    def capacity(self, name: str) -> int:
        """Entries that may be written into the map."""
        map_ = self._datapath.map(name)
        # Kernels before 6.13 refuse to replace an entry of an LPM map that is full.
        return map_.max_entries - (map_.type == MapType.LPM_TRIE)

    def lookup(self, name: str, key: object) -> Any:
        """The value of one entry as a 0-d array, or None."""
        return self._datapath.map(name).lookup(key)

    def program(self, name: str) -> int:
        """Descriptor of a program."""
        return self._datapath.program(name)
