"""How long a counter has stood, by the reader's own clock (ARCHITECTURE.md D67). Pure.

etcd lets any user keep any lease alive. So a key on a lease proves nothing about its writer; what
proves it is a key that its owner alone may write, and writes again and again. The revision of its
last put is the counter: only a put changes it.

Rule 1: only time between two reads that succeeded counts. A read that failed starts anew: an etcd
        that was away has kept the writer from writing as well.
Rule 2: between two reads counts at most the time that was meant to lie between them. A reader that
        slept (SIGSTOP, a busy loop, a suspended machine) cannot know which others did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable


class Standing:
    """One counter, as one reader sees it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._value: Hashable = None
        self._stood_s = 0.0
        self._read: float | None = None  # when it was last read

    def read(self, value: Hashable, most_s: float) -> float:
        """Take in the value of now; the seconds for which it has stood.

        ``most_s`` are the seconds that were meant to lie between this read and the last one.
        """
        now = self._clock()
        if self._read is None or value != self._value:
            self._stood_s = 0.0
        else:
            self._stood_s += min(now - self._read, most_s)
        self._value, self._read = value, now
        return self._stood_s

    def lose(self) -> None:
        """It cannot be read, or its writer is kept from writing: it has stood for no time."""
        self._read = None
