"""Communities and route distinguishers: bytes to the spelling of ``bgp/route.py``, and back.

A number of four octets that would fit into two keeps its form by an ``L``: ``target:65001L:100`` is
other bytes than ``target:65001:100``, and another community to every router.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address
from struct import pack, unpack

_KNOWN = {
    0xFFFFFF01: "no-export",
    0xFFFFFF02: "no-advertise",
    0xFFFFFF03: "no-export-subconfed",
    0xFFFFFF04: "no-peer",
    0xFFFF0000: "graceful-shutdown",
    0xFFFF029A: "blackhole",
}
_NUMBERS = {name: number for number, name in _KNOWN.items()}
#: Subtypes of extended communities that have a name (RFC 4360 4 and 5).
_SUBTYPES = {2: "target", 3: "origin"}
_SUBTYPE_NUMBERS = {name: number for number, name in _SUBTYPES.items()}
#: Types of administrators of extended communities and of route distinguishers (RFC 4364 4.2).
_AS2, _IPV4, _AS4 = 0, 1, 2
#: Values spelled lately; a table of 100,000 routes has some hundred different ones.
_LATELY = 4096


def standard(value: bytes) -> tuple[str, ...]:
    """RFC 1997; ``value`` has a multiple of 4 octets."""
    numbers = unpack(f"!{len(value) // 4}I", value)
    return _sorted(_KNOWN.get(n) or f"{n >> 16}:{n & 0xFFFF}" for n in numbers)


def standard_bytes(text: str) -> bytes:
    """Raises ValueError for what is no community."""
    if text in _NUMBERS:
        return pack("!I", _NUMBERS[text])
    high, _, low = text.partition(":")
    return pack("!HH", _number(high, 16), _number(low, 16))


def large(value: bytes) -> tuple[str, ...]:
    """RFC 8092; ``value`` has a multiple of 12 octets."""
    numbers = unpack(f"!{len(value) // 4}I", value)
    triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return _sorted(f"{a}:{b}:{c}" for a, b, c in triples)


def large_bytes(text: str) -> bytes:
    """Raises ValueError for what is no large community."""
    first, second, third = text.split(":")
    return pack("!III", _number(first, 32), _number(second, 32), _number(third, 32))


def extended(value: bytes) -> tuple[str, ...]:
    """RFC 4360; ``value`` has a multiple of 8 octets."""
    return _sorted(_extended(value[at : at + 8]) for at in range(0, len(value), 8))


def extended_bytes(text: str) -> bytes:
    """Raises ValueError for what is no extended community."""
    if text.startswith("0x"):
        return _of_hex(text)
    name, _, rest = text.partition(":")
    if name not in _SUBTYPE_NUMBERS:
        raise ValueError(f"{text!r} is no extended community")
    kind, administrator = _administrator_bytes(rest)
    return bytes((kind, _SUBTYPE_NUMBERS[name])) + administrator


@lru_cache(_LATELY)
def distinguisher(value: bytes) -> str:
    """A route distinguisher: ``65001:1``, ``10.99.0.1:7``; one of an unknown type in hex."""
    kind = int.from_bytes(value[:2])
    return _administrator(kind, value[2:]) or f"0x{value.hex()}"


def distinguisher_bytes(text: str) -> bytes:
    """Raises ValueError for what is no route distinguisher."""
    if text.startswith("0x"):
        return _of_hex(text)
    kind, administrator = _administrator_bytes(text)
    return pack("!H", kind) + administrator


@lru_cache(_LATELY)
def _extended(value: bytes) -> str:
    name = _SUBTYPES.get(value[1])
    spelled = _administrator(value[0], value[2:]) if name else ""
    return f"{name}:{spelled}" if spelled else f"0x{value.hex()}"


def _administrator(kind: int, value: bytes) -> str:
    """Administrator and number in 6 octets; empty for an unknown type."""
    if kind == _AS2:
        return "{}:{}".format(*unpack("!HI", value))
    if kind == _IPV4:
        return f"{IPv4Address(value[:4])}:{int.from_bytes(value[4:])}"
    if kind == _AS4:
        asn, number = unpack("!IH", value)
        return f"{asn}L:{number}" if asn >> 16 == 0 else f"{asn}:{number}"
    return ""


def _administrator_bytes(text: str) -> tuple[int, bytes]:
    head, _, tail = text.rpartition(":")
    if "." in head:
        return _IPV4, IPv4Address(head).packed + pack("!H", _number(tail, 16))
    asn = _number(head.removesuffix("L"), 32)
    if head.endswith("L") or asn >> 16:
        return _AS4, pack("!IH", asn, _number(tail, 16))
    return _AS2, pack("!HI", asn, _number(tail, 32))


def _number(text: str, bits: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) >> bits:
        raise ValueError(f"{text!r} is no number of {bits} bits")
    return int(text)


def _of_hex(text: str) -> bytes:
    value = bytes.fromhex(text[2:])
    if len(value) != 8:
        raise ValueError(f"{text!r} does not have 8 octets")
    return value


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
