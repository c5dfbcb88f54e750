"""Each process has the rights of its unit and no other, and writes where nobody else can."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from running import Lab, wait

from bgp.exabgp.launcher import LISTENS
from bpf.privileges import CAPABILITIES as NUMBERS
from mesh.lab.confined import CAPABILITIES, kept
from mesh.lab.places import USERS

_SETS = ("CapPrm", "CapEff", "CapBnd")
_NONE = f"{0:016x}"


def status(pid: int) -> dict[str, str]:
    lines = [line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {name: " ".join(rest.split()) for name, _, rest in lines}


def bits(names: Iterable[str]) -> str:
    return f"{sum(1 << NUMBERS[name] for name in names):016x}"


def running(lab: Lab, role: str) -> Iterator[dict[str, str]]:
    found = [pid for name, pid in lab.processes().items() if name.endswith(f"/{role}")]
    assert found
    yield from map(status, found)


def run(lab: Lab, *parts: str) -> Path:
    return Path(lab.environment["MESHGATE_RUN"]).joinpath(*parts)


@pytest.mark.parametrize("role", sorted(CAPABILITIES))
def test_a_process_has_exactly_the_capabilities_of_its_unit(lab: Lab, role: str) -> None:
    for found in running(lab, role):
        assert {name: found[name] for name in _SETS} == dict.fromkeys(
            _SETS, bits(kept(role, USERS.get(role, 0)))
        )
        assert found["CapInh"] == found["CapAmb"] == _NONE
        assert found["NoNewPrivs"] == "1"
        assert found["Uid"] == " ".join([str(USERS.get(role, 0))] * 4)


@pytest.mark.parametrize("role", ["exabgp", "relay"])
def test_who_speaks_with_routers_can_do_nothing_else(lab: Lab, role: str) -> None:
    """The bounding set is the speaker's, but nothing raises it: no new privileges."""
    for found in running(lab, role):
        may = bits(LISTENS) if role == "exabgp" else _NONE
        assert {found[name] for name in ("CapPrm", "CapEff")} == {may}
        assert {found[name] for name in ("CapInh", "CapAmb")} == {_NONE}
        assert found["NoNewPrivs"] == "1"
        assert found["Uid"] == found["Gid"] == " ".join([str(USERS["exabgp"])] * 4)
        assert found["Groups"] == ""


def test_state_is_its_owner_s_alone(lab: Lab) -> None:
    folders = {
        run(lab, "east-1", "agent"): 0,
        run(lab, "east-1", "bgp"): 0,
        run(lab, "east-1", "controller"): USERS["controller"],
        Path(lab.shown["hosts"]["east-1"]["bpffs"]): 0,
    }
    for folder, user in folders.items():
        mode = folder.stat()
        assert (mode.st_uid, stat.S_IMODE(mode.st_mode)) == (user, 0o700), folder
    exabgp = run(lab, "east-1", "bgp", "exabgp")
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files = [path for path in found if not {exabgp, Path("/sys/fs/bpf")} & set(path.parents)]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("place", ["state", "bpffs"])
def test_an_agent_does_not_start_where_others_can_write(lab: Lab, place: str) -> None:
    folder = run(lab, "west-2", "agent")
    if place == "bpffs":
        folder = Path(lab.shown["hosts"]["west-2"]["bpffs"])
    assert lab.run("lab", "stop", "west-2/agent").returncode == 0
    folder.chmod(0o777)
    try:
        lab.revive("west-2/agent")
        log = run(lab, "west-2", "agent.log")
        wait(lambda: f"{folder} is writable by others" in log.read_text(), 20, "it says why")
        wait(lambda: "west-2/agent" not in lab.processes(), 10, "it has ended")
    finally:
        folder.chmod(0o700)
    lab.revive("west-2/agent")
    wait(lab.healthy, 30, "healthy afterwards")
