"""Prefixes that this node has claimed, announced to routers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.core.feature import Offer, SpeakerFeature
from mesh.core.groups import By
from mesh.core.model import Claim, ClaimKey, Finding, Network, Node
from mesh.core.reconcile import Loop
from mesh.core.sources import ClaimsOf
from mesh.core.table import Table
from mesh.pools.findings import NO_PREFIX
from mesh.pools.prefixes import readable, subnet, whole


class ClaimedSpeaker(SpeakerFeature):
    """Pieces of pools that this node has claimed; a subclass says which. Labels are the node's."""

    noun: str

    def __init__(self, claims_of: ClaimsOf) -> None:
        self._claims = claims_of(self.noun)
        self.inputs = (self._claims,)
        self.ours = (Table[Network, None](f"the pool of a {self.noun} claim"),)
        self._findings: list[Finding] = []

    def offers(self, node: Node) -> Iterable[Offer]:
        found, self._findings = offers(self._claims.rows, node)
        return found

    def derive(self, loop: Loop) -> None:
        pools = By(self._claims, lambda key, _: [key.pool])
        loop.group(self.ours[0], pool_network, pools)

    def findings(self) -> Iterable[Finding]:
        return self._findings


def pool_network(pool: str, claims: Mapping[ClaimKey, Claim]) -> dict[Network, None]:
    """The network of a pool that has claims."""
    return dict.fromkeys(whole(one) for one in readable([pool])) if claims else {}


def offers(claims: Mapping[ClaimKey, Claim], node: Node) -> tuple[list[Offer], list[Finding]]:
    """Prefixes that the node has claimed, in the order of pools and numbers."""
    found: list[Offer] = []
    findings: list[Finding] = []
    mine = [claim for claim in claims.values() if claim.owner == node.name]
    for claim in sorted(mine, key=lambda claim: (claim.pool, claim.number)):
        name = f"{claim.noun}/{claim.pool}/number/{claim.number}"
        try:
            found.append(Offer(subnet(claim.pool, claim.number), node.labels, name))
        except ValueError as error:
            findings.append(Finding(NO_PREFIX, name, "", str(error)))
    return found, findings
