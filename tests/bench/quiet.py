"""An event loop that says when it has nothing left to do: the end of a change."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mesh.core.steps import MeasuredSelector, Steps

T = TypeVar("T")
Ready = list[tuple[selectors.SelectorKey, int]]


class IdleSelector(MeasuredSelector):
    """Calls ``idle`` once instead of sleeping, when nothing is ready to run."""

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps)
        self.idle: Callable[[], None] | None = None

    def select(self, timeout: float | None = None) -> Ready:
        """Wait, but for somebody who waits for the loop to be idle."""
        if (timeout is None or timeout > 0) and self.idle:
            idle, self.idle = self.idle, None
            idle()
            timeout = 0
        return super().select(timeout)


class Quiet:
    """Waits until the loop is idle; ``steps`` has its longest step."""

    def __init__(self) -> None:
        self.steps = Steps()
        self._selector = IdleSelector(self.steps)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """``asyncio.run`` on such a loop."""
        with asyncio.Runner(loop_factory=self._loop) as runner:
            return runner.run(main)

    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(self._selector)

    async def idle(self) -> None:
        """Return when no task can go on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._selector.idle = lambda: future.set_result(None)
        await future
