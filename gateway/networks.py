"""Egress addresses and destinations as networks. Pure.

No other cluster may claim the addresses, and none may claim a destination without a contract: its
pods would draw traffic that is to leave translated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from gateway.policy import EgressPolicy
from gateway.pool import EgressPool
from mesh.core.model import Network


def networks_of(_: str, policy: EgressPolicy) -> list[Network]:
    """The egress addresses of a policy as networks."""
    return [ip_network(address) for address in policy.addresses]


def networks_of_pool(_: str, pool: EgressPool) -> tuple[Network, ...]:
    """The networks of a pool."""
    return pool.cidrs


def egress_network(network: Network, *_: object) -> dict[Network, None]:
    """A network with egress addresses of policies or pools."""
    return {network: None}


def destinations_of(_: str, policy: EgressPolicy) -> list[Network]:
    """The destinations of a policy without its exclusions."""
    parts = (part for one in policy.destinations for part in _without(one, policy.excluded))
    return list(dict.fromkeys(parts))


def destination(network: Network, policies: Mapping[str, EgressPolicy]) -> dict[Network, None]:
    """A destination of at least one policy."""
    return {network: None} if policies else {}


def _without(network: Network, excluded: Iterable[Network]) -> list[Network]:
    """The parts of a network that lie in none of the excluded ones."""
    left = [network]
    for hole in excluded:
        left = [part for one in left for part in _cut(one, hole)]
    return left


def _cut(network: Network, hole: Network) -> Iterable[Network]:
    if network.version != hole.version or not network.overlaps(hole):
        return [network]
    if not hole.subnet_of(network) or hole == network:  # type: ignore[arg-type]
        return []
    return network.address_exclude(hole)  # type: ignore[arg-type]
