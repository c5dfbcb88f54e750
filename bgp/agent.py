"""BGP on a node: which addresses routers have. Sessions are the speaker's."""

from __future__ import annotations

from bgp.networks import router, routers_of
from bgp.peer import PEERS
from mesh.core.feature import AgentFeature
from mesh.core.groups import By
from mesh.core.model import Network
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects


class RoutersAgent(AgentFeature):
    """The routers that the cluster's BGPPeers name."""

    def __init__(self, objects: Objects) -> None:
        self.barred = (Table[Network, None]("a router's address"),)
        self._objects = objects

    def derive(self, loop: Loop) -> None:
        loop.group(self.barred[0], router, By(self._objects[PEERS], routers_of))
