"""Egress addresses as networks: no other cluster may claim them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from gateway.policy import EgressPolicy
from mesh.core.model import IP, Network


def egress_network(address: IP, policies: Mapping[str, EgressPolicy]) -> dict[Network, None]:
    """The network of an egress address that policies name."""
    return {ip_network(address): None} if policies else {}
