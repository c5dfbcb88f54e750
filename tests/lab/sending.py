"""Pods of a test that send all the time, and what the legacy server gets, by a capture there."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import yaml
from running import Lab, wait
from wiretap import namespace

from bpf import netns
from mesh.core.files import replace_file

ETH_P_ALL, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 3, 33, 35
EGRESS = {"198.51.100.10", "2001:db8:100::10"}
#: Seconds between two datagrams of one pod and family.
PERIOD_S = 0.01


@dataclass(frozen=True)
class Seen:
    """A datagram at the server: when (Unix time), whose, of which family, with which source."""

    at: float
    name: str
    family: int
    source: str

    @property
    def translated(self) -> bool:
        """Whether it has an egress address."""
        return self.source in EGRESS


class Capture:
    """What arrives at the legacy server's link, with the kernel's time of arrival."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._port, self.seen = port, list[Seen]()
        with netns.enter(namespace(lab, "legacy")):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.settimeout(0.2)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while True:
            try:
                frame, ancillary, _, where = self._socket.recvmsg(2048, 64)
            except TimeoutError:
                if self._ends.is_set():
                    return
                continue
            if where[2] != socket.PACKET_OUTGOING and (one := self._parsed(frame, ancillary)):
                self.seen.append(one)

    def _parsed(self, frame: bytes, ancillary: list[Any]) -> Seen | None:
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
        family, head = frame[14] >> 4, frame[14:]
        size = (head[0] & 15) * 4 if family == 4 else 40
        if head[9 if family == 4 else 6] != socket.IPPROTO_UDP:
            return None
        body, raw = head[size:], head[12:16] if family == 4 else head[8:24]
        if int.from_bytes(body[2:4]) != self._port:
            return None
        name = body[8 : int.from_bytes(body[4:6])].decode(errors="replace")
        return Seen(seconds + nanoseconds / 1e9, name, family, str(ip_address(raw)))

    def of(self, names: Iterable[str]) -> list[Seen]:
        """What has come from these senders."""
        wanted = set(names)
        return [one for one in list(self.seen) if one.name in wanted]


class Senders:
    """Each pod sends its name to both addresses of the server, from the moment it has a namespace.

    ``early`` are those whose first datagram found no network; ``reset`` the pods whose TCP
    connection (``connect``) was reset.
    """

    def __init__(self, lab: Lab, names: Iterable[str]) -> None:
        self._lab, self._missing = lab, set(names)
        legacy = lab.shown["legacy"]
        self._to = [(address, legacy["udp"]) for address in legacy["addresses"]]
        self._tcp = [(address, legacy["tcp"]) for address in legacy["addresses"]]
        self._sockets: list[tuple[str, socket.socket, Any]] = []
        self._streams: list[tuple[str, socket.socket]] = []
        self.early, self.reset = set[str](), set[str]()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        for _, one, _ in self._sockets:
            one.close()
        for _, one in self._streams:
            one.close()

    def connect(self, names: Iterable[str]) -> None:
        """A TCP connection of each pod to each address, which goes on from now on."""
        for name in names:
            for number, to in enumerate(self._tcp):
                made = self._opened(name, number, socket.SOCK_STREAM)
                made.settimeout(5)
                made.connect(to)
                made.setblocking(False)  # noqa: FBT003 - a method of socket
                self._streams.append((f"{name} {number}", made))

    def _opened(self, name: str, number: int, kind: int) -> socket.socket:
        with netns.enter(namespace(self._lab, f"east/shop/{name}")):
            return socket.socket((socket.AF_INET, socket.AF_INET6)[number], kind)

    def _open(self) -> None:
        for name in list(self._missing):
            with suppress(FileNotFoundError, OSError):
                made = [self._opened(name, number, socket.SOCK_DGRAM) for number in (0, 1)]
                for one, to in zip(made, self._to, strict=True):
                    one.setblocking(False)  # noqa: FBT003 - a method of socket
                    self._sockets.append((name, one, to))
                    try:
                        one.sendto(name.encode(), to)
                    except OSError:
                        self.early.add(name)
                self._missing.discard(name)

    def _send(self) -> None:
        while not self._ends.is_set():
            begun = time.monotonic()
            self._open()
            for name, one, to in self._sockets:
                with suppress(OSError):
                    one.sendto(name.encode(), to)
            for name, stream in list(self._streams):
                self._say(name, stream)
            time.sleep(max(0.001, PERIOD_S - (time.monotonic() - begun)))

    def _say(self, name: str, stream: socket.socket) -> None:
        try:
            stream.send(b"x")
            stream.recv(4096)
        except BlockingIOError:
            return
        except (ConnectionResetError, BrokenPipeError):
            self.reset.add(name)


@contextmanager
def pods(lab: Lab, names: Iterable[str], app: str) -> Iterator[dict[str, Path]]:
    """Manifests of pods on east-1 that do nothing themselves; gone afterwards."""
    folder = Path(lab.shown["manifests"]["east"])
    files = {name: folder / f"pod-{name}.yaml" for name in names}
    with ExitStack() as stack:
        stack.callback(_remove, lab, files)
        for name, path in files.items():
            write(path, name, app)
        yield files


def write(path: Path, name: str, app: str) -> float:
    """The manifest of a pod with this label; when it began to be written (Unix time)."""
    container = {"name": "c", "image": "none", "command": ["sleep", "1000000"]}
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": "east-1", "containers": [container]},
    }
    now = time.time()
    replace_file(path, yaml.safe_dump(document), mode=0o644)
    return now


def _remove(lab: Lab, files: dict[str, Path]) -> None:
    for path in files.values():
        path.unlink(missing_ok=True)
    left = [namespace(lab, f"east/shop/{name}") for name in files]
    wait(lambda: not any(one.exists() for one in left), 60, "the pods are gone")
