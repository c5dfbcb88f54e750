"""What a process may do from now on: its capabilities, its user, and that no child gets more.

A process that has read its code gives up what it does not need: then its code may lie where only
root can read. Source: capabilities(7), prctl(2), capset(2).
"""

import ctypes
import errno
import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bpf.sys import libc

_BOUNDING_READ, _BOUNDING_DROP = 23, 24
_KEEP = 8  # of the permitted ones, when the user changes
_NO_NEW_PRIVILEGES = 38
_AMBIENT, _AMBIENT_CLEAR = 47, 4
_WRITE_OR_RUN, _REFUSE_GAIN = 65, 1  # PR_SET_MDWE, since Linux 6.3
_CAPABILITY_VERSION = 0x20080522

#: Numbers of capabilities that are named here or in a unit (linux/capability.h).
CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}


class UnknownUserError(ValueError):
    """There is no such user on this host."""


@dataclass(frozen=True, slots=True)
class User:
    """A user and a group by number."""

    uid: int
    gid: int

    @classmethod
    def find(cls, text: str) -> "User":
        """By name, or by the number that user and group have. Raises UnknownUserError."""
        if text.isdecimal():
            return cls(int(text), int(text))
        try:
            found = pwd.getpwnam(text)
        except KeyError:
            raise UnknownUserError(f"there is no user {text!r} on this host") from None
        return cls(found.pw_uid, found.pw_gid)


def permitted(names: Collection[str]) -> tuple[str, ...]:
    """Those of the capabilities that this process has."""
    status = Path("/proc/self/status").read_text()
    bits = int(status.partition("CapPrm:")[2].split()[0], 16)
    return tuple(name for name in names if bits >> CAPABILITIES[name] & 1)


def confine(keep: Collection[str] = (), user: User | None = None) -> None:
    """Have these capabilities and no other, as ``user``; children get no more than we have.

    Memory that was written is never run, as with systemd's MemoryDenyWriteExecute. Raises OSError.
    """
    kept = {CAPABILITIES[name] for name in keep}
    _bound(kept)
    if user is not None:
        if kept:
            _prctl(_KEEP, 1)
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    if kept or user is None:  # who is no longer root has none, and a unit may forbid to set them
        _set(kept)
    _prctl(_AMBIENT, _AMBIENT_CLEAR)
    _prctl(_NO_NEW_PRIVILEGES, 1)
    _prctl(_WRITE_OR_RUN, _REFUSE_GAIN)


def _bound(kept: Collection[int]) -> None:
    """Take the others from the bounding set; without CAP_SETPCAP it stays the starter's."""
    number = 0
    while (there := libc.prctl(_BOUNDING_READ, ctypes.c_ulong(number), *_zeros(3))) >= 0:
        if there and number not in kept:
            try:
                _prctl(_BOUNDING_DROP, number)
            except PermissionError:
                return
        number += 1


def _set(kept: Collection[int]) -> None:
    """Effective and permitted; what a child may inherit is nothing."""
    bits = sum(1 << number for number in kept)
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if libc.capset(head, sets):
        raise _error("capset")


def _prctl(option: int, argument: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(argument), *_zeros(3)):
        raise _error(f"prctl {option}")


def _zeros(count: int) -> list[ctypes.c_ulong]:
    return [ctypes.c_ulong(0)] * count


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    kind = PermissionError if number == errno.EPERM else OSError
    return kind(number, f"{call}: {os.strerror(number)}")
