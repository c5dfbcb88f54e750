"""Sessions and routes as ``meshgate peer list`` and ``route list`` print them."""

from __future__ import annotations

from mesh.core.noun import noun

PEER = noun(
    "peer",
    "BGP sessions",
    "node address asn state reason",
    "node address",
)
ROUTE = noun(
    "route",
    "BGP routes that nodes announce",
    "node peer prefix nextHop announced",
    "node peer prefix",
)
