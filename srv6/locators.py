"""SRv6 locators: one piece of the locator pool for each node (RFC 8986 3.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Network

from mesh.core.model import Claim
from mesh.pools.prefixes import claimed

#: Noun of the claims.
NOUN = "locator"
#: Field of the cluster's agreed configuration with the names of the pools.
LOCATOR_POOLS = "locators"
#: Word of ``BGPPeer.spec.advertise``.
ADVERTISED = "srv6Locators"
#: Likewise: routes of VRFs, on sessions with VPN families.
VRFS_ADVERTISED = "vrfs"


def locators(claims: Iterable[Claim], pools: Sequence[str]) -> dict[str, IPv6Network]:
    """Locator by node; of several pools the first counts."""
    rows: dict[str, IPv6Network] = {}
    for network, claim in claimed(claims, pools):
        if isinstance(network, IPv6Network):
            rows.setdefault(claim.owner, network)
    return rows
