"""Which BFD sessions BGPPeers want on a node. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from bgp.bfd.rows import BFDWanted, SessionKey
from bgp.desired import Peering, peerings
from bgp.peer import BGPPeer
from mesh.core.model import IP, Node
from mesh.identity.selectors import matches


@dataclass(frozen=True, slots=True)
class BFDWants:
    """Sessions, and the object that wants each."""

    sessions: Mapping[SessionKey, BFDWanted]
    origins: Mapping[SessionKey, str]


def wanted(node: Node, peers: Iterable[BGPPeer]) -> BFDWants:
    """Sessions of the BGPPeers with BFD that select the node, by the rules of their BGP sessions.

    A password of BGP that is missing changes nothing: the way to the router is judged all the same.
    """
    labels = dict(node.labels)
    chosen = [replace(peer, password=None) for peer in peers if matches(peer.nodes, labels)]
    found: dict[SessionKey, BFDWanted] = {}
    origins: dict[SessionKey, str] = {}
    for row in peerings(node, chosen)[0].values():
        key = key_of(row)
        if key is not None and row.bfd is not None:
            bfd = row.bfd
            found[key] = BFDWanted(
                bfd.interval_ms * 1000, bfd.multiplier, bfd.multihop, bfd.passive, bfd.password
            )
            origins[key] = row.origin or f"BGPPeer/{row.name}"
    return BFDWants(found, origins)


def key_of(row: Peering) -> SessionKey | None:
    """Both ends of a session's BFD; None when its BGPPeer wants none."""
    if row.bfd is None or not isinstance(row.address, IPv4Address | IPv6Address):
        return None
    return SessionKey(row.address, row.local_address)


def keys(rows: Iterable[Peering]) -> dict[IP, SessionKey]:
    """The same of all sessions with BFD, by router."""
    found = (key_of(row) for row in rows)
    return {key.peer: key for key in found if key is not None}
