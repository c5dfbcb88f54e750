"""Packets as values: build one, put it on the wire, read one back, compare what was meant.

    Packet("10.1.0.7", "10.1.1.7", TCP(40000, 80, "S")).wire()
    Packet.read(wire) == …; broken_checksums(wire) == []

Ethernet addresses take no part in comparisons.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, TCP_, UDP_, FRAGMENT, ICMPV6 = 1, 6, 17, 44, 58
FLAGS = "FSRPAU"
#: How the header of VXLAN with a VNI begins.
VXLAN = bytes([8, 0, 0, 0])
ROUTER_MAC, HOST_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def ones_complement(data: bytes) -> int:
    """Internet checksum of ``data``."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True)
class TCP:
    """A TCP header without options; ``flags`` by their first letters."""

    source: int
    destination: int
    flags: str = "A"
    sequence: int = 1
    acknowledged: int = 0
    number = TCP_

    def octets(self, payload: bytes) -> bytes:
        bits = sum(1 << FLAGS.index(flag) for flag in self.flags)
        numbers = (self.sequence, self.acknowledged)
        head = struct.pack("!HHII", self.source, self.destination, *numbers)
        return head + struct.pack("!BBHHH", 5 << 4, bits, 65535, 0, 0) + payload

    @classmethod
    def read(cls, data: bytes) -> tuple[TCP, bytes]:
        source, destination, *numbers, size, bits = struct.unpack_from("!HHIIBB", data)
        flags = "".join(flag for i, flag in enumerate(FLAGS) if bits & 1 << i)
        return cls(source, destination, flags, *numbers), data[(size >> 4) * 4 :]


@dataclass(frozen=True)
class UDP:
    """A UDP header; without ``checksum`` its field is zero."""

    source: int
    destination: int
    checksum: bool = True
    number = UDP_

    def octets(self, payload: bytes) -> bytes:
        return struct.pack("!HHHH", self.source, self.destination, 8 + len(payload), 0) + payload

    @classmethod
    def read(cls, data: bytes) -> tuple[UDP, bytes]:
        source, destination, _, check = struct.unpack_from("!HHHH", data)
        return cls(source, destination, bool(check)), data[8:]


@dataclass(frozen=True)
class Echo:
    """``answer``: echo reply. The number is the family's; the type on the wire too."""

    id: int
    answer: bool = False
    sequence: int = 1

    def octets(self, payload: bytes, family: int) -> bytes:
        kind = (0 if self.answer else 8) if family == 4 else 129 if self.answer else 128
        return struct.pack("!BBHHH", kind, 0, 0, self.id, self.sequence) + payload


@dataclass(frozen=True)
class Error:
    """An ICMP error; ``quoted`` is the embedded packet, from its IP header on."""

    type: int
    code: int
    quoted: bytes = field(repr=False)
    value: int = 0  # MTU, at the place of its family

    def octets(self, _: bytes, family: int) -> bytes:
        value = struct.pack("!HH", 0, self.value) if family == 4 else struct.pack("!I", self.value)
        return struct.pack("!BBH", self.type, self.code, 0) + value + self.quoted


@dataclass(frozen=True)
class Other:
    """Any other protocol, or the payload of a later fragment."""

    number: int

    def octets(self, payload: bytes) -> bytes:
        return payload


Transport = TCP | UDP | Echo | Error | Other


@dataclass(frozen=True)
class Packet:
    """An IP packet: addresses, a transport header and its payload."""

    source: str
    destination: str
    l4: Transport
    payload: bytes = b""
    ttl: int = 64
    df: bool = True  # IPv4
    id: int = 0
    offset: int = 0  # of a fragment, in bytes
    more: bool = False
    options: bytes = b""  # of IPv4; of IPv6: extension headers, the first one's number in `first`
    first: int = 0
    mac: bytes = field(default=ROUTER_MAC, compare=False, repr=False)  # destination

    @property
    def family(self) -> int:
        return ip_address(self.source).version

    @property
    def protocol(self) -> int:
        if isinstance(self.l4, Echo | Error):
            return ICMP if self.family == 4 else ICMPV6
        return self.l4.number

    def reply(self, l4: Transport, payload: bytes = b"") -> Packet:
        """A packet the other way."""
        return Packet(self.destination, self.source, l4, payload)

    def but(self, **changes: Any) -> Packet:
        return replace(self, **changes)

    def ip(self) -> bytes:
        """From the IP header on."""
        body = self._transport()
        if self.family == 4:
            return self._ipv4(body)
        return self._ipv6(body)

    def wire(self) -> bytes:
        return self.mac + HOST_MAC + struct.pack("!H", self._ethertype()) + self.ip()

    def _ethertype(self) -> int:
        return IPV4 if self.family == 4 else IPV6

    def _addresses(self) -> bytes:
        return ip_address(self.source).packed + ip_address(self.destination).packed

    def _transport(self) -> bytes:
        if isinstance(self.l4, Echo | Error):
            body = self.l4.octets(self.payload, self.family)
        else:
            body = self.l4.octets(self.payload)
        at = check_offset(self.protocol)
        raw = isinstance(self.l4, Other)
        if at is None or raw or self.offset or (isinstance(self.l4, UDP) and not self.l4.checksum):
            return body
        check = ones_complement(pseudo(self._addresses(), self.protocol, len(body)) + body)
        if self.protocol == UDP_:
            check = check or 0xFFFF
        return body[:at] + struct.pack("!H", check) + body[at + 2 :]

    def _ipv4(self, body: bytes) -> bytes:
        size = 20 + len(self.options)
        flags = self.df << 14 | self.more << 13 | self.offset // 8
        head = struct.pack("!BBHHH", 0x40 | size // 4, 0, size + len(body), self.id, flags)
        head += struct.pack("!BBH", self.ttl, self.protocol, 0) + self._addresses() + self.options
        return head[:10] + struct.pack("!H", ones_complement(head)) + head[12:] + body

    def _ipv6(self, body: bytes) -> bytes:
        extensions, following = self.options, self.first or self.protocol
        if self.more or self.offset:
            fragment = struct.pack("!BBHI", self.protocol, 0, self.offset | self.more, self.id)
            extensions, following = extensions + fragment, self.first or FRAGMENT
        head = struct.pack("!IHBB", 6 << 28, len(extensions) + len(body), following, self.ttl)
        return head + self._addresses() + extensions + body

    @classmethod
    def read(cls, wire: bytes) -> Packet:
        """What is on the wire; ValueError when it is no IP packet."""
        kind = struct.unpack_from("!H", wire, 12)[0]
        if kind not in (IPV4, IPV6):
            raise ValueError(f"ethertype {kind:#x}")
        return cls.read_ip(wire[14:]).but(mac=wire[:6])

    @classmethod
    def read_ip(cls, data: bytes) -> Packet:
        return _read_ipv4(data) if data[0] >> 4 == 4 else _read_ipv6(data)


def _read_ipv4(data: bytes) -> Packet:
    head, length, ident, flags, ttl, protocol = struct.unpack_from("!BxHHHBB", data)
    size, offset = (head & 15) * 4, (flags & 0x1FFF) * 8
    l4, payload = _read_transport(protocol, data[size:length], offset)
    more, df = bool(flags & 0x2000), bool(flags & 0x4000)
    source, destination = (str(ip_address(data[at : at + 4])) for at in (12, 16))
    return Packet(
        source, destination, l4, payload, ttl, df, ident, offset, more=more, options=data[20:size]
    )


def _read_ipv6(data: bytes) -> Packet:
    length, following, ttl = struct.unpack_from("!4xHBB", data)
    source, destination = (str(ip_address(data[at : at + 16])) for at in (8, 24))
    body, ident, offset, more, options, first = data[40 : 40 + length], 0, 0, 0, b"", 0
    while following in (0, 43, 60):
        first = first or following
        size = (body[1] + 1) * 8
        following, options, body = body[0], options + body[:size], body[size:]
    if following == FRAGMENT:
        following, field_, ident = struct.unpack_from("!BxHI", body)
        offset, more, body = field_ & 0xFFF8, field_ & 1, body[8:]
    l4, payload = _read_transport(following, body, offset)
    return Packet(
        source,
        destination,
        l4,
        payload,
        ttl,
        id=ident,
        offset=offset,
        more=bool(more),
        options=options,
        first=first,
    )


def _read_transport(protocol: int, data: bytes, offset: int) -> tuple[Transport, bytes]:
    if offset:
        return Other(protocol), data
    if protocol == TCP_ and len(data) >= 20:
        return TCP.read(data)
    if protocol == UDP_ and len(data) >= 8:
        return UDP.read(data)
    if protocol in (ICMP, ICMPV6) and len(data) >= 8:
        return _read_icmp(protocol, data)
    return Other(protocol), data


def _read_icmp(protocol: int, data: bytes) -> tuple[Transport, bytes]:
    kind, code, _, first, second = struct.unpack_from("!BBHHH", data)
    if kind in ((8, 0) if protocol == ICMP else (128, 129)):
        return Echo(first, kind in (0, 129), second), data[8:]
    if kind in ((3, 4, 11, 12) if protocol == ICMP else (1, 2, 3, 4)):
        return Error(kind, code, data[8:], second), b""
    return Other(protocol), data


def check_offset(protocol: int) -> int | None:
    """Where a transport header has its checksum; None: it has none that is known here."""
    return {TCP_: 16, UDP_: 6, ICMP: 2, ICMPV6: 2}.get(protocol)


def pseudo(addresses: bytes, protocol: int, length: int) -> bytes:
    """What a transport checksum covers beside the packet's body."""
    if protocol == ICMP:
        return b""
    return addresses + struct.pack("!II", length, protocol)


def broken_checksums(wire: bytes) -> list[str]:
    """Which checksums of a whole, unfragmented packet are wrong, embedded ones included."""
    return _broken(wire[14:], "")


def _broken(data: bytes, where: str) -> list[str]:
    packet, found = Packet.read_ip(data), []
    size = (data[0] & 15) * 4 if packet.family == 4 else 40 + len(packet.options)
    if packet.family == 4 and ones_complement(data[:size]):
        found.append(f"{where}IP header")
    length = struct.unpack_from("!H", data, 2 if packet.family == 4 else 4)[0]
    body = data[size : length if packet.family == 4 else 40 + length]
    if isinstance(packet.l4, Error):
        found += _broken(packet.l4.quoted, "embedded ")
    whole = len(data) >= (length if packet.family == 4 else 40 + length)
    at = check_offset(packet.protocol)
    fragment = packet.more or packet.offset
    if at is None or fragment or not whole or body[at : at + 2] == b"\0\0":
        return found
    addresses = ip_address(packet.source).packed + ip_address(packet.destination).packed
    if ones_complement(pseudo(addresses, packet.protocol, len(body)) + body):
        found.append(f"{where}protocol {packet.protocol}")
    return found


@dataclass(frozen=True)
class Overlay:
    """A VXLAN packet between two nodes."""

    source: str
    destination: str
    vni: int
    inner: Packet
    port: int = field(default=40000, compare=False)
    to: int = 8472

    def wire(self) -> bytes:
        vxlan = struct.pack("!II", 8 << 24, self.vni << 8)
        outer = UDP(self.port, self.to, checksum=False)
        return Packet(self.source, self.destination, outer, vxlan + self.inner.wire()).wire()

    @classmethod
    def read(cls, wire: bytes) -> Overlay:
        outer = Packet.read(wire)
        if not isinstance(outer.l4, UDP) or outer.payload[:4] != VXLAN:
            raise ValueError(f"no overlay packet: {outer}")
        vni = struct.unpack_from("!I", outer.payload, 4)[0] >> 8
        inner = Packet.read(outer.payload[8:])
        ports = outer.l4.source, outer.l4.destination
        return cls(outer.source, outer.destination, vni, inner, *ports)
