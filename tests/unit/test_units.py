"""The units of systemd: what they allow is what the lab's processes have, and no more."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from bpf.privileges import CAPABILITIES as NUMBERS
from clustermesh.issued import Folder, files_of, write_pair, write_pki
from mesh import cli
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


#: Has no state of its own.
RENEW = {name: value for name, value in CONFINED.items() if name != "StateDirectoryMode"}


def unit(role: str, kind: str = "service") -> dict[str, list[str]]:
    """The values of each setting, in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / f"meshgate-{role}.{kind}").read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def users() -> set[str]:
    lines = (FOLDER / "meshgate.sysusers").read_text().splitlines()
    return {line.split()[1] for line in lines if line.startswith("u ")}


def test_there_is_a_unit_for_each_process() -> None:
    assert {path.stem for path in FOLDER.glob("*.service")} == {
        f"meshgate-{role}" for role in (*ROLES, "renew")
    }


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
    assert ("AF_PACKET" in families.split()) == (role == "agent")
    assert ("AF_NETLINK" in families.split()) == (role not in ("controller", "feed"))  # routes


def test_the_controller_is_not_root_and_exabgp_outlives_the_speaker() -> None:
    assert unit("controller")["User"] == ["meshgate-controller"]
    assert unit("feed")["User"] == ["meshgate-feed"]
    assert unit("speaker")["KillMode"] == ["process"]
    assert users() == {"meshgate-controller", "meshgate-feed", "meshgate-bgp"}


def renew(folder: Path) -> int:
    """Run the unit's command on a folder."""
    (command,) = unit("renew")["ExecStart"]
    program, *words = command.split()
    assert program == "/usr/bin/meshgate"
    assert words[-2:] == ["--pki", *unit("renew")["ReadWritePaths"]]
    return cli.main([*words[:-1], str(folder)])


def test_the_renewal_renews_what_is_half_over_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A certificate begins an hour before it is made."""
    fresh, old = "east:node:east-1", "east:node:east-2"
    write_pki(tmp_path, [fresh, old], ["127.0.0.1"])
    folder = Folder(tmp_path)
    write_pair(tmp_path, old, folder.issue(old, timedelta(minutes=10)))
    before = {user: files_of(tmp_path, user).cert.read_bytes() for user in (fresh, old)}
    assert renew(tmp_path) == 0
    assert capsys.readouterr().out == f"{old}\n"
    after = {user: files_of(tmp_path, user).cert.read_bytes() for user in (fresh, old)}
    assert {user for user, cert in after.items() if cert != before[user]} == {old}


def test_the_renewal_is_confined_and_speaks_with_nobody() -> None:
    found = unit("renew")
    assert {name: found.get(name) for name in RENEW} == {n: [v] for n, v in RENEW.items()}
    assert found["PrivateNetwork"] == ["yes"]
    assert found["CapabilityBoundingSet"] == ["CAP_CHOWN"]


def test_the_timer_comes_often_enough_and_after_a_pause_of_the_host() -> None:
    found = unit("renew", "timer")
    assert found["OnCalendar"] == ["hourly"]
    assert found["Persistent"] == ["yes"], "also for what was missed while the host was off"


UNITS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".service", ".timer"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    """With a command that is there, and none of this host's units."""
    for unit_file in UNITS:
        text = (FOLDER / unit_file).read_text()
        (tmp_path / unit_file).write_text(text.replace("/usr/bin/meshgate", "/bin/true"))
    words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")
