"""RFC 6888: what a translator of many subscribers owes them; here a subscriber is a pod."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from mesh.lab.conformance.bed import EXCLUDED, NARROW, POD
from mesh.lab.conformance.case import Cases, Level
from mesh.lab.conformance.ends import QUIET_S, End
from mesh.lab.conformance.packets import UDP, Packet
from mesh.lab.conformance.shared import MINUTE_S, told
from mesh.lab.conformance.wire import Failed, Impossible, Seen, Wire, require

CASES = Cases(6888)
MUST, SHOULD = Level.MUST, Level.SHOULD
QUOTA = 16
#: Unpredictable: of 23 steps from one mapping's port to the next fewer than so many are alike.
_IN_A_ROW = 8
#: Of the ports, those that a search at random may miss.
_MISSED = 16


@CASES.case("REQ-2", MUST, "16 sockets of a pod, UDP and echo: one address outside (paired)")
def _paired(wire: Wire) -> None:
    addresses = {wire.udp(wire.port(), (wire.a, wire.port())).address for _ in range(8)}
    addresses |= {wire.echo(wire.port(), wire.b).address for _ in range(8)}
    require(len(addresses) == 1, f"addresses {sorted(addresses)}")


@CASES.case(
    "REQ-4", MUST, f"a pod may have {QUOTA} ports: the next one is refused, other pods are not"
)
def _quota(wire: Wire) -> str:
    if not wire.bed.quota(QUOTA):
        raise Failed("there is no limit for each pod")
    try:
        to = wire.a, wire.port()
        seen = [_try(wire, wire.port(), to) for _ in range(QUOTA * 2)]
        passed = sum(one is not None for one in seen)
        require(passed < len(seen), "no limit was met")
        wire.udp(wire.port(), (wire.a, wire.port()), wire.bed.other)
        return f"{passed} mappings"
    finally:
        wire.bed.quota(0)


def _try(wire: Wire, port: int, to: tuple[str, int], within: float = QUIET_S) -> Seen | None:
    return wire.cross(Packet(POD[wire.family], to[0], UDP(port, to[1]), wire.word()), within=within)


@CASES.case("REQ-6", MUST, "a destination that is excluded: the pod's own address, untouched")
def _excluded(wire: Wire) -> str:
    packet = Packet(
        POD[wire.family], EXCLUDED[wire.family], UDP(wire.port(), wire.port()), wire.word()
    )
    seen = wire.cross(packet, within=QUIET_S)
    if seen is None:
        return "not translated (plain packets have no route here)"
    require(seen.address == POD[wire.family], f"its source is {seen.address}")
    return "not translated"


@CASES.case("REQ-7", SHOULD, "endpoint-independent filtering: another remote may send to a mapping")
def _filtering(wire: Wire) -> None:
    seen = wire.udp(wire.port(), (wire.a, wire.port()))
    came = wire.answer(seen, source=(wire.b, wire.port()), within=QUIET_S)
    require(
        came, "filtered by the remote's address, unless the policy's `filtering` says otherwise"
    )


@CASES.case("REQ-8", SHOULD, "a port whose mapping has gone is nobody else's for 120 s")
def _rest(wire: Wire) -> str:
    if not wire.bed.narrow(NARROW):
        raise Impossible("its ports cannot be made few")
    to = (wire.a, wire.port())
    try:
        first = wire.udp(wire.port(), to)
        if not wire.bed.idle(2 * MINUTE_S + 30):
            raise Impossible("only where the clock can be shifted")
        seen = {wire.udp(wire.port(), to, wire.bed.other).port for _ in range(32)}
    finally:
        wire.bed.narrow(None)
    again = first.port in seen
    return (
        "at once" if again else "not among the next 32"
    ) + " (REQ-8: the filter is by address and port)"


@CASES.case("REQ-11a", MUST, "no port is free towards a remote: the packet is dropped, not leaked")
def _full(wire: Wire) -> str:
    return f"{len(_filled(wire, []))} mappings"


@CASES.case("REQ-11b", SHOULD, "likewise: the pod hears type 3 code 1 (IPv6: 1, code 3)")
def _full_told(wire: Wire) -> None:
    codes: list[tuple[int, int] | None] = []
    _filled(wire, codes)
    wanted = (3, 1) if wire.family == 4 else (1, 3)
    require(codes == [wanted], f"told {codes}")


@CASES.case("REQ-11d", MUST, "likewise: every mapping of before still passes answers")
def _full_keeps(wire: Wire) -> None:
    seen = _filled(wire, [])
    lost = sum(not wire.passes(one) for one in seen[:: max(len(seen) // 32, 1)])
    require(not lost, f"{lost} of 32 are gone")


@CASES.case(
    "REQ-13", SHOULD, f"two pods towards one remote use {NARROW} ports before each is refused"
)
def _all_ports(wire: Wire) -> str:
    shares = _filled_by(wire, (wire.bed.pod, wire.bed.other), [])
    ports = {one.port for share in shares for one in share}
    require(len(ports) >= NARROW - _MISSED, f"refused after {len(ports)}")
    return " and ".join(str(len(share)) for share in shares) + f" of {NARROW}"


def _filled(wire: Wire, codes: list[tuple[int, int] | None]) -> list[Seen]:
    """Mappings of one pod to one remote until one is refused; ``codes`` gets what the pod hears."""
    return _filled_by(wire, (wire.bed.pod,), codes)[0]


def _filled_by(
    wire: Wire, ends: Sequence[End], codes: list[tuple[int, int] | None]
) -> list[list[Seen]]:
    if not wire.bed.narrow(NARROW):
        raise Impossible("its ports cannot be made few")
    to = wire.a, wire.port()
    try:
        return [_fill(wire, end, to, codes) for end in ends]
    finally:
        wire.bed.narrow(None)


def _fill(
    wire: Wire, end: End, to: tuple[str, int], codes: list[tuple[int, int] | None]
) -> list[Seen]:
    """One pod's mappings until one is refused. Raises Failed."""
    seen: list[Seen] = []
    for _ in range(NARROW + 64):
        packet = Packet(wire.source(end), to[0], UDP(wire.port(), to[1]), wire.word())
        one = wire.cross(packet, end, 0.5)
        if one is None:
            codes.append(told(end, packet, QUIET_S))
            require(not leaked(wire, packet), "it left with the pod's own address")
            return seen
        require(one.address == wire.egress, f"it left with {one.address}")
        seen.append(one)
    raise Failed(f"more than {NARROW} mappings towards one remote")


def leaked(wire: Wire, packet: Packet) -> bool:
    """Whether a packet has left after all."""
    return wire.bed.server.take(lambda p: p.payload == packet.payload, QUIET_S) is not None


@CASES.case("REQ-15", SHOULD, "ports of consecutive mappings are hard to guess")
def _unpredictable(wire: Wire) -> str:
    ports = [wire.udp(wire.port(), (wire.a, wire.port())).port for _ in range(24)]
    steps = Counter(b - a for a, b in pairwise(ports))
    step, times = steps.most_common(1)[0]
    require(times < _IN_A_ROW, f"{times} of 23 are {step} after the one before: {ports[:4]}")
    return f"the most frequent step comes {times} times in 23"


@CASES.case("REQ-3", MUST, "pools of several networks")
def _pools(_: Wire) -> None:
    raise Impossible("configuration: EgressPool.spec.cidrs is a list")


@CASES.case("REQ-9", MUST, "a protocol by which subscribers ask for mappings (PCP)")
def _pcp(_: Wire) -> None:
    raise Impossible("not applicable: mappings follow EgressPolicy objects, pods ask for none")


@CASES.case("REQ-12", SHOULD, "destinations are not logged")
def _no_log(_: Wire) -> None:
    raise Impossible("by design: whois stores runs of ports and no destination")
