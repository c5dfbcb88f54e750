"""Where the backends of services stand in ``mg_backend_addr``: slices that never change. Pure.

A client reads a service's entry and then one slot of its slice, so the slots must be right before
the entry points to them and as long as it does. Therefore a slice belongs to its content: equal
backends have one slice, other backends get another one, and a slice that no service needs rests
until the entries that pointed to it have been replaced.

    backends   slots in use and resting     -> mg_backend_addr
    services   service address -> slice     -> mg_service_addr, after the slots have arrived

After a restart ``recovered`` reads the last allocation back from the maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mesh.core.model import Finding
from mesh.services.backends import BackendAddress, ServiceAddress, Translations

#: ``mg_backend_addr`` has no room for a service's backends.
FULL = "M162"
#: Entries of ``mg_backend_addr``.
CAPACITY = 65536

Content = tuple[BackendAddress, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """Value of ``mg_service_addr``: slots ``first`` to ``first + count - 1``; none: refused."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Which content stands where; ``contents`` holds what each service address points to."""

    contents: Mapping[ServiceAddress, Content] = field(default_factory=dict)
    first: Mapping[Content, int] = field(default_factory=dict)
    resting: Mapping[Content, int] = field(default_factory=dict)

    def services(self) -> dict[ServiceAddress, Slice]:
        """Rows of ``mg_service_addr``."""
        return {
            ask: Slice(self.first[content], len(content)) if content else Slice(0, 0)
            for ask, content in self.contents.items()
        }

    def backends(self) -> dict[int, BackendAddress]:
        """Rows of ``mg_backend_addr``."""
        return {
            first + place: backend
            for part in (self.first, self.resting)
            for content, first in part.items()
            for place, backend in enumerate(content)
        }


def allocate(
    before: Allocation, wanted: Translations, *, arrived: bool, capacity: int = CAPACITY
) -> tuple[Allocation, list[Finding]]:
    """The next allocation, which moves no content that it keeps.

    ``arrived`` says that the rows of ``before.services()`` are all in the map: only then what
    rested until now is free. Call again after that when ``resting`` is not empty. A service whose
    new backends find no room keeps its old ones.
    """
    needed = dict.fromkeys(content for content in wanted.values() if content)
    known = {**before.resting, **before.first}
    first = {content: known[content] for content in needed if content in known}
    resting = dict(before.first) if arrived else known
    gaps = _gaps({**resting, **first}, capacity)
    for content in needed:
        if content not in first and (place := _fit(gaps, len(content))) is not None:
            first[content] = place
    contents: dict[ServiceAddress, Content] = {}
    findings = []
    for ask, content in wanted.items():
        contents[ask] = content
        if content and content not in first:
            findings.append(_full(ask, content, capacity))
            contents[ask] = kept = before.contents.get(ask, ())
            if kept:
                first[kept] = known[kept]
    resting = {content: place for content, place in resting.items() if content not in first}
    return Allocation(contents, first, resting), findings


def recovered(
    services: Mapping[ServiceAddress, Slice], backends: Mapping[int, BackendAddress]
) -> Allocation:
    """The allocation behind the rows that the two maps hold.

    A service that points to an absent slot is taken for one that has no backends.
    """
    contents: dict[ServiceAddress, Content] = {}
    first: dict[Content, int] = {}
    for ask, row in services.items():
        slots = range(row.first, row.first + row.count)
        content = tuple(backends[slot] for slot in slots if slot in backends)
        if len(content) < row.count or first.setdefault(content, row.first) != row.first:
            content = ()
        contents[ask] = content
    first.pop((), None)
    return Allocation(contents, first)


def _gaps(used: Mapping[Content, int], capacity: int) -> list[list[int]]:
    """Free ranges as [start, end), lowest first."""
    gaps, start = [], 0
    for first, count in sorted((first, len(content)) for content, first in used.items()):
        if first > start:
            gaps.append([start, first])
        start = max(start, first + count)
    if start < capacity:
        gaps.append([start, capacity])
    return gaps


def _fit(gaps: Iterable[list[int]], count: int) -> int | None:
    """Take ``count`` slots from the first gap that has them."""
    for gap in gaps:
        if gap[1] - gap[0] >= count:
            gap[0] += count
            return gap[0] - count
    return None


def _full(ask: ServiceAddress, content: Content, capacity: int) -> Finding:
    return Finding(
        FULL,
        f"service address {ask.address} port {ask.port}/{ask.protocol}",
        "backends",
        f"no room for {len(content)} backends: the map holds {capacity}; the last ones stay",
    )
