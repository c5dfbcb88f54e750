"""What FRR 8.4 sends and is sent, over restarts of everything. Topology: frr_router.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.speaker.frr_router import Router, until
from tests.interop.speaker.ribs_node import RibsNode, attributes

pytestmark = pytest.mark.slow

PEER = {"address": "10.99.0.1", "local": "10.99.0.11"}
POD = ["10.99.0.1", "10.1.0.0/24", "10.99.0.11"]
POLICY = (
    "route-map SAID permit 10",
    "set community 65000:100",
    "set large-community 65000:1:2",
    "set extcommunity rt 65000:7",
    "set metric 50",
    "exit",
)
FOUR, OTHER, SIX = "10.99.0.1 20.0.1.0/24", "10.99.0.1 20.0.2.0/24", "10.99.0.1 2001:db8:20::/48"


def networks(router: Router, family: str, *lines: str) -> None:
    router.vty.configure("router bgp 65000", f"address-family {family} unicast", *lines)


@pytest.fixture
def node(router: Router, tmp_path: Path) -> Iterator[RibsNode]:
    router.vty.configure(*POLICY)
    networks(router, "ipv4", "network 20.0.1.0/24 route-map SAID", "network 20.0.2.0/24")
    networks(router, "ipv6", "network 2001:db8:20::/48 route-map SAID")
    node = RibsNode(tmp_path)
    node.desire(POD, peers=[PEER])
    node.start()
    try:
        until(node.has(FOUR, OTHER, SIX), "the router's routes are there")
        yield node
    finally:
        networks(router, "ipv4", "no network 20.0.1.0/24", "no network 20.0.2.0/24")
        networks(router, "ipv6", "no network 2001:db8:20::/48")
        node.stop(router)


def test_routes_come_with_every_attribute_and_go_when_they_are_withdrawn(
    node: RibsNode, router: Router
) -> None:
    said = {
        "as_path": [65000],
        "communities": ["65000:100"],
        "large": ["65000:1:2"],
        "extended": ["target:65000:7"],
        "med": 50,
    }
    rows = node.received()
    assert attributes(rows[FOUR]) == {"next_hop": "10.99.0.1", **said}
    assert attributes(rows[OTHER]) == {"next_hop": "10.99.0.1", "as_path": [65000], "med": 0}
    assert attributes(rows[SIX])["communities"] == ["65000:100"]
    networks(router, "ipv4", "no network 20.0.2.0/24")
    until(node.has(FOUR, SIX), "a withdrawn route is gone")


def test_what_is_sent_is_read_from_the_wire_and_echoed_by_the_router(node: RibsNode) -> None:
    """FRR leaves AS loops to the receiver: our route comes back, and is no row."""
    until(lambda: set(node.sent()) == {"10.99.0.1 10.1.0.0/24"}, "the route is sent")
    assert attributes(node.sent()["10.99.0.1 10.1.0.0/24"]) == {
        "next_hop": "10.99.0.11",
        "as_path": [65101],
    }
    until(lambda: node.said().get("echoes") == ["10.1.0.0/24"], "the router echoes it")
    node.desire(peers=[PEER])
    until(lambda: node.sent() == {} and node.arrived(), "it is withdrawn")
    assert node.state("10.99.0.1") == "established"


def test_a_killed_speaker_comes_back_to_what_the_router_has_now(
    node: RibsNode, router: Router
) -> None:
    until((node.engine.run_dir / "ribs.journal").exists, "the rows are on the disk")
    until(lambda: set(node.sent()) == {"10.99.0.1 10.1.0.0/24"}, "the route is sent")
    before = router.vty.peer("10.99.0.11")["connectionsEstablished"]
    node.kill()
    networks(router, "ipv4", "no network 20.0.2.0/24")
    node.start()
    until(node.has(FOUR, SIX), "what was withdrawn meanwhile is gone")
    until(lambda: node.said()["synced"], "everything was asked for")
    assert set(node.sent()) == {"10.99.0.1 10.1.0.0/24"}
    assert router.vty.peer("10.99.0.11")["connectionsEstablished"] == before


def test_a_killed_exabgp_leaves_rows_that_are_stale_until_they_come_again(
    node: RibsNode, router: Router
) -> None:
    seen = set[frozenset[str]]()

    def stale() -> bool:
        rows = node.received()
        if rows:
            seen.add(frozenset(rows))
        return any(row["stale"] for row in rows.values())

    networks(router, "ipv4", "no network 20.0.2.0/24")
    until(node.has(FOUR, SIX), "two routes are left")
    old = node.engine_pid()
    os.kill(old, signal.SIGKILL)
    until(stale, "the rows are stale")
    node.new_engine_pid(old)
    until(lambda: not stale() and node.state("10.99.0.1") == "established", "confirmed")
    assert node.has(FOUR, SIX)()
    assert seen == {frozenset((FOUR, SIX))}, "no row was ever missing"


def test_rows_of_a_router_that_ends_the_session_go_with_it(node: RibsNode, router: Router) -> None:
    """A NOTIFICATION is no restart (RFC 4724 4)."""
    router.vty.configure("router bgp 65000", "neighbor 10.99.0.11 shutdown")
    until(node.has(), "its routes are gone")
    router.vty.configure("router bgp 65000", "no neighbor 10.99.0.11 shutdown")
    until(node.has(FOUR, OTHER, SIX), "and back with it")
