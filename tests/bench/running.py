"""The processes' rows, on a running lab: ready, memory, idle CPU; and etcd to the other cluster."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from mesh.lab import enter, processes, settings, topology
from mesh.lab.places import Lab
from mesh.observe import tables
from tests.bench.control import Spread
from tests.bench.frames import BenchError
from tests.bench.publish import Job
from tests.bench.say import say

STARTS = 3
READY_WITHIN_S = 30.0
IDLE_S = 20.0
SETTLE_S = 5.0
PUBLISHED = 200
#: Addresses that no pod of the lab has.
FIRST_UNUSED = 50
ROLES = ("agent", "controller", "speaker", "exabgp", "relay")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of one role: MB, and percent of a core while idle."""

    role: str
    memory: list[float]
    idle: list[float]


@dataclass(frozen=True, slots=True)
class Running:
    """All rows of this file."""

    publish: Spread
    ready: dict[str, list[float]]
    usage: list[Usage]


@contextmanager
def lab_up(lab: Lab) -> Iterator[None]:
    """The lab of the demo."""
    command = [sys.executable, "-m", "mesh.cli", "lab"]
    built = subprocess.run(
        [*command, "up"], env=processes.environment(), check=False, text=True, capture_output=True
    )
    try:
        if built.returncode:
            raise BenchError(f"the lab is not healthy:\n{built.stdout}{built.stderr}")
        say(f"lab {lab.name} is up")
        yield
    finally:
        subprocess.run([*command, "down", "--force"], env=processes.environment(), check=False,
                       capture_output=True)  # fmt: skip


def measure(lab: Lab) -> Running:
    """On a lab that is up."""
    shape = topology.load(lab.topology)
    usage = _usage(lab)
    say("idle CPU and memory are measured")
    spread = _publish(lab, shape)
    say(f"etcd to the other cluster's map: p50 {spread.p50 * 1000:.1f} ms")
    return Running(spread, _starts(lab), usage)


# From etcd to the other cluster's map


def _publish(lab: Lab, shape: topology.Topology) -> Spread:
    ours, theirs = shape.clusters[0], shape.clusters[1]
    node = theirs.nodes[0]
    cidr = next(c for c in _node_row(lab, theirs.name, node.name)["podCIDRs"] if ":" not in c)
    identity = next(
        r["id"] for r in _rows(lab, node.name, "identity") if r["cluster"] == theirs.name
    )
    user = next(one for one in settings.etcd_users(shape) if one.cluster == theirs.name)
    files = settings.etcd_client(lab, shape, user)
    job = Job(
        endpoint=settings.etcd_endpoint(shape), ca=str(files["ca"]), cert=str(files["cert"]),
        key=str(files["key"]),
        cluster=theirs.name, identity=identity, node=str(node.addresses[0]),
        first=str(ip_network(cidr)[FIRST_UNUSED]), count=PUBLISHED,
        map=str(lab.bpffs(ours.nodes[0].name) / "mg_address"),
    )  # fmt: skip
    command = enter.argv(lab.host("etcd"), [sys.executable, "-m", "tests.bench.publish"])
    answer = subprocess.run(
        command, input=json.dumps(asdict(job)), text=True, check=False, capture_output=True,
        env=processes.environment(),
    )  # fmt: skip
    if answer.returncode:
        raise BenchError(answer.stderr.strip().splitlines()[-1])
    return Spread(json.loads(answer.stdout))


def _node_row(lab: Lab, cluster: str, node: str) -> dict[str, Any]:
    for row in _rows(lab, node, "node"):
        if (row["cluster"], row["name"]) == (cluster, node):
            return row
    raise BenchError(f"{node} does not know itself")


def _rows(lab: Lab, host: str, noun: str) -> list[dict[str, Any]]:
    (answer,) = tables.ask([_process(lab, host, "agent")], [noun])
    return list(answer.rows.get(noun, ()))


# From start to ready


def _starts(lab: Lab) -> dict[str, list[float]]:
    ready: dict[str, list[float]] = {}
    for title, name, cold in (
        ("agent, nothing loaded", "west-2/agent", True),
        ("agent, datapath adopted", "west-2/agent", False),
        ("controller", "east-1/controller", False),
        ("speaker, ExaBGP adopted", "west-1/speaker", False),
    ):
        ready[title] = [_start(lab, name, cold=cold) for _ in range(STARTS)]
        say(f"{title}: ready in {statistics.median(ready[title]):.2f} s")
    return ready


def _start(lab: Lab, name: str, *, cold: bool) -> float:
    host, role = name.split("/")
    processes.stop(lab, name)
    if cold:
        for path in lab.bpffs(host).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    begin = time.perf_counter()
    processes.start(lab, name)
    asked = _process(lab, host, role)
    if not processes.wait_until(lambda: _ready(asked), READY_WITHIN_S, pause=0.02):
        raise BenchError(f"{name} is not ready within {READY_WITHIN_S:.0f} s")
    return time.perf_counter() - begin


def _ready(asked: tables.Process) -> bool:
    if not asked.path.exists():
        return False
    (answer,) = tables.ask([asked], (), 0.5)
    return answer.status.get("ready") is True


def _process(lab: Lab, host: str, role: str) -> tables.Process:
    run = lab.host_run(host)
    folder = run / role if role == "controller" else run
    return tables.Process(host, role, folder / f"{role}.sock")


# Memory and idle CPU


def _usage(lab: Lab) -> list[Usage]:
    time.sleep(SETTLE_S)
    alive = [each for each in processes.alive(lab) if each.role in ROLES]
    before = {each.pid: _ticks(each.pid) for each in alive}
    begin = time.monotonic()
    time.sleep(IDLE_S)
    spent = time.monotonic() - begin
    idle = {pid: 100 * (_ticks(pid) - ticks) / _TICKS / spent for pid, ticks in before.items()}
    return [
        Usage(
            role,
            [_memory_mb(each.pid) for each in alive if each.role == role],
            [idle[each.pid] for each in alive if each.role == role],
        )
        for role in ROLES
    ]


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6
