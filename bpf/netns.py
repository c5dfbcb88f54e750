"""Enter a network namespace for a few synchronous calls.

Devices are found by name and sockets and links are made in the namespace of the calling thread;
what was made there works from anywhere.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpf.sys import libc

_CLONE_NEWNET = 0x40000000


def _setns(fd: int) -> None:
    if libc.setns(ctypes.c_int(fd), ctypes.c_int(_CLONE_NEWNET)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def enter(path: Path) -> Iterator[None]:
    """The calling thread in the namespace at ``path`` (/run/netns/…); no await inside."""
    with (
        Path("/proc/thread-self/ns/net").open("rb") as home,
        path.open("rb") as there,
    ):
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())
