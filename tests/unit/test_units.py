"""The units of systemd: what they allow is what the lab's processes have, and no more."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bpf.privileges import CAPABILITIES as NUMBERS
from mesh.lab.confined import CAPABILITIES

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
ROLES = sorted(CAPABILITIES)
#: Each has all of these.
CONFINED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "RestrictRealtime": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "StateDirectoryMode": "0700",
    "UMask": "0077",
}


def unit(role: str) -> dict[str, list[str]]:
    """The values of each setting, in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / f"meshgate-{role}.service").read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def users() -> set[str]:
    lines = (FOLDER / "meshgate.sysusers").read_text().splitlines()
    return {line.split()[1] for line in lines if line.startswith("u ")}


def test_there_is_a_unit_for_each_process() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.service")) == [
        f"meshgate-{role}" for role in ROLES
    ]


@pytest.mark.parametrize("role", ROLES)
def test_a_process_of_the_lab_has_the_capabilities_of_its_unit(role: str) -> None:
    (value,) = unit(role)["CapabilityBoundingSet"]
    assert tuple(value.split()) == CAPABILITIES[role]
    assert set(CAPABILITIES[role]) <= set(NUMBERS)


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_confines_its_process(role: str) -> None:
    found = unit(role)
    assert {name: found.get(name) for name in CONFINED} == {
        name: [value] for name, value in CONFINED.items()
    }
    (families,) = found["RestrictAddressFamilies"]
    assert {"AF_PACKET", "AF_NETLINK"}.isdisjoint(families.split()) == (role != "agent")


def test_the_controller_is_not_root_and_exabgp_outlives_the_speaker() -> None:
    assert unit("controller")["User"] == ["meshgate-controller"]
    assert unit("speaker")["KillMode"] == ["process"]
    assert users() == {"meshgate-controller", "meshgate-bgp"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("role", ROLES)
def test_systemd_takes_the_unit(role: str, tmp_path: Path) -> None:
    """With a command that is there, and none of this host's units."""
    text = (FOLDER / f"meshgate-{role}.service").read_text()
    path = tmp_path / f"meshgate-{role}.service"
    path.write_text(text.replace("/usr/bin/meshgate", "/bin/true"))
    words = ["systemd-analyze", "verify", "--man=no", str(path)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")
