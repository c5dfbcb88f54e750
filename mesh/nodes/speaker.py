"""Pod CIDRs of this node, announced to routers."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.feature import Offer
from mesh.core.model import Node
from mesh.nodes.pod_cidrs import ADVERTISED, NOUN
from mesh.pools.speaker import ClaimedSpeaker


class PodCIDRsSpeaker(ClaimedSpeaker):
    """Pod CIDRs that the cluster has handed out to this node; else those that it has claimed."""

    kind, noun = ADVERTISED, NOUN

    def offers(self, node: Node) -> Iterable[Offer]:
        claimed = super().offers(node)
        about = f"node/{node.name}"
        given = [Offer(prefix, node.labels, about) for prefix in node.given]
        return given or claimed
