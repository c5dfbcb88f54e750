"""The session against FRR 8.4: exact routes, adoption, graceful restart. Topology: frr_router.py.

The speaker's tables come from a file here (driver.py), so that each sync state can be told.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import bgp.exabgp.launcher
from bgp.exabgp.engine import ENVIRONMENT
from tests.interop.speaker.driver import USER
from tests.interop.speaker.frr_router import (
    NODE,
    Router,
    held,
    holds,
    holds_on,
    stale,
    until,
    whole,
)
from tests.interop.speaker.node import PEER, Node

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
POD4 = ["10.99.0.1", "10.1.0.0/24", "10.99.0.11"]
POD6 = ["10.99.0.1", "fd01::/64", "fd99::11"]
LOCATOR = ["10.99.0.1", "fcbb:bb01:1::/48", "fd99::11"]
EGRESS4 = ["10.99.0.1", "198.51.100.10/32", "10.99.0.11"]
ALL = [POD4, POD6, LOCATOR, EGRESS4]


def launcher(node: Node) -> list[str]:
    """What a speaker starts."""
    run_dir, user = str(node.engine.run_dir), f"{USER.uid}:{USER.gid}"
    return [sys.executable, "-I", bgp.exabgp.launcher.__file__, run_dir, user]


def up(node: Node, router: Router, *routes: list[str]) -> None:
    node.desire(*routes)
    node.start()
    until(node.arrived, "everything is announced")
    until(lambda: holds(router, *routes), "the router holds exactly these routes")


def test_the_router_holds_exactly_the_routes_of_both_families(node: Node, router: Router) -> None:
    up(node, router, *ALL)
    node.desire(POD4, LOCATOR)
    until(lambda: holds(router, POD4, LOCATOR), "what disappeared is withdrawn")
    hop = [POD4[0], POD4[1], "10.99.0.12"]
    node.desire(hop, LOCATOR)
    until(lambda: router.vty.routes("ipv4 unicast") == {POD4[1]: {"10.99.0.12"}}, "new next hop")


def test_a_killed_speaker_loses_nothing_and_the_next_one_adopts(
    node: Node, router: Router, deleted: Any
) -> None:
    up(node, router, *ALL)
    exabgp, relay = node.engine_pid(), node.engine.relay_pid()
    before = router.vty.peer("10.99.0.11")["connectionsEstablished"]
    node.kill()
    node.start()
    until(node.arrived, "the new speaker has read what is announced")
    assert (node.engine.pid(), node.engine.relay_pid()) == (exabgp, relay)
    assert node.said()["written"] == 0
    node.desire(*ALL[:3])
    until(lambda: holds(router, *ALL[:3]), "the new speaker's difference arrives")
    until(lambda: deleted() == ["198.51.100.10"], "only the withdrawn route is deleted")
    assert router.vty.peer("10.99.0.11")["connectionsEstablished"] == before


def test_a_stopped_speaker_leaves_the_session_up(node: Node, router: Router, deleted: Any) -> None:
    up(node, router, *ALL)
    exabgp = node.engine_pid()
    node.kill(signal.SIGTERM)
    assert held(router) == whole(*ALL)
    node.start()
    until(node.arrived, "the new speaker has adopted")
    assert node.engine.pid() == exabgp
    assert deleted() == []


def test_a_killed_exabgp_loses_no_route(node: Node, router: Router, deleted: Any) -> None:
    up(node, router, *ALL)
    old, relay = node.engine_pid(), node.engine.relay_pid()
    os.kill(old, signal.SIGKILL)
    new = node.new_engine_pid(old)
    until(node.arrived, "everything is announced again, End-of-RIB included")
    until(lambda: not stale(router), "no route is stale")
    assert held(router) == whole(*ALL)
    assert deleted() == []
    assert new == node.engine.pid()
    until(
        lambda: (
            not Path(f"/proc/{relay}/cmdline").exists()
            or not Path(f"/proc/{relay}/cmdline").read_bytes()
        ),
        "the old relay has ended by itself",
    )


def test_speaker_and_exabgp_killed_lose_no_route_with_the_sources_away(
    node: Node, router: Router, deleted: Any
) -> None:
    """The last known routes are announced; End-of-RIB waits for the sources."""
    up(node, router, *ALL)
    old = node.engine_pid()
    node.kill()
    os.kill(old, signal.SIGKILL)
    until(lambda: stale(router), "the router keeps the routes as stale")
    node.desire(peers=[], synced=False)
    node.start()
    node.new_engine_pid(old)
    until(lambda: router.vty.peer("10.99.0.11").get("state") == "Established", "session is back")
    until(lambda: not stale(router), "every route is confirmed")
    assert held(router) == whole(*ALL)
    until(lambda: node.said().get("owed") == ["10.99.0.1"], "End-of-RIB is held back")
    node.desire(*ALL[:3])
    until(node.arrived, "synced, so End-of-RIB is out")
    until(lambda: holds(router, *ALL[:3]), "what the sources no longer have is withdrawn")
    until(lambda: deleted() == ["198.51.100.10"], "only the withdrawn route is deleted")


def test_an_exabgp_that_was_never_filled_gets_the_last_known_routes(
    node: Node, router: Router, deleted: Any
) -> None:
    """Its speaker was killed after it had started it and before it had said a route."""
    up(node, router, *ALL)
    old = node.engine_pid()
    node.kill()
    os.kill(old, signal.SIGKILL)
    until(lambda: stale(router), "the router keeps the routes as stale")
    words = launcher(node)
    subprocess.run(
        ["ip", "netns", "exec", NODE, *words],
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    node.desire(peers=[], synced=False)
    node.start()
    until(lambda: node.said().get("owed") == ["10.99.0.1"], "the new speaker has adopted")
    until(lambda: not stale(router), "every route is confirmed")
    assert held(router) == whole(*ALL)
    assert deleted() == []


def test_a_change_that_was_undone_while_its_speaker_was_dead_is_undone(
    node: Node, router: Router
) -> None:
    """The speaker was killed after it had asked for the reload and before the answer."""
    up(node, router, *ALL)
    exabgp = node.engine_pid()
    os.kill(exabgp, signal.SIGSTOP)
    node.desire(*ALL, peers=[{**PEER, "hold": 30}])
    until(lambda: "hold-time 30;" in node.engine.config.read_text(), "the configuration is written")
    turn = node.out.stat().st_mtime_ns
    until(lambda: node.out.stat().st_mtime_ns != turn, "a reload is asked for in the same turn")
    node.kill()
    os.kill(exabgp, signal.SIGCONT)
    until(lambda: _hold_s(router) == 30, "ExaBGP has reloaded")
    node.desire(*ALL)
    node.start()
    until(lambda: _hold_s(router) == 9, "the session is as desired")
    until(node.arrived, "everything is announced")
    # ExaBGP says that it took an announcement, not that the router of the new session has it.
    until(lambda: holds(router, *ALL), "the router has everything again")


def _hold_s(router: Router) -> float:
    peer = router.vty.json("show bgp neighbors 10.99.0.11")["10.99.0.11"]
    return float(peer.get("bgpTimerHoldTimeMsecs", 0)) / 1000


def test_a_restarted_speaker_without_sources_keeps_what_is_announced(
    node: Node, router: Router, deleted: Any
) -> None:
    up(node, router, *ALL)
    exabgp = node.engine_pid()
    node.kill()
    node.desire(peers=[], synced=False)
    node.start()
    until(lambda: node.said().get("owed") == ["10.99.0.1"], "the new speaker has adopted")
    assert held(router) == whole(*ALL)
    assert node.engine.pid() == exabgp
    assert deleted() == []


def test_stale_routes_go_with_end_of_rib_after_sync(node: Node, router: Router) -> None:
    """ExaBGP restarted without memory: the router drops at End-of-RIB what nobody confirmed."""
    up(node, router, *ALL)
    old = node.engine_pid()
    node.kill()
    node.engine.applied.unlink()
    os.kill(old, signal.SIGKILL)
    node.desire(POD4, synced=False)
    node.start()
    node.new_engine_pid(old)
    until(lambda: router.vty.peer("10.99.0.11").get("state") == "Established", "session is back")
    until(lambda: node.said().get("owed") == ["10.99.0.1"], "End-of-RIB is held back")
    assert held(router) == whole(*ALL)
    node.desire(POD4)
    until(lambda: holds(router, POD4), "unconfirmed routes are gone")


def test_a_killed_relay_is_replaced_and_nothing_is_lost(
    node: Node, router: Router, deleted: Any
) -> None:
    up(node, router, *ALL)
    exabgp, relay = node.engine_pid(), node.engine.relay_pid()
    assert relay is not None
    os.kill(relay, signal.SIGKILL)
    until(lambda: node.engine.relay_pid() not in (relay, None), "ExaBGP has started another relay")
    node.desire(POD4)
    until(lambda: holds(router, POD4), "the speaker talks through the new relay")
    assert node.engine.pid() == exabgp
    until(lambda: len(deleted()) == 3, "only the withdrawn routes are deleted")


def test_a_relay_that_dies_too_often_ends_exabgp_and_nothing_is_lost(
    node: Node, router: Router, deleted: Any
) -> None:
    """ExaBGP gives up after five deaths in 64 s; the speaker starts another ExaBGP."""
    up(node, router, *ALL)
    first = node.engine_pid()
    while node.engine.pid() == first:
        relay = until(node.engine.relay_pid, "a relay runs")
        with suppress(OSError):
            os.kill(relay, signal.SIGKILL)
        until(lambda relay=relay: node.engine.relay_pid() != relay, "another relay, or none")
    node.new_engine_pid(first)
    until(node.arrived, "everything is announced again")
    until(lambda: not stale(router), "no route is stale")
    assert held(router) == whole(*ALL)
    assert deleted() == []


def test_a_session_over_ipv6_carries_both_families(node: Node, router: Router) -> None:
    routes = [["fd99::1", *route[1:]] for route in ALL]
    node.desire(*routes, peers=[{"address": "fd99::1", "local": "fd99::11"}])
    node.start()
    until(node.arrived, "everything is announced")
    until(lambda: holds(router, *routes), "the router holds exactly these routes")


def test_a_second_speaker_does_not_start(node: Node, router: Router) -> None:
    up(node, router, POD4)
    other = subprocess.run(
        [sys.executable, "-m", "tests.interop.speaker.driver", node.engine.run_dir, node.file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode != 0
    assert "another speaker owns" in other.stderr


def test_a_second_exabgp_does_not_start(node: Node, router: Router) -> None:
    up(node, router, POD4)
    assert subprocess.run(launcher(node), env=ENVIRONMENT, check=False).returncode == 3


def test_a_session_added_by_reload_does_not_disturb_the_other(
    node: Node, router: Router, deleted: Any
) -> None:
    up(node, router, POD4)
    before = router.vty.peer("10.99.0.11")["connectionsEstablished"]
    second = {"address": "fd99::1", "local": "fd99::11"}
    own = [["fd99::1", *route[1:]] for route in (POD4, POD6)]
    node.desire(POD4, *own, peers=[PEER, second])
    until(lambda: holds_on(router, "fd99::11", POD4, POD6), "the new session has its routes")
    until(lambda: holds(router, POD4, POD6), "the kernel has them")
    assert router.vty.peer("10.99.0.11")["connectionsEstablished"] == before
    node.desire(POD4, peers=[PEER])
    until(lambda: holds(router, POD4), "the removed session has withdrawn its routes")
    until(lambda: deleted() == ["fd01::/64"], "only the removed session's route is deleted")


def test_a_changed_session_restarts_without_losing_a_route(
    node: Node, router: Router, deleted: Any
) -> None:
    up(node, router, *ALL)
    node.desire(*ALL, peers=[{**PEER, "hold": 30}])
    until(
        lambda: (
            router.vty.json("show bgp neighbors 10.99.0.11")["10.99.0.11"].get(
                "bgpTimerHoldTimeMsecs"
            )
            == 30000
        ),
        "the new hold time is negotiated",
    )
    until(node.arrived, "End-of-RIB is out on the new session")
    until(lambda: not stale(router), "no route is stale")
    assert held(router) == whole(*ALL)
    assert deleted() == []


def test_an_as_mismatch_is_said_in_words(node: Node) -> None:
    node.desire(POD4, peers=[{**PEER, "asn": 65009}])
    node.start()
    words = "AS mismatch: the router is 65000, the BGPPeer says 65009"
    until(lambda: words in str(node.said().get("states")), words)


def test_a_router_that_is_away_is_said_in_words(node: Node) -> None:
    node.desire(POD4, peers=[{**PEER, "address": "10.99.0.77"}])
    node.start()
    until(lambda: "10.99.0.77 is not reachable" in str(node.said().get("states")), "reason")
