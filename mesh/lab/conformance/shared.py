"""What cases of several RFCs ask for: mappings, timers, fragments, hairpins, exhaustion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from mesh.lab.conformance.bed import OTHER
from mesh.lab.conformance.ends import ARRIVES_S, QUIET_S, End
from mesh.lab.conformance.packets import UDP, Echo, Error, Other, Packet, Transport
from mesh.lab.conformance.wire import Failed, Wire, require

MINUTE_S = 60
#: Octets of payload in a fragment: a multiple of eight.
PIECE = 1232

Place = tuple[str, int]
#: A run has 8 ports of a parity: six sockets show one port twice by chance once in 260,000 times.
SOCKETS = 6


def mapping_kind(shown: Callable[[], Sequence[Place]]) -> str:
    """The mapping behind the places that a new socket shows to A, to A's other port, and to B.

    Several sockets are asked: ports that a translator takes at random are the same by chance.
    Raises Failed when the mapping depends on the remote.
    """
    sockets = [shown() for _ in range(SOCKETS)]
    if all(first == other_port == other for first, other_port, other in sockets):
        return "endpoint-independent mapping"
    by_address = all(first == other_port for first, other_port, _ in sockets)
    raise Failed(f"{'address' if by_address else 'address-and-port'}-dependent mapping")


def no_overload(first: Place, second: Place) -> None:
    """Raise Failed when two sockets show one place to one remote."""
    require(first != second, f"both have {first[0]} port {first[1]}")


def outlives(wire: Wire, kind: str, seconds: int, check: Callable[[], bool]) -> str:
    """That state lives for that long without a packet: by the wire, or by the translator's timer.

    Raises Failed.
    """
    lives = wire.bed.lifetime(kind) or 0
    if not wire.bed.idle(seconds):
        require(lives >= seconds, f"the timer is {lives} s")
        return f"timer read: {lives} s"
    require(check(), f"gone after {seconds} s; the timer is {lives} s")
    return f"clock shifted; timer {lives} s"


def expires(wire: Wire, kind: str, check: Callable[[], bool]) -> None:
    """That state goes by itself, where the clock can be shifted. Raises Failed."""
    lives = wire.bed.lifetime(kind) or 0
    if wire.bed.idle(lives * 2):
        require(not check(), f"still there after {lives * 2} s")


# Fragments


def fragments(whole: Packet) -> list[Packet]:
    """The fragments of a packet, in order."""
    data = whole.ip()
    body = data[20:] if whole.family == 4 else data[40:]
    cut = range(0, len(body), PIECE)
    return [
        whole.but(
            l4=Other(whole.protocol), payload=body[at : at + PIECE], offset=at,
            more=at + PIECE < len(body),
        )
        for at in cut
    ]  # fmt: skip


def scattered(pieces: Iterable[Packet]) -> list[Packet]:
    """The last one first."""
    return list(reversed(list(pieces)))


def joined(end: End, *bodies: bytes, within: float = ARRIVES_S) -> list[Packet]:
    """The first fragments of the datagrams that arrive whole with these payloads, in their order.

    A receiver tells datagrams apart by source and id, and so does this.
    """
    found: dict[bytes, Packet] = {}
    parts: dict[tuple[str, int], dict[int, Packet]] = {}
    last = time.monotonic() + within
    while (left := last - time.monotonic()) > 0:
        one = end.take(lambda packet: isinstance(packet.l4, UDP | Echo | Other), left)
        if one is None:
            break
        pieces = parts.setdefault((one.source, one.id), {})
        pieces[one.offset] = one
        body = b"".join(pieces[at].payload for at in sorted(pieces))
        if body in bodies:
            found[body] = pieces[0]
        if len(found) == len(bodies):
            break
    return list(found.values())


# Hairpins


def hairpin_opened(wire: Wire, l4: Transport) -> None:
    """Let the other pod send to the outside place of the first one.

    A translator that filters by address lets the answer in; the packet itself need not arrive.
    """
    packet = Packet(OTHER[wire.family], wire.egress, l4, wire.word())
    wire.bed.other.send(packet)
    wire.bed.pod.take(lambda p: p.payload == packet.payload, QUIET_S)


# Exhaustion


def told(end: End, about: Packet, within: float = ARRIVES_S) -> tuple[int, int] | None:
    """Type and code of the ICMP error that a pod gets about a packet of its own."""

    def is_about(packet: Packet) -> bool:
        if not isinstance(packet.l4, Error):
            return False
        quoted = Packet.read_ip(packet.l4.quoted)
        return (quoted.source, quoted.destination) == (about.source, about.destination)

    came = end.take(is_about, within)
    return (came.l4.type, came.l4.code) if came and isinstance(came.l4, Error) else None
