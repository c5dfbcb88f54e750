"""Nodes as ``meshgate node list`` prints them."""

from __future__ import annotations

from mesh.core.model import Node, NodeKey
from mesh.core.noun import Row, noun

NODE = noun(
    "node",
    "nodes of all clusters",
    "cluster name addresses podCIDRs locator mtu",
    "cluster name",
)


def node_row(node: Node, own: NodeKey | None = None, mtu: int = 0) -> Row:
    """One row of ``node list``; the agent of node ``own`` says what the pods there may send."""
    row: Row = {
        "cluster": node.cluster,
        "name": node.name,
        "addresses": node.addresses,
        "podCIDRs": node.pod_cidrs,
        "locator": node.locator,
    }
    here = NodeKey(node.cluster, node.name) == own
    return row | {"mtu": mtu} if here else row
