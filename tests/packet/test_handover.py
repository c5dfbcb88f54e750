"""Two generations of a node's programs: a packet of the other's connection goes there."""

from collections.abc import Iterator
from os import getpid

import pytest

from bpf import netns
from mesh.datapath.hooks import HANDOVER_PROGRAMS
from tests.packet.nodes import EGRESS, LEGACY, PLANS, Node, pinned_in
from tests.packet.packets import TCP, UDP, Overlay, Packet

OFF, MARKED, UNKNOWN, ALL = 0, 1, 2, 4
GATEWAY, NODE = "10.99.0.13", "10.99.0.11"


class Pair:
    """Node a twice, each with maps of its own; the new one hands over to the old one."""

    def __init__(self, old: Node, new: Node) -> None:
        self.old, self.new = old, new
        points = new.objects[0].btf.enum("event_point")
        for point, program in HANDOVER_PROGRAMS.items():
            new.maps["mg_handover"].update_one(points[point], old.programs[program])

    def phase(self, bits: int) -> None:
        self.new.maps["mg_phase"].update_one(0, bits)

    def counts(self, family: int) -> tuple[int, int]:
        name = f"mg_ct_v{family}"
        return self.old.count(name), self.new.count(name)

    def marked(self, family: int) -> int:
        _, values = self.new.maps[f"mg_ct_v{family}"].dump()
        return int((values["flags"] & 32 != 0).sum())


@pytest.fixture(scope="module")
def made(loaded: dict[str, Node]) -> Iterator[Pair]:
    space = loaded["a"].space
    with (
        pinned_in(f"dpw-{getpid()}-old") as before,
        pinned_in(f"dpw-{getpid()}-new") as after,
    ):
        old, new = (Node(PLANS["a"], space, place) for place in (before, after))
        try:
            yield Pair(old, new)
        finally:
            new.close()
            old.close()


@pytest.fixture
def pair(made: Pair) -> Iterator[Pair]:
    made.old.reset()
    made.new.reset()
    made.phase(OFF)
    with netns.enter(made.old.space):
        yield made


def question(pair: Pair, family: int, port: int = 5000) -> Packet:
    return Packet(pair.new.plan.pods["client"][family], LEGACY[family], UDP(port, 53))


def answer(seen: Packet, port: int) -> Overlay:
    assert isinstance(seen.l4, UDP)
    return Overlay(GATEWAY, NODE, 2, seen.reply(UDP(53, port)))


def test_without_another_generation_nothing_is_handed_over(pair: Pair, family: int) -> None:
    got = pair.new.from_pod("client", question(pair, family))
    assert got.dropped == {}
    assert pair.counts(family) == (0, 1)


def test_every_packet_goes_to_the_old_program_as_it_came(pair: Pair, family: int) -> None:
    pair.phase(ALL | UNKNOWN | MARKED)
    expected = pair.old.from_pod("client", question(pair, family))
    got = pair.new.from_pod("client", question(pair, family))
    assert got.verdict == expected.verdict
    assert got.overlay.inner == expected.overlay.inner
    assert pair.counts(family) == (1, 1)
    assert pair.marked(family) == 1
    assert pair.new.count(f"mg_nat_v{family}") == 0


def test_the_answer_out_of_the_tunnel_goes_to_the_old_program(pair: Pair, family: int) -> None:
    pair.phase(ALL | UNKNOWN | MARKED)
    seen = pair.new.from_pod("client", question(pair, family)).overlay.inner
    assert seen.source == EGRESS[family]
    assert isinstance(seen.l4, UDP)
    reply = answer(seen, seen.l4.source)
    expected = pair.old.from_uplink(reply)
    got = pair.new.from_uplink(reply)
    assert expected.dropped == got.dropped == {}
    assert got.verdict == expected.verdict
    assert got.packet == expected.packet
    assert got.packet.destination == pair.new.plan.pods["client"][family]


def test_marked_ones_stay_with_the_old_program_and_new_ones_are_ours(
    pair: Pair, family: int
) -> None:
    pair.phase(ALL | UNKNOWN | MARKED)
    seen = pair.new.from_pod("client", question(pair, family)).overlay.inner
    pair.phase(MARKED)
    again = pair.new.from_pod("client", question(pair, family)).overlay.inner
    assert again.l4 == seen.l4
    other = pair.new.from_pod("client", question(pair, family, 5001))
    assert other.dropped == {}
    assert pair.counts(family) == (1, 2)
    assert isinstance(seen.l4, UDP)
    assert pair.new.from_uplink(answer(seen, seen.l4.source)).dropped == {}


def test_an_overlay_packet_to_a_pod_goes_to_the_old_program(pair: Pair, family: int) -> None:
    pair.phase(ALL | UNKNOWN | MARKED)
    pod, far = PLANS["a"].pods["web"], PLANS["b"].pods["web"]
    inner = Packet(far[family], pod[family], TCP(1000, 80, "S"))
    got = pair.new.from_uplink(Overlay("10.99.0.12", NODE, far.identity, inner))
    assert got.dropped == {}
    assert got.packet.l4 == inner.l4
    assert pair.counts(family) == (1, 1)
    back = pair.new.from_pod("web", inner.reply(TCP(80, 1000, "SA")))
    assert back.dropped == {}
    assert pair.counts(family)[0] == 1


def test_without_a_program_behind_the_slot_the_packet_is_a_named_drop(
    pair: Pair, family: int
) -> None:
    pair.phase(ALL)
    slot = pair.new.objects[0].btf.enum("event_point")["POINT_FROM_POD"]
    pair.new.maps["mg_handover"].delete_one(slot)
    try:
        got = pair.new.from_pod("client", question(pair, family))
        assert got.dropped == {"MISSED_TAIL_CALL": 1}
    finally:
        pair.new.maps["mg_handover"].update_one(slot, pair.old.programs["mg_from_pod"])
