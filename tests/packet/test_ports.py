"""Ports of egress addresses: blocks filled, reused and never stolen."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from tests.packet.nodes import COVERED, EGRESS, LEGACY, REDIRECT, Got, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Overlay, Packet, broken_checksums

Nodes = dict[str, Node]
SMALL = 8  # ports of the small node's only block


@pytest.fixture
def a(nodes: Nodes) -> Node:
    return nodes["a"]


def flow(a: Node, family: int, number: int, l4: Any = None) -> Packet:
    source = a.plan.pods["client"][family]
    return Packet(source, LEGACY[family], l4 or TCP(10000 + number, 443, "S"))


def port_of(got: Got) -> int:
    l4 = got.overlay.inner.l4
    return l4.id if isinstance(l4, Echo) else l4.source


def fill(a: Node, family: int, make: Any = None) -> list[int]:
    """One connection for each of the 512 ports of a's two blocks."""
    ports = []
    for number in range(512):
        got = a.from_pod("client", flow(a, family, number, make and make(number)))
        assert got.dropped == {}, number
        ports.append(port_of(got))
    return ports


def send(a: Node, family: int, number: int, flags: str) -> Got:
    return a.from_pod("client", flow(a, family, number, TCP(10000 + number, 443, flags)))


def receive(a: Node, family: int, port: int, flags: str) -> Got:
    packet = Packet(LEGACY[family], EGRESS[family], TCP(443, port, flags))
    return a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, packet))


def close(a: Node, family: int, number: int, port: int) -> None:
    for got in (
        send(a, family, number, "A"),
        receive(a, family, port, "FA"),
        send(a, family, number, "FA"),
        receive(a, family, port, "A"),
    ):
        assert got.dropped == {}


@pytest.mark.parametrize(
    "make", [None, lambda n: UDP(10000 + n, 53), Echo], ids=["TCP", "UDP", "ping"]
)
def test_every_port_of_every_block_is_used_before_one_connection_fails(
    a: Node, family: int, make: Any
) -> None:
    ports = fill(a, family, make)
    wanted = {*range(1024 + 3 * 256, 1024 + 4 * 256), *range(1024 + 9 * 256, 1024 + 10 * 256)}
    assert set(ports) == wanted
    assert ports != sorted(ports)

    packet = flow(a, family, 9999, make and make(9999)).but(payload=b"hello")
    got = a.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_RUN": 1})
    answer = got.packet
    assert isinstance(answer.l4, Error)
    ping = make is Echo  # RFC 5508 REQ-8, RFC 6888 REQ-11b
    wanted = {4: (3, 13), 6: (1, 1)} if ping else {4: (3, 1), 6: (1, 3)}
    assert (answer.l4.type, answer.l4.code) == wanted[family]
    assert (answer.source, answer.destination) == (packet.destination, packet.source)
    assert answer.l4.quoted == packet.ip()[: len(answer.l4.quoted)]
    assert answer.mac == a.plan.pods["client"].mac
    assert broken_checksums(got.wire) == []
    assert a.count(f"mg_nat_v{family}") == 512
    noted = make is None  # a SYN that is refused (D190)
    assert a.count(f"mg_ct_v{family}") == 512 + noted


def test_the_same_ports_serve_every_other_remote(a: Node, family: int) -> None:
    fill(a, family)
    other = {4: "192.0.2.11", 6: "2001:db8:2::11"}[family]
    assert a.from_pod("client", flow(a, family, 0).but(destination=other)).dropped == {}


def test_refusals_are_answered_a_few_hundred_times_at_once_and_counted_all(
    a: Node, family: int
) -> None:
    fill(a, family)
    answers = drops = 0
    for number in range(9000, 9300):
        got = a.from_pod("client", flow(a, family, number))
        answers += got.verdict == REDIRECT
        drops += got.dropped["NO_RUN"]
    assert (answers, drops) == (300, 300)


def test_of_the_closed_connections_the_oldest_gives_its_port(a: Node, family: int) -> None:
    ports = fill(a, family)
    for number in (7, 300, 5):
        close(a, family, number, ports[number])
    for new, old in ((1000, 7), (1001, 300), (1002, 5)):
        got = a.from_pod("client", flow(a, family, new))
        assert got.dropped == {}
        assert port_of(got) == ports[old]
        assert receive(a, family, ports[old], "SA").packet.l4 == TCP(443, 10000 + new, "SA")
        assert send(a, family, old, "A").dropped == {"MID_STREAM": 1}
    assert a.from_pod("client", flow(a, family, 1003)).dropped == {"NO_RUN": 1}
    assert a.count(f"mg_nat_v{family}") == 512
    assert a.count(f"mg_ct_v{family}") == 513, "a SYN that is refused is noted (D190)"


@pytest.mark.parametrize("reset", ["pod", "legacy"])
def test_a_reset_connection_gives_its_port(a: Node, family: int, reset: str) -> None:
    ports = fill(a, family)
    receive(a, family, ports[3], "SA")
    if reset == "pod":
        send(a, family, 3, "RA")
    else:
        receive(a, family, ports[3], "RA")
    assert port_of(a.from_pod("client", flow(a, family, 1000))) == ports[3]


def test_a_connection_that_a_reset_did_not_end_keeps_its_port(a: Node, family: int) -> None:
    ports = fill(a, family)
    receive(a, family, ports[3], "SA")
    receive(a, family, ports[3], "R")
    assert send(a, family, 3, "PA").dropped == {}
    assert a.from_pod("client", flow(a, family, 1000)).dropped == {"NO_RUN": 1}


@pytest.mark.parametrize("flags", ["FA", "A", "PA"])
def test_half_closed_connections_keep_their_ports(a: Node, family: int, flags: str) -> None:
    ports = fill(a, family)
    for number in range(0, 512, 50):
        receive(a, family, ports[number], flags)
    assert a.from_pod("client", flow(a, family, 1000)).dropped == {"NO_RUN": 1}


def test_a_syn_on_a_closed_connection_reopens_it_on_its_port(a: Node, family: int) -> None:
    port = port_of(a.from_pod("client", flow(a, family, 0)))
    close(a, family, 0, port)
    again = a.from_pod("client", flow(a, family, 0))
    assert port_of(again) == port
    assert len(again.events) == 1
    assert a.count(f"mg_nat_v{family}") == 1
    fill(a, family)
    assert a.from_pod("client", flow(a, family, 1000)).dropped == {"NO_RUN": 1}


def test_a_reopened_connection_leaves_a_block_that_is_no_longer_ours(a: Node, family: int) -> None:
    a.own_blocks(family, 3)
    port = port_of(a.from_pod("client", flow(a, family, 0)))
    close(a, family, 0, port)
    a.own_blocks(family, 9)
    assert (port_of(a.from_pod("client", flow(a, family, 0))) - 1024) // 256 == 9
    assert a.count(f"mg_nat_v{family}") == 1


@pytest.mark.parametrize("l4", [UDP(10000, 53), Echo(10000)], ids=["UDP", "ping"])
def test_a_change_that_finds_no_port_takes_none_away(a: Node, family: int, l4: Any) -> None:
    """The address changes before its blocks have come, and back: the port is ours all the while."""
    other = {4: "198.51.100.11", 6: "2001:db8:100::11"}[family]
    port = port_of(a.from_pod("client", flow(a, family, 0, l4)))
    a.clear("mg_egress_addr")
    a.egress(COVERED[family], 1, other)
    assert a.from_pod("client", flow(a, family, 0, l4)).dropped == {"NO_EGRESS_GATEWAY": 1}
    assert a.count(f"mg_nat_v{family}") == 1
    a.rows_of_egress()
    assert port_of(a.from_pod("client", flow(a, family, 0, l4))) == port
    answer = Echo(port, answer=True) if isinstance(l4, Echo) else UDP(53, port)
    packet = Packet(LEGACY[family], EGRESS[family], answer)
    got = a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, packet))
    assert (got.dropped, got.packet.destination) == ({}, a.plan.pods["client"][family])


def test_a_closed_connection_that_is_no_longer_covered_frees_its_port(a: Node, family: int) -> None:
    port = port_of(a.from_pod("client", flow(a, family, 0)))
    close(a, family, 0, port)
    a.clear("mg_egress")
    packet = flow(a, family, 0)
    assert a.from_pod("client", packet).packet == packet
    assert a.count(f"mg_nat_v{family}") == 0
    assert a.count(f"mg_ct_v{family}") == 1


def test_two_thousand_short_connections_one_after_the_other(a: Node, family: int) -> None:
    for number in range(2000):
        got = a.from_pod("client", flow(a, family, number))
        assert got.dropped == {}, number
        close(a, family, number, port_of(got))


def test_ports_look_random_from_outside(a: Node, family: int) -> None:
    ports = [port_of(a.from_pod("client", flow(a, family, n))) for n in range(64)]
    steps = Counter((y - x) % 512 for x, y in pairwise(ports))
    assert len(steps) > 20
    assert max(steps.values()) < 16
