"""FRR's side: bgpd.conf and bfdd.conf for a router that peers with nodes.

The lab's router and the interop tests use the same text. Rules it follows: nothing is accepted
from eBGP without ``no bgp ebgp-requires-policy``; one session carries all families; FRR is a
graceful restart helper (its default, written out), so that routes stay while a speaker restarts;
``passive``, because a speaker dials and does not listen. BFD of a neighbour is a profile, so bgpd
asks for it and bfdd has the times. Source: bgp-exabgp.md 10.3, 12.1 and 15.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from bgp.peer import BFD
from bgp.route import Family
from bgp.routers.side import HOLD_S, Neighbor, families_of, in_order, plain

__all__ = ["Neighbor", "bfd_config", "router_config", "whole_config"]

#: Families in FRR's words.
NAMES = {
    Family.IPV4: "ipv4 unicast",
    Family.IPV6: "ipv6 unicast",
    Family.VPNV4: "ipv4 vpn",
    Family.VPNV6: "ipv6 vpn",
}
#: Seconds until the router dials again; FRR waits 120 otherwise.
CONNECT_S = 10
#: A route map of a neighbour that is told nothing.
_NOTHING = "MESHGATE-NOTHING"


def whole_config(asn: int, router_id: IPv4Address | None, neighbors: Iterable[Neighbor]) -> str:
    """What is added to ``frr.conf``, for all daemons."""
    peers = in_order(neighbors)
    return bfd_config(peers) + router_config(asn, router_id, peers)


def router_config(asn: int, router_id: IPv4Address | None, neighbors: Iterable[Neighbor]) -> str:
    """The text of ``bgpd.conf`` for a router that peers with ``neighbors``."""
    peers = in_order(neighbors)
    lines = [
        f"router bgp {asn}",
        *([f" bgp router-id {router_id}"] if router_id else []),
        " no bgp ebgp-requires-policy",
        " no bgp default ipv4-unicast",
        " no bgp network import-check",
        " bgp graceful-restart stalepath-time 360",
    ]
    for peer in peers:
        lines += [f" neighbor {peer.address} {words}" for words in _session(asn, peer)]
    for family in families_of(peers):
        lines.append(f" address-family {NAMES[family]}")
        for peer in peers:
            if family in peer.families:
                lines += [f"  neighbor {peer.address} {words}" for words in _of_family(peer)]
        lines.append(" exit-address-family")
    lines += ["exit", ""]
    if not all(peer.is_told for peer in peers):
        lines = [f"route-map {_NOTHING} deny 10", "exit", *lines]
    return "\n".join(lines)


def bfd_config(neighbors: Iterable[Neighbor]) -> str:
    """The text of ``bfdd.conf``: a profile for each pair of times; empty without BFD."""
    profiles = sorted({(d.interval_ms, d.multiplier) for one in neighbors if (d := one.bfd)})
    lines: list[str] = []
    for interval, multiplier in profiles:
        lines += [
            f" profile {_profile(BFD(interval, multiplier))}",
            f"  detect-multiplier {multiplier}",
            f"  receive-interval {interval}",
            f"  transmit-interval {interval}",
            " exit",
        ]
    return "\n".join(["bfd", *lines, "exit", ""]) if lines else ""


def _session(asn: int, peer: Neighbor) -> list[str]:
    is_external = peer.asn != asn
    found = [
        (f"remote-as {peer.asn}", True),
        (f"description {peer.name}", bool(peer.name)),
        ("passive", peer.dials),
        (f"port {peer.port}", not peer.dials and peer.port != 179),  # BGP's
        (f"timers connect {CONNECT_S}", not peer.dials),
        (f"timers {peer.keepalive_s} {peer.hold_s}", peer.hold_s != HOLD_S),
        (f"password {plain(peer)}", bool(peer.password)),
        ("ttl-security hops 1", peer.gtsm),
        (f"ebgp-multihop {peer.multihop}", bool(peer.multihop) and is_external),
        ("graceful-restart-helper", True),
        ("capability extended-nexthop", peer.address.version == 6),  # IPv6
        ("bfd", peer.bfd is not None),
        (f"bfd profile {_profile(peer.bfd)}" if peer.bfd else "", peer.bfd is not None),
    ]
    return [words for words, holds in found if holds]


def _of_family(peer: Neighbor) -> list[str]:
    found = [
        ("activate", True),
        ("route-reflector-client", peer.is_client),
        (f"route-map {_NOTHING} out", not peer.is_told),
    ]
    return [words for words, holds in found if holds]


def _profile(times: BFD) -> str:
    return f"meshgate-{times.interval_ms}x{times.multiplier}"
