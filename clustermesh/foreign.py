"""Which of our prefixes are published, while other clusters publish the same ones. Pure.

A prefix belongs to whoever published it first, so that nobody can push ours out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from clustermesh.findings import NOT_PUBLISHED
from clustermesh.remote import wire
from clustermesh.store.follow import Entry
from mesh.core.model import Finding, ForeignNode, Network, Node

Meet = Callable[[Network, Network], bool]


def foreign_node(entry: Entry, pools: Iterable[Network], meet: Meet) -> ForeignNode | None:
    """What a node of another cluster publishes out of our pools, whatever we think of the node."""
    try:
        row = wire.node_row(wire.decode(wire.WireNode, entry.value))
    except wire.WireError:
        return None
    published = (*row.pod_cidrs, row.locator) if row.locator else row.pod_cidrs
    ours = list(pools)
    networks = tuple(one for one in published if any(meet(one, pool) for pool in ours))
    if not networks:
        return None
    cluster, name = wire.plain(wire.cluster_of(entry.key)), wire.plain(row.name)
    return ForeignNode(cluster, name, networks, entry.created)


def publishable(
    node: Node, created: int | None, foreign: Iterable[ForeignNode], meet: Meet
) -> tuple[Node, list[Finding]]:
    """The node without the prefixes that another cluster had published before.

    ``created`` is the create revision of the node's published key. Each prefix that is left out is
    a finding.
    """
    earlier = [other for other in foreign if created is None or other.created < created]
    taken = _taken(node, earlier, meet)
    row = replace(
        node,
        pod_cidrs=tuple(network for network in node.pod_cidrs if network not in taken),
        locator=None if node.locator in taken else node.locator,
    )
    key = wire.node_key(node.cluster, node.name)
    return row, [
        Finding(NOT_PUBLISHED, key, _field(node, network), text, (f"cluster/{cluster}",))
        for network, (cluster, text) in taken.items()
    ]


def _field(node: Node, network: Network) -> str:
    """The field of the published node that names the prefix."""
    if network == node.locator:
        return f"Annotations.{wire.LOCATOR}"
    return f"IPv{network.version}AllocCIDR"


def _taken(node: Node, others: Iterable[ForeignNode], meet: Meet) -> dict[Network, tuple[str, str]]:
    """Prefixes that another cluster has published, with its name and a sentence."""
    mine = (*node.pod_cidrs, node.locator) if node.locator else node.pod_cidrs
    return {
        network: (other.cluster, f"{network} is not published: it overlaps {theirs} of {other}")
        for other in others
        for theirs in other.networks
        for network in mine
        if meet(network, theirs)
    }
