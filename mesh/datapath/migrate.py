"""A change of map layouts under traffic: the new maps are filled, then the programs take over.

Old pins stand in the agent's directory. New ones stand below it in ``next/``: all maps of the new
generation, those that both share too, and its programs. A marker there says how far a migration is
(``steps``). ``begin`` needs object files; everything after it needs pins only, so any agent can
finish what another one began. The caller runs nothing else on these maps meanwhile: sweep and
forget wait.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bpf import links
from bpf.btf import MapSpec
from bpf.maps import Map, MapInfo
from bpf.migrate import Declared, Transfer, dump, port_maps, renamed_map
from bpf.object import Generation, Object, read_pinned, write_pinned
from bpf.sys import info, open_pinned, pin, wait_for_programs
from mesh.datapath import connections
from mesh.datapath.connections import FAMILIES, Merge, Pair, Ports, Ranges, together
from mesh.datapath.hooks import HANDOVER_PROGRAMS, program_of
from mesh.datapath.plan import HANDOVER, PHASE, plan, transfers
from mesh.datapath.steps import Course, Links, Marker, Step, Way, course, next_step

log = logging.getLogger(__name__)

NEXT, PROGRAMS, LINKS, MARKER = "next", "programs", "links", "mg_step"
#: Rounds in which connections change hands; each finds what packets changed in the one before.
_ROUNDS = 20
_MARKER = struct.Struct("=II32s")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pins are, and what the agent knows of its datapath."""

    directory: Path
    range_size: int
    declared: Declared = ()

    @property
    def next(self) -> Path:
        """Pins of the generation that is to come."""
        return self.directory / NEXT


@contextmanager
def _open_maps(directory: Path) -> Iterator[dict[str, Map]]:
    with ExitStack() as stack:
        yield {
            path.name: stack.enter_context(Map.open_pinned(path))
            for path in sorted(directory.iterdir())
            if path.is_file() and path.name not in (Generation.NAME, MARKER)
        }


# An earlier agent's migration


def settle(place: Place) -> None:
    """Finish or undo what an earlier agent left."""
    marker = _read_marker(place)
    match course(marker, _links(place)):
        case Course.GO_ON:
            with closing(Migration(place)) as migration:
                migration.run()
        case Course.UNDO:
            _undo(place)
        case Course.NOTHING:
            _remove(place.next)


def _undo(place: Place) -> None:
    log.warning("event=migration_undone step=%s", _read_marker(place))
    relink(place.directory, place.directory / PROGRAMS)
    wait_for_programs()
    with closing(Migration(place)) as migration:
        migration.join_old_ranges()
    _remove(place.next)


def _remove(directory: Path) -> None:
    """Remove pins; the marker first: without it what is left counts for nothing."""
    (directory / MARKER).unlink(missing_ok=True)
    if directory.exists():
        shutil.rmtree(directory)


def _links(place: Place) -> Links:
    """Which programs the links run."""
    new = {_id(path) for path in _pins(place.next / PROGRAMS)}
    found = {
        links.program_id(path) in new
        for path in _pins(place.directory / LINKS)
        if program_of(path.name)
    }
    if found == {True, False}:
        return Links.BOTH
    return Links.OLD if False in found else Links.NEW


def _pins(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


def _id(path: Path) -> int:
    fd = open_pinned(path)
    try:
        number: int = struct.unpack_from("=2I", info(fd, 8))[1]
    finally:
        os.close(fd)
    return number


def relink(directory: Path, programs: Path) -> None:
    """Let every link run its program of ``programs``; forget those whose device has gone."""
    for path in _pins(directory / LINKS):
        name = program_of(path.name)
        if name is None or not (programs / name).exists():
            continue
        fd = open_pinned(programs / name)
        try:
            if not links.change(fd, path):
                path.unlink()
        finally:
            os.close(fd)


def _read_marker(place: Place) -> Marker | None:
    text = read_pinned(place.next / MARKER)
    if text is None:
        return None
    way, begun, digest = _MARKER.unpack(text)
    return Marker(Way(way), Step(begun), digest) if begun else None


def _write_marker(place: Place, marker: Marker) -> None:
    write_pinned(
        place.next / MARKER, _MARKER.pack(int(marker.way), int(marker.begun), marker.digest)
    )


# A new one


def begin(place: Place, objects: Collection[Object], digest: bytes) -> Migration | None:
    """Load the next generation beside the old one; None when the pinned maps fit as they are.

    Raises:
        bpf.migrate.RefusedError: something would be lost; nothing has changed.

    """
    with _open_maps(place.directory) as old:
        found = plan(old, _specs(objects), place.declared)
    if found is None:
        return None
    elsewhere = dict.fromkeys(found.moved, place.next)
    for one in objects:
        one.pin(place.directory, elsewhere)
        one.load()
        one.pin_programs(place.next / PROGRAMS)
        _pin_shared(one, place.next)
    _write_marker(place, Marker(found.way, Step.LOADED, digest))
    return Migration(place)


def _specs(objects: Collection[Object]) -> dict[str, MapSpec]:
    return {
        name: replace(spec, max_entries=one.sizes[name])
        for one in objects
        for name, spec in one.specs.items()
        if not spec.private
    }


def _pin_shared(one: Object, directory: Path) -> None:
    for name, map_ in one.maps.items():
        if not one.specs[name].private and not (directory / name).exists():
            pin(map_.fd, directory / name)


class Migration:
    """A migration that has begun, from its pins."""

    def __init__(self, place: Place) -> None:
        marker = _read_marker(place)
        if marker is None:
            raise FileNotFoundError(f"no migration is pinned in {place.next}")
        self.marker = marker
        self._place = place
        self._stack = ExitStack()
        self._old = self._stack.enter_context(_open_maps(place.directory))
        self._new = self._stack.enter_context(_open_maps(place.next))
        self._steps: Mapping[Step, Callable[[], None]] = {
            Step.LOADED: lambda: None,
            Step.SPLIT: self._split,
            Step.FILLED: self._fill,
            Step.ARMED: self._arm,
            Step.SWAPPED: self._swap,
            Step.CAUGHT_UP: self._catch_up,
            Step.SHARED: self._share,
            Step.MERGED: self._merge_all,
            Step.GIVEN: self._give_all,
            Step.ALONE: self._end_handover,
            Step.JOINED: self.join_new_ranges,
            Step.CLEARED: self._clear,
            Step.PLACED: self._put_in_place,
        }

    def close(self) -> None:
        """Give descriptors back."""
        self._stack.close()

    def run(self) -> None:
        """Do what is left."""
        while self.step():
            pass

    def step(self) -> bool:
        """Do the step that was begun last, and begin the next one; False at the end."""
        self.do()
        following = next_step(self.marker.way, self.marker.begun)
        if following is None:
            return False
        self.marker = replace(self.marker, begun=following)
        _write_marker(self._place, self.marker)
        return True

    def do(self) -> None:
        """Do the step that was begun last; it may have been done before, whole or in part."""
        step = self.marker.begun
        log.info("event=migration_step step=%s way=%s", step.name, self.marker.way.name)
        self._steps[step]()

    # What the steps work on

    @property
    def _to_new(self) -> bool:
        return self.marker.way is Way.TO_NEW

    @cached_property
    def _own(self) -> dict[str, Map]:
        """Every map of which the new generation has its own."""
        return {name: map_ for name, map_ in self._new.items() if not self._is_shared(name)}

    def _transfer(self, name: str) -> Transfer:
        """By today's name; the target of a way back may have an older one."""
        declared = self._place.declared
        found = renamed_map(name, declared, self._own) or name
        (transfer,) = transfers(self._old, {found: self._own[found]}, declared)
        return transfer

    def _loose(self) -> list[Transfer]:
        """The maps of its own that hold no connections, nor the ports for them."""
        declared = self._place.declared
        apart = {renamed_map(name, declared, self._own) for name in together(declared)}
        loose = {name: map_ for name, map_ in self._own.items() if name not in apart}
        return list(transfers(self._old, loose, declared))

    def _is_shared(self, name: str) -> bool:
        if name not in self._old:
            return False
        old, new = (MapInfo(maps[name].fd).id for maps in (self._old, self._new))
        return bool(old == new)

    def _program(self, directory: Path, name: str) -> int:
        fd = open_pinned(directory / PROGRAMS / name)
        self._stack.callback(os.close, fd)
        return fd

    @property
    def _door(self) -> tuple[dict[str, Map], Path]:
        """Maps and pins of the generation that hands over."""
        if self._to_new:
            return self._new, self._place.next
        return self._old, self._place.directory

    @cached_property
    def _merge(self) -> Merge:
        return Merge(self._program(self._door[1], "mg_merge"))

    @cached_property
    def _pairs(self) -> list[Pair]:
        if self.marker.way is Way.PLAIN:
            return []
        return [
            Pair(self._transfer(connection), self._transfer(mapping), self._merge)
            for connection, mapping in FAMILIES
        ]

    # Port ranges

    def _port_maps(self) -> list[Transfer]:
        return [self._transfer(name) for name in port_maps(self._place.declared)]

    def _ranges(self, transfer: Transfer) -> tuple[Ranges, dict[bytes, bytes]]:
        """All ranges by the new map's keys, and the old map's key of each."""
        old = dump(transfer.old)
        converted = transfer.entries()
        names = connections.names(converted.keys)
        old_names = dict(zip(names, connections.names(old.keys), strict=True))
        return connections.ranges_of(converted, dump(transfer.new)), old_names

    def _write_ranges(
        self, transfer: Transfer, old: Ranges, new: Ranges, old_names: Mapping[bytes, bytes]
    ) -> None:
        ours = {old_names[name]: numbers for name, numbers in old.items() if name in old_names}
        connections.write_ranges(transfer.old, ours)
        connections.write_ranges(transfer.new, new)

    def _split(self) -> None:
        for transfer in self._port_maps():
            ranges, old_names = self._ranges(transfer)
            old, new = connections.split_ranges(ranges)
            self._write_ranges(transfer, old, new, old_names)
        wait_for_programs()

    def join_old_ranges(self) -> None:
        """Give every range back to the old programs."""
        for transfer in self._port_maps() if self.marker.way is not Way.PLAIN else ():
            ranges, old_names = self._ranges(transfer)
            self._write_ranges(transfer, ranges, {}, old_names)

    def join_new_ranges(self) -> None:
        """Give every range to the new programs, now that no old one opens ports."""
        for transfer in self._port_maps():
            ranges, old_names = self._ranges(transfer)
            self._write_ranges(transfer, {}, ranges, old_names)

    # Entries

    def _fill(self) -> None:
        for transfer in self._loose():
            entries = transfer.entries()
            if transfer.new.per_cpu:
                transfer.new.update_percpu(*entries)
            else:
                transfer.new.update(*entries)
        for pair in self._pairs:
            pair.fill(mark_closed=self._to_new)

    def _catch_up(self) -> None:
        """The old programs' last writes; array elements are counters, whose last ones are lost."""
        for transfer in self._loose():
            if not transfer.is_array:
                connections.add_missing(transfer.new, transfer.entries())
        if self._to_new:
            for pair in self._pairs:
                pair.catch_up()

    # The hand-over

    def _set_phase(self, *names: str) -> None:
        bits = self._merge.btf.enum("handover_phase")
        self._door[0][PHASE].update_one(0, sum(bits[f"HANDOVER_{name}"] for name in names))
        wait_for_programs()

    def _arm(self) -> None:
        others = self._place.directory if self._to_new else self._place.next
        slots = self._merge.btf.enum("event_point")
        for slot, program in HANDOVER_PROGRAMS.items():
            if (others / PROGRAMS / program).exists():  # a former version may lack it
                fd = self._program(others, program)
                self._door[0][HANDOVER].update_one(slots[slot], fd)
        if self._to_new:
            self._set_phase("MARKED", "UNKNOWN", "ALL")
            return
        self._set_phase("MARKED")
        self._give(closed_only=True)

    def _share(self) -> None:
        self._set_phase(*(("MARKED",) if self._to_new else ("MARKED", "UNKNOWN")))

    def _merge_all(self) -> None:
        if not self._to_new:
            self._give(closed_only=False)
            return
        for pair in self._pairs:
            self._take(pair)

    def _take(self, pair: Pair) -> None:
        ranges = [dump(transfer.new) for transfer in self._port_maps()]
        ports = Ports(ranges, self._place.range_size)
        before, done = pair.take(ports)
        for _ in range(_ROUNDS):
            if done:
                break
            _, done = pair.take(ports)
        wait_for_programs()
        pair.take_flags(before)

    def _give(self, *, closed_only: bool) -> None:
        for pair in self._pairs:
            before = pair.give(closed_only=closed_only)
            wait_for_programs()
            pair.give_flags(before)

    def _give_all(self) -> None:
        self._set_phase("MARKED", "UNKNOWN", "ALL")

    def _end_handover(self) -> None:
        self._set_phase()
        slots = self._merge.btf.enum("event_point")
        for slot in HANDOVER_PROGRAMS:
            self._door[0][HANDOVER].delete_one(slots[slot])

    # Pins

    def _swap(self) -> None:
        relink(self._place.directory, self._place.next / PROGRAMS)
        wait_for_programs()

    def _clear(self) -> None:
        """From here on the pins are a mixture: no generation may be adopted (D7)."""
        directory, fresh = self._place.directory, self._place.next
        (directory / Generation.NAME).unlink(missing_ok=True)
        for name in self._old.keys() - self._new.keys():
            (directory / name).unlink(missing_ok=True)
        for path in _pins(directory / PROGRAMS):
            if not (fresh / PROGRAMS / path.name).exists():
                path.unlink()

    def _put_in_place(self) -> None:
        directory, fresh = self._place.directory, self._place.next
        for path in _pins(fresh):
            if path.is_file() and path.name != MARKER:
                path.rename(directory / path.name)
        for path in _pins(fresh / PROGRAMS):
            path.rename(directory / PROGRAMS / path.name)
        Generation.write(directory, self.marker.digest)
        with suppress(FileNotFoundError):
            (fresh / PROGRAMS).rmdir()
        (fresh / MARKER).unlink()
        fresh.rmdir()
