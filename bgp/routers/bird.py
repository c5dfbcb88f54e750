"""BIRD 2's side: bird.conf for a router that peers with nodes.

Rules it follows: ``extended next hop`` on IPv4 channels of sessions over IPv6, else BIRD drops
IPv4 routes with an IPv6 next hop; BIRD helps a speaker that restarts gracefully by default; a BFD
session has its times in the BGP protocol, and ``protocol bfd`` must stand once. SRv6 Prefix-SIDs
are passed on as they come (attribute 40). Source: bgp-exabgp.md 12.3 and 15.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address

from bgp.route import Family
from bgp.routers.side import Neighbor, families_of, in_order, quoted
from mesh.core.model import Network

_CHANNELS = {
    Family.IPV4: "ipv4",
    Family.IPV6: "ipv6",
    Family.VPNV4: "vpn4 mpls",
    Family.VPNV6: "vpn6 mpls",
}
_TABLES = {Family.VPNV4: "meshgate_vpn4", Family.VPNV6: "meshgate_vpn6"}
_BETWEEN_V6 = 6
#: What goes into the kernel.
_INSTALLED = "RTS_BGP, RTS_STATIC"


def router_config(
    asn: int,
    router_id: IPv4Address | None,
    neighbors: Iterable[Neighbor],
    static: Iterable[tuple[Network, str]] = (),
) -> str:
    """The text of ``bird.conf``; ``static`` are routes that the router announces, and their way."""
    peers = in_order(neighbors)
    lines = [f"router id {router_id};"] if router_id else []
    lines += [
        f"{_channel_kind(family)} table {_TABLES[family]};"
        for family in families_of(peers)
        if family in _TABLES
    ]
    lines.append("protocol device { }")
    lines += [
        f"protocol kernel {{ {kind} {{ import none; export where source ~ [ {_INSTALLED} ]; }}; }}"
        for kind in ("ipv4", "ipv6")
    ]
    if any(peer.bfd for peer in peers):
        lines.append("protocol bfd { }")
    lines += _static(static)
    for peer in peers:
        lines += _protocol(asn, peer)
    return "\n".join([*lines, ""])


def _static(routes: Iterable[tuple[Network, str]]) -> list[str]:
    by_kind: dict[str, list[str]] = {}
    for network, way in routes:
        by_kind.setdefault(f"ipv{network.version}", []).append(f" route {network} {way};")
    lines = []
    for kind, given in by_kind.items():
        lines += [f"protocol static {{ {kind};", *given, "}"]
    return lines


def _protocol(asn: int, peer: Neighbor) -> list[str]:
    found = [
        (f'description "{peer.name}";', bool(peer.name)),
        (f"local as {asn};", True),
        (f"neighbor {peer.address} port {peer.port} as {peer.asn};", True),
        ("passive on;", peer.dials),
        (f"hold time {peer.hold_s};", True),
        (f"multihop {peer.multihop};", bool(peer.multihop)),
        ("direct;", not peer.multihop),
        (f"password {quoted(peer)};", bool(peer.password)),
        ("ttl security on;", peer.gtsm),
        ("rr client;", peer.is_client),
        (_bfd(peer), peer.bfd is not None),
    ]
    lines = [f" {words}" for words, holds in found if holds]
    lines += [f" {_channel(peer, family)}" for family in families_of([peer])]
    return [f"protocol bgp {_name(peer)} {{", *lines, "}"]


def _bfd(peer: Neighbor) -> str:
    if peer.bfd is None:
        return ""
    return f"bfd {{ interval {peer.bfd.interval_ms} ms; multiplier {peer.bfd.multiplier}; }};"


def _channel(peer: Neighbor, family: Family) -> str:
    table = f" table {_TABLES[family]};" if family in _TABLES else ""
    told = "all" if peer.is_told else "none"
    ipv6_hop = family in (Family.IPV4, Family.VPNV4) and peer.address.version == _BETWEEN_V6
    extended = " extended next hop on;" if ipv6_hop or family == Family.VPNV4 else ""
    return f"{_CHANNELS[family]} {{{table} import all; export {told};{extended} }};"


def _channel_kind(family: Family) -> str:
    return _CHANNELS[family].partition(" ")[0]


def _name(peer: Neighbor) -> str:
    """A word of letters, digits and underscores."""
    return "meshgate_" + re.sub(r"\W", "_", f"{peer.name or 'node'}_{peer.address}")
