"""An UPDATE body from a row: what tests, and a speaker of our own, send.

The form is the usual one: attributes in the order of their codes, with MP_REACH_NLRI and
MP_UNREACH_NLRI first (RFC 7606 5.1), short lengths where they fit, IPv4 unicast prefixes with an
IPv4 next hop in the fields of RFC 4271.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import pack
from typing import TypeVar

from bgp.route import Family
from bgp.wire import communities, nlri, service
from bgp.wire.attributes import (
    AS4_PATH,
    AS_PATH,
    AS_TRANS,
    COMMUNITIES,
    EXTENDED_COMMUNITIES,
    EXTENDED_LENGTH,
    LARGE_COMMUNITIES,
    LOCAL_PREF,
    MED,
    MP_REACH,
    MP_UNREACH,
    NEXT_HOP,
    OPTIONAL,
    ORIGIN,
    ORIGINATOR_ID,
    PREFIX_SID,
    TRANSITIVE,
)
from bgp.wire.rows import Attributes, Nlri, Update
from mesh.core.model import IP

T = TypeVar("T")

_AS_SEQUENCE = 2
#: Numbers in one segment at most.
_SEGMENT = 255


def encode(update: Update, *, asn4: bool = True) -> bytes:
    """The body; raises ValueError when its prefixes need more than one UPDATE."""
    if update.end_of_rib is not None:
        return _end_of_rib(update.end_of_rib)
    old_gone = [one for one in update.withdrawn if one.family is Family.IPV4]
    new_gone = [one for one in update.withdrawn if one.family is not Family.IPV4]
    old_come = [one for one in update.announced if _is_old(one)]
    new_come = [one for one in update.announced if not _is_old(one)]
    parts: list[bytes] = []
    if new_come:
        parts.append(attribute(OPTIONAL, MP_REACH, _reach(new_come)))
    if new_gone:
        parts.append(attribute(OPTIONAL, MP_UNREACH, _unreach(new_gone)))
    if update.announced:
        hop = _one({one.next_hop for one in old_come}) if old_come else None
        parts += _attributes(update.attributes, hop, asn4=asn4)
    path = b"".join(parts)
    withdrawn = nlri.write(tuple(old_gone))
    return (
        pack("!H", len(withdrawn)) + withdrawn
        + pack("!H", len(path)) + path + nlri.write(tuple(old_come))
    )  # fmt: skip


def attribute(flags: int, code: int, value: bytes) -> bytes:
    """Header and value."""
    if len(value) > 255:
        return pack("!BBH", flags | EXTENDED_LENGTH, code, len(value)) + value
    return pack("!BBB", flags, code, len(value)) + value


def _attributes(row: Attributes, next_hop: IP | None, *, asn4: bool) -> Iterator[bytes]:
    yield attribute(TRANSITIVE, ORIGIN, bytes((row.origin,)))
    yield attribute(TRANSITIVE, AS_PATH, _as_path(row.as_path, asn4=asn4))
    if next_hop is not None:
        yield attribute(TRANSITIVE, NEXT_HOP, next_hop.packed)
    if row.med is not None:
        yield attribute(OPTIONAL, MED, pack("!I", row.med))
    if row.local_preference is not None:
        yield attribute(TRANSITIVE, LOCAL_PREF, pack("!I", row.local_preference))
    if row.originator is not None:
        yield attribute(OPTIONAL, ORIGINATOR_ID, row.originator.packed)
    yield from _lists(row, asn4=asn4)
    if row.service is not None:
        yield attribute(OPTIONAL | TRANSITIVE, PREFIX_SID, service.encode(row.service))


def _lists(row: Attributes, *, asn4: bool) -> Iterator[bytes]:
    """Communities, and the path of four octets where AS_PATH has two, as far as there are any."""
    four = row.as_path if not asn4 and any(asn >> 16 for asn in row.as_path) else ()
    values = {
        COMMUNITIES: b"".join(sorted(map(communities.standard_bytes, row.communities))),
        EXTENDED_COMMUNITIES: b"".join(sorted(map(communities.extended_bytes, row.extended))),
        AS4_PATH: _as_path(four, asn4=True),
        LARGE_COMMUNITIES: b"".join(sorted(map(communities.large_bytes, row.large))),
    }
    for code, value in values.items():
        if value:
            yield attribute(OPTIONAL | TRANSITIVE, code, value)


def _as_path(path: Sequence[int], *, asn4: bool) -> bytes:
    numbers = path if asn4 else [AS_TRANS if asn >> 16 else asn for asn in path]
    segments = [numbers[at : at + _SEGMENT] for at in range(0, len(numbers), _SEGMENT)]
    form = "I" if asn4 else "H"
    return b"".join(
        pack(f"!BB{len(segment)}{form}", _AS_SEQUENCE, len(segment), *segment)
        for segment in segments
    )


def _reach(prefixes: Sequence[Nlri]) -> bytes:
    family, hop = _one({(one.family, one.next_hop) for one in prefixes})
    if hop is None:
        raise ValueError(f"{prefixes[0].prefix} has no next hop")
    raw = nlri.next_hop_bytes(family, hop)
    return pack("!HBB", *nlri.CODES[family], len(raw)) + raw + b"\0" + nlri.write(tuple(prefixes))


def _unreach(prefixes: Sequence[Nlri]) -> bytes:
    family = _one({one.family for one in prefixes})
    return pack("!HB", *nlri.CODES[family]) + nlri.write(tuple(prefixes))


def _end_of_rib(family: Family) -> bytes:
    if family is Family.IPV4:
        return bytes(4)
    value = attribute(OPTIONAL, MP_UNREACH, pack("!HB", *nlri.CODES[family]))
    return pack("!HH", 0, len(value)) + value


def _is_old(one: Nlri) -> bool:
    """Whether it stands in the fields that know IPv4 only."""
    return one.family is Family.IPV4 and one.next_hop is not None and one.next_hop.version == 4


def _one(values: set[T]) -> T:
    if len(values) != 1:
        raise ValueError("an UPDATE has one next hop and one family")
    return next(iter(values))
