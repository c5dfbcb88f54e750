"""Expiry of connections and translations: ``bpf/sweep.bpf.c``, run on a timer.

The limits are the RFCs' minima or above. A closed TCP connection keeps its port until then, or
until no other port is free (``bpf/include/nat.h``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.testrun import call
from mesh.datapath.programs import Datapath

INTERVAL_S = 10.0
#: Seconds without a packet, by field of ``struct sweep``.
LIMITS = {
    "opening": 240,  # RFC 5382 REQ-5: transitory at least 4 min
    "established": 7500,  # RFC 5382 REQ-5: at least 2 h 4 min
    "closed": 240,  # RFC 7857 2.2: after RST up to 4 min
    "datagram": 300,  # RFC 4787 REQ-5: recommended
    "echo": 60,  # RFC 5508 REQ-2: at least 60 s
    "plain_closed": 10,  # holds no port
    "plain_datagram": 120,
}
CONNECTIONS = ("mg_ct_v4", "mg_ct_v6")
#: What changes while a table is more than half full: new connections matter more then.
PRESSURE_INTERVAL_S = 2.0
PRESSURE_LIMITS = {
    "closed": 5,
    "datagram": 120,  # RFC 4787 REQ-5: at least 2 min
    "plain_closed": 2,
    "plain_datagram": 20,
}


async def sweep(datapath: Datapath) -> None:
    """Run ``mg_sweep`` for ever."""
    program, argument = datapath.program("mg_sweep"), datapath.struct("sweep")
    pressure = min(datapath.map(name).max_entries for name in CONNECTIONS) // 2
    usual, pressed = _limits(argument, {}), _limits(argument, PRESSURE_LIMITS)
    limits, pause = usual, INTERVAL_S
    while True:
        await asyncio.sleep(pause)
        # A full table takes tens of milliseconds.
        result = await asyncio.to_thread(call, program, limits)
        full = int(result["kept"]) > pressure
        limits, pause = (pressed, PRESSURE_INTERVAL_S) if full else (usual, INTERVAL_S)


def _limits(argument: np.dtype[Any], changes: Mapping[str, int]) -> npt.NDArray[Any]:
    limits: npt.NDArray[Any] = np.zeros((), argument)
    for name, seconds in {**LIMITS, **changes}.items():
        limits[name] = seconds
    return limits
