"""The view of a node's agent: flows from the event ring, late ICMP errors, drops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from bpf.ring import Ring
from mesh.core.noun import Listing, Row
from mesh.core.ticks import tick
from mesh.datapath.late_errors import LateErrors
from mesh.datapath.programs import Datapath
from mesh.observe.drops import drop_rows, reset_rows
from mesh.observe.events import Flows, Names
from mesh.observe.unshown import LOOK_S, Unshown, totals


class NodeEvents:
    """The rings of a started datapath, drained while ``start`` holds.

    ``devices`` gives the names of pods by the ifindex of their host ends.
    """

    def __init__(
        self,
        cluster: str,
        node: str,
        datapath: Datapath,
        names: Names,
        devices: Callable[[], Mapping[int, str]],
    ) -> None:
        self.flows = Flows(cluster, node, datapath.enum("drop_reason"), names)
        self._node, self._datapath = node, datapath
        self._ring = Ring(datapath.map("mg_event"), datapath.struct("event"))
        ring = Ring(datapath.map("mg_icmp"), datapath.struct("icmp_late"))
        self._late = LateErrors(ring, datapath.enum("packet_mark")["RESET_MARK"])
        self._unshown = Unshown(datapath.enum("event_share")["EVENT_SENDERS"])
        self._devices = devices

    def start(self) -> None:
        """Watch the rings on the running loop."""
        asyncio.get_running_loop().add_reader(self._ring.fd, self._drain)
        self._drain()
        self._late.start()

    def stop(self) -> None:
        """Stop watching."""
        asyncio.get_running_loop().remove_reader(self._ring.fd)
        self._late.close()

    def listings(self) -> Mapping[str, Listing]:
        """Rows of ``drop list`` and ``reset list``."""
        drops, resets = self._datapath.map("mg_drop"), self._datapath.map("mg_reset")
        kinds = self._datapath.enum("reset_count")
        texts, since = self.flows.texts, self._datapath.made("mg_drop")
        return {
            "drop": lambda: drop_rows(self._node, *drops.dump_percpu(), texts, since),
            "reset": lambda: reset_rows(self._node, resets.dump_percpu()[1], kinds),
        }

    async def run(self) -> None:
        """Look for ever what is not shown."""
        while True:
            self._look()
            await tick(LOOK_S)

    def status(self) -> dict[str, list[Row]]:
        """``unshown``: events of the last minute that were more than a sender's share."""
        self._look()
        return {"unshown": self._unshown.rows(self._node, self._devices())}

    def _look(self) -> None:
        _, values = self._datapath.map("mg_event_rate").dump()
        self._unshown.note(time.monotonic(), totals(values))

    def _drain(self) -> None:
        self.flows.append(self._ring.drain())
