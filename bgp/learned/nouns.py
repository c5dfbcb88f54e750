"""Learned routes as ``meshgate route list`` prints them, beside those that a node announces."""

from __future__ import annotations

from bgp.learned.rows import Learned, LearnedKey
from mesh.core.noun import Row


def learned_row(node: str, key: LearnedKey, row: Learned) -> Row:
    """A route that a peer has sent."""
    return {
        "node": node,
        "vrf": key.vrf,
        "peer": key.peer,
        "prefix": key.prefix,
        "nextHop": row.next_hop,
        "sid": row.sid or "",
        "communities": row.communities,
        "labels": tuple(f"{name}={value}" for name, value in row.labels),
        "announced": False,
        "used": row.used,
        "reason": row.reason,
        "origin": "peer",
    }
