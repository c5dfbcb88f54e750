"""Kinds of routers by name, as ``meshgate bgp config --for`` takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Final

from bgp.routers import bird, frr, gobgp, iosxr, junos
from bgp.routers.side import Neighbor

#: From the router's ASN, its identifier and its neighbours to its configuration.
Config = Callable[[int, IPv4Address | None, Iterable[Neighbor]], str]

ROUTERS: Final[Mapping[str, Config]] = {
    "frr": frr.whole_config,
    "bird": bird.router_config,
    "gobgp": gobgp.router_config,
    "iosxr": iosxr.router_config,
    "junos": junos.router_config,
}
