"""A pinned map as a target of a process that has not loaded it: it may come, go and be replaced.

The agent pins maps, and pins another one in place when a layout changes. A process beside it looks
at the pin before each call: another one is opened, and what was written is compared with it.
Layouts come from our own objects, because the kernel tells types only to CAP_SYS_ADMIN; a map whose
entries have another size is another version's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from bpf import build
from bpf.btf import Dtype
from bpf.maps import Map, MapInfo, RowTarget
from bpf.object import Object
from bpf.sys import open_pinned

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Encode = Callable[[K, V], tuple[object, object]]
Decode = Callable[[Any, Any], tuple[K, V]]
#: Makes both from the map.
Codec = Callable[[Map], tuple[Encode[K, V], Decode[K, V]]]


class PinnedRows(Generic[K, V]):
    """``mesh.core.target.Target`` over the map at ``path``, which ``object_`` declares."""

    def __init__(self, path: Path, object_: str, codec: Codec[K, V]) -> None:
        self.name = path.name
        self._path, self._object, self._codec = path, object_, codec
        self._pin = 0
        self._rows: RowTarget[K, V] | None = None

    async def read(self) -> Mapping[K, V]:
        """The entries of the map that is pinned now. Raises OSError."""
        return await self._opened().read()

    async def read_known(self, known: Mapping[K, V]) -> Mapping[K, V]:
        """The same; equal rows are those of ``known``."""
        return await self._opened().read_known(known)

    async def upsert(self, rows: Mapping[K, V]) -> Mapping[K, Exception]:
        """Write entries. Raises OSError when another map is pinned than was read."""
        return await self._same().upsert(rows)

    async def delete(self, keys: Collection[K]) -> Mapping[K, Exception]:
        """Remove entries. Raises OSError likewise."""
        return await self._same().delete(keys)

    @property
    def is_replaced(self) -> bool:
        """Whether another map is pinned than the one that is open."""
        try:
            return self._path.stat().st_ino != self._pin
        except OSError:
            return self._rows is not None

    def _opened(self) -> RowTarget[K, V]:
        pin = self._path.stat().st_ino
        if self._rows is None or pin != self._pin:
            self.close()
            map_ = opened(self._path, *layout(self._object, self.name))
            encode, decode = self._codec(map_)
            self._rows, self._pin = RowTarget(map_, encode, decode), pin
        return self._rows

    def _same(self) -> RowTarget[K, V]:
        if self._rows is None or self.is_replaced:
            raise OSError(errno.ESTALE, f"{self.name}: another map is pinned by now")
        return self._rows

    def close(self) -> None:
        """Give the descriptor back."""
        if self._rows is not None:
            self._rows.map.close()
            self._rows = None


@cache
def layout(object_: str, name: str) -> tuple[Dtype, Dtype]:
    """Key and value of a map as one of our objects declares it. Raises OSError without the object.

    Raises KeyError when the object has no such map.
    """
    with Object.open(build.HERE / "obj" / f"{object_}.o") as one:
        spec = one.specs[name]
    if spec.key is None or spec.value is None:
        raise KeyError(f"{name} has no keys and values")
    return spec.key, spec.value


def opened(path: Path, key: Dtype, value: Dtype, *, read_only: bool = False) -> Map:
    """A pinned map with this layout. Raises OSError when it has another one."""
    fd = open_pinned(path, read_only=read_only)
    about = MapInfo(fd, types=False)
    if (about.key_size, about.value_size) != (key.itemsize, value.itemsize):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{path.name}: the agent has another version of this map")
    return Map(fd, key, value, about.type, about.max_entries, name=path.name)
