"""A host begins to forward: what Linux does to its devices meanwhile, and what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.host.forwarding import Interface, Step, steps
from mesh.host.ledger import Ledger

UPLINK, VXLAN, OTHER = "eth0", "mg_vxlan", "eth1.100"
CONF = "net/ipv6/conf"


class Linux:
    """Sysctls, and default routes learned from router advertisements by device.

    Source: addrconf_fixup_forwarding, rt6_purge_dflt_routers.
    """

    def __init__(self, *, writes: int = 1000) -> None:
        self.values = {"kernel/random/boot_id": "one", f"{CONF}/all/forwarding": "0"}
        for name in (UPLINK, VXLAN, OTHER, "default"):
            self.values |= {f"net/ipv4/conf/{name}/forwarding": "0"}
            self.values |= {f"{CONF}/{name}/forwarding": "0", f"{CONF}/{name}/accept_ra": "1"}
        self.values[f"{CONF}/{VXLAN}/accept_ra"] = "0"
        self.routes = {UPLINK, OTHER}
        self.writes = writes  # until the agent is killed

    def read(self, name: str) -> str | None:
        return self.values.get(name)

    def write(self, name: str, value: str) -> None:
        if not self.writes:
            raise KeyboardInterrupt
        self.writes -= 1
        self.values[name] = value
        if name == f"{CONF}/all/forwarding":
            for one in [key for key in self.values if key.endswith("/forwarding")]:
                if one.startswith(CONF):
                    self.values[one] = value
        if name.endswith("/forwarding") and name.startswith(CONF) and value == "1":
            self.routes = {d for d in self.routes if self.values[f"{CONF}/{d}/accept_ra"] == "2"}

    def hears(self, device: str) -> bool:
        """Whether router advertisements are taken."""
        accepts = self.values[f"{CONF}/{device}/accept_ra"]
        return accepts == "2" or (
            accepts == "1" and self.values[f"{CONF}/{device}/forwarding"] == "0"
        )

    def devices(self) -> dict[str, Interface]:
        return {
            name: Interface(
                self.values[f"{CONF}/{name}/forwarding"], self.values[f"{CONF}/{name}/accept_ra"]
            )
            for name in (UPLINK, VXLAN, OTHER, "default")
        }

    def state(self) -> dict[str, str]:
        return dict(self.values)


def begin(linux: Linux, folder: Path) -> Ledger:
    """An agent starts."""
    ledger = Ledger(folder / "host.json", linux)
    ledger.settle()
    forwards = linux.read(f"{CONF}/all/forwarding") != "0"
    ledger.apply(steps(forwards, linux.devices(), (UPLINK, VXLAN), UPLINK))
    return ledger


def test_no_default_route_is_lost(tmp_path: Path) -> None:
    """Turning it on without accept_ra loses both."""
    naive = Linux()
    naive.write(f"{CONF}/all/forwarding", "1")
    assert (naive.routes, naive.hears(UPLINK)) == (set(), False)
    linux = Linux()
    begin(linux, tmp_path)
    assert linux.routes == {UPLINK, OTHER}
    assert linux.hears(UPLINK)
    assert linux.hears(OTHER)


def test_our_devices_forward_and_others_are_as_before(tmp_path: Path) -> None:
    linux = Linux()
    before = linux.state()
    begin(linux, tmp_path)
    after = linux.state()
    changed = {name: after[name] for name in after if after[name] != before[name]}
    assert changed == {
        "net/ipv4/conf/eth0/forwarding": "1",
        "net/ipv4/conf/mg_vxlan/forwarding": "1",
        f"{CONF}/all/forwarding": "1",
        f"{CONF}/eth0/forwarding": "1",
        f"{CONF}/eth0/accept_ra": "2",
        f"{CONF}/mg_vxlan/forwarding": "1",
    }


@pytest.mark.parametrize("writes", range(12))
def test_an_agent_killed_in_between_leaves_no_device_changed_for_good(
    tmp_path: Path, writes: int
) -> None:
    linux = Linux(writes=writes)
    before = linux.state()
    try:
        begin(linux, tmp_path)
    except KeyboardInterrupt:
        linux.writes = 1000
        begin(linux, tmp_path)
    for name in (
        f"{CONF}/{device}/{key}"
        for device in (OTHER, "default")
        for key in ("forwarding", "accept_ra")
    ):
        assert linux.values[name] == before[name], name
    assert linux.routes == {UPLINK, OTHER}


def test_a_host_that_forwards_already_keeps_how_it_treats_advertisements(tmp_path: Path) -> None:
    linux = Linux()
    linux.write(f"{CONF}/all/forwarding", "1")
    before = linux.state()
    assert f"{CONF}/all/forwarding" in begin(linux, tmp_path).wanted
    assert {n for n in before if linux.values[n] != before[n]} == {
        "net/ipv4/conf/eth0/forwarding",
        "net/ipv4/conf/mg_vxlan/forwarding",
    }


def test_everything_is_put_back(tmp_path: Path) -> None:
    linux = Linux()
    before = linux.state()
    begin(linux, tmp_path)
    begin(linux, tmp_path)  # a restart forgets nothing
    told = Ledger(tmp_path / "host.json", linux).restore()
    assert linux.state() == before
    assert told[f"{CONF}/all/forwarding"] == "is 0 again"
    assert not (tmp_path / "host.json").exists()


def test_what_another_program_has_changed_since_stays(tmp_path: Path) -> None:
    linux = Linux()
    ledger = begin(linux, tmp_path)
    linux.values[f"{CONF}/eth0/accept_ra"] = "0"
    assert ledger.restore()[f"{CONF}/eth0/accept_ra"].startswith("stays 0")
    assert linux.values[f"{CONF}/eth0/accept_ra"] == "0"


def test_notes_from_before_the_host_was_booted_mean_nothing(tmp_path: Path) -> None:
    linux = Linux()
    begin(linux, tmp_path)
    booted = Linux()
    booted.values["kernel/random/boot_id"] = "two"
    booted.values["net/ipv4/conf/eth0/forwarding"] = "1"  # sysctl.d says so by now
    ledger = begin(booted, tmp_path)
    assert "net/ipv4/conf/eth0/forwarding" not in ledger.notes


def test_former_values_that_cannot_be_kept_change_nothing(tmp_path: Path) -> None:
    linux = Linux()
    before = linux.state()
    (tmp_path / "host.json.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        begin(linux, tmp_path)
    assert linux.state() == before


def test_a_sysctl_that_is_not_there_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "host.json", Linux())
    ledger.apply([Step("net/none", "1")])
    assert ledger.failed == {"net/none": "there is no such sysctl"}
