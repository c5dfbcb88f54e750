"""RFC 7857: updates of the three."""

from __future__ import annotations

from mesh.lab.conformance.case import Cases, Level
from mesh.lab.conformance.ends import QUIET_S
from mesh.lab.conformance.packets import UDP, Packet
from mesh.lab.conformance.shared import MINUTE_S, expires, fragments, joined, outlives
from mesh.lab.conformance.wire import Connection, Impossible, Wire, require

CASES = Cases(7857)
MUST, SHOULD = Level.MUST, Level.SHOULD


@CASES.case("section 2.1", SHOULD, "half-open and closed TCP have timers of their own")
def _timers(wire: Wire) -> str:
    names = ("opening", "established", "closed")
    lives = {name: wire.bed.lifetime(name) for name in names}
    require(len(set(lives.values())) > 1, f"one timer for all: {lives}")
    return ", ".join(f"{name} {seconds} s" for name, seconds in lives.items())


@CASES.case(
    "section 2.2", SHOULD, "an RST of the server is translated; the session stays for 4 min"
)
def _reset(wire: Wire) -> str:
    connection = wire.tcp().open()
    connection.talk()
    connection.into("R")
    said = outlives(wire, "closed", 4 * MINUTE_S - 5, lambda: connection.comes("A"))
    expires(wire, "closed", lambda: connection.comes("A"))
    return said


@CASES.case(
    "section 2.2", SHOULD, "after that RST, which may be forged, the pod's data still passes"
)
def _reset_forged(wire: Wire) -> None:
    connection = wire.tcp().open()
    connection.talk()
    connection.into("R")
    connection.out("PA", wire.word())


@CASES.case("section 3", Level.MAY, "two pods have one port outside towards different remotes")
def _overlapping(wire: Wire) -> str:
    mine = {wire.udp(wire.port(), (wire.a, wire.port())).port for _ in range(96)}
    theirs = {wire.udp(wire.port(), (wire.b, wire.port()), wire.bed.other).port for _ in range(96)}
    return "yes" if mine & theirs else "not met in 96 mappings of each"


@CASES.case("section 7", SHOULD, "a stream outwards keeps a mapping, one inwards alone need not")
def _refresh(wire: Wire) -> str:
    port, to = wire.port(), (wire.a, wire.port())
    seen = wire.udp(port, to)
    lives = wire.bed.lifetime("udp") or 0
    if not wire.bed.idle(lives * 2 // 3):
        raise Impossible("only where the clock can be shifted")
    require(wire.passes(seen), "gone too early")
    wire.bed.idle(lives * 2 // 3)
    kept = wire.answer(seen, within=QUIET_S) is not None
    return "inwards refreshes too (4787 REQ-6b)" if kept else "inwards does not refresh"


@CASES.case("section 7.1", MUST, "an RST of the pod does not keep a session beyond its timer")
def _reset_keeps_nothing(wire: Wire) -> str:
    connection = wire.tcp().open()
    connection.out("RA")
    lives = wire.bed.lifetime("closed") or 0
    if not wire.bed.idle(lives * 2 // 3):
        raise Impossible("only where the clock can be shifted")
    connection.out("R", within=QUIET_S)
    wire.bed.idle(lives * 2)
    require(not connection.comes("A"), "the session was kept")
    return f"gone after {lives} s"


@CASES.case("section 9", SHOULD, "ports are chosen at random (RFC 6056)")
def _random(wire: Wire) -> str:
    ports = [wire.udp(wire.port(), (wire.a, wire.port())).port for _ in range(16)]
    preserved = all(port % 2 for port in ports) and ports == sorted(ports)
    require(not preserved, "the pod's port is kept: whoever knows it knows the one outside")
    return "random"


@CASES.case("section 10", SHOULD, "two pods' fragments with one IP-ID: both datagrams come whole")
def _ip_id(wire: Wire) -> str:
    if wire.family == 6:
        raise Impossible("RFC 6864 is about IPv4; an id of IPv6 has 32 bits, chosen at random")
    to, ident = (wire.a, wire.port()), 4242
    ends = [(wire.bed.pod, wire.port()), (wire.bed.other, wire.port())]
    for end, port in ends:
        wire.udp(port, to, end)
    bodies = [wire.word(2000) for _ in ends]
    for (end, port), body in zip(ends, bodies, strict=True):
        l4 = UDP(port, to[1])
        whole = Packet(wire.source(end), to[0], l4, body, df=False, id=ident)
        end.send(*fragments(whole))
    found = joined(wire.bed.server, *bodies)
    require(len(found) == 2, "a datagram is not whole")
    require(
        len({packet.id for packet in found}) == 2,
        "both have the same id, address and protocol (RFC 6864 5.3.1)",
    )
    return "the ids differ outside"


@CASES.case("section 2", SHOULD, "a TCP connection that closed is opened again at once, same ports")
def _again(wire: Wire) -> None:
    port, to = wire.port(), (wire.a, wire.port())
    first = Connection(wire, wire.bed.pod, port, to).open()
    first.talk()
    first.close()
    Connection(wire, wire.bed.pod, port, to).open().talk()
