"""Feed packets to programs with BPF_PROG_TEST_RUN: what packet tests and benchmarks stand on."""

import ctypes
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.btf import Dtype
from bpf.maps import fill
from bpf.sys import Command, attr, bpf

#: Room for headers that a program adds.
_ROOM = 4096
#: Offset of ``ctx_in`` in the test_run attributes of ``union bpf_attr``.
_CTX_IN = 48

_SKB_FIELDS = (
    ("len", "u4", 0),
    ("pkt_type", "u4", 4),
    ("mark", "u4", 8),
    ("queue_mapping", "u4", 12),
    ("protocol", "u4", 16),
    ("priority", "u4", 32),
    ("ingress_ifindex", "u4", 36),
    ("ifindex", "u4", 40),
    ("tc_index", "u4", 44),
    ("cb", ("u4", (5,)), 48),
    ("hash", "u4", 68),
    ("tstamp", "u8", 152),
    ("wire_len", "u4", 160),
    ("gso_segs", "u4", 164),
    ("gso_size", "u4", 176),
    ("hwtstamp", "u8", 184),
)
#: struct __sk_buff of linux/bpf.h. The kernel takes mark, priority, ifindex, ingress_ifindex, cb,
#: tstamp, wire_len, gso_segs, gso_size and hwtstamp, and refuses the rest.
SKB: Dtype = np.dtype(
    {
        "names": [name for name, _, _ in _SKB_FIELDS],
        "formats": [layout for _, layout, _ in _SKB_FIELDS],
        "offsets": [offset for _, _, offset in _SKB_FIELDS],
        "itemsize": 192,
    }
)


@dataclass(frozen=True, slots=True)
class Result:
    """What the program returned, the packet and the context as it left them, ns per run."""

    verdict: int
    packet_out: bytes
    ctx_out: npt.NDArray[Any]
    ns: int


def run(
    prog_fd: int, packet: bytes, repeat: int = 1, ctx: Mapping[str, object] | None = None
) -> Result:
    """Run a tc program on ``packet``, which starts with an Ethernet header.

    ``ctx`` sets fields of ``SKB``. Without an ifindex the device is the loopback of the calling
    thread's network namespace.
    """
    before, after = np.zeros((), SKB), np.zeros((), SKB)
    fill(before, ctx or {})
    source = ctypes.create_string_buffer(packet, len(packet))
    result = ctypes.create_string_buffer(len(packet) + _ROOM)
    request = attr(
        "IIIIQQIIIIQQ",
        *(prog_fd, 0, len(packet), len(result)),
        *(ctypes.addressof(source), ctypes.addressof(result), repeat, 0),
        *(SKB.itemsize, SKB.itemsize, before.ctypes.data, after.ctypes.data),
        size=80,
    )
    bpf(Command.PROG_TEST_RUN, request)
    verdict, _, size = struct.unpack_from("=3I", request, 4)
    duration = struct.unpack_from("=I", request, 36)[0]
    return Result(verdict, result.raw[:size], after, duration)


def run_xdp(prog_fd: int, packet: bytes, ifindex: int) -> Result:
    """Run an XDP program once on ``packet``, as if it had come in by the device ``ifindex``."""
    before = np.array([0, len(packet), 0, ifindex, 0, 0], np.uint32)  # struct xdp_md
    after = np.zeros_like(before)
    source = ctypes.create_string_buffer(packet, len(packet))
    result = ctypes.create_string_buffer(len(packet) + _ROOM)
    request = attr(
        "IIIIQQIIIIQQ",
        *(prog_fd, 0, len(packet), len(result)),
        *(ctypes.addressof(source), ctypes.addressof(result), 1, 0),
        *(before.nbytes, after.nbytes, before.ctypes.data, after.ctypes.data),
        size=80,
    )
    bpf(Command.PROG_TEST_RUN, request)
    verdict, _, size = struct.unpack_from("=3I", request, 4)
    duration = struct.unpack_from("=I", request, 36)[0]
    return Result(verdict, result.raw[:size], after, duration)


def call(prog_fd: int, argument: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Run a syscall program on ``argument``, a 0-d structured array; return it as it left it."""
    after = argument.copy()
    ctx = (after.nbytes, 0, after.ctypes.data, 0)
    request = attr("IIIIQQIIIIQQ", prog_fd, *[0] * 7, *ctx, size=80)
    bpf(Command.PROG_TEST_RUN, request)
    return after


def call_each(prog_fd: int, arguments: npt.NDArray[Any]) -> None:
    """Run a syscall program on each row of ``arguments``, which it leaves as the program did."""
    size, start = arguments.itemsize, arguments.ctypes.data
    if not arguments.flags.c_contiguous:
        raise ValueError("rows of the arguments must lie one behind another")
    request = attr("IIIIQQIIIIQQ", prog_fd, *[0] * 7, size, 0, start, 0, size=80)
    for row in range(len(arguments)):
        struct.pack_into("=Q", request, _CTX_IN, start + row * size)
        bpf(Command.PROG_TEST_RUN, request)
