"""Questions to the kernel: asked once, and again when an event may have changed the answer.

``Asking`` is the loop; what is asked, and which events concern it, a subclass says.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from mesh.core.table import Source, Table
from mesh.netlink import Event, Group, LinkEvent, Lost

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
A = TypeVar("A")

#: Seconds between looks at everything, in case an event was missed.
FULL_INTERVAL_S = 600.0
#: Seconds for which events are collected before a look.
COLLECT_S = 0.02
#: A look is followed by a pause of so many times its length, so that a storm of events takes at
#: most a twentieth of the loop; and of so many seconds at most.
PAUSE = 19
PAUSE_S = 5.0
#: Seconds until the kernel is asked again what it did not answer.
RETRY_S = 1.0
#: Events that are told apart; when there are more, one look at everything costs less.
EVENTS = 500
#: Keys whose answers are worked on in one step: about 1 ms.
SLICE = 256


class Events(Protocol):
    """The part of ``mesh/kernel.py`` that every question needs."""

    def events(self, *groups: Group) -> AsyncIterator[Event]:
        """Events for ever; ``Lost`` first and after every gap."""


class Asking(ABC, Generic[K, V, A]):
    """Keeps ``answers``, a row for each key that the kernel has answered.

    The keys follow from ``source``. Devices whose name starts with ``pods`` lead to pods of this
    node: whatever happens to those changes no answer.
    """

    groups: Sequence[Group]
    #: Whether nothing is asked before all keys are known.
    waits = True

    def __init__(self, kernel: Events, source: Source, answers: Table[K, V], pods: str) -> None:
        self._events_of = kernel
        self._source = source
        self._answers = answers
        self._pods = pods
        self._seen = -1
        self._keys: list[K] = []
        self._due: set[K] = set()
        self._events: set[Event] = set()
        self._links: dict[int, LinkEvent] = {}
        self._wake = asyncio.Event()

    @abstractmethod
    def listed(self) -> Iterable[K]:
        """Everything that there is to ask about, in the order that ``concerned`` wants."""

    @abstractmethod
    def concerned(self, events: Iterable[Event], keys: Sequence[K]) -> set[K]:
        """The keys whose answer may be another one after the events."""

    @abstractmethod
    async def ask(self, keys: Collection[K]) -> Mapping[K, A]:
        """The kernel's answers; keys that it did not answer are left out. Raises OSError."""

    @abstractmethod
    def new_rows(self, answers: Mapping[K, A]) -> dict[K, V]:
        """Rows that the answers change."""

    async def run(self) -> None:
        """Follow keys and kernel until cancelled."""
        self._source.listen(self._wake.set)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._look_for_ever())

    async def _follow(self) -> None:
        async for event in self._events_of.events(*self.groups):
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, Lost):
            self._links = {}
        if isinstance(event, LinkEvent) and not self._changed(event):
            return
        if len(self._events) >= EVENTS:
            self._events = {Lost()}
        self._events.add(event)
        self._wake.set()

    def _changed(self, event: LinkEvent) -> bool:
        """Whether a device differs from what was last said of it; counters change all the time."""
        if event.name.startswith(self._pods):
            return False
        before = self._links.pop(event.ifindex, None)
        if not event.gone:
            self._links[event.ifindex] = event
        return event != before

    async def _look_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        full_at = loop.time() + FULL_INTERVAL_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(full_at):
                    await self._wake.wait()
            await asyncio.sleep(COLLECT_S)
            self._wake.clear()
            if loop.time() >= full_at:
                self._events = {Lost()}
                full_at = loop.time() + FULL_INTERVAL_S
            if self._source.synced or not self.waits:
                await asyncio.sleep(await self._paced_look())

    async def _paced_look(self) -> float:
        """Look, and return how long to pause."""
        loop = asyncio.get_running_loop()
        started, events = loop.time(), self._events
        self._events = set()
        try:
            await self._look(events)
        except OSError as error:
            log.warning("event=kernel_not_asked table=%s reason=%s", self._answers.name, error)
        if self._due:
            self._wake.set()
            return RETRY_S
        if self._source.synced:
            self._answers.mark_synced()
        return min(PAUSE * (loop.time() - started), PAUSE_S)

    async def _look(self, events: Iterable[Event]) -> None:
        """Ask about new keys and about those that the events concern; raises OSError.

        The rows change in one step at the end, because each change is work for those who read them.
        """
        if self._seen != self._source.revision:
            self._seen = self._source.revision
            self._relist()
        changed = dict[K, V]()
        self._due |= self.concerned(events, self._keys)
        due = list(self._due)
        try:
            for at in range(0, len(due), SLICE):
                answers = await self.ask(due[at : at + SLICE])
                self._due.difference_update(answers)
                changed |= self.new_rows(answers)
        finally:
            self._answers.upsert(changed)

    def _relist(self) -> None:
        """The keys as they are now; rows of those that have gone go, too."""
        self._keys = list(self.listed())
        rows, listed = self._answers.rows, set(self._keys)
        self._due = (self._due & listed) | (listed - rows.keys())
        self._answers.delete(rows.keys() - listed)
