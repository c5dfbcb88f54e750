"""Rows to and from the map entries of ``bpf/include/types.h``, by field name.

One pair of pure functions per map, ``encode_<map>`` and ``decode_<map>``; the layouts themselves
come from BTF. Byte orders are in the dtypes, so numbers here are plain integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from mesh.core.address import MAPPED_BITS, packed, prefix_bits, unpacked
from mesh.core.model import IP, Network
from mesh.nodes import Endpoint, PodCIDR

Encoded = tuple[object, object]


@dataclass(frozen=True, slots=True)
class LocalPod:
    """Value of ``mg_pod_addr``: a pod of this node; ``egress`` is its egress class, 0 for none."""

    ifindex: int
    identity: int
    egress: int
    mac: str
    host_mac: str


def encode_address(address: IP) -> dict[str, object]:
    """``struct addr``."""
    raw = packed(address)
    return {"w": [int.from_bytes(raw[at : at + 4], "big") for at in range(0, 16, 4)]}


def decode_address(cell: Any) -> IP:
    """Inverse of ``encode_address``."""
    return unpacked(cell.tobytes())


def encode_prefix(prefix: Network) -> tuple[int, dict[str, object]]:
    """Bits and address of an LPM key in the 128-bit form."""
    return prefix_bits(prefix), encode_address(prefix.network_address)


def decode_prefix(bits: int, cell: Any) -> Network:
    """Inverse of ``encode_prefix``."""
    address = decode_address(cell)
    mapped = isinstance(address, IPv4Address) and bits >= MAPPED_BITS
    if mapped:
        return ip_network((address, bits - MAPPED_BITS))
    return ip_network((IPv6Address(cell.tobytes()), bits))


def encode_pod(address: IP, row: LocalPod) -> Encoded:
    """Entry of ``mg_pod_addr``."""
    return packed(address), {
        "ifindex": row.ifindex,
        "identity": row.identity,
        "egress": row.egress,
        "mac": list(bytes.fromhex(row.mac.replace(":", ""))),
        "host_mac": list(bytes.fromhex(row.host_mac.replace(":", ""))),
    }


def decode_pod(key: Any, value: Any) -> tuple[IP, LocalPod]:
    """Inverse of ``encode_pod``."""
    return decode_address(key), LocalPod(
        ifindex=int(value["ifindex"]),
        identity=int(value["identity"]),
        egress=int(value["egress"]),
        mac=value["mac"].tobytes().hex(":"),
        host_mac=value["host_mac"].tobytes().hex(":"),
    )


def encode_node(address: IPv4Address, row: Endpoint) -> Encoded:
    """Entry of ``mg_node``."""
    return int(address), {"next_hop": int(row.next_hop), "cluster": row.cluster}


def decode_node(key: Any, value: Any) -> tuple[IPv4Address, Endpoint]:
    """Inverse of ``encode_node``."""
    next_hop = IPv4Address(int(value["next_hop"]))
    return IPv4Address(int(key)), Endpoint(next_hop, int(value["cluster"]))


def encode_cidr(prefix: Network, row: PodCIDR) -> Encoded:
    """Entry of ``mg_addr_cidr``."""
    bits, address = encode_prefix(prefix)
    return {"prefix": bits, "addr": address}, {"node": int(row.node), "cluster": row.cluster}


def decode_cidr(key: Any, value: Any) -> tuple[Network, PodCIDR]:
    """Inverse of ``encode_cidr``."""
    row = PodCIDR(IPv4Address(int(value["node"])), int(value["cluster"]))
    return decode_prefix(int(key["prefix"]), key["addr"]), row
