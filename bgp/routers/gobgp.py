"""GoBGP's side: gobgpd.toml for a router that peers with nodes.

GoBGP has no BFD, and refuses to start without a router id. Graceful restart must be enabled for
each family, else the helper keeps nothing. Source: bgp-exabgp.md 10.2, 10.3 and 12.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from bgp.route import Family
from bgp.routers.side import VPN, Neighbor, families_of, in_order, quoted

_NAMES = {
    Family.IPV4: "ipv4-unicast",
    Family.IPV6: "ipv6-unicast",
    Family.VPNV4: "l3vpn-ipv4-unicast",
    Family.VPNV6: "l3vpn-ipv6-unicast",
}
RESTART_S = 120
GTSM_TTL = 255


def router_config(asn: int, router_id: IPv4Address | None, neighbors: Iterable[Neighbor]) -> str:
    """The text of ``gobgpd.toml``.

    Raises:
        ValueError: there is no router id.

    """
    if router_id is None:
        raise ValueError("GoBGP needs a router id: an IPv4 address that is its own")
    peers = in_order(neighbors)
    lines = ["[global.config]", f"  as = {asn}", f'  router-id = "{router_id}"']
    if peers and not any(peer.is_told for peer in peers):  # policies of neighbours are for servers
        lines += ["[global.apply-policy.config]", '  default-export-policy = "reject-route"']
    for peer in peers:
        lines += _neighbor(asn, router_id, peer)
    return "\n".join([*lines, ""])


def _neighbor(asn: int, router_id: IPv4Address, peer: Neighbor) -> list[str]:
    config = [
        f'    neighbor-address = "{peer.address}"',
        f"    peer-as = {peer.asn}",
        *([f'    description = "{peer.name}"'] if peer.name else []),
        *([f"    auth-password = {quoted(peer)}"] if peer.password else []),
    ]
    lines = ["[[neighbors]]", *_section("config", config)]
    transport = ["    passive-mode = true"] if peer.dials else [f"    remote-port = {peer.port}"]
    lines += _section("transport.config", transport)
    times = [f"    hold-time = {peer.hold_s}", f"    keepalive-interval = {peer.keepalive_s}"]
    lines += _section("timers.config", times)
    restart = ["    enabled = true", "    helper-only = true", f"    restart-time = {RESTART_S}"]
    lines += _section("graceful-restart.config", restart)
    if peer.gtsm:
        security = ["    enabled = true", f"    ttl-min = {GTSM_TTL}"]
        lines += _section("ttl-security.config", security)
    if peer.multihop and peer.asn != asn:
        multihop = ["    enabled = true", f"    multihop-ttl = {peer.multihop}"]
        lines += _section("ebgp-multihop.config", multihop)
    if peer.is_client:
        reflector = [
            "    route-reflector-client = true",
            f'    route-reflector-cluster-id = "{router_id}"',
        ]
        lines += _section("route-reflector.config", reflector)
    for family in families_of([peer]):
        lines += _family(family)
    return lines


def _family(family: Family) -> list[str]:
    lines = ["  [[neighbors.afi-safis]]"]
    lines += _section("afi-safis.config", [f'    afi-safi-name = "{_NAMES[family]}"'])
    if family not in VPN:  # a speaker has unicast alone in its graceful restart capability
        lines += _section("afi-safis.mp-graceful-restart.config", ["    enabled = true"])
    return lines


def _section(name: str, lines: list[str]) -> list[str]:
    return [f"  [neighbors.{name}]", *lines]
