"""BTF to numpy dtypes: the only source of layouts in Python; nothing is mirrored by hand.

Typedefs ``__be16/32/64`` become big-endian numbers, so Python assigns host integers and the bytes
are right. Anonymous unions become overlapping fields. Bitfields are refused.

``np.concatenate``, ``stack`` and ``where`` return a promoted dtype (native byte order, offsets
lost): pass ``dtype=`` to them. The map door converts whatever it is given.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

Dtype = np.dtype[Any]


class Kind(IntEnum):
    """BTF_KIND_* of linux/btf.h."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_TAIL = {Kind.INT: "=I", Kind.ARRAY: "=3I", Kind.VAR: "=I", Kind.DECL_TAG: "=I"}
_EACH = {
    Kind.STRUCT: "=3I",
    Kind.UNION: "=3I",
    Kind.ENUM: "=Ii",
    Kind.FUNC_PROTO: "=2I",
    Kind.DATASEC: "=3I",
    Kind.ENUM64: "=3I",
}
_ALIASES = {
    Kind.TYPEDEF,
    Kind.VOLATILE,
    Kind.CONST,
    Kind.RESTRICT,
    Kind.TYPE_TAG,
    Kind.VAR,
}
_NETWORK_ORDER = {"__be16": ">u2", "__be32": ">u4", "__be64": ">u8"}
#: Structs of the kernel within values: user space reads zeros, and what it writes there is lost.
_OPAQUE = ("bpf_timer",)
_SIGNED, _BOOL = 1, 4  # bits of an INT's encoding


@dataclass(frozen=True, slots=True)
class Type:
    """One BTF type: ``size`` is a size or the id of the type referred to, ``items`` the members."""

    kind: Kind
    name: str
    size: int
    flag: bool
    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A ``SEC(".maps")`` definition; no dtype where the definition has none (ring buffers)."""

    type: int
    max_entries: int
    flags: int
    key: Dtype | None
    value: Dtype | None
    private: bool = False  #: ``LIBBPF_PIN_NONE`` stands in the source: of one object alone


class Btf:
    """All types of one object file or of one loaded BTF; ids are indexes into ``types``."""

    def __init__(self, raw: bytes) -> None:
        header, types, length, strings = struct.unpack_from("=4I", raw, 4)
        self._raw, self._strings = raw, header + strings
        self.types = [Type(Kind.VOID, "", 0, flag=False, items=())]
        self._read(header + types, header + types + length)

    def _read(self, at: int, end: int) -> None:
        while at < end:
            name, about, size = struct.unpack_from("=3I", self._raw, at)
            at += 12
            kind, count = Kind(about >> 24 & 31), about & 0xFFFF
            items: tuple[Any, ...] = ()
            if kind in _TAIL:
                items = struct.unpack_from(_TAIL[kind], self._raw, at)
                at += struct.calcsize(_TAIL[kind])
            elif kind in _EACH:
                span = struct.calcsize(_EACH[kind]) * count
                items = tuple(struct.iter_unpack(_EACH[kind], self._raw[at : at + span]))
                at += span
            self.types.append(Type(kind, self._name(name), size, bool(about >> 31), items))

    def _name(self, offset: int) -> str:
        start = self._strings + offset
        return self._raw[start : self._raw.index(b"\0", start)].decode()

    def find(self, kinds: tuple[Kind, ...], name: str) -> int:
        """Id of the first type of that name; KeyError names it."""
        for number, item in enumerate(self.types):
            if item.name == name and item.kind in kinds:
                return number
        raise KeyError(f"no {'/'.join(kind.name.lower() for kind in kinds)} {name} in BTF")

    def struct(self, name: str) -> Dtype:
        """The dtype of ``struct name``."""
        return self.dtype(self.find((Kind.STRUCT, Kind.UNION), name))

    def enum(self, name: str) -> dict[str, int]:
        """The values of ``enum name`` by their names."""
        item = self.types[self.find((Kind.ENUM, Kind.ENUM64), name)]
        if item.kind == Kind.ENUM:
            return {self._name(entry): value for entry, value in item.items}
        return {self._name(entry): low | high << 32 for entry, low, high in item.items}

    def dtype(self, number: int) -> Dtype:
        """The dtype of a type id."""
        item = self.types[number]
        if item.kind == Kind.TYPEDEF and item.name in _NETWORK_ORDER:
            return np.dtype(_NETWORK_ORDER[item.name])
        if item.kind in _ALIASES:
            return self.dtype(item.size)
        if item.kind == Kind.STRUCT and item.name in _OPAQUE:
            return np.dtype(f"V{item.size}")
        if item.kind in (Kind.STRUCT, Kind.UNION):
            return self._record(item)
        if item.kind == Kind.ARRAY:
            return self._array(item)
        return self._scalar(item)

    def _scalar(self, item: Type) -> Dtype:
        match item.kind:
            case Kind.INT:
                encoding = item.items[0] >> 24 & 15
                if encoding & _BOOL:
                    return np.dtype("?")
                return np.dtype(f"{'i' if encoding & _SIGNED else 'u'}{item.size}")
            case Kind.ENUM | Kind.ENUM64:
                return np.dtype(f"{'i' if item.flag or _has_negative(item) else 'u'}{item.size}")
            case Kind.PTR:
                return np.dtype("u8")
            case Kind.FLOAT:
                return np.dtype(f"f{item.size}")
        raise ValueError(f"BTF {item.kind.name} {item.name} has no dtype")

    def _array(self, item: Type) -> Dtype:
        of, _, count = item.items
        if self.types[of].kind == Kind.INT and self.types[of].name == "char":
            return np.dtype(f"S{count}")
        base, shape = self.dtype(of).subdtype or (self.dtype(of), ())
        return np.dtype((base, (count, *shape)))

    def _record(self, item: Type) -> Dtype:
        members = list(self._members(item, 0))
        return np.dtype(
            {
                "names": [name for name, _, _ in members],
                "formats": [layout for _, layout, _ in members],
                "offsets": [offset for _, _, offset in members],
                "itemsize": item.size,
            }
        )

    def _members(self, item: Type, base: int) -> Iterator[tuple[str, Dtype, int]]:
        for entry, number, bits in item.items:
            if bits & 7 or (item.flag and bits >> 24):
                raise ValueError(f"bitfield {self._name(entry)} in struct {item.name}")
            offset = base + (bits & 0xFFFFFF if item.flag else bits) // 8
            if name := self._name(entry):
                yield name, self.dtype(number), offset
            else:
                yield from self._members(self.types[number], offset)

    def section(self, name: str) -> dict[str, tuple[int, Dtype]]:
        """Variables of ``.rodata``, ``.bss``, …: name -> offset, dtype. Empty without a section."""
        found = [item for item in self.types if item.kind == Kind.DATASEC and item.name == name]
        return {
            self.types[variable].name: (offset, self.dtype(variable))
            for item in found
            for variable, offset, _ in item.items
        }

    def maps(self) -> dict[str, MapSpec]:
        """The map definitions of an object file by name."""
        found = [item for item in self.types if item.kind == Kind.DATASEC and item.name == ".maps"]
        return {
            self.types[variable].name: self._map(self.types[self.types[variable].size])
            for item in found
            for variable, _, _ in item.items
        }

    def _map(self, item: Type) -> MapSpec:
        fields = {self._name(entry): number for entry, number, _ in item.items}
        numbers = {name: self._number(fields[name]) for name in _NUMBERS if name in fields}
        layouts = {
            name: self.dtype(self.types[fields[name]].size)
            for name in ("key", "value")
            if name in fields
        }
        return MapSpec(
            numbers.get("type", 0),
            numbers.get("max_entries", 0),
            numbers.get("map_flags", 0),
            layouts.get("key"),
            layouts.get("value"),
            private=numbers.get("pinning") == 0,
        )

    def _number(self, number: int) -> int:
        # __uint(name, n) of bpf_helpers.h is a pointer to an array of n integers.
        return int(self.types[self.types[number].size].items[2])


def _has_negative(item: Type) -> bool:
    # The flag for signed enums is younger than clang 14.
    return item.kind == Kind.ENUM and any(value < 0 for _, value in item.items)


_NUMBERS = ("type", "max_entries", "map_flags", "pinning")


def layout(dtype: Dtype, path: str = "", offset: int = 0) -> dict[str, str]:
    """Every leaf field by its dotted path: what it is and where it stands."""
    base, shape = dtype.subdtype or (dtype, ())
    if base.fields is None:
        return {path: f"{base.str}{list(shape) if shape else ''} at {offset}"}
    if shape:
        path += str(list(shape))
    leaves: dict[str, str] = {}
    for name, field in base.fields.items():
        leaves.update(layout(field[0], f"{path}.{name}" if path else name, offset + field[1]))
    return leaves


def differences(ours: Dtype, theirs: Dtype) -> list[str]:
    """Sentences on fields that differ, moved, came or went; empty when the layouts are equal."""
    left, right = layout(ours), layout(theirs)
    found: list[str] = []
    for path in {**left, **right}:
        here, there = left.get(path, "absent"), right.get(path, "absent")
        if here != there:
            found.append(f"field {path or '(whole)'}: {here}, pinned: {there}")
    if ours.itemsize != theirs.itemsize:
        found.append(f"size: {ours.itemsize}, pinned: {theirs.itemsize}")
    return found
