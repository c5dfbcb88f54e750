"""A step that withdraws most of a router's routes is held when it comes from a list."""

from ipaddress import ip_address, ip_network

from bgp.guard import Guard
from bgp.route import Route, RouteKey

ROUTER, OTHER = ip_address("10.99.0.1"), ip_address("10.99.0.2")
HOP = ip_address("10.99.0.11")


def table(count: int, peer: object = ROUTER, first: int = 0) -> dict[RouteKey, Route]:
    prefixes = [ip_network(f"10.1.{number}.0/24") for number in range(first, first + count)]
    return {RouteKey(peer, one): Route(one, HOP) for one in prefixes}  # type: ignore[arg-type]


def step(guard: Guard, was: dict[RouteKey, Route], now: dict[RouteKey, Route], **more: bool) -> int:
    return len(guard.step(was, now, (ROUTER, OTHER), listed=more.get("listed", True), now=100.0))


def test_what_a_list_lacks_is_held_beyond_the_share_and_from_ten_on() -> None:
    assert step(Guard(50), table(20), table(10)) == 0
    assert step(Guard(50), table(20), table(9)) == 11
    assert step(Guard(50), table(9), {}) == 0
    assert step(Guard(50), table(10), {}) == 10
    assert step(Guard(100), table(20), {}) == 0


def test_what_was_seen_to_be_deleted_goes() -> None:
    assert step(Guard(50), table(20), {}, listed=False) == 0


def test_each_session_is_judged_by_itself() -> None:
    guard = Guard(50)
    was = table(20) | table(20, OTHER)
    kept = guard.step(was, table(20, OTHER), (ROUTER, OTHER), listed=True, now=1.0)
    assert kept == table(20)
    assert set(guard.held) == {ROUTER}


def test_what_is_held_stays_until_it_is_back() -> None:
    guard, was = Guard(50), table(20)
    assert step(guard, was, {}) == 20
    assert step(guard, was, table(5), listed=False) == 15
    assert step(guard, was, table(20), listed=False) == 0
    assert not guard.held


def test_an_operator_lets_go_what_was_held_before() -> None:
    guard, was = Guard(50), table(20)
    step(guard, was, {})
    assert not guard.accept(ROUTER, 99.0)
    assert guard.accept(ROUTER, 101.0)
    assert step(guard, was, {}) == 0
    assert not guard.accept(ROUTER, 102.0)
    assert step(guard, was, {}) == 20


def test_a_session_that_ends_holds_nothing() -> None:
    guard, was = Guard(50), table(20)
    step(guard, was, {})
    assert not guard.step(was, {}, (OTHER,), listed=True, now=1.0)
