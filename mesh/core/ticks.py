"""Waits that end together: all looks of a process that are due in a second share its wake-ups."""

from __future__ import annotations

import asyncio

#: Seconds; a multiple that is as near as this is the one at which the caller has just looked.
_NOW_S = 1e-6


async def tick(period_s: float) -> None:
    """Sleep until the clock of the event loop is a multiple of ``period_s``, which is above 0.

    A process looks at a dozen things at rest, each once in 0.1 to 10 seconds. A wake-up of its own
    for each costs more than the look: the processor has other code and data in its caches by then.
    """
    now = asyncio.get_running_loop().time()
    left_s = period_s - now % period_s
    await asyncio.sleep(left_s if left_s > _NOW_S else left_s + period_s)
