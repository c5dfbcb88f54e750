"""Prefixes on the wire, and the two attributes that carry them (RFC 4271 4.3, RFC 4760, RFC 4364).

A field of prefixes has no other structure than the lengths in it. So a wrong length hides what
follows, and RFC 7606 5.3 ends the session: ``Severity.RESET``.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from struct import unpack_from

from bgp.route import Family
from bgp.wire.communities import distinguisher, distinguisher_bytes
from bgp.wire.rows import Malformed, Nlri, Severity
from mesh.core.model import IP, Network

#: AFI and SAFI (RFC 4760 3, RFC 4364 4.3.4).
FAMILIES = {
    (1, 1): Family.IPV4,
    (2, 1): Family.IPV6,
    (1, 128): Family.VPNV4,
    (2, 128): Family.VPNV6,
}
CODES = {family: codes for codes, family in FAMILIES.items()}
#: Octets of label and route distinguisher before the octets of a VPN prefix.
_VPN = 11
#: Octets of a route distinguisher, which precedes each address of a VPN next hop.
_RD = 8
#: Lengths of next hops: global, and global with link-local (RFC 2545 3, RFC 4659 3.2.1.1).
_PLAIN_HOPS = {4: 4, 16: 16, 32: 16}
_VPN_HOPS = {12: 4, 24: 16, 48: 16}


@dataclass(frozen=True, slots=True)
class Reach:
    """An MP_REACH_NLRI or MP_UNREACH_NLRI; ``family`` is None for one that is not ours.

    ``fault`` says why the prefixes after those in ``prefixes`` cannot be read.
    """

    family: Family | None
    prefixes: tuple[Nlri, ...] = ()
    fault: str = ""


def reach(value: bytes) -> Reach:
    """MP_REACH_NLRI (RFC 4760 3). Raises Malformed when the prefixes cannot be found."""
    if len(value) < 5:
        raise Malformed(Severity.RESET, f"MP_REACH_NLRI has {len(value)} octets")
    afi, safi, length = unpack_from("!HBB", value)
    family = FAMILIES.get((afi, safi))
    if len(value) < 5 + length:
        text = f"MP_REACH_NLRI: a next hop of {length} octets, and {len(value) - 5} are left"
        raise Malformed(Severity.RESET, text)
    if family is None:
        return Reach(None)
    next_hop = _next_hop(family, value[4 : 4 + length])
    prefixes, fault = read(family, value[5 + length :], next_hop)
    return Reach(family, prefixes, fault)


def unreach(value: bytes) -> Reach:
    """MP_UNREACH_NLRI (RFC 4760 4). Raises Malformed."""
    if len(value) < 3:
        raise Malformed(Severity.RESET, f"MP_UNREACH_NLRI has {len(value)} octets")
    family = FAMILIES.get((int.from_bytes(value[:2]), value[2]))
    if family is None:
        return Reach(None)
    return Reach(family, *read(family, value[3:], None))


def read(family: Family, data: bytes, next_hop: IP | None) -> tuple[tuple[Nlri, ...], str]:
    """The prefixes of a field, and why those after them cannot be read."""
    one = _vpn if family.vpn else _plain
    width = 32 if family.version == 4 else 128
    head = 8 * _VPN if family.vpn else 0
    found: list[Nlri] = []
    at, end = 0, len(data)
    while at < end:
        bits = data[at]
        size = (bits + 7) >> 3
        if not head <= bits <= head + width:
            return tuple(found), f"{family}: a prefix of {bits - head} bits"
        if at + 1 + size > end:
            return tuple(found), f"{family}: a prefix of {bits - head} bits ends beyond its field"
        found.append(one(family, bits - head, data[at + 1 : at + 1 + size], next_hop))
        at += 1 + size
    return tuple(found), ""


def _plain(family: Family, bits: int, data: bytes, next_hop: IP | None) -> Nlri:
    return Nlri(family, _network(family, bits, data), next_hop=next_hop)


def _vpn(family: Family, bits: int, data: bytes, next_hop: IP | None) -> Nlri:
    prefix = _network(family, bits, data[_VPN:])
    return Nlri(family, prefix, distinguisher(data[3:_VPN]), _label(data), next_hop)


def _label(data: bytes) -> int:
    """20 bits; the low 4 are for packets, and senders put different things there."""
    return int.from_bytes(data[:3]) >> 4


def _network(family: Family, bits: int, data: bytes) -> Network:
    """Bits beyond the length do not count (RFC 4271 4.3)."""
    if family.version == 4:
        shift = 32 - bits
        whole = int.from_bytes(data) << 32 - 8 * len(data)
        return IPv4Network((whole >> shift << shift, bits))
    shift = 128 - bits
    whole = int.from_bytes(data) << 128 - 8 * len(data)
    return IPv6Network((whole >> shift << shift, bits))


def _next_hop(family: Family, data: bytes) -> IP:
    """The global address; its family may be the other one (RFC 8950). Raises Malformed."""
    size = (_VPN_HOPS if family.vpn else _PLAIN_HOPS).get(len(data))
    if size is None or (size == 4 and family is Family.IPV6):
        # RFC 7606 7.11: where the prefixes begin is then not certain.
        text = f"MP_REACH_NLRI: a next hop of {len(data)} octets for {family}"
        raise Malformed(Severity.RESET, text)
    start = _RD if family.vpn else 0
    raw = data[start : start + size]
    return IPv4Address(raw) if size == 4 else _unmapped(IPv6Address(raw))


def _unmapped(address: IPv6Address) -> IP:
    """A VPNv6 route over IPv4 has the IPv4 address mapped into its next hop (RFC 4659 3.2.1.2)."""
    return address.ipv4_mapped or address


def write(prefixes: tuple[Nlri, ...]) -> bytes:
    """The field of these prefixes."""
    return b"".join(map(_written, prefixes))


def _written(one: Nlri) -> bytes:
    size = (one.prefix.prefixlen + 7) // 8
    octets = one.prefix.network_address.packed[:size]
    if not one.family.vpn:
        return bytes((one.prefix.prefixlen,)) + octets
    label = (one.label << 4 | 1).to_bytes(3)  # 1: bottom of the stack (RFC 3032 2.1)
    front = label + distinguisher_bytes(one.rd)
    return bytes((8 * _VPN + one.prefix.prefixlen,)) + front + octets


def next_hop_bytes(family: Family, next_hop: IP) -> bytes:
    """A next hop without link-local half."""
    if not family.vpn:
        return next_hop.packed
    if family is Family.VPNV6 and next_hop.version == 4:
        return bytes(_RD + 10) + b"\xff\xff" + next_hop.packed
    return bytes(_RD) + next_hop.packed
