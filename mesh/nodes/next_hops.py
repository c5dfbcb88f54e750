"""The next hop to each node: asked once, and again when the kernel says that it may have changed.

``concerned`` is pure; ``NextHops`` keeps the table. A route that is away for a moment keeps the
next hop that it had (ARCHITECTURE.md D13), and an endpoint has a row only when the kernel has been
asked about it. Outer packets are IPv4, so IPv6 routes and neighbours concern no endpoint; an IPv4
route through an IPv6 neighbour has no next hop that ``mg_node`` could hold, and counts as away.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Protocol

from mesh.core.files import in_words
from mesh.core.model import Finding
from mesh.core.table import Source, Table
from mesh.netlink import Event, Group, LinkEvent, Lost, NeighbourEvent, RouteEvent
from mesh.nodes.findings import NO_WAY

log = logging.getLogger(__name__)

#: IPv6 groups are left out on purpose; addresses matter because IPv4 routes go silently with them.
GROUPS = (
    Group.LINK, Group.ADDRESS, Group.ROUTE, Group.RULE, Group.NEXT_HOP, Group.NEIGHBOUR,
)  # fmt: skip
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
#: Nodes without a way that a finding names.
_NAMED = 3
#: Endpoints whose answers are worked on in one step: about 1 ms.
SLICE = 256


class Kernel(Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    def events(self, *groups: Group) -> AsyncIterator[Event]:
        """Events for ever; ``Lost`` first and after every gap."""

    async def next_hops(
        self, addresses: Collection[IPv4Address]
    ) -> dict[IPv4Address, IPv4Address | OSError]:
        """Next hops, or errors, of the addresses that got an answer."""


def concerned(
    events: Iterable[Event],
    endpoints: Sequence[IPv4Address],
    hops: Mapping[IPv4Address, IPv4Address | None],
) -> set[IPv4Address]:
    """The endpoints whose next hop may be another one after the events.

    ``endpoints`` are in ascending order. A route concerns the endpoints inside its destination. A
    neighbour that failed concerns those behind it, because Linux may take another of several
    routes. Devices, addresses, rules and lost events concern all: IPv4 routes that go with their
    device or address go without an event of their own.
    """
    endpoints_concerned: set[IPv4Address] = set()
    failed: set[IPv4Address] = set()
    for event in events:
        if isinstance(event, RouteEvent):
            first = bisect_left(endpoints, int(event.prefix.network_address), key=int)
            last = bisect_right(endpoints, int(event.prefix.broadcast_address), key=int)
            endpoints_concerned.update(endpoints[first:last])
        elif isinstance(event, NeighbourEvent):
            failed.add(event.address)
        else:
            return set(endpoints)
    if failed:
        endpoints_concerned.update(address for address in endpoints if hops.get(address) in failed)
    return endpoints_concerned


class NextHops:
    """Keeps ``hops``: next hop by tunnel endpoint, None while no route has been seen.

    ``endpoints`` says all tunnel endpoints and follows from the table ``nodes``. Devices whose
    name starts with ``pods`` lead to pods of this node: whatever happens to those changes no route
    to a node.
    """

    def __init__(
        self,
        kernel: Kernel,
        nodes: Source,
        endpoints: Callable[[], Iterable[IPv4Address]],
        hops: Table[IPv4Address, IPv4Address | None],
        pods: str,
    ) -> None:
        self._kernel = kernel
        self._nodes = nodes
        self._list = endpoints
        self._hops = hops
        self._pods = pods
        #: Endpoints to which the kernel knows no way now, with its reason in words.
        self.away: dict[IPv4Address, str] = {}
        self._seen = -1
        self._endpoints: list[IPv4Address] = []
        self._due: set[IPv4Address] = set()
        self._events: set[Event] = set()
        self._links: dict[int, LinkEvent] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Follow nodes and kernel until cancelled."""
        self._nodes.listen(self._wake.set)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._look_for_ever())

    async def _follow(self) -> None:
        async for event in self._kernel.events(*GROUPS):
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
            if self._nodes.synced:
                await asyncio.sleep(await self._paced_look())

    async def _paced_look(self) -> float:
        """Look, and return how long to pause."""
        loop = asyncio.get_running_loop()
        started, events = loop.time(), self._events
        self._events = set()
        try:
            await self._look(events)
        except OSError as error:
            log.warning("event=next_hops_not_asked reason=%s", error)
        if self._due:
            self._wake.set()
            return RETRY_S
        self._hops.mark_synced()
        return min(PAUSE * (loop.time() - started), PAUSE_S)

    async def _look(self, events: Iterable[Event]) -> None:
        """Ask about new endpoints and about those that the events concern; raises OSError.

        The rows change in one step at the end, because each change is work for those who read them.
        """
        if self._seen != self._nodes.revision:
            self._seen = self._nodes.revision
            self._relist()
        rows, changed = self._hops.rows, dict[IPv4Address, IPv4Address | None]()
        self._due |= concerned(events, self._endpoints, rows)
        due = list(self._due)
        try:
            for at in range(0, len(due), SLICE):
                answers = await self._kernel.next_hops(due[at : at + SLICE])
                self._due.difference_update(answers)
                _say_what_failed(answers)
                self._note(answers)
                changed |= new_rows(answers, rows)
        finally:
            self._hops.upsert(changed)

    def _note(self, answers: Mapping[IPv4Address, IPv4Address | OSError]) -> None:
        for address, answer in answers.items():
            self.away.pop(address, None)
            if isinstance(answer, OSError):
                self.away[address] = in_words(answer)

    def findings(self, node: str) -> Iterable[Finding]:
        """The nodes that this one has no way to, in one finding."""
        if not self.away:
            return
        first = sorted(self.away, key=int)[:_NAMED]
        named = ", ".join(f"{address} ({self.away[address]})" for address in first)
        more = f" and {len(self.away) - len(first)} more" if len(self.away) > len(first) else ""
        text = (
            f"this host has no route to the nodes at {named}{more}: what is for their pods goes to "
            "the next hop that they had, or is dropped (160); add the routes"
        )
        yield Finding(NO_WAY, f"{node}/agent", "next hop", text, (f"node/{node}",))

    def _relist(self) -> None:
        """The endpoints as they are now; rows of those that have gone go, too."""
        rows, listed = self._hops.rows, set(self._list())
        self._endpoints = sorted(listed, key=int)
        self._due = (self._due & listed) | (listed - rows.keys())
        self._hops.delete(rows.keys() - listed)
        self.away = {address: why for address, why in self.away.items() if address in listed}


def new_rows(
    answers: Mapping[IPv4Address, IPv4Address | OSError],
    hops: Mapping[IPv4Address, IPv4Address | None],
) -> dict[IPv4Address, IPv4Address | None]:
    """Rows that the answers change: a route that is away keeps the next hop that it had."""
    rows = {
        address: hops.get(address) if isinstance(answer, OSError) else answer
        for address, answer in answers.items()
    }
    return {a: hop for a, hop in rows.items() if a not in hops or hops[a] != hop}


def _say_what_failed(answers: Mapping[IPv4Address, IPv4Address | OSError]) -> None:
    failed = [answer for answer in answers.values() if isinstance(answer, OSError)]
    if failed:
        log.warning("event=no_next_hop nodes=%s first=%s", len(failed), failed[0])
