"""Pod CIDRs of this node, announced to routers."""

from __future__ import annotations

from mesh.nodes.pod_cidrs import ADVERTISED, NOUN
from mesh.pools.speaker import ClaimedSpeaker


class PodCIDRsSpeaker(ClaimedSpeaker):
    """Pod CIDRs that this node has claimed."""

    kind, noun = ADVERTISED, NOUN
