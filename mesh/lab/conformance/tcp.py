"""RFC 5382: TCP."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mesh.lab.conformance.bed import HOP, OTHER, POD
from mesh.lab.conformance.case import Cases, Level
from mesh.lab.conformance.packets import TCP, Error, Packet
from mesh.lab.conformance.shared import (
    MINUTE_S,
    Place,
    expires,
    mapping_kind,
    no_overload,
    outlives,
)
from mesh.lab.conformance.wire import Connection, Failed, Wire, require

CASES = Cases(5382)
MUST, SHOULD = Level.MUST, Level.SHOULD
#: REQ-4: for so long nothing answers a SYN that nobody asked for.
UNSOLICITED_S = 6.0
HOURS_S = 2 * 3600 + 4 * MINUTE_S


@CASES.case("REQ-1", MUST, "one socket to two ports of A and to B: one address and port outside")
def _mapping(wire: Wire) -> str:
    def shown() -> Iterator[Place]:
        port = wire.port()
        for remote in (wire.a, wire.a, wire.b):
            connection = Connection(wire, wire.bed.pod, port, (remote, wire.port()))
            connection.out("S")
            yield connection.place

    return mapping_kind(lambda: list(shown()))


@CASES.case("REQ-2", MUST, "handshake, data both ways, FIN both ways")
def _sequence(wire: Wire) -> None:
    connection = wire.tcp().open()
    connection.talk()
    connection.close()


@CASES.case("REQ-2", MUST, "half-closed: the server goes on sending after the pod's FIN")
def _half_closed(wire: Wire) -> None:
    connection = wire.tcp().open()
    connection.out("FA")
    connection.into("A")
    for _ in range(3):
        connection.into("PA", wire.word())
        connection.out("A")
    connection.into("FA")
    connection.out("A")


@CASES.case("REQ-2a", MUST, "simultaneous open: SYNs cross, SYN-ACKs cross, data flows")
def _simultaneous(wire: Wire) -> None:
    connection = wire.tcp()
    connection.out("S")
    connection.into("S")
    connection.out("SA")
    connection.into("SA")
    connection.talk()


@CASES.case("REQ-3", SHOULD, "who may open to a mapping: the remote's other port, another remote")
def _filtering(wire: Wire) -> str:
    connection = wire.tcp().open()
    address, port = connection.place
    kinds = {}
    for name, remote in (("port", wire.a), ("address", wire.b)):
        l4 = TCP(wire.port(), port, "S", 77 + wire.port())
        kinds[name] = wire.back(Packet(remote, address, l4), within=0.3)
    if kinds["address"]:
        return "endpoint-independent filtering"
    if kinds["port"]:
        return "address-dependent filtering"
    raise Failed("address-and-port-dependent filtering")


@CASES.case("REQ-4", MUST, "a SYN that nobody asked for: no answer for 6 s", slow=True)
def _unsolicited(wire: Wire) -> str:
    syn = Packet(wire.b, wire.egress, TCP(wire.port(), 3000, "S", 4711))
    wire.bed.server.send(syn)
    begin = time.monotonic()
    answer = wire.bed.server.take(
        lambda p: p.source == wire.egress or isinstance(p.l4, Error), UNSOLICITED_S + 0.5
    )
    after = time.monotonic() - begin
    if answer and after < UNSOLICITED_S:
        raise Failed(f"answered after {after:.1f} s with {type(answer.l4).__name__}")
    return "no answer at all (REQ-4a)" if answer is None else f"ICMP after {after:.0f} s"


@CASES.case("REQ-4", MUST, "such a SYN, then the pod's own SYN: the connection opens")
def _syn_before(wire: Wire) -> None:
    port, to = wire.port(), (wire.a, wire.port())
    first = Connection(wire, wire.bed.pod, port, to)
    first.out("S")
    place = first.place
    again = Connection(wire, wire.bed.pod, wire.port(), to)
    early = Packet(to[0], wire.egress, TCP(to[1], place[1] ^ 1, "S", again.far))
    wire.bed.server.send(early)
    again.out("S")
    again.into("SA")
    again.out("A")
    again.talk()


@CASES.case("REQ-5", MUST, "established, then 2 h 4 min of silence: data passes both ways")
def _established(wire: Wire) -> str:
    connection = wire.tcp().open()
    connection.talk()

    def lives() -> bool:
        connection.talk()
        return True

    return outlives(wire, "established", HOURS_S, lives)


@CASES.case("REQ-5", MUST, "half-open, then 4 min of silence: the SYN-ACK arrives")
def _opening(wire: Wire) -> str:
    connection = wire.tcp()
    connection.out("S")
    return outlives(wire, "opening", 4 * MINUTE_S, lambda: connection.comes("SA"))


@CASES.case(
    "REQ-5", MUST, "closed by FIN both ways, then 4 min: a late segment arrives; it goes then"
)
def _closed(wire: Wire) -> str:
    connection = wire.tcp().open()
    connection.close()
    said = outlives(wire, "closed", 4 * MINUTE_S, lambda: connection.comes("A"))
    expires(wire, "closed", lambda: connection.comes("A"))
    return said


@CASES.case("REQ-7", MUST, "two pods, same port, same remote: two ports outside")
def _overload(wire: Wire) -> None:
    port, to = wire.port(), (wire.a, wire.port())
    first = Connection(wire, wire.bed.pod, port, to).open()
    second = Connection(wire, wire.bed.other, port, to).open()
    no_overload(first.place, second.place)
    first.talk()
    second.talk()


@CASES.case("REQ-8", MUST, "a pod connects to the outside place of another pod's socket")
def _hairpin(wire: Wire) -> None:
    listening, port = wire.port(), wire.port()
    there = Connection(wire, wire.bed.other, listening, (wire.a, wire.port()))
    there.out("S")
    here = Connection(wire, wire.bed.pod, port, (wire.a, wire.port()))
    here.out("S")
    opening = TCP(listening, here.place[1], "S", 500)
    wire.bed.other.send(Packet(OTHER[wire.family], wire.egress, opening))
    syn = Packet(POD[wire.family], wire.egress, TCP(port, there.place[1], "S", 900 + port))
    wire.bed.pod.send(syn)
    came = wire.bed.other.take(lambda p: isinstance(p.l4, TCP) and p.l4.sequence == 900 + port)
    if came is None or not isinstance(came.l4, TCP):
        raise Failed("the SYN did not arrive at the other pod")
    require((came.source, came.l4.source) == here.place, f"its source is {came.source}")
    answer = came.reply(TCP(listening, came.l4.source, "SA", 501, 901 + port))
    wire.bed.other.send(answer)
    back = wire.bed.pod.take(lambda p: isinstance(p.l4, TCP) and p.l4.flags == "SA")
    require(back and back.source == wire.egress, "the SYN-ACK did not come back")


@CASES.case("REQ-9", SHOULD, "ICMP errors about TCP arrive at the pod (port unreachable, MTU)")
def _errors(wire: Wire) -> None:
    connection = wire.tcp()
    connection.out("S")
    if connection.seen is None:
        raise Failed("no SYN")
    for kind, source in (("host", HOP[wire.family]), ("mtu", HOP[wire.family])):
        error = wire.error(connection.seen.packet, kind, source, wire.egress)
        came = wire.back(error)
        if came is None or not isinstance(came.l4, Error):
            raise Failed(f"the error ({kind}) did not arrive")
        quoted = Packet.read_ip(came.l4.quoted)
        inside = (POD[wire.family], connection.port)
        port = quoted.l4.source if isinstance(quoted.l4, TCP) else 0
        require((quoted.source, port) == inside, "it quotes another source than the pod's")


@CASES.case("REQ-10", MUST, "an ICMP error about established TCP ends nothing")
def _errors_end_nothing(wire: Wire) -> None:
    connection = wire.tcp().open()
    connection.talk()
    if connection.seen is None:
        raise Failed("no segment")
    error = wire.error(connection.seen.packet, "port", wire.a, wire.egress)
    require(wire.back(error), "the error did not arrive")
    connection.talk()


@CASES.case("REQ-6", SHOULD, "FTP's PORT with the pod's address: the payload stays as it was")
def _no_alg(wire: Wire) -> None:
    connection = wire.tcp((wire.a, 21)).open()
    said = f"PORT {POD[4].replace('.', ',')},78,52\r\n".encode()
    connection.out("PA", said)
