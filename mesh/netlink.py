"""RTNETLINK messages that come in masses: events in, questions about routes out. Pure.

A routing daemon changes 100,000 routes in seconds, and a mesh has thousands of nodes. pyroute2
needs 0.1 to 0.4 ms for each message, this module about 10 µs. ``mesh/kernel.py`` has the sockets.
``mesh/rtnetlink.py`` has the form of messages. Source: rtnetlink(7); linux/rtnetlink.h.

Only IPv4 addresses and neighbours are read, because outer packets are IPv4. Routes of our own
change no answer that anybody asks for, so they are events only for those who keep them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, ip_network

from mesh.core.model import Network
from mesh.core.space import PRIVATE
from mesh.rtnetlink import (
    ADDRESS,
    ATTRIBUTE,
    CODE,
    DELADDR,
    DELLINK,
    DELROUTE,
    DONE,
    DUMP,
    ERROR,
    GETROUTE,
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

#: Routes that carry this protocol number are ours (rtnetlink.h: above RTPROT_STATIC is free).
PROTOCOL = 77
#: Those that a speaker has learned by BGP carry this one: they stand in a table of their own.
LEARNED = 78
_OURS = (PROTOCOL, LEARNED)


class Group(IntEnum):
    """Multicast groups of events."""

    LINK = 1
    NEIGHBOUR = 3
    ADDRESS = 5
    ROUTE = 7
    RULE = 8
    ROUTE_V6 = 11
    RULE_V6 = 19
    NEXT_HOP = 32


@dataclass(frozen=True, slots=True)
class Lost:
    """Events before this one are unknown: whoever follows them has to look at everything."""


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """A route to ``prefix`` came, changed or went, in any table."""

    prefix: Network


@dataclass(frozen=True, slots=True)
class OwnRouteGone:
    """A route of our own went; whoever has deleted it."""

    prefix: Network


@dataclass(frozen=True, slots=True)
class RuleEvent:
    """A rule or a next hop object changed: any route may lead elsewhere."""


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """A device got or lost an IPv4 address."""

    ifindex: int


@dataclass(frozen=True, slots=True)
class NeighbourEvent:
    """Resolving ``address`` failed."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """A device as it is now; ``master`` is the ifindex of its bridge, bond or VRF, else 0."""

    ifindex: int
    name: str
    mtu: int
    master: int
    up: bool
    carrier: bool
    gone: bool


Event = Lost | RouteEvent | OwnRouteGone | RuleEvent | AddressEvent | NeighbourEvent | LinkEvent

_NEWRULE, _DELRULE = 32, 33
_NEWNEXTHOP, _DELNEXTHOP = 104, 105
_TABLE_LOCAL = 255  # RT_TABLE_LOCAL: the host's own addresses
_ROUTED = frozenset({1, 6, 7, 8})  # RTN_UNICAST, BLACKHOLE, UNREACHABLE, PROHIBIT
#: First and last addresses of private space by family.
_SPANS = {
    family: [
        (int(one.network_address), int(one.broadcast_address))
        for one in PRIVATE
        if one.version == version
    ]
    for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6))
}
_IFLA_NAME, _IFLA_MTU, _IFLA_MASTER = 3, 4, 10
_IFF_LOWER_UP = 1 << 16
_RTA_METRICS, _RTA_VIA = 8, 18
_RTAX_MTU = 2
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the route itself, not what it says of one address
_NUD_FAILED = 0x20


def events(datagram: bytes, *, ipv6: bool = False, own: bool = False) -> list[Event]:
    """What a datagram of the groups says; a torn one says ``Lost``.

    Of IPv6 routes, and of our own routes that go, if wanted.
    """
    found: list[Event] = []
    try:
        for kind, _, body in _messages(datagram):
            event = (_own_route_gone(kind, body) if own else None) or _event(kind, body)
            foreign = isinstance(event, RouteEvent) and event.prefix.version == 6 and not ipv6
            if event is not None and not foreign:
                found.append(event)
    except (struct.error, ValueError):
        found.append(Lost())
    return found


def question(address: IPv4Address, sequence: int) -> bytes:
    """Ask for the route to an address."""
    route = ROUTE.pack(socket.AF_INET, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return message(GETROUTE, REQUEST, sequence, route, attribute(RTA_DST, address.packed))


def next_hops(
    datagram: bytes, asked: Mapping[int, IPv4Address]
) -> dict[IPv4Address, IPv4Address | OSError]:
    """Answers to questions by their sequence number: the next hop, or why there is none.

    An address on the link is its own next hop.
    """
    found: dict[IPv4Address, IPv4Address | OSError] = {}
    for kind, sequence, body in _messages(datagram):
        address = asked.get(sequence)
        if address is None:
            continue
        if kind == ERROR:
            code = -CODE.unpack_from(body)[0]
            found[address] = OSError(code, f"no route to {address}: {os.strerror(code)}")
        elif kind == NEWROUTE:
            found[address] = _next_hop(address, body)
    return found


def _next_hop(address: IPv4Address, body: bytes) -> IPv4Address | OSError:
    attributes = _attributes(body, ROUTE.size)
    if _RTA_VIA in attributes:  # RFC 8950; mg_node has room for an IPv4 next hop only
        return OSError(errno.EAFNOSUPPORT, f"the next hop to {address} is an IPv6 neighbour")
    gateway = attributes.get(RTA_GATEWAY)
    return IPv4Address(gateway) if gateway else address


def match_question(prefix: Network, ifindex: int, sequence: int) -> bytes:
    """Ask which route out of a device leads to the first address of a prefix; 0: of any device."""
    address = prefix.network_address
    wanted = attribute(RTA_DST, address.packed)
    wanted += number(RTA_OIF, ifindex) if ifindex else b""
    route = ROUTE.pack(family(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    return message(GETROUTE, REQUEST, sequence, route, wanted)


def matches(datagram: bytes, asked: Mapping[int, Network]) -> dict[Network, bool]:
    """Whether a route that is more specific than a default route leads to each prefix."""
    found: dict[Network, bool] = {}
    for kind, sequence, body in _messages(datagram):
        if sequence in asked and kind in (ERROR, NEWROUTE):
            found[asked[sequence]] = kind == NEWROUTE and ROUTE.unpack_from(body)[1] > 0
    return found


def dump_question(version: int) -> bytes:
    """Ask for all routes of a family."""
    of = socket.AF_INET if version == 4 else socket.AF_INET6
    return message(GETROUTE, REQUEST | DUMP, 1, ROUTE.pack(of, 0, 0, 0, 0, 0, 0, 0, 0))


def private_routes(datagram: bytes, ours: Collection[int]) -> tuple[dict[Network, None], bool]:
    """Prefixes of a dump's routes that meet private or unique-local space; whether it ends here.

    Default routes, the host's own addresses, routes of our own and those out of our devices
    (``ours``, by index) are left out.
    """
    found: dict[Network, None] = {}
    for kind, _, body in _messages(datagram):
        if kind in (ERROR, DONE):
            return found, True
        if kind == NEWROUTE:
            prefix = _private(body, ours)
            if prefix is not None:
                found[prefix] = None
    return found, False


def _private(body: bytes, ours: Collection[int]) -> Network | None:
    family, bits, _, _, table, protocol, _, type_, _ = ROUTE.unpack_from(body)
    if not bits or table == _TABLE_LOCAL or protocol in _OURS or type_ not in _ROUTED:
        return None
    attributes = _attributes(body, ROUTE.size)
    first = attributes.get(RTA_DST, b"").ljust(4 if family == socket.AF_INET else 16, b"\0")
    last = int.from_bytes(first, "big") | ((1 << (len(first) * 8 - bits)) - 1)
    met = any(one <= last and int.from_bytes(first, "big") <= end for one, end in _SPANS[family])
    if not met or _number(attributes.get(RTA_OIF)) in ours:
        return None
    return ip_network((first, bits))


def route_mtus(datagram: bytes, asked: Mapping[int, Network]) -> dict[Network, int]:
    """The MTU that the route to each prefix was given; 0: none. Not what the kernel has learned."""
    found: dict[Network, int] = {}
    for kind, sequence, body in _messages(datagram):
        if sequence in asked and kind in (ERROR, NEWROUTE):
            route = _attributes(body, ROUTE.size) if kind == NEWROUTE else {}
            metrics = _attributes(route.get(_RTA_METRICS, b""), 0)
            found[asked[sequence]] = _number(metrics.get(_RTAX_MTU))
    return found


def _event(kind: int, body: bytes) -> Event | None:
    if kind in (NEWROUTE, DELROUTE):
        return _route(body)
    if kind in (NEWLINK, DELLINK):
        return _link(body, gone=kind == DELLINK)
    if kind == NEWNEIGH:
        return _neighbour(body)
    if kind in (NEWADDR, DELADDR):
        family, _, _, _, ifindex = ADDRESS.unpack_from(body)
        return AddressEvent(ifindex) if family == socket.AF_INET else None
    if kind in (_NEWRULE, _DELRULE, _NEWNEXTHOP, _DELNEXTHOP):
        return RuleEvent()
    return None


def _own_route_gone(kind: int, body: bytes) -> OwnRouteGone | None:
    if kind != DELROUTE or ROUTE.unpack_from(body)[5] != PROTOCOL:
        return None
    prefix = _prefix(body)
    return OwnRouteGone(prefix) if prefix else None


def _route(body: bytes) -> RouteEvent | None:
    if ROUTE.unpack_from(body)[5] in _OURS:
        return None
    prefix = _prefix(body)
    return RouteEvent(prefix) if prefix else None


def _prefix(body: bytes) -> Network | None:
    family, bits, *_ = ROUTE.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    destination = _attributes(body, ROUTE.size).get(RTA_DST)
    nothing = bytes(4 if family == socket.AF_INET else 16)
    return ip_network((destination or nothing, bits))


def _link(body: bytes, *, gone: bool) -> LinkEvent | None:
    family, _, ifindex, flags, _ = LINK.unpack_from(body)
    if family != socket.AF_UNSPEC:  # a bridge speaks about its ports
        return None
    found = _attributes(body, LINK.size)
    return LinkEvent(
        ifindex=ifindex,
        name=found.get(_IFLA_NAME, b"").rstrip(b"\0").decode(errors="replace"),
        mtu=_number(found.get(_IFLA_MTU)),
        master=_number(found.get(_IFLA_MASTER)),
        up=bool(flags & IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        gone=gone,
    )


def _neighbour(body: bytes) -> NeighbourEvent | None:
    family, _, state, _, _ = NEIGHBOUR.unpack_from(body)
    if family != socket.AF_INET or state != _NUD_FAILED:
        return None
    address = _attributes(body, NEIGHBOUR.size).get(NDA_DST)
    return NeighbourEvent(IPv4Address(address)) if address else None


def _number(attribute: bytes | None) -> int:
    return int(NUMBER.unpack(attribute)[0]) if attribute else 0


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and body of each message; ValueError when one is torn."""
    at = 0
    while at < len(datagram):
        size, kind, _, sequence, _ = HEADER.unpack_from(datagram, at)
        if not HEADER.size <= size <= len(datagram) - at:
            raise ValueError("torn message")
        yield kind, sequence, datagram[at + HEADER.size : at + size]
        at += aligned(size)


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    """The first level of attributes by type; ValueError when one is torn."""
    found: dict[int, bytes] = {}
    while at < len(body):
        size, kind = ATTRIBUTE.unpack_from(body, at)
        if not ATTRIBUTE.size <= size <= len(body) - at:
            raise ValueError("torn attribute")
        found[kind] = body[at + ATTRIBUTE.size : at + size]
        at += aligned(size)
    return found
