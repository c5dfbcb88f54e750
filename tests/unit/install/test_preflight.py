"""``meshgate verify``: each point of a host and of a cluster, and what follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh.cli import main
from mesh.install import preflight
from mesh.install.preflight import BAD, GOOD, NOTE, Host, Lists, Wanted

RIGHT = Host(
    kernel="6.18.5-arch",
    btf=True,
    tcx=True,
    bpffs=True,
    cgroup2=True,
    uplink="eth0",
    mtu=1500,
    rp_filter={"all": 0, "eth0": 2},
    sysctls=True,
    lists=(),
    udp_ports=frozenset({53}),
    devices=frozenset({"lo", "eth0"}),
)
BRIDGE = Lists("10-bridge.conflist", ("bridge", "portmap"))
WHOLE, BESIDE = Wanted(), Wanted(mode="beside", overlay_port=8473)


def verdicts(host: Host, wanted: Wanted = WHOLE) -> dict[str, str]:
    return {one.name: one.verdict for one in preflight.judged(host, wanted)}


def test_a_host_that_will_do() -> None:
    assert set(verdicts(RIGHT).values()) == {GOOD}
    assert set(verdicts(replace(RIGHT, lists=(BRIDGE,)), BESIDE).values()) == {GOOD}


@pytest.mark.parametrize(
    ("change", "name", "verdict"),
    [
        ({"kernel": "6.5.0"}, "kernel", BAD), ({"kernel": "5.15"}, "kernel", BAD),
        ({"kernel": "7.0"}, "kernel", GOOD), ({"btf": False}, "BTF", BAD),
        ({"tcx": False}, "tcx", BAD), ({"bpffs": False}, "bpffs", NOTE),
        ({"cgroup2": False}, "cgroup2", BAD), ({"mtu": 1329}, "MTU", BAD),
        ({"mtu": 1330}, "MTU", GOOD), ({"uplink": "", "mtu": 0}, "MTU", BAD),
        ({"rp_filter": {"all": 1, "eth0": 0}}, "rp_filter", NOTE),
        ({"sysctls": False}, "forwarding", BAD), ({"lists": (BRIDGE,)}, "CNI", BAD),
        ({"lists": (Lists("05-meshgate.conflist", ("meshgate-cni",)),)}, "CNI", GOOD),
        ({"udp_ports": frozenset({8472})}, "ports", BAD),
        ({"udp_ports": frozenset({8472}), "devices": frozenset({"mg_vxlan"})}, "ports", GOOD),
    ],
)  # fmt: skip
def test_each_point_is_judged_alone(change: dict[str, Any], name: str, verdict: str) -> None:
    found = verdicts(replace(RIGHT, **change))
    assert found[name] == verdict
    assert {other for other, one in found.items() if one != GOOD} <= {name}


def test_what_is_bad_has_a_mend() -> None:
    wrong = replace(
        RIGHT,
        **dict.fromkeys(("btf", "tcx", "bpffs", "cgroup2", "sysctls"), False),
        kernel="5.0",
        uplink="",
        mtu=0,
        rp_filter={"all": 1},
        lists=(BRIDGE,),
        udp_ports=frozenset({8472}),
    )
    for one in preflight.judged(wrong, WHOLE):
        assert one.verdict in (BAD, NOTE)
        assert one.mend
    assert verdicts(wrong, BESIDE)["ports"] == GOOD


def test_beside_needs_a_cni_to_be_beside() -> None:
    assert verdicts(RIGHT, BESIDE)["CNI"] == BAD


@pytest.mark.parametrize(
    ("version", "skew", "denied", "bad"),
    [
        ("v1.36.3", 0.5, (), set()),
        ("v1.31.9", 0.5, (), {"API server"}),
        ("v1.36.3", -4000.0, (), {"clock"}),
        ("v1.36.3", None, ("create secrets",), {"RBAC"}),
    ],
)
def test_a_cluster(
    version: str, skew: float | None, denied: tuple[str, ...], bad: set[str]
) -> None:
    found = list(preflight.of_cluster(version, skew, denied))
    assert {one.name for one in found if one.verdict == BAD} == bad


def test_cilium_must_leave_our_list_alone() -> None:
    assert list(preflight.exclusive(None)) == []
    (open_,) = preflight.exclusive({"data": {"cni-exclusive": "false"}})
    (alone,) = preflight.exclusive({"data": {}})
    assert (open_.verdict, alone.verdict) == (GOOD, BAD)


def test_a_host_is_read(tmp_path: Path) -> None:
    proc, sys, conf = (tmp_path / name for name in ("proc", "sys", "net.d"))
    files = {
        proc / "kallsyms": "0000000000000000 T tcx_prog_attach\n",
        proc / "self/mountinfo": "30 24 0:27 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw\n",
        proc / "net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
        proc / "net/udp": "  sl  local_address rem_address\n  12: 00000000:2118 00000000:0000 07\n",
        proc / "sys/net/ipv4/conf/all/forwarding": "0\n",
        proc / "sys/net/ipv4/conf/all/rp_filter": "1\n",
        proc / "sys/net/ipv4/conf/eth0/rp_filter": "2\n",
        sys / "kernel/btf/vmlinux": "",
        sys / "class/net/eth0/mtu": "1400\n",
        tmp_path / "cgroup/cgroup.procs": "",
        tmp_path / "cgroup/cgroup.controllers": "",
        conf / "10-a.conf": json.dumps({"type": "bridge"}),
        conf / "20-b.conflist": json.dumps({"plugins": [{"type": "x"}, {"type": "y"}]}),
        conf / "30-c.conflist": "no json",
        conf / "40-d.txt": "{}",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = preflight.look(Wanted(cgroup=tmp_path / "cgroup", conf=conf), proc, sys)
    assert (found.btf, found.tcx, found.bpffs, found.cgroup2, found.sysctls) == (True,) * 5
    assert (found.uplink, found.mtu) == ("eth0", 1400)
    assert found.rp_filter == {"all": 1, "eth0": 2}
    assert found.udp_ports == {8472}
    assert found.lists == (Lists("10-a.conf", ("bridge",)), Lists("20-b.conflist", ("x", "y")))
    nothing = preflight.look(Wanted(), tmp_path / "no", tmp_path / "no")
    assert (nothing.uplink, nothing.tcx, nothing.bpffs, nothing.mtu) == ("", False, False, 0)


def test_the_command_tells_in_lines_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """On this machine, whatever it is like: both forms and the status agree."""
    status = main(["verify", "--no-cluster", "-o", "json"])
    checks = json.loads(capsys.readouterr().out)
    assert status == int(any(one["verdict"] == BAD for one in checks))
    assert main(["verify", "--no-cluster"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [one["verdict"] for one in checks]


def test_the_mode_comes_from_the_agents_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Certificates that it names need not be there yet."""
    path = tmp_path / "agent.yaml"
    text = f"mode: beside\noverlayPort: 9000\ncni: {{confDir: {tmp_path}}}\netcd: {{ca: /none}}\n"
    path.write_text(text)
    assert main(["verify", "--no-cluster", "--config", str(path), "-o", "json"]) == 1
    found = {one["name"]: one["text"] for one in json.loads(capsys.readouterr().out)}
    assert found["CNI"] == f"no CNI in {tmp_path} to be beside"
    assert "9000" in found["ports"]
