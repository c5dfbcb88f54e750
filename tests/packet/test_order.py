"""Fragments out of order go up to the kernel, which gathers them, and come back in order."""

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from os import getpid

import pytest

from bpf import netns
from tests.packet.nodes import (
    EGRESS,
    LEGACY,
    OK,
    PLANS,
    REDIRECT,
    SHOT,
    Got,
    Node,
    pinned_in,
)
from tests.packet.packets import UDP, Other, Overlay, Packet

Nodes = dict[str, Node]
GATHER, ORDERED = 0x6D676672, 0x6D676F72
SIZE = 64


@pytest.fixture(scope="module")
def gathering(loaded: Nodes) -> Iterator[Nodes]:
    """Nodes a and g on a kernel that gathers fragments."""
    space = loaded["a"].space
    with ExitStack() as stack:
        made: Nodes = {}
        for name in ("a", "g"):
            directory = stack.enter_context(pinned_in(f"dpw-{getpid()}-gathers-{name}"))
            made[name] = Node(PLANS[name], space, directory, gathers=1)
            stack.callback(made[name].close)
        yield made


@pytest.fixture
def a(gathering: Nodes) -> Iterator[Node]:
    yield from _fresh(gathering["a"])


@pytest.fixture
def g(gathering: Nodes) -> Iterator[Node]:
    yield from _fresh(gathering["g"])


def _fresh(node: Node) -> Iterator[Node]:
    node.reset()
    with netns.enter(node.space):
        yield node


def pieces(whole: Packet) -> tuple[Packet, Packet]:
    data = whole.ip()
    body = data[20:] if whole.family == 4 else data[40:]
    l4 = Other(whole.protocol)
    first = whole.but(l4=l4, payload=body[:SIZE], more=True)
    return first, whole.but(l4=l4, payload=body[SIZE:], offset=SIZE)


def of_pod(a: Node, family: int, ident: int = 7) -> tuple[Packet, Packet]:
    source = a.plan.pods["client"][family]
    return pieces(Packet(source, LEGACY[family], UDP(5000, 443), bytes(160), df=False, id=ident))


def from_world(family: int, port: int, ident: int = 7) -> tuple[Packet, Packet]:
    l4 = UDP(443, port)
    return pieces(Packet(LEGACY[family], EGRESS[family], l4, bytes(160), df=False, id=ident))


def test_of_a_pod_a_later_fragment_goes_up_and_so_does_its_first(a: Node, family: int) -> None:
    first, later = of_pod(a, family)
    for piece in (later, first, later):
        got = a.from_pod("client", piece)
        assert (got.verdict, got.dropped, got.mark) == (OK, {}, GATHER)


def test_what_the_kernel_has_gathered_goes_its_way(a: Node, family: int) -> None:
    first, later = of_pod(a, family)
    a.from_pod("client", later)
    for piece in (first, later):
        got = a.from_pod("client", piece, mark=ORDERED)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert got.overlay.inner.source == EGRESS[family]


def test_in_order_fragments_never_go_up(a: Node, family: int) -> None:
    for ident in range(1, 20):
        for piece in of_pod(a, family, ident):
            assert a.from_pod("client", piece).verdict == REDIRECT


def test_without_a_kernel_that_gathers_a_later_fragment_is_dropped(
    nodes: Nodes, family: int
) -> None:
    _, later = of_pod(nodes["a"], family)
    got = nodes["a"].from_pod("client", later)
    assert (got.verdict, got.dropped) == (SHOT, {"FRAGMENT_NOT_FOUND": 1})


def test_another_pods_source_goes_nowhere(a: Node, family: int) -> None:
    _, later = of_pod(a, family)
    got = a.from_pod("web", later)
    assert (got.verdict, got.dropped) == (SHOT, {"FRAGMENT_NOT_FOUND": 1})


def test_at_the_gateway_too(g: Node, family: int) -> None:
    port = 1024 + 3 * 256 + 5  # of a block of node a
    first, later = from_world(family, port)
    assert _up(g.from_uplink(later))
    assert _up(g.from_uplink(first))
    for piece in (first, later):
        got = g.from_uplink(piece, mark=ORDERED)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert got.overlay.vni == 2


def _up(got: Got) -> bool:
    return (got.verdict, got.dropped, got.mark) == (OK, {}, GATHER)


def test_mg_vxlan_gives_it_back_to_where_it_was(a: Node, g: Node, family: int) -> None:
    first, _ = of_pod(a, family)
    got = a.run("mg_to_vxlan", first, ifindex=a.devices["dpwup"], mark=GATHER)
    assert (got.verdict, got.mark) == (REDIRECT, ORDERED)
    first, _ = from_world(family, 2000)
    got = g.run("mg_to_vxlan", first, ifindex=g.devices["dpwup"], mark=GATHER)
    assert (got.verdict, got.mark) == (REDIRECT, ORDERED)


def test_it_leaves_by_no_uplink_when_the_rule_is_gone(a: Node, family: int) -> None:
    first, _ = of_pod(a, family)
    got = a.to_uplink(first, mark=GATHER)
    assert (got.verdict, got.dropped) == (SHOT, {"FRAGMENT_NOT_FOUND": 1})


# Several gateways


@pytest.fixture
def two(gathering: Nodes) -> Iterator[Nodes]:
    """Gateways a and g of the egress address; ports of both families are node b's or a's."""
    for node in gathering.values():
        node.reset()
        for family in (4, 6):
            node.gateways(family, "a", "g")
    with netns.enter(gathering["a"].space):
        yield gathering


def test_pieces_of_a_datagram_meet_at_one_gateway(two: Nodes, family: int) -> None:
    port = 1024 + 5 * 256 + 5  # of a block of node b
    met = {"a": 0, "g": 0}
    for ident in range(40):
        pieces_ = from_world(family, port, ident)
        places = {met_at(two, name, piece) for name in ("a", "g") for piece in pieces_}
        assert len(places) == 1, (ident, places)
        met[places.pop()] += 1
    assert min(met.values()) > 5


def met_at(two: Nodes, name: str, piece: Packet) -> str:
    """The gateway that handles a piece which comes to this one."""
    got = two[name].from_uplink(piece)
    if got.verdict == OK:
        assert got.mark == GATHER
        return name
    overlay = got.overlay
    by_endpoint = {plan.endpoint: plan.name for plan in PLANS.values()}
    to = by_endpoint[overlay.destination]
    return name if to == "b" else to


def hidden(port: int) -> tuple[Packet, ...]:
    """Pieces that a test can hand to the uplink's program: others the kernel's device opens."""
    option = bytes([44, 0, 1, 4, 0, 0, 0, 0])
    return tuple(one.but(options=option, first=60) for one in from_world(6, port))


def sent_on(two: Nodes, piece: Packet, sender: str = "10.99.0.11") -> Got:
    return two["g"].from_uplink(Overlay(sender, "10.99.0.13", 2, piece))


def test_what_another_gateway_sends_here_goes_to_the_ports_node(two: Nodes) -> None:
    for piece in hidden(1024 + 5 * 256 + 5):
        got = sent_on(two, piece)
        assert (got.verdict, got.dropped) == (REDIRECT, {})
        assert got.packet.destination == EGRESS[6]


def test_out_of_order_from_another_gateway_goes_up(two: Nodes) -> None:
    for piece in reversed(hidden(1024 + 5 * 256 + 5)):
        assert _up(sent_on(two, piece))


def test_from_a_node_that_is_no_gateway_nothing_is_gathered(two: Nodes) -> None:
    _, later = hidden(1024 + 5 * 256 + 5)
    got = sent_on(two, later, "10.99.0.12")
    assert (got.verdict, got.dropped) == (SHOT, {"FRAGMENT_NOT_FOUND": 1})


def test_a_gateway_that_is_down_is_no_place_to_meet(two: Nodes, family: int) -> None:
    port = 1024 + 5 * 256 + 5
    for node, other in (("a", "10.99.0.13"), ("g", "10.99.0.11")):
        row = {"state": 1, "asked": 3}
        two[node].maps["mg_gw_live"].update_one(IPv4Address(other).packed, row)
    for ident in range(10):
        for name in ("a", "g"):
            for piece in from_world(family, port, ident):
                assert met_at(two, name, piece) == name
