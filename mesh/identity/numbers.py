"""Identities of the own cluster, from claims; agent and controller have one such table."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core.groups import By
from mesh.core.model import Claim, ClaimKey, Identity
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.labels import CLUSTER_SHIFT


class Numbers:
    """``identity`` by number, and ``number`` by label text."""

    def __init__(self, cluster: str, cluster_id: int, claims: Table[ClaimKey, Claim]) -> None:
        self.identity: Table[int, Identity] = Table("identity")
        self.number: Table[str, int] = Table("number of labels")
        self._cluster, self._cluster_id = cluster, cluster_id
        self._claims = claims

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        loop.group(self.identity, self._identity, By(self._claims))
        loop.group(self.number, _number, By(self.identity, lambda _, row: [row.labels]))

    def _identity(self, key: ClaimKey, claim: Claim | None) -> dict[int, Identity]:
        """The identity of a claim; numbers of other clusters are left out."""
        if claim is None or key.number >> CLUSTER_SHIFT != self._cluster_id:
            return {}
        return {key.number: Identity(self._cluster, key.number, claim.owner)}


def _number(labels: str, identities: Mapping[int, Identity]) -> dict[str, int]:
    """The number of a label text; of two claims, which there should not be, the higher one."""
    return {labels: max(identities)} if identities else {}
