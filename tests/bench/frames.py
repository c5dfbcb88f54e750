"""Live frames into a device, and the count of what came out at the other end.

Method of every datapath figure: CPU time of the calling thread around one BPF_PROG_RUN system call
with live frames, and that of ksoftirqd of its CPU, divided by packets. All work of the path runs in
this thread when the kernel ends a batch.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from bpf import links, netns
from bpf.object import Object
from bpf.sys import Command, attr, bpf

OBJECT = "frames.o"
HEAD = 80
PAYLOAD = 22
XDP_PASS = 2
LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h
BATCH = 64
ETHERNET = 14
UDP, TCP, SYN = 17, 6, 2
SOURCE_PORT, DESTINATION_PORT = 20000, 7000
IP = IPv4Address | IPv6Address


class BenchError(Exception):
    """A figure cannot be believed; the text says why."""


@dataclass(frozen=True, slots=True)
class Flows:
    """What is sent: UDP, or a SYN each, from one address to another, over ``count`` flows."""

    source: str
    destination: str
    count: int = 1024
    source_ports: int = 1024
    syn: bool = False

    @property
    def version(self) -> int:
        """4 or 6."""
        return ip_address(self.source).version


@dataclass(frozen=True, slots=True)
class Way:
    """Where frames go in, and where they are expected with which source."""

    space: Path
    device: str
    mac: str
    sink_space: Path
    sink_device: str
    arrives_from: str


class Measurement:
    """Generator and sink of one flow description; a context manager."""

    def __init__(self, objects: Path, pins: Path, way: Way, flows: Flows) -> None:
        self._way = way
        self._pin = pins / "mgb_sink"
        self._object = Object.open(objects / OBJECT)
        self._object.set_config("frame", _frame(flows, way.mac))
        self._object.set_config("wanted", _wanted(way.arrives_from))
        self._object.load()
        self._size = _header_bytes(flows) + PAYLOAD
        self._sent = 0

    def __enter__(self) -> Self:
        with netns.enter(self._way.sink_space):
            links.tcx(self._object.programs["sink"], self._way.sink_device, self._pin, ingress=True)
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        links.detach(self._pin)
        self._object.close()

    def run(self, packets: int) -> float:
        """CPU ns per packet. Raises BenchError when not every packet has arrived."""
        with netns.enter(self._way.space):
            ifindex = socket.if_nametoindex(self._way.device)
            before, kernel = time.thread_time_ns(), _ksoftirqd_ns()
            self._inject(ifindex, packets)
            spent = time.thread_time_ns() - before + _ksoftirqd_ns() - kernel
        self._sent += packets
        arrived = self.arrived()
        if arrived != self._sent:
            raise BenchError(f"{arrived} of {self._sent} packets arrived as they should")
        return spent / packets

    def send(self, packets: int) -> None:
        """So many more, of which some may be refused."""
        with netns.enter(self._way.space):
            self._inject(socket.if_nametoindex(self._way.device), packets)
        self._sent += packets

    def arrived(self) -> int:
        """Packets that the sink has seen."""
        _, values = self._object.maps["mgb_arrived"].dump_percpu()
        return int(values.sum())

    def _inject(self, ifindex: int, packets: int) -> None:
        frame = np.zeros(self._size, np.uint8)
        context = np.array([0, self._size, 0, ifindex, 0, 0], np.uint32)  # struct xdp_md
        request = attr(
            "IIIIQQIIIIQQIII",
            *(self._object.programs["generate"], 0, self._size, 0, frame.ctypes.data, 0),
            *(packets, 0, context.nbytes, 0, context.ctypes.data, 0),
            *(LIVE_FRAMES, 0, BATCH),
            size=80,
        )
        bpf(Command.PROG_TEST_RUN, request)


def pin_thread() -> int:
    """Keep this thread on one CPU, so that all work of a run is its own. Return the CPU."""
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    return cpu


def _header_bytes(flows: Flows) -> int:
    return ETHERNET + (20 if flows.version == 4 else 40) + _l4_bytes(flows)


def _l4_bytes(flows: Flows) -> int:
    return 20 if flows.syn else 8


def packet(flows: Flows, mac: str) -> bytes:
    """One frame of the first flow, without a checksum of UDP or TCP."""
    ports = struct.pack(">HH", SOURCE_PORT, DESTINATION_PORT)
    head, at = _headers(flows, mac), _header_bytes(flows) - _l4_bytes(flows)
    return head[:at] + ports + head[at + 4 :] + bytes(PAYLOAD)


def _frame(flows: Flows, mac: str) -> Mapping[str, object]:
    source, destination = ip_address(flows.source), ip_address(flows.destination)
    length = _l4_bytes(flows) + PAYLOAD
    covered = source.packed + destination.packed + struct.pack(">HH", _protocol(flows), length)
    return {
        "head": np.frombuffer(_headers(flows, mac).ljust(HEAD, b"\0"), "u8"),
        "l4": _header_bytes(flows) - _l4_bytes(flows),
        "sum": _sum(covered + _l4_header(flows)),
        "source_port": SOURCE_PORT,
        "destination_port": DESTINATION_PORT,
        "source_ports": flows.source_ports,
        "flows": flows.count,
        "act": XDP_PASS,
        "check": 8 if flows.syn else 3,
    }


def _protocol(flows: Flows) -> int:
    return TCP if flows.syn else UDP


def _l4_header(flows: Flows) -> bytes:
    """UDP or TCP; ports and checksum are zero."""
    if flows.syn:
        return struct.pack(">HHIIBBHHH", 0, 0, 1, 0, 5 << 4, SYN, 65535, 0, 0)
    return struct.pack(">HHHH", 0, 0, 8 + PAYLOAD, 0)


def _headers(flows: Flows, mac: str) -> bytes:
    """Ethernet, IP and UDP or TCP; ports and checksum are zero."""
    source, destination = ip_address(flows.source), ip_address(flows.destination)
    kind = "0800" if source.version == 4 else "86dd"
    ethernet = bytes.fromhex(mac.replace(":", "") + "020000000001" + kind)
    length = _l4_bytes(flows) + PAYLOAD
    return ethernet + _ip_header(source, destination, _protocol(flows), length) + _l4_header(flows)


def _ip_header(source: IP, destination: IP, protocol: int, length: int) -> bytes:
    if source.version == 6:
        head = struct.pack(">IHBB", 6 << 28, length, protocol, 64)
        return head + source.packed + destination.packed
    addresses = source.packed + destination.packed
    head = struct.pack(">HHHHBBH", 0x4500, 20 + length, 0, 0x4000, 64, protocol, 0) + addresses
    check = _sum(head)
    check = ~((check & 0xFFFF) + (check >> 16)) & 0xFFFF
    return head[:10] + struct.pack(">H", check) + head[12:]


def _sum(raw: bytes) -> int:
    return int(np.frombuffer(raw, ">u2").sum(dtype=np.int64))


def _wanted(text: str) -> Mapping[str, object]:
    address = ip_address(text)
    v4 = address.version == 4
    return {
        "source": np.frombuffer(address.packed.ljust(16, b"\0"), "u1"),
        "source_bytes": len(address.packed),
        "source_at": ETHERNET + (12 if v4 else 8),
        "protocol_at": ETHERNET + (9 if v4 else 6),
    }


def _ksoftirqd_ns() -> int:
    """CPU time of the ksoftirqd of this thread's CPU."""
    (cpu,) = os.sched_getaffinity(0)
    return int(_ksoftirqd(cpu).read_text().split()[0])


def _ksoftirqd(cpu: int) -> Path:
    if cpu not in _found:
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                name = path.read_text().strip()
            except OSError:
                continue
            if name == f"ksoftirqd/{cpu}":
                _found[cpu] = path.with_name("schedstat")
                break
    return _found[cpu]


_found: dict[int, Path] = {}
