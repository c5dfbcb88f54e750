"""Entries of a map in another layout: fields go over by name, as the BTF of both layouts says.

A field is named by its path: ``key.addr.w``, ``value.flags``; a key or value that is no struct is
``key`` or ``value``. Fields whose names begin with ``pad`` hold nothing. A field that is new is
zero. A feature declares what a name cannot tell: ``Renamed``, ``Added``, ``Converter``, ``Made``,
``Scratch``, ``PortRanges``. A declaration holds in the direction whose layouts have its fields, and
is passed over in the other: one list serves an update and the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bpf.btf import Dtype, layout
from bpf.maps import Map, MapInfo
from bpf.sys import MapType

Array = npt.NDArray[Any]

#: Maps whose content belongs to the programs or readers of one generation: they start empty.
FRESH = (MapType.RINGBUF, MapType.PROG_ARRAY)


#: Maps whose keys are all numbers up to their size.
ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)


class Entries(NamedTuple):
    """Keys and values of a map, row by row."""

    keys: Array
    values: Array


class Shape(NamedTuple):
    """What a map can hold."""

    key: Dtype
    value: Dtype
    max_entries: int


@dataclass(frozen=True, slots=True)
class Renamed:
    """A map, or with ``map`` a field of it, that was called ``old`` and is called ``new``."""

    old: str
    new: str
    map: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """Fields of ``map`` that the former layout did not have, where zero says the same.

    On the way back they go; a key's field must be zero by then, or two keys would become one.
    Without fields it is the map itself, which must be empty by then, unless its ``rows_go``:
    programs that do not have it do nothing wrong without them.
    """

    map: str
    fields: tuple[str, ...] = ()
    rows_go: bool = False


@dataclass(frozen=True, slots=True)
class Converter:
    """Fields ``makes`` of ``map`` that are computed from the fields ``uses`` of its old entries.

    ``convert`` gets the old entries, and the new ones with everything else copied, and fills in.
    """

    map: str
    uses: tuple[str, ...]
    makes: tuple[str, ...]
    convert: Callable[[Entries, Entries], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A map that is made from the entries of another one, which has the same information.

    ``make`` gets the old entries of ``source`` and the dtypes of ``map``. On the way back the map
    goes without a successor.
    """

    map: str
    source: str
    uses: tuple[str, ...]
    make: Callable[[Entries, Dtype, Dtype], Entries]


@dataclass(frozen=True, slots=True)
class Scratch:
    """A map whose content is not kept: it starts empty, and may go."""

    map: str


@dataclass(frozen=True, slots=True)
class PortRanges:
    """A map of the ranges of ports that programs may open, by address: ``number[count]``.

    It moves together with the connections. While two generations live, each has a part of every
    address's ranges, so that no port is opened in both. ``size`` names the datapath's setting of
    how many ports a range has.
    """

    map: str
    size: str


Declared = Sequence[Renamed | Added | Converter | Made | Scratch | PortRanges]


class RefusedError(Exception):
    """A migration that would lose something; ``reasons`` name map and field. Nothing changed."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


@dataclass(frozen=True, slots=True)
class Move:
    """One field on its way; ``part`` selects the old field's elements in a longer array."""

    old: str
    new: str
    part: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """How entries of one layout become entries of another."""

    key: Dtype
    value: Dtype
    moves: tuple[Move, ...]
    converters: tuple[Converter, ...]

    def entries(self, old: Entries) -> Entries:
        """The same entries in the new layout."""
        new = Entries(np.zeros(len(old.keys), self.key), np.zeros(old.values.shape, self.value))
        for move in self.moves:
            _assign(field(new, move.new), move.part, field(old, move.old))
        for converter in self.converters:
            converter.convert(old, new)
        return new


def _assign(target: Array, part: tuple[slice, ...], source: Array) -> None:
    where: Any = (..., *part)
    target[where] = source


def field(entries: Entries, path: str) -> Array:
    """The column of a field, a view; arrays within structs are further dimensions."""
    first, *names = path.split(".")
    column = entries.keys if first == "key" else entries.values
    for name in names:
        column = column[name]
    return column


def fields(key: Dtype, value: Dtype) -> dict[str, tuple[Dtype, tuple[int, ...]]]:
    """Every leaf by its path: the type of one element and the shape; padding is left out."""
    return {**dict(_leaves("key", key)), **dict(_leaves("value", value))}


def _leaves(
    path: str, dtype: Dtype, shape: tuple[int, ...] = ()
) -> Iterator[tuple[str, tuple[Dtype, tuple[int, ...]]]]:
    base, more = dtype.subdtype or (dtype, ())
    shape += more
    if base.fields is None:
        yield path, (base, shape)
        return
    for name, (inner, *_) in base.fields.items():
        if not name.startswith("pad"):
            yield from _leaves(f"{path}.{name}", inner, shape)


@dataclass(frozen=True, slots=True)
class Transfer:
    """Entries of one map on their way into another."""

    old: Map
    new: Map
    how: Copy | Made

    @property
    def is_array(self) -> bool:
        """Whether every key is there, always."""
        return self.new.type in ARRAYS

    def entries(self) -> Entries:
        """What the old map holds, in the new layout."""
        return self.convert(dump(self.old))

    def convert(self, old: Entries) -> Entries:
        """Old entries in the new layout."""
        if isinstance(self.how, Made):
            return self.how.make(old, self.new.key, self.new.value)
        if self.is_array:
            fits = old.keys < self.new.max_entries
            old = Entries(old.keys[fits], old.values[fits])
        return self.how.entries(old)


def copy(name: str, old: Shape, new: Shape, declared: Declared = ()) -> Copy:
    """How entries of map ``name`` go from ``old`` to ``new``; RefusedError names what is lost."""
    theirs, ours = fields(old.key, old.value), fields(new.key, new.value)
    converters = tuple(
        each
        for each in declared
        if isinstance(each, Converter)
        and each.map == name
        and theirs.keys() >= set(each.uses)
        and ours.keys() >= set(each.makes)
    )
    converted = _converted(name, converters, declared)
    made = {path for each in converters for path in each.makes}
    moves: list[Move] = []
    reasons: list[str] = []
    for path, leaf in theirs.items():
        target = _renamed(name, path, ours, declared)
        if target in ours and target not in made:
            part = _part(leaf, ours[target])
            if part is None:
                reasons.append(_misfit(name, path, leaf, target, ours[target]))
            else:
                moves.append(Move(path, target, part))
        elif path not in converted:
            reasons.append(f"map {name}: field {path} has no successor and no converter")
    if reasons:
        raise RefusedError(reasons)
    return Copy(new.key, new.value, tuple(moves), converters)


def _converted(name: str, converters: Sequence[Converter], declared: Declared) -> set[str]:
    """Old fields that need no successor of their own."""
    found = {path for each in converters for path in each.uses}
    for each in declared:
        if isinstance(each, Made) and each.source == name:
            found |= set(each.uses)
        if isinstance(each, Added) and each.map == name:
            found |= set(each.fields)
    return found


def merged_keys(name: str, old: Entries, new: Shape, declared: Declared) -> list[str]:
    """Sentences on key fields that go although they tell keys apart."""
    ours = fields(new.key, new.value)
    return [
        f"map {name}: field {path} goes, and is not zero in every entry"
        for each in declared
        if isinstance(each, Added) and each.map == name
        for path in each.fields
        if path.startswith("key") and path not in ours and _is_used(old, path)
    ]


def _is_used(entries: Entries, path: str) -> bool:
    try:
        return bool(np.any(field(entries, path)))
    except (IndexError, ValueError):
        return False  # the old layout does not have it


def _renamed(name: str, path: str, ours: Mapping[str, object], declared: Declared) -> str:
    if path in ours:
        return path
    for each in declared:
        if isinstance(each, Renamed) and each.map == name:
            for old, new in ((each.old, each.new), (each.new, each.old)):
                if path == old and new in ours:
                    return new
    return path


def _part(
    old: tuple[Dtype, tuple[int, ...]], new: tuple[Dtype, tuple[int, ...]]
) -> tuple[slice, ...] | None:
    """Where the old elements go; None when the new field cannot hold every old value."""
    (base, shape), (wider, longer) = old, new
    if base.kind not in "iub" or wider.kind not in "iub":
        return () if (base, shape) == (wider, longer) else None
    if len(shape) != len(longer) or wider.itemsize < base.itemsize:
        return None
    if any(ours < theirs for ours, theirs in zip(longer, shape, strict=True)):
        return None
    return tuple(slice(length) for length in shape)


def _misfit(name: str, path: str, old: Any, target: str, new: Any) -> str:
    here, there = (f"{base.str}{list(shape) if shape else ''}" for base, shape in (old, new))
    return f"map {name}: field {path}: {here} does not fit into {target}: {there}"


def renamed_map(name: str, declared: Declared, known: Mapping[str, object]) -> str | None:
    """What map ``name`` is called among ``known``; None when it is not there."""
    if name in known:
        return name
    for each in declared:
        if isinstance(each, Renamed) and not each.map:
            for old, new in ((each.old, each.new), (each.new, each.old)):
                if name == old and new in known:
                    return new
    return None


def is_kept(name: str, type_: int, declared: Declared) -> bool:
    """Whether a map's entries go over to the next generation's map."""
    return type_ not in FRESH and not any(
        isinstance(each, Scratch) and each.map == name for each in declared
    )


def has_successor(name: str, declared: Declared, known: Mapping[str, object]) -> bool:
    """Whether nothing is lost when a map goes: another has its name, or its information."""
    made = {each.map for each in declared if isinstance(each, Made) and each.source in known}
    return renamed_map(name, declared, known) is not None or name in made


def port_maps(declared: Declared) -> tuple[str, ...]:
    """The maps of port ranges."""
    return tuple(each.map for each in declared if isinstance(each, PortRanges))


def port_sizes(declared: Declared) -> tuple[str, ...]:
    """The settings that say how many ports a range has."""
    return tuple(each.size for each in declared if isinstance(each, PortRanges))


def may_go(name: str, declared: Declared, *, empty: bool) -> bool:
    """Whether the former version did not have the map, and misses nothing of what is in it."""
    return any(
        isinstance(each, Added) and each.map == name and not each.fields
        and (empty or each.rows_go)
        for each in declared
    )  # fmt: skip


def same(old: Map, flags: int, type_: int, new: Shape) -> bool:
    """Whether an open map is what another object wants, so that both can share it."""
    about = MapInfo(old.fd)
    return (about.type, about.flags, about.max_entries) == (type_, flags, new.max_entries) and (
        layout(old.key) == layout(new.key) and layout(old.value) == layout(new.value)
    )


def dump(map_: Map) -> Entries:
    """All entries; per-CPU values are ``values[entry, cpu]``."""
    return Entries(*(map_.dump_percpu() if map_.per_cpu else map_.dump()))


def missing_room(name: str, count: int, new: Shape) -> list[str]:
    """A sentence when live entries would not fit."""
    if count <= new.max_entries:
        return []
    return [f"map {name}: {count} live entries, room for {new.max_entries}"]
