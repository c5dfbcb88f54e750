"""Fences in a cluster: each gets a number."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.feature import Claimable, ControllerFeature, Want
from mesh.core.groups import By
from mesh.core.model import Finding, Network
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.identity.matching import Matching
from mesh.objects.kubernetes import PODS
from mesh.objects.tables import Objects
from tests.packet.fence import rows
from tests.packet.fence.kinds import FENCES, NOUN

EMPTY = "P901"


class FenceController(ControllerFeature):
    def __init__(self, objects: Objects, store: OwnStore) -> None:
        store.claims_of(NOUN)
        self._fences = objects[FENCES]
        self._matching = Matching(objects, objects[PODS], self._fences, lambda one: (one.pods,))
        self.wants = (Table[Want, bool]("fence wanted"),)
        self.ours = (Table[Network, None]("fenced network"),)
        self.barred = (Table[Network, None]("what a fence keeps"),)
        self.claims = (Claimable(NOUN, lambda _: range(1, 4096), released=True),)

    def derive(self, loop: Loop) -> None:
        self._matching.derive(loop)
        loop.group(self.wants[0], rows.wanted, By(self._fences))
        for table in (self.ours[0], self.barred[0]):
            loop.group(table, rows.network, By(self._fences, lambda _, one: one.networks))

    def findings(self) -> Iterable[Finding]:
        used = {name for fences in self._matching.chosen.rows.values() for name in fences}
        for name, fence in self._fences.rows.items():
            if name not in used:
                yield Finding(EMPTY, fence.origin, "spec.podSelector", "no pod is inside")
