"""The order in which a generation of programs takes over from another one. Pure.

The marker that is pinned beside the new maps names the step that was begun last. Each step may be
repeated: an agent that finds a marker begins with that step again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, auto


class Step(IntEnum):
    """What is done to two generations; numbers stand in pinned markers and never change."""

    LOADED = 1
    """The new maps and programs are pinned; nothing uses them."""
    SPLIT = 2
    """Each generation has a part of this node's port ranges."""
    FILLED = 3
    """The new maps hold what the old ones hold."""
    ARMED = 4
    """The programs with the hand-over reach the others."""
    SWAPPED = 5
    """Every link runs a new program."""
    CAUGHT_UP = 6
    """What old programs changed until they left the links is known to the new maps."""
    SHARED = 7
    """Connections that nobody knows are opened by the new programs."""
    MERGED = 8
    """Every connection belongs to the new programs."""
    GIVEN = 9
    """Every packet goes to the new programs, by way of the old ones."""
    ALONE = 10
    """Nothing is handed over any more."""
    JOINED = 11
    """The new programs have all port ranges."""
    CLEARED = 12
    """Old maps and programs without a successor are gone."""
    PLACED = 13
    """The new maps and programs have the names of the old ones, which are gone."""


class Way(IntEnum):
    """Which generation's programs can hand packets over; numbers stand in pinned markers."""

    PLAIN = 1
    """Connections stay in their maps: none has to be handed over."""
    TO_NEW = 2
    """The new programs: they stand at the hooks while connections come over."""
    FROM_OLD = 3
    """The old programs only: they stay at the hooks until all connections have gone over."""


ORDER: dict[Way, tuple[Step, ...]] = {
    Way.PLAIN: (Step.LOADED, Step.FILLED, Step.SWAPPED, Step.CAUGHT_UP, Step.CLEARED, Step.PLACED),
    Way.TO_NEW: (
        Step.LOADED, Step.SPLIT, Step.FILLED, Step.ARMED, Step.SWAPPED, Step.CAUGHT_UP,
        Step.SHARED, Step.MERGED, Step.ALONE, Step.JOINED, Step.CLEARED,
        Step.PLACED,
    ),
    Way.FROM_OLD: (
        Step.LOADED, Step.SPLIT, Step.FILLED, Step.ARMED, Step.SHARED, Step.MERGED, Step.GIVEN,
        Step.SWAPPED, Step.CAUGHT_UP, Step.JOINED, Step.CLEARED, Step.PLACED,
    ),
}  # fmt: skip
#: From the begin of this step on, some entries may be in the new maps alone.
NO_RETURN = {Way.PLAIN: Step.SWAPPED, Way.TO_NEW: Step.SWAPPED, Way.FROM_OLD: Step.ARMED}


class Links(Enum):
    """Which programs the links run."""

    OLD = auto()
    BOTH = auto()
    NEW = auto()


@dataclass(frozen=True, slots=True)
class Marker:
    """An unfinished migration: its target, and the step that was begun last."""

    way: Way
    begun: Step
    digest: bytes


class Course(Enum):
    """What an agent does about the marker that it finds."""

    NOTHING = auto()
    UNDO = auto()
    """Give the links and the port ranges back to the old programs, remove the new pins."""
    GO_ON = auto()


def steps_from(way: Way, begun: Step) -> tuple[Step, ...]:
    """The steps that are still to be done, ``begun`` again among them."""
    order = ORDER[way]
    return order[order.index(begun) :]


def next_step(way: Way, done: Step) -> Step | None:
    """The step after ``done``; None at the end."""
    rest = steps_from(way, done)[1:]
    return rest[0] if rest else None


def is_before(way: Way, step: Step, other: Step) -> bool:
    """Whether ``step`` comes before ``other``."""
    order = ORDER[way]
    return order.index(step) < order.index(other)


def course(marker: Marker | None, links: Links) -> Course:
    """What to do about a marker.

    While the old maps hold everything, a migration is begun anew. Later it is finished, whichever
    generation its agent wanted. But when links have gone back to old programs, an agent that knows
    nothing of migrations was at work on the old maps: they count.
    """
    if marker is None:
        return Course.NOTHING
    if marker.begun in (Step.CLEARED, Step.PLACED):
        return Course.GO_ON
    if is_before(marker.way, marker.begun, NO_RETURN[marker.way]):
        return Course.UNDO
    return Course.UNDO if _taken_back(marker, links) else Course.GO_ON


def _taken_back(marker: Marker, links: Links) -> bool:
    if marker.begun is Step.SWAPPED:
        return marker.way is not Way.FROM_OLD and links is Links.OLD
    return not is_before(marker.way, marker.begun, Step.SWAPPED) and links is not Links.NEW
