"""The event loop in slices: all readers of an API server share one slice of work at a time.

Several tasks that each work for one slice would together hold up the loop for many.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

#: Seconds of work between two returns to the event loop.
SLICE_S = 0.0015


class Turns:
    """Who works now."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self.slice_s = slice_s
        self.lock = asyncio.Lock()

    def turn(self) -> Turn:
        """``async with turns.turn() as turn:`` around work, ``await turn.pause()`` inside of it."""
        return Turn(self)


class Turn:
    """One piece of work, which lasts for any number of slices."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._holds = False
        self._began = 0.0

    async def __aenter__(self) -> Self:
        await self._take()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._give()

    async def pause(self) -> None:
        """Let others work, when this slice has lasted long enough."""
        if time.perf_counter() - self._began >= self._turns.slice_s:
            self._give()
            await asyncio.sleep(0)
            await self._take()

    async def _take(self) -> None:
        await self._turns.lock.acquire()
        self._holds, self._began = True, time.perf_counter()

    def _give(self) -> None:
        if self._holds:
            self._holds = False
            self._turns.lock.release()
