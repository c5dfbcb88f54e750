"""Maps of the bench's own, with room for the largest cluster, and targets that hold nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from bpf.build import HERE
from bpf.maps import Map, MapTarget, RowTarget
from bpf.object import BPFFS, Object, mount_bpffs
from mesh.core.feature import Entry
from mesh.core.reconcile import ColumnTarget, Target
from mesh.core.table import ColumnTable
from mesh.datapath.programs import OBJECTS

#: Entries of the maps that are smaller by default than 150,000 pods need; memory is taken when rows
#: come.
ROOM = {
    "mg_address": 1 << 19,
    "mg_block": 1 << 19,
    "mg_addr_cidr": 1 << 15,
    "mg_node": 1 << 15,
    "mg_service_addr": 1 << 16,
    "mg_backend_addr": 1 << 20,
    "mg_egress": 1 << 16,
}
#: Programs that rooms ask for by name.
RUN = ("mg_forget", "mg_end_udp", "mg_end_tcp", "mg_bfd_arm")


class BenchMaps:
    """``mesh.core.feature.Maps`` over maps in a directory of the bench's own."""

    def __init__(self, opened: list[Object]) -> None:
        self._opened = opened
        self._maps = {name: one for each in opened for name, one in each.maps.items()}

    @property
    def names(self) -> Collection[str]:
        """Names of all maps."""
        return self._maps.keys()

    def map(self, name: str) -> Map:
        """A map by its name."""
        return self._maps[name]

    def rows(
        self, name: str, encode: Callable[[Any, Any], Entry], decode: Callable[[Any, Any], Any]
    ) -> Target[Any, Any]:
        return RowTarget(self._maps[name], encode, decode)

    def columns(self, name: str, table: ColumnTable) -> ColumnTarget:
        return MapTarget(self._maps[name], table.key, table.value)

    def enum(self, name: str) -> Mapping[str, int]:
        return _first(lambda one: one.btf.enum(name), self._opened)

    def struct(self, name: str) -> np.dtype[Any]:
        return _first(lambda one: one.btf.struct(name), self._opened)

    def capacity(self, name: str) -> int:
        return self._maps[name].max_entries

    def program(self, name: str) -> int:
        return next(one.programs[name] for one in self._opened if name in one.programs)


def _first(look_up: Callable[[Object], Any], opened: list[Object]) -> Any:
    for one in opened:
        try:
            return look_up(one)
        except KeyError:
            continue
    raise KeyError


@contextmanager
def bench_maps(room: Mapping[str, int] = MappingProxyType(ROOM)) -> Iterator[BenchMaps]:
    """Empty maps as the product's objects have them; of the programs only those that rooms run."""
    mount_bpffs()
    directory = BPFFS / f"mgb-{os.getpid()}"
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(Object.open(HERE / "obj" / f"{n}.o")) for n in OBJECTS]
            for one in opened:
                one.only(*RUN)
                for name in one.specs.keys() & room.keys():
                    one.set_max_entries(name, max(room[name], one.specs[name].max_entries))
                one.pin(directory)
                one.load()
            yield BenchMaps(opened)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class NoTarget:
    """Stands for a kernel or a store: takes rows, remembers none.

    ``taken`` is called with what is written: by it a test answers as the kernel would.
    """

    name = "nothing"

    def __init__(self, taken: Callable[[Mapping[Any, Any]], None] | None = None) -> None:
        self.written = 0
        self._taken = taken

    async def read(self) -> Mapping[Any, Any]:
        return {}

    async def upsert(self, rows: Mapping[Any, Any]) -> dict[Any, Exception]:
        self.written += len(rows)
        if self._taken:
            self._taken(rows)
        await asyncio.sleep(0)
        return {}

    async def delete(self, keys: Collection[Any]) -> dict[Any, Exception]:
        self.written += len(keys)
        return {}


class NoLinks(NoTarget):
    """Stands for the kernel's links of pods, which nothing takes away."""

    async def watch(self, recheck: Callable[[], None]) -> None:
        """Nothing to see."""


class NoKernel:
    """Stands for the kernel's routes: netlink is no part of the figures."""

    async def discard_routes(self) -> list[Any]:
        return []

    async def add_discard_route(self, prefix: Any) -> None:
        """Take it."""

    async def delete_discard_route(self, prefix: Any) -> None:
        """Take it."""

    async def link(self, _: str) -> SimpleNamespace:
        """The device of any name."""
        return SimpleNamespace(ifindex=1)

    async def add_overlay_gateways(self, ifindex: int) -> None:
        """Take them."""

    async def overlay_routes(self, _: int) -> dict[Any, Any]:
        return {}

    async def add_overlay_route(self, ifindex: int, prefix: Any, source: Any, mtu: int) -> None:
        """Take it."""

    async def delete_overlay_route(self, ifindex: int, prefix: Any) -> None:
        """Take it."""
