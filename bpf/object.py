"""One object file: open, configure, pin, load; what is pinned and whether it still fits.

    with Object.open(path) as datapath:
        datapath.set_config("cfg", {"cluster": 1})
        datapath.pin(directory)
        datapath.load()

Maps are pinned by name and found again by name, so several objects and several generations share
them. A pinned map whose layout differs from the object's is refused before the load: libbpf
compares sizes only.
"""

import fcntl
import hashlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from bpf import libbpf
from bpf.btf import Btf, MapSpec, differences
from bpf.maps import Map, MapInfo, fill
from bpf.sys import Command, MapType, attr, bpf, mount, open_pinned, pin, replace_pin
from mesh.core.files import private_folder

BPFFS = Path("/sys/fs/bpf")


class DriftError(Exception):
    """Pinned maps have another layout than the object; ``reasons`` name map and field."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Object:
    """An object file on its way into the kernel; descriptors belong to this object until close."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.programs: dict[str, int] = {}
        self.maps: dict[str, Map] = {}
        self._handle = libbpf.open_object(path)
        self._pins: dict[str, Path] = {}
        self.btf = Btf(libbpf.object_btf(self._handle))
        self._specs = self.btf.maps()
        self._sizes = {name: spec.max_entries for name, spec in self._specs.items()}

    @classmethod
    def open(cls, path: Path) -> Self:
        """The object, parsed; ``libbpf.LoadError`` when it is none."""
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give every descriptor back; what is pinned or attached lives on."""
        if self._handle:
            libbpf.close_object(self._handle)
            self._handle = 0
        for map_ in self.maps.values():
            map_.close()
        for fd in self.programs.values():
            os.close(fd)
        self.programs = {}

    # Before the load

    @property
    def specs(self) -> Mapping[str, MapSpec]:
        """The object's map definitions, without its sections."""
        return self._specs

    def set_config(self, name: str, values: Mapping[str, object]) -> None:
        """Assign fields of the read-only variable ``name``; those not named keep their values."""
        variables = self.btf.section(".rodata")
        if name not in variables:
            raise KeyError(f"{self.path.name} has no read-only variable {name}")
        offset, dtype = variables[name]
        target = np.frombuffer(self._rodata(), dtype, 1, offset).reshape(())
        try:
            fill(target, values)
        except KeyError as error:
            raise KeyError(f"{self.path.name} {name}: {error.args[0]}") from None

    def set_max_entries(self, name: str, entries: int) -> None:
        """Give a map another size than the source does."""
        libbpf.set_max_entries(libbpf.maps(self._handle)[name], entries)
        self._sizes[name] = entries

    def has(self, program: str) -> bool:
        """Whether the file has a program of this name."""
        return program in libbpf.programs(self._handle)

    def only(self, *programs: str) -> None:
        """Load these programs and no other."""
        for name, handle in libbpf.programs(self._handle).items():
            libbpf.set_autoload(handle, load=name in programs)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Entries of each map, as they will be."""
        return self._sizes

    def pin(self, directory: Path, elsewhere: Mapping[str, Path] | None = None) -> None:
        """Keep maps by their names in ``directory``: reused when there, else created.

        ``elsewhere`` names the directory of maps that have another one. A map that says
        ``LIBBPF_PIN_NONE`` stays the object's own.
        """
        handles = libbpf.maps(self._handle)
        for name, spec in self._specs.items():
            if spec.private:
                continue
            place = (elsewhere or {}).get(name, directory)
            private_folder(place)
            self._pins[name] = place / name
            libbpf.set_pin_path(handles[name], place / name)

    def digest(self) -> bytes:
        """32 bytes that are equal when file, configuration and map sizes are equal."""
        digest = hashlib.sha256(self.path.read_bytes())
        digest.update(self._rodata().tobytes())
        digest.update(repr(sorted(self._sizes.items())).encode())
        return digest.digest()

    def drift(self, directory: Path) -> list[str]:
        """Sentences on pinned maps that this object cannot share."""
        return self._drift(
            {n: directory / n for n, spec in self._specs.items() if not spec.private}
        )

    def _drift(self, pins: Mapping[str, Path]) -> list[str]:
        found: list[str] = []
        for name, path in pins.items():
            if path.exists():
                reasons = _map_drift(self._specs[name], self._sizes[name], path)
                found += [f"map {name}: {reason}" for reason in reasons]
        return found

    def _rodata(self) -> npt.NDArray[np.uint8]:
        for name, handle in libbpf.maps(self._handle).items():
            if name.endswith(".rodata"):
                return libbpf.section_memory(handle)
        return np.zeros(0, np.uint8)

    # The load

    def load(self) -> None:
        """Create or reuse the maps, verify the programs.

        Raises ``DriftError`` before anything has changed, ``libbpf.LoadError`` with the verifier's
        last lines.
        """
        if reasons := self._drift(self._pins):
            raise DriftError(reasons)
        libbpf.load_object(self._handle, self.path.name)
        handles = libbpf.maps(self._handle)
        self.maps = {name: self._map(name, handles[name]) for name in self._specs}
        for name, handle in libbpf.programs(self._handle).items():
            if (fd := libbpf.program_fd(handle)) is not None:
                self.programs[name] = fd
        libbpf.close_object(self._handle)
        self._handle = 0

    def _map(self, name: str, handle: int) -> Map:
        fd, spec = libbpf.map_fd(handle), self._specs[name]
        if spec.key is None or spec.value is None:
            return Map.from_fd(fd)
        return Map(fd, spec.key, spec.value, spec.type, self._sizes[name], name=name)

    def pin_programs(self, directory: Path) -> None:
        """Keep every program by its name in ``directory``, in place of the one that is there."""
        private_folder(directory)
        for name, fd in self.programs.items():
            replace_pin(fd, directory / name)


def _map_drift(spec: MapSpec, max_entries: int, path: Path) -> list[str]:
    fd = open_pinned(path)
    try:
        pinned = MapInfo(fd)
    finally:
        os.close(fd)
    numbers = (
        ("type", spec.type, pinned.type),
        ("max_entries", max_entries, pinned.max_entries),
        ("map_flags", spec.flags, pinned.flags),
    )
    found = [
        f"{name}: {ours}, pinned: {theirs}" for name, ours, theirs in numbers if ours != theirs
    ]
    if spec.key is not None:
        found += [f"key {reason}" for reason in differences(spec.key, pinned.key)]
    if spec.value is not None:
        found += [f"value {reason}" for reason in differences(spec.value, pinned.value)]
    return found


class Generation:
    """The digest of what is pinned in a directory, so that an equal load can be skipped."""

    NAME = "mg_generation"
    _BYTES = 32

    @classmethod
    def read(cls, directory: Path) -> bytes | None:
        """The digest written last; None when none was."""
        return read_pinned(directory / cls.NAME)

    @classmethod
    def write(cls, directory: Path, digest: bytes) -> None:
        """Remember ``digest``; write it after everything that it stands for is in place."""
        if len(digest) != cls._BYTES:
            raise ValueError(f"a digest has {cls._BYTES} bytes, not {len(digest)}")
        write_pinned(directory / cls.NAME, digest)


def write_pinned(path: Path, text: bytes) -> None:
    """Keep a few bytes in bpffs, in a map of one entry; always the same number under one name."""
    if not path.exists():
        fd = _create_array(path.name, len(text))
        try:
            pin(fd, path)
        finally:
            os.close(fd)
    with Map.open_pinned(path) as map_:
        map_.update_one(struct.pack("=I", 0), text)


def read_pinned(path: Path) -> bytes | None:
    """What ``write_pinned`` wrote last; None when nothing was."""
    try:
        map_ = Map.open_pinned(path)
    except FileNotFoundError:
        return None
    with map_:
        value = map_.lookup(struct.pack("=I", 0))
    return None if value is None else value.tobytes()


def _create_array(name: str, value_bytes: int) -> int:
    text = [int.from_bytes(name.encode().ljust(16, b"\0")[at : at + 8], "little") for at in (0, 8)]
    # map_type, key_size, value_size, max_entries, map_flags, inner_map_fd, numa_node, map_name
    request = attr("7IQQ", MapType.ARRAY, 4, value_bytes, 1, 0, 0, 0, *text, size=72)
    return bpf(Command.MAP_CREATE, request)


def mount_bpffs(path: Path = BPFFS) -> bool:
    """Mount bpffs at ``path`` when there is none; say whether that was done.

    Two processes that find none take turns: a second mount would hide the pins of the first.
    """
    if _has_bpffs(path):
        return False
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if _has_bpffs(path):
            return False
        mount("bpf", path, "mode=0700")
    finally:
        os.close(folder)
    return True


def _has_bpffs(path: Path) -> bool:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return [str(path), "bpf"] in mounts
