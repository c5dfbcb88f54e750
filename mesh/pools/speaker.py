"""Prefixes that this node has claimed, announced to routers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.core.feature import SpeakerFeature
from mesh.core.model import Claim, ClaimKey, Finding, Network, Node
from mesh.core.sources import ClaimsOf
from mesh.pools.findings import NO_PREFIX
from mesh.pools.prefixes import subnet


class ClaimedSpeaker(SpeakerFeature):
    """Pieces of pools that this node has claimed; a subclass says which."""

    noun: str

    def __init__(self, claims_of: ClaimsOf) -> None:
        self._claims = claims_of(self.noun)
        self.inputs = (self._claims,)
        self._findings: list[Finding] = []

    def prefixes(self, node: Node) -> Iterable[Network]:
        networks, self._findings = prefixes(self._claims.rows, node.name)
        return networks

    def findings(self) -> Iterable[Finding]:
        return self._findings


def prefixes(claims: Mapping[ClaimKey, Claim], node: str) -> tuple[list[Network], list[Finding]]:
    """Prefixes that the node has claimed, in the order of pools and numbers."""
    networks: list[Network] = []
    findings: list[Finding] = []
    mine = [claim for claim in claims.values() if claim.owner == node]
    for claim in sorted(mine, key=lambda claim: (claim.pool, claim.number)):
        try:
            networks.append(subnet(claim.pool, claim.number))
        except ValueError as error:
            name = f"{claim.noun}/{claim.pool}/number/{claim.number}"
            findings.append(Finding(NO_PREFIX, name, "", str(error)))
    return networks, findings
