"""What a feed lists by: policies with their addresses, pools, and addresses that are still in use.

An address that no policy wants drains (``gateway/draining.py``). The feed judges by what the nodes
say, as the controller does: so an address leaves its list only when nothing of it is in use, and
is given back only when the feed has told so.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway import claims
from gateway.addressed import Addressed
from mesh.core.model import IP, Claim, ClaimKey
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects


class FeedInputs:
    """``policies`` have the addresses that they have now; ``draining`` are claimed ones in use."""

    def __init__(self, cluster: str, objects: Objects, store: OwnStore) -> None:
        self._cluster = cluster
        self._held = store.claims_of(claims.NOUN).held
        self._drains = store.claims_of(claims.DRAINING).held
        self._said, self._nodes = store.draining, objects[NODES]
        self._addressed = Addressed(objects, self._held)
        self.policies, self.pools = self._addressed.table, self._addressed.pools.table
        self.draining: Table[IP, None] = Table("egress address in use")

    def derive(self, loop: Loop) -> None:
        """Add the derivations: addresses are few."""
        self._addressed.derive(loop)
        loop.derive([self._held, self._drains, self._said, self._nodes], self._derive)

    def _derive(self) -> None:
        drains = _by_address(self._drains.rows)
        claimed = _by_address(self._held.rows)
        self.draining.replace({one: None for one in claimed if not self._is_free(one, drains)})

    def _is_free(self, address: IP, drains: dict[IP, Claim]) -> bool:
        """Whether nothing of a draining address is in use on any node."""
        drain, said = drains.get(address), self._said.rows
        nodes = [key.name for key in self._nodes.rows if key.cluster == self._cluster]
        return claims.is_free(
            drain.epoch if drain else None, (said.get((node, address)) for node in nodes)
        )


def _by_address(rows: Mapping[ClaimKey, Claim]) -> dict[IP, Claim]:
    found = ((claims.address_of(key), claim) for key, claim in rows.items())
    return {address: claim for address, claim in found if address is not None}
