"""IPFIX messages about port blocks, as octets (RFC 7011; RFC 8158 for what they say). Pure.

A record says: when, that a block was allocated or given back, the node that holds it (its first
IPv4 address, and ``cluster/node`` as the user), the egress address, and first and last port. It is
one record for a block of hundreds of ports: none for a connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

from mesh.core.model import IP

VERSION, TEMPLATES = 10, 2
#: Numbers of our templates, by the family of the egress address.
TEMPLATE_OF = {4: 256, 6: 257}
#: Octets of a message: for a datagram that nobody cuts, and of what a stream takes.
DATAGRAM, STREAM = 1400, 65_000

_HEADER = struct.Struct("!HHIII")  # version, length, export time, sequence, domain
_SET = struct.Struct("!HH")
_VARIABLE = 0xFFFF
_LONGEST_NAME = 254
#: Information elements with their lengths, in the order of a record: observationTimeMilliseconds,
#: natEvent, sourceIPv4Address, userName, postNATSourceIPv4Address or postNATSourceIPv6Address,
#: portRangeStart, portRangeEnd (the registry of IANA).
_FIELDS = {
    4: ((323, 8), (230, 1), (8, 4), (371, _VARIABLE), (225, 4), (361, 2), (362, 2)),
    6: ((323, 8), (230, 1), (8, 4), (371, _VARIABLE), (282, 16), (361, 2), (362, 2)),
}


class NatEvent(IntEnum):
    """Values of natEvent (RFC 8158 4.2)."""

    ALLOCATED = 16
    GIVEN_BACK = 17


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """A block that was allocated, or given back, at this time (Unix, in seconds)."""

    at: float
    what: NatEvent
    node: IPv4Address
    user: str
    address: IP
    first: int
    last: int


def record(event: BlockEvent) -> bytes:
    """One data record."""
    name = event.user.encode()[:_LONGEST_NAME]
    return b"".join(
        (
            struct.pack("!QB", int(event.at * 1000), event.what),
            event.node.packed,
            bytes([len(name)]) + name,  # RFC 7011 7: variable length below 255
            event.address.packed,
            struct.pack("!HH", event.first, event.last),
        )
    )


def template_set() -> bytes:
    """The set with both templates (RFC 7011 3.4.1)."""
    body = b"".join(
        struct.pack("!HH", TEMPLATE_OF[family], len(fields))
        + b"".join(struct.pack("!HH", *field) for field in fields)
        for family, fields in _FIELDS.items()
    )
    return _SET.pack(TEMPLATES, _SET.size + len(body)) + body


def message(sets: Sequence[bytes], at: int, sequence: int, domain: int) -> bytes:
    """A whole message; ``sequence`` is the number of data records before it (RFC 7011 3.1)."""
    body = b"".join(sets)
    return _HEADER.pack(VERSION, _HEADER.size + len(body), at, sequence, domain) + body


def data_sets(events: Iterable[BlockEvent], longest: int) -> Iterator[tuple[bytes, int]]:
    """Sets with the events in their order, each with its number of records.

    ``longest`` bounds the message around a set.
    """
    room = longest - _HEADER.size - _SET.size
    family, records, size = 0, list[bytes](), 0
    for event in events:
        one = record(event)
        if records and (event.address.version != family or size + len(one) > room):
            yield _data_set(family, records), len(records)
            records, size = [], 0
        family = event.address.version
        records.append(one)
        size += len(one)
    if records:
        yield _data_set(family, records), len(records)


def _data_set(family: int, records: Sequence[bytes]) -> bytes:
    body = b"".join(records)
    return _SET.pack(TEMPLATE_OF[family], _SET.size + len(body)) + body
