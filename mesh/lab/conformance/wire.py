"""What a case does on the wire: one family, ports and payloads that no other case uses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mesh.lab.conformance.bed import EGRESS, OTHER, POD, SERVER, Bed
from mesh.lab.conformance.ends import ARRIVES_S, QUIET_S, End
from mesh.lab.conformance.packets import TCP, UDP, Echo, Error, Packet


class Failed(Exception):
    """The translator does not do what the case asks for; the text says what it did."""


class Impossible(Exception):
    """The case cannot be judged here, or asks for what this translator does not have; says why."""


def require(fact: object, text: str) -> None:
    """Raise Failed when it is no fact."""
    if not fact:
        raise Failed(text)


@dataclass(frozen=True)
class Seen:
    """A packet as the server has seen it: where it came from."""

    packet: Packet

    @property
    def address(self) -> str:
        """The source address."""
        return self.packet.source

    @property
    def port(self) -> int:
        """The source port, or the id of an echo."""
        l4 = self.packet.l4
        if isinstance(l4, Echo):
            return l4.id
        if isinstance(l4, TCP | UDP):
            return l4.source
        raise Failed(f"{l4} has no port")

    @property
    def place(self) -> tuple[str, int]:
        """Both."""
        return self.address, self.port


@dataclass
class Wire:
    """The bed in one family, for one case after another."""

    bed: Bed
    family: int
    _ports: ClassVar[Iterator[int]] = itertools.cycle(range(20_001, 65_000, 2))
    _words: ClassVar[Iterator[int]] = itertools.count()

    @property
    def a(self) -> str:
        """The first address of the server."""
        return SERVER[self.family][0]

    @property
    def b(self) -> str:
        """The second one."""
        return SERVER[self.family][1]

    @property
    def egress(self) -> str:
        """The address that the translator shows."""
        return EGRESS[self.family]

    def port(self) -> int:
        """A port that no case has used, of a pod or of the server."""
        return next(self._ports)

    def word(self, size: int = 12) -> bytes:
        """A payload that no other packet has."""
        return f"mgc{self.family}-{next(self._words)}-".encode().ljust(size, b".")

    def source(self, end: End) -> str:
        """The address of a pod."""
        return (POD if end is self.bed.pod else OTHER)[self.family]

    def cross(
        self, packet: Packet, end: End | None = None, within: float = ARRIVES_S
    ) -> Seen | None:
        """Send from a pod (``end``: the first one); what arrives at the server, if anything."""
        (end or self.bed.pod).send(packet)
        found = self.bed.server.take(lambda p: same(p, packet), within)
        return Seen(found) if found else None

    def back(
        self, packet: Packet, end: End | None = None, within: float = ARRIVES_S
    ) -> Packet | None:
        """Send from the server's side; what arrives at a pod, if anything."""
        self.bed.server.send(packet)
        return (end or self.bed.pod).take(lambda p: same(p, packet), within)

    def udp(self, port: int, to: tuple[str, int], end: End | None = None) -> Seen:
        """A datagram that must arrive. Raises Failed."""
        end = end or self.bed.pod
        packet = Packet(self.source(end), to[0], UDP(port, to[1]), self.word())
        seen = self.cross(packet, end)
        if seen is None:
            raise Failed(f"a datagram to {to[0]} port {to[1]} did not arrive")
        return seen

    def answer(
        self,
        seen: Seen,
        end: End | None = None,
        *,
        source: tuple[str, int] | None = None,
        within: float = ARRIVES_S,
    ) -> Packet | None:
        """A datagram to where another one came from, by default from where that went to."""
        l4 = seen.packet.l4
        if not isinstance(l4, UDP):
            raise Failed(f"{l4} is no datagram")
        address, port = source or (seen.packet.destination, l4.destination)
        packet = Packet(address, seen.address, UDP(port, seen.port), self.word())
        return self.back(packet, end, within)

    def passes(self, seen: Seen, end: End | None = None) -> bool:
        """Whether an answer still arrives."""
        return self.answer(seen, end) is not None

    def echo(self, ident: int, to: str, end: End | None = None) -> Seen:
        """An echo request that must arrive. Raises Failed."""
        end = end or self.bed.pod
        seen = self.cross(Packet(self.source(end), to, Echo(ident), self.word()), end)
        if seen is None:
            raise Failed(f"an echo request to {to} did not arrive")
        return seen

    def echoed(
        self, seen: Seen, end: End | None = None, within: float = ARRIVES_S
    ) -> Packet | None:
        """The echo reply to a request, as it arrives at the pod."""
        packet = Packet(
            seen.packet.destination, seen.address, Echo(seen.port, answer=True), self.word()
        )
        return self.back(packet, end, within)

    def tcp(self, to: tuple[str, int] | None = None, end: End | None = None) -> Connection:
        """TCP that is not open yet."""
        end = end or self.bed.pod
        return Connection(self, end, self.port(), to or (self.a, self.port()))

    def error(self, about: Packet, kind: str, source: str, to: str) -> Packet:
        """An ICMP error that quotes a packet; kinds: ``port``, ``host``, ``time``, ``mtu``."""
        v4, v6 = {
            "port": ((3, 3), (1, 4)),
            "host": ((3, 1), (1, 3)),
            "time": ((11, 0), (3, 0)),
            "mtu": ((3, 4), (2, 0)),
        }[kind]
        type_, code = v4 if self.family == 4 else v6
        value = 1300 if kind == "mtu" else 0
        return Packet(source, to, Error(type_, code, about.ip(), value), df=False)


def same(a: Packet, sent: Packet) -> bool:
    """Whether a packet is the one that was sent, whatever has become of its addresses."""
    if isinstance(sent.l4, Error):
        return isinstance(a.l4, Error) and (a.l4.type, a.l4.code) == (sent.l4.type, sent.l4.code)
    if isinstance(sent.l4, TCP):
        known = isinstance(a.l4, TCP) and (a.l4.flags, a.l4.sequence) == (
            sent.l4.flags,
            sent.l4.sequence,
        )
        return known and a.payload == sent.payload
    return type(a.l4) is type(sent.l4) and bool(sent.payload) and a.payload == sent.payload


class Connection:
    """One TCP connection, both ends by hand: each step says whether its segment has arrived."""

    _starts = itertools.count(1_000_000, 1_000_003)

    def __init__(self, wire: Wire, end: End, port: int, to: tuple[str, int]) -> None:
        self.wire, self.end, self.port, self.to = wire, end, port, to
        self.sequence, self.far = next(self._starts), next(self._starts)
        self.seen: Seen | None = None

    @property
    def place(self) -> tuple[str, int]:
        """What the server sees. Raises Failed."""
        if self.seen is None:
            raise Failed("no segment of the connection has arrived")
        return self.seen.place

    def _out(self, flags: str, payload: bytes = b"", *, within: float = ARRIVES_S) -> bool:
        acknowledged = self.far if "A" in flags else 0
        l4 = TCP(self.port, self.to[1], flags, self.sequence, acknowledged)
        packet = Packet(self.wire.source(self.end), self.to[0], l4, payload)
        seen = self.wire.cross(packet, self.end, within)
        self.seen = seen or self.seen
        self.sequence += len(payload) + ("S" in flags) + ("F" in flags)
        return seen is not None

    def _in(
        self,
        flags: str,
        payload: bytes = b"",
        *,
        place: tuple[str, int] | None = None,
        within: float = ARRIVES_S,
    ) -> bool:
        address, port = place or self.place
        acknowledged = self.sequence if "A" in flags else 0
        l4 = TCP(self.to[1], port, flags, self.far, acknowledged)
        came = self.wire.back(Packet(self.to[0], address, l4, payload), self.end, within)
        self.far += len(payload) + ("S" in flags) + ("F" in flags)
        return came is not None

    def out(self, flags: str, payload: bytes = b"", within: float = ARRIVES_S) -> None:
        """A segment of the pod, which must arrive. Raises Failed."""
        require(self._out(flags, payload, within=within), f"the pod's {flags} did not arrive")

    def into(self, flags: str, payload: bytes = b"", within: float = ARRIVES_S) -> None:
        """A segment of the server, likewise."""
        require(self._in(flags, payload, within=within), f"the server's {flags} did not arrive")

    def comes(self, flags: str, place: tuple[str, int] | None = None) -> bool:
        """Whether a segment of the server arrives; one that does not is waited for shortly."""
        return self._in(flags, place=place, within=QUIET_S)

    def open(self) -> Connection:
        """The handshake."""
        self.out("S")
        self.into("SA")
        self.out("A")
        return self

    def talk(self) -> None:
        """Data both ways. Raises Failed."""
        self.out("PA", self.wire.word())
        self.into("PA", self.wire.word())
        self.out("A")

    def close(self) -> None:
        """FIN both ways."""
        self.out("FA")
        self.into("FA")
        self.out("A")
