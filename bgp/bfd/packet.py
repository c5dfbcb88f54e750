"""BFD control packets as values. Source: RFC 5880 4.1 and 4.2."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

PORT, MULTIHOP_PORT = 3784, 4784
#: RFC 5881 4: UDP ports from which a session sends.
SOURCE_PORTS = range(49152, 65536)
TTL = 255
#: RFC 5880 6.8.3: not faster while the session is not up.
SLOW_US = 1_000_000
_VERSION = 1
_HEAD = struct.Struct("!BBBBIIIII")
#: RFC 5880 4.2: Simple Password; the key ID is ours to choose.
_SIMPLE, _KEY_ID = 1, 1
LONGEST_PASSWORD = 16


class State(IntEnum):
    """Of a session."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Flag(IntFlag):
    """Of a packet."""

    NONE = 0
    MULTIPOINT = 0x01
    DEMAND = 0x02
    AUTHENTICATION = 0x04
    INDEPENDENT = 0x08
    FINAL = 0x10
    POLL = 0x20


@dataclass(frozen=True, slots=True)
class Control:
    """One control packet; times in microseconds.

    ``authentication`` is the whole section. ``length`` is said instead of the true one.
    """

    state: State
    mine: int
    yours: int = 0
    flags: Flag = Flag.NONE
    desired_us: int = SLOW_US
    required_us: int = SLOW_US
    multiplier: int = 3
    diagnostic: int = 0
    authentication: bytes = b""
    length: int | None = None
    version: int = _VERSION

    def pack(self) -> bytes:
        """As the payload of UDP."""
        flags = self.flags | (Flag.AUTHENTICATION if self.authentication else Flag.NONE)
        length = _HEAD.size + len(self.authentication) if self.length is None else self.length
        head = _HEAD.pack(
            self.version << 5 | self.diagnostic, self.state << 6 | flags, self.multiplier, length,
            self.mine, self.yours, self.desired_us, self.required_us, 0,
        )  # fmt: skip
        return head + self.authentication

    @classmethod
    def read(cls, payload: bytes) -> Control:
        """Inverse of ``pack``; raises ValueError when it is too short."""
        if len(payload) < _HEAD.size:
            raise ValueError(f"{len(payload)} bytes are no BFD control packet")
        first, second, multiplier, length, mine, yours, desired, required, _ = _HEAD.unpack_from(
            payload
        )
        return cls(
            State(second >> 6), mine, yours, Flag(second & 0x3F), desired, required, multiplier,
            first & 0x1F, payload[_HEAD.size : length], None, first >> 5,
        )  # fmt: skip


def simple_password(text: str) -> bytes:
    """The section of authentication that says this password; empty: none. Raises ValueError."""
    raw = text.encode()
    if len(raw) > LONGEST_PASSWORD:
        raise ValueError(f"a BFD password has at most {LONGEST_PASSWORD} bytes, not {len(raw)}")
    return bytes([_SIMPLE, 3 + len(raw), _KEY_ID]) + raw if raw else b""
