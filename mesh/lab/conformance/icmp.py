"""RFC 5508: ICMP."""

from __future__ import annotations

import struct

from mesh.lab.conformance.bed import HOP, NARROW, OTHER, POD
from mesh.lab.conformance.case import Cases, Level
from mesh.lab.conformance.ends import QUIET_S
from mesh.lab.conformance.packets import (
    UDP,
    Echo,
    Error,
    Other,
    Packet,
    broken_checksums,
)
from mesh.lab.conformance.shared import (
    MINUTE_S,
    Place,
    hairpin_opened,
    mapping_kind,
    outlives,
    told,
)
from mesh.lab.conformance.wire import Failed, Impossible, Wire, require

CASES = Cases(5508)
MUST, SHOULD = Level.MUST, Level.SHOULD


@CASES.case("REQ-1", MUST, "an echo request goes out, the reply comes back with the pod's id")
def _query(wire: Wire) -> None:
    seen = wire.echo(port := wire.port(), wire.a)
    came = wire.echoed(seen)
    if came is None or not isinstance(came.l4, Echo):
        raise Failed("the reply did not arrive")
    require(came.l4.id == port, f"its id is {came.l4.id}")


@CASES.case("REQ-1a", SHOULD, "one id to A and to B: one id outside")
def _query_mapping(wire: Wire) -> str:
    def shown() -> tuple[Place, Place, Place]:
        port = wire.port()
        a, b = wire.echo(port, wire.a).place, wire.echo(port, wire.b).place
        return a, a, b

    return mapping_kind(shown)


@CASES.case("REQ-2", MUST, "an echo request, then 60 s of silence: the reply arrives")
def _query_timer(wire: Wire) -> str:
    seen = wire.echo(wire.port(), wire.a)
    return outlives(wire, "echo", MINUTE_S, lambda: wire.echoed(seen) is not None)


def _error(wire: Wire, quoted: bytes, *, check: int | None = None) -> Packet | None:
    """An ICMP error with these octets inside, as it arrives at the pod."""
    type_, code = (3, 3) if wire.family == 4 else (1, 4)
    error = Packet(HOP[wire.family], wire.egress, Error(type_, code, quoted), df=False)
    if check is not None:
        body = bytearray(error.ip()[20 if wire.family == 4 else 40 :])
        body[2:4] = struct.pack("!H", struct.unpack_from("!H", body, 2)[0] ^ check)
        error = error.but(l4=Other(error.protocol), payload=bytes(body))
    wire.bed.server.send(error)
    return wire.bed.pod.take(lambda p: isinstance(p.l4, Error), QUIET_S)


@CASES.case("REQ-3", SHOULD, "an ICMP error with a wrong checksum goes nowhere")
def _bad_checksum(wire: Wire) -> None:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    require(_error(wire, seen.packet.ip()), "the sound one did not arrive")
    came = _error(wire, seen.packet.ip(), check=0x0F0F)
    if came:
        sound = not broken_checksums(came.wire())
        raise Failed("it arrived" + (", mended" if sound else ""))


@CASES.case(
    "REQ-3a", SHOULD, "the embedded IPv4 header has a wrong checksum: the error goes nowhere"
)
def _bad_embedded(wire: Wire) -> None:
    if wire.family == 6:
        raise Impossible("an IPv6 header has no checksum")
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    quoted = bytearray(seen.packet.ip())
    quoted[10] ^= 0x5A
    require(_error(wire, bytes(quoted)) is None, "it arrived")


@CASES.case("REQ-3b", MUST, "the embedded packet has IP options: the error arrives")
def _options(wire: Wire) -> None:
    port, to = wire.port(), wire.port()
    seen = wire.udp(port, (wire.a, to))
    if wire.family == 4:
        changed = seen.packet.but(options=bytes([1, 1, 1, 0]))
    else:
        changed = seen.packet.but(options=bytes([17, 0, 1, 4, 0, 0, 0, 0]), first=60)
    came = _error(wire, changed.ip())
    if came is None or not isinstance(came.l4, Error):
        raise Failed("it did not arrive")
    quoted = Packet.read_ip(came.l4.quoted)
    inside = (POD[wire.family], port)
    require(
        isinstance(quoted.l4, UDP) and (quoted.source, quoted.l4.source) == inside,
        "what it quotes is not the pod's packet",
    )


@CASES.case("REQ-3c", SHOULD, "the embedded datagram has a wrong checksum: the error arrives")
def _inner_checksum(wire: Wire) -> None:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    quoted = bytearray(seen.packet.ip())
    quoted[(20 if wire.family == 4 else 40) + 6] ^= 0x33
    require(_error(wire, bytes(quoted)), "it did not arrive")


@CASES.case("REQ-4", MUST, "an error inwards: its quote is the pod's packet, its checksums hold")
def _inwards(wire: Wire) -> None:
    port, to = wire.port(), wire.port()
    seen = wire.udp(port, (wire.a, to))
    came = _error(wire, seen.packet.ip())
    if came is None or not isinstance(came.l4, Error):
        raise Failed("it did not arrive")
    require((came.l4.type, came.l4.code) == ((3, 3) if wire.family == 4 else (1, 4)), "other code")
    quoted = Packet.read_ip(came.l4.quoted)
    require(quoted.source == POD[wire.family], f"it quotes a source {quoted.source}")
    require(
        isinstance(quoted.l4, UDP) and (quoted.l4.source, quoted.l4.destination) == (port, to),
        f"it quotes {quoted.l4}",
    )
    require(not broken_checksums(came.wire()), f"broken: {broken_checksums(came.wire())}")


@CASES.case("REQ-5", MUST, "an error of the pod outwards: its quote is what the server had sent")
def _outwards(wire: Wire) -> None:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    came = wire.answer(seen)
    if came is None:
        raise Failed("the datagram to the pod did not arrive")
    error = wire.error(came, "port", POD[wire.family], wire.a)
    wire.bed.pod.send(error)
    out = wire.bed.server.take(lambda p: isinstance(p.l4, Error))
    if out is None or not isinstance(out.l4, Error):
        raise Failed("the error did not arrive at the server")
    require(out.source == wire.egress, f"its source is {out.source}")
    quoted = Packet.read_ip(out.l4.quoted)
    require(quoted.destination == wire.egress, f"it quotes a destination {quoted.destination}")
    require(isinstance(quoted.l4, UDP) and quoted.l4.destination == seen.port, "another port")
    require(not broken_checksums(out.wire()), f"broken: {broken_checksums(out.wire())}")


@CASES.case("REQ-6", MUST, "an error after 100 s does not keep a mapping; 100 s later it is gone")
def _no_refresh(wire: Wire) -> str:
    port, to = wire.port(), (wire.a, wire.port())
    seen = wire.udp(port, to)
    lives = wire.bed.lifetime("udp") or 0
    if not wire.bed.idle(lives * 2 // 3):
        raise Impossible("only where the clock can be shifted")
    require(_error(wire, seen.packet.ip()), "the error did not arrive")
    wire.bed.idle(lives * 2 // 3)
    require(not wire.answer(seen, within=QUIET_S), "the mapping was kept")
    return "clock shifted"


@CASES.case("REQ-7", MUST, "a pod pings the outside place of another pod")
def _hairpin(_: Wire) -> None:
    raise Impossible("asked of NATs without ports alone: an id names no destination")


@CASES.case("REQ-7a", MUST, "an error about a datagram between two pods' outside places comes back")
def _hairpin_error(wire: Wire) -> None:
    port, other_port = wire.port(), wire.port()
    here = wire.udp(port, (wire.a, wire.port()))
    there = wire.udp(other_port, (wire.a, wire.port()), wire.bed.other)
    hairpin_opened(wire, UDP(other_port, here.port))
    packet = Packet(POD[wire.family], wire.egress, UDP(port, there.port), wire.word())
    wire.bed.pod.send(packet)
    came = wire.bed.other.take(lambda p: p.payload == packet.payload)
    if came is None:
        raise Failed("the datagram itself did not arrive")
    wire.bed.other.send(wire.error(came, "port", OTHER[wire.family], came.source))
    back = wire.bed.pod.take(lambda p: isinstance(p.l4, Error))
    if back is None or not isinstance(back.l4, Error):
        raise Failed("the error did not come back")
    quoted = Packet.read_ip(back.l4.quoted)
    require(
        (quoted.source, quoted.destination) == (POD[wire.family], wire.egress),
        f"it quotes {quoted.source} to {quoted.destination}",
    )


@CASES.case("REQ-8", SHOULD, "no id is free: the pod hears type 3 code 13 (IPv6: 1, code 1)")
def _no_ids(wire: Wire) -> str:
    if not wire.bed.narrow(NARROW):
        raise Impossible("its ids cannot be made few")
    try:
        for number in range(NARROW + 64):
            request = Packet(POD[wire.family], wire.b, Echo(1000 + number), wire.word())
            if wire.cross(request, within=0.3) is None:
                code = told(wire.bed.pod, request, QUIET_S)
                require(code == ((3, 13) if wire.family == 4 else (1, 1)), f"told {code}")
                return f"after {number}"
    finally:
        wire.bed.narrow(None)
    raise Impossible(f"more than {NARROW + 63} ids: its ids cannot be made few")


@CASES.case("REQ-10", MUST, "a packet that has one hop to live: the pod hears time exceeded")
def _time_exceeded(wire: Wire) -> str:
    packet = Packet(POD[wire.family], wire.a, UDP(wire.port(), wire.port()), wire.word(), ttl=1)
    wire.bed.pod.send(packet)
    kind = 11 if wire.family == 4 else 3
    came = wire.bed.pod.take(lambda p: isinstance(p.l4, Error) and p.l4.type == kind)
    if came is None or not isinstance(came.l4, Error):
        raise Failed("nothing came")
    quoted = Packet.read_ip(came.l4.quoted)
    require(quoted.source == POD[wire.family], f"it quotes a packet of {quoted.source}")
    return f"from {came.source}"


@CASES.case("REQ-10", MUST, "time exceeded of a router on the way (traceroute) arrives at the pod")
def _trace(wire: Wire) -> None:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    error = wire.error(seen.packet, "time", HOP[wire.family], wire.egress)
    require(wire.back(error), "it did not arrive")
