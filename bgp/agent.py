"""BGP on a node: which addresses routers have, and to whom its pods are announced.

Sessions are the speaker's.
"""

from __future__ import annotations

from bgp.networks import announcing, router, routers_of
from bgp.peer import PEERS
from mesh.core.feature import AgentFeature
from mesh.core.groups import By
from mesh.core.model import Network, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects


class RoutersAgent(AgentFeature):
    """The routers that the cluster's BGPPeers name.

    ``announcing`` are the BGPPeers that select ``own`` and advertise ``word``.
    """

    def __init__(self, objects: Objects, own: NodeKey, word: str) -> None:
        self.barred = (Table[Network, None]("a router's address"),)
        self.announcing: Table[str, None] = Table("BGPPeer that announces pods")
        self._objects, self._own, self._word = objects, own, word

    def derive(self, loop: Loop) -> None:
        peers, nodes = self._objects[PEERS], self._objects[NODES]
        loop.group(self.barred[0], router, By(peers, routers_of))
        loop.derive([peers, nodes], self._announce)

    def _announce(self) -> None:
        """Of all peers, which are few; of the nodes only this one's labels."""
        node = self._objects[NODES].rows.get(self._own)
        labels = node.labels if node else ()
        self.announcing.replace(announcing(self._objects[PEERS].rows, labels, self._word))
