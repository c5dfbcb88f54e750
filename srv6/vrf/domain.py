"""From where packets for our SIDs may come (RFC 8754 5.1, RFC 8986 10): the SR domain.

Nodes of all clusters by their own addresses, the networks of our locator pools, locators of other
clusters' nodes, routers whose SIDs are accepted, and prefixes of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Network, ip_network

from mesh.core.groups import By, To
from mesh.core.model import Network, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.sources import Remote
from mesh.core.table import Table
from srv6.agent import LocatorsAgent
from srv6.vrf.rows import SRv6Source


class Domain:
    """``table`` has the prefixes.

    ``routers`` are those whose SIDs are accepted, ``trusted`` the prefixes of the configuration.
    """

    def __init__(
        self,
        own: NodeKey,
        node: Table[NodeKey, Node],
        remote: Remote,
        locators: LocatorsAgent,
        routers: Table[Network, None],
        trusted: Sequence[Network] = (),
    ) -> None:
        self.table: Table[IPv6Network, SRv6Source] = Table("prefix of SR domain")
        self._own, self._node, self._remote = own, node, remote
        self._locators, self._routers, self._trusted = locators, routers, tuple(trusted)
        self._of_nodes: Table[IPv6Network, SRv6Source] = Table("prefix of node in SR domain")
        self._fixed: Table[IPv6Network, None] = Table("network of SR domain")

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        pools = self._locators.ours[0]
        loop.derive([self._routers], self._fix, [pools])
        loop.group(
            self._of_nodes,
            _of_node,
            By(self._node, self._prefixes),
            To(self._remote.ids, _cluster_of),
            also=[self._remote.ids],
        )
        loop.group(self.table, _source, By(self._of_nodes), By(self._fixed), late=[pools])

    def _fix(self) -> None:
        """Networks that do not come and go with nodes, all at once: they are few."""
        found = (*self._locators.ours[0].rows, *self._routers.rows, *self._trusted)
        self._fixed.replace({one: None for one in found if isinstance(one, IPv6Network)})

    def _prefixes(self, key: NodeKey, node: Node) -> Iterable[IPv6Network]:
        """Addresses and locator of another node: nothing comes from outside with our own."""
        if key == self._own:
            return ()
        found = [ip_network(address) for address in node.addresses if address.version == 6]
        locator = (node.locator,) if node.locator else ()
        return [*(one for one in found if isinstance(one, IPv6Network)), *locator]


def _cluster_of(_: IPv6Network, nodes: Mapping[NodeKey, Node]) -> str | None:
    return min(nodes).cluster if nodes else None


def _of_node(
    prefix: IPv6Network, nodes: Mapping[NodeKey, Node], cluster_id: int | None
) -> dict[IPv6Network, SRv6Source]:
    """An identity is believed from a node's own address only, not from its locator."""
    if not nodes:
        return {}
    is_address = prefix.prefixlen == prefix.max_prefixlen
    return {prefix: SRv6Source(cluster_id or 0 if is_address else 0)}


def _source(
    prefix: IPv6Network, node: SRv6Source | None, fixed: None, *_: object
) -> dict[IPv6Network, SRv6Source]:
    del fixed  # a group exists because a row of either table does
    return {prefix: node or SRv6Source()}
