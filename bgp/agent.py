"""BGP on a node: which addresses routers have, to whom its pods go, and what aggregates attract.

Sessions are the speaker's.
"""

from __future__ import annotations

from collections.abc import Sequence

from bgp.networks import announcing, attracted, router, routers_of, trusted
from bgp.peer import PEERS
from mesh.core.feature import AgentFeature
from mesh.core.groups import By
from mesh.core.model import Labels, Network, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects


class RoutersAgent(AgentFeature):
    """The routers that the cluster's BGPPeers name.

    ``announcing`` are the BGPPeers that select ``own`` and advertise ``word``. ``parts`` are the
    networks that the features of the node attract: an aggregate attracts more than they.
    """

    def __init__(
        self,
        objects: Objects,
        own: NodeKey,
        word: str,
        parts: Sequence[Table[Network, None]] = (),
    ) -> None:
        self.barred = (Table[Network, None]("a router's address"),)
        #: Routers whose SIDs are accepted: packets for our SIDs may come from them.
        self.trusted: Table[Network, None] = Table("router in SR domain")
        self.announcing: Table[str, None] = Table("BGPPeer that announces pods")
        self.announced = (Table[Network, None]("aggregate"),)
        self._objects, self._own, self._word, self._parts = objects, own, word, tuple(parts)

    def derive(self, loop: Loop) -> None:
        peers, nodes = self._objects[PEERS], self._objects[NODES]
        loop.group(self.barred[0], router, By(peers, routers_of))
        loop.group(self.trusted, router, By(peers, trusted))
        loop.derive([peers, nodes], self._announce)
        loop.derive([peers, nodes, *self._parts], self._attract)

    def _announce(self) -> None:
        """Of all peers, which are few; of the nodes only this one's labels."""
        peers = self._objects[PEERS].rows
        self.announcing.replace(announcing(peers, self._labels(), self._word))

    def _attract(self) -> None:
        parts = [network for table in self._parts for network in table.rows]
        found = attracted(self._objects[PEERS].rows, self._labels(), parts)
        self.announced[0].replace(dict.fromkeys(found))

    def _labels(self) -> Labels:
        node = self._objects[NODES].rows.get(self._own)
        return node.labels if node else ()
