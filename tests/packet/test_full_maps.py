"""Maps that are full: connections that are there go on, and no packet has a wrong source."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, ip_network
from os import getpid
from pathlib import Path

import pytest

from bpf import netns
from mesh.identity.addresses import KIND_NODE, KIND_POD
from tests.fixtures.rooms import ENDPOINT
from tests.packet.full_node import (
    GATEWAY,
    PLAIN,
    TRANSLATED,
    TRANSPORTS,
    FullRooms,
    SmallNode,
    covered_by,
)
from tests.packet.nodes import LEGACY, PLANS, REDIRECT, Node, pinned_in
from tests.packet.packets import UDP, Error, Packet

#: A preallocated hash holds a few entries less than its size: free ones wait on other CPUs.
SLACK = 16


class Loader:
    """Nodes with small maps, each kind loaded once and emptied for each test."""

    def __init__(self, space: Path, stack: ExitStack) -> None:
        self.space, self._stack = space, stack
        self._made: dict[str, Node] = {}

    def __call__(self, name: str, kind: type[Node], **entries: int) -> Node:
        """The node of this name, as if it had just been loaded."""
        if name in self._made:
            self._made[name].reset()
            return self._made[name]
        directory = self._stack.enter_context(pinned_in(f"dpw-{getpid()}-{name}"))
        sized = type(name, (kind,), {"entries": entries})
        node = self._made[name] = sized(PLANS["a"], self.space, directory)
        self._stack.callback(node.close)
        return node


def node(kind: type[Node], loaded: dict[str, Node]) -> Iterator[Node]:
    """One node of a kind, for one test."""
    space = loaded["a"].space
    with pinned_in(f"dpw-{getpid()}-{kind.__name__}") as directory:
        made = kind(PLANS["a"], space, directory)
        try:
            with netns.enter(space):
                yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def small(loaded: dict[str, Node]) -> Iterator[Loader]:
    with ExitStack() as stack:
        yield Loader(loaded["a"].space, stack)


@pytest.fixture
def few_connections(small: Loader) -> Iterator[Node]:
    with netns.enter(small.space):
        yield small("few_connections", Node, mg_ct_v4=64, mg_ct_v6=64)


@pytest.fixture
def few_mappings(small: Loader) -> Iterator[Node]:
    with netns.enter(small.space):
        yield small("few_mappings", Node, mg_nat_v4=64, mg_nat_v6=64)


def packet(node: Node, family: int, number: int, pod: str = "client", to: str = "") -> Packet:
    to = to or (LEGACY[family] if pod == "client" else PLANS["b"].pods["web"][family])
    return Packet(node.plan.pods[pod][family], to, UDP(10000 + number, 53))


def fill(node: Node, family: int, pod: str, to: str = "") -> int:
    """How many connections the node took before it refused one."""
    for number in range(64 + 1):
        if node.from_pod(pod, packet(node, family, number, pod, to)).dropped:
            return number
    pytest.fail("nothing was refused")


def test_plain_connections_beyond_the_map_are_dropped(few_connections: Node, family: int) -> None:
    """To the world: the sender is told, and what has an entry goes on."""
    node = few_connections
    taken = fill(node, family, "web", LEGACY[family])
    assert taken >= 64 - SLACK
    got = node.from_pod("web", packet(node, family, 9999, "web", LEGACY[family]))
    assert (got.verdict, got.dropped) == (REDIRECT, {"CT_MAP_INSERTION_FAILED": 1})
    assert isinstance(got.packet.l4, Error)
    for number in range(taken):
        again = packet(node, family, number, "web", LEGACY[family])
        assert node.from_pod("web", again).dropped == {}


def test_connections_within_the_mesh_beyond_the_map_need_no_entry(
    few_connections: Node, family: int
) -> None:
    node = few_connections
    for number in range(64 + SLACK):
        assert node.from_pod("web", packet(node, family, number, "web")).dropped == {}
    assert 64 - SLACK <= node.count(f"mg_ct_v{family}") <= 64


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


# Maps that the agent fills: what has no room

#: Entries of the map that is too small.
ROOM = 16
PODS = 12


@contextmanager
def full_rooms(name: str, small: Loader, state: Path) -> Iterator[FullRooms]:
    """A node whose map ``name`` is small."""
    with netns.enter(small.space):
        rooms = FullRooms(small(f"small_{name}", SmallNode, **{name: ROOM}), state)
        rooms.put_hop(GATEWAY, "east")
        try:
            yield rooms
        finally:
            rooms.close()


def outcomes(rooms: FullRooms, family: int) -> dict[int, str]:
    """What became of a datagram of each pod to what its policy covers; nothing left uncovered."""
    found = {}
    for number, source in rooms.sources(family):
        to = covered_by(number, family)
        sent = [rooms.send(source, to, l4) for l4 in TRANSPORTS]
        assert PLAIN not in sent, f"a packet with a wrong source: {sent}"
        found[number] = sent[0]
    return found


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mg_pod_addr", "ENDPOINT_NOT_READY"),
        ("mg_egress", "EGRESS_NO_ROOM"),
        ("mg_egress_addr", "NO_EGRESS_GATEWAY"),
        ("mg_gateway", "NO_EGRESS_GATEWAY"),
        ("mg_own_block", "NO_BLOCK"),
    ],
)
def test_what_has_no_room_is_dropped_by_name(
    name: str, reason: str, small: Loader, family: int, tmp_path: Path
) -> None:
    with full_rooms(name, small, tmp_path) as rooms:
        rooms.put_covered(PODS, "gateway")
        rooms.begin()
        rooms.put_addresses_of_pods()
        rooms.settle()
        found = outcomes(rooms, family)
        assert set(found.values()) == {TRANSLATED, reason}
        assert rooms.full == {name: (2 * PODS, ROOM - (name == "mg_egress"))}
        assert rooms.node.count(name) <= ROOM


def test_a_gateway_drops_what_belongs_to_a_block_without_room(
    small: Loader, family: int, tmp_path: Path
) -> None:
    with full_rooms("mg_block", small, tmp_path) as rooms:
        rooms.put_covered(PODS, "own")
        rooms.begin()
        found = outcomes(rooms, family)
        assert set(found.values()) == {TRANSLATED, "BLOCK_NOT_OWNED"}
        assert rooms.full == {"mg_block": (2 * PODS, ROOM)}
        for number, outcome in found.items():
            egress = f"198.51.{number}.10" if family == 4 else f"2001:db8:100:{number}::10"
            reply = Packet(LEGACY[family], egress, UDP(53, 1024 + 256 * number))
            dropped = rooms.node.from_uplink(reply).dropped
            assert dropped == ({"NO_NAT_MAPPING": 1} if outcome == TRANSLATED else UNOWNED)


#: Nobody has the port.
UNOWNED = {"BLOCK_NO_OWNER": 1}


def test_a_gateway_that_has_no_hop_gets_nothing(small: Loader, family: int, tmp_path: Path) -> None:
    with full_rooms("mg_node", small, tmp_path) as rooms:
        rooms.put_covered(2, "gateway")
        rooms.nodes.hop.delete([*rooms.nodes.hop.rows])
        for last in range(30):
            rooms.put_hop(f"10.99.1.{last}", "west")
        rooms.put_hop(GATEWAY, "east")
        rooms.begin()
        assert set(outcomes(rooms, family).values()) == {TRANSLATED}, "own nodes come first"
        for last in range(30):
            rooms.put_hop(f"10.99.2.{last}", "east")
        rooms.settle()
        assert set(outcomes(rooms, family).values()) == {TRANSLATED}, "a row keeps its place"
        rooms.nodes.hop.delete([IPv4Address(GATEWAY)])
        rooms.settle()
        rooms.put_hop(GATEWAY, "east")
        rooms.settle()
        assert set(outcomes(rooms, family).values()) == {"NO_TUNNEL_ENDPOINT"}
        assert rooms.full == {"mg_node": (61, ROOM)}


NODES = {4: ("10.99.0.11", "10.99.0.12", "10.99.0.21"), 6: ("fd99::11", "fd99::12", "fd99::21")}


@pytest.mark.parametrize("late", [False, True], ids=["nodes first", "pods first"])
def test_no_node_counts_as_the_world(
    *, late: bool, small: Loader, family: int, tmp_path: Path
) -> None:
    """A node without a row would get translated packets; pods are known by their pod CIDR."""
    wide = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    with full_rooms("mg_address", small, tmp_path) as rooms:
        rooms.put_covered(4, "gateway", *wide)
        rooms.put_hop("10.99.0.21", "west")
        for network in ("10.2.0.0/24", "fd02::/64"):
            rooms.put_cidr(ip_network(network), "west", "10.99.0.21")
        if late:
            many_pods(rooms)
            rooms.begin()
        for text, node in zip((*NODES[4], *NODES[6]), 2 * NODES[4], strict=True):
            rooms.put_address(text, KIND_NODE, "east" if node < "10.99.0.2" else "west", node)
        if late:
            rooms.settle()
        else:
            many_pods(rooms)
            rooms.begin()
        assert rooms.full == {"mg_address": (6 + 2 * 20 + 2 * 4, ROOM)}
        peers = [f"10.2.0.{last}" if family == 4 else f"fd02::{last}" for last in range(1, 21)]
        for _, source in rooms.sources(family):
            for to in (*NODES[family], *peers):
                assert rooms.send(source, to, UDP(5000, 53)) == PLAIN
            assert rooms.send(source, LEGACY[family], UDP(5000, 53)) == TRANSLATED


def many_pods(rooms: FullRooms) -> None:
    """Pods of a peer, then those of this node: more than have room."""
    for last in range(1, 21):
        for text in (f"10.2.0.{last}", f"fd02::{last}"):
            rooms.put_address(text, KIND_POD, "west", "10.99.0.21")
    for last in range(2, 6):
        for text in (f"10.1.0.{last}", f"fd01::{last}"):
            rooms.put_address(text, KIND_POD, "east", str(ENDPOINT))


def test_pod_cidrs_of_our_own_cluster_come_first(
    small: Loader, family: int, tmp_path: Path
) -> None:
    wide = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    with full_rooms("mg_addr_cidr", small, tmp_path) as rooms:
        rooms.put_covered(1, "gateway", *wide)
        rooms.put_hop("10.99.0.12", "east")
        for number in range(30):
            rooms.put_cidr(ip_network(f"10.2.{number}.0/24"), "west", "10.99.0.21")
        for network in ("10.1.1.0/24", "fd01:0:0:1::/64"):
            rooms.put_cidr(ip_network(network), "east", "10.99.0.12")
        rooms.begin()
        assert rooms.full == {"mg_addr_cidr": (32, ROOM - 1)}
        ((_, source),) = rooms.sources(family)
        to = "10.1.1.9" if family == 4 else "fd01:0:0:1::9"
        assert rooms.send(source, to, UDP(5000, 53)) == PLAIN
