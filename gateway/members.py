"""Which nodes are gateways of an egress address, and for how long after they have left. Pure.

A pod's node picks one of the gateways that are there now (``mg_egress_addr``). Checks of a sender,
and of "am I one", read the row of node and address (``mg_gateway``): a node that has left is not
picked any more, but its packets, and packets to it, are accepted for ``ACCEPTS_S``, because the
nodes, and the routers outside, learn of it at different times. They are accepted for longer where
they still come: until there was none for ``IDLE_S``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from mesh.core.model import IP

#: How long the packets of a gateway that has left are accepted, and how long none may have come
#: when that ends.
ACCEPTS_S, IDLE_S = 120.0, 10.0


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A node, by its tunnel endpoint, as an egress address sees it."""

    address: IP
    node: IPv4Address


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """Value of ``mg_gateway``: ``sends`` while the node is in the set, ``accepts`` also later."""

    sends: bool
    accepts: bool


#: The gateways of each egress address.
Gateways = Mapping[IP, tuple[IPv4Address, ...]]


def keys(gateways: Gateways) -> set[GatewayKey]:
    """Every pair of address and gateway."""
    return {GatewayKey(address, node) for address, nodes in gateways.items() for node in nodes}


def with_room(
    gateways: Gateways, without: Container[GatewayKey]
) -> dict[IP, tuple[IPv4Address, ...]]:
    """The gateways that may be picked: those that ``mg_gateway`` has room for."""
    sets = {
        address: tuple(node for node in nodes if GatewayKey(address, node) not in without)
        for address, nodes in gateways.items()
    }
    return {address: nodes for address, nodes in sets.items() if nodes}


def members_of(address: IP, nodes: tuple[IPv4Address, ...]) -> list[GatewayKey]:
    """The rows of ``mg_gateway`` that must stand before a set of gateways."""
    return [GatewayKey(address, node) for node in nodes]


def gateway_rank(own: IPv4Address, key: GatewayKey, row: GatewayRow) -> int:
    """Which rows have room first: this node as a gateway, other gateways, former gateways."""
    if key.node == own and row.sends:
        return 0
    return 1 if row.sends else 2


def still_carrying(
    left: Mapping[GatewayKey, float], seen_s: Mapping[GatewayKey, float]
) -> dict[GatewayKey, float]:
    """``left``, with later times for those whose last packet came lately; all by one clock."""
    return {
        key: max(since, seen_s.get(key, since) + IDLE_S - ACCEPTS_S) for key, since in left.items()
    }


def departures(
    before: Gateways, now: Gateways, left: Mapping[GatewayKey, float], time_s: float
) -> dict[GatewayKey, float]:
    """When each gateway that is none any more has left, without those that came back or rested."""
    gone = dict.fromkeys(keys(before) - keys(now), time_s)
    return {
        key: since
        for key, since in (gone | dict(left)).items()
        if key not in keys(now) and time_s - since < ACCEPTS_S
    }


def gateway_members(
    now: Gateways, left: Mapping[GatewayKey, float], time_s: float
) -> dict[GatewayKey, GatewayRow]:
    """``mg_gateway``: the gateways of now, and those that have left less than ``ACCEPTS_S`` ago."""
    resting = {key for key, since in left.items() if time_s - since < ACCEPTS_S}
    return dict.fromkeys(resting, GatewayRow(sends=False, accepts=True)) | dict.fromkeys(
        keys(now), GatewayRow(sends=True, accepts=True)
    )
