"""Let the kernel gather fragments: a netfilter link that asks for it, with a program that accepts.

libbpf of Debian 12 knows no netfilter programs, so these two instructions are loaded here.
"""

import ctypes
import os
import struct
from pathlib import Path

from bpf.sys import Command, attr, bpf, pin

_NETFILTER_PROGRAM, _NETFILTER_PLACE = 32, 45  # enum bpf_prog_type, enum bpf_attach_type
_DEFRAG = 1  # BPF_F_NETFILTER_IP_DEFRAG of linux/bpf.h
_PRE_ROUTING, _AFTER_DEFRAG = 0, -300  # linux/netfilter.h, linux/netfilter_ipv4.h
_FAMILIES = {4: 2, 6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_ACCEPT = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)  # r0 = NF_ACCEPT; exit


def gather(folder: Path) -> None:
    """Gather fragments of both families in the calling thread's network namespace, from now on.

    The links are pinned in ``folder`` as ``gather4`` and ``gather6``; those that are there stay.
    Raises OSError: the kernel cannot (before 6.6, or built without it).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = {v: number for v, number in _FAMILIES.items() if not _pin(folder, v).exists()}
    if not missing:
        return
    program = _load()
    try:
        for version, number in missing.items():
            _attach(program, number, _pin(folder, version))
    finally:
        os.close(program)


def _pin(folder: Path, version: int) -> Path:
    return folder / f"gather{version}"


def _load() -> int:
    code, words = ctypes.create_string_buffer(_ACCEPT), ctypes.create_string_buffer(b"GPL")
    places = ctypes.addressof(code), ctypes.addressof(words)
    name = struct.unpack("=QQ", b"mg_gather".ljust(16, b"\0"))
    request = attr(
        "IIQQIIQIIQQII",
        *(_NETFILTER_PROGRAM, len(_ACCEPT) // 8, *places, 0, 0, 0, 0, 0),
        *(*name, 0, _NETFILTER_PLACE),
    )
    return bpf(Command.PROG_LOAD, request)


def _attach(program: int, family: int, path: Path) -> None:
    where = (family, _PRE_ROUTING, _AFTER_DEFRAG, _DEFRAG)
    link = bpf(
        Command.LINK_CREATE, attr("IIIIIIiI", program, 0, _NETFILTER_PLACE, 0, *where, size=64)
    )
    try:
        pin(link, path)
    finally:
        os.close(link)
