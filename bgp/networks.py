"""Routers that nodes peer with, as networks, which no other cluster has without a contract. Pure.

And to which of them a node announces something, and what it attracts by that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network

from bgp.peer import BGPPeer
from bgp.route import PeerKey
from bgp.routes import within
from mesh.core.model import Labels, Network
from mesh.identity.selectors import matches


def router(address: PeerKey, peers: Mapping[str, BGPPeer]) -> dict[Network, None]:
    """The network of a router's address, or of a range of routers, that BGPPeers name."""
    return {ip_network(address): None} if peers else {}


def routers_of(_: str, peer: BGPPeer) -> list[PeerKey]:
    """The address that a BGPPeer names."""
    return [peer.address]


def trusted(_: str, peer: BGPPeer) -> list[PeerKey]:
    """The address that a BGPPeer names, if its SIDs are accepted."""
    return [peer.address] if peer.accept_sids else []


def carrier(name: str, peer: BGPPeer | None, word: str) -> dict[str, Labels]:
    """The labels of a BGPPeer with a VPN family that advertises ``word``."""
    carries = peer and word in peer.kinds and any(family.vpn for family in peer.families)
    return {name: peer.labels} if peer and carries else {}


def announcing(peers: Mapping[str, BGPPeer], labels: Labels, word: str) -> dict[str, None]:
    """The BGPPeers that select a node with these labels, and advertise ``word``."""
    own = dict(labels)
    return {
        name: None
        for name, peer in peers.items()
        if word in peer.kinds and matches(peer.nodes, own)
    }


def attracted(
    peers: Mapping[str, BGPPeer], labels: Labels, parts: Sequence[Network]
) -> Iterable[Network]:
    """Aggregates that a node with these labels announces: those of which it has a part.

    What a BGPPeer names by itself is for the host to route.
    """
    own = dict(labels)
    found: dict[Network, None] = {}
    for peer in peers.values():
        if not matches(peer.nodes, own):
            continue
        for entry in peer.advertise:
            for whole in entry.aggregates:
                if any(within(part, (whole,)) for part in parts):
                    found[whole] = None
    return found
