"""A case of the matrix, and the list that the modules of the RFCs fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mesh.lab.conformance.wire import Wire


class Level(StrEnum):
    """What the RFC says of a requirement."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


#: What runs on the wire. Returns a remark, or nothing; raises Failed or Impossible.
Run = Callable[[Wire], str | None]


@dataclass(frozen=True, slots=True)
class Case:
    """One requirement of an RFC, or a part of one; ``how`` says what is done and seen."""

    rfc: int
    requirement: str
    level: Level
    how: str
    run: Run
    slow: bool = False

    @property
    def id(self) -> str:
        """As people write it."""
        return f"{self.rfc} {self.requirement}"


class Cases:
    """The cases of one RFC, in the order in which they are written down."""

    def __init__(self, rfc: int) -> None:
        self.rfc = rfc
        self.all: list[Case] = []

    def case(
        self, requirement: str, level: Level, how: str, *, slow: bool = False
    ) -> Callable[[Run], Run]:
        """Put a function into the list."""

        def put(run: Run) -> Run:
            self.all.append(Case(self.rfc, requirement, level, how, run, slow))
            return run

        return put
