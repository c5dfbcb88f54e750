"""RFC 4787: UDP."""

from __future__ import annotations

from mesh.lab.conformance.bed import HOP, POD
from mesh.lab.conformance.case import Cases, Level
from mesh.lab.conformance.ends import QUIET_S
from mesh.lab.conformance.packets import UDP, Error, Packet
from mesh.lab.conformance.shared import (
    MINUTE_S,
    Place,
    fragments,
    hairpin_opened,
    joined,
    mapping_kind,
    no_overload,
    outlives,
    scattered,
)
from mesh.lab.conformance.wire import Failed, Impossible, Wire, require

CASES = Cases(4787)
MUST, SHOULD = Level.MUST, Level.SHOULD
SIP = 5060


@CASES.case("REQ-1", MUST, "one socket to two ports of A and to B: one address and port outside")
def _mapping(wire: Wire) -> str:
    def shown() -> list[Place]:
        port, remotes = wire.port(), (wire.a, wire.a, wire.b)
        return [wire.udp(port, (remote, wire.port())).place for remote in remotes]

    return mapping_kind(shown)


@CASES.case("REQ-2", SHOULD, "four sockets of a pod: one address outside (paired)")
def _paired(wire: Wire) -> None:
    addresses = {wire.udp(wire.port(), (wire.a, wire.port())).address for _ in range(4)}
    require(len(addresses) == 1, f"addresses {sorted(addresses)}")


@CASES.case("REQ-3", MUST, "two pods, same port, same remote: two ports outside, answers go right")
def _overload(wire: Wire) -> None:
    port, to = wire.port(), (wire.a, wire.port())
    first, second = wire.udp(port, to), wire.udp(port, to, wire.bed.other)
    no_overload(first.place, second.place)
    require(wire.passes(first) and wire.passes(second, wire.bed.other), "an answer went astray")


@CASES.case("REQ-3a", SHOULD, "a port from 1024 on becomes a port from 1024 on")
def _class(wire: Wire) -> str:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    require(seen.port >= 1024, f"port {seen.port}")
    low = wire.udp(1000 + wire.family, (wire.a, wire.port()))
    return f"a port below 1024 becomes {'one below 1024' if low.port < 1024 else 'one above 1023'}"


@CASES.case("REQ-4", Level.MAY, "parity of the port (RFC 7857 section 8: may be off)")
def _parity(wire: Wire) -> str:
    even = [wire.udp(2 * n + 30_000, (wire.a, wire.port())).port for n in range(6)]
    kept = all(port % 2 == 0 for port in even)
    return "kept" if kept else "not kept"


@CASES.case("REQ-5", MUST, "one datagram and its answer, then 2 min of silence: an answer arrives")
def _timer(wire: Wire) -> str:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    require(wire.passes(seen), "the answer did not arrive")
    return outlives(wire, "udp", 2 * MINUTE_S, lambda: wire.passes(seen))


@CASES.case("REQ-5b", SHOULD, "datagrams for longer, then 5 min of silence (the default)")
def _timer_of_stream(wire: Wire) -> str:
    port, to = wire.port(), (wire.a, wire.port())
    for _ in range(3):
        seen = wire.udp(port, to)
        require(wire.passes(seen), "the answer did not arrive")
        wire.bed.idle(3)
    return outlives(wire, "stream", 5 * MINUTE_S - 10, lambda: wire.passes(seen))


@CASES.case("REQ-6", MUST, "a datagram outwards after 100 s, then 100 s: an answer arrives")
def _refresh(wire: Wire) -> str:
    port, to = wire.port(), (wire.a, wire.port())
    seen = wire.udp(port, to)
    if not wire.bed.idle(100):
        lives = wire.bed.lifetime("udp") or 0
        require(lives > 100, f"the timer is {lives} s: the first one is gone before 100 s")
    wire.udp(port, to)
    wire.bed.idle(100)
    require(wire.passes(seen), "the answer did not arrive")
    return "shifted clock"


@CASES.case("REQ-8", SHOULD, "who may answer: the remote's other port, and another remote")
def _filtering(wire: Wire) -> str:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    other_port = wire.answer(seen, source=(wire.a, wire.port()), within=QUIET_S)
    other = wire.answer(seen, source=(wire.b, wire.port()), within=QUIET_S)
    require(wire.passes(seen), "the answer of the remote itself did not arrive")
    if other:
        return "endpoint-independent filtering"
    if other_port:
        return "address-dependent filtering"
    raise Failed("address-and-port-dependent filtering")


@CASES.case(
    "REQ-9",
    MUST,
    "a pod sends to the outside place of another pod: it arrives there, 9a: "
    "from the sender's outside place",
)
def _hairpin(wire: Wire) -> None:
    port, other_port = wire.port(), wire.port()
    here = wire.udp(port, (wire.a, wire.port()))
    there = wire.udp(other_port, (wire.a, wire.port()), wire.bed.other)
    hairpin_opened(wire, UDP(other_port, here.port))
    packet = Packet(POD[wire.family], wire.egress, UDP(port, there.port), wire.word())
    wire.bed.pod.send(packet)
    came = wire.bed.other.take(lambda p: p.payload == packet.payload)
    if came is None:
        raise Failed("the datagram did not arrive at the other pod")
    require(isinstance(came.l4, UDP) and came.l4.destination == other_port, "at another port")
    source = (came.source, came.l4.source if isinstance(came.l4, UDP) else 0)
    require(source == here.place, f"its source is {source}, not {here.place} (9a)")


@CASES.case("REQ-10", SHOULD, "SIP that names the pod's address: the payload stays as it was")
def _no_alg(wire: Wire) -> None:
    port = wire.port()
    said = f"INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {POD[wire.family]}:{port}\r\n\r\n".encode()
    seen = wire.cross(Packet(POD[wire.family], wire.a, UDP(port, SIP), said))
    require(seen and seen.packet.payload == said, "the payload has changed")


@CASES.case(
    "REQ-11", MUST, "128 sockets of two pods with the same ports: no mapping changes its mode"
)
def _deterministic(wire: Wire) -> str:
    to, other_to = (wire.a, wire.port()), (wire.b, wire.port())
    modes = []
    for _ in range(64):
        port = wire.port()
        for end in (wire.bed.pod, wire.bed.other):
            first, second = wire.udp(port, to, end), wire.udp(port, other_to, end)
            again = wire.udp(port, to, end)
            require(again.place == first.place, "a mapping has changed")
            modes.append(first.place == second.place)
    same = sum(modes)
    if same * 2 < len(modes):
        return "endpoint-dependent"  # the same port by chance is none
    require(same == len(modes), f"endpoint-independent for {same} sockets of {len(modes)}")
    return "endpoint-independent"


@CASES.case("REQ-12", MUST, "an ICMP error about a datagram: an answer still arrives")
def _icmp_ends_nothing(wire: Wire) -> None:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    error = wire.error(seen.packet, "port", wire.a, seen.address)
    require(wire.back(error), "the error did not arrive at the pod")
    require(wire.passes(seen), "the mapping has gone")


@CASES.case("REQ-12a", MUST, "an ICMP error of a router on the way arrives at the pod")
def _icmp_from_anybody(wire: Wire) -> None:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    error = wire.error(seen.packet, "host", HOP[wire.family], seen.address)
    came = wire.back(error)
    require(came, "the error did not arrive at the pod")
    if came:
        require(came.source == HOP[wire.family], f"its source has become {came.source}")


@CASES.case("REQ-13", MUST, "too big with DF: ICMP says the MTU (IPv6: packet too big)")
def _too_big(wire: Wire) -> str:
    packet = Packet(POD[wire.family], wire.a, UDP(wire.port(), wire.port()), wire.word(1450))
    wire.bed.pod.send(packet)
    told = {4: (3, 4), 6: (2, 0)}[wire.family]
    came = wire.bed.pod.take(lambda p: isinstance(p.l4, Error) and (p.l4.type, p.l4.code) == told)
    if came is None or not isinstance(came.l4, Error):
        raise Failed("no ICMP error came")
    quoted = Packet.read_ip(came.l4.quoted)
    require(quoted.source == POD[wire.family], f"it quotes a packet of {quoted.source}")
    return f"MTU {came.l4.value}"


@CASES.case("REQ-14", MUST, "fragments in order, both ways")
def _fragments(wire: Wire) -> None:
    _fragmented(wire, scattered_=False)


@CASES.case("REQ-14", MUST, "fragments out of order, both ways")
def _fragments_scattered(wire: Wire) -> None:
    _fragmented(wire, scattered_=True)


def _fragmented(wire: Wire, *, scattered_: bool) -> None:
    order = scattered if scattered_ else list
    opened = wire.udp(port := wire.port(), to := (wire.a, wire.port()))
    body = wire.word(3000)
    whole = Packet(POD[wire.family], wire.a, UDP(port, to[1]), body, df=False, id=wire.port())
    wire.bed.pod.send(*order(fragments(whole)))
    require(joined(wire.bed.server, body), "outwards: the datagram is not whole")
    whole = Packet(wire.a, opened.address, UDP(to[1], opened.port), body, df=False, id=wire.port())
    wire.bed.server.send(*order(fragments(whole)))
    require(joined(wire.bed.pod, body), "inwards: the datagram is not whole")


@CASES.case("REQ-14a", MUST, "3,000 datagrams that never end: a fragmented one still passes")
def _fragments_of_nobody(wire: Wire) -> None:
    port, to = wire.port(), (wire.a, wire.port())
    opened = wire.udp(port, to)
    for number in range(3000):
        whole = Packet(
            wire.b, opened.address, UDP(to[1], opened.port), bytes(1600), df=False, id=number + 1
        )
        wire.bed.server.send(fragments(whole)[0])
    body = wire.word(3000)
    whole = Packet(wire.a, opened.address, UDP(to[1], opened.port), body, df=False, id=65_000)
    wire.bed.server.send(*fragments(whole))
    require(joined(wire.bed.pod, body), "the datagram is not whole")


@CASES.case("REQ-7", MUST, "inside and outside addresses that overlap")
def _overlap(_: Wire) -> None:
    raise Impossible("configuration, not packets: overlapping networks are VRFs of their own")
