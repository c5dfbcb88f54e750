"""Egress addresses of which this node is the gateway, announced to routers."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from gateway.gateways import Gateways
from gateway.policy import ADVERTISED
from mesh.core.feature import SpeakerFeature
from mesh.core.model import Network, Node
from mesh.core.reconcile import Loop
from mesh.objects.tables import Objects


class EgressSpeaker(SpeakerFeature):
    """An address that several policies name belongs to the oldest one."""

    kind = ADVERTISED

    def __init__(self, objects: Objects) -> None:
        self._gateways = Gateways(objects)
        self.inputs = (self._gateways.of_address,)

    def derive(self, loop: Loop) -> None:
        self._gateways.derive(loop)

    def prefixes(self, node: Node) -> Iterable[Network]:
        gateways = self._gateways.of_address.rows.items()
        return [ip_network(address) for address, gateway in gateways if gateway.name == node.name]
