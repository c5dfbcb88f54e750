"""Clusters are judged side by side, each in pieces and each at its own cost.

A *lane* is the run of one cluster: its changes are judged and then written into the tables. Lanes
take turns after each piece, so a small change waits for no large one. A cluster that changes all
the time uses up its savings; then it goes at a slower pace, and no other cluster does. Changes that
come meanwhile are kept by key (``importer.py``), so the next run judges the last value of each.

The clusters of a list are judged one after the other, because the first one in a list keeps a
prefix that two of them claim; a list costs no cluster anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from clustermesh.findings import NOT_TAKEN, TOO_FAST
from clustermesh.remote import wire
from clustermesh.remote.changes import Draft
from clustermesh.remote.importer import Imports
from mesh.core.findings import Code
from mesh.core.model import Finding

log = logging.getLogger(__name__)

#: CPU seconds that a cluster may use: saved up at most, and the part of each second.
SAVED_S, SHARE = 10.0, 0.1
#: Runs that a cluster may have: saved up at most, and per second.
SAVED_RUNS, RUNS = 500.0, 100.0
#: CPU seconds after which a pass ends and targets look at the tables, although more waits; and
#: seconds until the next one: a change needs several turns of the event loop to arrive.
PASS_S, PAUSE_S = 0.002, 0.004
#: Changed addresses of a run that wait to be written: a cluster has up to 131,072.
COLLECTED = 4096
#: Seconds for which a cluster that was too fast is shown.
SHOWN_S = 30.0

#: Writes the changes of a run of a cluster, in pieces.
Write = Callable[[str, Draft], Iterator[None]]


class Pace:
    """The savings of one cluster, by a clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.cpu_s, self.runs = SAVED_S, SAVED_RUNS
        self._clock = clock
        self._at = clock()

    def _save(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        self.cpu_s = min(self.cpu_s + passed * SHARE, SAVED_S)
        self.runs = min(self.runs + passed * RUNS, SAVED_RUNS)

    def charge(self, cpu_s: float, runs: int = 0) -> None:
        """Something was used."""
        self.cpu_s -= cpu_s
        self.runs -= runs

    def wait_s(self, *, begins: bool) -> float:
        """Seconds until the next piece, or until a run begins; 0: now."""
        self._save()
        runs = (1 - self.runs) / RUNS if begins else 0.0
        return max(-self.cpu_s / SHARE, runs, 0.0)

    @property
    def is_full(self) -> bool:
        """Whether nothing was used for long."""
        self._save()
        return self.cpu_s == SAVED_S and self.runs == SAVED_RUNS


@dataclass(slots=True)
class _Lane:
    """A run that has begun; ``lists``: a list is complete when it has ended.

    ``free``: not the cluster is the cause of it, but a list or another contract.
    """

    cluster: str
    pieces: Iterator[None]
    lists: bool
    free: bool


class Lanes:
    """The runs of all clusters of ``imports``; ``write`` puts the changes of one into tables."""

    def __init__(
        self,
        imports: Imports,
        write: Write,
        cpu: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._imports = imports
        self._write = write
        self._cpu, self._clock = cpu, clock
        self._lanes: dict[str, _Lane] = {}
        self._paces: dict[str, Pace] = {}
        self._listing: set[str] = set()  # clusters of a list whose run has not begun
        self._slow: dict[str, float] = {}  # when a cluster was last too fast
        self._mistakes: dict[str, str] = {}

    def list_told(self) -> None:
        """A list is complete: clusters that wait now are judged in its order."""
        self._listing.update(self._imports.waiting)

    @property
    def lists(self) -> bool:
        """Whether a part of a list is yet to be judged."""
        return bool(self._listing) or any(lane.lists for lane in self._lanes.values())

    @property
    def wait_s(self) -> float | None:
        """Seconds until something may be judged; None: nothing waits."""
        waits = [self._wait_s(name) for name in {**self._lanes, **self._imports.waiting}]
        return min(waits, default=None)

    def steps(self, *, rests: bool) -> Iterator[None]:
        """Judge clusters whose turn it is; with ``rests`` only as much as fits into a pass."""
        end = self._cpu() + PASS_S
        while lane := self._next() or self._next_after():
            self._advance(lane)
            arrives = lane.cluster not in self._lanes and bool(self._lanes)
            if rests and not self.lists and (arrives or self._cpu() > end):
                return  # others wait to see these changes, not the lanes that go on
            yield

    def findings(self) -> dict[str, Finding]:
        """Clusters that are too fast, or that meet a mistake of ours, by a name of the finding."""
        found = {}
        for name, at in list(self._slow.items()):
            if self._clock() - at > SHOWN_S:
                del self._slow[name]
                continue
            text = f"more than {SHARE:.0%} of a core's time: its changes wait"
            found[f"pace {name}"] = _finding(TOO_FAST, name, text)
        for name, text in self._mistakes.items():
            found[f"mistake {name}"] = _finding(NOT_TAKEN, name, text)
        return found

    def _wait_s(self, name: str) -> float:
        lane = self._lanes.get(name)
        if lane.free if lane else name in self._listing or self._imports.by_contract(name):
            return 0.0
        return self._pace(name).wait_s(begins=name not in self._lanes)

    def _pace(self, name: str) -> Pace:
        return self._paces.setdefault(name, Pace(self._clock))

    def _next(self) -> _Lane | None:
        """The lane whose turn it is."""
        for name in self._candidates():
            wait_s = self._wait_s(name)
            if wait_s <= 0:
                return self._lanes.get(name) or self._begin(name)
            if self._pace(name).cpu_s < 0:
                self._slow[name] = self._clock()
        return None

    def _next_after(self) -> _Lane | None:
        """Likewise, after a look for keys that wait for an address that is free by now."""
        self._imports.follow_up()
        return self._next()

    def _candidates(self) -> Iterable[str]:
        if self.lists:
            return [n for n, lane in self._lanes.items() if lane.lists] or self._first_listed()
        new = (name for name in self._imports.waiting if name not in self._lanes)
        return [*new, *self._lanes]

    def _first_listed(self) -> list[str]:
        self._listing &= self._imports.waiting.keys()
        first = (name for name in self._imports.waiting if name in self._listing)
        return [name for name in (next(first, None),) if name is not None]

    def _begin(self, name: str) -> _Lane:
        lists = name in self._listing
        free = lists or self._imports.by_contract(name)
        self._listing.discard(name)
        lane = self._lanes[name] = _Lane(name, iter(()), lists, free)
        lane.pieces = self._run(lane)
        self._pace(name).charge(0, 0 if free else 1)
        return lane

    def _run(self, lane: _Lane) -> Iterator[None]:
        draft, name = Draft(), lane.cluster
        for _ in self._imports.settling(name, draft):
            if len(draft.addresses) >= COLLECTED and self._imports.may_be_written(name):
                yield from self._write(name, draft.take())
            yield
        yield from self._write(name, draft)

    def _advance(self, lane: _Lane) -> None:
        """One piece; the lane then stands behind the others."""
        del self._lanes[lane.cluster]
        began, name = self._cpu(), lane.cluster
        try:
            next(lane.pieces)
            self._lanes[name] = lane
        except StopIteration:
            self._mistakes.pop(name, None)
        except Exception as error:  # of this cluster, whichever key it was
            log.exception("event=cluster_not_judged cluster=%s", wire.plain(name))
            self._mistakes[name] = repr(error)
        if not lane.free:
            self._pace(name).charge(self._cpu() - began)
        if name not in self._lanes and self._pace(name).is_full:
            del self._paces[name]


def _finding(code: Code, cluster: str, text: str) -> Finding:
    name = wire.plain(cluster)
    return Finding(
        code, f"cilium/cache/*/v1/{name}/", "keys", wire.plain(text), (f"cluster/{name}",)
    )
