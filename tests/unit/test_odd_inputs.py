"""A short run of each fuzzing target, the same one each time; ``make soak`` has the long ones."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, Target, run


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_odd_inputs_raise_nothing_but_their_readers_own_errors(target: Target) -> None:
    assert run(target, 1, 0.0, least=150) == 150
