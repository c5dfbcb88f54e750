"""An address that no policy names any more has ended; one whose row is missing has not."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from gateway.ended import REMEMBERED_S, Ending, ended_rows, endings
from gateway.members import ACCEPTS_S, GatewayKey, GatewayRow
from mesh.datapath.sweep import LIMITS
from tests.fixtures.rooms import ENDPOINT, Rooms, policy

E, F = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
A, B = (IPv4Address(f"10.99.0.{last}") for last in (11, 12))


def test_an_address_ends_with_its_last_policy() -> None:
    assert endings({E, F}, {F}, {E: (A,)}, {}, 10.0) == {E: Ending(10.0, (A,))}
    assert endings({E}, {E}, {}, {}, 10.0) == {}, "its gateway is away, its policy is not"


def test_the_first_time_counts_and_a_policy_that_comes_back_ends_it() -> None:
    ended = {E: Ending(10.0, (A,))}
    assert endings({E}, (), {E: (B,)}, ended, 20.0) == ended
    assert endings((), {E}, {}, ended, 20.0) == {}


def test_gateways_go_after_the_rest_and_the_address_after_every_connection() -> None:
    ended = {E: Ending(10.0, (A,))}
    assert ended_rows(ended, 10.0 + ACCEPTS_S - 1) == {E: (A,)}
    assert ended_rows(ended, 10.0 + ACCEPTS_S) == {E: ()}
    assert endings((), (), {}, ended, 10.0 + REMEMBERED_S - 1) == ended
    assert endings((), (), {}, ended, 10.0 + REMEMBERED_S) == {}
    assert LIMITS["established"] < REMEMBERED_S


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    made = Rooms(tmp_path)
    made.egress.derive(made.loop)
    made.put_node("east-1", str(ENDPOINT), "gateway")
    return made


def settle(rooms: Rooms) -> None:
    rooms.loop.derive_all()


def test_a_policy_that_goes_leaves_the_gateways_of_its_addresses(rooms: Rooms) -> None:
    one = policy("p1", ["web"], 1, "gateway")
    rooms.put_policy(one)
    settle(rooms)
    assert rooms.egress.ended.rows == {}
    rooms.delete_policy("p1")
    settle(rooms)
    assert rooms.egress.egress_address.rows == {}
    assert rooms.egress.ended.rows == dict.fromkeys(one.addresses, (ENDPOINT,))
    accepts = GatewayRow(sends=False, accepts=True)
    assert rooms.egress.gateway.rows == {GatewayKey(a, ENDPOINT): accepts for a in one.addresses}
    rooms.put_policy(one)
    settle(rooms)
    assert rooms.egress.ended.rows == {}


def test_an_address_whose_gateway_goes_has_not_ended(rooms: Rooms) -> None:
    rooms.put_policy(policy("p1", ["web"], 1, "gateway"))
    settle(rooms)
    rooms.put_node("east-1", str(ENDPOINT), "nothing")
    settle(rooms)
    assert (rooms.egress.egress_address.rows, rooms.egress.ended.rows) == ({}, {})


def test_a_policy_that_went_while_the_agent_was_dead_has_ended(rooms: Rooms) -> None:
    resting = {GatewayKey(F, B): GatewayRow(sends=False, accepts=True)}
    rooms.egress.take_sets({E: (A,)}, {F: ()}, resting, 10.0)
    rooms.egress.rest_gateways({}, 11.0)
    assert rooms.egress.ended.rows == {E: (A,), F: ()}
    assert rooms.egress.gateway.rows.keys() == {GatewayKey(E, A), GatewayKey(F, B)}
