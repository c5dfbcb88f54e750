"""RTNETLINK messages that connect a pod: orders as bytes, and what the kernel says to them. Pure.

A pod takes about 25 of them, and its runtime waits. pyroute2 needs 0.3 to 0.6 ms of CPU for each,
this module 10 µs. ``mesh/kernel.py`` has the socket. Source: rtnetlink(7); linux/if_link.h,
rtnetlink.h, neighbour.h, if_addr.h, veth.h. Numbers have the host's byte order.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from mesh.core.model import IP, Network

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, device type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst, src, tos, table, protocol, scope, type
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_NUMBER = struct.Struct("=I")
_CODE = struct.Struct("=i")

_REQUEST, _ACK, _REPLACE, _EXCLUSIVE, _CREATE = 1, 4, 0x100, 0x200, 0x400  # NLM_F_…
_PUT = _REQUEST | _ACK | _CREATE | _REPLACE
_ERROR = 2  # NLMSG_ERROR
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH = 16, 17, 18, 20, 24, 28
_NESTED = 0x8000  # NLA_F_NESTED
# IFLA_…, and what stands inside of IFLA_LINKINFO and IFLA_PROP_LIST.
_MAC, _NAME, _MTU, _LINKINFO, _ALIAS, _NETNS, _MASK, _NAMES = 1, 3, 4, 18, 20, 28, 29, 52
_KIND, _DATA, _PEER, _OTHER_NAME = 1, 2, 1, 53
_OTHER_END, _OTHER_SPACE, _VXLAN_PORT = 5, 37, 15
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS: half of an answer
_TYPE = 0x3FFF
_IFF_UP = 1
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_TABLE_MAIN, _UNICAST, _ONLINK = 254, 1, 4
_ANY = bytes(_LINK.size)  # a device that has no number yet


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
    return _message(
        _GETLINK,
        _REQUEST,
        _LINK.pack(0, 0, 0, 0, 0),
        _text(_NAME, name),
        _number(_MASK, _SKIP_STATS),
    )


def add_veth(host: VethEnd, pod: VethEnd, netns_fd: int, mtu: int) -> bytes:
    """Make a veth pair, ``pod`` inside the namespace of the descriptor."""
    peer = _ANY + b"".join(_end(pod, mtu)) + _number(_NETNS, netns_fd)
    data = _attribute(_DATA | _NESTED, _attribute(_PEER | _NESTED, peer))
    info = _attribute(_LINKINFO | _NESTED, _text(_KIND, "veth") + data)
    flags = _REQUEST | _ACK | _CREATE | _EXCLUSIVE
    return _message(_NEWLINK, flags, _ANY, *_end(host, mtu), info)


def _end(end: VethEnd, mtu: int) -> tuple[bytes, ...]:
    return _text(_NAME, end.name), _attribute(_MAC, _mac(end.mac)), _number(_MTU, mtu)


def set_up(ifindex: int) -> bytes:
    """Set a device up."""
    return _message(_NEWLINK, _REQUEST | _ACK, _LINK.pack(0, 0, ifindex, _IFF_UP, _IFF_UP))


def set_mtu(ifindex: int, mtu: int) -> bytes:
    """Give a device another L3 MTU."""
    return _message(_NEWLINK, _REQUEST | _ACK, _LINK.pack(0, 0, ifindex, 0, 0), _number(_MTU, mtu))


def set_alias(ifindex: int, alias: str) -> bytes:
    """Name what a device is for."""
    body = _LINK.pack(0, 0, ifindex, 0, 0)
    return _message(_NEWLINK, _REQUEST | _ACK, body, _text(_ALIAS, alias))


def delete_link(ifindex: int) -> bytes:
    """Remove a device."""
    return _message(_DELLINK, _REQUEST | _ACK, _LINK.pack(0, 0, ifindex, 0, 0))


def put_address(ifindex: int, address: IP, flags: int) -> bytes:
    """Give a device a host address; ``flags`` are of ifaddrmsg."""
    body = _ADDRESS.pack(_family(address), address.max_prefixlen, flags, 0, ifindex)
    packed = address.packed
    attributes = _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
    return _message(_NEWADDR, _PUT, body, attributes)


def put_neighbour(ifindex: int, address: IP, mac: str) -> bytes:
    """A permanent neighbour."""
    body = _NEIGHBOUR.pack(_family(address), ifindex, _NUD_PERMANENT, 0, 0)
    attributes = _attribute(_NDA_DST, address.packed) + _attribute(_NDA_LLADDR, _mac(mac))
    return _message(_NEWNEIGH, _PUT, body, attributes)


def put_route(prefix: Network, ifindex: int, protocol: int, scope: int) -> bytes:
    """A route straight out of a device."""
    family, to = _family(prefix.network_address), prefix.network_address.packed
    body = _ROUTE.pack(family, prefix.prefixlen, 0, 0, _TABLE_MAIN, protocol, scope, _UNICAST, 0)
    return _message(_NEWROUTE, _PUT, body, _attribute(_RTA_DST, to), _number(_RTA_OIF, ifindex))


def put_default_route(gateway: IP, ifindex: int, protocol: int) -> bytes:
    """A default route through a gateway that no route leads to."""
    body = _ROUTE.pack(_family(gateway), 0, 0, 0, _TABLE_MAIN, protocol, 0, _UNICAST, _ONLINK)
    attributes = _attribute(_RTA_GATEWAY, gateway.packed) + _number(_RTA_OIF, ifindex)
    return _message(_NEWROUTE, _PUT, body, attributes)


# Answers


def failure(datagram: bytes) -> int:
    """The errno with which the kernel refuses an order; 0: it is done, or the answer is a row."""
    size, kind, _, _, _ = _HEADER.unpack_from(datagram)
    if kind != _ERROR or size < _HEADER.size + _CODE.size:
        return 0
    return -int(_CODE.unpack_from(datagram, _HEADER.size)[0])


def link(datagram: bytes) -> Link:
    """The device of an answer to ``get_link``. Raises OSError when it is none."""
    size, answer, _, _, _ = _HEADER.unpack_from(datagram)
    if answer != _NEWLINK:
        raise OSError(errno.EBADMSG, "the kernel's answer is no device")
    _, _, ifindex, flags, _ = _LINK.unpack_from(datagram, _HEADER.size)
    found = dict(_attributes(datagram, _HEADER.size + _LINK.size, size))
    info = dict(_inner(found.get(_LINKINFO, b"")))
    kind, data = _string(info.get(_KIND, b"")), dict(_inner(info.get(_DATA, b"")))
    return Link(
        name=_string(found[_NAME]),
        ifindex=ifindex,
        mtu=_NUMBER.unpack(found[_MTU])[0],
        mac=found.get(_MAC, b"").hex(":"),
        up=bool(flags & _IFF_UP),
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
    while at + _ATTRIBUTE.size <= end:
        size, kind = _ATTRIBUTE.unpack_from(raw, at)
        if size < _ATTRIBUTE.size:
            break
        found.append((kind & _TYPE, raw[at + _ATTRIBUTE.size : at + size]))
        at += _aligned(size)
    return found


# Bytes


def _message(kind: int, flags: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(_aligned(size) - size)


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, _NUMBER.pack(number))


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _family(address: IP) -> int:
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def _aligned(size: int) -> int:
    return (size + 3) & ~3
