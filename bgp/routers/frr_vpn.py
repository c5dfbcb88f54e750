"""FRR as provider edge of an SRv6 L3VPN: a locator for zebra, and VRFs for bgpd.

FRR 8.4.4 allocates one SID for each VRF and family from a locator, which must be a /64: with
another length, the SID in its announcement is not its own. It moves the function into the label
field. What a VRF announces is redistributed: of a ``network``
FRR looks for the next hop in the VRF, and does not find it. Source: bgp-exabgp.md 13, srv6-l3vpn.md
10.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from bgp.route import Family
from bgp.routers.frr import NAMES, router_config
from bgp.routers.side import Neighbor
from mesh.core.model import Network

LOCATOR = "meshgate"
#: Bits of a SID's function.
FUNCTION_BITS = 16
_FAMILIES = (Family.IPV4, Family.IPV6)
#: By IP version: the word of prefix lists, and the number of the entry of a route map.
_WORDS = {4: ("ip", 10), 6: ("ipv6", 20)}


@dataclass(frozen=True, slots=True)
class RouterVRF:
    """A VRF of the router; ``networks`` are the connected ones that it announces."""

    name: str
    rd: str
    targets: tuple[str, ...]
    networks: tuple[Network, ...] = ()


def locator_config(locator: IPv6Network) -> str:
    """What ``zebra.conf`` says of the locator."""
    return "\n".join(
        [
            "segment-routing",
            " srv6",
            "  locators",
            f"   locator {LOCATOR}",
            f"    prefix {locator} func-bits {FUNCTION_BITS}",
            "   exit",
            "  exit",
            " exit",
            "exit",
            "",
        ]
    )


def edge_config(
    asn: int,
    router_id: IPv4Address,
    neighbors: Iterable[Neighbor],
    locator: tuple[IPv6Network, IPv6Address],
    vrfs: Sequence[RouterVRF],
) -> str:
    """The text of ``bgpd.conf``; ``locator`` is the prefix, which it announces, and its hop."""
    prefix, next_hop = locator
    lines = [
        f"router bgp {asn}",
        " segment-routing srv6",
        f"  locator {LOCATOR}",
        " exit",
        " address-family ipv6 unicast",
        f"  network {prefix}",
        " exit-address-family",
        "exit",
    ]
    for vrf in vrfs:
        lines += vrf_config(asn, router_id, vrf, next_hop)
    return router_config(asn, router_id, neighbors) + "\n".join([*lines, ""])


def vrf_config(
    asn: int, router_id: IPv4Address | None, vrf: RouterVRF, next_hop: IPv6Address
) -> list[str]:
    """The lines of one VRF, with its routes in the VPN families of the default instance."""
    own = f"MESHGATE-{vrf.name}"
    lines = [
        *_own_networks(own, vrf.networks),
        f"router bgp {asn} vrf {vrf.name}",
        *([f" bgp router-id {router_id}"] if router_id else []),
        " no bgp ebgp-requires-policy",
    ]
    for family in _FAMILIES:
        lines += [
            f" address-family {NAMES[family]}",
            f"  redistribute connected route-map {own}",
            "  sid vpn export auto",
            f"  rd vpn export {vrf.rd}",
            f"  nexthop vpn export {next_hop}",
            f"  rt vpn both {' '.join(vrf.targets)}",
            "  export vpn",
            "  import vpn",
            " exit-address-family",
        ]
    return [*lines, "exit"]


def _own_networks(name: str, networks: Sequence[Network]) -> list[str]:
    """A route map that lets these networks through and no others."""
    lines: list[str] = []
    for version in sorted({network.version for network in networks}):
        word, number = _WORDS[version]
        lines += [
            f"{word} prefix-list {name} permit {network}"
            for network in networks
            if network.version == version
        ]
        lines += [
            f"route-map {name} permit {number}",
            f" match {word} address prefix-list {name}",
            "exit",
        ]
    return lines
