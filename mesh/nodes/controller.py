"""Nodes in a cluster: each gets a pod CIDR of every pool."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from ipaddress import IPv6Network
from itertools import chain
from typing import Any

from mesh.core.feature import ControllerFeature
from mesh.core.groups import By
from mesh.core.model import IP, Claim, ClaimKey, Finding, ForeignNode, Network, Node, NodeKey
from mesh.core.noun import Listing, Row, Rows
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore, Remote
from mesh.core.table import Table
from mesh.nodes import rows
from mesh.nodes.findings import NO_POD_CIDR
from mesh.nodes.nouns import node_row
from mesh.nodes.pod_cidrs import NOUN, POD_CIDR_POOLS
from mesh.nodes.settings import PodCIDRPools
from mesh.nodes.standing import StandingNodes
from mesh.objects.tables import Objects
from mesh.pools.claims import PoolClaims


class NodesController(ControllerFeature):
    """``foreign`` are nodes of other clusters that publish prefixes of our pools.

    ``beside``: another CNI connects the pods, so no pod CIDR is wanted.
    """

    def __init__(
        self,
        cluster: str,
        pools: PodCIDRPools,
        objects: Objects,
        store: OwnStore,
        remote: Remote,
        locator: Table[NodeKey, IPv6Network],
        foreign: Table[str, ForeignNode],
        *,
        beside: bool = False,
    ) -> None:
        self.node: Table[NodeKey, Node] = Table("node")
        self.own_addresses = (Table[IP, None]("address of own node"),)
        self._cluster, self._objects, self._remote = cluster, objects, remote
        self._claims, self._locator = store.claims_of(NOUN).held, locator
        self._beside, self._pods = beside, store.pods
        self.standing = StandingNodes(objects)
        self._pools = PoolClaims(
            NOUN, POD_CIDR_POOLS, pools.pod_cidrs, objects, foreign, has=lambda node: node.given
        )
        self.wants = () if beside else (self._pools.wants,)
        self.ours = (self._pools.ours, Table[Network, None]("pod CIDR of a Node object"))
        self.claims = (self._pools.claimable,)

    @property
    def agreed(self) -> Mapping[str, object]:
        return {POD_CIDR_POOLS: self._pools.names}

    def derive(self, loop: Loop) -> None:
        self._pools.derive(loop)
        self.standing.derive(loop)
        of_pod = By(self._pods, lambda ref, _: [NodeKey(self._cluster, ref.node)])
        of_claim = By(self._claims, lambda _, claim: [NodeKey(self._cluster, claim.owner)])
        make, by = (rows.beside_node, of_pod) if self._beside else (self._node, of_claim)
        loop.group(self.node, make, By(self.standing.table), by, By(self._locator))
        by_address = By(self.standing.table, lambda _, node: node.addresses)
        loop.group(self.own_addresses[0], rows.own_address, by_address)
        loop.group(self.ours[1], rows.handed_out, By(self.node, rows.given_to))

    def _node(
        self,
        key: NodeKey,
        node: Node | None,
        claims: Mapping[ClaimKey, Claim],
        locator: IPv6Network | None,
    ) -> dict[NodeKey, Node]:
        return rows.own_node(key, node, claims, locator, self._pools.names)

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self.standing.run,)

    def listings(self) -> Mapping[str, Listing]:
        return {"node": self._rows}

    def _rows(self) -> Sequence[Row]:
        rows = chain(self.node.rows.values(), self._remote.nodes.rows.values())
        return Rows.of(rows, node_row)

    def findings(self) -> Iterable[Finding]:
        yield from self._pools.findings(f"meshgate/v1/{self._cluster}/config")
        if self._pools.names or self._beside:
            return
        for key, node in self.standing.table.rows.items():
            if not node.given:
                text = "none, and the controller has no pools: the node's pods get no addresses; "
                text += "let the cluster hand out pod CIDRs, or give the controller pools.podCIDRs"
                about = (f"node/{key.name}",)
                yield Finding(NO_POD_CIDR, f"Node/{key.name}", "spec.podCIDRs", text, about)
