"""Waiting for tables: a bell that their changes ring, and calls that look again when it rings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from mesh.core.passes import Gate

T = TypeVar("T")


class Bell:
    """Many wait, each for something of its own; ``gate`` says when the tables fit together."""

    def __init__(self) -> None:
        self.gate = Gate()
        self._waiting: set[asyncio.Event] = set()

    def ring(self) -> None:
        """Something has changed."""
        for one in self._waiting:
            one.set()

    async def until(self, look: Callable[[], T | None], end: float) -> T | None:
        """What ``look`` finds, None when it finds nothing until ``end`` (the loop's clock)."""
        rung = asyncio.Event()
        self._waiting.add(rung)
        try:
            async with asyncio.timeout_at(end):
                while True:
                    rung.clear()
                    if found := await self.gate.look(look):
                        return found
                    await rung.wait()
        except TimeoutError:
            return None
        finally:
            self._waiting.discard(rung)
