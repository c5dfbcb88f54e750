"""Prefixes of our pools that nodes of other clusters publish: nobody may have them twice. Pure.

They count before they are judged: a prefix that a foreign node publishes is not given to a node of
ours, and a pool of ours out of which a foreign node publishes is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Network

from mesh.core.model import Finding, ForeignNode, Network
from mesh.pools.findings import POOL_OVERLAP
from mesh.pools.prefixes import pool_size, subnet

#: Pieces of a pool that are looked at: an IPv6 pool may have far more than there can be nodes.
MOST_NODES = 1 << 20


def meet(one: Network, other: Network) -> bool:
    """Whether two networks of one family overlap."""
    if isinstance(one, IPv6Network):
        return isinstance(other, IPv6Network) and one.overlaps(other)
    return not isinstance(other, IPv6Network) and one.overlaps(other)


def free_numbers(pool: str, foreign: Iterable[ForeignNode]) -> Sequence[int]:
    """Numbers of the pool whose subnet meets no prefix that a foreign node publishes."""
    taken: set[int] = set()
    base, size = subnet(pool, 0), min(pool_size(pool), MOST_NODES)
    for network in (network for other in foreign for network in other.networks):
        if network.version == base.version:
            first = int(network.network_address) - int(base.network_address)
            last = first + network.num_addresses - 1
            low, high = first // base.num_addresses, last // base.num_addresses
            taken.update(range(max(low, 0), min(high + 1, size)))
    return range(size) if not taken else [n for n in range(size) if n not in taken]


def pool_findings(
    field: str, pools: Iterable[Network], config_key: str, foreign: Iterable[ForeignNode]
) -> list[Finding]:
    """Pools out of which a foreign node publishes; one finding for each cluster and pool."""
    overlapping: dict[tuple[Network, str], list[str]] = {}
    cidrs = list(pools)
    for other in foreign:
        for cidr in cidrs:
            theirs = [f"{n} of {other}" for n in other.networks if meet(cidr, n)]
            overlapping.setdefault((cidr, other.cluster), []).extend(theirs)
    return [
        Finding(
            POOL_OVERLAP,
            config_key,
            field,
            f"{cidr} overlaps {texts[0]}{_more(texts)}",
            (f"cluster/{cluster}",),
        )
        for (cidr, cluster), texts in overlapping.items()
        if texts
    ]


def _more(texts: Sequence[str]) -> str:
    return f" and {len(texts) - 1} more" if len(texts) > 1 else ""
