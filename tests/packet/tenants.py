"""Rows of two tenants on node a (nodes.py), and SRv6 packets as values.

    blue   VRF 7: pod web of the plan;    green  VRF 8: pod client

Both pods have the tenant addresses 10.100.0.2 and fd00:100::2, and both tenants have a host with
the addresses 10.101.3.1 and fd00:101::1 behind a router, the PE, at fd99::5.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from tests.packet.nodes import Node, Pod, addr, addr_value, zoned
from tests.packet.packets import IPV6, Other, Packet

IPIP, ROUTING, IN_IPV6, ETHERNET = 4, 43, 41, 143
TENANT = {4: "10.100.0.2", 6: "fd00:100::2"}
HOST = {4: "10.101.3.1", 6: "fd00:101::1"}
#: In the same networks as the host, but no host row is there.
NEIGHBOUR = {4: "10.101.3.9", 6: "fd00:101::9"}
NETWORK = {4: "10.101.3.0/24", 6: "fd00:101::/64"}
NOWHERE = {4: "10.102.0.1", 6: "fd00:102::1"}
NODE, PE, ROUTER, STRANGER = "fd99::11", "fd99::5", "fd99::1", "2001:db8:6::66"
LOCATOR = "fcbb:bb00:1::/48"
#: Bits of the parts of our SIDs.
STRUCTURE = {"block": 32, "node": 16, "function": 16, "argument": 0}
MTU = 1500


@dataclass(frozen=True)
class Tenant:
    name: str
    vrf: int
    pod: str  # in the plan of the node
    sid: str  # of node a
    far_sid: str  # of the PE
    identity: int  # of its host


BLUE = Tenant("blue", 7, "web", "fcbb:bb00:1:e007::", "fcbb:bb00:5:0:100::", 0x10777)
GREEN = Tenant("green", 8, "client", "fcbb:bb00:1:e008::", "fcbb:bb00:5:0:200::", 0x10888)
TENANTS = (BLUE, GREEN)
BEHAVIOURS = {"END": 1, "END_X": 2, "DT4": 3, "DT6": 4, "DT46": 5, "DX4": 6, "DX6": 7}
PSP, USD, NEXT_CSID, IDENTITY = 1, 2, 4, 8


def tenants(node: Node) -> None:
    """All rows of both tenants on a node."""
    for tenant in TENANTS:
        in_vrf(node, tenant)
        via(node, tenant.vrf, [tenant.far_sid])
        for family in (4, 6):
            destination(node, tenant.vrf, {4: "0.0.0.0/0", 6: "::/0"}[family])
            row = {"via": [tenant.vrf], "identity": tenant.identity}
            host(node, tenant.vrf, HOST[family], **row)
            prefix(node, tenant.vrf, NETWORK[family], **row)
        sid(node, tenant.sid, "DT46", vrf=tenant.vrf)
    locator(node, LOCATOR)
    inside(node, f"{PE}/128")


def in_vrf(
    node: Node, tenant: Tenant, addresses: Sequence[str] = tuple(TENANT.values()), flags: int = 1
) -> None:
    """The tenant's pod has these addresses in its VRF; flags 1: they are tenant addresses."""
    pod = node.plan.pods[tenant.pod]
    row = pod_row(node, pod) | {"vrf": tenant.vrf}
    for text in pod.addresses.values():
        node.maps["mg_pod_addr"].update_one(zoned(text), row)
    for text in addresses:
        node.maps["mg_vrf_pod"].update_one(zoned(text, tenant.vrf), row)
    link = {"vrf": tenant.vrf, "flags": flags}
    node.maps["mg_vrf_link"].update_one(row["ifindex"], link)


def pod_row(node: Node, pod: Pod) -> dict[str, Any]:
    mac = list(pod.mac)
    return {"ifindex": node.devices[pod.device], "identity": pod.identity, "mac": mac}


def lpm(cidr: str, zone: int = 0) -> dict[str, Any]:
    """``struct cidr_key``."""
    network = ip_network(cidr)
    key = addr_value(str(network.network_address))
    return {"bits": 32 + bits_of(cidr), "zone": zone, "addr": key}


def bits_of(cidr: str) -> int:
    network = ip_network(cidr)
    return network.prefixlen + (96 if network.version == 4 else 0)


def _route(via: Sequence[int], identity: int, bits: int, flags: int) -> dict[str, Any]:
    numbers = [*via, *[0] * (4 - len(via))]
    return {
        "via": numbers, "paths": len(via), "identity": identity, "bits": bits, "flags": flags,
    }  # fmt: skip


def host(
    node: Node, vrf: int, address: str, via: Sequence[int], identity: int = 0, *,
    bgp: bool = False, flags: int = 0,
) -> None:  # fmt: skip
    name = "mg_vrf_bgp_host" if bgp else "mg_vrf_host"
    node.maps[name].update_one(zoned(address, vrf), _route(via, identity, 128, flags))


def prefix(
    node: Node, vrf: int, cidr: str, via: Sequence[int], identity: int = 0, *,
    bgp: bool = False, flags: int = 0,
) -> None:  # fmt: skip
    name = "mg_vrf_bgp" if bgp else "mg_vrf_prefix"
    node.maps[name].update_one(lpm(cidr, vrf), _route(via, identity, bits_of(cidr), flags))


def destination(node: Node, vrf: int, cidr: str) -> None:
    node.maps["mg_vrf_dest"].update_one(lpm(cidr, vrf), bits_of(cidr))


def via(node: Node, number: int, segments: Sequence[str], *, bgp: bool = False, **row: Any) -> None:
    """A path; without a next hop in ``row`` it is by the router of the uplink."""
    padded = [*segments, *["::"] * (8 - len(segments))]
    known = {"next_hop": addr_value(ROUTER), "ifindex": node.devices["dpwup"]}
    value = {
        "segment": [addr_value(text) for text in padded],
        "source": addr_value(NODE),
        "segments": len(segments),
    }
    name = "mg_vrf_bgp_via" if bgp else "mg_vrf_via"
    node.maps[name].update_one(number, value | known | row)


def sid(node: Node, text: str, behaviour: str, /, **row: Any) -> None:
    value = STRUCTURE | {"behaviour": BEHAVIOURS[behaviour]} | row
    node.maps["mg_sid"].update_one(addr(text), value)


def locator(node: Node, cidr: str, /, **row: int) -> None:
    node.maps["mg_sid_locator"].update_one(_sid_key(cidr), STRUCTURE | row)


def inside(node: Node, cidr: str, **row: int) -> None:
    """Outer sources of this prefix are inside the SR domain."""
    node.maps["mg_srv6_domain"].update_one(_sid_key(cidr), {"flags": 0} | row)


def _sid_key(cidr: str) -> dict[str, Any]:
    network = ip_network(cidr)
    return {"bits": network.prefixlen, "addr": addr_value(str(network.network_address))}


def srh(
    following: int, segments: Sequence[str], left: int, *, last: int | None = None,
    flags: int = 0, tlvs: bytes = b"",
) -> bytes:  # fmt: skip
    """An SRH; ``segments`` in the order of the way, of a reduced one without the first."""
    body = b"".join(ip_address(text).packed for text in reversed(segments)) + tlvs
    last = len(segments) - 1 if last is None else last
    return struct.pack("!BBBBBBH", following, len(body) // 8, 4, left, last, flags, 0) + body


def outer(inner: Packet, to: str, header: bytes = b"", source: str = PE, **changes: Any) -> Packet:
    """An SRv6 packet that carries another one, behind an SRH or none."""
    number = IPIP if inner.family == 4 else IN_IPV6
    packet = Packet(source, to, Other(number), inner.ip(), **changes)
    return packet.but(options=header, first=ROUTING) if header else packet


@dataclass(frozen=True)
class Front:
    """The outer IPv6 header of a packet on the wire."""

    source: str
    destination: str
    traffic_class: int
    label: int
    payload: int
    next: int
    hop_limit: int


def front(wire: bytes) -> Front:
    kind, word, payload, following, limit = struct.unpack_from("!HIHBB", wire, 12)
    assert kind == IPV6
    assert word >> 28 == 6
    source, destination = (str(IPv6Address(wire[at : at + 16])) for at in (22, 38))
    label, traffic_class = word & 0xFFFFF, word >> 20 & 0xFF
    return Front(source, destination, traffic_class, label, payload, following, limit)


def inner_of(wire: bytes) -> Packet:
    """What an SRv6 packet carries."""
    packet = Packet.read(wire)
    assert isinstance(packet.l4, Other)
    assert packet.l4.number in (IPIP, IN_IPV6)
    return Packet.read_ip(packet.payload)
