"""SRv6 locators of this node, announced to routers."""

from __future__ import annotations

from mesh.pools.speaker import ClaimedSpeaker
from srv6.locators import ADVERTISED, NOUN


class LocatorsSpeaker(ClaimedSpeaker):
    """Locators that this node has claimed."""

    kind, noun = ADVERTISED, NOUN
