"""Rows of masquerade to and from the entries of ``mg_masquerade`` and ``mg_unmasked``."""

from __future__ import annotations

from typing import Any

from mesh.core.address import decode_address, decode_prefix, encode_address, encode_prefix
from mesh.core.feature import Entry
from mesh.core.model import Network
from mesh.masquerade.rows import Masquerade

MASQUERADE_MAP = "mg_masquerade"
#: Networks that see pods by their own addresses.
UNMASKED_MAP = "mg_unmasked"


def encode_masquerade(family: int, row: Masquerade) -> Entry:
    """Entry of ``mg_masquerade``."""
    value = {"first": row.ports.start, "ports": len(row.ports), "opens": int(row.opens)}
    return family, {"address": encode_address(row.address), **value}


def decode_masquerade(key: Any, value: Any) -> tuple[int, Masquerade]:
    """Inverse of ``encode_masquerade``."""
    first, ports = int(value["first"]), int(value["ports"])
    address = decode_address(value["address"])
    return int(key), Masquerade(address, range(first, first + ports), bool(value["opens"]))


def encode_network(network: Network, _: bool, before: int) -> Entry:  # noqa: FBT001 - of a set
    """Entry of ``mg_unmasked``; ``before`` are the bits in front of the address: the zone, 0."""
    bits, address = encode_prefix(network)
    return {"bits": before + bits, "addr": address}, 1


def decode_network(key: Any, _: Any, before: int) -> tuple[Network, bool]:
    """Inverse of ``encode_network``."""
    return decode_prefix(int(key["bits"]) - before, key["addr"]), True
