"""Rows of fences to and from the entries of ``mg_fence``."""

from __future__ import annotations

from typing import Any

from mesh.core.address import decode_prefix, encode_prefix
from mesh.core.feature import Entry
from tests.packet.fence.rows import FenceKey

NUMBER_BITS = 32


def encode(key: FenceKey, row: int) -> Entry:
    bits, address = encode_prefix(key.network)
    name = {"bits": NUMBER_BITS + bits, "fence": key.fence, "addr": address}
    return name, {"closed": row}


def decode(key: Any, value: Any) -> tuple[FenceKey, int]:
    network = decode_prefix(int(key["bits"]) - NUMBER_BITS, key["addr"])
    return FenceKey(int(key["fence"]), network), int(value["closed"])
