"""IOS XR's side: what is added to the configuration of a router that peers with nodes.

IOS XR takes and gives nothing over eBGP without a route policy. Not run by the tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from bgp.route import Family
from bgp.routers.side import Neighbor, families_of, in_order, plain

_NAMES = {
    Family.IPV4: "ipv4 unicast",
    Family.IPV6: "ipv6 unicast",
    Family.VPNV4: "vpnv4 unicast",
    Family.VPNV6: "vpnv6 unicast",
}
_ALL, _NOTHING = "MESHGATE-ALL", "MESHGATE-NOTHING"


def router_config(asn: int, router_id: IPv4Address | None, neighbors: Iterable[Neighbor]) -> str:
    """The configuration, as ``commit`` takes it."""
    peers = in_order(neighbors)
    lines = [f"route-policy {_ALL}", " pass", "end-policy", "!"]
    lines += [f"route-policy {_NOTHING}", " drop", "end-policy", "!"]
    lines.append(f"router bgp {asn}")
    if router_id:
        lines.append(f" bgp router-id {router_id}")
    lines.append(" bgp graceful-restart")
    for family in families_of(peers):
        lines += [f" address-family {_NAMES[family]}", " !"]
    for peer in peers:
        lines += _neighbor(asn, peer)
    return "\n".join([*lines, "!", ""])


def _neighbor(asn: int, peer: Neighbor) -> list[str]:
    found = [
        (f"remote-as {peer.asn}", True),
        (f"description {peer.name}", bool(peer.name)),
        ("session-open-mode passive-only", peer.dials),
        (f"timers {peer.keepalive_s} {peer.hold_s}", True),
        (f"password clear {plain(peer)}", bool(peer.password)),
        ("ttl-security", peer.gtsm),
        (f"ebgp-multihop {peer.multihop}", bool(peer.multihop) and peer.asn != asn),
        *_bfd(peer),
    ]
    lines = [f" neighbor {peer.address}", *(f"  {words}" for words, holds in found if holds)]
    for family in families_of([peer]):
        lines += [
            f"  address-family {_NAMES[family]}",
            f"   route-policy {_ALL} in",
            f"   route-policy {_ALL if peer.is_told else _NOTHING} out",
            *(["   route-reflector-client"] if peer.is_client else []),
            "  !",
        ]
    return [*lines, " !"]


def _bfd(peer: Neighbor) -> list[tuple[str, bool]]:
    if peer.bfd is None:
        return []
    return [
        ("bfd fast-detect", True),
        (f"bfd minimum-interval {peer.bfd.interval_ms}", True),
        (f"bfd multiplier {peer.bfd.multiplier}", True),
    ]
