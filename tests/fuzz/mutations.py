"""Odd inputs made from right ones: bytes, JSON values and trees, by a seeded chance."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

#: What stands where something else is meant.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 1 << 40, 10**30, 0.5, 1e400, "", "\0", "a" * 300, "::1",
    "fe80::1%1", "10.0.0.0/33", "10.0.0.1/8", "::ffff:1.2.3.4", "0x10", "\u0661\u0662",
    "\u202e", "\ud800", "a/b", "..", [], [[]], [None], {}, {"": {}}, {"a": None}, ["a", "a"],
    "2026-02-30T25:00:00Z",
)  # fmt: skip


class Mutations:
    """Mutants of samples."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def tree(self, tree: Any) -> Any:
        """The tree with some of its nodes replaced, renamed, doubled or gone."""
        copy = json.loads(json.dumps(tree))
        for _ in range(self.chance.choice((1, 1, 1, 2, 4))):
            copy = self._mutated(copy)
        return copy

    def _mutated(self, tree: Any) -> Any:
        places = [(None, None), *_places(tree)]
        parent, key = self.chance.choice(places)
        odd = deepcopy(self.chance.choice(ODD))  # the next mutation may change a part of the tree
        if parent is None:
            return odd if self.chance.random() < 0.02 else tree
        match self.chance.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[f"{key}x"] = parent.pop(key)
            case 2 if isinstance(parent, list):
                parent.append(parent[key])
            case 3:
                other, at = self.chance.choice(places[1:])
                parent[key] = json.loads(json.dumps(other[at]))
            case _:
                parent[key] = odd
        return json.loads(json.dumps(tree, default=str))

    def json(self, tree: Any) -> bytes:
        """A mutant of a tree as JSON, itself sometimes torn."""
        return self.bytes(json.dumps(self.tree(tree)).encode(errors="surrogatepass"), rate=0.15)

    def bytes(self, sample: bytes, rate: float = 1.0) -> bytes:
        """The bytes with some of them changed, gone, or more."""
        chance, mutant = self.chance, bytearray(sample)
        if chance.random() > rate:
            return sample
        for _ in range(chance.randrange(1, 4)):
            at, more = chance.randrange(len(mutant) + 1), chance.randbytes(chance.randrange(5))
            match chance.randrange(4):
                case 0 if mutant:
                    mutant[at % len(mutant)] = chance.randrange(256)
                case 1:
                    del mutant[at : at + chance.randrange(20)]
                case 2:
                    mutant[at:at] = more
                case _:
                    mutant[at:at] = mutant[: chance.randrange(40)]
        return bytes(mutant)

    def one_of(self, samples: Sequence[Any]) -> Any:
        """One of the samples."""
        return self.chance.choice(samples)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting and len(found) < 2000:
        node = waiting.pop()
        keys: Any = ()
        if isinstance(node, dict):
            keys = node
        elif isinstance(node, list):
            keys = range(len(node))
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found
