"""Which rows of a column table fit: kept up to date, it is what one pass over all rows gives."""

import random

import numpy as np
import numpy.typing as npt
import pytest

from mesh.core.limits import ColumnChoice

Slots = npt.NDArray[np.int64]
SLOTS, CAPACITY = 60, 12


class Model:
    """Slots with ranks; ``out`` are those that do not fit."""

    def __init__(self, seed: int, ranks: int) -> None:
        self.choose = random.Random(seed)
        self.ranks = ranks
        self.rows = {slot: self.choose.randrange(ranks) for slot in range(30)}
        self.out = np.zeros(SLOTS, bool)
        self.new: set[int] = set()
        self.anew()

    def anew(self) -> None:
        """By rank, those inside first."""
        order = sorted(self.rows, key=lambda slot: (self.rows[slot], self.out[slot], slot))
        self.out[:] = False
        self.out[order[CAPACITY:]] = True
        slots = np.array(sorted(self.rows), np.int64)
        self.choice = ColumnChoice(slots, self.ranks_of(slots), self.out)

    def ranks_of(self, slots: Slots) -> Slots:
        return np.array([self.rows[slot] for slot in slots.tolist()], np.int64)

    def change(self) -> tuple[set[int], set[int]] | None:
        """Some rows go, some come, some change: the slots that came in and went out."""
        for slot in self.choose.sample(sorted(self.rows), self.choose.randrange(3)):
            del self.rows[slot]
            self.choice.remove(slot, out=bool(self.out[slot]))
            self.out[slot] = False
        free = [slot for slot in range(SLOTS) if slot not in self.rows]
        new = self.choose.sample(free, min(len(free), self.choose.randrange(3)))
        self.new = set(new)
        self.rows.update({slot: self.choose.randrange(self.ranks) for slot in new})
        same = self.choose.sample(sorted(self.rows), 2)
        if self.choose.random() < 0.1:
            self.rows[same[0]] = self.choose.randrange(self.ranks)
        slots = np.array(sorted({*new, *same}), np.int64)
        swapped = self.choice.put(slots, self.ranks_of(slots), self.out)
        return None if swapped is None else (set(swapped[0]), set(swapped[1]))

    def check(self) -> None:
        inside = sorted(rank for slot, rank in self.rows.items() if not self.out[slot])
        assert inside == sorted(self.rows.values())[:CAPACITY]
        assert self.choice.left == len(self.rows) - len(inside)


@pytest.mark.parametrize("ranks", [1, 4, 1000])
@pytest.mark.parametrize("seed", range(20))
def test_the_lowest_ranks_fit_after_every_change(seed: int, ranks: int) -> None:
    it = Model(seed, ranks)
    known = 0
    for _ in range(200):
        if len(it.rows) <= CAPACITY + 3:
            break
        before, had = it.out.copy(), dict(it.rows)
        swapped = it.change()
        kept = {slot for slot in had if slot in it.rows} - it.new
        if swapped is None:
            assert all(it.out[slot] == before[slot] for slot in kept), "as if nothing was tried"
            it.anew()
        else:
            known += 1
            came, went = swapped
            assert {slot for slot in kept if before[slot] and not it.out[slot]} <= came
            assert {slot for slot in kept if it.out[slot] and not before[slot]} <= went
        it.check()
    assert known or ranks == 1000


def test_equal_ranks_keep_their_places() -> None:
    it = Model(1, 1)
    inside = ~it.out.copy()
    slots = np.array([40, 41], np.int64)
    it.rows.update({40: 0, 41: 0})
    assert it.choice.put(slots, it.ranks_of(slots), it.out) == ([], [])
    assert it.out[slots].all()
    assert (~it.out)[:30].tolist() == inside[:30].tolist()
