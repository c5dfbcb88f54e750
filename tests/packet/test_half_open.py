"""Connections whose opener has not answered: strangers who forge addresses take nobody's place."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import ClassVar

import pytest

from bpf.ring import Ring
from mesh.datapath.sweep import PRESSURE_LIMITS
from tests.packet.nodes import LEGACY, LIMITS, OK, REDIRECT, Got, Node
from tests.packet.packets import TCP, UDP, Packet, Transport
from tests.packet.test_full_maps import SLACK
from tests.packet.test_full_maps import node as small

Nodes = dict[str, Node]
SIZE = 256
#: SYNs of a stranger.
FORGED = 2 * SIZE
SEEN_BEFORE = 20
FRESH = 8
#: Half of the table, and the eighth that half-open TCP has beyond it.
MOST_HALF_OPEN = SIZE // 2 + SIZE // 8


class FewConnections(Node):
    entries: ClassVar[Mapping[str, int]] = {"mg_ct_v4": SIZE, "mg_ct_v6": SIZE}


@pytest.fixture(scope="module")
def made(loaded: Nodes) -> Iterator[Node]:
    yield from small(FewConnections, loaded)


@pytest.fixture
def few(made: Node) -> Node:
    made.reset()
    tables, used = made.maps["mg_used"].dump()
    used["told"] = 0
    made.maps["mg_used"].update(tables, used)
    made.sweep()
    return made


class Agent:
    """Sweeps when an insert asks for it, with the limits of pressure."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ring = Ring(node.maps["mg_pressure"], node.objects[0].btf.struct("pressure"))

    def look(self) -> None:
        if len(self._ring.drain()):
            self.sweep()

    def sweep(self) -> None:
        self._node.sweep(**{name: PRESSURE_LIMITS.get(name, 1000) for name in LIMITS})


def stranger(family: int, number: int) -> str:
    """An address of the world that nobody else has."""
    return str(ip_address({4: "203.0.113.0", 6: "2001:db8:9::"}[family]) + number % 256)


def syn(few: Node, family: int, pod: str, number: int, port: int = 80) -> Packet:
    source = stranger(family, number)
    return Packet(source, few.plan.pods[pod][family], TCP(1024 + number, port, "S"))


def answer(few: Node, pod: str, asked: Packet, flags: str = "SA") -> Got:
    assert isinstance(asked.l4, TCP)
    return few.from_pod(pod, asked.reply(TCP(asked.l4.destination, asked.l4.source, flags)))


def shake(few: Node, family: int, pod: str, number: int) -> Packet:
    """A stranger who is there opens a connection; returns its first packet."""
    asked = syn(few, family, pod, number, 22)
    assert few.from_uplink(asked).dropped == {}
    assert answer(few, pod, asked).dropped == {}
    assert few.from_uplink(asked.but(l4=TCP(1024 + number, 22, "A"))).dropped == {}
    return asked


def opens(few: Node, family: int, pod: str, numbers: range, l4: type[Transport] = TCP) -> int:
    """How many of its connections to the world the pod may open."""
    made = 0
    for number in numbers:
        first = TCP(20000 + number, 443, "S") if l4 is TCP else UDP(20000 + number, 53)
        packet = Packet(few.plan.pods[pod][family], LEGACY[family], first)
        made += few.from_pod(pod, packet).dropped == {}
    return made


def lives(few: Node, pod: str, opened: Packet) -> bool:
    """Whether the pod's answer still leaves as one: a covered pod's would be refused otherwise."""
    got = answer(few, pod, opened, "PA")
    return (got.verdict, got.dropped) == (OK, {})


@pytest.mark.parametrize(
    "answers", ["<SA", "<RA", "", "<SA A <R"], ids=["open", "closed", "silent", "guessed"]
)
def test_forged_syns_take_no_place_of_others(few: Node, family: int, answers: str) -> None:
    """All are taken as they come; what was open stays, and everybody opens more."""
    agent = Agent(few)
    before = [shake(few, family, "client", number) for number in range(SEEN_BEFORE)]
    during = []
    for number in range(FORGED):
        forged = syn(few, family, ("web", "client")[number % 2], SEEN_BEFORE + number)
        assert few.from_uplink(forged).dropped == {}, number
        for flags in answers.split():
            if flags.startswith("<"):
                answer(few, ("web", "client")[number % 2], forged, flags[1:])
            else:
                few.from_uplink(forged.but(l4=TCP(forged.l4.source, 80, flags)))
        agent.look()
        if number % (FORGED // FRESH) == 0:
            during.append(shake(few, family, "client", 40000 + number))
            for pod in ("web", "client"):
                assert opens(few, family, pod, range(number, number + 1)) == 1
    assert few.count(f"mg_ct_v{family}") <= MOST_HALF_OPEN + 4 * FRESH + SEEN_BEFORE
    assert all(lives(few, "client", one) for one in before + during)
    few.age(11)
    agent.sweep()
    # What is translated has its four minutes (RFC 5382 REQ-5).
    assert few.count(f"mg_ct_v{family}") == len(before + during) + FRESH
    assert all(lives(few, "client", one) for one in before + during)


def test_without_an_agent_forged_syns_take_no_place_either(few: Node, family: int) -> None:
    for number in range(FORGED):
        assert few.from_uplink(syn(few, family, "web", number)).dropped == {}
    assert few.count(f"mg_ct_v{family}") <= MOST_HALF_OPEN + 1
    assert opens(few, family, "client", range(FRESH)) == FRESH
    assert opens(few, family, "web", range(FRESH)) == FRESH


def test_a_stranger_who_is_slow_is_not_forgotten_at_once(few: Node, family: int) -> None:
    """An eighth of the table may come between."""
    for number in range(FORGED):
        few.from_uplink(syn(few, family, "web", number))
    asked = syn(few, family, "client", FORGED, 22)
    few.from_uplink(asked)
    for number in range(SIZE // 8 - 1):
        few.from_uplink(syn(few, family, "web", FORGED + 1 + number))
    assert answer(few, "client", asked).dropped == {}
    few.from_uplink(asked.but(l4=TCP(1024 + FORGED, 22, "A")))
    for number in range(FORGED):
        few.from_uplink(syn(few, family, "web", number))
    assert lives(few, "client", asked)


def test_syns_of_a_pod_go_first_and_others_open_meanwhile(few: Node, family: int) -> None:
    agent = Agent(few)
    held = [shake(few, family, "client", number) for number in range(SEEN_BEFORE)]
    refused = 0
    for number in range(FORGED):
        packet = Packet(few.plan.pods["web"][family], LEGACY[family], TCP(1024 + number, 9, "S"))
        refused += few.from_pod("web", packet).dropped != {}
        agent.look()
        if number % (FORGED // FRESH) == 0:
            assert opens(few, family, "client", range(number, number + 1)) == 1
    assert refused > FORGED // 2
    few.age(11)
    agent.sweep()
    assert few.count(f"mg_ct_v{family}") == SEEN_BEFORE + FRESH  # the translated ones
    assert opens(few, family, "web", range(FRESH)) == FRESH
    assert all(lives(few, "client", one) for one in held)


@pytest.mark.parametrize("others", ["TCP", "UDP"])
def test_what_strangers_really_open_leaves_room_for_what_pods_open(
    few: Node, family: int, others: str
) -> None:
    """With as many addresses as they like. A pod's share is not used up by what is asked of it."""
    agent = Agent(few)
    taken = 0
    for number in range(SIZE):
        pod = ("web", "client")[number % 2]
        asked = syn(few, family, pod, number, 22)
        if others == "UDP":
            asked = asked.but(l4=UDP(1024 + number, 22))
        if few.from_uplink(asked).dropped:
            continue
        taken += 1
        if others == "TCP":
            answer(few, pod, asked)
            few.from_uplink(asked.but(l4=TCP(1024 + number, 22, "A")))
        agent.look()
    assert taken == SIZE * 7 // 8
    made = [opens(few, family, pod, range(SIZE)) for pod in ("web", "client")]
    assert min(made) >= (SIZE // 8 - SLACK) // 2
    assert abs(made[0] - made[1]) <= SLACK


def test_the_world_asks_no_more_of_a_pod_than_its_share(few: Node, family: int) -> None:
    """From three quarters on; others are asked all the same."""
    agent = Agent(few)
    for number in range(SIZE * 3 // 4):
        shake(few, family, "web", number)
        agent.look()
    got = few.from_uplink(syn(few, family, "web", SIZE, 22))
    assert (got.verdict, got.dropped) == (REDIRECT, {"CT_MAP_INSERTION_FAILED": 1})
    for number in range(SIZE // 8):
        shake(few, family, "client", SIZE + number)
    assert few.from_uplink(syn(few, family, "client", 2 * SIZE, 22)).dropped != {}
    assert opens(few, family, "web", range(FRESH)) + opens(few, family, "client", range(FRESH)) > 0
