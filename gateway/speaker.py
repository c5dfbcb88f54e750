"""Egress addresses of which this node is a gateway, announced to routers (ECMP)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from gateway import claims
from gateway.addressed import Addressed
from gateway.coverage import ClaimsOf
from gateway.gateways import Gateways
from gateway.networks import egress_network, networks_of, networks_of_pool
from gateway.plan import by_precedence
from gateway.policy import ADVERTISED
from gateway.pool import EgressPool
from mesh.core.feature import Offer, SpeakerFeature
from mesh.core.groups import By
from mesh.core.model import IP, Labels, Network, Node
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects


class EgressSpeaker(SpeakerFeature):
    """An address that several policies name belongs to the oldest one, and so do its labels.

    An address that drains is announced by those that carry it. One of a pool that says another way
    than BGP is not. ``held`` gives the claims of a noun.
    """

    kind = ADVERTISED

    def __init__(self, objects: Objects, held: ClaimsOf) -> None:
        claimed, carriers = held(claims.NOUN), held(claims.CARRIER)
        self._addressed = Addressed(objects, claimed)
        self._policies, self._pools = self._addressed.table, self._addressed.pools.table
        self._gateways = Gateways(objects, self._policies, carriers)
        #: Whether routers hear of each address in use, and the labels of its policy.
        self._said: Mapping[IP, tuple[bool, Labels]] = {}
        self.ours = (Table[Network, None]("an egress address"),)
        self.inputs = (
            self._gateways.of_address, self._policies, self._pools, claimed, carriers
        )  # fmt: skip

    def derive(self, loop: Loop) -> None:
        self._addressed.derive(loop)
        self._gateways.derive(loop)
        networks = By(self._policies, networks_of), By(self._pools, networks_of_pool)
        loop.group(self.ours[0], egress_network, *networks)

    def offers(self, node: Node) -> Iterable[Offer]:
        gateways, pools = self._gateways.of_address.rows, self._pools.rows.values()
        said: dict[IP, tuple[bool, Labels]] = {}
        for policy in by_precedence(self._policies.rows.values()):
            for address in policy.addresses:
                said.setdefault(address, (is_announced(address, pools), policy.labels))
        for address in gateways.keys() - said.keys():  # what drains stays as it was
            said[address] = self._said.get(address, (is_announced(address, pools), ()))
        self._said = {address: said[address] for address in gateways}
        mine = [one for one, some in gateways.items() if any(n.name == node.name for n in some)]
        return [Offer(ip_network(a), said[a][1], f"address/{a}") for a in mine if said[a][0]]


def is_announced(address: IP, pools: Iterable[EgressPool]) -> bool:
    """Whether routers hear of an address: those outside of every pool too."""
    pool = next((pool for pool in pools if any(address in one for one in pool.cidrs)), None)
    return pool is None or pool.announce == "BGP"
