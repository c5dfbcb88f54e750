"""Nodes on a node: how packets reach the others, and which networks are behind them.

    own objects, claims of pod CIDRs, locators; nodes of other clusters -> node
    node, next hops of the kernel                                       -> mg_node
    node                                                                -> mg_addr_cidr

A node keeps the next hop that its kernel has lost for a moment, and no node is removed before the
kernel was asked about all of them (D13).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Network
from typing import Any

from mesh.core.address import bits_before
from mesh.core.feature import AgentFeature, Maps
from mesh.core.groups import By, Each, To
from mesh.core.model import IP, OVERLAY_PORT, Claim, ClaimKey, Finding, Network, Node, NodeKey
from mesh.core.noun import Listing, Rows
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore, Remote
from mesh.core.table import Source, Table
from mesh.identity.addresses import tunnel_endpoint
from mesh.nodes import maps as entries
from mesh.nodes import rows
from mesh.nodes.findings import NO_OBJECT, WRONG_ENDPOINT
from mesh.nodes.layouts import DECLARED
from mesh.nodes.nouns import node_row
from mesh.nodes.pod_cidrs import NOUN, POD_CIDR_POOLS
from mesh.nodes.standing import StandingNodes
from mesh.nodes.uplink import Facts
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects
from mesh.pools.prefixes import AgreedPools

#: Who lacks what when a map is full, with the reason of the drop.
WITHOUT_HOP = (
    "nodes that do not fit, peers' first, send and get nothing through the overlay "
    "(NO_TUNNEL_ENDPOINT, UNKNOWN_SENDER)"
)
WITHOUT_CIDR = (
    "pods behind the pod CIDRs that do not fit, peers' first, count as the world until their own "
    "addresses are known"
)


class NodesAgent(AgentFeature):
    """``facts`` are those of the uplink: tunnels to this node, ``own``, end at its endpoint.

    ``port`` is the overlay's of our own cluster, until the leader's word is known. ``beside``:
    another CNI connects the pods of our cluster, so no pod CIDR is claimed.
    """

    layouts = DECLARED

    def __init__(
        self,
        own: NodeKey,
        uplink: str,
        facts: Facts,
        objects: Objects,
        store: OwnStore,
        remote: Remote,
        locator: Table[NodeKey, IPv6Network],
        port: int = OVERLAY_PORT,
        *,
        beside: bool = False,
    ) -> None:
        self.own = own
        self.node: Table[NodeKey, Node] = Table("node")
        self.next_hops: Table[IPv4Address, IPv4Address | None] = Table("next hop")
        #: MTU of routes by tunnel endpoint; at the start of the agent those that the last one saw.
        self.mtus: Table[IPv4Address, int] = Table("MTU of route")
        self.mtus.mark_synced()
        self.hop: Table[IPv4Address, rows.NodeHop] = Table("node hop")
        #: UDP ports on which nodes take the overlay.
        self.ports: Table[int, None] = Table("overlay port")
        self.pod_cidr: Table[Network, rows.PodCIDR] = Table("pod CIDR")
        self.announced = (Table[Network, None]("own pod CIDR"),)
        self.ours = (
            Table[Network, None]("pod CIDR pools"),
            Table[Network, None]("pod CIDR of a Node object"),
        )
        self.own_addresses = (Table[IP, None]("address of own node"),)
        #: ``HostFlag`` by tunnel endpoint; at the start of the agent those of the last one.
        self.flags: Table[IPv4Address, int] = Table("flags of node")
        self.flags.mark_synced()
        self._uplink, self._endpoint = uplink, facts.endpoint
        self._node_row = partial(node_row, own=own, mtu=facts.pod_mtu)
        self._objects, self._claims, self._locator = objects, store.claims_of(NOUN).held, locator
        self._remote = remote
        self._pools = AgreedPools(store.config, POD_CIDR_POOLS)
        self._own_node: Table[NodeKey, Node] = Table("own node")
        self._this_node: Table[NodeKey, Node] = Table("this node")
        self.standing = StandingNodes(objects)
        self._recovered: Table[IPv4Address, rows.NodeHop] = Table("recovered node hop")
        self._recovered.mark_synced()
        #: Of each cluster: of the own one by the configuration, until its leader has published one.
        self._port_of: Table[str, int] = Table("port of cluster")
        self._port, self._published = port, store.ports
        self._beside, self._pods = beside, store.pods
        self._asked = Source("asked for every next hop")

    def derive(self, loop: Loop) -> None:
        self._pools.derive(loop)
        self._pools.derive_wholes(loop, self.ours[0])
        self.standing.derive(loop)
        by_address = By(self.standing.table, lambda _, node: node.addresses)
        loop.group(self.own_addresses[0], rows.own_address, by_address)
        of_pod = By(self._pods, lambda ref, _: [NodeKey(self.own.cluster, ref.node)])
        of_claim = By(self._claims, lambda _, claim: [NodeKey(self.own.cluster, claim.owner)])
        make, by = (rows.beside_node, of_pod) if self._beside else (self._make_own, of_claim)
        loop.group(
            self._own_node,
            make,
            By(self.standing.table),
            by,
            By(self._locator),
            whole=[] if self._beside else [self._pools.table],
        )
        loop.group(self.ours[1], rows.handed_out, By(self._own_node, rows.given_to))
        loop.group(
            self.node,
            rows.known_node,
            By(self._own_node),
            By(self._remote.nodes),
            also=[self._remote.nodes],
        )
        loop.derive([self.node, self.next_hops], self._ask, [self._remote.complete])
        loop.derive([self._remote.ports], self._note_ports, [self._published])
        loop.group(
            self.hop,
            rows.node_hop,
            By(self.node, self._endpoint_of),
            Each(self._remote.ids, _clusters),
            By(self.next_hops),
            By(self._recovered),
            By(self.flags),
            By(self.mtus),
            Each(self._remote.hosts, _clusters),
            Each(self._port_of, _clusters),
            late=[self.next_hops, self._asked],
        )
        loop.group(
            self.pod_cidr,
            rows.pod_cidrs,
            By(self.node),
            To(self._remote.ids, lambda key, _: key.cluster),
            late=[self._remote.complete],
        )
        of_hop = By(self.hop, lambda _, row: [row.port])
        loop.group(self.ports, rows.overlay_ports, of_hop, also=[self.hop], late=[self.hop])
        loop.group(self._this_node, rows.one_node, By(self.node, self._if_own))
        loop.group(self.announced[0], rows.announced, By(self._this_node))

    async def recover(self, maps: Maps) -> None:
        target = maps.rows("mg_node", entries.encode_node, entries.decode_node)
        self.take_recovered(await target.read())

    def take_recovered(self, hops: Mapping[IPv4Address, rows.NodeHop]) -> None:
        """Start from the rows that the map has."""
        self._recovered.upsert(hops)
        self.flags.upsert({address: row.flags for address, row in hops.items()})
        self.mtus.upsert({address: row.mtu for address, row in hops.items() if row.mtu})

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self.standing.run,)

    def apply(self, loop: Loop, maps: Maps) -> None:
        before = bits_before(maps.struct("cidr_key"))
        loop.apply(
            self.hop,
            maps.rows("mg_node", entries.encode_node, entries.decode_node),
            capacity=maps.capacity("mg_node"),
            rank=self._own_first,
            meaning=WITHOUT_HOP,
        )
        loop.apply(self.ports, maps.rows("mg_port", entries.encode_port, entries.decode_port))
        encode = partial(entries.encode_cidr, before=before)
        decode = partial(entries.decode_cidr, before=before)
        loop.apply(
            self.pod_cidr,
            maps.rows("mg_addr_cidr", encode, decode),
            capacity=maps.capacity("mg_addr_cidr"),
            rank=self._own_first,
            meaning=WITHOUT_CIDR,
        )

    def _own_first(self, _: object, row: rows.NodeHop | rows.PodCIDR) -> int:
        """Which rows have room first: those of nodes of our cluster, then peers'."""
        return int(row.cluster != self._remote.ids.rows.get(self.own.cluster))

    def listings(self) -> Mapping[str, Listing]:
        return {"node": lambda: Rows.of(self.node.rows.values(), self._node_row)}

    def findings(self) -> Iterable[Finding]:
        objects, place = self._objects[NODES], f"Node/{self.own.name}"
        me = objects.rows.get(self.own)
        if me is None and objects.synced:
            text = "this node has no Node object: new pods get no addresses, it is no gateway and"
            text += " announces nothing; two minutes after it has gone others cannot reach it"
            yield Finding(NO_OBJECT, place, "metadata.name", text)
        if me and tunnel_endpoint(me) != self._endpoint:
            text = f"the object says {tunnel_endpoint(me)}, tunnels by {self._uplink} end at "
            text += f"{self._endpoint}: others tunnel to the wrong address; give this host the one "
            text += "of the object, or correct the object"
            yield Finding(WRONG_ENDPOINT, place, "status.addresses", text)

    def tunnel_endpoints(self) -> list[IPv4Address]:
        """Outer addresses of all other nodes."""
        nodes = (node for key, node in self.node.rows.items() if key != self.own)
        return [address for node in nodes if (address := tunnel_endpoint(node))]

    def _make_own(
        self,
        key: NodeKey,
        node: Node | None,
        claims: Mapping[ClaimKey, Claim],
        locator: IPv6Network | None,
    ) -> dict[NodeKey, Node]:
        return rows.own_node(key, node, claims, locator, self._pools.names)

    def _note_ports(self) -> None:
        ports = {**self._remote.ports.rows, self.own.cluster: self._port}
        self._port_of.replace({**ports, **self._published.rows})

    def _endpoint_of(self, key: NodeKey, node: Node) -> list[IPv4Address]:
        endpoint = tunnel_endpoint(node)
        return [endpoint] if endpoint and key != self.own else []

    def _if_own(self, key: NodeKey, _: Node) -> list[NodeKey]:
        return [key] if key == self.own else []

    def _ask(self) -> None:
        """Whether the kernel was asked about every node that there is, peers' included."""
        if not self._asked.synced and self._remote.complete.synced:
            hops = self.next_hops.rows
            if all(address in hops for address in self.tunnel_endpoints()):
                self._asked.mark_synced()


def _clusters(_: IPv4Address, nodes: Mapping[NodeKey, Node], *__: object) -> list[str]:
    return [key.cluster for key in nodes]
