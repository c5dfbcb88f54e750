"""What was last applied, and which process owns a run directory."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from bgp.desired import Peering
from bgp.exabgp.applied import Memory
from bgp.exabgp.engine import Engine, locked_pid
from bgp.exabgp.launcher import lock
from bgp.peer import BFD, Advertise, ImportRule, PrefixMatch
from bgp.route import Family, Route, RouteKey, ServiceSID
from mesh.core.model import Requirement, Selector

PEER = ip_address("fd99::1")
PEERING = Peering(
    "r", PEER, 65000, ip_address("fd99::11"), 65101, 9, 120, (Advertise("podCIDRs"),), "x.yaml"
)
KEY = RouteKey(PEER, ip_network("fd01::/64"))
ROUTE = Route(KEY.prefix, ip_address("fd99::11"))


def test_sessions_and_routes_come_back(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "applied.json")
    memory.save(peerings={PEER: PEERING})
    memory.remember({KEY: ROUTE})
    memory.close()
    again = Memory(tmp_path / "applied.json")
    assert again.peerings == {PEER: PEERING}
    assert again.routes == {KEY: ROUTE}
    again.remember({}, [KEY])
    assert Memory(tmp_path / "applied.json").routes == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"peerings": [{"x": 1}], "routes": []}'])
def test_a_file_that_cannot_be_used_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "applied.json").write_text(text)
    memory = Memory(tmp_path / "applied.json")
    assert not memory.peerings
    assert not memory.routes


def test_a_full_disk_stops_no_announcement(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memory = Memory(tmp_path / "file" / "applied.json")
    memory.remember({KEY: ROUTE})
    assert memory.routes == {KEY: ROUTE}
    assert memory.problem


@pytest.mark.slow
def test_one_speaker_owns_a_run_directory(tmp_path: Path) -> None:
    first, second = Engine(tmp_path / "run"), Engine(tmp_path / "run")
    first.own()
    with pytest.raises(BlockingIOError, match="another speaker owns"):
        second.own()
    first.disown()
    second.own()
    second.disown()


def test_a_pid_counts_only_while_its_file_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "exabgp.pid"
    assert locked_pid(path) is None
    path.write_text("1\n")
    assert locked_pid(path) is None
    assert lock(path) is not None
    assert locked_pid(path) == 1


def test_what_a_former_speaker_has_written_is_read(tmp_path: Path) -> None:
    """Version 1: words of ``advertise``, and the routes in the same file."""
    row = {
        "name": "r", "address": "fd99::1", "asn": 65000, "local_address": "fd99::11",
        "local_asn": 65101, "hold_s": 9, "graceful_restart_s": 120, "advertise": ["podCIDRs"],
        "origin": "x.yaml",
    }  # fmt: skip
    route = {"peer": "fd99::1", "prefix": "fd01::/64", "next_hop": "fd99::11"}
    said = {"version": 1, "filled": 7, "settled": True, "peerings": [row], "routes": [route]}
    (tmp_path / "applied.json").write_text(json.dumps(said))
    memory = Memory(tmp_path / "applied.json")
    assert memory.peerings == {PEER: PEERING}
    assert memory.routes == {KEY: ROUTE}
    assert memory.filled == 7


def test_every_field_of_a_session_and_a_route_comes_back(tmp_path: Path) -> None:
    entry = Advertise(
        "egressIPs", Selector((Requirement("a", "In", ("b",)),)), ("1:1",), med=5,
        aggregates=(ip_network("10.0.0.0/8"),),
    )  # fmt: skip
    rule = ImportRule(
        accept=True,
        prefixes=(PrefixMatch(ip_network("10.0.0.0/8"), 8, 24),),
        labels=(("1:1", "k", "v"),),
    )
    whole = ip_network("10.99.0.0/24")
    session = replace(
        PEERING,
        address=whole,
        local_address=ip_address("10.99.0.11"),
        advertise=(entry,),
        families=tuple(Family),
        port=1790,
        passive=True,
        password="key",  # noqa: S106 - of this test
        ttl_security=True,
        multihop=3,
        router_id=ip_address("10.0.0.1"),
        graceful_vpn=True,
        imports=(rule,),
        max_prefixes=7,
        bfd=BFD(50, 5, multihop=True, passive=True),
        accept_sids=True,
    )
    sid = ServiceSID(ip_address("fcbb::1"), 19, (32, 16, 16, 0, 0, 0))
    route = Route(
        ip_network("10.1.0.0/24"), ip_address("fd99::11"), ("1:1",), ("1:2:3",), ("target:1:1",), 5,
        6, 2, "10.99.0.11:7", sid,
    )  # fmt: skip
    memory = Memory(tmp_path / "applied.json")
    memory.save(peerings={whole: session})
    key = RouteKey(whole, route.prefix, route.rd)
    memory.remember({key: route})
    again = Memory(tmp_path / "applied.json")
    assert again.peerings == {whole: session}
    assert again.routes == {key: route}
    assert again.peering(ip_address("10.99.0.7")) == session
    assert again.peering(ip_address("10.98.0.7")) is None
