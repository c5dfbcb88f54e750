"""Where the backends of services stand in ``mg_backend_addr``. No I/O.

A client reads the entry of a service address and then one slot. So the slots must be right before
the entry leads to them, and as long as it does. Backends therefore stand in a *region*, slots in a
row: equal backends share one region, other backends get another one, and a region that no service
address needs any more rests until no entry in the map leads to it. ``Slots`` is told what the map
holds (``writing``, ``written``, ``removed``, ``found``), so one entry that cannot be written keeps
its own old region and no other.

When the map is full, a service address gets the backends that fit. One that has a region for
itself keeps the slots, and its present backends are written into them. One without any slot is
refused (D15). All of them are placed again when slots become free.

A change costs the service addresses that it concerns, not the size of the map.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice

from mesh.services.backends import BackendAddress, ServiceAddress
from mesh.services.gaps import Gaps

Content = tuple[BackendAddress, ...]

#: Service addresses that one ``retry`` tries to place.
RETRIES = 64


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Value of ``mg_service_addr``: slots ``first`` to ``first + count - 1``; none: refused."""

    first: int
    count: int


#: The row of a service address that has no backends.
NO_SLOTS = SlotRange(0, 0)


@dataclass(slots=True, eq=False)
class _Region:
    """``users`` are service addresses that want it, ``entries`` those in the map that lead to it.

    An entry counts twice while it is being written a second time. ``adopted``: read back from the
    maps, and not yet among the rows to write.
    """

    row: SlotRange
    content: Content
    users: set[ServiceAddress] = field(default_factory=set)
    entries: int = 0
    adopted: bool = False

    @property
    def slots(self) -> range:
        return range(self.row.first, self.row.first + self.row.count)


@dataclass(slots=True)
class Writes:
    """Rows of both tables that changed, and keys that are gone."""

    services: dict[ServiceAddress, SlotRange] = field(default_factory=dict)
    gone: dict[ServiceAddress, None] = field(default_factory=dict)
    backends: dict[int, BackendAddress] = field(default_factory=dict)
    freed: dict[int, None] = field(default_factory=dict)


class Slots:
    """The slots of one map with ``capacity`` entries."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        #: Service addresses whose slots are not as they should be, with the backends that they
        #: want; the longest untried first.
        self.short: dict[ServiceAddress, Content] = {}
        #: Those of them that lack a backend; the others have one twice.
        self.lacking: set[ServiceAddress] = set()
        self._gaps = Gaps(capacity)
        self._regions: dict[int, _Region] = {}  # by first slot
        self._by_content: dict[Content, _Region] = {}
        self._of: dict[ServiceAddress, _Region | None] = {}
        self._entries: dict[ServiceAddress, tuple[_Region, ...]] = {}  # what is in the map
        self._idle: dict[int, _Region] = {}  # by first slot: nothing leads there
        self._writes = Writes()
        self._untried = 0  # how many that are short have not been tried since slots became free
        self._again: dict[ServiceAddress, None] = {}  # short, and their region has changed
        self._needed = 0

    # The state of the last process

    def adopt(self, rows: Iterable[SlotRange], backends: Mapping[int, BackendAddress]) -> None:
        """Take over regions; ``rows`` are in the order of their slots."""
        end = 0
        for row in rows:
            whole = range(row.first, row.first + row.count)
            if (
                row.first >= end
                and whole.stop <= self.capacity
                and all(s in backends for s in whole)
            ):
                end = whole.stop
                content = tuple(backends[slot] for slot in whole)
                region = _Region(row, content, adopted=True)
                self._regions[row.first] = region
                self._by_content.setdefault(region.content, region)
        used = ((one.slots.start, one.slots.stop) for one in self._regions.values())
        self._gaps = Gaps(self.capacity, used)

    def adopt_service(self, ask: ServiceAddress, row: SlotRange) -> None:
        """Take over a service address that has one of these regions, or none."""
        region = self._regions.get(row.first) if row.count else None
        if not row.count or (region and region.row == row):
            self._of[ask] = region
            self._join(ask, region)

    # What services want

    def place(self, ask: ServiceAddress, wanted: Content) -> None:
        """Give a service address the backends that it wants, or those of them that fit."""
        before = self._of.get(ask)
        region = self._region(ask, before, wanted) if wanted else None
        self._forget_short(ask)
        if region and region.adopted:
            self._publish(region, wanted)
        if wanted and (region is None or region.content != wanted):
            self.short[ask] = wanted
            if region is None or not {*wanted} <= {*region.content}:
                self.lacking.add(ask)
        if ask not in self._of or region is not before:
            self._move(ask, before, region)

    def remove(self, ask: ServiceAddress) -> None:
        """A service address is no longer there."""
        self._forget_short(ask)
        if ask in self._of:
            self._leave(ask, self._of.pop(ask))
            self._writes.services.pop(ask, None)
            self._writes.gone[ask] = None

    def _forget_short(self, ask: ServiceAddress) -> None:
        self.short.pop(ask, None)
        self.lacking.discard(ask)

    def retry(self) -> bool:
        """Try some that are short, after something changed; whether others are to be tried, too.

        A call tries few of them, because a full map may have thousands.
        """
        for ask in self._next():
            if ask in self.short:
                self.place(ask, self.short[ask])
        if not self._gaps.longest:
            self._untried = 0
        return bool(self._again) or self._untried > 0

    def _next(self) -> list[ServiceAddress]:
        again = list(islice(self._again, RETRIES))
        for ask in again:
            del self._again[ask]
        count = min(self._untried, RETRIES)
        self._untried -= count
        return [*again, *islice(self.short, count)]

    def free(self) -> None:
        """Give back the slots of regions to which nothing leads."""
        for region in self._idle.values():
            if not (region.users or region.entries):
                self._forget(region)
                self._untried = len(self.short)
        self._idle.clear()

    def take_writes(self) -> Writes:
        """What changed since the last call."""
        writes, self._writes = self._writes, Writes()
        return writes

    def _region(
        self, ask: ServiceAddress, before: _Region | None, wanted: Content
    ) -> _Region | None:
        known = self._by_content.get(wanted)
        if known:
            return known
        if len(wanted) <= self._gaps.longest:
            return self._new(wanted)
        return self._part(ask, before, wanted)

    def _part(self, ask: ServiceAddress, before: _Region | None, wanted: Content) -> _Region | None:
        """Where the most of the wanted backends fit."""
        part = wanted[: self._gaps.longest]
        if before is None:
            return (self._by_content.get(part) or self._new(part)) if part else None
        alone = self._agreed(before, ask, wanted)
        kept = before.row.count if alone else len({*before.content} & {*wanted})
        if len(part) > kept:
            return self._by_content.get(part) or self._new(part)
        if alone and self._rewrite(before, wanted):
            self._again.update(dict.fromkeys((before.users & self.short.keys()) - {ask}))
        return before

    def _agreed(self, region: _Region, ask: ServiceAddress, wanted: Content) -> bool:
        """Whether all that use the region want the same, and the map leads nobody else there."""
        entries = self._entries
        leads = sum(one is region for user in region.users for one in entries.get(user, ()))
        others = (user for user in region.users if user != ask)
        return leads == region.entries and all(self.short.get(one) == wanted for one in others)

    def _rewrite(self, region: _Region, wanted: Content) -> bool:
        """Other backends of the same service address in the same slots; whether they differ.

        A client that reads meanwhile gets a backend of now or of before. When there are fewer
        backends than slots, some stand there twice, because the entry still leads to all slots.
        """
        content = tuple(islice(cycle(wanted), region.row.count))
        if content == region.content:
            return False
        if self._by_content.get(region.content) is region:
            del self._by_content[region.content]
        region.content = content
        self._by_content.setdefault(content, region)
        self._fill(region)
        return True

    def _publish(self, region: _Region, content: Content) -> None:
        """Write an adopted region, with the objects of ``content`` if they are equal to its own.

        The objects that were made of map entries go: those of the service are the same, and stay.
        """
        region.adopted = False
        if content == region.content:
            if self._by_content.get(content) is region:
                del self._by_content[content]
                self._by_content[content] = region
            region.content = content
        self._fill(region)

    def _new(self, content: Content) -> _Region:
        first = self._gaps.take(len(content))
        if first is None:
            raise ValueError(f"no gap has {len(content)} slots")
        region = _Region(SlotRange(first, len(content)), content)
        self._regions[first] = region
        self._by_content[content] = region
        self._fill(region)
        return region

    def _fill(self, region: _Region) -> None:
        for slot, backend in zip(region.slots, region.content, strict=True):
            self._writes.freed.pop(slot, None)
            self._writes.backends[slot] = backend

    def _move(self, ask: ServiceAddress, before: _Region | None, now: _Region | None) -> None:
        self._of[ask] = now
        self._join(ask, now)
        self._leave(ask, before)
        self._writes.gone.pop(ask, None)
        self._writes.services[ask] = now.row if now else NO_SLOTS

    def _join(self, ask: ServiceAddress, region: _Region | None) -> None:
        if region:
            self._needed += 0 if region.users else region.row.count
            region.users.add(ask)

    def _leave(self, ask: ServiceAddress, region: _Region | None) -> None:
        if region:
            region.users.remove(ask)
            if region.adopted:
                self._publish(region, region.content)
            self._needed -= 0 if region.users else region.row.count
            self._rest(region)

    def _rest(self, region: _Region) -> None:
        """One leads there no longer: the slots may be free, or others may use them alone."""
        if not (region.users or region.entries):
            self._idle[region.row.first] = region
        elif self.short:
            self._again.update(dict.fromkeys(region.users & self.short.keys()))

    def _forget(self, region: _Region) -> None:
        first, count = region.row.first, region.row.count
        del self._regions[first]
        if self._by_content.get(region.content) is region:
            del self._by_content[region.content]
        self._gaps.release(first, first + count)
        for slot in region.slots:
            self._writes.backends.pop(slot, None)
            self._writes.freed[slot] = None

    # What the map of service addresses holds

    @property
    def due(self) -> bool:
        """Whether ``free`` or ``retry`` has something to do."""
        return bool(self._idle or self._again)

    def in_map(self, ask: ServiceAddress) -> bool:
        """Whether the map has an entry of this service address, as far as was told."""
        return ask in self._entries

    def writing(self, rows: Mapping[ServiceAddress, SlotRange]) -> set[ServiceAddress]:
        """Entries are about to be written: until ``written`` they may be the old or the new ones.

        Return those that must not be written, because their slots have been given away.
        """
        stale: set[ServiceAddress] = set()
        for ask, row in rows.items():
            region = self._regions.get(row.first) if row.count else None
            if row.count and (region is None or region.row != row):
                stale.add(ask)
            elif region:
                self._lead(ask, (*self._entries.get(ask, ()), region))
        return stale

    def written(self, rows: Mapping[ServiceAddress, SlotRange], failed: Collection[object]) -> None:
        """Entries have been written, except for those that failed: these are as they were."""
        for ask, row in rows.items():
            entries = self._entries.get(ask, ())
            if ask not in failed:
                self._lead(ask, entries[-1:] if row.count else ())
            elif row.count:
                self._lead(ask, entries[:-1])
                if not entries[:-1]:
                    del self._entries[ask]

    def removed(self, asks: Iterable[ServiceAddress]) -> None:
        """Entries are no longer in the map."""
        for ask in asks:
            self._lead(ask, ())
            del self._entries[ask]

    def found(self, rows: Mapping[ServiceAddress, SlotRange]) -> None:
        """The map has been read: these are all entries."""
        self.removed([ask for ask in self._entries if ask not in rows])
        for ask, row in rows.items():
            region = self._regions.get(row.first) if row.count else None
            self._lead(ask, (region,) if region and region.row == row else ())

    def _lead(self, ask: ServiceAddress, now: tuple[_Region, ...]) -> None:
        before = self._entries.get(ask, ())
        self._entries[ask] = now
        for region in now:
            region.entries += 1
        for region in before:
            region.entries -= 1
            self._rest(region)

    # The state as a whole

    @property
    def asks(self) -> Collection[ServiceAddress]:
        """All service addresses."""
        return self._of.keys()

    @property
    def rows(self) -> dict[ServiceAddress, SlotRange]:
        """Rows of ``mg_service_addr``."""
        return {ask: region.row if region else NO_SLOTS for ask, region in self._of.items()}

    @property
    def backends(self) -> dict[int, BackendAddress]:
        """Rows of ``mg_backend_addr``, those at rest included."""
        regions = self._regions.values()
        return {s: b for one in regions for s, b in zip(one.slots, one.content, strict=True)}

    @property
    def demand(self) -> int:
        """Slots that all backends need when those that lack some share none of them."""
        missing = (len(self.short[ask]) - self.given(ask).count for ask in self.lacking)
        return self._needed + sum(count for count in missing if count > 0)

    def given(self, ask: ServiceAddress) -> SlotRange:
        """The slots of a service address."""
        region = self._of.get(ask)
        return region.row if region else NO_SLOTS


def recovered_slots(
    services: Mapping[ServiceAddress, SlotRange],
    backends: Mapping[int, BackendAddress],
    capacity: int,
) -> Slots:
    """The slots behind the rows that the two maps hold: nothing moves.

    An entry that leads to absent slots, or into the middle of another's, is unknown to the result:
    it is written anew when the service address is placed.
    """
    slots = Slots(capacity)
    slots.adopt(sorted({row for row in services.values() if row.count}, key=_first), backends)
    slots.found(services)
    for ask, row in services.items():
        slots.adopt_service(ask, row)
    return slots


def _first(row: SlotRange) -> tuple[int, int]:
    return row.first, -row.count
