"""The BGP Prefix-SID attribute with an SRv6 L3 service (RFC 8669, RFC 9252).

Two kinds of fault are kept apart. A value that cannot be parsed is ``Malformed``: the routes of its
UPDATE count as withdrawn (RFC 9252 7). A SID that must not be used is ``Unusable``: the route
stays visible, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from struct import pack, unpack_from

from bgp.route import Family, ServiceSID
from bgp.wire.rows import Malformed, Severity

#: Behaviour of which the sender says nothing (RFC 9252 3.2).
OPAQUE = 0xFFFF
END_DT6, END_DT4 = 18, 19
#: Bits of the label field of a VPN prefix that can carry a part of the SID.
LABEL_BITS = 20

_L3_SERVICE, _SID_INFORMATION, _SID_STRUCTURE = 5, 1, 1
#: RESERVED, SID, flags, behaviour, RESERVED: octets of SID Information before its sub-sub-TLVs.
_INFORMATION = 21


class Unusable(ValueError):
    """Why a SID must not be used, in words."""


def decode(value: bytes) -> ServiceSID | None:
    """The first SRv6 L3 service of an attribute's value, or None; unknown types are passed over.

    Raises Malformed. Source: RFC 9252 2, 3 and 7.
    """
    found: ServiceSID | None = None
    seen = False
    for kind, tlv in _parts(value, "the Prefix-SID attribute"):
        if kind != _L3_SERVICE:
            continue
        one = _service(tlv)
        if not seen:  # RFC 9252 7: of several services the first counts
            found, seen = one, True
    return found


def encode(service: ServiceSID) -> bytes:
    """The value of an attribute with one service."""
    structure = b""
    if service.structure is not None:
        structure = pack("!BH6B", _SID_STRUCTURE, 6, *service.structure)
    behaviour = pack("!H", service.behaviour)
    information = b"\0" + service.sid.packed + b"\0" + behaviour + b"\0" + structure
    tlv = b"\0" + pack("!BH", _SID_INFORMATION, len(information)) + information
    return pack("!BH", _L3_SERVICE, len(tlv)) + tlv


def real_sid(service: ServiceSID, label: int) -> IPv6Address:
    """The SID to put into packets: transposed bits come back from the 20-bit label.

    Raises Unusable. Source: RFC 9252 4, erratum 7817 (the transposed bits may end where the SID's
    parts end).
    """
    sid = int(service.sid)
    if service.structure is not None:
        *parts, transposed, offset = service.structure
        _check(sum(parts), transposed, offset)
        if transposed:
            shift = 128 - offset - transposed
            if sid >> shift & (1 << transposed) - 1:
                raise Unusable("the transposed bits of the SID are not zero")
            sid |= label >> (LABEL_BITS - transposed) << shift
    real = IPv6Address(sid)
    if real.is_unspecified or real.is_loopback or real.is_multicast or real.is_link_local:
        raise Unusable(f"{real} is no SID: it is not routable")
    return real


def behaviour_of(service: ServiceSID, family: Family) -> int:
    """The behaviour, derived from the family where the sender does not say it (FRR up to 8.4)."""
    if service.behaviour != OPAQUE:
        return service.behaviour
    return END_DT4 if family.version == 4 else END_DT6


def _check(length: int, transposed: int, offset: int) -> None:
    if length > 128:
        raise Unusable(f"the parts of the SID are {length} bits long together")
    if transposed > LABEL_BITS:
        raise Unusable(f"{transposed} transposed bits do not fit a label of {LABEL_BITS} bits")
    if offset + transposed > length:
        raise Unusable(f"the transposed bits end at {offset + transposed} of {length}")
    if offset and not transposed:
        raise Unusable("there is an offset of transposed bits, and none is transposed")


def _service(tlv: bytes) -> ServiceSID | None:
    if not tlv:
        raise Malformed(Severity.WITHDRAW, "the SRv6 L3 Service TLV is empty")
    found: ServiceSID | None = None
    for kind, value in _parts(tlv[1:], "the SRv6 L3 Service TLV"):
        if kind == _SID_INFORMATION:
            one = _information(value)
            found = found or one
    return found


def _information(value: bytes) -> ServiceSID:
    if len(value) < _INFORMATION:
        text = f"the SID Information has {len(value)} octets instead of {_INFORMATION}"
        raise Malformed(Severity.WITHDRAW, text)
    structure = None
    for kind, data in _parts(value[_INFORMATION:], "the SID Information"):
        if kind != _SID_STRUCTURE:
            continue
        if len(data) != 6:
            text = f"the SID Structure has {len(data)} octets instead of 6"
            raise Malformed(Severity.WITHDRAW, text)
        prefix, node, function, argument, transposed, offset = data
        structure = structure or (prefix, node, function, argument, transposed, offset)
    behaviour = unpack_from("!H", value, 18)[0]
    return ServiceSID(IPv6Address(value[1:17]), behaviour, structure)


def _parts(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Type (1 octet), length (2 octets), value: every level of the attribute has that shape."""
    at = 0
    while at < len(data):
        left = len(data) - at - 3
        if left < 0:
            raise Malformed(Severity.WITHDRAW, f"{where} ends within a header")
        kind, length = unpack_from("!BH", data, at)
        if length > left:
            text = f"{where}: type {kind} has {length} octets, and {left} are left"
            raise Malformed(Severity.WITHDRAW, text)
        yield kind, data[at + 3 : at + 3 + length]
        at += 3 + length
