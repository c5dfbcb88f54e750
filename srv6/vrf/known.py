"""What the claims say: numbers of VRFs, SIDs of all nodes, tenant addresses of all pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Network

from mesh.core.groups import By, To
from mesh.core.model import IP, Claim, ClaimKey, NodeKey, PodKey
from mesh.core.reconcile import Loop
from mesh.core.sources import ClaimTables
from mesh.core.table import Table
from srv6 import sids
from srv6.sids import SID, SIDState
from srv6.vrf import claims

#: Tenant addresses by VRF.
Tenants = Mapping[str, tuple[IP, ...]]


class KnownVRFs:
    """Agent and controller have one; ``blocks`` gives the networks of the locator pools."""

    def __init__(
        self,
        cluster: str,
        claims_of: Callable[[str], ClaimTables],
        locator: Table[NodeKey, IPv6Network],
        blocks: Callable[[], Iterable[IPv6Network]],
    ) -> None:
        #: Number by VRF; one that rests counts as long as nobody else has it.
        self.number: Table[str, int] = Table("number of VRF")
        self.sid: Table[ClaimKey, SID] = Table("SID")
        self.tenant: Table[PodKey, Tenants] = Table("tenant addresses of pod")
        self._cluster, self._locator, self._blocks = cluster, locator, blocks
        self._numbers = claims_of(claims.NUMBER)
        self._sids = claims_of(sids.NOUN)
        self._tenants = claims_of(claims.TENANT)
        self._node: Table[str, NodeKey] = Table("node of locator")

    def held(self, noun: str) -> Mapping[ClaimKey, Claim]:
        """Claims of a noun that have an owner."""
        tables = {sids.NOUN: self._sids, claims.NUMBER: self._numbers, claims.TENANT: self._tenants}
        return tables[noun].held.rows

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        loop.group(
            self.number,
            _number,
            By(self._numbers.held, lambda _, claim: [claim.owner]),
            By(self._numbers.resting, lambda _, claim: [claim.owner]),
        )
        loop.group(self._node, _node, By(self._locator, lambda _, locator: [_pool(locator)]))
        loop.group(
            self.sid,
            self._sid,
            By(self._sids.held),
            By(self._sids.resting),
            To(self._node, lambda key, *_: key.pool),
        )
        loop.group(self.tenant, _tenant, By(self._tenants.held, self._pod))

    def _pod(self, _: ClaimKey, claim: Claim) -> list[PodKey]:
        namespace, name = claims.owner_pod(claim.owner)
        return [PodKey(self._cluster, namespace, name)] if name else []

    def _sid(
        self, key: ClaimKey, held: Claim | None, resting: Claim | None, node: NodeKey | None
    ) -> dict[ClaimKey, SID]:
        claim, locator = held or resting, sids.locator_of(key.pool)
        if claim is None or node is None or locator is None:
            return {}
        state = SIDState.ACTIVE if held else SIDState.RESTING
        row = sids.sid_of(claim, {locator: node.name}, self._blocks(), state)
        return {key: row} if row else {}


def _pool(locator: IPv6Network) -> str:
    try:
        return sids.pool_of(locator)
    except ValueError:
        return ""


def _node(pool: str, nodes: Mapping[NodeKey, IPv6Network]) -> dict[str, NodeKey]:
    return {pool: min(nodes)} if nodes and pool else {}


def _number(
    name: str, held: Mapping[ClaimKey, Claim], resting: Mapping[ClaimKey, Claim]
) -> dict[str, int]:
    numbers = [key.number for key in (held or resting) if key.number in claims.NUMBERS]
    return {name: max(numbers)} if numbers else {}


def _tenant(key: PodKey, held: Mapping[ClaimKey, Claim]) -> dict[PodKey, Tenants]:
    found = claims.tenants(held)
    return {key: found} if found else {}
