"""Numbers of timers: which connections have which, and when a number means something else."""

from dataclasses import replace

from gateway.maps import decode_timers, encode_timers
from gateway.policy import EgressPolicy, Timers
from gateway.rows import egress_rows
from gateway.timers import MOST, findings, timer_numbers
from tests.fixtures.rooms import policy as covering

A, B, C = (Timers(udp=seconds) for seconds in (120, 240, 360))


def policy(number: int, timers: Timers) -> EgressPolicy:
    return replace(covering(f"p{number}", ["a"], 1, "a"), timers=timers)


def wants(*timers: Timers) -> list[EgressPolicy]:
    return [policy(number, one) for number, one in enumerate(timers)]


def numbers_of(
    policies: list[EgressPolicy], before: dict[Timers, int] | None = None, unused: int = 0
) -> dict[Timers, int]:
    return timer_numbers(policies, before or {}, lambda number: number == unused)


def test_the_same_timers_have_one_number_and_none_of_their_own_have_no_number() -> None:
    assert numbers_of(wants(B, A, B, Timers())) == {B: 1, A: 2}


def test_a_number_stays_with_its_timers() -> None:
    assert numbers_of(wants(C, A), {A: 2, B: 1}) == {A: 2, B: 1, C: 3}


def test_a_number_changes_hands_when_none_is_left_and_no_connection_has_it() -> None:
    full = {Timers(icmp=60 + number): number for number in range(1, MOST + 1)}
    assert numbers_of(wants(A), full) == full
    found = numbers_of(wants(A), full, unused=7)
    assert found[A] == 7
    assert Timers(icmp=67) not in found
    assert len(found) == MOST
    kept = wants(Timers(icmp=67), A)
    assert A not in numbers_of(kept, full, unused=7)


def test_a_policy_without_a_number_is_named() -> None:
    named = [(str(one.code), one.field) for one in findings(wants(A, B, Timers()), {A: 1})]
    assert named == [("M270", "spec.timers")]


def test_rows_name_the_number() -> None:
    one = policy(1, A)
    rows = egress_rows(("p1",), 9, {"p1": one}, ("p1",), one.addresses, (), {A: 5})
    assert {row.timers for row in rows.values() if row.address} == {5}


def test_an_entry_says_what_the_timers_say() -> None:
    timers = Timers(7440, 240, 120, 60)
    _, value = encode_timers(5, timers)
    assert isinstance(value, dict)
    assert decode_timers(5, value) == (5, timers)
