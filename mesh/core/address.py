"""Addresses in the one form that maps, tables and etcd share: 16 bytes, IPv4 mapped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.model import IP, Network
from mesh.core.table import ColumnChanges

_MAPPED = bytes(10) + b"\xff\xff"
#: An IPv4 prefix of n bits has 96 + n bits in the mapped form.
MAPPED_BITS = 96
#: Bytes of the length that an LPM key begins with (``struct bpf_lpm_trie_key``).
_LENGTH_SIZE = 4
#: dtype of an address as a table key.
ADDRESS = np.dtype("V16")


@dataclass(frozen=True, slots=True)
class OfCluster(ColumnChanges):
    """What changes of one cluster's addresses; ``others`` are the ids of all other clusters."""

    others: frozenset[int] = frozenset()


def packed(address: IP) -> bytes:
    """The 16 bytes of an address, IPv4 as ``::ffff:a.b.c.d``."""
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed


def unpacked(raw: bytes) -> IP:
    """The address behind 16 bytes."""
    return IPv4Address(raw[12:]) if raw[:12] == _MAPPED else IPv6Address(raw)


def prefix_bits(prefix: Network) -> int:
    """Length of a prefix in the 128-bit form."""
    return prefix.prefixlen + (MAPPED_BITS if prefix.version == 4 else 0)


def column(addresses: Iterable[IP]) -> npt.NDArray[Any]:
    """Addresses as an array of 16-byte keys."""
    return np.frombuffer(b"".join(packed(a) for a in addresses), ADDRESS)


def encode_address(address: IP) -> dict[str, object]:
    """``struct addr``."""
    raw = packed(address)
    return {"w": [int.from_bytes(raw[at : at + 4], "big") for at in range(0, 16, 4)]}


def decode_address(cell: Any) -> IP:
    """Inverse of ``encode_address``."""
    return unpacked(cell.tobytes())


def bits_before(key: np.dtype[Any]) -> int:
    """Bits of an LPM key between its length and its field ``addr``: a prefix covers them, too."""
    fields: Any = key.fields
    return 8 * (int(fields["addr"][1]) - _LENGTH_SIZE)


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
