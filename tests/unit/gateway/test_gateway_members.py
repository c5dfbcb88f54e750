"""Who may send for an egress address, and for how long a gateway that has left is believed."""

from ipaddress import IPv4Address, ip_address

import pytest

from bpf.btf import MapSpec
from bpf.build import HERE, build
from bpf.maps import cell
from bpf.object import Object
from gateway import maps as codecs
from gateway.members import (
    ACCEPTS_S,
    IDLE_S,
    GatewayKey,
    GatewayRow,
    departures,
    gateway_members,
    still_carrying,
)

E, F = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
A, B, C = (IPv4Address(f"10.99.0.{last}") for last in (11, 12, 13))
IN, LEFT = GatewayRow(sends=True, accepts=True), GatewayRow(sends=False, accepts=True)


def test_every_gateway_of_now_sends_and_accepts() -> None:
    now = {E: (A, B), F: (A,)}
    members = gateway_members(now, {}, 0.0)
    assert members == {GatewayKey(E, A): IN, GatewayKey(E, B): IN, GatewayKey(F, A): IN}


def test_one_that_has_left_accepts_for_two_minutes() -> None:
    left = {GatewayKey(E, B): 1000.0}
    during = gateway_members({E: (A,)}, left, 1000.0 + ACCEPTS_S - 1)
    assert during == {GatewayKey(E, A): IN, GatewayKey(E, B): LEFT}
    assert gateway_members({E: (A,)}, left, 1000.0 + ACCEPTS_S) == {GatewayKey(E, A): IN}


def test_one_that_came_back_sends_whatever_is_remembered() -> None:
    members = gateway_members({E: (A,)}, {GatewayKey(E, A): 1000.0}, 1001.0)
    assert members == {GatewayKey(E, A): IN}


def test_departures_keep_the_first_time_and_forget_who_is_back_or_rested() -> None:
    left = departures({E: (A, B)}, {E: (A,)}, {}, 10.0)
    assert left == {GatewayKey(E, B): 10.0}
    assert departures({E: (A,)}, {E: (A,)}, left, 20.0) == left
    assert departures({E: (A,)}, {}, left, 30.0) == left | {GatewayKey(E, A): 30.0}
    assert departures({E: (A,)}, {E: (A, B)}, left, 40.0) == {}
    assert departures({E: (A,)}, {E: (A,)}, left, 10.0 + ACCEPTS_S) == {}


def test_one_that_packets_still_go_by_is_accepted_until_none_has_come_for_ten_seconds() -> None:
    """Not while nobody knows of a packet, and never for less than two minutes."""
    key = GatewayKey(E, B)
    left, last = {key: 1000.0}, 1000.0 + ACCEPTS_S + 30
    assert still_carrying(left, {}) == left
    assert still_carrying(left, {key: 1001.0}) == left
    left = still_carrying(left, {key: last})
    for after_s, rows in ((IDLE_S - 1, {key: LEFT}), (IDLE_S, {})):
        now = last + after_s
        assert gateway_members({}, departures({}, {}, left, now), now) == rows


GATEWAYS = 16


def test_map_entries_and_back() -> None:
    build()
    with Object.open(HERE / "obj" / "pod.o") as opened:
        sets, members = opened.specs["mg_egress_addr"], opened.specs["mg_gateway"]
    for row in ((E, (A, B, C)), (F, ())):
        key, value = codecs.encode_egress_address(*row, most=GATEWAYS)
        assert codecs.decode_egress_address(*cells(sets, key, value)) == row
    for member in ((GatewayKey(E, A), LEFT), (GatewayKey(F, C), IN)):
        key, value = codecs.encode_gateway(*member)
        assert codecs.decode_gateway(*cells(members, key, value)) == member


def cells(spec: MapSpec, key: object, value: object) -> tuple[object, object]:
    return cell(spec.key, key)[0], cell(spec.value, value)[0]


def test_a_set_beyond_the_map_is_refused() -> None:
    nodes = tuple(IPv4Address(number) for number in range(GATEWAYS + 1))
    with pytest.raises(ValueError, match="17 gateways"):
        codecs.encode_egress_address(E, nodes, GATEWAYS)
