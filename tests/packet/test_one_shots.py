"""Ports of datagrams: who asked once gives the port when none is free, a stream never does."""

from typing import Any

import numpy as np
import pytest

from tests.packet.nodes import EGRESS, LEGACY, Got, Node
from tests.packet.packets import UDP, Echo, Overlay, Packet

Nodes = dict[str, Node]
PORTS = 512  # of a's two blocks
KINDS = pytest.mark.parametrize("kind", ["query", "other", "ping"])


@pytest.fixture
def a(nodes: Nodes) -> Node:
    return nodes["a"]


def l4_of(kind: str, number: int) -> Any:
    """A question to a DNS server, to a port above 1023, or an ICMP echo request."""
    if kind == "ping":
        return Echo(10000 + number)
    return UDP(10000 + number, 53 if kind == "query" else 7007)


def ask(a: Node, family: int, kind: str, number: int) -> Got:
    source = a.plan.pods["client"][family]
    return a.from_pod("client", Packet(source, LEGACY[family], l4_of(kind, number)))


def port_of(got: Got) -> int:
    l4 = got.overlay.inner.l4
    return l4.id if isinstance(l4, Echo) else l4.source


def answer(a: Node, family: int, kind: str, port: int) -> Got:
    l4 = Echo(port, answer=True) if kind == "ping" else UDP(l4_of(kind, 0).destination, port)
    packet = Packet(LEGACY[family], EGRESS[family], l4)
    return a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, packet))


def fill(a: Node, family: int, kind: str, *, answered: bool) -> list[int]:
    """One connection for each port."""
    ports = []
    for number in range(PORTS):
        got = ask(a, family, kind, number)
        assert got.dropped == {}, number
        ports.append(port_of(got))
        if answered:
            assert answer(a, family, kind, ports[-1]).dropped == {}
    return ports


@KINDS
@pytest.mark.parametrize(("answers", "rest"), [(1, 1.0), (0, 10.0)], ids=["answered", "not"])
def test_the_oldest_one_shot_gives_its_port_after_its_rest(
    a: Node, family: int, kind: str, answers: int, rest: float
) -> None:
    ports = fill(a, family, kind, answered=answers > 0)
    a.rest(rest / 2)
    assert ask(a, family, kind, 1000).dropped == {"NO_RUN": 1}
    a.rest(rest + 0.2)
    for number in range(3):
        got = ask(a, family, kind, 1000 + number)
        assert got.dropped == {}
        assert port_of(got) == ports[number]
    assert a.count(f"mg_ct_v{family}") == a.count(f"mg_nat_v{family}") == PORTS


def test_an_answered_one_shot_goes_before_an_older_one_without_an_answer(
    a: Node, family: int
) -> None:
    ports = fill(a, family, "query", answered=False)
    a.quiet(20)
    answer(a, family, "other", 1)  # of nobody
    assert ask(a, family, "query", 1000).dropped == {}
    assert port_of(ask(a, family, "query", 1000)) == ports[0]
    assert answer(a, family, "query", ports[0]).dropped == {}
    a.quiet(1.5)
    got = ask(a, family, "query", 1001)
    assert port_of(got) == ports[0]


@KINDS
def test_a_stream_keeps_its_port_for_good(a: Node, family: int, kind: str) -> None:
    """More than two seconds from its first packet to its last one, in either direction."""
    ports = fill(a, family, kind, answered=True)
    a.quiet(2.1)
    for number in range(PORTS):
        if number % 2:
            assert ask(a, family, kind, number).dropped == {}
        else:
            assert answer(a, family, kind, ports[number]).dropped == {}
    a.quiet(200)
    assert ask(a, family, kind, 1000).dropped == {"NO_RUN": 1}
    assert answer(a, family, kind, ports[0]).packet.destination == a.plan.pods["client"][family]


@KINDS
def test_a_packet_that_comes_first_keeps_the_port(a: Node, family: int, kind: str) -> None:
    """In either direction; the others are taken in its place."""
    ports = fill(a, family, kind, answered=True)
    a.quiet(1.5)
    assert port_of(ask(a, family, kind, 0)) == ports[0]
    assert answer(a, family, kind, ports[1]).dropped == {}
    taken = [port_of(ask(a, family, kind, 1000 + number)) for number in range(PORTS - 2)]
    assert taken == ports[2:]
    assert ask(a, family, kind, 2000).dropped == {"NO_RUN": 1}


@pytest.mark.parametrize("answered", [True, False])
def test_a_one_shot_of_another_generation_keeps_its_port(
    a: Node, family: int, *, answered: bool
) -> None:
    """Two layouts live: the other programs have the connection, and may hear of it again."""
    fill(a, family, "query", answered=answered)
    a.quiet(20)
    handed = a.objects[0].btf.enum("connection_flag")["CONNECTION_HANDED"]
    connections, mappings = a.maps[f"mg_ct_v{family}"], a.maps[f"mg_nat_v{family}"]
    keys, values = connections.dump()
    values["flags"] |= np.uint32(handed)
    connections.update(keys, values)
    before = mappings.dump()[1]
    assert ask(a, family, "query", 1000).dropped == {"NO_RUN": 1}
    assert (mappings.dump()[1] == before).all()
    values["flags"] &= np.uint32(~handed & 0xFFFFFFFF)
    connections.update(keys, values)
    assert ask(a, family, "query", 1000).dropped == {}


def test_whoever_has_lost_the_port_gets_another_one_or_is_refused(a: Node, family: int) -> None:
    """And the answer to what had been asked is for nobody else."""
    ports = fill(a, family, "query", answered=False)
    a.quiet(11)
    assert port_of(ask(a, family, "query", 1000)) == ports[0]
    again = ask(a, family, "query", 0)
    assert (again.dropped, port_of(again)) == ({}, ports[1])
    assert answer(a, family, "query", ports[0]).packet.l4.destination == 11000


def test_a_remote_that_answers_is_asked_for_ever(a: Node, family: int) -> None:
    """A hundred and more at a time, each quiet for a second when its turn comes."""
    for number in range(3000):
        got = ask(a, family, "other", number)
        assert got.dropped == {}, number
        assert answer(a, family, "other", port_of(got)).dropped == {}
        if number % 100 == 99:
            a.quiet(0.25)


@pytest.mark.parametrize(
    ("limit", "kind", "answers"),
    [
        ("known_answered", "query", 1),
        ("known_unanswered", "query", 0),
        ("one_shot", "other", 1),
        ("one_shot", "other", 0),
        ("echo", "ping", 1),
    ],
)
def test_each_one_shot_has_its_lifetime(
    a: Node, family: int, limit: str, kind: str, answers: int
) -> None:
    port = port_of(ask(a, family, kind, 0))
    for _ in range(answers):
        answer(a, family, kind, port)
    a.age(100)
    assert a.sweep(**{limit: 101}) == (1, 0)
    assert a.sweep(**{limit: 99}) == (0, 1)
    assert a.count(f"mg_nat_v{family}") == 0


def test_a_stream_to_a_known_port_lives_as_long_as_any_other(a: Node, family: int) -> None:
    port = port_of(ask(a, family, "query", 0))
    a.quiet(3)
    answer(a, family, "query", port)
    a.age(100)
    assert a.sweep(known_answered=1, known_unanswered=1, one_shot=1) == (1, 0)
    assert a.sweep(datagram=99) == (0, 1)
