"""Attach programs by pinned links, which outlive the process and swap programs without a gap."""

import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from bpf.sys import AttachType, Command, attr, bpf, info, open_pinned, pin, replace_pin

#: A program stands before all that are there (BPF_F_BEFORE of linux/bpf.h).
_BEFORE = 8
#: Frames reach a program in the driver, or nowhere (XDP_FLAGS_DRV_MODE of linux/if_link.h).
_DRIVER = 4


def tcx(prog_fd: int, device: str, pin: Path, *, ingress: bool, first: bool = False) -> None:
    """Run a program on packets of ``device``, looked up in the calling thread's namespace.

    ``first``: before the programs that are there, and not behind them.
    A link that is pinned there goes over to the program, unless its device is another by now.
    """
    try:
        ifindex = socket.if_nametoindex(device)
    except OSError:
        raise OSError(errno.ENODEV, f"no device {device}") from None
    where = AttachType.TCX_INGRESS if ingress else AttachType.TCX_EGRESS
    flags = _BEFORE if first else 0
    request = attr("IIIIIIQ", prog_fd, ifindex, where, flags, 0, 0, 0, size=64)
    _attach(prog_fd, pin, lambda: bpf(Command.LINK_CREATE, request), "=II", (ifindex, where))


def xdp(prog_fd: int, device: str, pin: Path) -> None:
    """Run a program on frames of ``device`` in its driver, before there are packets.

    A link that is pinned there goes over to the program, unless its device is another by now.
    OSError: the driver cannot, or another program is there.
    """
    ifindex = socket.if_nametoindex(device)
    request = attr("IIII", prog_fd, ifindex, AttachType.XDP, _DRIVER, size=64)
    _attach(prog_fd, pin, lambda: bpf(Command.LINK_CREATE, request), "=I", (ifindex,))


def cgroup(prog_fd: int, cgroup_dir: Path, attach_type: AttachType, pin: Path) -> None:
    """Run a program on socket calls of processes in ``cgroup_dir``, a cgroup2 directory."""
    directory = os.open(cgroup_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        request = attr("IIII", prog_fd, directory, attach_type, 0, size=64)
        place = (os.fstat(directory).st_ino, attach_type)  # a cgroup's id is its inode number
        _attach(prog_fd, pin, lambda: bpf(Command.LINK_CREATE, request), "=QI", place)
    finally:
        os.close(directory)


def detach(pin: Path) -> bool:
    """Take a pinned link off its hook now, whoever else holds it; False when there is none."""
    try:
        link = open_pinned(pin)
    except FileNotFoundError:
        return False
    try:
        _detach(link)
    finally:
        os.close(link)
    pin.unlink()
    return True


def change(prog_fd: int, pin: Path) -> bool:
    """Let a pinned link run another program; False when its device or cgroup has gone."""
    link = open_pinned(pin)
    try:
        bpf(Command.LINK_UPDATE, attr("IIII", link, prog_fd, 0, 0, size=32))
    except OSError as error:
        if error.errno != errno.ENOLINK:
            raise
        return False
    finally:
        os.close(link)
    return True


def program_id(pin: Path) -> int:
    """The kernel's id of the program that a pinned link runs."""
    link = open_pinned(pin)
    try:
        return int(struct.unpack_from("=3I", info(link, 16))[2])
    finally:
        os.close(link)


def _attach(
    prog_fd: int, path: Path, create: Callable[[], int], layout: str, place: tuple[int, ...]
) -> None:
    if _update(prog_fd, path, layout, place):
        return
    link = create()
    try:
        replace_pin(link, path) if path.exists() else pin(link, path)
    finally:
        os.close(link)


def _update(prog_fd: int, path: Path, layout: str, place: tuple[int, ...]) -> bool:
    try:
        link = open_pinned(path)
    except FileNotFoundError:
        return False
    try:
        if struct.unpack_from(layout, info(link, 32), 16) != place:
            _detach(link)  # attached elsewhere: the name was used again for another place
            return False
        bpf(Command.LINK_UPDATE, attr("IIII", link, prog_fd, 0, 0, size=32))
    except OSError as error:
        if error.errno != errno.ENOLINK:
            raise
        return False  # the device or cgroup was deleted
    finally:
        os.close(link)
    return True


def _detach(link: int) -> None:
    try:
        bpf(Command.LINK_DETACH, attr("I", link, size=4))
    except OSError as error:
        if error.errno != errno.ENOLINK:
            raise
