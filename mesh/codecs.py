"""Rows to and from the entries of the maps in ``bpf/include``, by field name.

One pair of pure functions per map, ``encode_<map>`` and ``decode_<map>``; the layouts themselves
come from BTF. Byte orders are in the dtypes, so numbers here are plain integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from gateway.desired import OWN_BLOCKS, Action, EgressKey, EgressRow
from gateway.members import GatewayKey, GatewayRow
from mesh.core.address import MAPPED_BITS, packed, prefix_bits, unpacked
from mesh.core.model import IP, Network
from mesh.nodes import Endpoint, PodCIDR
from mesh.services import BackendAddress, ServiceAddress
from mesh.slices import Slice

Encoded = tuple[object, object]
_PROTOCOLS = {"TCP": 6, "UDP": 17}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
#: ``GATEWAYS`` of ``bpf/include/gateway.h``.
GATEWAYS = 16
#: The class stands before the address in the key of ``mg_egress``.
EGRESS_BITS = 32
#: The zone, always 0, stands before the address in the key of ``mg_addr_cidr``.
ZONE_BITS = 32


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
    return encode_address(address), {
        "ifindex": row.ifindex,
        "identity": row.identity,
        "egress": row.egress,
        "mac": list(bytes.fromhex(row.mac.replace(":", ""))),
        "host_mac": list(bytes.fromhex(row.host_mac.replace(":", ""))),
    }


def decode_pod(key: Any, value: Any) -> tuple[IP, LocalPod]:
    """Inverse of ``encode_pod``."""
    return decode_address(key["w"]), LocalPod(
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
    name = {"bits": ZONE_BITS + bits, "addr": address}
    return name, {"node": int(row.node), "cluster": row.cluster}


def decode_cidr(key: Any, value: Any) -> tuple[Network, PodCIDR]:
    """Inverse of ``encode_cidr``."""
    row = PodCIDR(IPv4Address(int(value["node"])), int(value["cluster"]))
    return decode_prefix(int(key["bits"]) - ZONE_BITS, key["addr"]), row


def encode_egress(key: EgressKey, row: EgressRow, actions: Mapping[str, int]) -> Encoded:
    """Entry of ``mg_egress``; ``actions`` is BTF's ``enum egress_action``."""
    bits, address = encode_prefix(key.network)
    name = {"prefix": EGRESS_BITS + bits, "egress": key.egress, "addr": address}
    value: dict[str, object] = {
        "action": actions[row.action],
        "family": key.network.version,
    }
    if row.address is not None:
        value["address"] = encode_address(row.address)
    return name, value


def decode_egress(key: Any, value: Any, actions: Mapping[str, int]) -> tuple[EgressKey, EgressRow]:
    """Inverse of ``encode_egress``."""
    network = decode_prefix(int(key["prefix"]) - EGRESS_BITS, key["addr"])
    names = {number: name for name, number in actions.items()}
    action = Action(names[int(value["action"])])
    address = decode_address(value["address"]) if action is Action.TRANSLATE else None
    return EgressKey(int(key["egress"]), network), EgressRow(action, address)


def encode_gateways(address: IP, nodes: tuple[IPv4Address, ...]) -> Encoded:
    """Entry of ``mg_egress_addr``; ValueError for more nodes than the set has room for."""
    if len(nodes) > GATEWAYS:
        raise ValueError(f"{address}: {len(nodes)} gateways, an address has at most {GATEWAYS}")
    padded = [*(int(node) for node in nodes), *[0] * (GATEWAYS - len(nodes))]
    return packed(address), {"count": len(nodes), "node": padded}


def decode_gateways(key: Any, value: Any) -> tuple[IP, tuple[IPv4Address, ...]]:
    """Inverse of ``encode_gateways``."""
    nodes = value["node"][: int(value["count"])]
    return decode_address(key), tuple(IPv4Address(int(node)) for node in nodes)


def encode_member(key: GatewayKey, row: GatewayRow) -> Encoded:
    """Entry of ``mg_gateway``."""
    name = {"address": encode_address(key.address), "node": int(key.node)}
    return name, {"sends": row.sends, "accepts": row.accepts}


def decode_member(key: Any, value: Any) -> tuple[GatewayKey, GatewayRow]:
    """Inverse of ``encode_member``."""
    name = GatewayKey(decode_address(key["address"]), IPv4Address(int(key["node"])))
    return name, GatewayRow(bool(value["sends"]), bool(value["accepts"]))


def encode_own_block(address: IP, numbers: tuple[int, ...]) -> Encoded:
    """Entry of ``mg_own_block``."""
    padded = [*numbers, *[0] * (OWN_BLOCKS - len(numbers))]
    return packed(address), {"count": len(numbers), "number": padded}


def decode_own_block(key: Any, value: Any) -> tuple[IP, tuple[int, ...]]:
    """Inverse of ``encode_own_block``."""
    count = int(value["count"])
    return decode_address(key), tuple(int(number) for number in value["number"][:count])


def encode_service(ask: ServiceAddress, row: Slice) -> Encoded:
    """Entry of ``mg_service_addr``."""
    address = encode_address(ask.address)
    key = {"address": address, "port": ask.port, "protocol": _PROTOCOLS[ask.protocol]}
    return key, {"first": row.first, "count": row.count}


def decode_service(key: Any, value: Any) -> tuple[ServiceAddress, Slice]:
    """Inverse of ``encode_service``."""
    protocol = _PROTOCOL_NAMES[int(key["protocol"])]
    ask = ServiceAddress(decode_address(key["address"]), int(key["port"]), protocol)
    return ask, Slice(int(value["first"]), int(value["count"]))


def encode_backend(slot: int, row: BackendAddress) -> Encoded:
    """Entry of ``mg_backend_addr``."""
    return slot, {"address": encode_address(row.address), "port": row.port}


def decode_backend(key: Any, value: Any) -> tuple[int, BackendAddress]:
    """Inverse of ``encode_backend``."""
    return int(key), BackendAddress(decode_address(value["address"]), int(value["port"]))
