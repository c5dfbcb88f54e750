"""What a node's agent shows: flows from the event ring, late ICMP errors, drops."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bpf.ring import Ring
from mesh.core.noun import Listing
from mesh.datapath.late_errors import LateErrors
from mesh.datapath.programs import Datapath
from mesh.observe.drops import drop_rows, reset_rows
from mesh.observe.events import Flows, Names


class NodeEvents:
    """The rings of a started datapath, drained while ``start`` holds."""

    def __init__(self, cluster: str, node: str, datapath: Datapath, names: Names) -> None:
        self.flows = Flows(cluster, node, datapath.enum("drop_reason"), names)
        self._node, self._datapath = node, datapath
        self._ring = Ring(datapath.map("mg_event"), datapath.struct("event"))
        ring = Ring(datapath.map("mg_icmp"), datapath.struct("icmp_late"))
        self._late = LateErrors(ring, datapath.enum("packet_mark")["RESET_MARK"])

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

    def _drain(self) -> None:
        self.flows.append(self._ring.drain())
