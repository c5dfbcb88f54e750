"""The Internet checksum (RFC 1071)."""

from __future__ import annotations

import struct


def checksum(data: bytes) -> int:
    """The checksum of these bytes, as a header has it; an odd byte is followed by a zero."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
