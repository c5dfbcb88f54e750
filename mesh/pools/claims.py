"""One piece of each pool for each node, as claims: pod CIDRs and locators work alike.

A number that comes back to life under another owner is worse than one that is lost, so pieces are
never given back (D20).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.core.feature import Claimable, Want
from mesh.core.groups import By
from mesh.core.model import Finding, ForeignNode, Network, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects
from mesh.pools.foreign import free_numbers, pool_findings
from mesh.pools.settings import Pool


class PoolClaims:
    """``field`` is the pools' field in the configuration; ``noun`` that of the claims.

    A node that ``has`` what the pools are for, from elsewhere, wants no piece.
    """

    def __init__(
        self,
        noun: str,
        field: str,
        pools: Sequence[Pool],
        objects: Objects,
        foreign: Table[str, ForeignNode],
        has: Callable[[Node], object] = lambda _: False,
    ) -> None:
        self.wants: Table[Want, bool] = Table(f"{noun} wanted")
        self.ours: Table[Network, None] = Table(f"pools {noun}")
        #: Names of the pools under ``field``.
        self.table: Table[str, tuple[str, ...]] = Table(f"pools {field}")
        self.claimable = Claimable(noun, self._candidates)
        self._noun, self._field, self._pools = noun, field, tuple(pools)
        self._objects, self._foreign, self._has = objects, foreign, has

    @property
    def names(self) -> list[str]:
        """Names of the pools, as the cluster's agreed configuration has them."""
        return [pool.name for pool in self._pools]

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        self.ours.replace({pool.cidr: None for pool in self._pools})
        self.table.replace({self._field: tuple(self.names)})
        loop.group(self.wants, self._wanted, By(self._objects[NODES]), whole=[self._foreign])

    def findings(self, config_key: str) -> list[Finding]:
        """Pools out of which a foreign node publishes; ``config_key`` names our configuration."""
        cidrs = [pool.cidr for pool in self._pools]
        return pool_findings(self._field, cidrs, config_key, self._foreign.rows.values())

    def _wanted(self, key: NodeKey, node: Node | None) -> dict[Want, bool]:
        if node is None or self._has(node):
            return {}
        return {Want(self._noun, pool, key.name): True for pool in self.names}

    def _candidates(self, want: Want) -> Sequence[int]:
        return free_numbers(want.pool, self._foreign.rows.values())
