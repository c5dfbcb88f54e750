"""The node's BPF programs: loaded, or adopted as they are, and attached.

Everything is pinned below one directory of the host: maps by name, programs in ``programs/``,
links in ``links/``. When the pinned generation is exactly what would be loaded (same objects, same
configuration), a new agent adopts it and loads nothing: every map and link id stays. Otherwise
programs are loaded onto the pinned maps and the links are updated in place; no packet is lost. When
a layout, size or flag of a map differs, ``migrate`` makes that change under traffic.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from bpf import build, links
from bpf.btf import Btf
from bpf.libbpf import LoadError
from bpf.maps import Map
from bpf.migrate import Declared, port_sizes
from bpf.netns import enter
from bpf.object import Generation, Object
from bpf.realtime import refuse_realtime
from bpf.sys import MapType, open_pinned
from mesh.core.files import private_folder
from mesh.datapath import migrate
from mesh.datapath.hooks import (
    GUARD,
    GUARD_PROGRAM,
    HOST_PROGRAM,
    POD_PROGRAMS,
    SOCKET_PROGRAMS,
    UPLINK_PROGRAM,
    VXLAN_DEVICE,
    VXLAN_PROGRAM,
    XDP,
    XDP_PROGRAM,
    program_of,
)
from mesh.datapath.layouts import DECLARED

T = TypeVar("T")

OBJECTS = ("pod", "uplink", "xdp", "sock", "sweep")
#: Objects that versions before do not have.
_LATER = ("xdp",)
CONFIG = "cfg"
#: Maps of these types may have another size than the source says.
SIZABLE = (MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE)


class Datapath:
    """Maps and programs of this node below ``directory``, a directory of a bpffs.

    ``sizes`` are entries of maps that are to have others than the source says. ``beside`` another
    CNI programs stand before all others.
    """

    def __init__(
        self,
        directory: Path,
        objects: Path | None = None,
        sizes: Mapping[str, int] = MappingProxyType({}),
        *,
        beside: bool = False,
    ) -> None:
        self._directory = directory
        self._objects = objects or build.HERE / "obj"
        self._sizes, self._beside = sizes, beside
        self._links = directory / "links"
        self._programs_dir = directory / "programs"
        self._programs: dict[str, int] = {}
        self._maps: dict[str, Map] = {}
        self.digest = b""
        self._types: list[Btf] = []
        self.adopted = False

    def start(self, config: Mapping[str, object], declared: Declared = DECLARED) -> None:
        """Load, adopt or migrate; ``declared`` is what the layouts' names cannot tell.

        Raises:
            bpf.migrate.RefusedError: a map cannot be migrated; nothing has changed.
            bpf.libbpf.LoadError: the kernel refuses a program.
            bpf.realtime.RealtimeKernelError: a program may be interrupted by itself.

        """
        refuse_realtime()
        self.close()
        with self._opened(config) as opened:
            self._types = [one.btf for one in opened]
            self._become(opened, config, declared)
        self._programs = {p.name: open_pinned(p) for p in self._programs_dir.iterdir()}

    def become(self, config: Mapping[str, object], declared: Declared = DECLARED) -> None:
        """Make what is pinned, links included, fit the objects, which may be another version's.

        Settings that those do not know are left out. Raises as ``start``.
        """
        with self._opened(config, every=False) as opened:
            self._become(opened, config, declared)
        migrate.relink(self._directory, self._programs_dir)
        Generation.write(self._directory, self.digest)

    @contextmanager
    def _opened(
        self, config: Mapping[str, object], *, every: bool = True
    ) -> Iterator[list[Object]]:
        paths = {name: self._objects / f"{name}.o" for name in OBJECTS}
        with ExitStack() as stack:
            opened = [
                stack.enter_context(Object.open(path))
                for name, path in paths.items()
                if path.exists() or (every and name not in _LATER)
            ]
            set_sizes(opened, self._sizes)
            for one in opened:
                section = one.btf.section(".rodata")
                if CONFIG in section:
                    names = section[CONFIG][1].names or ()
                    known = {name: config[name] for name in config if every or name in names}
                    one.set_config(CONFIG, known)
                one.pin(self._directory)
            yield opened

    def _become(
        self, opened: Collection[Object], config: Mapping[str, object], declared: Declared
    ) -> None:
        for path in (self._directory, self._links, self._programs_dir):
            private_folder(path)
        place = migrate.Place(self._directory, _range_size(config, declared), declared)
        migrate.settle(place)
        self.digest = hashlib.sha256(b"".join(one.digest() for one in opened)).digest()
        self.adopted = Generation.read(self._directory) == self.digest
        if not any(one.has(GUARD_PROGRAM) for one in opened):
            links.detach(self._links / GUARD)  # programs of before do not say that they are ours
        if not any(one.has(XDP_PROGRAM) for one in opened):
            links.detach(self._links / XDP)  # programs of before do not read its notes
        if not self.adopted:
            self._load(place, opened, self.digest)

    def _load(self, place: migrate.Place, opened: Collection[Object], digest: bytes) -> None:
        if migration := migrate.begin(place, opened, digest):
            with closing(migration):
                migration.run()
            return
        for one in opened:
            one.load()
        for one in opened:
            one.pin_programs(self._programs_dir)

    def attach(self, uplink: str, cgroup: Path) -> None:
        """Attach to the uplink, the VXLAN device, the cgroup and every pod that has a link."""
        self._tcx(uplink, "uplink", UPLINK_PROGRAM, ingress=True)
        self._tcx(VXLAN_DEVICE, "vxlan", VXLAN_PROGRAM, ingress=True)
        self._tcx(VXLAN_DEVICE, "host", HOST_PROGRAM, ingress=False)
        for name, attach_type in SOCKET_PROGRAMS.items():
            links.cgroup(self._programs[name], cgroup, attach_type, self._links / name)
        for pin in self._links.glob("mgp*") if self._beside else ():
            program = program_of(pin.name)
            if program and not links.change(self._programs[program], pin):
                pin.unlink()  # its device has gone
        for pin in self._links.glob("mgp*_in") if not self._beside else ():
            device = pin.name.removesuffix("_in")
            try:
                socket.if_nametoindex(device)
            except OSError:
                self.forget(device)
            else:
                self.pod(device)
        self._tcx(uplink, GUARD, GUARD_PROGRAM, ingress=False)  # all others are ours by now
        Generation.write(self._directory, self.digest)

    def attach_xdp(self, uplink: str) -> None:
        """Attach in the uplink's driver, after ``attach``. OSError: the driver cannot."""
        links.xdp(self._programs[XDP_PROGRAM], uplink, self._links / XDP)

    @property
    def has_xdp(self) -> bool:
        """Whether our program stands in a driver."""
        return (self._links / XDP).exists()

    def detach_xdp(self) -> None:
        """Leave all frames to the other programs."""
        links.detach(self._links / XDP)

    def pod(self, device: str) -> None:
        """Attach the pod programs to a host end, or update them."""
        for suffix, program, ingress in POD_PROGRAMS:
            self._tcx(device, f"{device}_{suffix}", program, ingress=ingress)

    def both_ends(self, name: str, device: str, netns: Path, inside: str) -> None:
        """Attach the pod programs to another CNI's veth, or update them; pins begin with ``name``.

        ``device`` is the host's end, ``inside`` the one in the network namespace ``netns``: there
        the program stands that sees what comes into the pod, whichever way it comes.
        """
        ((ingoing, from_pod, _), (outgoing, to_pod, _)) = POD_PROGRAMS
        self._tcx(device, f"{name}_{ingoing}", from_pod, ingress=True)
        with enter(netns):
            self._tcx(inside, f"{name}_{outgoing}", to_pod, ingress=True)

    def detach(self, name: str) -> None:
        """Take the pod programs off the devices of another CNI."""
        for suffix, _, _ in POD_PROGRAMS:
            links.detach(self._links / f"{name}_{suffix}")

    def forget(self, device: str) -> None:
        """Remove the pins of a host end that is gone."""
        for suffix, _, _ in POD_PROGRAMS:
            (self._links / f"{device}_{suffix}").unlink(missing_ok=True)

    def struct(self, name: str) -> np.dtype[Any]:
        """Layout of a struct of any of the objects. Raises KeyError."""
        return self._first(lambda types: types.struct(name))

    def enum(self, name: str) -> Mapping[str, int]:
        """Names and numbers of an enum of any of the objects. Raises KeyError."""
        return self._first(lambda types: types.enum(name))

    def _first(self, look_up: Callable[[Btf], T]) -> T:
        for types in self._types:
            with suppress(KeyError):
                return look_up(types)
        return look_up(self._types[-1])

    def made(self, name: str) -> float:
        """Unix time at which a map was made: its pin is as old, and outlives every agent."""
        return (self._directory / name).stat().st_mtime

    def map(self, name: str) -> Map:
        """A pinned map, opened once."""
        if name not in self._maps:
            self._maps[name] = Map.open_pinned(self._directory / name)
        return self._maps[name]

    def program(self, name: str) -> int:
        """Descriptor of a program."""
        return self._programs[name]

    def close(self) -> None:
        """Give descriptors back; everything stays pinned and attached."""
        for map_ in self._maps.values():
            map_.close()
        for fd in self._programs.values():
            os.close(fd)
        self._maps, self._programs = {}, {}

    def _tcx(self, device: str, name: str, program: str, *, ingress: bool) -> None:
        path, first = self._links / name, self._beside
        links.tcx(self._programs[program], device, path, ingress=ingress, first=first)


def set_sizes(opened: Collection[Object], sizes: Mapping[str, int]) -> None:
    """Give maps these sizes, in every object that has them. Raises ``bpf.libbpf.LoadError``."""
    known = {name for one in opened for name, spec in one.specs.items() if spec.type in SIZABLE}
    for name, entries in sizes.items():
        if name not in known:
            text = f"limits: {name}: expected one of {', '.join(sorted(known))}"
            raise LoadError(errno.EINVAL, text)
        for one in opened:
            if name in one.specs:
                one.set_max_entries(name, entries)


def _range_size(config: Mapping[str, object], declared: Declared) -> int:
    """How many ports a range has; 0: no feature declares ranges."""
    for setting in port_sizes(declared):
        size = config[setting]
        if not isinstance(size, int):
            raise TypeError(f"{setting} is a number, not {size!r}")
        return size
    return 0
