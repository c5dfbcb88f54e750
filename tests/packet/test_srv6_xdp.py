"""SRv6 in XDP does what tc does: the same packets through both programs of the uplink."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from bpf.object import Object
from bpf.testrun import Result, run_xdp
from tests.packet.nodes import (
    OBJECTS,
    PLANS,
    ROUTER,
    SLOT,
    TABLES,
    Got,
    Node,
    Spoiled,
    addr_value,
    ip,
)
from tests.packet.packets import TCP, UDP, Other, Packet, broken_checksums
from tests.packet.tenants import (
    BLUE,
    GREEN,
    HOST,
    IN_IPV6,
    IPIP,
    NEXT_CSID,
    PSP,
    STRANGER,
    TENANT,
    USD,
    outer,
    sid,
    srh,
    tenants,
)
from tests.packet.test_echo import echo
from tests.packet.test_probes import PROBE

Nodes = dict[str, Node]
PASS, DROP, REDIRECT = 2, 1, 4
END, ADJACENT, CSID = "fcbb:bb00:1:e0e0::", "fcbb:bb00:1:e0a1::", "fcbb:bb00:1::"
DX = {4: "fcbb:bb00:1:e0d4::", 6: "fcbb:bb00:1:e0d6::"}
HOP = {4: "10.99.0.77", 6: "fd99::77"}
NEXT, LAST = "fcbb:bb00:20::", "fcbb:bb00:21:1::"
MAC = "02:00:00:00:99:01"
#: struct note
NOTE, MAGIC = struct.Struct("=III"), 0x6D672E31


class Uplink:
    """Node a with the XDP program."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.object = Object.open(OBJECTS / "xdp.o")
        self.object.set_config("cfg", node.settings)
        node.share(self.object)
        self.object.load()
        self.beside = b""  # what stands beside the last packet

    def run(self, packet: Packet) -> Got:
        return self.node.watch(lambda: self._run(packet.wire()))

    def _run(self, wire: bytes) -> Result:
        program = self.object.programs["mg_xdp_uplink"]
        result = run_xdp(program, wire, self.node.devices["dpwup"])
        size = int(result.ctx_out[0])
        self.beside = result.packet_out[:size]
        return Result(result.verdict, result.packet_out[size:], result.ctx_out, result.ns)


@pytest.fixture
def uplink(nodes: Nodes) -> Iterator[Uplink]:
    node = nodes["a"]
    tenants(node)
    device = {"ifindex": node.devices["dpwup"]}
    sid(node, END, "END", flavours=PSP)
    sid(node, CSID, "END", flavours=NEXT_CSID | USD, function=0)
    sid(node, ADJACENT, "END_X", next_hop=addr_value(HOP[6]), **device)
    for family, one in DX.items():
        sid(node, one, f"DX{family}", next_hop=addr_value(HOP[family]), **device)
    neighbours = [*ROUTER.values(), *HOP.values()]
    for address in neighbours:
        ip(node.space.name, "neigh", "replace", address, "lladdr", MAC, "dev", "dpwup")
    made = Uplink(node)
    slot = Spoiled(made.object.maps[SLOT])
    node.slots.append(slot)
    yield made
    node.slots.remove(slot)
    made.object.close()
    for address in neighbours:
        ip(node.space.name, "neigh", "del", address, "dev", "dpwup")


def answer(family: int) -> Packet:
    return Packet(HOST[family], TENANT[family], UDP(53, 5000), b"answer", ttl=9)


def number(family: int) -> int:
    return IPIP if family == 4 else IN_IPV6


def way(family: int, segments: list[str], left: int, **changes: object) -> Packet:
    header = srh(number(family), segments, left, **changes)  # type: ignore[arg-type]
    return outer(answer(family), segments[len(segments) - 1 - left], header, ttl=9)


def test_a_probe_of_a_gateway_goes_back_as_tc_would_send_it(uplink: Uplink) -> None:
    node = uplink.node
    endpoint, probe = PLANS["b"].endpoint, echo(PLANS["b"].endpoint, node.plan.endpoint, PROBE)
    by_tc = node.from_uplink(probe)
    assert uplink.run(probe).verdict == PASS, "the kernel does not know the neighbour: tc asks it"
    ip(node.space.name, "neigh", "replace", endpoint, "lladdr", MAC, "dev", "dpwup")
    try:
        got = uplink.run(probe)
        assert (got.verdict, got.dropped, uplink.beside) == (REDIRECT, {}, b"")
        assert (got.wire[:6].hex(":"), got.wire[12:]) == (MAC, by_tc.wire[12:])
        for other in (echo(endpoint, node.plan.endpoint, 0), echo(endpoint, node.plan.endpoint, 1),
                      echo("10.99.0.99", node.plan.endpoint, PROBE)):  # fmt: skip
            assert uplink.run(other).verdict == PASS
    finally:
        ip(node.space.name, "neigh", "del", endpoint, "dev", "dpwup")


@pytest.mark.parametrize("tenant", [BLUE, GREEN], ids=lambda tenant: tenant.name)
@pytest.mark.parametrize("segments", [0, 1, 2])
def test_what_is_for_a_vrf_is_opened_and_noted(
    uplink: Uplink, family: int, tenant: object, segments: int
) -> None:
    assert tenant in (BLUE, GREEN)
    one = BLUE if tenant is BLUE else GREEN
    header = srh(number(family), [NEXT, one.sid][2 - segments :], 0) if segments else b""
    got = uplink.run(outer(answer(family), one.sid, header))
    assert (got.verdict, got.dropped, got.packet) == (PASS, {}, answer(family))
    assert NOTE.unpack(uplink.beside) == (MAGIC, one.vrf, 0)
    assert broken_checksums(got.wire) == []


PASSED: dict[str, Callable[[int], Packet]] = {
    "End": lambda family: way(family, [END, NEXT, LAST], 2),
    "End with PSP": lambda family: way(family, [END, LAST], 1),
    "End.X": lambda family: way(family, [ADJACENT, LAST], 1),
    "NEXT-C-SID": lambda family: outer(answer(family), "fcbb:bb00:1:20:21:1::"),
    "USD": lambda family: outer(answer(family), CSID),
    "DX": lambda family: outer(answer(family), DX[family]),
}


@pytest.mark.parametrize("name", PASSED)
def test_what_goes_on_leaves_as_tc_would_send_it(uplink: Uplink, family: int, name: str) -> None:
    packet = PASSED[name](family)
    by_tc = uplink.node.from_uplink(packet)
    got = uplink.run(packet)
    assert (got.verdict, got.dropped, uplink.beside) == (REDIRECT, {}, b"")
    assert (got.wire[:6].hex(":"), got.wire[12:]) == (MAC, by_tc.wire[12:])


@pytest.mark.parametrize("name", ["End.X", "DX"])
def test_a_hop_that_the_kernel_does_not_know_yet_is_left_to_tc(
    uplink: Uplink, family: int, name: str
) -> None:
    """Opened and passed up, a tenant's packet would go by the routes of the host."""
    for address in HOP.values():
        ip(uplink.node.space.name, "neigh", "del", address, "dev", "dpwup")
    packet = PASSED[name](family)
    try:
        got = uplink.run(packet)
    finally:
        for address in HOP.values():
            ip(
                uplink.node.space.name,
                *("neigh", "replace", address, "lladdr", MAC, "dev", "dpwup"),
            )
    assert (got.verdict, got.dropped, got.packet, uplink.beside) == (PASS, {}, packet, b"")
    assert uplink.node.from_uplink(packet).verdict == 7


def test_a_hop_is_one_of_the_device_that_its_row_names(uplink: Uplink, family: int) -> None:
    """Not one with the same address behind another device, to which the host's routes lead."""
    row = {"ifindex": uplink.node.devices["dpw1"], "next_hop": addr_value(HOP[family])}
    sid(uplink.node, DX[family], f"DX{family}", **row)
    packet = PASSED["DX"](family)
    got = uplink.run(packet)
    assert (got.verdict, got.packet) == (PASS, packet)


REFUSED: dict[str, Callable[[int], Packet]] = {
    "outside": lambda family: outer(answer(family), BLUE.sid, source=STRANGER),
    "no SID": lambda family: outer(answer(family), "fcbb:bb00:1:e099::"),
    "flags": lambda family: way(family, [BLUE.sid], 0, flags=1),
    "another family": lambda family: outer(answer(family), DX[10 - family]),
    "segments left": lambda family: way(family, [BLUE.sid, LAST], 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tc_refuses_is_refused_for_the_same_reason(
    uplink: Uplink, family: int, name: str
) -> None:
    packet = REFUSED[name](family)
    by_tc = uplink.node.from_uplink(packet)
    got = uplink.run(packet)
    assert (got.verdict, got.dropped) == (DROP, by_tc.dropped)
    assert len(got.dropped) == 1


def test_the_rest_is_left_to_tc_as_it_came(nodes: Nodes, uplink: Uplink, family: int) -> None:
    pod = nodes["a"].plan.pods["web"]
    others = [
        Packet(HOST[family], pod[family], TCP(1, 2, "S")),
        outer(answer(family), "fcbb:bb00:2:e007::"),
        Packet("fd99::5", END, Other(58), b"\x80\0\0\0\0\0\0\0"),
        Packet("fd99::5", "fcbb:bb00:1::1", TCP(1, 2, "S")),
    ]
    for packet in others:
        got = uplink.run(packet)
        assert (got.verdict, got.wire, uplink.beside) == (PASS, packet.wire(), b"")
    assert all(uplink.node.count(name) == 0 for name in TABLES[:4])
