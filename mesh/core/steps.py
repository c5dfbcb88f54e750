"""How long the event loop was busy: CPU time between two returns to its selector.

    with asyncio.Runner(loop_factory=steps.event_loop) as runner: ...

The selector is where an event loop sleeps, so the time from the return of one ``select`` to the
call of the next is one step: everything that ran while nothing else could. CPU time of the thread
counts, not wall time, because other processes would lengthen the latter. Of a step that is over
within a millisecond the wall time counts: the kernel is asked for CPU time once less, which costs
more than the rest of such a turn.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any

#: Seconds of one window, and how many windows make "the last minute".
_WINDOW_S = 10.0
_WINDOWS = 6
#: Seconds; a step that takes less of the clock took less CPU time, too.
_SHORT_S = 0.001

Ready = list[tuple[selectors.SelectorKey, int]]


class Steps:
    """The longest step since the start and in the last minute."""

    def __init__(
        self,
        cpu: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.longest_s = 0.0
        self.turns = 0
        self._cpu = cpu
        self._clock = clock
        self._began: tuple[float, float] | None = None  # CPU time, clock
        self._windows: dict[int, float] = {}  # number of the window -> its longest step

    def begin(self) -> None:
        """The selector has returned."""
        self._began = self._cpu(), self._clock()

    def end(self) -> None:
        """The selector is called."""
        if self._began is None:
            return
        cpu, clock = self._began
        ended = self._clock()
        took = min(ended - clock, _SHORT_S)
        if took == _SHORT_S:
            took = self._cpu() - cpu
        self.turns += 1
        self.longest_s = max(self.longest_s, took)
        now = int(ended / _WINDOW_S)
        self._windows[now] = max(self._windows.get(now, 0.0), took)
        if len(self._windows) > _WINDOWS:
            self._windows = {at: s for at, s in self._windows.items() if at > now - _WINDOWS}

    def last_minute_s(self) -> float:
        """The longest step that ended in the last minute, to ten seconds."""
        now = int(self._clock() / _WINDOW_S)
        return max((s for at, s in self._windows.items() if at > now - _WINDOWS), default=0.0)

    def row(self) -> Mapping[str, object]:
        """For ``meshgate status -o json``."""
        return {
            "longest_step_ms": round(1000 * self.longest_s, 3),
            "longest_step_last_minute_ms": round(1000 * self.last_minute_s(), 3),
            "turns": self.turns,
        }


class MeasuredSelector(selectors.DefaultSelector):
    """A selector that tells ``steps`` when it is called and when it returns."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def select(self, timeout: float | None = None) -> Ready:
        """Wait; the time outside of this function is the step."""
        self._steps.end()
        ready: Ready = super().select(timeout)
        self._steps.begin()
        return ready


def event_loop(steps: Steps) -> asyncio.AbstractEventLoop:
    """A loop whose steps are measured."""
    return asyncio.SelectorEventLoop(MeasuredSelector(steps))


def run(main: Any, steps: Steps) -> Any:
    """``asyncio.run`` with measured steps."""
    with asyncio.Runner(loop_factory=lambda: event_loop(steps)) as runner:
        return runner.run(main)
