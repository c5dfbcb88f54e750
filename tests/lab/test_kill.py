"""Killing any process of ours loses no packet, no connection, no route, no map, no link."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fullness import three_quarters_full
from running import SOAK, Lab, wait
from transfers import kernel_ids, losses, route_monitor, transfers

#: How long each stays dead, and the whole transfer.
DEAD_S, TRANSFER_S = (5, 60) if SOAK else (2, 26)

#: Who is killed together, and whether the lab must start it again.
VICTIMS = (
    (("east-1/agent", "east-2/agent", "west-1/agent"), True),
    (("east-1/controller", "west-1/controller"), True),
    (("east-1/speaker", "east-2/speaker"), True),
    (("east-2/exabgp",), False),  # its speaker starts it again
    (("etcd/etcd",), True),
)


#: What status says of tables that are three quarters full.
FULL = {"D631", "D657"}
#: No entry, no mapping, a pod's quota of new ones, no port of the node's address, a pod's quota of
#: ports, no run of ports.
REFUSALS = {155, 167, 198, 236, 247, 248}


def refusals(drops: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """Nodes whose pods found no room, and how often."""
    return {(row["node"], row["packets"]) for row in drops if row["number"] in REFUSALS}


def has_room(lab: Lab) -> bool:
    """Whether new connections are not refused.

    The ports that are used up at once were lent to nobody, so the node has asked for no further
    block of ports yet.
    """
    with transfers(lab, 2) as reports:
        pass
    return not losses(reports)


def healthy(lab: Lab) -> bool:
    """But for tables that are full on purpose."""
    whole = lab.json("status")
    return {one["code"] for one in whole["findings"]} <= FULL


@pytest.mark.parametrize("tables", ["as they are", *(["three quarters full"] if SOAK else [])])
def test_kill_everything_one_after_the_other_under_traffic(
    lab: Lab, tmp_path: Path, tables: str
) -> None:
    """Full tables: nothing that is open gives way, and what is new finds room."""
    lab.settle()
    if tables == "as they are":
        kill_everything(lab, tmp_path, lab.healthy)
        return
    with three_quarters_full(lab):
        wait(lambda: has_room(lab), 60, "new connections find room")
        before = refusals(lab.table("drop"))
        kill_everything(lab, tmp_path, lambda: healthy(lab))
        assert refusals(lab.table("drop")) == before
    wait(lab.healthy, 180, "healthy afterwards")


def kill_everything(lab: Lab, tmp_path: Path, is_healthy: Callable[[], bool]) -> None:
    """One after the other, while transfers run that lose nothing."""
    before, drops = kernel_ids(lab), lab.table("drop")
    with route_monitor(lab, tmp_path) as routes, transfers(lab, TRANSFER_S) as reports:
        begin, log = time.monotonic(), []
        time.sleep(1)
        for names, revive in VICTIMS:
            log.append(f"{time.monotonic() - begin:.1f} s: killed {', '.join(names)}")
            lab.kill(*names)
            time.sleep(DEAD_S)
            if revive:
                log.append(f"{time.monotonic() - begin:.1f} s: started them again")
                lab.revive(*names)
        wait(lambda: "east-2/exabgp" in lab.processes(), 20, "a new ExaBGP")
    log += [str(row) for row in lab.table("drop") if row not in drops]
    assert not losses(reports), "\n".join([*log, *routes, *losses(reports)])
    assert [line for line in routes if "Deleted" in line] == []
    assert kernel_ids(lab) == before
    wait(is_healthy, 30, "healthy afterwards")


def test_a_new_speaker_adopts_the_exabgp_of_the_killed_one(lab: Lab) -> None:
    before = lab.processes()
    lab.kill("west-1/speaker")
    survivors = lab.processes()
    assert survivors["west-1/exabgp"] == before["west-1/exabgp"]
    assert survivors["west-1/relay"] == before["west-1/relay"]
    lab.revive("west-1/speaker")
    wait(lab.healthy, 20, "healthy again")
    adopted = lab.processes()
    assert adopted["west-1/exabgp"] == before["west-1/exabgp"]
    assert adopted["west-1/relay"] == before["west-1/relay"]


def test_a_controller_back_within_its_lease_deletes_nothing_of_its_cluster(lab: Lab) -> None:
    prefix = "cilium/"
    watch = lab.start("etcd", *lab.etcdctl_command("root"), "watch", "--prefix", prefix)
    lab.kill("east-1/controller")
    time.sleep(2)
    lab.revive("east-1/controller")
    wait(lab.healthy, 20, "healthy again")
    time.sleep(10)  # longer than the lease that its predecessor held
    watch.terminate()
    events, _ = watch.communicate(timeout=10)
    lines = events.splitlines()
    deleted = [key for verb, key in itertools.pairwise(lines) if verb == "DELETE"]
    assert not [key for key in deleted if "/east/" in key or key.endswith("/east")]
