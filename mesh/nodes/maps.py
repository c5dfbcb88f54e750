"""Rows of nodes and pod CIDRs to and from the entries of ``mg_node`` and ``mg_addr_cidr``."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from mesh.core.address import decode_prefix, encode_prefix
from mesh.core.feature import Entry
from mesh.core.model import OVERLAY_PORT, Network
from mesh.nodes.rows import NodeHop, PodCIDR


def encode_node(address: IPv4Address, row: NodeHop) -> Entry:
    """Entry of ``mg_node``; what BPF has written there begins anew."""
    value = {"next_hop": int(row.next_hop), "cluster": row.cluster, "flags": row.flags}
    return int(address), value | {"route_mtu": row.mtu, "port": row.port}


def decode_node(key: Any, value: Any) -> tuple[IPv4Address, NodeHop]:
    """Inverse of ``encode_node``."""
    next_hop, mtu = IPv4Address(int(value["next_hop"])), int(value["route_mtu"])
    port = int(value["port"]) or OVERLAY_PORT  # 0: of a version that knew no other
    row = NodeHop(next_hop, int(value["cluster"]), int(value["flags"]), mtu, port)
    return IPv4Address(int(key)), row


def encode_port(port: int, _: None) -> Entry:
    """Entry of ``mg_port``."""
    return port, 1


def decode_port(key: Any, _: Any) -> tuple[int, None]:
    """Inverse of ``encode_port``."""
    return int(key), None


def encode_cidr(prefix: Network, row: PodCIDR, before: int) -> Entry:
    """Entry of ``mg_addr_cidr``; ``before`` are the bits in front of the address: the zone, 0."""
    bits, address = encode_prefix(prefix)
    name = {"bits": before + bits, "addr": address}
    return name, {"node": int(row.node), "cluster": row.cluster}


def decode_cidr(key: Any, value: Any, before: int) -> tuple[Network, PodCIDR]:
    """Inverse of ``encode_cidr``."""
    row = PodCIDR(IPv4Address(int(value["node"])), int(value["cluster"]))
    return decode_prefix(int(key["bits"]) - before, key["addr"]), row
