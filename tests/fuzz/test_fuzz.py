"""Odd inputs for as long as there is time: ten minutes in all with ``make soak``."""

from __future__ import annotations

import os
import random

import pytest

from tests.fuzz.targets import TARGETS, Target, run

SECONDS = 600 / len(TARGETS) if os.environ.get("MESHGATE_SOAK") else 1.0
SEED = int(os.environ.get("MESHGATE_SEED", "") or random.randrange(1 << 32))


@pytest.mark.parametrize("seed", [SEED])  # its number stands in the name of the test
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_an_odd_input_raises_nothing_but_its_readers_own_errors(target: Target, seed: int) -> None:
    assert run(target, seed, SECONDS) > 0
