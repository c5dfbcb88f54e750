"""Expiry of connections and translations: ``bpf/sweep.bpf.c``, run on a timer and under pressure.

The limits are the RFCs' minima or above, except for destination ports up to 1023, where RFC 4787
REQ-5 has no minimum, and for what is not translated, which holds no port. A closed TCP connection
and a one-shot keep their port until then, or until no other port is free (``bpf/include/nat.h``).
The timers of an egress policy come before these limits (``bpf/include/timers.h``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.ring import Ring
from bpf.testrun import call
from mesh.datapath.programs import Datapath
from mesh.datapath.usage import connections_in_use

INTERVAL_S = 10.0
#: Seconds without a packet, by field of ``struct sweep``.
LIMITS = {
    "opening": 240,  # RFC 5382 REQ-5: transitory at least 4 min; until its opener has answered
    "established": 7500,  # RFC 5382 REQ-5: at least 2 h 4 min
    "closed": 240,  # RFC 7857 2.2: after RST up to 4 min
    "datagram": 300,  # RFC 4787 REQ-5: recommended
    "echo": 60,  # RFC 5508 REQ-2: at least 60 s
    "one_shot": 120,  # RFC 4787 REQ-5: at least 2 min
    "known_answered": 10,  # RFC 4787 REQ-5: may be shorter for destination ports 0 to 1023
    "known_unanswered": 30,
    "plain_closed": 10,  # holds no port
    "plain_datagram": 120,
    "plain_answered": 120,
    "plain_unanswered": 120,
    "plain_opening": 240,
    "run": 600,  # of ports without a mapping: a pod that asks now and then keeps it
}
#: What changes while a table is more than half full: new connections matter more then. An insert
#: says so (``mg_pressure``).
PRESSURE_INTERVAL_S = 1.0
PRESSURE_LIMITS = {
    "closed": 5,
    "datagram": 120,  # RFC 4787 REQ-5: at least 2 min
    "known_answered": 1,
    "known_unanswered": 10,
    "plain_closed": 2,
    "plain_answered": 1,
    "plain_unanswered": 5,
    "plain_opening": 10,  # a SYN that comes again later opens it anew
}
#: Between two sweeps at the least: a full table takes tens of milliseconds.
PAUSE_S = 0.25


class Pressure:
    """Whether an insert has met a table that is more than half full since the last look."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._event = asyncio.Event()

    def start(self) -> None:
        """Watch the ring on the running loop."""
        asyncio.get_running_loop().add_reader(self._ring.fd, self._drain)

    def close(self) -> None:
        """Stop watching."""
        asyncio.get_running_loop().remove_reader(self._ring.fd)
        self._ring.close()

    def _drain(self) -> None:
        if len(self._ring.drain()):
            self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Whether there is pressure now, or comes within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        pressed = self._event.is_set()
        self._event.clear()
        return pressed


async def sweep(datapath: Datapath) -> None:
    """Run ``mg_sweep`` for ever; at once at the start, so that pods and entries are counted."""
    program, argument = datapath.program("mg_sweep"), datapath.struct("sweep")
    usual, pressed = _limits(argument, {}), _limits(argument, {**PRESSURE_LIMITS, "pressed": 1})
    pressure = Pressure(Ring(datapath.map("mg_pressure"), datapath.struct("pressure")))
    pressure.start()
    try:
        full = False
        while True:
            await asyncio.to_thread(call, program, pressed if full else usual)
            full = _is_half_full(datapath)
            await asyncio.sleep(PAUSE_S)
            full |= await pressure.wait(PRESSURE_INTERVAL_S if full else INTERVAL_S)
    finally:
        pressure.close()


def _is_half_full(datapath: Datapath) -> bool:
    return any(table.used > table.size // 2 for table in connections_in_use(datapath))


def _limits(argument: np.dtype[Any], changes: Mapping[str, int]) -> npt.NDArray[Any]:
    limits: npt.NDArray[Any] = np.zeros((), argument)
    for name, seconds in {**LIMITS, **changes}.items():
        limits[name] = seconds
    return limits
