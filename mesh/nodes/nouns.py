"""Nodes as ``meshgate node list`` prints them."""

from __future__ import annotations

from mesh.core.model import Node
from mesh.core.noun import Row, noun

NODE = noun(
    "node",
    "nodes of all clusters",
    "cluster name addresses podCIDRs locator",
    "cluster name",
)


def node_row(node: Node) -> Row:
    """One row of ``node list``."""
    return {
        "cluster": node.cluster,
        "name": node.name,
        "addresses": node.addresses,
        "podCIDRs": node.pod_cidrs,
        "locator": node.locator,
    }
