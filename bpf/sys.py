"""Raw bpf(2): everything except opening and loading an object, which ``libbpf`` does.

Functions return what the system call returns (a new file descriptor, or 0) and raise OSError.
"""

import ctypes
import os
import struct
from enum import IntEnum
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long
_NR_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]


class Command(IntEnum):
    """enum bpf_cmd of linux/bpf.h, as far as it is used."""

    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    BTF_GET_FD_BY_ID = 19
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    ITER_CREATE = 33
    LINK_DETACH = 34


class MapType(IntEnum):
    """enum bpf_map_type of linux/bpf.h, as far as the door treats types differently."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    RINGBUF = 27


class AttachType(IntEnum):
    """enum bpf_attach_type of linux/bpf.h: the places that ``links`` attaches to."""

    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    RECVMSG4 = 19
    RECVMSG6 = 20
    GETPEERNAME4 = 29
    GETPEERNAME6 = 30
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


Attr = ctypes.Array[ctypes.c_char]


def attr(layout: str, *values: int, size: int = 128) -> Attr:
    """A zero-padded ``union bpf_attr``; ``layout`` is a struct format without byte order."""
    packed = struct.pack("=" + layout, *values)
    return ctypes.create_string_buffer(packed, max(size, len(packed)))


def bpf(command: Command, attributes: Attr) -> int:
    """Result of the system call; OSError names the command otherwise."""
    result = int(_syscall(_NR_BPF, ctypes.c_int(command), attributes, len(attributes)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} (bpf {command.name})")
    return result


def pin(fd: int, path: Path) -> None:
    """Name a map, program or link in bpffs, whose names may hold no dot."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(Command.OBJ_PIN, attr("QII", ctypes.addressof(name), fd, 0, size=32))


def replace_pin(fd: int, path: Path) -> None:
    """``pin`` over whatever has the name now, in one step."""
    fresh = path.with_name(path.name + "_new")
    fresh.unlink(missing_ok=True)
    pin(fd, fresh)
    fresh.rename(path)


_READ_ONLY = 8  # BPF_F_RDONLY of linux/bpf.h


def open_pinned(path: Path, *, read_only: bool = False) -> int:
    """A new descriptor of a pinned object; FileNotFoundError when there is none.

    ``read_only``, of a map: a bpffs that is mounted so will do.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    flags = _READ_ONLY if read_only else 0
    return bpf(Command.OBJ_GET, attr("QII", ctypes.addressof(name), 0, flags, size=32))


def info(fd: int, size: int) -> bytes:
    """The first ``size`` bytes of the kernel's ``bpf_{map,prog,link,btf}_info`` of an object."""
    text = ctypes.create_string_buffer(size)
    bpf(Command.OBJ_GET_INFO_BY_FD, attr("IIQ", fd, size, ctypes.addressof(text), size=16))
    return text.raw


_NR_MEMBARRIER = {"x86_64": 324, "aarch64": 283}[os.uname().machine]
_MEMBARRIER_GLOBAL = 1


def wait_for_programs() -> None:
    """Return when every program that runs now on packets has ended: an RCU grace period."""
    arguments = (_MEMBARRIER_GLOBAL, 0, 0)
    if _syscall(_NR_MEMBARRIER, *map(ctypes.c_int, arguments)):
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} (membarrier)")


def btf_text(btf_id: int) -> bytes:
    """The kernel's copy of a BTF object; needs CAP_SYS_ADMIN."""
    fd = bpf(Command.BTF_GET_FD_BY_ID, attr("I", btf_id))
    try:
        size = struct.unpack_from("=QI", info(fd, 16))[1]
        text = ctypes.create_string_buffer(size)
        head = ctypes.create_string_buffer(struct.pack("=QII", ctypes.addressof(text), size, 0), 16)
        bpf(Command.OBJ_GET_INFO_BY_FD, attr("IIQ", fd, 16, ctypes.addressof(head), size=16))
    finally:
        os.close(fd)
    return text.raw


def mount(kind: str, path: Path, options: str = "") -> None:
    """Mount a file system without a source, such as ``bpf``."""
    words = (kind.encode(), os.fsencode(path), kind.encode())
    if libc.mount(*words, ctypes.c_ulong(0), options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
