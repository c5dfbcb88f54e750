"""The event loop in slices: all readers of an API server share one slice of each turn of the loop.

Several tasks that each worked for one slice would together hold up the loop for many.
"""

from __future__ import annotations

import asyncio
import time

#: Seconds of work between two returns to the event loop.
SLICE_S = 0.0015


class Turns:
    """``await turns.pause()`` before each small piece of work."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._began: float | None = None  # when work began in this turn of the loop

    async def pause(self) -> None:
        """Let others work first, when the readers have worked for a slice in this turn."""
        if self._began is None:
            self._began = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._turned)
        elif time.perf_counter() - self._began >= self._slice_s:
            await asyncio.sleep(0)

    def _turned(self) -> None:
        self._began = None
