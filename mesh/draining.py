"""The agent's side of a drain (``mesh/host/drained.py``): new connections pass by, old ones end.

asked -> no new connection is translated -> none is left, or time is up -> the rest is reset
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mesh.core.model import Finding
from mesh.core.ticks import tick
from mesh.host.drained import Drained, Leaving, Stage, answer, answered, asked
from mesh.host.findings import DRAINED

log = logging.getLogger(__name__)

LOOK_S = 1.0
#: Seconds in which what is left hears that it has ended: the next packet of either end is answered
#: by a reset, and an end that waits for an answer sends its packet again.
RESETS_S = 5.0


class Draining:
    """``folder`` is the agent's own, ``left`` counts the connections that are translated."""

    def __init__(
        self,
        folder: Path,
        leaving: Leaving,
        left: Callable[[], int],
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._leaving, self._unix = folder, leaving, unix
        self._left = left
        self._ends = 0.0  # when the rest began to be reset

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except OSError as error:
                log.warning("event=drain_not_answered error=%s", error)
            await tick(LOOK_S)

    def findings(self, node: str) -> Iterator[Finding]:
        """That no new connection is translated here."""
        if self._leaving.stage is not Stage.STAYS:
            text = "new connections are not translated: the node is being left"
            yield Finding(DRAINED, f"Node/{node}", "", text, (f"node/{node}",))

    async def look(self) -> None:
        """Do what is asked now, and say how far it is. Raises OSError."""
        drain = asked(self._folder)
        if drain is None:
            self._leaving.stage, self._ends = Stage.STAYS, 0.0
            answer(self._folder, None)
            return
        if self._leaving.stage is Stage.STAYS:
            self._leaving.stage = Stage.DRAINS
            return  # one pause, in which the maps follow
        left, now = await asyncio.to_thread(self._left), self._unix()
        if left and now >= drain.until and not self._ends:
            self._leaving.stage, self._ends = Stage.ENDS, now
        done = not left or bool(self._ends and now >= self._ends + RESETS_S)
        said = Drained(drain.id, left, done)
        if said != answered(self._folder):
            answer(self._folder, said)
