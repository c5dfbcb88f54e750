"""Nodes as the neighbours of a router, from a BGPPeer: pure.

The sessions are those that ``bgp/desired.py`` makes for the speakers. Of a dynamic peer, which has
a range in place of an address, each router gets the same neighbours and dials them.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.desired import Peering, peerings
from bgp.peer import BGPPeer
from bgp.routers.side import Neighbor
from mesh.core.model import Node
from mesh.identity.selectors import matches


def neighbors(peer: BGPPeer, nodes: Iterable[Node], password: str = "") -> list[Neighbor]:
    """The nodes that the BGPPeer selects and that have an address of the router's family."""
    known = {peer.password: password} if peer.password else {}
    return [
        _neighbor(node, session)
        for node in nodes
        if matches(peer.nodes, dict(node.labels))
        for session in peerings(node, [peer], known)[0].values()
    ]


def _neighbor(node: Node, session: Peering) -> Neighbor:
    return Neighbor(
        session.local_address,
        session.local_asn,
        session.password,
        node.name,
        session.families,
        hold_s=session.hold_s,
        port=session.port,
        gtsm=session.ttl_security,
        multihop=session.multihop,
        bfd=session.bfd,
        dials=not session.passive,
        is_told=any(rule.accept for rule in session.imports),
        is_client=session.internal,
    )
