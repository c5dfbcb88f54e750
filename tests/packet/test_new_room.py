"""A feature that stands outside of the tree: its room, its field, a line for each process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpf.build import build
from bpf.object import BPFFS, mount_bpffs
from tests.packet.conftest import cgroup_mount
from tests.packet.nodes import ip

ROOT = Path(__file__).parents[2]
ROOM = Path(__file__).parent / "fence"
#: Lines of the tree that the feature adds, each above the line that stands there: its field, and
#: in one program the header and the decision.
ADDED = (
    ("include/addresses.h", "\t__u8 mac[6];\n\t__u8 host_mac[6];\n", "\t__u32 fence;\n"),
    ("pod.bpf.c", '#include "leave.h"\n', '#include "fence.h"\n'),
    (
        "pod.bpf.c",
        "\t/* 7. policy, source side (to come) */\n",
        "\tif (is_fenced(pod, packet)) return DROP_UNKNOWN_L3_TARGET;\n",
    ),
)
SHOT = 2


def programs(place: Path) -> Path:
    """The datapath with the feature."""
    source, objects = place / "bpf", place / "programs"
    shutil.copytree(ROOT / "bpf", source, ignore=shutil.ignore_patterns("obj", "__pycache__"))
    shutil.copy(ROOM / "fence.h", source / "include")
    for name, line, added in ADDED:
        file = source / name
        text = file.read_text()
        assert text.count(line) == 1, f"{name}: {line}"
        file.write_text(text.replace(line, added + line))
    build(source, objects)
    return objects


@pytest.fixture
def name() -> Iterator[str]:
    """A network namespace with an uplink, one for a pod, a cgroup, a directory of bpffs."""
    name = f"mgr{os.getpid()}"
    mount_bpffs()
    cgroup = cgroup_mount() / name
    cgroup.mkdir()
    try:
        for space in (name, f"{name}-shop_web"):
            ip("", "netns", "add", space)
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "add", "uplink", "type", "veth", "peer", "name", "router"),
            ("addr", "add", "10.99.0.11/24", "dev", "uplink"),
            ("link", "set", "uplink", "up"),
            ("link", "set", "router", "up"),
        ):
            ip(name, *words)
        yield name
    finally:
        for space in (name, f"{name}-shop_web"):
            ip("", "netns", "del", space)
        shutil.rmtree(BPFFS / name, ignore_errors=True)
        cgroup.rmdir()


@pytest.fixture
def seen(name: str, tmp_path: Path) -> dict[str, Any]:
    """What agent and controller with the feature have shown."""
    programs(tmp_path)
    places = {
        "bpffs": str(BPFFS / name),
        "cgroup": str(cgroup_mount() / name),
        "podNetns": f"/run/netns/{name}-{{namespace}}_{{name}}",
    }
    (tmp_path / "places.json").write_text(json.dumps(places))
    command = [sys.executable, "-m", "tests.packet.fence.scenario", str(tmp_path)]
    result = subprocess.run(
        ["nsenter", f"--net=/run/netns/{name}", *command],
        env={**os.environ, "MESHGATE_RUN": str(tmp_path / "run")},
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


def test_a_feature_is_its_room_its_field_and_a_line_for_each_process(seen: dict[str, Any]) -> None:
    numbers = {row["name"]: row["number"] for row in seen["rows"]}
    assert sorted(numbers) == ["documentation", "unused"]
    number = numbers["documentation"]
    assert f"meshgate/v1/east/fence/fences/number/{number}" in seen["claims"]
    assert "meshgate/v1/east/fence/fences/owner/documentation" in seen["claims"]
    assert seen["marks"] == [number]
    assert seen["verdicts"] == {"192.0.2.10": SHOT, "198.51.100.10": 0}
    # The kernel of the pod probes its own address at a time of its choice (RFC 4862 5.4): before
    # the pod's row stands, that is a drop of another reason.
    drops = {row["reason"]: row["packets"] for row in seen["drops"]}
    assert drops["Unknown L3 target"] == 1, drops
    found = [(one["code"], one["object"], one["field"]) for one in seen["findings"]]
    assert [(code, field) for code, place, field in found if "Fence/unused" in place] == [
        ("P901", "spec.podSelector")
    ]
    refused = [one for one in seen["findings"] if one["code"] == "M129"]
    assert refused, found
    assert all("west-2" in one["object"] for one in refused)
    assert all("192.0.2.0/24" in one["text"] for one in refused), refused
    names = {(row["cluster"], row["name"]) for row in seen["nodes"]}
    assert ("west", "west-1") in names
    assert ("west", "west-2") not in names
