"""The process knows its longest step."""

import asyncio
import time

import pytest

from mesh.core.steps import Steps, run


class Clocks:
    """CPU time and time of day, moved by hand."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.now = 0.0

    def step(self, steps: Steps, cpu_s: float) -> None:
        steps.begin()
        self.cpu += cpu_s
        self.now += cpu_s
        steps.end()


def test_other_processes_lengthen_no_step() -> None:
    clocks = Clocks()
    steps = Steps(lambda: clocks.cpu, lambda: clocks.now)
    steps.begin()
    clocks.now += 5
    clocks.cpu += 0.003
    steps.end()
    assert steps.longest_s == pytest.approx(0.003)


def test_a_short_step_is_as_long_as_the_clock_says() -> None:
    asked = []
    clocks = Clocks()
    steps = Steps(lambda: asked.append(1) or 0.0, lambda: clocks.now)
    steps.begin()
    clocks.now += 0.0004
    steps.end()
    assert (steps.longest_s, len(asked)) == (pytest.approx(0.0004), 1)


def test_the_longest_step_stays_and_that_of_the_last_minute_goes() -> None:
    clocks = Clocks()
    steps = Steps(lambda: clocks.cpu, lambda: clocks.now)
    clocks.step(steps, 0.04)
    clocks.now = 30
    clocks.step(steps, 0.01)
    assert steps.row() == {
        "longest_step_ms": 40, "longest_step_last_minute_ms": 40, "turns": 2,
    }  # fmt: skip
    clocks.now = 65
    clocks.step(steps, 0.002)
    assert (steps.longest_s, steps.last_minute_s()) == pytest.approx((0.04, 0.01))
    clocks.now = 200
    assert steps.last_minute_s() == 0


def test_what_runs_between_two_selects_is_one_step() -> None:
    steps = Steps()

    async def main() -> str:
        for _ in range(3):
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        return "done"

    assert run(main(), steps) == "done"
    assert 0.02 <= steps.longest_s < 0.04
    assert steps.turns >= 4
