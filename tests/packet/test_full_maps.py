"""Maps that are full refuse new connections and keep the old ones."""

from collections.abc import Iterator, Mapping
from os import getpid
from typing import ClassVar

import pytest

from bpf import netns
from tests.packet.nodes import LEGACY, PLANS, REDIRECT, SHOT, Node, pinned_in
from tests.packet.packets import UDP, Error, Packet

#: A preallocated hash holds a few entries less than its size: free ones wait on other CPUs.
SLACK = 16


class FewConnections(Node):
    entries: ClassVar[Mapping[str, int]] = {"mg_ct_v4": 64, "mg_ct_v6": 64}


class FewMappings(Node):
    entries: ClassVar[Mapping[str, int]] = {"mg_nat_v4": 64, "mg_nat_v6": 64}


def node(kind: type[Node], loaded: dict[str, Node]) -> Iterator[Node]:
    space = loaded["a"].space
    with pinned_in(f"dpw-{getpid()}-{kind.__name__}") as directory:
        made = kind(PLANS["a"], space, directory)
        try:
            with netns.enter(space):
                yield made
        finally:
            made.close()


@pytest.fixture
def few_connections(loaded: dict[str, Node]) -> Iterator[Node]:
    yield from node(FewConnections, loaded)


@pytest.fixture
def few_mappings(loaded: dict[str, Node]) -> Iterator[Node]:
    yield from node(FewMappings, loaded)


def packet(node: Node, family: int, number: int, pod: str = "client") -> Packet:
    to = LEGACY[family] if pod == "client" else PLANS["b"].pods["web"][family]
    return Packet(node.plan.pods[pod][family], to, UDP(10000 + number, 53))


def fill(node: Node, family: int, pod: str) -> int:
    """How many connections the node took before it refused one."""
    for number in range(64 + 1):
        if node.from_pod(pod, packet(node, family, number, pod)).dropped:
            return number
    pytest.fail("nothing was refused")


def test_plain_connections_beyond_the_map_are_dropped(few_connections: Node, family: int) -> None:
    node = few_connections
    taken = fill(node, family, "web")
    assert taken >= 64 - SLACK
    got = node.from_pod("web", packet(node, family, 9999, "web"))
    assert (got.verdict, got.dropped) == (SHOT, {"CT_MAP_INSERTION_FAILED": 1})
    for number in range(taken):
        assert node.from_pod("web", packet(node, family, number, "web")).dropped == {}


def test_translated_connections_beyond_the_map_are_refused_and_hold_no_port(
    few_connections: Node, family: int
) -> None:
    node = few_connections
    taken = fill(node, family, "client")
    got = node.from_pod("client", packet(node, family, 9999))
    assert (got.verdict, got.dropped) == (REDIRECT, {"CT_MAP_INSERTION_FAILED": 1})
    assert isinstance(got.packet.l4, Error)
    assert node.count(f"mg_nat_v{family}") == node.count(f"mg_ct_v{family}") == taken
    for number in range(taken):
        assert node.from_pod("client", packet(node, family, number)).dropped == {}


def test_mappings_beyond_the_map_are_refused(few_mappings: Node, family: int) -> None:
    node = few_mappings
    taken = fill(node, family, "client")
    got = node.from_pod("client", packet(node, family, 9999))
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_NAT_MAPPING": 1})
    assert isinstance(got.packet.l4, Error)
    assert node.count(f"mg_nat_v{family}") == node.count(f"mg_ct_v{family}") == taken
