"""Nouns that have no room of their own yet, as ``meshgate NOUN list`` prints them."""

from __future__ import annotations

from mesh.core.noun import Noun


def _noun(name: str, text: str, columns: str, key: str) -> Noun:
    return Noun(name, text, tuple(columns.split()), tuple(key.split()))


NODE = _noun(
    "node",
    "nodes of all clusters",
    "cluster name addresses podCIDRs locator",
    "cluster name",
)
POD = _noun(
    "pod",
    "pods of this machine's clusters",
    "cluster namespace name node addresses identity",
    "cluster namespace name",
)
IDENTITY = _noun(
    "identity",
    "label sets and their numbers",
    "cluster id labels",
    "id",
)
ADDRESS = _noun(
    "address",
    "who an address is, behind which node",
    "address identity cluster node",
    "address",
)
SERVICE = _noun(
    "service",
    "services and their backends",
    "cluster namespace name addresses ports global backends",
    "cluster namespace name",
)
EGRESS = _noun(
    "egress",
    "egress policies, their addresses and gateways",
    "cluster policy addresses gateway pods",
    "cluster policy",
)
BLOCK = _noun(
    "block",
    "port blocks of egress addresses",
    "address number first last cluster node epoch",
    "address number",
)
PEER = _noun(
    "peer",
    "BGP sessions",
    "node address asn state reason",
    "node address",
)
FLOW = _noun(
    "flow",
    "new connections and drops",
    "time node source destination protocol verdict reason translated",
    "time node source destination protocol",
)
DROP = _noun(
    "drop",
    "dropped packets by reason",
    "node reason number packets",
    "node number",
)
CLUSTER = _noun(
    "cluster",
    "clusters as each cluster sees them",
    "cluster id nodes identities addresses services state synced seenBy",
    "cluster seenBy",
)
ROUTE = _noun(
    "route",
    "BGP routes that nodes announce",
    "node peer prefix nextHop announced",
    "node peer prefix",
)
