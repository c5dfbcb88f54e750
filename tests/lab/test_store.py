"""The shared etcd goes, comes back empty, refuses foreign writers: nothing programmed moves."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from running import LEASE_S, Lab, stored, wait
from transfers import losses, route_monitor, transfers

OF_EAST = ("east:controller:east-1-controller", "east:node:east-1", "east:speaker:east-1")
CLAIMS = ("identity", "podcidr", "locator", "block")


def claims(lab: Lab) -> dict[str, str]:
    """Every claim's number by its key, as etcd has them."""
    return {
        key: value.decode()
        for key, value in stored(lab, "meshgate/v1/").items()
        if "/owner/" in key and key.split("/")[3] in CLAIMS
    }


def programmed(lab: Lab) -> dict[str, list[Any]]:
    """The rows that processes show, without what may change by itself."""
    found: dict[str, list[Any]] = {}
    for noun in ("node", "pod", "identity", "address", "service", "egress", "block"):
        rows = [{k: v for k, v in row.items() if k != "epoch"} for row in lab.table(noun)]
        found[noun] = sorted(rows, key=str)
    return found


def test_an_empty_etcd_after_three_lease_times_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    lab.settle()
    data = Path(lab.environment["MESHGATE_RUN"]) / "etcd/data"
    numbers, rows = claims(lab), programmed(lab)
    assert {key.split("/")[3] for key in numbers} == set(CLAIMS)
    drops = lab.table("drop")
    with route_monitor(lab, tmp_path) as routes, transfers(lab, 3 * LEASE_S + 14) as reports:
        time.sleep(1)
        lab.kill("etcd/etcd")
        time.sleep(3 * LEASE_S)
        assert programmed(lab) == rows
        shutil.rmtree(data)
        lab.revive("etcd/etcd")
        wait(lambda: claims(lab) == numbers, 20, "all claims are back with their numbers")
    new_drops = [row for row in lab.table("drop") if row not in drops]
    assert not losses(reports), "\n".join([*losses(reports), *map(str, new_drops), *routes])
    assert [line for line in routes if "Deleted" in line] == []
    assert programmed(lab) == rows
    wait(lab.healthy, 30, "healthy afterwards")


@pytest.mark.parametrize("user", OF_EAST)
@pytest.mark.parametrize(
    "key",
    ["meshgate/v1/west/leader", "cilium/cache/nodes/v1/west/x", "cilium/cache/ip/v1/west/x"],
)
def test_a_user_of_east_cannot_write_under_west(lab: Lab, user: str, key: str) -> None:
    answer = lab.etcdctl(user, "put", key, "x")
    assert answer.returncode != 0
    assert "permission denied" in answer.stderr


@pytest.mark.parametrize("key", ["meshgate/v1/east/leader", "cilium/cache/nodes/v1/east/x"])
def test_an_agent_writes_only_pods(lab: Lab, key: str) -> None:
    assert "permission denied" in lab.etcdctl("east:node:east-1", "put", key, "x").stderr
