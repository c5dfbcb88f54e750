"""Pod CIDRs of this node, announced to routers."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.model import Network, Node
from mesh.nodes.pod_cidrs import ADVERTISED, NOUN
from mesh.pools.speaker import ClaimedSpeaker


class PodCIDRsSpeaker(ClaimedSpeaker):
    """Pod CIDRs that the cluster has handed out to this node; else those that it has claimed."""

    kind, noun = ADVERTISED, NOUN

    def prefixes(self, node: Node) -> Iterable[Network]:
        claimed = super().prefixes(node)
        return node.given or claimed
