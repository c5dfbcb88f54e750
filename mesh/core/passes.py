"""Derivations of one process: when they run, in slices, and what they cost.

A *pass* runs every derivation whose inputs changed, in the order in which they were added, until
none is left. Long work rests after about 5 ms of CPU so that sockets, watches and renewals are
served; inputs may change meanwhile. After each rest the pass looks from the top again: the
derivations above run first when their inputs changed, and the one that rested makes again what the
changes touch. So at its end everything fits together as if it had run at once.

A derivation that raises ends nothing but itself. What it has made so far stays, and the tables that
it makes count as not synced (``Source.hold``) until it has run to its end again, which is tried
when its inputs change.

``Gate`` is for targets: they look at tables only at the end of a pass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mesh.core.table import Source

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds of CPU after which work rests.
SLICE_S = 0.005
#: Work that its own inputs overtake again and again gets longer slices, this many times doubled.
_MAX_DOUBLINGS = 8


class Gate:
    """Calls who wants to see the tables, one after the other, while nothing is to be derived."""

    def __init__(self) -> None:
        self.open = True
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    async def look(self, take: Callable[[], T]) -> T:
        """The result of ``take``, called while the tables fit together."""
        if self.open:
            return take()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((take, future))
        return await future

    def close(self) -> None:
        """Something is to be derived."""
        self.open = False

    def serve(self, turn: Turn) -> None:
        """Call those who wait, at least the first one: so each gets a turn under any load."""
        while self._waiting:
            take, future = self._waiting.popleft()
            if future.done():  # cancelled
                continue
            try:
                future.set_result(take())
            except Exception as error:  # noqa: BLE001 - belongs to the one who waits
                future.set_exception(error)
            turn.read()
            if turn.spent:
                return


class Turn:
    """The CPU time since the event loop was last served.

    A reading of the CPU clock is a system call of about 1 µs: the reading at the end of one
    derivation is the beginning of the next.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = 0.0  # the last reading
        self._clock = clock
        self._end = 0.0

    def read(self) -> float:
        """A new reading."""
        self.now = self._clock()
        return self.now

    def begin(self) -> None:
        """The event loop has been served."""
        self._end = self.read() + SLICE_S

    @property
    def spent(self) -> bool:
        """Whether it was time to rest at the last reading."""
        return self.now >= self._end

    def end_of_slice(self, doublings: int) -> float:
        """Until when one derivation may go on; those above leave it half a slice at least."""
        longest = SLICE_S * (1 << min(doublings, _MAX_DOUBLINGS))
        return max(self._end - SLICE_S + longest, self.now + longest / 2)


@dataclass(slots=True)
class Cost:
    """What a derivation has cost since the start."""

    name: str
    runs: int = 0
    groups: int = 0
    rows: int = 0
    cpu_s: float = 0.0
    dearest_s: float = 0.0  # CPU of its dearest run, all slices


class Sliced:
    """What a derivation does: ``steps`` is one run, piece by piece; the last piece writes."""

    #: Groups that the current or last run has made, and rows that it has written.
    groups = 0
    rows = 0
    #: What is known to be made by it, before it has made anything.
    makes: Sequence[Source] = ()

    @property
    def failures(self) -> Mapping[Any, Exception]:
        """Parts that could not be made, while the others were."""
        return {}

    @property
    def doublings(self) -> int:
        """How often the current run has been overtaken by its inputs as a whole."""
        return 0

    def steps(self) -> Iterator[None]:
        """Pieces of one run."""
        raise NotImplementedError

    def again(self) -> None:
        """The event loop was served between two pieces: inputs may have changed."""


class Whole(Sliced):
    """A function over whole tables: one piece."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run

    def steps(self) -> Iterator[None]:
        self._run()
        return iter(())


class Derivation:
    """Work that is due when one of its inputs has changed."""

    def __init__(self, name: str, inputs: Sequence[Source], work: Sliced) -> None:
        self.cost = Cost(name)
        self.due = True
        #: Why parts of it, or all of it (``None``), could not be made.
        self.failures: Mapping[Any, Exception] = {}
        self._makes: set[Source] = set(work.makes)
        self._inputs = inputs
        self._work = work
        self._steps: Iterator[None] | None = None
        self._rested = False
        self._run_s = 0.0

    @property
    def pending(self) -> bool:
        """Whether there is something to do."""
        return self.due or self._steps is not None

    def advance(self, turn: Turn | None) -> bool:
        """Go on until the work is done or, with ``turn``, until it is time to rest: False."""
        if self._steps is None and not (self.due and self._ready()):
            return True
        began = turn.now if turn else time.thread_time()
        noted, Source.noted = Source.noted, self._makes
        try:
            return self._advance(turn)
        except Exception as error:  # noqa: BLE001 - becomes a finding with the derivation's name
            self._steps = None
            self._settle({None: error})
            return True
        finally:
            Source.noted = noted
            self._run_s += (turn.read() if turn else time.thread_time()) - began
            if self._steps is None:
                self._note()

    def _ready(self) -> bool:
        self.due = False
        return all(source.synced for source in self._inputs)

    def _advance(self, turn: Turn | None) -> bool:
        self.due = False
        if self._steps is None:
            self._steps = iter(self._work.steps())
        elif self._rested:
            self._work.again()
        self._rested = False
        end = turn.end_of_slice(self._work.doublings) if turn else 0.0
        for _ in self._steps:
            if turn and turn.read() >= end:
                self._rested = True
                return False
        self._steps = None
        self._settle(self._work.failures)
        return True

    def _settle(self, failures: Mapping[Any, Exception]) -> None:
        """Note what has failed; what is made counts as not synced as long as something has."""
        for part, error in failures.items():
            if self.failures.get(part) is not error:
                name, traceback = self.cost.name, error.__traceback__
                text = "event=not_derived name=%s part=%.200r"
                log.error(text, name, part, exc_info=(type(error), error, traceback))
        self.failures = {part: error.with_traceback(None) for part, error in failures.items()}
        for source in self._makes:
            source.hold(self) if failures else source.release(self)

    def _note(self) -> None:
        cost = self.cost
        cost.runs += 1
        cost.groups += self._work.groups
        cost.rows += self._work.rows
        cost.cpu_s += self._run_s
        cost.dearest_s = max(cost.dearest_s, self._run_s)
        self._run_s = 0.0


class Passes:
    """All derivations of a process, in order."""

    def __init__(self, gate: Gate, clock: Callable[[], float]) -> None:
        self.gate = gate
        self.all: list[Derivation] = []
        self.turn = Turn(clock)
        self._pending: set[int] = set()  # places in ``all``
        self._changed = asyncio.Event()

    def add(
        self, name: str, inputs: Sequence[Source], also: Sequence[Source], work: Sliced
    ) -> None:
        """Run ``work`` after the ones added before it, when inputs changed and all are synced.

        ``also`` are inputs that need not be synced.
        """
        touch = partial(self._touch, len(self.all))
        self.all.append(Derivation(name, inputs, work))
        for source in dict.fromkeys((*inputs, *also)):
            source.listen(touch)
        touch()

    def _touch(self, at: int) -> None:
        """An input of a derivation has changed."""
        self.all[at].due = True
        self._pending.add(at)
        self.gate.close()
        self._changed.set()

    def once(self) -> None:
        """One pass to its end, without rests. Raises what a derivation has met."""
        self._changed.clear()
        for at in range(len(self.all)):
            self._advance(at, None)
        for one in self.all:
            for error in one.failures.values():
                raise error
        self.gate.open = not self._pending
        while self.gate.open and self.gate.waited_for:
            self.gate.serve(self.turn)

    async def run(self) -> None:
        """Passes for ever."""
        while True:
            self._changed.clear()
            while self._pending:  # again when a derivation has written what one above reads
                await self._pass()
            self.gate.open = True
            while self.gate.open and self.gate.waited_for:
                self.gate.serve(self.turn)
                await self._rest()
            await self._changed.wait()
            self.turn.begin()

    async def _pass(self) -> None:
        """Run what is due; after each rest from the top, but no rest before something is new."""
        start = reached = 0
        while (at := self._next(start)) is not None:
            done = self._advance(at, self.turn)
            start = at + done
            if not done or (start > reached and self.turn.spent and self._pending):
                reached = max(reached, start)
                await self._rest()
                start = 0

    def _next(self, start: int) -> int | None:
        """The first place from ``start`` on where there is something to do."""
        return min((at for at in self._pending if at >= start), default=None)

    def _advance(self, at: int, turn: Turn | None) -> bool:
        done = self.all[at].advance(turn)
        if not self.all[at].pending:
            self._pending.discard(at)
        return done

    async def _rest(self) -> None:
        await asyncio.sleep(0)
        self.turn.begin()
