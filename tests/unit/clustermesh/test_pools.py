"""Numbers of a pool: the same choice as a search through everything, at a cost that stays."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import overload

import pytest

from clustermesh.store.allocator import REST_S, _Pool
from clustermesh.store.claims import Record
from mesh.core.model import ClaimKey


class Counted(Sequence[int]):
    """Candidates that count how many of them were looked at."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self.looks = 0

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[int]: ...
    def __getitem__(self, at: int | slice) -> int | Sequence[int]:
        self.looks += 1
        return self._numbers[at]

    def __len__(self) -> int:
        return len(self._numbers)


def record(number: int, owner: str, released: int = 0) -> Record:
    return Record(ClaimKey("block", "p", number), owner, 1, released)


def everything(pool: _Pool, candidates: Sequence[int], now: float) -> Iterator[int]:
    """The free numbers, by looking at all."""
    for number in candidates:
        row = pool.numbers.get(number)
        if number not in pool.unreadable and (
            row is None or (row.released and now - row.released >= REST_S)
        ):
            yield number


def test_one_more_claim_looks_at_few_numbers_however_many_are_held() -> None:
    pool, candidates = _Pool(), Counted(range(65_536))
    for number in range(50_000):
        pool.learn(record(number, f"owner-{number}"))
    assert next(pool.free(candidates, 0)) == 50_000
    candidates.looks = 0
    for number in range(50_000, 50_100):
        assert next(pool.free(candidates, 0)) == number
        pool.learn(record(number, f"owner-{number}"))
    assert candidates.looks <= 500


@pytest.mark.parametrize("seed", range(30))
def test_free_and_former_are_those_of_a_search_through_everything(seed: int) -> None:
    """Random claims, releases, foreign and unreadable keys, lists that change."""
    rng, pool, now = random.Random(seed), _Pool(), 1000
    lists: list[Sequence[int]] = [range(40), range(5, 30), rng.sample(range(40), 40), range(40)]
    for _ in range(300):
        candidates = lists[rng.choice([0, 0, 0, 1, 2, 3])]
        free = list(everything(pool, candidates, now))
        some = rng.randrange(1, 41)
        assert [n for n, _ in zip(pool.free(candidates, now), range(some), strict=False)] == (
            free[:some]
        )
        former = {r.owner: r.key.number for r in pool.numbers.values() if r.released}
        owners = rng.sample([f"o{n}" for n in range(40)], 10)
        assert pool.former(owners, range(100)) == {o: former[o] for o in owners if o in former}
        match rng.randrange(6):
            case 0 | 1 if free:
                number = rng.choice([free[0], rng.choice(free)])
                pool.learn(record(number, f"o{rng.randrange(40)}"))
            case 2 if pool.numbers:
                number = rng.choice(list(pool.numbers))
                pool.learn(record(number, pool.numbers[number].owner, now))
            case 3:
                pool.forget(rng.randrange(50))
            case 4:
                pool.unreadable.add(rng.randrange(50)) if rng.random() < 0.1 else None
            case _:
                now += rng.randrange(REST_S)
