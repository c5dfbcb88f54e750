"""Routes that BGP has taught, and networks that it has given labels.

The gateway's main table says that the legacy network is unreachable: what gets through has taken a
route of the learned table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from os import getpid

import pytest

from tests.packet.nodes import (
    EGRESS,
    LEGACY,
    OK,
    REDIRECT,
    ROUTER,
    SHOT,
    Node,
    Pod,
    addr_value,
    ip,
    pinned_in,
)
from tests.packet.packets import UDP, Echo, Error, Overlay, Packet

Nodes = dict[str, Node]
A, G = "10.99.0.11", "10.99.0.13"
TABLE = 4100
NETWORK = {4: "192.0.2.0/24", 6: "2001:db8:2::/48"}
#: The identity of what has the label, and the class that a policy selects it for.
HQ, CLASS = 65800, 5
EGRESS_TRANSLATE, EGRESS_EXCLUDED, EGRESS_NO_GATEWAY = 1, 2, 3


@pytest.fixture(scope="module")
def taught(loaded: Nodes) -> Iterator[Nodes]:
    """The pod's node and the gateway, with the learned table in their configuration."""
    with pinned_in(f"dpw-{getpid()}-la") as one, pinned_in(f"dpw-{getpid()}-lg") as other:
        made = {
            name: Node(loaded[name].plan, loaded[name].space, directory, learned_table=TABLE)
            for name, directory in (("a", one), ("g", other))
        }
        yield made
        for node in made.values():
            node.close()


@pytest.fixture
def learned(nodes: Nodes, taught: Nodes) -> Nodes:  # noqa: ARG001 - the namespace is entered
    for node in taught.values():
        node.reset()
    return taught


@contextmanager
def route(node: Node, *words: str) -> Iterator[None]:
    ip(node.space.name, "route", "add", *words)
    try:
        yield
    finally:
        ip(node.space.name, "route", "del", *words)


@contextmanager
def unreachable(node: Node, family: int) -> Iterator[None]:
    """The main table leads nowhere."""
    metric = ["metric", "1"] if family == 6 else []
    with route(node, "unreachable", NETWORK[family], *metric):
        yield


def by_router(node: Node, family: int, network: str = "") -> AbstractContextManager[None]:
    to = network or NETWORK[family]
    return route(node, to, "via", ROUTER[family], "dev", "dpwup", "table", str(TABLE))


def to_legacy(nodes: Nodes, family: int, **fields: object) -> Packet:
    packet = Packet(
        nodes["a"].plan.pods["client"][family], LEGACY[family], UDP(5000, 53), b"x" * 32
    )
    return packet.but(**fields) if fields else packet


def test_a_gateway_takes_a_learned_route_before_its_own(learned: Nodes, family: int) -> None:
    a, g = learned["a"], learned["g"]
    sent = a.from_pod("client", to_legacy(learned, family)).wire
    with unreachable(g, family):
        with by_router(g, family):
            got = g.from_uplink(sent)
            assert (got.verdict, got.dropped) == (REDIRECT, {})
            assert (got.packet.source, got.packet.ttl) == (EGRESS[family], 63)
        gone = g.from_uplink(sent)
        assert gone.dropped == {"FIB_LOOKUP_FAILED": 1}, "withdrawn: the host's own routes count"


def test_the_gateways_own_pod_takes_it_too(learned: Nodes, family: int) -> None:
    g = learned["g"]
    packet = Packet(g.plan.pods["client"][family], LEGACY[family], Echo(77))
    with unreachable(g, family), by_router(g, family):
        got = g.from_pod("client", packet)
    assert (got.verdict, got.dropped, got.packet.source) == (REDIRECT, {}, EGRESS[family])


def test_another_table_is_not_asked(learned: Nodes, family: int) -> None:
    a, g = learned["a"], learned["g"]
    words = (NETWORK[family], "via", ROUTER[family], "dev", "dpwup", "table", "4101")
    with unreachable(g, family), route(g, *words):
        got = g.from_uplink(a.from_pod("client", to_legacy(learned, family)).wire)
    assert got.dropped == {"FIB_LOOKUP_FAILED": 1}


def test_without_the_setting_no_table_is_asked(nodes: Nodes, family: int) -> None:
    a, g = nodes["a"], nodes["g"]
    with unreachable(g, family), by_router(g, family):
        got = g.from_uplink(a.from_pod("client", to_legacy(nodes, family)).wire)
    assert got.dropped == {"FIB_LOOKUP_FAILED": 1}


def test_a_network_on_a_link_is_left_to_the_main_table(learned: Nodes, family: int) -> None:
    """A shorter learned prefix leads elsewhere: `throw` says that this network is not its."""
    a, g = learned["a"], learned["g"]
    sent = a.from_pod("client", to_legacy(learned, family)).wire
    wide = {4: "192.0.0.0/16", 6: "2001:db8::/32"}[family]
    with (
        by_router(g, family, wide),
        unreachable(g, family),
        route(g, "throw", NETWORK[family], "table", str(TABLE)),
    ):
        got = g.from_uplink(sent)
    assert got.dropped == {"FIB_LOOKUP_FAILED": 1}


def test_what_is_too_big_for_a_learned_route_is_told(learned: Nodes, family: int) -> None:
    a, g = learned["a"], learned["g"]
    big = to_legacy(learned, family, payload=b"x" * 1300)
    words = (NETWORK[family], "via", ROUTER[family], "dev", "dpwup", "mtu", "lock", "1280")
    with route(g, *words, "table", str(TABLE)):
        got = g.from_uplink(a.from_pod("client", big).wire)
    assert got.dropped == {"FRAGMENTATION_NEEDED": 1}
    assert isinstance(got.packet.l4, Error)


# Labels


def label(node: Node, family: int, identity: int = HQ) -> None:
    node.cidr("mg_learned", NETWORK[family], identity)  # type: ignore[arg-type]


def covers(node: Node, family: int, action: int = EGRESS_TRANSLATE) -> None:
    """A policy that selects the label covers the pod `web`."""
    pod = node.plan.pods["web"]
    node.pod(Pod(pod.device, pod.identity, pod.addresses, CLASS))
    key = {"egress_class": CLASS, "identity": HQ, "family": family}
    value: dict[str, object] = {"action": action, "family": family}
    if action == EGRESS_TRANSLATE:
        value["address"] = addr_value(EGRESS[family])
    node.maps["mg_egress_label"].update_one(key, value)


def from_web(node: Node, family: int, port: int = 53) -> Packet:
    return Packet(node.plan.pods["web"][family], LEGACY[family], UDP(5000, port), b"x" * 32)


def test_a_policy_covers_what_has_its_label(learned: Nodes, family: int) -> None:
    a = learned["a"]
    covers(a, family)
    plain = from_web(a, family)
    assert a.from_pod("web", plain).packet == plain, "nothing has the label yet"
    label(a, family)
    got = a.from_pod("web", from_web(a, family, 54))
    assert (got.verdict, got.dropped) == (REDIRECT, {})
    assert got.overlay.inner.source == EGRESS[family]
    assert (got.overlay.source, got.overlay.destination) == (A, G)


def test_another_label_is_not_covered(learned: Nodes, family: int) -> None:
    a = learned["a"]
    covers(a, family)
    label(a, family, HQ + 1)
    packet = from_web(a, family)
    got = a.from_pod("web", packet)
    assert (got.verdict, got.packet) == (OK, packet)


def test_a_pod_that_no_policy_covers_leaves_as_it_is(learned: Nodes, family: int) -> None:
    a = learned["a"]
    label(a, family)
    packet = from_web(a, family)
    got = a.from_pod("web", packet)
    assert (got.verdict, got.packet) == (OK, packet)


def test_the_label_goes_with_the_prefix(learned: Nodes, family: int) -> None:
    """A connection that has begun keeps its translation."""
    a = learned["a"]
    covers(a, family)
    label(a, family)
    assert a.from_pod("web", from_web(a, family)).verdict == REDIRECT
    a.clear("mg_learned")
    assert a.from_pod("web", from_web(a, family)).overlay.inner.source == EGRESS[family]
    fresh = from_web(a, family, 54)
    assert a.from_pod("web", fresh).packet == fresh


def test_a_policy_without_a_gateway_drops_what_has_the_label(learned: Nodes, family: int) -> None:
    a = learned["a"]
    covers(a, family, EGRESS_NO_GATEWAY)
    label(a, family)
    got = a.from_pod("web", from_web(a, family))
    assert (got.verdict, got.dropped) == (SHOT, {"NO_EGRESS_GATEWAY": 1})


def test_an_excluded_network_comes_before_its_label(learned: Nodes, family: int) -> None:
    a = learned["a"]
    covers(a, family)
    label(a, family)
    a.egress(NETWORK[family], EGRESS_EXCLUDED, pod_class=CLASS)
    packet = from_web(a, family)
    assert a.from_pod("web", packet).packet == packet


def test_a_label_comes_before_a_network(learned: Nodes, family: int) -> None:
    a = learned["a"]
    covers(a, family)
    label(a, family)
    a.egress(NETWORK[family], EGRESS_NO_GATEWAY, pod_class=CLASS)
    assert a.from_pod("web", from_web(a, family)).overlay.inner.source == EGRESS[family]


@pytest.mark.parametrize("pod", ["web", "client"], ids=["plain", "translated"])
def test_flows_show_the_identity_of_the_label(learned: Nodes, family: int, pod: str) -> None:
    a = learned["a"]
    label(a, family)
    packet = Packet(a.plan.pods[pod][family], LEGACY[family], UDP(5000, 53))
    (event,) = a.from_pod(pod, packet).events
    assert int(event["destination_identity"]) == HQ


def test_flows_show_it_of_who_opens_a_connection_to_a_pod(learned: Nodes, family: int) -> None:
    a = learned["a"]
    label(a, family)
    packet = Packet(LEGACY[family], a.plan.pods["web"][family], UDP(5000, 53))
    (event,) = a.from_uplink(packet).events
    assert int(event["source_identity"]) == HQ


def test_pods_of_the_mesh_have_no_other_identity(learned: Nodes, family: int) -> None:
    """Whatever a router teaches about their network."""
    a = learned["a"]
    a.cidr("mg_learned", {4: "10.0.0.0/8", 6: "fd00::/8"}[family], HQ)  # type: ignore[arg-type]
    packet = Packet(
        a.plan.pods["web"][family], {4: "10.1.1.7", 6: "fd01:0:0:1::7"}[family], UDP(1, 2)
    )
    got = a.from_pod("web", packet)
    assert isinstance(got.overlay, Overlay)
    assert [int(event["destination_identity"]) for event in got.events] == [1 << 16 | 1 << 8 | 7]
