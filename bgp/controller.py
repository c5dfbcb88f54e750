"""BGP in a controller: which addresses routers have. Sessions are the speaker's."""

from __future__ import annotations

from functools import partial

from bgp.networks import carrier, router, routers_of
from bgp.peer import PEERS
from mesh.core.feature import ControllerFeature
from mesh.core.groups import By
from mesh.core.model import Labels, Network
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects


class RoutersController(ControllerFeature):
    """The routers that the cluster's BGPPeers name."""

    def __init__(self, objects: Objects, vpn: str = "") -> None:
        """``vpn`` is the word of ``advertise`` whose prefixes have VPN families."""
        self.barred = (Table[Network, None]("a router's address"),)
        #: BGPPeers that carry such prefixes, with their labels.
        self.carriers: Table[str, Labels] = Table("BGPPeer with a VPN family")
        self._objects, self._vpn = objects, vpn

    def derive(self, loop: Loop) -> None:
        peers = self._objects[PEERS]
        loop.group(self.barred[0], router, By(peers, routers_of))
        loop.group(self.carriers, partial(carrier, word=self._vpn), By(peers))
