"""Rows of egress to and from the map entries of ``bpf/include/egress.h``, by field name.

The layouts come from BTF; byte orders are in its dtypes, so numbers here are plain integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.blocks import OWN_BLOCKS, BlockOwner, address_of_pool, coded
from gateway.members import GatewayKey, GatewayRow
from gateway.policy import Timers
from gateway.rows import Action, Binding, EgressKey, EgressLabelKey, EgressRow
from mesh.core.address import (
    ADDRESS,
    decode_address,
    decode_prefix,
    encode_address,
    encode_prefix,
    packed,
)
from mesh.core.feature import Entry
from mesh.core.model import IP, ClaimKey
from mesh.core.table import Changes, ColumnTable

#: Layouts of ``mg_block``: its column table is filled before the datapath is loaded.
BLOCK_KEY = np.dtype([("address", ADDRESS), ("number", "u4")])
BLOCK_VALUE = np.dtype([("node", ">u4"), ("epoch", "u4")])


def encode_egress(key: EgressKey, row: EgressRow, actions: Mapping[str, int], before: int) -> Entry:
    """Entry of ``mg_egress``.

    ``actions`` is BTF's ``enum egress_action``, ``before`` the bits in front of the address.
    """
    bits, address = encode_prefix(key.network)
    name = {"prefix": before + bits, "egress_class": key.egress_class, "addr": address}
    value: dict[str, object] = {
        "action": actions[row.action],
        "family": key.network.version,
        **_quota(row),
    }
    if row.address is not None:
        value["address"] = encode_address(row.address)
    return name, value


def decode_egress(
    key: Any, value: Any, actions: Mapping[str, int], before: int
) -> tuple[EgressKey, EgressRow]:
    """Inverse of ``encode_egress``."""
    network = decode_prefix(int(key["prefix"]) - before, key["addr"])
    names = {number: name for name, number in actions.items()}
    row = _decode_row(value, names)
    return EgressKey(int(key["egress_class"]), network), row


def encode_label(key: EgressLabelKey, row: EgressRow, actions: Mapping[str, int]) -> Entry:
    """Entry of ``mg_egress_label``."""
    name = {
        "egress_class": key.egress_class, "identity": key.identity, "family": key.family
    }  # fmt: skip
    value: dict[str, object] = {"action": actions[row.action], "family": key.family, **_quota(row)}
    if row.address is not None:
        value["address"] = encode_address(row.address)
    return name, value


def decode_label(
    key: Any, value: Any, actions: Mapping[str, int]
) -> tuple[EgressLabelKey, EgressRow]:
    """Inverse of ``encode_label``."""
    name = EgressLabelKey(int(key["egress_class"]), int(key["identity"]), int(key["family"]))
    names = {number: name for name, number in actions.items()}
    return name, _decode_row(value, names)


def _quota(row: EgressRow) -> dict[str, int]:
    return {
        "runs": row.runs, "rate": row.rate, "binding": int(row.binding), "timers": row.timers
    }  # fmt: skip


def _decode_row(value: Any, names: Mapping[int, str]) -> EgressRow:
    action = Action(names[int(value["action"])])
    address = decode_address(value["address"]) if action is Action.TRANSLATE else None
    quota = int(value["runs"]), int(value["rate"])
    return EgressRow(action, address, *quota, Binding(int(value["binding"])), int(value["timers"]))


def encode_egress_address(address: IP, nodes: tuple[IPv4Address, ...], most: int) -> Entry:
    """Entry of ``mg_egress_addr`` and ``mg_ended``; ValueError for more than ``most`` nodes."""
    if len(nodes) > most:
        raise ValueError(f"{address}: {len(nodes)} gateways, an address has at most {most}")
    padded = [*(int(node) for node in nodes), *[0] * (most - len(nodes))]
    return packed(address), {"count": len(nodes), "node": padded}


def decode_egress_address(key: Any, value: Any) -> tuple[IP, tuple[IPv4Address, ...]]:
    """Inverse of ``encode_egress_address``."""
    nodes = value["node"][: int(value["count"])]
    return decode_address(key), tuple(IPv4Address(int(node)) for node in nodes)


def encode_gateway(key: GatewayKey, row: GatewayRow) -> Entry:
    """Entry of ``mg_gateway``."""
    name = {"address": encode_address(key.address), "node": int(key.node)}
    return name, {"sends": row.sends, "accepts": row.accepts}


def gateway_seen_s(value: Any) -> float | None:
    """When the last packet of a gateway that has left came, by ``time.monotonic``; None: none."""
    seen = int(value["seen"]) if value is not None else 0
    return seen * (1 << 30) / 1e9 if seen else None


def decode_gateway(key: Any, value: Any) -> tuple[GatewayKey, GatewayRow]:
    """Inverse of ``encode_gateway``."""
    name = GatewayKey(decode_address(key["address"]), IPv4Address(int(key["node"])))
    return name, GatewayRow(bool(value["sends"]), bool(value["accepts"]))


def encode_own_block(address: IP, numbers: tuple[int, ...]) -> Entry:
    """Entry of ``mg_own_block``."""
    padded = [*numbers, *[0] * (OWN_BLOCKS - len(numbers))]
    return packed(address), {"count": len(numbers), "number": padded}


def decode_own_block(key: Any, value: Any) -> tuple[IP, tuple[int, ...]]:
    """Inverse of ``encode_own_block``."""
    count = int(value["count"])
    return decode_address(key), tuple(int(number) for number in value["number"][:count])


@dataclass(frozen=True, slots=True)
class RunRow:
    """Value of ``mg_run``; times are CLOCK_MONOTONIC in ns, ``returned`` 0: it is lent."""

    pod: IP
    since_ns: int
    returned: int


def no_run(*_: object) -> Entry:
    """Runs are lent by BPF; nobody else writes them."""
    raise ValueError("mg_run is written by BPF only")


def decode_run(key: Any, value: Any) -> tuple[tuple[IP, int], RunRow]:
    """A run by its address and number."""
    row = RunRow(decode_address(value["pod"]), int(value["since"]), int(value["returned"]))
    return (decode_address(key["address"]), int(key["number"])), row


def decode_end(key: Any, value: Any) -> tuple[int, int]:
    """The number of a line in ``mg_lent``: where the log ends."""
    return int(key), int(value["line"])


def block_key(address: IP, number: int) -> Mapping[str, object]:
    """Key of ``mg_block`` and ``mg_block_runs``."""
    return {"address": encode_address(address), "number": number}


def encode_timers(number: int, timers: Timers) -> Entry:
    """Entry of ``mg_timers``; BPF writes when a connection has used it last."""
    return np.uint32(number).tobytes(), {
        "established": timers.tcp_established,
        "transitory": timers.tcp_transitory,
        "datagram": timers.udp,
        "echo": timers.icmp,
    }


def timers_used_s(value: Any) -> float | None:
    """When the sweep met a connection with the timers last, by ``time.monotonic``; None: never."""
    used = int(value["used"]) if value is not None else 0
    return used * (1 << 30) / 1e9 if used else None


def decode_timers(key: Any, value: Any) -> tuple[int, Timers]:
    """Inverse of ``encode_timers``."""
    names = ("established", "transitory", "datagram", "echo")
    return int(key), Timers(*(int(value[name]) for name in names))


def encode_count(address: IP, count: int) -> Entry:
    """Entry of ``mg_egress_pods`` and ``mg_block_size``."""
    return packed(address), np.uint32(count).tobytes()


def decode_count(key: Any, value: Any) -> tuple[IP, int]:
    """Inverse of ``encode_count``."""
    return decode_address(key), int(value)


def block_table() -> ColumnTable:
    """The table of ``mg_block``."""
    return ColumnTable("block owner", BLOCK_KEY, BLOCK_VALUE)


def owner_ranks(own: IPv4Address, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Which blocks have room first: those of this node, then those of others."""
    ranks: npt.NDArray[np.int64] = (values["node"] != int(own)).astype(np.int64)
    return ranks


def write_owners(table: ColumnTable, changes: Changes[ClaimKey, BlockOwner]) -> None:
    """Write changed owners of blocks into the table of ``mg_block``."""
    values = [(int(row.node), row.epoch & 0xFFFFFFFF) for row in changes.upsert.values()]
    if values:
        table.upsert(_block_keys(changes.upsert), np.array(values, BLOCK_VALUE))
    if changes.delete:
        table.delete(_block_keys(changes.delete))


def _block_keys(claims: Iterable[ClaimKey]) -> npt.NDArray[Any]:
    places = [(address_of_pool(key.pool), coded(key)) for key in claims]
    return np.array([(packed(ip), number) for ip, number in places if ip], BLOCK_KEY)
