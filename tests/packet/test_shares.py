"""From three quarters on, ports and connections are for pods that have less than their share."""

import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest

from bpf import netns
from bpf.ring import Ring
from tests.packet.nodes import EGRESS, LEGACY, PLANS, REDIRECT, Node, Pod, pinned_in
from tests.packet.packets import TCP, UDP, Error, Packet
from tests.packet.test_full_maps import node as small

Nodes = dict[str, Node]
PORTS, SIZE = 512, 256


class FewConnections(Node):
    entries: ClassVar[Mapping[str, int]] = {"mg_ct_v4": SIZE, "mg_ct_v6": SIZE}


@pytest.fixture
def a(nodes: Nodes) -> Node:
    return nodes["a"]


@pytest.fixture
def four(loaded: Nodes) -> Iterator[Node]:
    """A node that has as many blocks as it may: four."""
    with pinned_in(f"dpw-{os.getpid()}-four") as directory:
        node = Node(PLANS["a"], loaded["a"].space, directory, blocks_per_node=4)
        with netns.enter(node.space):
            yield node
        node.close()


@pytest.fixture
def few(loaded: Nodes) -> Iterator[Node]:
    yield from small(FewConnections, loaded)


def covered(a: Node) -> None:
    """The policy covers both pods."""
    web = a.plan.pods["web"]
    a.pod(Pod(web.device, web.identity, web.addresses, 1))


class Swept:
    """The agent's part: a sweep when an insert asks for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ring = Ring(node.maps["mg_pressure"], node.objects[0].btf.struct("pressure"))
        node.sweep()

    def look(self) -> None:
        if len(self._ring.drain()):
            self._node.sweep()


def opens(a: Node, family: int, pod: str, most: int, to: str = "") -> int:
    """How many connections the pod opens before one is refused, at most."""
    source, remote, agent = a.plan.pods[pod][family], to or LEGACY[family], Swept(a)
    for number in range(most):
        agent.look()
        if a.from_pod(pod, Packet(source, remote, TCP(10000 + number, 443, "S"))).dropped:
            return number
    return most


def test_a_pod_alone_gets_three_quarters_of_a_remotes_ports(a: Node, family: int) -> None:
    covered(a)
    a.pods_of_egress(family, 2)
    assert opens(a, family, "client", PORTS) == PORTS * 3 // 4
    assert opens(a, family, "web", PORTS) == PORTS // 4
    other = {4: "192.0.2.11", 6: "2001:db8:2::11"}[family]
    assert opens(a, family, "client", 10, other) == 10


def test_three_quarters_are_those_of_all_blocks_that_a_node_may_have(
    four: Node, family: int
) -> None:
    """Then nobody gives it a further block, whatever others may have."""
    covered(four)
    four.pods_of_egress(family, 2)
    four.own_blocks(family, 3, 9, 11, 12)
    assert opens(four, family, "client", 1025) == 768
    assert opens(four, family, "web", 1025) == 256


def test_the_only_pod_that_uses_an_address_has_all_of_its_ports(a: Node, family: int) -> None:
    a.pods_of_egress(family, 1)
    assert opens(a, family, "client", PORTS + 1) == PORTS


def test_the_refused_pod_hears_of_it(a: Node, family: int) -> None:
    covered(a)
    a.pods_of_egress(family, 2)
    opens(a, family, "client", PORTS)
    packet = Packet(a.plan.pods["client"][family], LEGACY[family], TCP(9999, 443, "S"))
    got = a.from_pod("client", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_RUN": 1})
    assert isinstance(got.packet.l4, Error)


def test_what_may_be_taken_counts_for_nobody(a: Node, family: int) -> None:
    """One-shots that are over are as good as free ports."""
    covered(a)
    a.pods_of_egress(family, 2)
    source = a.plan.pods["client"][family]
    for number in range(PORTS * 2):
        packet = Packet(source, LEGACY[family], UDP(10000 + number, 53))
        assert a.from_pod("client", packet).dropped == {}, number
        if number % 128 == 127:
            a.quiet(11)


def test_a_pod_alone_gets_three_quarters_of_a_table(few: Node, family: int) -> None:
    """The first sweep has counted the pods: there are two."""
    agent = Swept(few)
    hog = few.plan.pods["web"][family]
    refused = None
    for number in range(SIZE):
        agent.look()
        packet = Packet(hog, LEGACY[family], UDP(1 + number, 9))
        got = few.from_pod("web", packet)
        if got.dropped:
            refused = number, got
            break
    assert refused is not None
    number, got = refused
    assert (number, got.verdict) == (SIZE * 3 // 4, REDIRECT)
    assert got.dropped == {"CT_MAP_INSERTION_FAILED": 1}
    assert isinstance(got.packet.l4, Error)
    # The other pod goes on, and so does what has an entry.
    assert opens(few, family, "client", 40) == 40
    assert few.from_pod("web", Packet(hog, LEGACY[family], UDP(1, 9))).dropped == {}


def test_a_share_holds_without_another_sweep(few: Node, family: int) -> None:
    """The pod is faster than the agent, or there is none."""
    few.sweep()
    source = few.plan.pods["web"][family]
    packets = [Packet(source, LEGACY[family], UDP(1 + number, 9)) for number in range(SIZE)]
    granted = sum(few.from_pod("web", packet).dropped == {} for packet in packets)
    assert granted == SIZE * 3 // 4


def test_between_addresses_of_the_mesh_a_packet_needs_no_entry(few: Node, family: int) -> None:
    agent = Swept(few)
    source, to = few.plan.pods["web"][family], PLANS["b"].pods["web"][family]
    for number in range(SIZE * 2):
        agent.look()
        got = few.from_pod("web", Packet(source, to, UDP(1 + number, 9)))
        assert (got.verdict, got.dropped) == (REDIRECT, {}), number
    assert few.count(f"mg_ct_v{family}") == SIZE * 3 // 4


def test_a_packet_from_the_world_without_an_entry_is_dropped_and_answered(
    few: Node, family: int
) -> None:
    """Its direction would decide whether the answer leaves untranslated."""
    agent = Swept(few)
    to = few.plan.pods["web"][family]
    for number in range(SIZE * 3 // 4):
        agent.look()
        assert few.from_uplink(Packet(LEGACY[family], to, UDP(1 + number, 9))).dropped == {}
    got = few.from_uplink(Packet(LEGACY[family], to, UDP(9999, 9)))
    assert got.dropped == {"CT_MAP_INSERTION_FAILED": 1}
    assert isinstance(got.packet.l4, Error)
    assert got.packet.destination == LEGACY[family]


def test_the_sweep_sets_the_counts_right(few: Node, family: int) -> None:
    """Entries that went by another way are no pod's any more."""
    opens(few, family, "client", 100)
    few.clear(f"mg_ct_v{family}")
    few.clear(f"mg_nat_v{family}")
    assert opens(few, family, "client", SIZE) == SIZE * 3 // 4


def test_an_insert_into_a_table_that_is_half_full_calls_for_the_sweep(
    few: Node, family: int
) -> None:
    source, to = few.plan.pods["web"][family], PLANS["b"].pods["web"][family]
    ring = Ring(few.maps["mg_pressure"], few.objects[0].btf.struct("pressure"))
    few.sweep()
    ring.drain()
    tables = []
    for number in range(SIZE // 2 + 2):
        assert ring.drain()["table"].tolist() == [], number
        few.from_pod("web", Packet(source, to, UDP(1 + number, 9)))
        if number >= SIZE // 2:
            tables += ring.drain()["table"].tolist()
    ring.close()
    assert set(tables) == {{4: 0, 6: 1}[family]}


def test_the_ports_of_the_address_are_the_egress_addresses(a: Node, family: int) -> None:
    """The count of pods belongs to the address, not to the family."""
    a.pods_of_egress(10 - family, 2)
    assert EGRESS[family] != EGRESS[10 - family]
    assert opens(a, family, "client", PORTS) == PORTS
