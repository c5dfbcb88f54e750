"""Which BGP sessions a node has and which routes it announces on each: pure functions.

Rules: a route's next hop is the node's own first address of the prefix's family; a route exists
per session, because a session may advertise less than another; a prefix whose family the node has
no address for is a finding, never a route with a wrong next hop. ``mesh/speaker.py`` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bgp.findings import NO_LOCAL_ADDRESS, NO_NEXT_HOP, NOTHING_TO_SAY, TWO_PEERS
from bgp.peer import BGPPeer, Route
from mesh.core.model import IP, Finding, Network, Node


@dataclass(frozen=True, slots=True)
class Peering:
    """One session of this node; ``name`` and ``origin`` are the BGPPeer's."""

    name: str
    address: IP
    asn: int
    local_address: IP
    local_asn: int
    hold_s: int
    graceful_restart_s: int
    advertise: tuple[str, ...]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class RouteKey:
    """A prefix on one session."""

    peer: IP
    prefix: Network

    def __str__(self) -> str:
        return f"{self.prefix} to {self.peer}"


def own_address(node: Node, version: int) -> IP | None:
    """The node's first address of the IP version: source of sessions and next hop of routes."""
    return next((address for address in node.addresses if address.version == version), None)


def peerings(node: Node, peers: Iterable[BGPPeer]) -> tuple[dict[IP, Peering], list[Finding]]:
    """The node's sessions by router address, of the BGPPeers that select it.

    Two BGPPeers with one address: the first by name has it.
    """
    rows: dict[IP, Peering] = {}
    findings: list[Finding] = []
    for peer in sorted(peers, key=lambda peer: peer.name):
        local = own_address(node, peer.address.version)
        about = (f"node/{node.name}", f"peer/{peer.address}")
        if local is None:
            text = f"node {node.name} has no IPv{peer.address.version} address to reach it from"
            findings.append(Finding(NO_LOCAL_ADDRESS, _object(peer), "spec.address", text, about))
        elif peer.address in rows:
            text = f"BGPPeer {rows[peer.address].name} has the address {peer.address} on this node"
            findings.append(Finding(TWO_PEERS, _object(peer), "spec.address", text, about))
        else:
            rows[peer.address] = _peering(peer, local)
    return rows, findings


def routes(
    node: Node, sessions: Iterable[Peering], own: Mapping[str, Iterable[Network]]
) -> tuple[dict[RouteKey, Route], list[Finding]]:
    """Every route on every session; ``own`` has the node's prefixes by what advertises them."""
    rows: dict[RouteKey, Route] = {}
    findings: list[Finding] = []
    for session in sessions:
        prefixes = [prefix for kind in session.advertise for prefix in own.get(kind, ())]
        for prefix in prefixes:
            next_hop = own_address(node, prefix.version)
            if next_hop is None:
                text = f"node {node.name} has no IPv{prefix.version} address to be next hop"
                place, field = f"node/{node.name}", "status.addresses"
                findings.append(Finding(NO_NEXT_HOP, place, field, text))
            else:
                rows[RouteKey(session.address, prefix)] = Route(prefix, next_hop)
        if not prefixes:
            text = f"it advertises nothing from node {node.name}"
            about = (f"node/{node.name}", f"peer/{session.address}")
            findings.append(
                Finding(NOTHING_TO_SAY, _object(session), "spec.advertise", text, about)
            )
    return rows, list(dict.fromkeys(findings))


def _peering(peer: BGPPeer, local: IP) -> Peering:
    return Peering(
        name=peer.name,
        address=peer.address,
        asn=peer.asn,
        local_address=local,
        local_asn=peer.local_asn,
        hold_s=peer.hold_s,
        graceful_restart_s=peer.graceful_restart_s,
        advertise=peer.advertise,
        origin=peer.origin,
    )


def _object(peer: BGPPeer | Peering) -> str:
    return peer.origin or f"BGPPeer/{peer.name}"
