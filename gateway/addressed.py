"""Policies with the addresses that they have now; agent, controller and speaker have one table.

Fixed addresses need no store. Addresses out of a pool are claims (``claims.py``): while the store
has not been seen, a policy of a pool has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway import claims
from gateway.policy import POLICIES, EgressPolicy
from gateway.pool import Pools
from mesh.core.groups import By, Each, To
from mesh.core.model import IP, Claim, ClaimKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects


class Addressed:
    """``table`` has every policy; ``held`` are claims of egress addresses, ``drains`` of drains.

    Without ``drains`` an address that drains is still one of its policy.
    """

    def __init__(
        self,
        objects: Objects,
        held: Table[ClaimKey, Claim],
        drains: Table[ClaimKey, Claim] | None = None,
    ) -> None:
        self.pools = Pools(objects)
        self.table: Table[str, EgressPolicy] = Table("egress policy with addresses")
        self.held = held
        #: Ports of a block of claimed addresses, where they are not as configured.
        self.sizes: Table[IP, int] = Table("block size of egress address")
        self._drains = drains or Table[ClaimKey, Claim]("no drain")
        self._objects = objects[POLICIES]

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        self.pools.derive(loop)
        loop.group(self.sizes, claims.sizes_of, By(self.held, claims.addresses_of_key))
        loop.group(
            self.table,
            claims.with_addresses,
            By(self._objects),
            By(self.held, lambda _, claim: [claims.policy_of(claim.owner)]),
            To(self.pools.table, lambda _, policy, *__: policy.pool if policy else None),
            Each(self.pools.denied, lambda _, policy, *__: policy.addresses if policy else ()),
            Each(self._drains, lambda _, __, held, *___: map(claims.drain_key, _addresses(held))),
            also=[self.held, self._drains],
        )


def _addresses(held: Iterable[ClaimKey]) -> Iterator[IP]:
    return (address for key in held if (address := claims.address_of(key)))
