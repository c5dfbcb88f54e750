"""Which maps a new generation shares with the old one, and what would be lost. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bpf.btf import Dtype, MapSpec
from bpf.maps import Map
from bpf.migrate import (
    ARRAYS,
    FRESH,
    Declared,
    Entries,
    Made,
    RefusedError,
    Shape,
    Transfer,
    copy,
    dump,
    has_successor,
    is_kept,
    may_go,
    merged_keys,
    missing_room,
    renamed_map,
    same,
)
from mesh.datapath.connections import together
from mesh.datapath.steps import Way

HANDOVER, PHASE = "mg_handover", "mg_phase"
#: Maps of the hand-over itself: each generation has its own, and one without them lacks nothing.
MACHINERY = (HANDOVER, PHASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to migrate; ``moved`` are the maps of which the new generation has its own."""

    way: Way
    moved: frozenset[str]


def plan(old: Mapping[str, Map], specs: Mapping[str, MapSpec], declared: Declared) -> Plan | None:
    """The plan; None when the new generation can use the pinned maps as they are.

    Raises:
        RefusedError: something would be lost.

    """
    if not any(_differs(name, spec, old, declared) for name, spec in specs.items()):
        return None
    moved = _moved(old, specs, declared)
    reasons = [*_lost_maps(old, specs, declared)]
    for name in sorted(moved):
        reasons += _reasons(name, old, specs, declared)
    way = _way(old, specs, moved, declared)
    if way is None:
        reasons.append("connections would move, and neither generation can hand over")
    if reasons or way is None:
        raise RefusedError(reasons)
    return Plan(way, moved)


def _differs(name: str, spec: MapSpec, old: Mapping[str, Map], declared: Declared) -> bool:
    if name in old:
        return not same(old[name], spec.flags, spec.type, shape_of(spec))
    sources = {each.source for each in declared if isinstance(each, Made) and each.map == name}
    return renamed_map(name, declared, old) is not None or bool(sources & old.keys())


def _moved(
    old: Mapping[str, Map], specs: Mapping[str, MapSpec], declared: Declared
) -> frozenset[str]:
    """Connections move together; what only one generation may read or fill is not shared."""
    moved = {
        name
        for name, spec in specs.items()
        if name not in old
        or name in MACHINERY
        or spec.type in FRESH
        or not same(old[name], spec.flags, spec.type, shape_of(spec))
    }
    bound = set(together(declared))
    if moved & bound:
        moved |= bound & specs.keys()
    return frozenset(moved)


def _way(
    old: Mapping[str, Map],
    specs: Mapping[str, MapSpec],
    moved: frozenset[str],
    declared: Declared,
) -> Way | None:
    bound = moved & set(together(declared))
    if not any(renamed_map(name, declared, old) for name in bound):
        return Way.PLAIN
    if HANDOVER in specs:
        return Way.TO_NEW
    return Way.FROM_OLD if HANDOVER in old else None


def _lost_maps(
    old: Mapping[str, Map], specs: Mapping[str, MapSpec], declared: Declared
) -> Iterator[str]:
    for name, map_ in old.items():
        kept = name not in MACHINERY and is_kept(name, map_.type, declared)
        if not kept or has_successor(name, declared, specs):
            continue
        if not may_go(name, declared, empty=not len(dump(map_).keys)):
            yield f"map {name}: no map of the new programs has its entries"


def _reasons(
    name: str, old: Mapping[str, Map], specs: Mapping[str, MapSpec], declared: Declared
) -> list[str]:
    source = renamed_map(name, declared, old)
    if source is None or name in MACHINERY or not is_kept(name, specs[name].type, declared):
        return []
    shape = shape_of(specs[name])
    try:
        copy(name, shape_of_map(old[source]), shape, declared)
    except RefusedError as error:
        return error.reasons
    entries = dump(old[source])
    room = _room(old[source], entries)
    return [
        *merged_keys(name, entries, shape, declared),
        *missing_room(name, room, shape),
    ]


def _room(map_: Map, entries: Entries) -> int:
    """How many entries another map must be able to hold; of an array up to the last used one."""
    keys, values = entries
    if map_.type not in ARRAYS:
        return len(keys)
    used = np.flatnonzero(values.view(np.uint8).reshape(len(keys), -1).any(axis=1))
    return int(used[-1]) + 1 if len(used) else 0


def shape_of(spec: MapSpec) -> Shape:
    """What a map of an object file can hold."""
    none: Dtype = np.dtype("V0")
    key, value = (none if each is None else each for each in (spec.key, spec.value))
    return Shape(key, value, spec.max_entries)


def shape_of_map(map_: Map) -> Shape:
    """What a pinned map can hold."""
    return Shape(map_.key, map_.value, map_.max_entries)


def transfers(
    old: Mapping[str, Map], new: Mapping[str, Map], declared: Declared
) -> Iterator[Transfer]:
    """How each map of its own gets its entries; ``new`` has those maps only."""
    made = {each.map: each for each in declared if isinstance(each, Made) and each.source in old}
    for name, map_ in new.items():
        source = renamed_map(name, declared, old)
        if name in MACHINERY or not is_kept(name, map_.type, declared):
            continue
        if source is not None:
            how = copy(name, shape_of_map(old[source]), shape_of_map(map_), declared)
            yield Transfer(old[source], map_, how)
        elif name in made:
            yield Transfer(old[made[name].source], map_, made[name])
