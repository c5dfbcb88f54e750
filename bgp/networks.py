"""Routers that nodes peer with, as networks: no other cluster has them without a contract. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from bgp.peer import BGPPeer
from mesh.core.model import IP, Network


def router(address: IP, peers: Mapping[str, BGPPeer]) -> dict[Network, None]:
    """The network of a router's address that BGPPeers name."""
    return {ip_network(address): None} if peers else {}


def routers_of(_: str, peer: BGPPeer) -> list[IP]:
    """The address that a BGPPeer names."""
    return [peer.address]
