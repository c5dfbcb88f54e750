"""The words of pod CIDRs: a piece of each pool for each node."""

from __future__ import annotations

#: Field of the cluster's agreed configuration with the names of the pools.
POD_CIDR_POOLS = "podCIDRs"
#: Noun of the claims of pod CIDRs.
NOUN = "podcidr"
#: Word of ``BGPPeer.spec.advertise``.
ADVERTISED = "podCIDRs"
