"""Expiry of connections and translations: ``bpf/sweep.bpf.c``, run on a timer.

The limits are the RFCs' minima or above. A closed TCP connection keeps its port until then, or
until no other port is free (``bpf/include/nat.h``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.testrun import call
from mesh.core.address import packed
from mesh.core.model import IP

INTERVAL_S = 10.0
#: Seconds without a packet, by field of ``struct sweep``.
LIMITS = {
    "opening": 240,  # RFC 5382 REQ-5: transitory at least 4 min
    "established": 7500,  # RFC 5382 REQ-5: at least 2 h 4 min
    "closed": 240,  # RFC 7857 2.2: after RST up to 4 min
    "datagram": 300,  # RFC 4787 REQ-5: recommended
    "echo": 60,  # RFC 5508 REQ-2: at least 60 s
}
#: Entries of a table from which on closed connections rest only so long: the table (65536, and a
#: full one refuses new connections) would be full at 273 connections a second.
CROWDED, CLOSED_CROWDED_S = 32768, 10


async def forget(program: int, argument: np.dtype[Any], addresses: Collection[IP]) -> None:
    """Run ``program`` for each address; ``argument`` is the dtype of ``struct forget``."""
    for address in addresses:
        one: npt.NDArray[Any] = np.zeros((), argument)
        one["address"]["w"] = np.frombuffer(packed(address), ">u4")
        await asyncio.to_thread(call, program, one)


async def sweep(program: int, argument: np.dtype[Any]) -> None:
    """Run ``program`` for ever; ``argument`` is the dtype of ``struct sweep``."""
    given: npt.NDArray[Any] = np.zeros((), argument)
    kept = 0
    while True:
        await asyncio.sleep(INTERVAL_S)
        for name, seconds in limits(kept).items():
            given[name] = seconds
        # a full table takes tens of milliseconds
        kept = int((await asyncio.to_thread(call, program, given))["kept"])


def limits(kept: int) -> dict[str, int]:
    """``LIMITS`` after a sweep that left so many entries."""
    return LIMITS | ({"closed": CLOSED_CROWDED_S} if kept >= CROWDED else {})
