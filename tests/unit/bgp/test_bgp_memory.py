"""What was last applied, and which process owns a run directory."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from bgp.desired import Peering, RouteKey
from bgp.exabgp.applied import Memory
from bgp.exabgp.engine import Engine, locked_pid
from bgp.exabgp.launcher import lock
from bgp.peer import Route

PEER = ip_address("fd99::1")
PEERING = Peering("r", PEER, 65000, ip_address("fd99::11"), 65101, 9, 120, ("podCIDRs",), "x.yaml")
KEY = RouteKey(PEER, ip_network("fd01::/64"))
ROUTE = Route(KEY.prefix, ip_address("fd99::11"))


def test_sessions_and_routes_come_back(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "applied.json")
    memory.save(peerings={PEER: PEERING})
    memory.remember({KEY: ROUTE})
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
    memory = Memory(tmp_path / "absent" / "applied.json")
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
