"""What a router's OPEN says it can do (RFC 4271 4.2, RFC 5492)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from bgp.route import Family
from bgp.wire.nlri import FAMILIES

MULTIPROTOCOL, ROUTE_REFRESH, EXTENDED_NEXT_HOP, EXTENDED_MESSAGE = 1, 2, 5, 6
GRACEFUL_RESTART, ASN4, ENHANCED_REFRESH = 64, 65, 70
_CAPABILITIES = 2  # type of the optional parameter that holds them
_HEAD = 10  # octets of an OPEN before its optional parameters
_LONG = 255  # of length and type: the parameters have lengths of two octets (RFC 9072)
_RESTARTED, _FORWARDING = 0x80, 0x80


@dataclass(frozen=True, slots=True)
class Opening:
    """One OPEN.

    ``restart_s`` is how long its sender's routes of ``restart_families`` are kept while it
    restarts, None without the capability; ``restarted``: it has just done so; ``kept`` are the
    families of which it says that it went on forwarding (RFC 4724 3).
    ``next_hops`` are IPv4 families whose next hop may be an IPv6 address (RFC 8950).
    """

    asn: int = 0
    hold_s: int = 0
    router_id: IPv4Address | None = None
    families: tuple[Family, ...] = ()
    refresh: bool = False
    enhanced_refresh: bool = False
    asn4: bool = False
    next_hops: tuple[Family, ...] = ()
    restart_s: int | None = None
    restart_families: tuple[Family, ...] = ()
    restarted: bool = False
    kept: tuple[Family, ...] = ()


def decode(body: bytes) -> Opening | None:
    """The OPEN; ``body`` is the message without its header. None for one that cannot be read."""
    if len(body) < _HEAD:
        return None
    found = dict[int, list[bytes]]()
    try:
        for code, value in _capabilities(body):
            found.setdefault(code, []).append(value)
    except IndexError:
        return None
    families = [FAMILIES.get((int.from_bytes(v[:2]), v[3])) for v in _of(found, MULTIPROTOCOL, 4)]
    numbers = [int.from_bytes(value) for value in _of(found, ASN4, 4)]
    restart = next(iter(found.get(GRACEFUL_RESTART, ())), None)
    return Opening(
        asn=numbers[0] if numbers else int.from_bytes(body[1:3]),
        hold_s=int.from_bytes(body[3:5]),
        router_id=IPv4Address(body[5:9]),
        families=_ordered(families) if MULTIPROTOCOL in found else (Family.IPV4,),
        refresh=ROUTE_REFRESH in found,
        enhanced_refresh=ENHANCED_REFRESH in found,
        asn4=bool(numbers),
        next_hops=_ordered(_next_hops(b"".join(found.get(EXTENDED_NEXT_HOP, ())))),
        restart_s=int.from_bytes(restart[:2]) & 0xFFF if restart else None,
        restart_families=_ordered(_kept((restart or b"")[2:], 0)),
        restarted=bool((restart or b"\0")[0] & _RESTARTED),
        kept=_ordered(_kept((restart or b"")[2:], _FORWARDING)),
    )


def _capabilities(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Code and value of each; raises IndexError when the lengths do not fit."""
    wide = body[_HEAD - 1] == _LONG and len(body) > _HEAD and body[_HEAD] == _LONG
    at = _HEAD + 3 if wide else _HEAD
    while at < len(body):
        head = 3 if wide else 2
        kind, length = body[at], int.from_bytes(body[at + 1 : at + head])
        parameter = body[at + head : at + head + length]
        if len(parameter) != length:
            raise IndexError
        at += head + length
        if kind == _CAPABILITIES:
            yield from _values(parameter)


def _values(parameter: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(parameter):
        code, length = parameter[at], parameter[at + 1]
        value = parameter[at + 2 : at + 2 + length]
        if len(value) != length:
            raise IndexError
        yield code, value
        at += 2 + length


def _of(found: dict[int, list[bytes]], code: int, length: int) -> list[bytes]:
    """The values of a capability that have their length."""
    return [value for value in found.get(code, ()) if len(value) == length]


def _next_hops(value: bytes) -> Iterator[Family | None]:
    """AFI, SAFI in two octets, AFI of the next hop (RFC 8950 4)."""
    for at in range(0, len(value) - 5, 6):
        if int.from_bytes(value[at + 4 : at + 6]) == 2:
            afi, safi = int.from_bytes(value[at : at + 2]), int.from_bytes(value[at + 2 : at + 4])
            yield FAMILIES.get((afi, safi))


def _kept(value: bytes, flags: int) -> Iterator[Family | None]:
    """AFI, SAFI, flags (RFC 4724 3); those that have the flags."""
    for at in range(0, len(value) - 3, 4):
        if value[at + 3] & flags == flags:
            yield FAMILIES.get((int.from_bytes(value[at : at + 2]), value[at + 2]))


def _ordered(families: Iterator[Family | None] | list[Family | None]) -> tuple[Family, ...]:
    found = set(families)
    return tuple(family for family in Family if family in found)
