"""Waits of one process that end together (mesh/core/ticks.py)."""

import asyncio

from mesh.core.ticks import tick
from tests.unit.core.kernels import simulate


def test_waits_of_different_length_share_the_wake_ups_of_the_shortest() -> None:
    woken: set[float] = set()

    async def look(late_s: float, period_s: float, times: int) -> None:
        await asyncio.sleep(late_s)
        for _ in range(times):
            await tick(period_s)
            woken.add(round(asyncio.get_running_loop().time(), 6))

    async def story() -> None:
        await asyncio.gather(look(0.013, 0.1, 20), look(0.07, 0.2, 10), look(0.031, 0.5, 4))

    simulate(story())
    assert len(woken) <= 21
    assert all(abs(at * 10 - round(at * 10)) < 1e-3 for at in woken)


def test_a_wait_is_never_longer_than_its_period() -> None:
    async def story() -> None:
        clock = asyncio.get_running_loop().time
        for _ in range(50):
            before = clock()
            await tick(0.2)
            assert 1e-6 < clock() - before <= 0.2 + 2e-6

    simulate(story())
