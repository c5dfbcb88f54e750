"""Whether every wanted claim is made or refused, found piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain, islice

from mesh.core.feature import Want
from mesh.core.model import Claim, ClaimKey
from mesh.core.passes import Sliced
from mesh.core.table import Source, Table

#: Claims of one piece.
_PIECE = 256


class AllClaimed(Sliced):
    """Calls ``tell`` once, when every want has a claim or a reason why it gets none.

    When an input changes between two pieces, the look begins anew.
    """

    def __init__(
        self,
        wanted: Table[Want, bool],
        refused: Table[Want, str],
        held: Sequence[Table[ClaimKey, Claim]],
        tell: Callable[[], None],
    ) -> None:
        self._wanted, self._refused, self._held = wanted, refused, held
        self._tell = tell
        self._told = False
        self._anew = 0  # times that the look of this run began anew

    @property
    def doublings(self) -> int:
        """A look that changes overtake gets longer slices, else it might never end."""
        return self._anew

    def steps(self) -> Iterator[None]:
        self._anew = 0
        while not self._told:
            seen = self._revisions()
            missing = yield from self._missing(seen)
            if missing is None:
                self._anew += 1
            elif missing:
                return
            else:
                self._told = True
                self._tell()

    def _missing(self, seen: Sequence[int]) -> Generator[None, None, int | None]:
        """How many wants have neither; None when an input has changed meanwhile."""
        wanted, refused = self._wanted.rows, self._refused.rows
        count = sum(len(table.rows) for table in self._held)
        if len(wanted) > count + len(refused):
            return 1  # a first start claims for minutes: do not look at each claim after each claim
        missing = set(wanted)
        missing.difference_update(refused)
        claims = chain.from_iterable(list(table.rows.values()) for table in self._held)
        while some := list(islice(claims, _PIECE)):
            missing.difference_update([Want(one.noun, one.pool, one.owner) for one in some])
            yield
            if self._revisions() != seen:
                return None
        return len(missing)

    def _revisions(self) -> list[int]:
        tables: list[Source] = [self._wanted, self._refused, *self._held]
        return [table.revision for table in tables]
