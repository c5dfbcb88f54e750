"""Rows of learned networks to and from the entries of ``mg_learned``, by field name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from bpf.maps import Map
from bpf.pinned import Decode, Encode, PinnedRows
from mesh.core.address import bits_before, decode_prefix, encode_prefix
from mesh.core.feature import Entry
from mesh.core.model import Network

LEARNED_MAP = "mg_learned"


def identity_rows(bpffs: Path) -> PinnedRows[Network, int]:
    """The target: identity by learned prefix. ``bpffs`` is the agent's directory."""
    return PinnedRows(bpffs / LEARNED_MAP, "uplink", _codec)


def _codec(map_: Map) -> tuple[Encode[Network, int], Decode[Network, int]]:
    before = bits_before(map_.key)
    return partial(encode_identity, before=before), partial(decode_identity, before=before)


def encode_identity(prefix: Network, identity: int, before: int) -> Entry:
    """Entry of ``mg_learned``; ``before`` are the bits in front of the address: the zone, 0."""
    bits, address = encode_prefix(prefix)
    return {"bits": before + bits, "addr": address}, identity


def decode_identity(key: Any, value: Any, before: int) -> tuple[Network, int]:
    """Inverse of ``encode_identity``; raises ValueError for an entry of a VRF's zone."""
    if int(key["zone"]):
        raise ValueError(f"of zone {int(key['zone'])}")
    return decode_prefix(int(key["bits"]) - before, key["addr"]), int(value)
