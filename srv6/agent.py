"""SRv6 locators on a node: claims become the locator of each node."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Network

from mesh.core.feature import AgentFeature
from mesh.core.groups import By
from mesh.core.model import Network, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Table
from mesh.pools.prefixes import AgreedPools
from srv6.assigned import Locators
from srv6.layouts import DECLARED
from srv6.locators import LOCATOR_POOLS, NOUN


class LocatorsAgent(AgentFeature):
    """``node`` is this node."""

    layouts = DECLARED

    def __init__(self, node: NodeKey, store: OwnStore) -> None:
        self.announced = (Table[Network, None]("own locator"),)
        self.ours = (Table[Network, None]("locator pools"),)
        self._node = node
        self._pools = AgreedPools(store.config, LOCATOR_POOLS)
        self._locators = Locators(node.cluster, store.claims_of(NOUN).held, self._pools.table)
        self.locator = self._locators.table

    @property
    def blocks(self) -> tuple[IPv6Network, ...]:
        """The networks of the locator pools."""
        return tuple([one for one in self.ours[0].rows if isinstance(one, IPv6Network)])

    def derive(self, loop: Loop) -> None:
        self._pools.derive(loop)
        self._locators.derive(loop)
        self._pools.derive_wholes(loop, self.ours[0])
        loop.group(self.announced[0], self._announced, By(self.locator, self._if_own))

    def _if_own(self, key: NodeKey, _: IPv6Network) -> list[NodeKey]:
        return [key] if key == self._node else []

    def _announced(
        self, _: NodeKey, locators: Mapping[NodeKey, IPv6Network]
    ) -> dict[Network, None]:
        return dict.fromkeys(locators.values())
