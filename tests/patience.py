"""How much longer a wait for a fact may take beside other lanes (``tests/run.py``).

A wait says how long a fact takes with a processor to itself. Lanes that run side by side share two
processors, so a process that starts in 2 s starts in 20. What a test measures, and what an issue
bounds, is not stretched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

#: Factor for all waits, from whoever runs several lanes.
VARIABLE = "MESHGATE_PATIENCE"
T = TypeVar("T")


def patient(seconds: float) -> float:
    """Seconds to wait for a fact that takes at most ``seconds`` on a quiet machine."""
    return seconds * float(os.environ.get(VARIABLE, "1"))


def wait(
    fact: Callable[[], T], seconds: float, what: Callable[[], str] | str = "", pause_s: float = 0.05
) -> T:
    """The first true value of ``fact``; fails after the seconds, and says what has not come.

    Many facts are asked for by a command, so a long wait asks less often: the lab and other lanes
    have the processor.
    """
    begun, seconds = time.monotonic(), patient(seconds)
    while not (value := fact()):
        waited = time.monotonic() - begun
        if waited >= seconds:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds} s: {text} (last: {value!r})")
        time.sleep(min(max(pause_s, waited / 20), 1, seconds - waited))
    return value
