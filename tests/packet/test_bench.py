"""The bench's own stand-ins for kernel and store fit the processes: each side starts and changes.

The bench is not run with the tests. So a room that gets a program, a link or a task would break it
unseen, and its figures would be missed when a change needs them.
"""

import pytest

from tests.bench import change


@pytest.mark.parametrize("side", ["agent", "folder-agent", "controller"])
def test_a_side_starts_and_follows_each_change(side: str) -> None:
    found = change.measure("events", side, "1k", peers=1)
    slow = {name for name, row in found["events"].items() if not row["times"]}
    assert found["events"]
    assert not slow
