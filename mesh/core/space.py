"""Private address space, and the question whether networks hold another one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from mesh.core.model import Network

#: Private and unique-local space (RFC 1918 3, RFC 4193 3.1).
PRIVATE: tuple[Network, ...] = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def within(networks: Iterable[Network], network: Network) -> bool:
    """Whether one of the networks holds all of this one."""
    first, last = int(network.network_address), int(network.broadcast_address)
    return any(
        one.version == network.version
        and int(one.network_address) <= first
        and last <= int(one.broadcast_address)
        for one in networks
    )
