"""SRv6 locators in a cluster: each node gets a piece of every locator pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mesh.core.feature import Claimable, ControllerFeature, Want
from mesh.core.model import Finding, ForeignNode
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.objects.tables import Objects
from mesh.pools.claims import PoolClaims
from mesh.pools.settings import Pool
from srv6.assigned import Locators
from srv6.locators import LOCATOR_POOLS, NOUN


def node_numbers(claimable: Claimable, want: Want) -> Sequence[int]:
    """Numbers of nodes in a pool: not 0, which ends a list of NEXT-C-SIDs (RFC 9800 4)."""
    numbers = claimable.candidates(want)
    if isinstance(numbers, range):
        return numbers[1:] if len(numbers) > 1 else numbers
    return [number for number in numbers if number]


class LocatorsController(ControllerFeature):
    """``foreign`` are nodes of other clusters that publish prefixes of our pools."""

    def __init__(
        self,
        cluster: str,
        pools: Sequence[Pool],
        objects: Objects,
        store: OwnStore,
        foreign: Table[str, ForeignNode],
    ) -> None:
        self._cluster = cluster
        self._pools = PoolClaims(NOUN, LOCATOR_POOLS, pools, objects, foreign)
        self._locators = Locators(cluster, store.claims_of(NOUN).held, self._pools.table)
        self.locator = self._locators.table
        self.wants, self.ours = (self._pools.wants,), (self._pools.ours,)
        claimable = self._pools.claimable
        self.claims = (replace(claimable, candidates=lambda want: node_numbers(claimable, want)),)

    @property
    def agreed(self) -> Mapping[str, object]:
        return {LOCATOR_POOLS: self._pools.names}

    def derive(self, loop: Loop) -> None:
        self._pools.derive(loop)
        self._locators.derive(loop)

    def findings(self) -> Iterable[Finding]:
        return self._pools.findings(f"meshgate/v1/{self._cluster}/config")
