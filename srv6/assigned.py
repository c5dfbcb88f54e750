"""The locator of each node of a cluster; agent and controller have one such table."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Network

from mesh.core.groups import By
from mesh.core.model import Claim, ClaimKey, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from srv6.locators import LOCATOR_POOLS, locators


class Locators:
    """``table`` has the locator of each node; ``pools`` are the names of the locator pools."""

    def __init__(
        self, cluster: str, claims: Table[ClaimKey, Claim], pools: Table[str, tuple[str, ...]]
    ) -> None:
        self.table: Table[NodeKey, IPv6Network] = Table("locator")
        self._cluster, self._claims = cluster, claims
        self._pools = pools

    def derive(self, loop: Loop) -> None:
        """Add the derivation."""
        loop.group(self.table, self._make, By(self._claims, self._owner), whole=[self._pools])

    def _owner(self, _: ClaimKey, claim: Claim) -> list[NodeKey]:
        return [NodeKey(self._cluster, claim.owner)]

    def _make(self, key: NodeKey, claims: Mapping[ClaimKey, Claim]) -> dict[NodeKey, IPv6Network]:
        row = locators(claims.values(), self._pools.rows.get(LOCATOR_POOLS, ())).get(key.name)
        return {key: row} if row else {}
