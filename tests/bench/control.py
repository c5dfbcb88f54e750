"""The control plane's rows: addresses into the map, and one change on its way there."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpf.build import HERE
from bpf.maps import Map, MapTarget
from bpf.object import Object
from mesh.addresses import KIND_POD, VALUE
from mesh.core.address import ADDRESS
from mesh.core.reconcile import Applied, Loop
from mesh.core.table import ColumnTable
from tests.bench.frames import BenchError

ADDRESSES = 65_536
CHANGES = 400
BULK_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds of many times the same."""

    seconds: list[float]

    @property
    def p50(self) -> float:
        """Half took less."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """One in a hundred took longer."""
        return sorted(self.seconds)[(99 * len(self.seconds) - 1) // 100]


@dataclass(frozen=True, slots=True)
class Control:
    """All rows of this file."""

    bulk: list[float]
    adopt: list[float]
    change: Spread


def measure(directory: Path) -> Control:
    """``directory``: a place in bpffs of our own."""
    bulk, adopt = [], []
    for _ in range(BULK_ROUNDS):
        with _map(directory) as target:
            full, again = asyncio.run(_fill(target))
            bulk.append(full)
            adopt.append(again)
    with _map(directory) as target:
        return Control(bulk, adopt, asyncio.run(_change(target)))


@contextmanager
def _map(directory: Path) -> Iterator[Map]:
    """An empty mg_address as the product has it."""
    with Object.open(HERE / "obj" / "pod.o") as opened:
        opened.only()
        opened.pin(directory)
        opened.load()
        yield opened.maps["mg_address"]
    shutil.rmtree(directory)


async def _fill(target: Map) -> tuple[float, float]:
    """Into the empty map, then by another process that finds everything there."""
    keys, values = _rows()
    took = []
    for _ in range(2):
        table = ColumnTable("address", ADDRESS, VALUE)
        begin = time.perf_counter()
        table.replace(keys, values)
        async with _running(table, target) as applied:
            await applied.reached(table.revision)
            took.append(time.perf_counter() - begin)
        if len(target.dump()[0]) != ADDRESSES:
            raise BenchError("rows are missing in mg_address")
    return took[0], took[1]


async def _change(target: Map) -> Spread:
    keys, values = _rows()
    table = ColumnTable("address", ADDRESS, VALUE)
    table.replace(keys, values)
    seconds: list[float] = []
    async with _running(table, target) as applied:
        await applied.reached(table.revision)
        for number in range(CHANGES):
            at = number * 97 % ADDRESSES
            row = values[at : at + 1].copy()
            row["identity"] += 1 + number
            begin = time.perf_counter()
            table.upsert(keys[at : at + 1], row)
            await applied.reached(table.revision)
            seconds.append(time.perf_counter() - begin)
            found = target.lookup({"w": np.frombuffer(keys[at].tobytes(), ">u4")})
            if found is None or found["identity"] != row["identity"][0]:
                raise BenchError("a change has not arrived in mg_address")
    return Spread(seconds)


class _running:  # noqa: N801 - used as a context
    """The loop with one column table on its way into the map."""

    def __init__(self, table: ColumnTable, target: Map) -> None:
        self._loop = Loop()
        self._applied = self._loop.apply_columns(table, MapTarget(target, ADDRESS, VALUE))

    async def __aenter__(self) -> Applied:
        self._task = asyncio.create_task(self._loop.run())
        return self._applied

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def _rows() -> tuple[np.ndarray, np.ndarray]:
    raw = np.zeros((ADDRESSES, 16), np.uint8)
    number = np.arange(ADDRESSES, dtype=">u4") + (10 << 24 | 64 << 16)
    raw[:, 10:12], raw[:, 12:] = 0xFF, number.view(np.uint8).reshape(ADDRESSES, 4)
    values = np.zeros(ADDRESSES, VALUE)
    values["identity"] = 0x10100 + np.arange(ADDRESSES) % 1000
    values["node"], values["kind"], values["cluster"] = 0x0A630015, KIND_POD, 1
    return raw.view(ADDRESS).ravel(), values
