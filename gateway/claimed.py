"""Port blocks of the cluster, from claims; agent and controller have one such table."""

from __future__ import annotations

from gateway.blocks import Block, BlockKey, block_of_claim
from mesh.core.groups import By
from mesh.core.model import Claim, ClaimKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table


class Blocks:
    """``table`` has a row for each claim that is a block of ``block_size`` ports."""

    def __init__(
        self, name: str, cluster: str, block_size: int, claims: Table[ClaimKey, Claim]
    ) -> None:
        self.table: Table[BlockKey, Block] = Table(name)
        self._cluster, self._block_size, self._claims = cluster, block_size, claims

    def derive(self, loop: Loop) -> None:
        """Add the derivation."""
        loop.group(self.table, self._block, By(self._claims))

    def _block(self, _: ClaimKey, claim: Claim | None) -> dict[BlockKey, Block]:
        return block_of_claim(claim, self._cluster, self._block_size)
