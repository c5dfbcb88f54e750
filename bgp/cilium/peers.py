"""BGPPeers of both sorts as one table: our own objects, and those that Cilium's become.

Each process that reads BGPPeers has one, before its features: they read ``objects[PEERS]`` and do
not see which sort a row is of (D161).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bgp.cilium import rows
from bgp.cilium.derived import CiliumObjects, derived
from bgp.peer import PEERS, BGPPeer
from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects


class Peers:
    """``words`` are those of ``advertise`` by Cilium's types of advertisement."""

    def __init__(self, objects: Objects, words: Mapping[str, str]) -> None:
        self.table: Table[str, BGPPeer] = Table("BGPPeer of both sorts")
        self.findings: Sequence[Finding] = ()
        self._own = objects[PEERS]
        self._clusters, self._configs = objects[rows.CLUSTERS], objects[rows.PEER_CONFIGS]
        self._advertisements = objects[rows.ADVERTISEMENTS]
        self._overrides, self._words = objects[rows.OVERRIDES], words
        objects.show(PEERS, self.table)

    def derive(self, loop: Loop) -> None:
        """Add the derivation; the objects are few."""
        inputs = (
            self._own,
            self._clusters,
            self._configs,
            self._advertisements,
            self._overrides,
        )
        loop.derive([], self._derive, inputs, name="BGPPeers")

    def _derive(self) -> None:
        """Our own need not wait for Cilium's; those need each other."""
        parts = (self._clusters, self._configs, self._advertisements, self._overrides)
        complete = all(part.synced for part in parts)
        found = dict(self._own.rows)
        if complete:
            made = derived(
                CiliumObjects(
                    self._clusters.rows,
                    self._configs.rows,
                    self._advertisements.rows,
                    self._overrides.rows,
                    self._words,
                )
            )
            found |= made.rows
            self.findings = made.findings
        self.table.write(found, complete=complete and self._own.synced)
