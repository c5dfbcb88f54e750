"""The canaries come when every wanted claim is made or refused, however the look is cut."""

from __future__ import annotations

import random

import pytest

from clustermesh.store.complete import AllClaimed
from mesh.core.feature import Want
from mesh.core.model import Claim, ClaimKey
from mesh.core.table import Table


class Claims:
    def __init__(self) -> None:
        self.wanted: Table[Want, bool] = Table("wanted")
        self.refused: Table[Want, str] = Table("refused")
        self.held: Table[ClaimKey, Claim] = Table("held")
        self.told = 0
        self.look = AllClaimed(self.wanted, self.refused, [self.held], self._tell)

    def _tell(self) -> None:
        self.told += 1

    def want(self, number: int) -> Want:
        return Want("block", "a", f"n{number}/0")

    def claim(self, number: int) -> None:
        key = ClaimKey("block", "a", number)
        self.held.upsert({key: Claim("block", "a", number, f"n{number}/0", 1)})

    @property
    def complete(self) -> bool:
        """A look at everything."""
        made = {Want(one.noun, one.pool, one.owner) for one in self.held.rows.values()}
        return self.wanted.rows.keys() <= made | self.refused.rows.keys()

    def change(self, choose: random.Random, size: int) -> None:
        number, kind = choose.randrange(size), choose.randrange(4)
        if kind == 0:
            self.held.delete([ClaimKey("block", "a", number)])
        elif kind == 1:
            self.claim(number)
        elif kind == 2:
            self.refused.upsert({self.want(number): "full"})
        else:
            self.wanted.delete([self.want(number)])

    def run(self) -> int:
        """One run without a change in between; how often it was told so far."""
        for _ in self.look.steps():
            pass
        return self.told


@pytest.mark.parametrize("seed", range(40))
def test_it_is_told_once_and_only_when_nothing_is_missing(seed: int) -> None:
    """Inputs change between the pieces of a look."""
    choose, it = random.Random(seed), Claims()
    size = choose.choice([3, 700])
    it.wanted.upsert({it.want(number): True for number in range(size)})
    for number in range(size - choose.randrange(3)):
        it.claim(number)
    for _ in range(12):
        for _ in it.look.steps():
            if choose.random() < 0.5:
                it.change(choose, size)
        told, complete = it.told, it.complete
        assert it.run() == max(told, int(complete))
    it.wanted.upsert({it.want(size + 1): True})
    assert it.run() == it.told <= 1


def test_a_want_that_comes_during_a_look_is_looked_for() -> None:
    it = Claims()
    it.wanted.upsert({it.want(number): True for number in range(600)})
    for number in range(600):
        it.claim(number)
    steps = it.look.steps()
    next(steps)
    it.claim(601)
    it.wanted.upsert({it.want(600): True})
    for _ in steps:
        pass
    assert not it.told
    it.claim(600)
    assert it.run() == 1
