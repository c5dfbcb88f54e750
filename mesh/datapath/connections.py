"""Connections and their translations on their way from one generation's maps to the other's.

``Pair`` is one address family. A *mark* (``CONNECTION_HANDED``) on an entry of the generation whose
programs hand over says that the other generation has the connection (``bpf/include/handover.h``).
Marked entries are changed by ``mg_merge`` only, never written over: a packet may change one at any
time.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.btf import Btf
from bpf.maps import Map, program_btf
from bpf.migrate import Declared, Entries, Transfer, dump, field, fields, port_maps
from bpf.testrun import call_each

Array = npt.NDArray[Any]

FAMILIES = (("mg_ct_v4", "mg_nat_v4"), ("mg_ct_v6", "mg_nat_v6"))
IPPROTO_TCP = 6
_NOEXIST, _EXIST = 1, 2  # BPF_NOEXIST, BPF_EXIST


def together(declared: Declared) -> tuple[str, ...]:
    """Maps that change hands together: a mapping is nothing without its connection and its port."""
    return (*(name for family in FAMILIES for name in family), *port_maps(declared))


class Flags:
    """Bits of ``connection.flags``, as the programs that hand over name them."""

    def __init__(self, btf: Btf) -> None:
        bits = btf.enum("connection_flag")
        self.handed = bits["CONNECTION_HANDED"]
        self.reset = bits["CONNECTION_RST"]
        self.ended = bits["CONNECTION_FIN"] | bits["CONNECTION_REPLY_FIN"]
        self._stream = bits.get("CONNECTION_STREAM", 0)
        self.half_open = bits.get("CONNECTION_HALF_OPEN", 0)
        self.all = ~self.handed & 0xFFFFFFFF

    def closed(self, flags: Array) -> npt.NDArray[np.bool_]:
        """As ``is_closed`` of ``bpf/include/conntrack.h``."""
        closed: npt.NDArray[np.bool_] = flags & self.reset != 0
        closed |= flags & self.ended == self.ended
        return closed

    def takeable(self, keys: Array, values: Array) -> npt.NDArray[np.bool_]:
        """Of connections, whether their programs may give the port to another one at any time.

        Those are closed, or datagrams that are no stream yet (``bpf/include/nat.h``).
        """
        flags = values["flags"]
        takeable = self.closed(flags)
        if self._stream:
            takeable |= (keys["protocol"] != IPPROTO_TCP) & (flags & self._stream == 0)
        takeable &= _translated(values)
        return takeable


class Merge:
    """``mg_merge``: entries of the generation that hands over."""

    def __init__(self, program: int) -> None:
        self.btf = btf = program_btf(program)
        self._program = program
        self._argument = btf.struct("merge")
        self._actions = btf.enum("merge_action")
        self.flags = Flags(btf)

    def __call__(self, action: str, keys: Array, values: Array | None = None) -> bool:
        """Whether every entry was one for the action."""
        rows: Array = np.zeros(len(keys), self._argument)
        _widen(rows["original"], keys)
        if values is not None:
            rows["connection"] = values
        rows["action"] = self._actions[action]
        call_each(self._program, rows)
        return bool(rows["merged"].all())


def _widen(target: Array, keys: Array) -> None:
    """Connections' keys as ``struct tuple``, whose addresses hold both families."""
    for name in keys.dtype.names or ():
        if keys.dtype[name] == target.dtype[name]:
            target[name] = keys[name]
        else:
            target[name]["w"] = _wide(keys[name])


class Table:
    """A dump with its rows by key."""

    def __init__(self, entries: Entries) -> None:
        self.keys, self.values = entries
        self.names = names(self.keys)
        self.rows = dict(zip(self.names, range(len(self.names)), strict=True))

    def value(self, name: bytes) -> Array | None:
        """The value of a key."""
        row = self.rows.get(name)
        return None if row is None else self.values[row]


def names(rows: Array) -> list[bytes]:
    """Each row as its bytes."""
    texts: list[bytes] = np.ascontiguousarray(rows).view(f"V{rows.dtype.itemsize}").tolist()
    return texts


def write_changes(target: Map, wanted: Table) -> None:
    """Make the map equal to ``wanted``: rows that differ are written, others deleted last."""
    found = Table(dump(target))
    there = dict(zip(found.names, names(found.values), strict=True))
    rows = [
        row
        for row, (name, value) in enumerate(
            zip(wanted.names, names(wanted.values), strict=True)
        )
        if there.get(name) != value
    ]  # fmt: skip
    target.update(wanted.keys[rows], wanted.values[rows])
    gone = [row for name, row in found.rows.items() if name not in wanted.rows]
    target.delete(found.keys[gone])


def _write_rows(target: Map, wanted: Table, found: Table, chosen: npt.NDArray[np.bool_]) -> None:
    """Write the chosen rows that differ from what was found in the map."""
    there = dict(zip(found.names, names(found.values), strict=True))
    texts = names(wanted.values)
    rows = [row for row in np.flatnonzero(chosen) if there.get(wanted.names[row]) != texts[row]]
    target.update(wanted.keys[rows], wanted.values[rows])


def add_missing(target: Map, wanted: Entries) -> None:
    """Write the rows whose keys the map does not have."""
    there = Table(dump(target)).rows
    for row, name in enumerate(names(wanted.keys)):
        if name not in there:
            insert(target, wanted.keys[row], wanted.values[row])


def insert(target: Map, key: Array, value: Array, flags: int = _NOEXIST) -> bool:
    """Write one row; False when a packet was faster, or the key has gone."""
    with suppress(FileExistsError, FileNotFoundError):
        target.update_one(key.tobytes(), value.tobytes(), flags)
        return True
    return False


class Pair:
    """One family, from the old maps to the new; ``merge`` belongs to the side that hands over."""

    def __init__(self, connections: Transfer, mappings: Transfer, merge: Merge) -> None:
        self._from, self._to = connections.old, connections.new
        self._connection_transfer, self._mapping_transfer = connections, mappings
        self._to_mappings = mappings.new
        self._merge = merge
        self._flags = merge.flags

    # What the old maps hold, in the new layout

    def _connections(self) -> Table:
        return self._connections_of(dump(self._from))

    def _connections_of(self, old: Entries) -> Table:
        entries = self._connection_transfer.convert(old)
        entries.values["flags"] &= np.uint32(self._flags.all)
        return Table(entries)

    def _mappings(self) -> Table:
        return Table(self._mapping_transfer.entries())

    def _marked(self, table: Table) -> npt.NDArray[np.bool_]:
        marked: npt.NDArray[np.bool_] = table.values["flags"] & self._flags.handed != 0
        return marked

    def fill(self, *, mark_closed: bool) -> None:
        """Make the new maps equal to the old ones, while old programs alone run.

        ``mark_closed``: the port of a closed connection, or of a one-shot, may go to another one at
        any time, so it stays with the old programs to the end.
        """
        mappings, connections = self._mappings(), self._connections()
        if mark_closed:
            rows = self._flags.takeable(connections.keys, connections.values)
            connections.values["flags"][rows] |= np.uint32(self._flags.handed)
        write_changes(self._to_mappings, mappings)
        write_changes(self._to, connections)

    # To the new side, whose programs hand over

    def catch_up(self) -> None:
        """Note what differs, while every packet goes to the old programs.

        What they change from now on is marked by the new ones. What they changed before is marked
        here, or copied when the new maps do not have it.
        """
        old = self._connections()
        new = Table(dump(self._to))
        self._add_closed_marked(
            old, [row for name, row in old.rows.items() if name not in new.rows]
        )
        gone = [row for name, row in new.rows.items() if name not in old.rows]
        ours, theirs = _common(new, old)
        turned = ours[self._turned(old.values[theirs], new.values[ours])]
        marked = self._marked(new)
        rows = [row for row in (*gone, *turned.tolist()) if not marked[row]]
        self._merge("MERGE_MARK", new.keys[rows])
        write_changes(self._to_mappings, self._mappings())

    def _add_closed_marked(self, old: Table, rows: list[int]) -> None:
        values = old.values[rows]
        takeable = self._flags.takeable(old.keys[rows], values)
        values["flags"][takeable] |= np.uint32(self._flags.handed)
        for row, value in zip(rows, values, strict=True):
            insert(self._to, old.keys[row], value)

    def _turned(self, old: Array, new: Array) -> npt.NDArray[np.bool_]:
        """Of two states of connections, whether more differs than what the next packet corrects."""
        differ: npt.NDArray[np.bool_] = (
            old["translated"]["w"] != new["translated"]["w"]
        ).any(axis=-1)  # fmt: skip
        differ |= old["translated_port"] != new["translated_port"]
        differ |= old["opened"] != new["opened"]
        turns = self._flags.reset | self._flags.ended | self._flags.half_open
        differ |= (old["flags"] ^ new["flags"]) & turns != 0
        return differ

    def take(self, ours: Ports) -> tuple[Table, bool]:
        """Give every marked connection to the new programs; return the old ones as they were.

        ``ours`` are the ports that the new programs may open. False when a packet came between, so
        that another round is due.
        """
        mappings, old = self._mappings(), self._connections()
        new = Table(dump(self._to))
        marked = {new.names[row] for row in np.flatnonzero(self._marked(new))}
        lost = self._take_mappings(mappings, marked, ours)
        kept = [name for name in marked if name in old.rows and name not in lost]
        rows = [old.rows[name] for name in kept]
        done = self._merge("MERGE_TAKE", old.keys[rows], old.values[rows])
        gone = [new.rows[name] for name in marked.difference(kept)]
        done &= self._merge("MERGE_GIVE_UP", new.keys[gone])
        self._add_unseen(old, new, lost)
        return old, done

    def _take_mappings(self, old: Table, marked: set[bytes], ours: Ports) -> set[bytes]:
        """Mappings of marked connections; returns the connections whose port is another's by now.

        A mapping here that the old side does not have any more is left to the sweep.
        """
        new = Table(dump(self._to_mappings))
        owners = names(_originals(old.keys, old.values))
        mine = np.array([owner in marked for owner in owners], bool)
        absent = np.array([name not in new.rows for name in old.names], bool)
        for row in np.flatnonzero(mine & absent):
            insert(self._to_mappings, old.keys[row], old.values[row])
        rows, there = _common(old, new)
        other = mine[rows] & ~_same_pod(old.values[rows], new.values[there])
        here = ours.holds(old.keys[rows[other]])
        for row in rows[other][~here]:
            insert(self._to_mappings, old.keys[row], old.values[row], _EXIST)
        return {owners[row] for row in rows[other][here]}

    def _add_unseen(self, old: Table, new: Table, lost: set[bytes]) -> None:
        """Copy the connections that the old programs opened by a packet in the other direction."""
        rows = [row for name, row in old.rows.items() if name not in new.rows and name not in lost]
        keys, values = old.keys[rows], old.values[rows]
        translated = _translated(values)
        mappings = Table(dump(self._to_mappings))
        for row, reply in enumerate(names(_replies(keys, values))):
            mapping = mappings.value(reply)
            if not translated[row] or (
                mapping is not None and _is_of(mapping, keys[row : row + 1])
            ):
                insert(self._to, keys[row], values[row])

    def take_flags(self, before: Table) -> None:
        """Flags that packets on their way set on the old side after ``take`` had looked."""
        now = self._connections()
        rows, known = _common(now, before)
        flags, former = now.values["flags"][rows], before.values["flags"][known]
        fresh = (flags & ~former) | (former & ~flags & self._flags.half_open) != 0
        self._merge("MERGE_FLAGS", now.keys[rows[fresh]], now.values[rows[fresh]])

    # From the old side, whose programs hand over

    def give(self, *, closed_only: bool) -> Table:
        """Give unmarked connections to the new programs; return the old ones as they were.

        The new side is read first: what its programs have opened is marked on the old side by then.
        """
        there = Table(dump(self._to))
        source = Entries(*dump(self._from))
        marked = source.values["flags"] & self._flags.handed != 0
        table = self._connections_of(source)
        self._give_mappings({table.names[row] for row in np.flatnonzero(~marked)})
        chosen = ~marked
        if closed_only:
            chosen &= self._flags.takeable(table.keys, table.values)
        _write_rows(self._to, table, there, ~marked)
        self._merge("MERGE_GIVE", source.keys[chosen])
        if closed_only:  # the new programs have opened nothing yet
            gone = [row for name, row in there.rows.items() if name not in table.rows]
            self._to.delete(there.keys[gone])
        return table

    def _give_mappings(self, owners: set[bytes]) -> None:
        """Mappings of connections that are the old side's until now."""
        wanted = self._mappings()
        there = Table(dump(self._to_mappings))
        whose = names(_originals(wanted.keys, wanted.values))
        chosen = np.array([owner in owners for owner in whose], bool)
        _write_rows(self._to_mappings, wanted, there, chosen)

    def give_flags(self, before: Table) -> None:
        """What packets on their way changed on the old side after ``give`` had looked."""
        now = self._connections()
        rows, known = _common(now, before)
        turned = rows[self._turned(now.values[rows], before.values[known])]
        self._give_mappings({now.names[row] for row in turned})
        self._to.update(now.keys[turned], now.values[turned])


def _common(one: Table, other: Table) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The rows of both tables that have the same key."""
    pairs = [(row, other.rows[name]) for name, row in one.rows.items() if name in other.rows]
    found = np.array(pairs, np.intp).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _translated(values: Array) -> npt.NDArray[np.bool_]:
    translated: npt.NDArray[np.bool_] = (values["translated"]["w"] != 0).any(axis=-1)
    return translated


def _same_pod(one: Array, other: Array) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = (one["pod"]["w"] == other["pod"]["w"]).all(axis=-1)
    same &= one["pod_port"] == other["pod_port"]
    if _has_zone(one):
        same &= one["zone"] == other["zone"]
    return same


def _put_address(target: Array, name: str, address: Array) -> None:
    """Addresses into a key: IPv4 in native width, or as they are."""
    if target.dtype[name] == address.dtype:
        target[name] = address
    else:
        target[name] = address["w"][..., 3]


def _originals(keys: Array, mappings: Array) -> Array:
    """The openers' tuples behind mappings, as ``original_tuple`` of ``bpf/include/nat.h``."""
    found = keys.copy()
    found["destination"], found["destination_port"] = keys["source"], keys["source_port"]
    _put_pod(found, mappings)
    return found


def _replies(keys: Array, connections: Array) -> Array:
    """The tuples of replies to translated connections, as ``reply_tuple`` of ``nat.h``."""
    found = keys.copy()
    found["source"], found["source_port"] = keys["destination"], keys["destination_port"]
    _put_address(found, "destination", connections["translated"])
    found["destination_port"] = connections["translated_port"]
    if _has_zone(found):
        found["zone"] = 0  # the world's
    return found


def _put_pod(keys: Array, mappings: Array) -> None:
    _put_address(keys, "source", mappings["pod"])
    keys["source_port"] = mappings["pod_port"]
    if _has_zone(keys):
        keys["zone"] = mappings["zone"]


def _has_zone(rows: Array) -> bool:
    """Whether the layout has one: a former version's, to which the way back leads, does not."""
    return "zone" in (rows.dtype.names or ())


def _is_of(mapping: Array, key: Array) -> bool:
    owner = key.copy()
    _put_pod(owner, mapping)
    return owner.tobytes() == key.tobytes()


# Port ranges

Ranges = dict[bytes, list[int]]


def ranges_of(*tables: Entries) -> Ranges:
    """Block numbers by the key of their egress address, of all tables together, in order."""
    found: dict[bytes, set[int]] = {}
    for keys, values in tables:
        for name, row in zip(names(keys), values, strict=True):
            found.setdefault(name, set()).update(row["number"][: row["count"]].tolist())
    return {name: sorted(numbers) for name, numbers in found.items()}


def split_ranges(ranges: Ranges) -> tuple[Ranges, Ranges]:
    """The parts of the old and the new generation; a single range is the old one's."""
    old = {name: numbers[: (len(numbers) + 1) // 2] for name, numbers in ranges.items()}
    new = {name: numbers[len(old[name]) :] for name, numbers in ranges.items()}
    return old, new


def write_ranges(target: Map, ranges: Ranges) -> None:
    """Write the ranges of each address; keys are the map's own."""
    for name, numbers in ranges.items():
        value = target.lookup(name)
        row: Array = np.zeros((), target.value) if value is None else value.copy()
        row["number"] = 0
        row["number"][: len(numbers)] = numbers
        row["count"] = len(numbers)
        target.update_one(name, row.tobytes())


class Ports:
    """Ports of a generation: which mappings may only its programs open.

    A range's number has its size in the upper half where that is not ``range_size``.
    """

    def __init__(self, tables: Iterable[Entries], range_size: int) -> None:
        self._size = range_size
        self._numbers: dict[bytes, set[int]] = {}
        for ranges in tables:
            key = fields(ranges.keys.dtype, np.dtype("u4"))
            (path,) = [path for path in key if path.endswith("w")]
            for address, row in zip(field(ranges, path), ranges.values, strict=True):
                numbers = row["number"][: row["count"]].tolist()
                self._numbers.setdefault(address.tobytes(), set()).update(numbers)
        self._sizes = {name: {one >> 16 for one in of} for name, of in self._numbers.items()}

    def holds(self, mappings: Array) -> npt.NDArray[np.bool_]:
        """Of each reply's tuple, whether its port is in one of the ranges."""
        addresses = _wide(mappings["destination"])
        ports = mappings["destination_port"].astype(int) - 1024
        return np.array(
            [
                self._has(address.tobytes(), int(port))
                for address, port in zip(addresses, ports, strict=True)
            ],
            bool,
        )

    def _has(self, address: bytes, port: int) -> bool:
        sizes, numbers = self._sizes.get(address, ()), self._numbers.get(address, ())
        return any(size << 16 | port // (size or self._size) in numbers for size in sizes)


def _wide(addresses: Array) -> Array:
    """Addresses as the words of ``struct addr``."""
    if addresses.dtype.names:
        words: Array = addresses["w"]
        return words
    words = np.zeros((len(addresses), 4), ">u4")
    words[:, 2], words[:, 3] = 0xFFFF, addresses
    return words
