"""The router's side: an FRR configuration that accepts what a Meshgate speaker announces.

The lab's router and the interop tests use the same text. Rules it follows: nothing is accepted
from eBGP without ``no bgp ebgp-requires-policy``; one session carries both families; FRR is a
graceful restart helper (its default, written out), so that routes stay while a speaker restarts;
``passive``, because a speaker dials and does not listen. Source: bgp-exabgp.md 10.3 and 12.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from mesh.core.model import IP

FAMILIES = ("ipv4 unicast", "ipv6 unicast")


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One speaker as the router sees it; ``password`` is the TCP MD5 key, empty for none."""

    address: IP
    asn: int
    password: str = ""


def router_config(asn: int, router_id: IPv4Address, neighbors: Iterable[Neighbor]) -> str:
    """The text of ``bgpd.conf`` for a router that peers with ``neighbors``."""
    peers = sorted(neighbors, key=lambda peer: (peer.address.version, peer.address))
    lines = [
        f"router bgp {asn}",
        f" bgp router-id {router_id}",
        " no bgp ebgp-requires-policy",
        " no bgp default ipv4-unicast",
        " no bgp network import-check",
        " bgp graceful-restart stalepath-time 360",
    ]
    for peer in peers:
        lines += [
            f" neighbor {peer.address} remote-as {peer.asn}",
            f" neighbor {peer.address} passive",
            f" neighbor {peer.address} graceful-restart-helper",
        ]
        if peer.password:
            lines.append(f" neighbor {peer.address} password {peer.password}")
    for family in FAMILIES:
        lines.append(f" address-family {family}")
        lines += [f"  neighbor {peer.address} activate" for peer in peers]
        lines.append(" exit-address-family")
    return "\n".join([*lines, "exit", ""])
