"""Routers that nodes peer with, as networks, which no other cluster has without a contract. Pure.

And to which of them a node announces something.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from bgp.peer import BGPPeer
from mesh.core.model import IP, Labels, Network
from mesh.identity.selectors import matches


def router(address: IP, peers: Mapping[str, BGPPeer]) -> dict[Network, None]:
    """The network of a router's address that BGPPeers name."""
    return {ip_network(address): None} if peers else {}


def routers_of(_: str, peer: BGPPeer) -> list[IP]:
    """The address that a BGPPeer names."""
    return [peer.address]


def announcing(peers: Mapping[str, BGPPeer], labels: Labels, word: str) -> dict[str, None]:
    """The BGPPeers that select a node with these labels, and advertise ``word``."""
    own = dict(labels)
    return {
        name: None
        for name, peer in peers.items()
        if word in peer.advertise and matches(peer.nodes, own)
    }
