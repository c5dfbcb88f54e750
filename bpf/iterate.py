"""Run an iterator program over everything that its kind visits, as the calling thread sees it."""

from __future__ import annotations

import os

from bpf.sys import Command, attr, bpf

_TRACE_ITER = 28  # enum bpf_attach_type
_CHUNK = 4096


def link(prog_fd: int) -> int:
    """A link of an iterator program: a descriptor that ``run`` takes, closed by the caller."""
    return bpf(Command.LINK_CREATE, attr("IIII", prog_fd, 0, _TRACE_ITER, 0, size=64))


def run(link_fd: int) -> bytes:
    """Visit everything once, sockets in the thread's network namespace; what the program wrote."""
    fd = bpf(Command.ITER_CREATE, attr("II", link_fd, 0, size=8))
    try:
        parts = []
        while part := os.read(fd, _CHUNK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
