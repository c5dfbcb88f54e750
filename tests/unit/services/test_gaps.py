"""Gaps: what is taken is in one row, what is released can be taken again."""

import random

import pytest

from mesh.services.gaps import Gaps


def test_the_smallest_gap_that_is_long_enough_is_taken_the_lowest_of_equal_ones() -> None:
    gaps = Gaps(20, [(3, 5), (7, 9), (11, 18)])
    assert [gaps.take(2), gaps.take(2), gaps.take(3), gaps.take(2), gaps.take(1)] == [
        5,
        9,
        0,
        18,
        None,
    ]


def test_neighbours_become_one_gap() -> None:
    gaps = Gaps(10)
    for _ in range(5):
        gaps.take(2)
    assert (gaps.longest, gaps.take(1)) == (0, None)
    for start in (0, 4, 2, 8, 6):
        gaps.release(start, start + 2)
    assert (gaps.longest, gaps.take(10)) == (10, 0)


def test_slots_beyond_the_capacity_do_not_come_back() -> None:
    gaps = Gaps(4, [(0, 8)])
    gaps.release(2, 8)
    assert gaps.longest == 2


@pytest.mark.parametrize("seed", range(5))
def test_free_and_used_slots_are_always_all_slots(seed: int) -> None:
    chance, gaps, capacity = random.Random(seed), Gaps(60), 60
    used: dict[int, int] = {}
    for _ in range(400):
        if used and chance.random() < 0.5:
            start = chance.choice([*used])
            gaps.release(start, start + used.pop(start))
        else:
            count = chance.randrange(1, 9)
            free = _runs({s for first in used for s in range(first, first + used[first])}, capacity)
            fits = [(length, start) for start, length in free if length >= count]
            found = gaps.take(count)
            assert found == (min(fits)[1] if fits else None)
            if found is not None:
                used[found] = count
        taken = {s for first in used for s in range(first, first + used[first])}
        assert gaps.longest == max((length for _, length in _runs(taken, capacity)), default=0)


def _runs(used: set[int], capacity: int) -> list[tuple[int, int]]:
    runs, start = [], 0
    for slot in range(capacity + 1):
        if slot in used or slot == capacity:
            if slot > start:
                runs.append((start, slot - start))
            start = slot + 1
    return runs
