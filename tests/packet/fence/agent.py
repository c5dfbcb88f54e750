"""Fences on a node: objects and claims become ``mg_fence`` and the number in each pod's row."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.feature import AgentFeature, Maps, Mark
from mesh.core.groups import By, Each
from mesh.core.model import Network, Pod, PodKey
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.identity.matching import Matching
from mesh.objects.tables import Objects
from tests.packet.fence import maps as entries
from tests.packet.fence import nouns, rows
from tests.packet.fence.kinds import FENCES, NOUN


class FenceAgent(AgentFeature):
    def __init__(
        self, cluster: str, objects: Objects, pods: Table[PodKey, Pod], store: OwnStore
    ) -> None:
        self._cluster, self._fences = cluster, objects[FENCES]
        self._claims = store.claims_of(NOUN).held
        self._matching = Matching(objects, pods, self._fences, lambda fence: (fence.pods,))
        self.number: Table[str, int] = Table("number of fence")
        self.fence: Table[rows.FenceKey, int] = Table("fence")
        self.mark = Mark("fence", Table("fence of pod"))
        self.marks = (self.mark,)
        self.ours = (Table[Network, None]("fenced network"),)
        self.barred = (Table[Network, None]("what a fence keeps"),)

    def derive(self, loop: Loop) -> None:
        self._matching.derive(loop)
        loop.group(self.number, rows.number, By(self._claims, lambda _, claim: [claim.owner]))
        loop.group(self.fence, rows.closed, By(self._fences), By(self.number))
        numbers = Each(self.number, lambda _, fences: fences or ())
        loop.group(self.mark.numbers, rows.of_pod, By(self._matching.chosen), numbers)
        networks = By(self._fences, lambda _, fence: fence.networks)
        loop.group(self.ours[0], rows.network, networks)
        loop.group(self.barred[0], rows.network, networks)

    def apply(self, loop: Loop, maps: Maps) -> None:
        target = maps.rows("mg_fence", entries.encode, entries.decode)
        applied = loop.apply(
            self.fence,
            target,
            token=lambda key: key.fence,
            capacity=maps.capacity("mg_fence"),
            meaning="pods of the fences that do not fit are not connected",
        )
        self.mark.refers.append((applied, lambda number: [number] if number else []))

    def listings(self) -> Mapping[str, Listing]:
        fences = self._fences.rows
        return {"fence": lambda: nouns.rows(self._cluster, fences.values(), self.number.rows)}
