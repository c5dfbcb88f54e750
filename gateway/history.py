"""Which pod had which run of ports when: what the store keeps of it, and who had a port. Pure.

A node writes ``meshgate/v1/<cluster>/lent/<node>/<day>/<address>/<hour>-<part>``. A part has what
happened in an hour of an address: lendings and returns, and the pods that they name. The first part
of a day begins with what was lent before, so that a question reads one day. Times are whole seconds
from the hour on, UTC; a lending is rounded down and a return up.

What is too much for a day is kept coarsely: the pods of a block in an hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil, floor

import msgspec

from mesh.core.model import IP

#: Ports of a run, ``enum run_limit``.
RUN_PORTS = 16
FIRST_PORT = 1024
#: Below the cluster's prefix.
LENT = "lent/"
#: Bytes of a node and day, keys included; from there on it is kept coarsely, up to ``MOST_BYTES``.
FINE_BYTES, MOST_BYTES = 900_000, 1_000_000
#: A part is closed when it is as large as this.
PART_BYTES = 8192
_HOUR_S = 3600
#: Seconds between two notes of one event.
_TWICE_S = 2


@dataclass(frozen=True, slots=True, order=True)
class LentTo:
    """A pod that had a run; without a name nobody on its node knew the pod of the address."""

    namespace: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class RunEvent:
    """A run was lent to a pod, or returned by it, at a time in seconds since 1970."""

    address: IP
    run: int
    at: float
    holder: LentTo
    lent: bool = True


class PartValue(msgspec.Struct, omit_defaults=True, frozen=True):
    """Value of a part's key: pods, and rows that name them by their index.

    ``lent`` and ``returned`` are run, pod and second, ``coarse`` the first and the last run of a
    block and a pod.
    """

    pods: list[tuple[str, str, str]] = msgspec.field(default_factory=list, name="p")
    lent: list[tuple[int, int, int]] = msgspec.field(default_factory=list, name="l")
    returned: list[tuple[int, int, int]] = msgspec.field(default_factory=list, name="r")
    coarse: list[tuple[int, int, int]] = msgspec.field(default_factory=list, name="c")


_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(PartValue)


def run_of(port: int) -> int:
    """The run of a port."""
    return (port - FIRST_PORT) // RUN_PORTS


def lent_prefix(cluster: str, node: str = "") -> str:
    """The prefix of the history of a node, or of all."""
    return f"meshgate/v1/{cluster}/{LENT}{node}{'/' if node else ''}"


def day_of(at: float) -> str:
    """The day of a time, as keys name it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%d")


def hour_of(at: float) -> str:
    """The hour of the day of a time, likewise."""
    return datetime.fromtimestamp(at, UTC).strftime("%H")


def begin_of(day: str, hour: str) -> int:
    """The first second of an hour."""
    return int(datetime.strptime(f"{day}{hour}+0000", "%Y%m%d%H%z").timestamp())


@dataclass(slots=True)
class Part:
    """A part that grows; ``place`` is its key without what all keys of the node begin with."""

    place: str
    begin: int
    events: list[RunEvent] = field(default_factory=list)
    coarse: dict[tuple[int, int, LentTo], None] = field(default_factory=dict)

    def value(self) -> bytes:
        """The value of its key."""
        holders: dict[LentTo, int] = {}
        lent: list[tuple[int, int, int]] = []
        back: list[tuple[int, int, int]] = []
        for one in self.events:
            pod, since = holders.setdefault(one.holder, len(holders)), one.at - self.begin
            if one.lent:
                lent.append((one.run, pod, floor(since)))
            else:
                back.append((one.run, pod, ceil(since)))
        coarse = [
            (first, last, holders.setdefault(one, len(holders)))
            for first, last, one in sorted(self.coarse)
        ]
        pods = [(one.namespace, one.name, one.address) for one in holders]
        return _encoder.encode(PartValue(pods, lent, back, coarse))


@dataclass(frozen=True, slots=True)
class Read:
    """A part as it was read: events, and the pods of each block of which no more is known."""

    events: tuple[RunEvent, ...]
    coarse: tuple[tuple[int, int, LentTo], ...]
    begin: int


def read_part(address: IP, day: str, hour: str, value: bytes) -> Read:
    """A part of the store. Raises ValueError."""
    begin = begin_of(day, hour)
    try:
        part = _decoder.decode(value)
        holders = [LentTo(*one) for one in part.pods]
        lent = [RunEvent(address, run, begin + at, holders[pod]) for run, pod, at in part.lent]
        back = [
            RunEvent(address, run, begin + at, holders[pod], lent=False)
            for run, pod, at in part.returned
        ]
        coarse = tuple((first, last, holders[pod]) for first, last, pod in part.coarse)
    except (msgspec.MsgspecError, IndexError) as error:
        raise ValueError(f"part of {day} {hour}: {error}") from error
    return Read((*lent, *back), coarse, begin)


@dataclass(frozen=True, slots=True)
class Lending:
    """A run that a pod had; ``until`` None: it has it still."""

    holder: LentTo
    since: float
    until: float | None


def lendings(events: Iterable[RunEvent], run: int) -> Iterator[Lending]:
    """The lendings of a run in their order.

    Events may come twice, a second apart: a process that was killed writes them anew. A return
    ends a lending of the same pod only, or a clock that was set back would end the next one's.
    """
    mine = sorted({one for one in events if one.run == run}, key=lambda one: (one.at, one.lent))
    last: Lending | None = None
    for one in mine:
        same = last is not None and last.holder == one.holder
        if not one.lent:
            if last and same and last.until is None:
                last = Lending(last.holder, last.since, one.at)
        elif last and same and (last.until is None or one.at - last.since <= _TWICE_S):
            continue
        else:
            if last:
                yield _ended(last, one.at)
            last = Lending(one.holder, one.at, None)
    if last:
        yield last


def _ended(lending: Lending, at: float) -> Lending:
    """A lending that another one has followed has ended, whether or not its return was noted."""
    return lending if lending.until is not None else Lending(lending.holder, lending.since, at)


def holders_at(
    events: Iterable[RunEvent], run: int, at: float, error_s: float
) -> Sequence[Lending]:
    """The lendings of a run that a time with an error of the clock may mean.

    With less than half of the rest it is one at most.
    """
    return [
        one
        for one in lendings(events, run)
        if one.since <= at + error_s and (one.until is None or one.until >= at - error_s)
    ]


@dataclass(slots=True)
class Writing:
    """What a node writes, from events in the order of their times.

    ``opened`` are the runs that are lent now. Parts that have changed are taken by ``changed``;
    ``number`` makes the names of new parts unique, also after a restart within the hour.
    """

    block_size: int
    number: int
    opened: dict[tuple[IP, int], RunEvent] = field(default_factory=dict)
    parts: dict[tuple[IP, str, str], Part] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    _dirty: dict[str, Part] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    _begun: set[tuple[IP, str]] = field(default_factory=set)

    def take(self, event: RunEvent) -> None:
        """One more event."""
        day, key = day_of(event.at), (event.address, event.run)
        self.begin_day(event.address, day)
        self._add(day, event)
        if event.lent:
            self.opened[key] = event
        else:
            self.opened.pop(key, None)

    def begin_day(self, address: IP, day: str) -> None:
        """What is lent since before stands in the first part of each day."""
        if (address, day) in self._begun:
            return
        self._begun = {one for one in self._begun if one[0] != address} | {(address, day)}
        first = begin_of(day, "00")
        for (other, _), event in self.opened.items():
            if other == address and event.at < first:
                self._add(day, event, hour="00")

    def begin_anew(self) -> None:
        """The store has lost everything: what is lent now stands in new parts, on this day, too."""
        self._begun.clear()
        self.parts.clear()
        self._sizes.clear()
        self.sizes.clear()
        for event in self.opened.values():
            self._add(day_of(event.at), event)

    def _add(self, day: str, event: RunEvent, hour: str = "") -> None:
        part = self._part(event.address, day, hour or hour_of(event.at))
        if self.sizes.get(day, 0) < FINE_BYTES:
            part.events.append(event)
        elif event.lent and self.sizes.get(day, 0) < MOST_BYTES:
            runs = self.block_size // RUN_PORTS
            first = event.run // runs * runs
            part.coarse[first, first + runs - 1, event.holder] = None
        else:
            return
        self._note(day, part)

    def _part(self, address: IP, day: str, hour: str) -> Part:
        key = (address, day, hour)
        part = self.parts.get(key)
        if part is None or self._sizes.get(part.place, 0) > PART_BYTES:
            self.number += 1
            place = f"{day}/{address}/{hour}-{self.number:x}"
            part = self.parts[key] = Part(place, begin_of(day, hour))
        return part

    def _note(self, day: str, part: Part) -> None:
        """About how large it is: exactly, when it is written."""
        size = self._sizes.get(part.place)
        added = 16 if size else len(part.place) + 80
        self._sizes[part.place] = (size or 0) + added
        self.sizes[day] = self.sizes.get(day, 0) + added
        self._dirty[part.place] = part

    def changed(self) -> Mapping[str, bytes]:
        """Places and values that the store does not have; ``written`` says that it has them."""
        return {place: part.value() for place, part in self._dirty.items()}

    def written(self, values: Mapping[str, bytes], now: float) -> None:
        """The store has these; parts of former hours are complete and need no room any more."""
        for place, value in values.items():
            self._dirty.pop(place, None)
            size, day = len(value) + len(place), place.partition("/")[0]
            self.sizes[day] = self.sizes.get(day, 0) + size - self._sizes.get(place, 0)
            self._sizes[place] = size
        recent = {(day_of(at), hour_of(at)) for at in (now, now - _HOUR_S)}
        self.parts = {key: one for key, one in self.parts.items() if key[1:] in recent}
        places = {one.place for one in self.parts.values()}
        self._sizes = {place: size for place, size in self._sizes.items() if place in places}
        days = {day for day, _ in recent}
        self.sizes = {day: size for day, size in self.sizes.items() if day in days}

    def is_coarse(self, now: float) -> bool:
        """Whether the day has had too much."""
        return self.sizes.get(day_of(now), 0) >= FINE_BYTES


def is_coarse_since(parts: Iterable[Read], at: float) -> bool:
    """Whether a return before a time may be missing, since its day had had too much."""
    return any(part.coarse and part.begin <= at for part in parts)


def coarse_at(parts: Iterable[Read], port: int, at: float, error_s: float) -> Sequence[LentTo]:
    """The pods of a port's block in the hours that a time may mean, of coarse parts."""
    found = {
        holder: None
        for part in parts
        if part.begin - error_s <= at < part.begin + _HOUR_S + error_s
        for first, last, holder in part.coarse
        if first <= run_of(port) <= last
    }
    return list(found)
