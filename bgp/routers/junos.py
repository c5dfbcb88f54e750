"""Junos's side: ``set`` commands for a router that peers with nodes.

Junos announces routes of BGP to eBGP peers without a policy, so what is told nothing gets a policy.
It has no command for GTSM: it sends with a TTL of 255, and a filter on its loopback drops what came
from further away. Not run by the tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from bgp.route import Family
from bgp.routers.side import VPN, Neighbor, families_of, in_order, quoted

_NAMES = {
    Family.IPV4: "inet unicast",
    Family.IPV6: "inet6 unicast",
    Family.VPNV4: "inet-vpn unicast",
    Family.VPNV6: "inet6-vpn unicast",
}
_GROUP, _NOTHING = "meshgate", "MESHGATE-NOTHING"
GTSM_TTL = 255


def router_config(asn: int, router_id: IPv4Address | None, neighbors: Iterable[Neighbor]) -> str:
    """The commands, as ``load set terminal`` takes them."""
    peers = in_order(neighbors)
    lines = [f"routing-options autonomous-system {asn}"]
    if router_id:
        lines.append(f"routing-options router-id {router_id}")
    if not all(peer.is_told for peer in peers):
        lines.append(f"policy-options policy-statement {_NOTHING} then reject")
    for peer in peers:
        group = f"protocols bgp group {_group(asn, peer)}"
        lines += [f"{group} {words}" for words in _of(asn, router_id, peer)]
    lines = [f"set {line}" for line in dict.fromkeys(lines)]
    for peer in peers:
        if peer.gtsm:
            lines.append(
                f"# GTSM: drop TCP port 179 from {peer.address} with a TTL below 255 on lo0"
            )
    return "\n".join([*lines, ""])


def _of(asn: int, router_id: IPv4Address | None, peer: Neighbor) -> list[str]:
    """What stands in the group of a neighbour: the group's own first."""
    at = f"neighbor {peer.address}"
    found = [
        (f"type {'internal' if peer.asn == asn else 'external'}", True),
        (f"cluster {router_id}", peer.is_client and router_id is not None),
        (f"{at} peer-as {peer.asn}", peer.asn != asn),
        (f'{at} description "{peer.name}"', bool(peer.name)),
        (f"{at} passive", peer.dials),
        (f"{at} hold-time {peer.hold_s}", True),
        (f"{at} authentication-key {quoted(peer)}", bool(peer.password)),
        (f"{at} multihop ttl {GTSM_TTL if peer.gtsm else peer.multihop}",
         peer.gtsm or bool(peer.multihop)),
        (f"{at} export {_NOTHING}", not peer.is_told),
        *_bfd(at, peer),
    ]  # fmt: skip
    words = [text for text, holds in found if holds]
    for family in families_of([peer]):
        words.append(f"{at} family {_NAMES[family]}")
        if family in VPN:
            words.append(f"{at} family {_NAMES[family]} accept-srv6-service")
            words.append(f"{at} family {_NAMES[family]} advertise-srv6-service")
    return words


def _bfd(at: str, peer: Neighbor) -> list[tuple[str, bool]]:
    if peer.bfd is None:
        return []
    return [
        (f"{at} bfd-liveness-detection minimum-interval {peer.bfd.interval_ms}", True),
        (f"{at} bfd-liveness-detection multiplier {peer.bfd.multiplier}", True),
    ]


def _group(asn: int, peer: Neighbor) -> str:
    return f"{_GROUP}-{'internal' if peer.asn == asn else 'external'}"
