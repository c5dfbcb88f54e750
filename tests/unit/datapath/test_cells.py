"""Rows as entries of a map: a few, which are made one by one, and many, made by columns."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from bpf.maps import cells

ADDRESS = np.dtype([("w", ">u4", (4,))])
LAYOUT = np.dtype(
    [
        ("address", ADDRESS),
        ("port", ">u2"),
        ("kind", "u1"),
        ("mac", "u1", (6,)),
        ("segment", ADDRESS, (3,)),
    ]
)
PLAIN = np.dtype("u4")


def row(choose: random.Random) -> dict[str, object]:
    """Some of the fields; a nested one as its fields or as bytes."""
    words = [choose.randrange(1 << 32) for _ in range(4)]
    fields: dict[str, object] = {
        "address": choose.choice([{"w": words}, choose.randbytes(16)]),
        "port": choose.randrange(1 << 16),
        "kind": choose.choice([choose.randrange(256), True]),
        "mac": choose.choice([tuple(choose.randbytes(6)), np.zeros(6, "u1")]),
        "segment": [{"w": words}, choose.randbytes(16), {"w": [1, 2, 3, 4]}],
    }
    return {name: value for name, value in fields.items() if choose.random() < 0.8}


@pytest.mark.parametrize("seed", range(30))
def test_a_few_rows_become_the_entries_that_many_become(seed: int) -> None:
    choose = random.Random(seed)
    rows: list[Any] = [row(choose) for _ in range(20)]
    numbers: list[Any] = [choose.randrange(1 << 32) for _ in range(20)]
    for dtype, items in ((LAYOUT, rows), (PLAIN, numbers), (PLAIN, [b"abcd"] * 20)):
        many = cells(dtype, items)
        for count in range(7):
            few = cells(dtype, items[:count])
            assert few.dtype == many.dtype
            assert few.tobytes() == many[:count].tobytes()


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 1 << 16},
        {"port": -1},
        {"owner": 1},
        {"mac": [1, 2]},
        {"segment": [{"w": [1, 2, 3, 4]}]},
        {"mac": 1},
        {"address": {"w": [1]}},
        {"address": b"short"},
        b"short",
    ],
    ids=str,
)
def test_a_row_that_is_no_entry_is_refused_among_few_and_among_many(count: int, wrong: Any) -> None:
    with pytest.raises((KeyError, OverflowError, ValueError)):
        cells(LAYOUT, [wrong] * count)
