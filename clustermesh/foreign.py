"""Which of our prefixes are published, while other clusters publish the same ones. Pure.

A prefix belongs to the cluster that published it first, so that no other can push ours out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from clustermesh.findings import LOCK_HELD, NOT_PUBLISHED
from clustermesh.remote import wire
from clustermesh.store.follow import Batch, Entry
from mesh.core.model import Finding, ForeignNode, Network, Node

#: Seconds that a second kvstoremesh waits before it is one too many: one that was started anew
#: waits until the lease of its predecessor's lock has ended.
_WAIT_S = 60.0

Meet = Callable[[Network, Network], bool]


def foreign_node(entry: Entry, pools: Iterable[Network], meet: Meet) -> ForeignNode | None:
    """The prefixes of our pools that a node of another cluster publishes, accepted or not."""
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


class Locks:
    """Which kvstoremesh has the lock of the store, and which ones wait for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._created: dict[str, int] = {}  # the key of each, in the order of its creation
        self._since: dict[str, float] = {}

    def take(self, batch: Batch) -> None:
        """Take in changed keys below ``cilium/``."""
        for entry in batch.puts:
            if entry.key.startswith(wire.MESH_LOCK):
                self._created[entry.key] = entry.created
                self._since.setdefault(entry.key, self._clock())
        for key in batch.deletes:
            self._created.pop(key, None)
            self._since.pop(key, None)

    def findings(self) -> Iterable[Finding]:
        """Those that have waited for long."""
        holder, *others = sorted(self._created, key=self._created.__getitem__) or [""]
        for key in others:
            waits = min(self._clock() - since for since in (self._since[key], self._since[holder]))
            if waits >= _WAIT_S:
                text = f"waits for {wire.plain(holder)}, which another kvstoremesh holds"
                yield Finding(LOCK_HELD, wire.plain(key), "", text)


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
