"""What is sent once more has the checksum of its bytes."""

import struct
from ipaddress import ip_address

import pytest

from mesh.datapath.late_errors import summed

SYN = bytes(range(60))  # what an error quotes


def total(data: bytes) -> int:
    """The Internet checksum of what has one already: 0 when it is right."""
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return ~((value & 0xFFFF) + (value >> 16)) & 0xFFFF


def v4(message: bytes) -> bytes:
    ends = ip_address("10.0.0.1").packed + ip_address("10.0.0.2").packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0) + ends
    return bytes(12) + b"\x08\x00" + head + message


def v6(message: bytes, following: int = 58) -> bytes:
    ends = ip_address("fd00::1").packed + ip_address("fd00::2").packed
    head = struct.pack("!IHBB", 6 << 28, len(message), following, 64) + ends
    return bytes(12) + b"\x86\xdd" + head + message


@pytest.mark.parametrize("check", [0, 0x1234, 0xFFFF])
def test_an_ipv4_error_gets_the_checksum_of_its_bytes(check: int) -> None:
    frame = summed(v4(struct.pack("!BBHI", 3, 1, check, 0) + SYN))
    assert total(frame[34:]) == 0
    assert frame[38:] == bytes(4) + SYN


@pytest.mark.parametrize("check", [0, 0x1234, 0xFFFF])
def test_an_ipv6_error_gets_the_checksum_of_its_bytes(check: int) -> None:
    frame = summed(v6(struct.pack("!BBHI", 1, 3, check, 0) + SYN))
    assert total(frame[22:54] + struct.pack("!II", len(frame) - 54, 58) + frame[54:]) == 0


def test_what_has_other_headers_in_front_stays_as_it_is() -> None:
    frame = v6(bytes([58, 0]) + bytes(6) + SYN, following=0)
    assert summed(frame) == frame
