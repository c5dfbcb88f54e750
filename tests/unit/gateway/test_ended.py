"""An address that was evicted or denied ends; one that no policy names drains and goes on."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from gateway.ended import REMEMBERED_S, Ending, ended_rows, endings, silent
from gateway.members import ACCEPTS_S, GatewayKey, GatewayRow
from gateway.pool import POOLS, EgressPool
from mesh.core.model import Draining, PortsInUse
from mesh.datapath.sweep import LIMITS
from tests.fixtures.rooms import ENDPOINT, Rooms, policy

E, F = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
A, B = (IPv4Address(f"10.99.0.{last}") for last in (11, 12))


def test_an_address_ends_when_it_is_cut_and_not_when_nobody_names_it() -> None:
    assert endings({E}, {F}, {E: (A,)}, {}, 10.0) == {E: Ending(10.0, (A,))}
    assert endings((), (), {E: (A,)}, {}, 10.0) == {}


def test_the_first_time_counts_and_a_policy_that_comes_back_ends_it() -> None:
    ended = {E: Ending(10.0, (A,))}
    assert endings({E}, (), {E: (B,)}, ended, 20.0) == ended
    assert endings((), (), {}, ended, 20.0) == ended
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


def test_an_address_without_a_policy_stays_on_those_that_carry_it(rooms: Rooms) -> None:
    one = policy("p1", ["web"], 1, "gateway")
    rooms.put_policy(one)
    rooms.put_carriers(one, "east-1")
    settle(rooms)
    before = rooms.egress.egress_address.rows.copy()
    assert set(before) == set(one.addresses)
    rooms.delete_policy("p1")
    settle(rooms)
    assert rooms.egress.egress_address.rows == before
    assert rooms.egress.ended.rows == {}
    rooms.put_policy(one)
    rooms.put_node("east-1", str(ENDPOINT), "nothing")
    settle(rooms)
    assert rooms.egress.egress_address.rows == before, "its policy has no gateway left"


def test_an_address_that_nobody_carries_any_more_goes_and_its_gateway_is_accepted_a_while(
    rooms: Rooms,
) -> None:
    one = policy("p1", ["web"], 1, "gateway")
    rooms.put_policy(one)
    settle(rooms)
    rooms.delete_policy("p1")
    settle(rooms)
    assert (rooms.egress.egress_address.rows, rooms.egress.ended.rows) == ({}, {})
    accepts = GatewayRow(sends=False, accepts=True)
    assert rooms.egress.gateway.rows == {GatewayKey(a, ENDPOINT): accepts for a in one.addresses}


def test_a_drain_that_an_operator_ends_leaves_the_gateways_and_ends_connections(
    rooms: Rooms,
) -> None:
    one = policy("p1", ["web"], 1, "gateway")
    first, other = one.addresses
    rooms.put_policy(one)
    rooms.put_carriers(one, "east-1")
    settle(rooms)
    rooms.delete_policy("p1")
    rooms.drain(first, 7)
    rooms.drain(other, 7)
    rooms.store.evicted.upsert({f"{first}/6": None, f"{other}/7": None})
    settle(rooms)
    assert set(rooms.egress.egress_address.rows) == {first}, "6 was another drain"
    assert rooms.egress.ended.rows == {other: (ENDPOINT,)}


def test_a_denied_address_ends_though_a_policy_names_it(rooms: Rooms) -> None:
    one = policy("p1", ["web"], 1, "gateway")
    first, other = one.addresses
    rooms.put_policy(one)
    rooms.put_carriers(one, "east-1")
    settle(rooms)
    network = ip_network(f"{first}/24", strict=False)
    rooms.objects[POOLS].upsert({"a": EgressPool("a", (network,), (first,))})
    settle(rooms)
    assert rooms.egress.ended.rows == {first: (ENDPOINT,)}
    assert set(rooms.egress.egress_address.rows) == {other}
    rooms.objects[POOLS].delete(["a"])
    settle(rooms)
    assert rooms.egress.ended.rows == {}
    assert set(rooms.egress.egress_address.rows) == {first, other}


def test_what_a_dead_agent_left_stays_until_the_store_has_said_what_drains(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, synced=False)
    resting = {GatewayKey(F, B): GatewayRow(sends=False, accepts=True)}
    rooms.egress.take_sets({E: (A,)}, {F: ()}, resting, 10.0)
    rooms.egress.rest_gateways({}, 11.0)
    assert rooms.egress.egress_address.rows == {E: (A,)}
    assert rooms.egress.ended.rows == {F: ()}
    rooms.egress.derive(rooms.loop)
    rooms.sync()
    settle(rooms)
    assert rooms.egress.egress_address.rows == {}
    assert rooms.egress.gateway.rows == {GatewayKey(E, A): GatewayRow(sends=False, accepts=True)}


def test_a_node_reports_ports_of_a_drain_from_the_second_count_without_a_row_on(
    rooms: Rooms,
) -> None:
    leads = {E}
    rooms.egress.reports.leads = lambda: leads
    rooms.drain(E, 7)

    def count(number: int, ports: int) -> dict[object, Draining]:
        rooms.egress.in_use.replace({"": PortsInUse(number, {E: ports} if ports else {})})
        settle(rooms)
        return dict(rooms.egress.reports.table.rows)

    assert count(1, 0) == count(2, 0) == {}, "new connections take it"
    leads.clear()
    assert count(3, 0) == {}, "one may have been opened since this count began"
    assert count(4, 2) == {E: Draining(2, 7)}
    assert count(5, 0) == {E: Draining(0, 7)}
    rooms.egress.reports.silent = lambda: silent({E: (A,)})
    assert count(6, 2) == {E: Draining(2, 7)}, "its gateways still send resets"
    rooms.egress.reports.silent = lambda: silent({E: ()})
    assert count(7, 2) == {E: Draining(0, 7)}, "nothing leaves with it any more"
    rooms.drain(E, 9)
    settle(rooms)
    assert not rooms.egress.reports.table.rows, "of another drain nothing was counted"
