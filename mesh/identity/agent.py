"""Identities and addresses on a node: who every address of the mesh is.

    claims of identities          -> identity, number of each label text
    pod entries, confirmations    -> pods that count (``counted.py``)
    pods that count, nodes        -> address (own pods)
    nodes of all clusters         -> address (nodes)

Addresses of other clusters arrive in the same table by ``take_remote``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from itertools import chain

from mesh.core.address import ADDRESS
from mesh.core.feature import AgentFeature, Maps
from mesh.core.groups import By, To
from mesh.core.model import IP, Finding, Identity, Labels, Node, NodeKey, PodKey
from mesh.core.noun import Listing, Row, Rows
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore, Remote
from mesh.core.table import ColumnTable, Source, Table
from mesh.identity import addresses
from mesh.identity.addresses import VALUE, AddressValue, OwnPods, tunnel_endpoint
from mesh.identity.counted import CountedPods
from mesh.identity.labels import (
    CLUSTER_SHIFT,
    FIRST_IDENTITY,
    NOUN,
    POOL,
    learned_labels,
)
from mesh.identity.layouts import DECLARED
from mesh.identity.listing import address_rows
from mesh.identity.nouns import identity_row
from mesh.identity.numbers import Numbers
from mesh.objects.tables import Objects

#: Who lacks what when the map is full.
WITHOUT_ADDRESS = (
    "the pods that do not fit, peers' first, are known by the pod CIDRs of their nodes only, "
    "without an identity"
)


def address_table() -> ColumnTable:
    """The table of all addresses of the mesh."""
    return ColumnTable("address", ADDRESS, VALUE)


class IdentityAgent(AgentFeature):
    """``own`` is this node; ``id_`` is the id of the cluster."""

    layouts = DECLARED

    def __init__(
        self,
        own: NodeKey,
        id_: int,
        address: ColumnTable,
        objects: Objects,
        store: OwnStore,
        remote: Remote,
        node: Table[NodeKey, Node],
    ) -> None:
        self.address = address
        self._own, self._id = own, id_
        self._objects, self._node = objects, node
        self._remote = remote
        self._numbers = Numbers(own.cluster, id_, store.claims_of(NOUN, pool=POOL).held)
        self.number = self._numbers.number
        #: Labels of learned networks by identity.
        self.learned: Table[int, Labels] = Table("labels of learned identity")
        self.counted = CountedPods(
            own.cluster, store.pods, store.confirmed, store.confirms,
            self._numbers.identity, self.number,
        )  # fmt: skip
        self._own_pods = OwnPods(self.counted, address, id_)
        self.counted.then = self._own_pods.pods
        self._endpoint: Table[str, IPv4Address] = Table("endpoint of own node")
        self._asked: Table[tuple[bytes, NodeKey], AddressValue] = Table("address of node asked")
        self._node_address: Table[bytes, AddressValue] = Table("address of node")

    def derive(self, loop: Loop) -> None:
        self._numbers.derive(loop)
        loop.group(self.learned, _learned, By(self._numbers.identity))
        self.counted.derive(loop, self._node)
        loop.group(self._endpoint, _endpoint, By(self._node, self._if_ours))
        loop.follow(self._endpoint, self._own_pods.endpoints, keys=1)
        loop.group(
            self._asked,
            partial(addresses.node_addresses, own=self._own),
            By(self._node),
            To(self._remote.ids, lambda key, _: key.cluster),
        )
        loop.group(self._node_address, addresses.first_asked, By(self._asked, lambda k, _: [k[0]]))
        loop.follow(self._node_address, partial(addresses.write_columns, self.address))
        sources: list[Source] = [self._remote.complete, self.counted.table, self._node_address]
        loop.derive(sources, self.address.mark_synced)

    def apply(self, loop: Loop, maps: Maps) -> None:
        loop.apply_columns(
            self.address,
            maps.columns("mg_address", self.address),
            capacity=maps.capacity("mg_address"),
            rank=partial(addresses.address_ranks, self._id),
            meaning=WITHOUT_ADDRESS,
        )

    def _if_ours(self, key: NodeKey, _: Node) -> list[str]:
        return [key.name] if key.cluster == self._own.cluster else []

    def findings(self) -> Iterable[Finding]:
        return self.counted.findings()

    def pod_of(self, address: IP) -> PodKey | None:
        """The pod of an address, of any cluster."""
        ref = self._own_pods.owner(address)
        if ref is None:
            return self._remote.pod_of(address)
        return PodKey(self._own.cluster, ref.namespace, ref.name)

    def labels_of(self, number: int) -> str:
        """The label text of an identity of any cluster, empty when this node does not know it."""
        row = self._numbers.identity.rows.get(number) or self._remote.identities.rows.get(number)
        return row.labels if row else ""

    def cluster_of(self, number: int) -> str:
        """The cluster in whose range an identity is, empty for those that all clusters share."""
        if number < FIRST_IDENTITY:
            return ""
        ids = self._remote.ids.rows.items()
        return next((name for name, id_ in ids if id_ == number >> CLUSTER_SHIFT), "")

    def listings(self) -> Mapping[str, Listing]:
        return {"identity": self._identity_rows, "address": self._address_rows}

    def _identity_rows(self) -> Sequence[Row]:
        rows = chain(self._numbers.identity.rows.values(), self._remote.identities.rows.values())
        return Rows.of(rows, identity_row)

    def _address_rows(self) -> Sequence[Row]:
        clusters = {number: name for name, number in self._remote.ids.rows.items()}
        nodes = self._node.rows.values()
        names = {int(a): node.name for node in nodes if (a := tunnel_endpoint(node))}
        return address_rows(self.address, clusters, names)


def _learned(number: int, identity: Identity | None) -> dict[int, Labels]:
    labels = learned_labels(identity.labels) if identity else ()
    return {number: labels} if labels else {}


def _endpoint(name: str, nodes: Mapping[NodeKey, Node]) -> dict[str, IPv4Address]:
    endpoints = [endpoint for node in nodes.values() if (endpoint := tunnel_endpoint(node))]
    return {name: endpoints[0]} if endpoints else {}
