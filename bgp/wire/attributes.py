"""Path attributes, one after the other, each with what RFC 7606 makes of a malformed one.

Source: RFC 7606 3 (flags, duplicates), 4 (lengths) and 7 (each attribute); RFC 8092 5 for large
communities, RFC 9252 7 for SRv6 services. Attributes that say nothing to us are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from struct import unpack
from typing import Any

from bgp.wire import communities, service
from bgp.wire.nlri import Reach, reach, unreach
from bgp.wire.rows import Attributes, Malformed, Severity

OPTIONAL, TRANSITIVE, EXTENDED_LENGTH = 0x80, 0x40, 0x10
ORIGIN, AS_PATH, NEXT_HOP, MED, LOCAL_PREF = 1, 2, 3, 4, 5
ATOMIC_AGGREGATE, AGGREGATOR, COMMUNITIES, ORIGINATOR_ID, CLUSTER_LIST = 6, 7, 8, 9, 10
MP_REACH, MP_UNREACH, EXTENDED_COMMUNITIES, AS4_PATH, AS4_AGGREGATOR = 14, 15, 16, 17, 18
LARGE_COMMUNITIES, PREFIX_SID = 32, 40

#: Stands for numbers that do not fit into two octets (RFC 6793 9).
AS_TRANS = 23456
_SEGMENTS = {1: "AS_SET", 2: "AS_SEQUENCE", 3: "AS_CONFED_SEQUENCE", 4: "AS_CONFED_SET"}
_INCOMPLETE = 2  # the last value of ORIGIN
_TEXT = "{name} has {length} octets"


@dataclass(frozen=True, slots=True)
class Sender:
    """What has to be known of a session: whether AS numbers have four octets, and who sends."""

    asn4: bool
    external: bool


@dataclass(slots=True)
class Found:
    """What the attributes of one UPDATE say; ``worst`` is the worst of what is wrong."""

    values: dict[int, Any] = field(default_factory=dict)
    worst: Malformed | None = None
    discarded: list[str] = field(default_factory=list)

    def note(self, fault: Malformed) -> None:
        """One more is wrong; of equal ones the first counts."""
        if fault.severity is Severity.DISCARD:
            self.discarded.append(str(fault))
        elif self.worst is None or fault.severity > self.worst.severity:
            self.worst = fault

    @property
    def reached(self) -> Reach | None:
        """What MP_REACH_NLRI says."""
        return self.values.get(MP_REACH)

    @property
    def unreached(self) -> Reach | None:
        """What MP_UNREACH_NLRI says."""
        return self.values.get(MP_UNREACH)

    def attributes(self, sender: Sender) -> Attributes:
        """As a row."""
        get = self.values.get
        path = get(AS_PATH, ())
        return Attributes(
            origin=get(ORIGIN, 0),
            as_path=path if sender.asn4 else merged(path, get(AS4_PATH) or ()),
            med=get(MED),
            local_preference=None if sender.external else get(LOCAL_PREF),
            communities=get(COMMUNITIES, ()),
            large=get(LARGE_COMMUNITIES, ()),
            extended=get(EXTENDED_COMMUNITIES, ()),
            service=get(PREFIX_SID),
            originator=get(ORIGINATOR_ID),
            discarded=tuple(self.discarded),
        )


def read(data: bytes, sender: Sender) -> Found:
    """All attributes of an UPDATE. Raises nothing: what is wrong stands in the result."""
    found = Found()
    try:
        for flags, code, value in _walk(data):
            try:
                _take(found, flags, code, value, sender)
            except Malformed as fault:
                found.note(fault)
    except Malformed as fault:
        found.note(fault)
    return found


def merged(path: tuple[int, ...], four: tuple[int, ...]) -> tuple[int, ...]:
    """AS_PATH of two octets and AS4_PATH as one path (RFC 6793 4.2.3)."""
    if len(path) < len(four):
        return path
    return path[: len(path) - len(four)] + four


def _walk(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Flags, code and value of each; raises Malformed where the lengths do not fit (RFC 7606 4)."""
    at, end = 0, len(data)
    while at < end:
        head = 4 if data[at] & EXTENDED_LENGTH else 3
        if at + head > end:
            raise Malformed(Severity.WITHDRAW, "the attributes end within a header")
        flags, code = data[at], data[at + 1]
        length = int.from_bytes(data[at + 2 : at + head])
        if at + head + length > end:
            text = f"attribute {code} has {length} octets, and {end - at - head} are left"
            raise Malformed(Severity.WITHDRAW, text)
        yield flags, code, data[at + head : at + head + length]
        at += head + length


def _take(found: Found, flags: int, code: int, value: bytes, sender: Sender) -> None:
    known = _KNOWN.get(code)
    if known is None:
        if not flags & OPTIONAL:  # RFC 4271 6.3, unrecognized well-known attribute
            raise Malformed(Severity.RESET, f"attribute {code} is well-known, and nobody knows it")
        return
    if code in found.values:
        if code in (MP_REACH, MP_UNREACH):  # RFC 7606 3 g
            raise Malformed(Severity.RESET, f"{known.name} occurs twice")
        return
    if sender.external and code in (LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST):
        return  # RFC 7606 7.5, 7.9 and 7.10: discarded, whatever it has
    found.values[code] = None  # a malformed one counts as the first of its code
    if flags & (OPTIONAL | TRANSITIVE) != known.flags:
        severity = Severity.RESET if code in (MP_REACH, MP_UNREACH) else known.severity
        raise Malformed(severity, f"{known.name} has flags 0x{flags:02x}")
    if not known.fits(len(value), sender):
        raise Malformed(known.severity, _TEXT.format(name=known.name, length=len(value)))
    found.values[code] = known.read(value, sender)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How an attribute is read. ``severity``: what a wrong length or wrong flags make of it."""

    name: str
    flags: int
    fits: Callable[[int, Sender], bool]
    read: Callable[[bytes, Sender], Any]
    severity: Severity = Severity.WITHDRAW


def _long(length: int) -> Callable[[int, Sender], bool]:
    return lambda found, _: found == length


def _times(length: int) -> Callable[[int, Sender], bool]:
    return lambda found, _: found > 0 and found % length == 0


def _any(_length: int, _sender: Sender) -> bool:
    return True


def _number(value: bytes, _: Sender) -> int:
    return int.from_bytes(value)


def _nothing(_value: bytes, _: Sender) -> None:
    return None


def _origin(value: bytes, _: Sender) -> int:
    if value[0] > _INCOMPLETE:
        raise Malformed(Severity.WITHDRAW, f"ORIGIN is {value[0]}")
    return value[0]


def _as_path(value: bytes, sender: Sender) -> tuple[int, ...]:
    return _path(value, 4 if sender.asn4 else 2, "AS_PATH")


def _as4_path(value: bytes, sender: Sender) -> tuple[int, ...]:
    """RFC 6793 6: a malformed one is discarded, and one from a peer that knows four octets."""
    try:
        return () if sender.asn4 else _path(value, 4, "AS4_PATH")
    except Malformed as fault:
        raise Malformed(Severity.DISCARD, str(fault)) from None


def _path(value: bytes, width: int, name: str) -> tuple[int, ...]:
    """Raises Malformed for segments as in RFC 7606 7.2."""
    path: list[int] = []
    at = 0
    while at < len(value):
        kind, count = value[at], value[at + 1] if at + 1 < len(value) else 0
        end = at + 2 + width * count
        if kind not in _SEGMENTS:
            raise Malformed(Severity.WITHDRAW, f"{name} has a segment of type {kind}")
        if not count:
            raise Malformed(Severity.WITHDRAW, f"{name} has a segment without a number")
        if end > len(value):
            raise Malformed(Severity.WITHDRAW, f"{name} ends within a segment")
        path += unpack(f"!{count}{'I' if width == 4 else 'H'}", value[at + 2 : end])
        at = end
    return tuple(path)


def _ipv4(value: bytes, _: Sender) -> IPv4Address:
    return IPv4Address(value)


_WELL_KNOWN, _OPTIONAL, _BOTH = TRANSITIVE, OPTIONAL, OPTIONAL | TRANSITIVE
_KNOWN: Mapping[int, _Kind] = {
    ORIGIN: _Kind("ORIGIN", _WELL_KNOWN, _long(1), _origin),
    AS_PATH: _Kind("AS_PATH", _WELL_KNOWN, _any, _as_path),
    NEXT_HOP: _Kind("NEXT_HOP", _WELL_KNOWN, _long(4), _ipv4),
    MED: _Kind("MULTI_EXIT_DISC", _OPTIONAL, _long(4), _number),
    LOCAL_PREF: _Kind("LOCAL_PREF", _WELL_KNOWN, _long(4), _number),
    ATOMIC_AGGREGATE: _Kind("ATOMIC_AGGREGATE", _WELL_KNOWN, _long(0), _nothing, Severity.DISCARD),
    AGGREGATOR: _Kind(
        "AGGREGATOR",
        _BOTH,
        lambda length, sender: length == (8 if sender.asn4 else 6),
        _nothing,
        Severity.DISCARD,
    ),
    COMMUNITIES: _Kind("COMMUNITIES", _BOTH, _times(4), lambda v, _: communities.standard(v)),
    ORIGINATOR_ID: _Kind("ORIGINATOR_ID", _OPTIONAL, _long(4), _ipv4),
    CLUSTER_LIST: _Kind("CLUSTER_LIST", _OPTIONAL, _times(4), _nothing),
    MP_REACH: _Kind("MP_REACH_NLRI", _OPTIONAL, _any, lambda v, _: reach(v)),
    MP_UNREACH: _Kind("MP_UNREACH_NLRI", _OPTIONAL, _any, lambda v, _: unreach(v)),
    EXTENDED_COMMUNITIES: _Kind(
        "EXTENDED COMMUNITIES", _BOTH, _times(8), lambda v, _: communities.extended(v)
    ),
    AS4_PATH: _Kind("AS4_PATH", _BOTH, _any, _as4_path, Severity.DISCARD),
    AS4_AGGREGATOR: _Kind("AS4_AGGREGATOR", _BOTH, _long(8), _nothing, Severity.DISCARD),
    LARGE_COMMUNITIES: _Kind(
        "LARGE COMMUNITIES", _BOTH, _times(12), lambda v, _: communities.large(v)
    ),
    PREFIX_SID: _Kind("Prefix-SID", _BOTH, lambda n, _: n > 0, lambda v, _: service.decode(v)),
}


def name_of(code: int) -> str:
    """The attribute's name in its RFC."""
    return _KNOWN[code].name
