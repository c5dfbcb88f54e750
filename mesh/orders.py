"""RTNETLINK messages that connect a pod: orders as bytes, and what the kernel says to them. Pure.

A pod takes about 25 of them, and its runtime waits. pyroute2 needs 0.3 to 0.6 ms of CPU for each,
this module 10 µs. ``mesh/kernel.py`` has the socket, ``mesh/rtnetlink.py`` the form of messages.
Source: rtnetlink(7); linux/if_link.h, veth.h.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.core.model import IP, Network
from mesh.rtnetlink import (
    ACK,
    ADDRESS,
    ATTRIBUTE,
    CODE,
    DELLINK,
    ERROR,
    GETLINK,
    HEADER,
    IFF_UP,
    LINK,
    NDA_DST,
    NEIGHBOUR,
    NEWADDR,
    NEWLINK,
    NEWNEIGH,
    NEWROUTE,
    NUMBER,
    REQUEST,
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    aligned,
    attribute,
    family,
    message,
    number,
)

_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400  # NLM_F_…
_PUT = REQUEST | ACK | _CREATE | _REPLACE
_NESTED = 0x8000  # NLA_F_NESTED
# IFLA_…, and what stands inside of IFLA_LINKINFO and IFLA_PROP_LIST.
_MAC, _NAME, _MTU, _LINKINFO, _ALIAS, _NETNS, _MASK, _NAMES = 1, 3, 4, 18, 20, 28, 29, 52
_KIND, _DATA, _PEER, _OTHER_NAME = 1, 2, 1, 53
_OTHER_END, _OTHER_SPACE, _VXLAN_PORT = 5, 37, 15
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS: half of an answer
_TYPE = 0x3FFF
_NDA_LLADDR = 2
_NUD_PERMANENT = 0x80
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO = 1, 2, 6
#: struct ifa_cacheinfo of a permanent address that no socket takes for its source by itself
#: (RFC 6724 5, rule 3): preferred for 0 s, valid for ever.
_DEPRECATED = struct.Struct("=4I").pack(0, 0xFFFFFFFF, 0, 0)
_TABLE_MAIN, _UNICAST, _ONLINK = 254, 1, 4
_ANY = bytes(LINK.size)  # a device that has no number yet


@dataclass(frozen=True, slots=True)
class Link:
    """A network device of this host."""

    name: str
    ifindex: int
    mtu: int
    mac: str
    up: bool
    alias: str
    other_names: tuple[str, ...] = ()
    port: int = 0
    """UDP port of a VXLAN device."""
    other: int = 0
    """ifindex of the other end of a veth, in another namespace; 0: it has none there."""


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a veth pair to be made."""

    name: str
    mac: str


# Orders


def get_link(name: str) -> bytes:
    """Ask for a device by its name."""
    return message(
        GETLINK,
        REQUEST,
        1,
        LINK.pack(0, 0, 0, 0, 0),
        _text(_NAME, name),
        number(_MASK, _SKIP_STATS),
    )


def add_veth(host: VethEnd, pod: VethEnd, netns_fd: int, mtu: int) -> bytes:
    """Make a veth pair, ``pod`` inside the namespace of the descriptor."""
    peer = _ANY + b"".join(_end(pod, mtu)) + number(_NETNS, netns_fd)
    data = attribute(_DATA | _NESTED, attribute(_PEER | _NESTED, peer))
    info = attribute(_LINKINFO | _NESTED, _text(_KIND, "veth") + data)
    flags = REQUEST | ACK | _CREATE | _EXCLUSIVE
    return message(NEWLINK, flags, 1, _ANY, *_end(host, mtu), info)


def _end(end: VethEnd, mtu: int) -> tuple[bytes, ...]:
    return _text(_NAME, end.name), attribute(_MAC, _mac(end.mac)), number(_MTU, mtu)


def set_up(ifindex: int) -> bytes:
    """Set a device up."""
    return message(NEWLINK, REQUEST | ACK, 1, LINK.pack(0, 0, ifindex, IFF_UP, IFF_UP))


def set_mtu(ifindex: int, mtu: int) -> bytes:
    """Give a device another L3 MTU."""
    return message(NEWLINK, REQUEST | ACK, 1, LINK.pack(0, 0, ifindex, 0, 0), number(_MTU, mtu))


def set_alias(ifindex: int, alias: str) -> bytes:
    """Name what a device is for."""
    body = LINK.pack(0, 0, ifindex, 0, 0)
    return message(NEWLINK, REQUEST | ACK, 1, body, _text(_ALIAS, alias))


def delete_link(ifindex: int) -> bytes:
    """Remove a device."""
    return message(DELLINK, REQUEST | ACK, 1, LINK.pack(0, 0, ifindex, 0, 0))


def put_address(ifindex: int, address: IP, flags: int, *, deprecated: bool = False) -> bytes:
    """Give a device a host address; ``flags`` are of ifaddrmsg."""
    body = ADDRESS.pack(family(address), address.max_prefixlen, flags, 0, ifindex)
    packed = address.packed
    attributes = attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if deprecated:
        attributes += attribute(_IFA_CACHEINFO, _DEPRECATED)
    return message(NEWADDR, _PUT, 1, body, attributes)


def put_neighbour(ifindex: int, address: IP, mac: str) -> bytes:
    """A permanent neighbour."""
    body = NEIGHBOUR.pack(family(address), ifindex, _NUD_PERMANENT, 0, 0)
    attributes = attribute(NDA_DST, address.packed) + attribute(_NDA_LLADDR, _mac(mac))
    return message(NEWNEIGH, _PUT, 1, body, attributes)


def put_route(prefix: Network, ifindex: int, protocol: int, scope: int) -> bytes:
    """A route straight out of a device."""
    to, bits = prefix.network_address, prefix.prefixlen
    body = ROUTE.pack(family(to), bits, 0, 0, _TABLE_MAIN, protocol, scope, _UNICAST, 0)
    attributes = attribute(RTA_DST, to.packed) + number(RTA_OIF, ifindex)
    return message(NEWROUTE, _PUT, 1, body, attributes)


def put_default_route(gateway: IP, ifindex: int, protocol: int) -> bytes:
    """A default route through a gateway that no route leads to."""
    body = ROUTE.pack(family(gateway), 0, 0, 0, _TABLE_MAIN, protocol, 0, _UNICAST, _ONLINK)
    attributes = attribute(RTA_GATEWAY, gateway.packed) + number(RTA_OIF, ifindex)
    return message(NEWROUTE, _PUT, 1, body, attributes)


# Answers


def failure(datagram: bytes) -> int:
    """The errno with which the kernel refuses an order; 0: it is done, or the answer is a row."""
    size, kind, _, _, _ = HEADER.unpack_from(datagram)
    if kind != ERROR or size < HEADER.size + CODE.size:
        return 0
    return -int(CODE.unpack_from(datagram, HEADER.size)[0])


def link(datagram: bytes) -> Link:
    """The device of an answer to ``get_link``. Raises OSError when it is none."""
    size, answer, _, _, _ = HEADER.unpack_from(datagram)
    if answer != NEWLINK:
        raise OSError(errno.EBADMSG, "the kernel's answer is no device")
    _, _, ifindex, flags, _ = LINK.unpack_from(datagram, HEADER.size)
    found = dict(_attributes(datagram, HEADER.size + LINK.size, size))
    info = dict(_inner(found.get(_LINKINFO, b"")))
    kind, data = _string(info.get(_KIND, b"")), dict(_inner(info.get(_DATA, b"")))
    return Link(
        name=_string(found[_NAME]),
        ifindex=ifindex,
        mtu=NUMBER.unpack(found[_MTU])[0],
        mac=found.get(_MAC, b"").hex(":"),
        up=bool(flags & IFF_UP),
        alias=_string(found.get(_ALIAS, b"")),
        other_names=tuple(
            _string(one) for sort, one in _inner(found.get(_NAMES, b"")) if sort == _OTHER_NAME
        ),
        port=int.from_bytes(data.get(_VXLAN_PORT, b"") if kind == "vxlan" else b"", "big"),
        other=_other_end(found) if kind == "veth" else 0,
    )


def _other_end(found: Mapping[int, bytes]) -> int:
    """The kernel names the namespace of the other end (IFLA_LINK_NETNSID) if it is not the same."""
    end = found.get(_OTHER_END, b"") if _OTHER_SPACE in found else b""
    return int.from_bytes(end, sys.byteorder)


def _inner(value: bytes) -> list[tuple[int, bytes]]:
    return _attributes(value, 0, len(value))


def _attributes(raw: bytes, at: int, end: int) -> list[tuple[int, bytes]]:
    found = []
    while at + ATTRIBUTE.size <= end:
        size, kind = ATTRIBUTE.unpack_from(raw, at)
        if size < ATTRIBUTE.size:
            break
        found.append((kind & _TYPE, raw[at + ATTRIBUTE.size : at + size]))
        at += aligned(size)
    return found


# Bytes


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
