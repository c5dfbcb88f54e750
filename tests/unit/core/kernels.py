"""Fake maps that refer to each other, and an event loop whose time is simulated."""

from __future__ import annotations

import asyncio
import errno
import random
import selectors
from collections.abc import Callable, Collection, Coroutine, Hashable, Mapping
from typing import Any


class FakeMap:
    """A map with room for ``size`` rows; rows fail at random while ``failing`` is not 0.

    ``check`` is called after each single write and delete: whatever it sees, a packet would see.
    """

    def __init__(self, choose: random.Random, size: int = 1_000_000, name: str = "a map") -> None:
        self.name = name
        self.rows: dict[Any, Any] = {}
        self.size = size
        self.failing = 0.0
        self.away = False
        self.check: Callable[[], None] = lambda: None
        self.reads = 0
        self.tried = 0
        self._choose = choose

    async def read(self) -> Mapping[Any, Any]:
        self.reads += 1
        await self._pause()
        return dict(self.rows)

    async def upsert(self, rows: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        errors: dict[Any, Exception] = {}
        for key, row in rows.items():
            await self._pause()
            self.tried += 1
            if self._choose.random() < self.failing:
                errors[key] = OSError(errno.EINVAL, "failed")
            elif key not in self.rows and len(self.rows) >= self.size:
                errors[key] = OSError(errno.E2BIG, "full")
            else:
                self.rows[key] = row
                self.check()
        return errors

    async def delete(self, keys: Collection[Any]) -> Mapping[Any, Exception]:
        errors: dict[Any, Exception] = {}
        for key in keys:
            await self._pause()
            if self._choose.random() < self.failing:
                errors[key] = OSError(errno.EINVAL, "failed")
            else:
                self.rows.pop(key, None)
                self.check()
        return errors

    async def _pause(self) -> None:
        if self.away:
            raise OSError(errno.EIO, "away")
        if self._choose.random() < 0.3:
            await asyncio.sleep(0)


class SimulatedTime(selectors.SelectSelector):
    """A selector that does not sleep: it moves the clock of its loop."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in simulated time."""

    def __init__(self) -> None:
        self._simulated = SimulatedTime()
        super().__init__(self._simulated)

    def time(self) -> float:
        return self._simulated.now


def simulate(story: Coroutine[Any, Any, Any]) -> None:
    """Run a story in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(story)


def tokens(_pod: Hashable, row: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    """A pod's row names the class that it holds: (class, anything)."""
    return () if row[0] is None else (row[0],)
