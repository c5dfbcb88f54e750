"""RTNETLINK: the routes of one table that is ours, in masses, and the rules that lead to it.

A router sends 100,000 routes, so an order is bytes that are made here (10 µs each), and the kernel
answers only what it refuses. The socket lives as long as its owner; when ``send`` returns, the
kernel has done everything. Routes carry a protocol number of their own: nothing else is read, and
nothing else is removed. The host's own tables are read only.
Source: rtnetlink(7); linux/rtnetlink.h, fib_rules.h. Numbers have the host's byte order.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from mesh.core.model import IP, Network
from mesh.netlink import LEARNED
from mesh.rtnetlink import (
    ATTRIBUTE,
    CODE,
    DELROUTE,
    DONE,
    DUMP,
    ERROR,
    GETROUTE,
    HEADER,
    NEWROUTE,
    NUMBER,
    REQUEST,
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    aligned,
    attribute,
    message,
)

_RULE = struct.Struct("=BBBBBBBBI")  # fib_rule_hdr: family, dst, src, tos, table, -, -, action
_NEXT = struct.Struct("=HBBi")  # rtnexthop: length, flags, weight, index

_REPLACE, _CREATE, _EXCLUSIVE = 0x100, 0x400, 0x200  # NLM_F_…
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_MULTIPATH, _TABLE = 9, 15  # RTA_…
_SRC, _PRIORITY, _PROTOCOL = 2, 6, 21  # FRA_…; the table's number is as above
_UNICAST, _LOCAL, _THROW = 1, 2, 9  # RTN_…
_TO_TABLE = 1  # FR_ACT_TO_TBL
_MAIN, _BY_KERNEL = 254, 2  # RT_TABLE_MAIN, RTPROT_KERNEL
_SOL_NETLINK, _SHORT_ANSWERS, _STRICT = 270, 10, 12  # NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK
_DATAGRAM = 1 << 16
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: Orders of one ``send``: answers of all must find room in the socket.
_BATCH = 128
#: Rules of ours stand before the host's main table, behind whatever else a host has.
PRIORITY = 32700


@dataclass(frozen=True, slots=True)
class Hop:
    """A neighbour on the link of a device."""

    address: IP
    ifindex: int


#: Next hops of a route. Empty: nothing of this table leads there; the host's tables are asked.
Way = tuple[Hop, ...]


class RouteTable:
    """The routes of table ``number`` with our protocol, in the calling thread's namespace."""

    def __init__(self, number: int, protocol: int = LEARNED) -> None:
        self.number, self._protocol = number, protocol
        self._sock: socket.socket | None = None

    def close(self) -> None:
        """Give the socket back; routes stay."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def routes(self) -> Iterator[dict[Network, Way]]:
        """Our routes in the table, in pieces. Raises OSError."""
        for version in (4, 6):
            question = route_dump(version, self.number, self._protocol)
            for datagram in _dumped(question):
                yield routes_of(datagram, self.number, self._protocol)

    async def put(self, rows: Mapping[Network, Way]) -> dict[Network, OSError]:
        """Make routes, or change them; those that the kernel refuses."""
        orders = {prefix: self._put(prefix, way) for prefix, way in rows.items()}
        return await self._order(orders)

    async def remove(self, prefixes: Iterable[Network]) -> dict[Network, OSError]:
        """Remove routes; absent ones are no error."""
        orders = {
            prefix: route_order(DELROUTE, REQUEST, prefix, None, self.number, self._protocol)
            for prefix in prefixes
        }
        errors = await self._order(orders)
        return {key: error for key, error in errors.items() if error.errno != errno.ESRCH}

    def connected(self) -> set[Network]:
        """Networks on the links of this host, by its main table. Raises OSError."""
        found: set[Network] = set()
        for version in (4, 6):
            for datagram in _dumped(route_dump(version, _MAIN, _BY_KERNEL)):
                found.update(routes_of(datagram, _MAIN, _BY_KERNEL))
        return {one for one in found if not (one.is_link_local or one.is_multicast)}

    def hop(self, address: IP) -> Hop | str:
        """The device on whose link the address is, or in words why it is on none."""
        sock = self._socket()
        sock.send(route_question(address))
        for kind, _, body in _messages(sock.recv(_DATAGRAM)):
            if kind == ERROR:
                return f"cannot be reached: {os.strerror(-CODE.unpack_from(body)[0])}"
            if kind == NEWROUTE:
                return hop_of(address, body)
        return "cannot be reached: the kernel says nothing"

    def rules(self) -> set[Network]:
        """Sources for which a rule of ours leads to the table. Raises OSError."""
        return {
            source
            for version in (4, 6)
            for datagram in _dumped(rule_dump(version))
            for source in rules_of(datagram, self.number, self._protocol)
        }

    async def put_rules(self, sources: Iterable[Network]) -> dict[Network, OSError]:
        """Lead packets of these sources to the table before the host's main table."""
        flags = REQUEST | _CREATE | _EXCLUSIVE
        errors = await self._order({one: self._rule(_NEWRULE, flags, one) for one in sources})
        return {key: error for key, error in errors.items() if error.errno != errno.EEXIST}

    async def remove_rules(self, sources: Iterable[Network]) -> dict[Network, OSError]:
        """Remove rules; absent ones are no error."""
        errors = await self._order({one: self._rule(_DELRULE, REQUEST, one) for one in sources})
        return {key: error for key, error in errors.items() if error.errno != errno.ENOENT}

    def _put(self, prefix: Network, way: Way) -> bytes:
        flags = REQUEST | _CREATE | _REPLACE
        return route_order(NEWROUTE, flags, prefix, way, self.number, self._protocol)

    def _rule(self, kind: int, flags: int, source: Network) -> bytes:
        return rule_order(kind, flags, source, self.number, self._protocol)

    async def _order(self, orders: Mapping[Network, bytes]) -> dict[Network, OSError]:
        """Send orders in batches; what is refused. Raises OSError when nothing can be sent."""
        errors: dict[Network, OSError] = {}
        items = list(orders.items())
        for at in range(0, len(items), _BATCH):
            batch = items[at : at + _BATCH]
            sock = self._socket()
            sock.send(b"".join(numbered(order, number) for number, (_, order) in enumerate(batch)))
            for number, code in _refusals(sock):
                prefix = batch[number][0]
                errors[prefix] = OSError(code, f"route {prefix}: {os.strerror(code)}")
            await asyncio.sleep(0)
        return errors

    def _socket(self) -> socket.socket:
        if self._sock is None:
            self._sock = _opened(0)
        return self._sock


async def remove_all(protocol: int = LEARNED) -> tuple[int, int]:
    """Remove all routes and rules with our protocol, of any table; how many. Raises OSError."""
    routes = [_dumped(route_dump(version, 0, protocol)) for version in (4, 6)]
    rules = [_dumped(rule_dump(version)) for version in (4, 6)]
    numbers = {one for part in routes for datagram in part for one in tables(datagram, protocol)}
    numbers |= {one for part in rules for one in _tables_of_rules(part, protocol)}
    gone_routes = gone_rules = 0
    for number in sorted(numbers):
        table = RouteTable(number, protocol)
        sources = table.rules()
        await table.remove_rules(sources)
        prefixes = [prefix for part in table.routes() for prefix in part]
        await table.remove(prefixes)
        table.close()
        gone_routes, gone_rules = gone_routes + len(prefixes), gone_rules + len(sources)
    return gone_routes, gone_rules


def _tables_of_rules(parts: Iterable[bytes], protocol: int) -> Iterator[int]:
    for datagram in parts:
        for kind, _, body in _messages(datagram):
            found = _attributes(body, _RULE.size) if kind == _NEWRULE else {}
            if _TABLE in found and found.get(_PROTOCOL, b"\0")[0] == protocol:
                yield NUMBER.unpack(found[_TABLE])[0]


# Orders


def route_order(
    kind: int, flags: int, prefix: Network, way: Way | None, table: int, protocol: int
) -> bytes:
    """One route; ``way`` is None to remove it, whatever its next hops."""
    family, to = _FAMILIES[prefix.version], prefix.network_address.packed
    type_ = 0 if way is None else _UNICAST if way else _THROW
    body = ROUTE.pack(family, prefix.prefixlen, 0, 0, 0, protocol, 0, type_, 0)
    target = attribute(RTA_DST, to) + attribute(_TABLE, NUMBER.pack(table))
    return message(kind, flags, 1, body, target, _hops(way or ()))


def _hops(way: Way) -> bytes:
    if len(way) == 1:
        return attribute(RTA_OIF, NUMBER.pack(way[0].ifindex)) + _gateway(way[0])
    parts = [(_gateway(hop), hop.ifindex) for hop in way]
    nexts = [_NEXT.pack(_NEXT.size + len(part), 0, 0, index) + part for part, index in parts]
    return attribute(_MULTIPATH, b"".join(nexts)) if nexts else b""


def _gateway(hop: Hop) -> bytes:
    return attribute(RTA_GATEWAY, hop.address.packed)


def route_dump(version: int, table: int, protocol: int) -> bytes:
    """Ask for the routes of a table, 0: of all, with a protocol (a strict socket)."""
    body = ROUTE.pack(_FAMILIES[version], 0, 0, 0, 0, protocol, 0, 0, 0)
    of = attribute(_TABLE, NUMBER.pack(table)) if table else b""
    return message(GETROUTE, REQUEST | DUMP, 1, body, of)


def route_question(address: IP) -> bytes:
    """Ask for the route to an address."""
    body = ROUTE.pack(_FAMILIES[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return message(GETROUTE, REQUEST, 1, body, attribute(RTA_DST, address.packed))


def rule_order(kind: int, flags: int, source: Network, table: int, protocol: int) -> bytes:
    """One rule: packets of the source are led to the table."""
    body = _RULE.pack(_FAMILIES[source.version], 0, source.prefixlen, 0, 0, 0, 0, _TO_TABLE, 0)
    return message(
        kind,
        flags,
        1,
        body,
        attribute(_SRC, source.network_address.packed),
        attribute(_PRIORITY, NUMBER.pack(PRIORITY)),
        attribute(_TABLE, NUMBER.pack(table)),
        attribute(_PROTOCOL, bytes([protocol])),
    )


def rule_dump(version: int) -> bytes:
    """Ask for all rules of a family."""
    body = _RULE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    return message(_GETRULE, REQUEST | DUMP, 1, body)


def numbered(order: bytes, number: int) -> bytes:
    """An order that is answered with this number."""
    return order[:8] + NUMBER.pack(number) + order[12:]


# Answers


def routes_of(datagram: bytes, table: int, protocol: int) -> dict[Network, Way]:
    """Routes of a dump's part that are in the table and have the protocol."""
    found: dict[Network, Way] = {}
    for kind, _, body in _messages(datagram):
        if kind != NEWROUTE:
            continue
        family, bits, _, _, small, of, _, type_, _ = ROUTE.unpack_from(body)
        parts = _attributes(body, ROUTE.size)
        whole = parts.get(_TABLE)
        where = NUMBER.unpack(whole)[0] if whole else small
        if where == table and of == protocol and type_ in (_UNICAST, _THROW):
            prefix = _prefix(family, bits, parts.get(RTA_DST))
            found[prefix] = () if type_ == _THROW else _way(parts)
    return found


def tables(datagram: bytes, protocol: int) -> Iterator[int]:
    """The tables of a dump's routes that have the protocol."""
    for kind, _, body in _messages(datagram):
        if kind == NEWROUTE and ROUTE.unpack_from(body)[5] == protocol:
            whole = _attributes(body, ROUTE.size).get(_TABLE)
            yield NUMBER.unpack(whole)[0] if whole else ROUTE.unpack_from(body)[4]


def hop_of(address: IP, body: bytes) -> Hop | str:
    """What the kernel's route to an address says of it."""
    type_, parts = ROUTE.unpack_from(body)[7], _attributes(body, ROUTE.size)
    if type_ == _LOCAL:
        return "is an address of this node"
    if type_ != _UNICAST or RTA_OIF not in parts:
        return "cannot be reached"
    if (gateway := parts.get(RTA_GATEWAY)) is not None:
        return f"is on no link of this node, but behind {ip_address(gateway)}"
    return Hop(address, NUMBER.unpack(parts[RTA_OIF])[0])


def rules_of(datagram: bytes, table: int, protocol: int) -> Iterator[Network]:
    """Sources of the rules of a dump's part that are ours and lead to the table."""
    for kind, _, body in _messages(datagram):
        if kind != _NEWRULE:
            continue
        family, _, bits, *_ = _RULE.unpack_from(body)
        parts = _attributes(body, _RULE.size)
        to, of = parts.get(_TABLE), parts.get(_PROTOCOL, b"\0")[0]
        if to and NUMBER.unpack(to)[0] == table and of == protocol:
            yield _prefix(family, bits, parts.get(_SRC))


def _way(parts: Mapping[int, bytes]) -> Way:
    if _MULTIPATH not in parts:
        gateway, oif = parts.get(RTA_GATEWAY), parts.get(RTA_OIF)
        return (Hop(ip_address(gateway), NUMBER.unpack(oif)[0]),) if gateway and oif else ()
    found, body, at = [], parts[_MULTIPATH], 0
    while at + _NEXT.size <= len(body):
        size, _, _, index = _NEXT.unpack_from(body, at)
        gateway = _attributes(body[at : at + size], _NEXT.size).get(RTA_GATEWAY)
        if gateway:
            found.append(Hop(ip_address(gateway), index))
        at += aligned(size) if size >= _NEXT.size else len(body)
    return tuple(sorted(found, key=lambda hop: int(hop.address)))


def _prefix(family: int, bits: int, packed: bytes | None) -> Network:
    return ip_network((packed or bytes(4 if family == socket.AF_INET else 16), bits))


# Sockets and bytes


def _opened(timeout_s: float, *, strict: bool = False) -> socket.socket:
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    sock.settimeout(timeout_s)
    sock.setsockopt(_SOL_NETLINK, _SHORT_ANSWERS, 1)
    if strict:
        sock.setsockopt(_SOL_NETLINK, _STRICT, 1)
    return sock


def _dumped(question: bytes) -> Iterator[bytes]:
    """The parts of a dump; none when the table does not exist. Raises OSError."""
    with closing(_opened(1.0, strict=True)) as sock:
        sock.send(question)
        while True:
            datagram = sock.recv(_DATAGRAM)
            for kind, _, body in _messages(datagram):
                code = -CODE.unpack_from(body)[0] if kind in (ERROR, DONE) else 0
                if code == errno.ENOENT:
                    return
                if code:
                    raise OSError(code, f"routes cannot be read: {os.strerror(code)}")
                if kind == DONE:
                    yield datagram
                    return
            yield datagram


def _refusals(sock: socket.socket) -> Iterator[tuple[int, int]]:
    """Number and errno of each order that was refused."""
    while True:
        try:
            datagram = sock.recv(_DATAGRAM)
        except BlockingIOError:
            return
        for kind, sequence, body in _messages(datagram):
            if kind == ERROR and (code := -CODE.unpack_from(body)[0]):
                yield sequence, code


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + HEADER.size <= len(datagram):
        size, kind, _, sequence, _ = HEADER.unpack_from(datagram, at)
        yield kind, sequence, datagram[at + HEADER.size : at + size]
        at += aligned(max(size, HEADER.size))


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + ATTRIBUTE.size <= len(body):
        size, kind = ATTRIBUTE.unpack_from(body, at)
        if size < ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = body[at + ATTRIBUTE.size : at + size]
        at += aligned(size)
    return found


class Routes:
    """Target: routes of the table by prefix."""

    def __init__(self, table: RouteTable) -> None:
        self.name = f"kernel table {table.number}"
        self._table = table

    async def read(self) -> Mapping[Network, Way]:
        """Our routes that are there."""
        found: dict[Network, Way] = {}
        for part in self._table.routes():
            found |= part
            await asyncio.sleep(0)
        return found

    async def upsert(self, rows: Mapping[Network, Way]) -> Mapping[Network, Exception]:
        """Make routes, or change them."""
        return await self._table.put(rows)

    async def delete(self, keys: Collection[Network]) -> Mapping[Network, Exception]:
        """Remove routes."""
        return await self._table.remove(keys)


class Rules:
    """Target: sources whose packets are led to the table."""

    def __init__(self, table: RouteTable) -> None:
        self.name = f"rules to kernel table {table.number}"
        self._table = table

    async def read(self) -> Mapping[Network, None]:
        """Our rules that are there."""
        return dict.fromkeys(self._table.rules())

    async def upsert(self, rows: Mapping[Network, None]) -> Mapping[Network, Exception]:
        """Make rules."""
        return await self._table.put_rules(rows)

    async def delete(self, keys: Collection[Network]) -> Mapping[Network, Exception]:
        """Remove rules."""
        return await self._table.remove_rules(keys)
