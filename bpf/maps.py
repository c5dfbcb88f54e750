"""BPF maps as numpy arrays, written and read in batches, and maps as reconciliation targets.

Keys and values of every call are converted to the map's own dtypes: by name from structured
arrays, as they are otherwise.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from bpf.btf import Btf, Dtype
from bpf.sys import Command, MapType, attr, bpf, btf_text, info, open_pinned
from mesh.core.target import RowsFailed

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

#: Entries of one dump call: bigger is faster (100k entries in 15-20 ms), smaller wastes less.
_DUMP_CHUNK = 16384
#: Entries that a target writes before it lets the event loop run again: about 5 ms.
_WRITE_CHUNK = 4096
#: Rows that a target encodes or decodes before it lets the event loop run again: about 3 ms.
_ROW_CHUNK = 512
#: Rows that are encoded one by one: columns cost about 10 µs and then 0.7 µs a row, a row 3 µs.
_FEW = 4
#: No descriptor: a closed map answers EBADF.
_CLOSED = 0xFFFFFFFF
_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


@cache
def possible_cpus() -> int:
    """CPUs that the kernel keeps per-CPU values for."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return max(int(part) for part in text.replace(",", "-").split("-")) + 1


def fill(target: Array, values: Mapping[str, Any]) -> None:
    """Assign fields of a 0-d structured array; KeyError if there is none of a name.

    Nested ones are mappings, or bytes of the whole; an array of them is a sequence of these.
    """
    names = target.dtype.names or ()
    for name, value in values.items():
        if name not in names:
            raise KeyError(f"no field {name}; there are {', '.join(names)}")
        if isinstance(value, Mapping):
            fill(target[name], value)
        elif isinstance(value, bytes) and target.dtype[name].names:
            target[name] = cell(target.dtype[name], value)[0]
        elif (shape := target.dtype[name].shape) and _length(value) != shape[0]:
            raise ValueError(f"{name}: {_length(value)} where {shape[0]} belong")
        elif shape and target.dtype[name].base.names:
            target[name] = cells(target.dtype[name].base, value)
        else:
            target[name] = value


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def cell(dtype: Dtype, item: object) -> Array:
    """One key or value as a one-row array: from its bytes, a mapping, a number or a scalar."""
    if isinstance(item, bytes):
        if len(item) != dtype.itemsize:
            raise ValueError(f"{len(item)} bytes where {dtype.itemsize} belong")
        return np.frombuffer(item, dtype)
    if isinstance(item, Mapping):
        row = np.zeros((), dtype)
        fill(row, item)
        return row.reshape(1)
    return np.array([item], dtype)


def cells(dtype: Dtype, items: Sequence[Any]) -> Array:
    """Keys or values as ``cell`` takes them, in one array; one bad item fails all."""
    if len(items) <= _FEW:
        return np.frombuffer(b"".join([cell(dtype, item).tobytes() for item in items]), dtype)
    kinds = {type(item) for item in items}
    if kinds <= {bytes} and all(len(item) == dtype.itemsize for item in items):
        return np.frombuffer(b"".join(items), dtype)
    if bytes in kinds or (dict in kinds and kinds != {dict}):
        return np.frombuffer(b"".join(cell(dtype, item).tobytes() for item in items), dtype)
    if kinds != {dict}:
        return np.array(items, dtype)
    result = np.zeros(len(items), dtype)
    shapes: dict[tuple[str, ...], list[int]] = {}
    for index, item in enumerate(items):
        shapes.setdefault(tuple(item), []).append(index)
    for places in shapes.values():
        part = np.zeros(len(places), dtype)
        _fill_all(part, [items[index] for index in places])
        result[places] = part
    return result


def _fill_all(target: Array, items: Sequence[Any]) -> None:
    """``fill`` of each row, column by column; the mappings have the same fields."""
    for name in items[0]:
        if name not in (target.dtype.names or ()):
            raise KeyError(f"no field {name}; there are {', '.join(target.dtype.names or ())}")
        column = [item[name] for item in items]
        base = target.dtype[name].base
        if target.dtype[name].names:
            target[name] = cells(target.dtype[name], column)
        else:
            parts = [cells(base, value) for value in column] if base.names else column
            values = np.stack(parts) if base.names else np.array(parts, base)
            if values.shape != target[name].shape:
                raise ValueError(
                    f"{name}: {values.shape[1:]} where {target[name].shape[1:]} belong"
                )
            target[name] = values


def rows(dtype: Dtype, given: Array) -> Array:
    """``given`` in ``dtype``, contiguous: its bytes, or fields copied by name, the rest zero."""
    if given.dtype == dtype:
        return np.ascontiguousarray(given)
    if given.dtype.names is None or dtype.names is None:
        if given.dtype.kind == "V" and given.dtype.names is None:
            given = given.astype(f"V{max(given.dtype.itemsize, dtype.itemsize)}")  # zeros behind
        if given.dtype.kind in "SV" and given.dtype.itemsize == dtype.itemsize:
            return np.ascontiguousarray(given).view(dtype)
        return np.ascontiguousarray(given, dtype)
    if strange := set(given.dtype.names) - set(dtype.names):
        raise KeyError(f"no field {', '.join(sorted(strange))}; there are {', '.join(dtype.names)}")
    result = np.zeros(len(given), dtype)
    for name in given.dtype.names:
        column = rows(dtype[name].base, given[name]) if dtype[name].names else given[name]
        result[name] = column
    return result


class Map:
    """An open map; the descriptor belongs to this object."""

    def __init__(
        self, fd: int, key: Dtype, value: Dtype, type_: int, max_entries: int, *, name: str = ""
    ) -> None:
        self.fd = fd
        self.key = np.dtype(key)
        self.value = np.dtype(value)
        self.type = type_
        self.max_entries = max_entries
        self.name = name

    @classmethod
    def open_pinned(cls, path: Path, *, read_only: bool = False) -> Self:
        """A pinned map with the dtypes that the kernel knows; plain bytes when it knows none."""
        return cls.from_fd(open_pinned(path, read_only=read_only))

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """A map by its descriptor, which the map then owns."""
        about = MapInfo(fd)
        return cls(fd, about.key, about.value, about.type, about.max_entries, name=about.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; the map lives on while pinned or used by a program."""
        if self.fd != _CLOSED:
            os.close(self.fd)
            self.fd = _CLOSED

    # One entry

    def lookup(self, key: object) -> Array | None:
        """The value of ``key`` as a 0-d array, or None; in an LPM trie that of the longest match.

        Per-CPU maps: one row per CPU.
        """
        name, count = cell(self.key, key), self._width()
        found = np.zeros(count, self._stored())
        try:
            bpf(Command.MAP_LOOKUP, self._element(name, found))
        except FileNotFoundError:
            return None
        values = self._values(found)
        return values if self.per_cpu else values.reshape(())

    def update_one(self, key: object, value: object, flags: int = 0) -> None:
        """Write one entry; flags 1: only if absent (FileExistsError), 2: only if there.

        Per-CPU maps: the same value on every CPU.
        """
        name, content = cell(self.key, key), self._everywhere(cell(self.value, value))
        bpf(Command.MAP_UPDATE, self._element(name, content, flags))

    def delete_one(self, key: object) -> bool:
        """Remove one entry; False when it was not there."""
        name = cell(self.key, key)
        try:
            bpf(Command.MAP_DELETE, attr("IIQQQ", self.fd, 0, name.ctypes.data, 0, 0, size=32))
        except FileNotFoundError:
            return False
        return True

    def _element(self, key: Array, value: Array, flags: int = 0) -> Any:
        return attr("IIQQQ", self.fd, 0, key.ctypes.data, value.ctypes.data, flags, size=32)

    # Many entries

    def update(self, keys: Array, values: Array) -> None:
        """Write entries. A failed one does not stop the rest: the first error is raised at the end.

        Not atomic: readers may see some entries before others.
        """
        failed = self.try_update(keys, values)
        if failed:
            _, error = next(iter(failed.items()))
            text = f"{self.name}: {len(failed)} of {len(keys)} rows: {os.strerror(error)}"
            raise RowsFailed(error, text, failed)

    def try_update(self, keys: Array, values: Array) -> dict[int, int]:
        """Write entries; return the errno of each row that failed, by its index."""
        keys, values = rows(self.key, keys), rows(self.value, values)
        if len(keys) != len(values):
            raise ValueError(f"{self.name}: {len(keys)} keys, {len(values)} values")
        failed: dict[int, int] = {}
        start = 0
        while start < len(keys):
            done, error = self._batch(
                Command.MAP_UPDATE_BATCH, (0, 0), keys[start:], values[start:], len(keys) - start
            )
            if error and done == len(keys) - start:  # count untouched: refused as a whole
                raise OSError(error, f"{self.name}: {os.strerror(error)}")
            start += done
            if error:
                failed[start] = error
                start += 1
        return failed

    def update_percpu(self, keys: Array, values: Array) -> None:
        """Write entries of a per-CPU map: ``values[entry, cpu]``."""
        stored = np.zeros(values.shape, self._stored())
        stored["value"] = values
        keys = rows(self.key, keys)
        done, error = self._batch(Command.MAP_UPDATE_BATCH, (0, 0), keys, stored, len(keys))
        if error:
            raise OSError(error, f"{self.name}: {done} of {len(keys)}: {os.strerror(error)}")

    def delete(self, keys: Array) -> None:
        """Remove entries; absent ones are no error."""
        keys = rows(self.key, keys)
        start = 0
        while start < len(keys):
            done, error = self._batch(
                Command.MAP_DELETE_BATCH, (0, 0), keys[start:], None, len(keys) - start
            )
            if error not in (0, errno.ENOENT) or (error and done == len(keys) - start):
                raise OSError(error, f"{self.name}: {os.strerror(error)}")
            start += done + (error == errno.ENOENT)  # the batch stops at a vanished key

    def dump(self, chunk: int = _DUMP_CHUNK) -> tuple[Array, Array]:
        """All keys and values."""
        keys, values = self._dump(self.value, 1, chunk)
        return keys, values.reshape(len(keys))

    def dump_percpu(self, chunk: int = _DUMP_CHUNK) -> tuple[Array, Array]:
        """All keys, and values[entry, cpu]."""
        return self._dump(self._stored(), possible_cpus(), chunk)

    def parts(self, chunk: int = _DUMP_CHUNK) -> Iterator[tuple[Array, Array]]:
        """``dump`` in parts of about ``chunk`` entries."""
        for keys, values in self._parts(self.value, 1, chunk):
            yield keys, values.reshape(len(keys))

    def _dump(self, stored: Dtype, width: int, chunk: int) -> tuple[Array, Array]:
        return self._joined(list(self._parts(stored, width, chunk)))

    def _joined(self, parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        if len(parts) == 1:
            return parts[0]
        return (
            np.concatenate([part[0] for part in parts], dtype=self.key),
            np.concatenate([part[1] for part in parts], dtype=self.value),
        )

    def _parts(self, stored: Dtype, width: int, chunk: int) -> Iterator[tuple[Array, Array]]:
        chunk = max(min(chunk, self.max_entries + 1), 1)  # one more: the end is seen at once
        token = np.zeros(max(self.key.itemsize, 8), np.uint8)  # a bucket number, or a key
        before = 0
        while True:
            keys, values = np.zeros(chunk, self.key), np.zeros((chunk, width), stored)
            done, error = self._batch(
                Command.MAP_LOOKUP_BATCH, (before, token.ctypes.data), keys, values, chunk
            )
            if error == errno.ENOSPC and not done:
                chunk *= 2  # one bucket holds more entries than the chunk
                continue
            if error not in (0, errno.ENOENT):
                raise OSError(error, f"{self.name}: {os.strerror(error)}")
            yield keys[:done], self._values(values[:done])
            if error == errno.ENOENT:  # the end; the rows of this call are valid
                return
            before = token.ctypes.data

    def _batch(
        self,
        command: Command,
        tokens: tuple[int, int],
        keys: Array,
        values: Array | None,
        count: int,
    ) -> tuple[int, int]:
        address = 0 if values is None else values.ctypes.data
        request = attr(
            "QQQQIIQQ", *tokens, keys.ctypes.data, address, count, self.fd, 0, 0, size=56
        )
        try:
            bpf(command, request)
        except OSError as failure:
            return _count(request), failure.errno or errno.EIO  # count says how far it got
        return _count(request), 0

    # Per-CPU values are stored in steps of eight bytes.

    @property
    def per_cpu(self) -> bool:
        """Whether the map keeps one value per CPU."""
        return self.type in _PER_CPU

    def _width(self) -> int:
        return possible_cpus() if self.per_cpu else 1

    def _stored(self) -> Dtype:
        if not self.per_cpu:
            return self.value
        step = -(-self.value.itemsize // 8) * 8
        return np.dtype(
            {"names": ["value"], "formats": [self.value], "offsets": [0], "itemsize": step}
        )

    def _everywhere(self, value: Array) -> Array:
        if not self.per_cpu:
            return value
        raw = np.zeros((possible_cpus(), self._stored().itemsize), np.uint8)
        raw[:, : value.nbytes] = np.frombuffer(value.tobytes(), np.uint8)
        return raw

    def _values(self, stored: Array) -> Array:
        values: Array = stored["value"] if self.per_cpu else stored
        return values


def _count(request: Any) -> int:
    return int(struct.unpack_from("=I", request, 32)[0])


class MapInfo:
    """What the kernel says of a map (struct bpf_map_info of linux/bpf.h).

    Without ``types`` keys and values are plain bytes: the kernel tells more to CAP_SYS_ADMIN only.
    """

    def __init__(self, fd: int, *, types: bool = True) -> None:
        raw = info(fd, 80)
        fields = struct.unpack_from("=6I16s", raw)
        self.type, self.id, self.key_size, self.value_size, self.max_entries, self.flags = fields[
            :6
        ]
        self.name = ctypes.create_string_buffer(fields[6]).value.decode()
        self.btf_id, self._key, self._value = struct.unpack_from("=3I", raw, 64)
        self.key, self.value = self._dtypes() if types else self._plain()

    def _dtypes(self) -> tuple[Dtype, Dtype]:
        if not self.btf_id or not self._key or not self._value:
            return self._plain()
        btf = kernel_btf(self.btf_id)
        return btf.dtype(self._key), btf.dtype(self._value)

    def _plain(self) -> tuple[Dtype, Dtype]:
        return np.dtype(f"V{self.key_size}"), np.dtype(f"V{self.value_size}")


@cache
def kernel_btf(btf_id: int) -> Btf:
    """A BTF object of the kernel, parsed; ids are never used again while the kernel runs."""
    return Btf(btf_text(btf_id))


def program_btf(fd: int) -> Btf:
    """Types of a loaded program's object file."""
    return kernel_btf(struct.unpack_from("=I", info(fd, 132), 128)[0])  # struct bpf_prog_info


class MapTarget:
    """``mesh.core.reconcile.ColumnTarget`` over a map: table fields go to map fields by name.

    ``key`` and ``value`` are the table's dtypes where they differ from the map's: fewer fields
    (the map's others are zero), or plain bytes: the first of the map's, whose others are zero.
    """

    def __init__(
        self, map_: Map, key: npt.DTypeLike | None = None, value: npt.DTypeLike | None = None
    ) -> None:
        self.map = map_
        self.key = map_.key if key is None else np.dtype(key)
        self.value = map_.value if value is None else np.dtype(value)
        rows(map_.key, np.zeros(0, self.key))
        rows(map_.value, np.zeros(0, self.value))

    @property
    def name(self) -> str:
        """The map's name."""
        return self.map.name

    async def read(self) -> tuple[Array, Array]:
        keys, values = list[Array](), list[Array]()
        for part in self.map.parts():
            keys.append(_narrow(self.key, part[0]))
            values.append(_narrow(self.value, part[1]))
            await asyncio.sleep(0)
        return np.concatenate(keys, dtype=self.key), np.concatenate(values, dtype=self.value)

    async def upsert(self, keys: Array, values: Array) -> None:
        failed: dict[int, int] = {}
        for part in _chunks(len(keys)):
            try:
                self.map.update(keys[part], values[part])
            except RowsFailed as error:
                failed |= {part.start + at: number for at, number in error.failed.items()}
            await asyncio.sleep(0)
        if failed:
            number = next(iter(failed.values()))
            text = f"{self.map.name}: {len(failed)} of {len(keys)} rows: {os.strerror(number)}"
            raise RowsFailed(number, text, failed)

    async def delete(self, keys: Array) -> None:
        for part in _chunks(len(keys)):
            self.map.delete(keys[part])
            await asyncio.sleep(0)


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _WRITE_CHUNK):
        yield slice(start, start + _WRITE_CHUNK)


def _narrow(dtype: Dtype, given: Array) -> Array:
    if dtype.kind == "V" and dtype.names is None and dtype.itemsize < given.dtype.itemsize:
        return np.ascontiguousarray(given).view(f"V{given.dtype.itemsize}").astype(dtype)
    if dtype.names is None or given.dtype.names is None or dtype == given.dtype:
        return rows(dtype, given)
    result = np.zeros(len(given), dtype)
    for name in dtype.names:
        result[name] = given[name]
    return result


#: What a row with a wrong value makes encoders, decoders and numpy raise.
_ROW_ERRORS = (KeyError, OverflowError, ValueError)

K = TypeVar("K")
V = TypeVar("V")


class RowTarget(Generic[K, V]):
    """``mesh.core.reconcile.Target`` over a map.

    ``encode`` gives key and value as ``cell`` takes them; ``decode`` is its inverse on 0-d scalars.
    Rows that ``encode`` refuses or that do not fit their fields fail alone; entries that ``decode``
    refuses are nobody's and stay.
    """

    def __init__(
        self,
        map_: Map,
        encode: Callable[[K, V], tuple[object, object]],
        decode: Callable[[Any, Any], tuple[K, V]],
    ) -> None:
        self.map = map_
        self.encode = encode
        self.decode = decode
        self._names: dict[K, bytes] = {}  # the map's keys of rows that are or may be in the map

    @property
    def name(self) -> str:
        """The map's name."""
        return self.map.name

    async def read(self) -> Mapping[K, V]:
        return await self.read_known({})

    async def read_known(self, known: Mapping[K, V]) -> Mapping[K, V]:
        """``read``, decoding only entries that differ from what ``known`` says."""
        there: dict[bytes, bytes] = {}
        for keys, values in self.map.parts():
            there.update(zip(_bytes(keys), _bytes(values), strict=True))
            await asyncio.sleep(0)
        found: dict[K, V] = {}
        self._names = {}
        for chunk in _items(known):
            encoded, _ = self._encode(chunk)
            for key, name, value in encoded.each():
                if there.get(name) == value:
                    found[key], self._names[key] = known[key], name
                    del there[name]
            await asyncio.sleep(0)
        for some in _items(there):
            found.update(self._decoded(some))
            await asyncio.sleep(0)
        return found

    def _decoded(self, entries: Mapping[bytes, bytes]) -> Mapping[K, V]:
        found: dict[K, V] = {}
        keys = np.frombuffer(b"".join(entries), self.map.key)
        values = np.frombuffer(b"".join(entries.values()), self.map.value)
        for index, name in enumerate(entries):
            try:
                key, row = self.decode(keys[index], values[index])
            except _ROW_ERRORS as error:
                text = name.hex()
                log.warning("map=%s entry=%s unreadable: %s", self.map.name, text, error)
                continue
            found[key], self._names[key] = row, name
        return found

    async def upsert(self, rows: Mapping[K, V]) -> dict[K, Exception]:
        errors: dict[K, Exception] = {}
        for chunk in _items(rows):
            encoded, refused = self._encode(chunk)
            errors |= refused
            if encoded.wanted:
                self._names.update((key, name) for key, name, _ in encoded.each())
                failed = self.map.try_update(encoded.keys, encoded.values)
                for index, number in failed.items():
                    text = f"{self.map.name}: {os.strerror(number)}"
                    errors[encoded.wanted[index]] = OSError(number, text)
            if len(rows) > _ROW_CHUNK:
                await asyncio.sleep(0)
        return errors

    def _encode(self, rows: Mapping[K, V]) -> tuple[_Encoded[K], dict[K, Exception]]:
        """Rows as entries; those that cannot be one, with the reason."""
        try:
            pairs = [self.encode(key, row) for key, row in rows.items()]
            return self._entries(list(rows), pairs), {}
        except _ROW_ERRORS:
            return self._encode_each(rows)

    def _encode_each(self, rows: Mapping[K, V]) -> tuple[_Encoded[K], dict[K, Exception]]:
        errors: dict[K, Exception] = {}
        good: dict[K, tuple[bytes, bytes]] = {}
        for key, row in rows.items():
            try:
                name, value = self.encode(key, row)
                entry = cell(self.map.key, name).tobytes(), cell(self.map.value, value).tobytes()
            except _ROW_ERRORS as error:
                errors[key] = error
            else:
                good[key] = entry
        return self._entries(list(good), list(good.values())), errors

    def _entries(self, wanted: list[K], pairs: Sequence[tuple[object, object]]) -> _Encoded[K]:
        keys = cells(self.map.key, [name for name, _ in pairs])
        values = cells(self.map.value, [value for _, value in pairs])
        return _Encoded(wanted, keys, values)

    async def delete(self, keys: Collection[K]) -> dict[K, Exception]:
        names = [self._names.pop(key) for key in keys if key in self._names]
        for part in _chunks(len(names)):
            self.map.delete(np.frombuffer(b"".join(names[part]), self.map.key))
            if len(names) > _WRITE_CHUNK:
                await asyncio.sleep(0)
        return {}


@dataclass(frozen=True, slots=True)
class _Encoded(Generic[K]):
    wanted: list[K]
    keys: Array
    values: Array

    def each(self) -> Iterator[tuple[K, bytes, bytes]]:
        """Rows with the bytes of key and value."""
        return zip(self.wanted, _bytes(self.keys), _bytes(self.values), strict=True)


def _bytes(items: Array) -> list[bytes]:
    raw, step = items.tobytes(), items.dtype.itemsize
    return [raw[at : at + step] for at in range(0, len(raw), step)]


def _items(rows: Mapping[K, V]) -> Iterator[dict[K, V]]:
    """A mapping in chunks."""
    items = iter(rows.items())
    while chunk := dict(islice(items, _ROW_CHUNK)):
        yield chunk
