"""The list of all nouns of the command line, in the order of ``meshgate --help``.

Each room declares its own; this is the one place that lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bgp import nouns as bgp
from bgp.bfd import nouns as bfd
from clustermesh import nouns as clusters
from gateway import nouns as egress
from gateway.feed import nouns as feed
from mesh.core.noun import Noun
from mesh.host import nouns as host
from mesh.identity import nouns as identity
from mesh.nodes import nouns as nodes
from mesh.observe import nouns as observed
from mesh.pods import nouns as pods
from mesh.services import nouns as services
from srv6.vrf import nouns as vrf

NOUNS: Final[Mapping[str, Noun]] = {
    noun.name: noun
    for noun in (
        nodes.NODE,
        pods.POD,
        identity.IDENTITY,
        identity.ADDRESS,
        services.SERVICE,
        egress.EGRESS,
        egress.GATEWAY,
        egress.DIRECT_PATH,
        egress.BLOCK,
        feed.FEED,
        egress.LEAK,
        bgp.PEER,
        observed.FLOW,
        observed.DROP,
        observed.RESET,
        clusters.CLUSTER,
        bgp.ROUTE,
        vrf.VRF_NOUN,
        vrf.SID_NOUN,
        bfd.BFD,
        host.HOST,
    )
}
