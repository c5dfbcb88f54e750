"""Best path, multipath and next hops of learned routes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from bgp.learned.paths import PATHS, chosen, labels_of_prefix, way_of
from bgp.learned.rows import Learned, LearnedKey, State
from mesh.core.received import Received
from mesh.route_table import Hop

PREFIX = ip_network("192.0.2.0/24")
ONE, TWO, THREE = (ip_address(f"10.99.0.{number}") for number in (1, 2, 3))
HOPS = {address: Hop(address, 7) for address in (ONE, TWO, THREE)}


def key(peer: object) -> LearnedKey:
    return LearnedKey(PREFIX, ip_address(str(peer)))


def of(**routes: Received) -> dict[LearnedKey, Learned]:
    """What becomes of accepted routes of the peers 10.99.0.<n>, by names like ``p1``."""
    found = {key(f"10.99.0.{name[1:]}"): row for name, row in routes.items()}
    return chosen({one: (row, Learned(row.next_hop)) for one, row in found.items()}, HOPS)


def used(rows: dict[LearnedKey, Learned]) -> list[str]:
    return sorted(str(one.peer) for one, row in rows.items() if row.used)


def test_the_higher_local_preference_comes_first() -> None:
    rows = of(p1=Received(ONE, (1,)), p2=Received(TWO, (1, 2, 3), local_preference=101))
    assert used(rows) == [str(TWO)]
    assert rows[key(ONE)].reason == (
        "the route of 10.99.0.2 is better: this one has local preference 100, less than 101"
    )
    assert (rows[key(ONE)].state, rows[key(ONE)].ifindex) == (State.SHADOWED, 0)


def test_then_the_shorter_path() -> None:
    rows = of(p1=Received(ONE, (1, 2)), p2=Received(TWO, (3,)))
    assert used(rows) == [str(TWO)]
    assert "an AS path of 2, longer than 1" in rows[key(ONE)].reason


def test_then_the_lower_med_of_one_neighbouring_as() -> None:
    rows = of(
        p1=Received(ONE, (1,), med=20),
        p2=Received(TWO, (1,), med=10),
        p3=Received(THREE, (2,), med=99),
    )
    assert used(rows) == [str(TWO), str(THREE)], "MED of another AS is not comparable"
    assert "MED 20" in rows[key(ONE)].reason


def test_equal_ones_are_all_used() -> None:
    rows = of(p1=Received(ONE, (1,)), p2=Received(TWO, (2,)))
    assert way_of(PREFIX, rows) == {PREFIX: (Hop(ONE, 7), Hop(TWO, 7))}


def test_two_routes_with_one_next_hop_are_one_way() -> None:
    rows = of(p1=Received(ONE, (1,)), p2=Received(ONE, (2,)))
    assert used(rows) == [str(ONE), str(TWO)]
    assert way_of(PREFIX, rows) == {PREFIX: (Hop(ONE, 7),)}


def test_a_next_hop_that_is_on_no_link_is_not_used_and_hides_nothing() -> None:
    far = ip_address("203.0.113.1")
    rows = chosen(
        {
            key(ONE): (Received(far, (1,)), Learned(far)),
            key(TWO): (Received(TWO, (1, 2)), Learned(TWO)),
        },
        {**HOPS, far: "is on no link of this node, but behind 10.99.0.1"},
    )
    assert used(rows) == [str(TWO)]
    assert rows[key(ONE)].state is State.UNREACHED
    assert rows[key(ONE)].reason == (
        "its next hop 203.0.113.1 is on no link of this node, but behind 10.99.0.1"
    )


def test_what_rules_refuse_is_no_candidate() -> None:
    refused = Learned(ONE, State.NOT_ACCEPTED, "no import rule matches it")
    rows = chosen(
        {
            key(ONE): (Received(ONE, local_preference=900), refused),
            key(TWO): (Received(TWO, (1,)), Learned(TWO)),
        },
        HOPS,
    )
    assert rows[key(ONE)] == refused
    assert used(rows) == [str(TWO)]
    assert way_of(PREFIX, {key(ONE): refused}) == {}


def test_a_route_has_room_for_some_next_hops() -> None:
    peers = [ip_address(f"10.99.1.{number}") for number in range(1, PATHS + 4)]
    rows = chosen(
        {key(peer): (Received(peer, (1,)), Learned(peer)) for peer in peers},
        {peer: Hop(peer, 7) for peer in peers},
    )
    assert len(way_of(PREFIX, rows)[PREFIX]) == PATHS
    assert {row.reason for row in rows.values() if not row.used} == {
        f"{PATHS} equal routes are used already"
    }


def test_labels_are_those_of_the_routes_that_are_used() -> None:
    rows = {
        key(ONE): Learned(ONE, labels=(("site", "hq"),)),
        key(TWO): Learned(TWO, labels=(("site", "branch"), ("tier", "db"))),
        key(THREE): Learned(THREE, State.SHADOWED, labels=(("x", "y"),)),
    }
    assert labels_of_prefix(PREFIX, rows) == {PREFIX: (("site", "hq"), ("tier", "db"))}
    assert labels_of_prefix(PREFIX, {}) == {}
