"""Rows of ports and tables in use: queries without end, holders of all, strangers who forge.

One node of ours, which is its own gateway, in the namespaces of ``network``; what the agent does
for them (sweeps, counts, events) runs in this process. Each row is bounded in time; nothing in it
is asserted.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpf.sys import info
from mesh.datapath.sweep import sweep
from mesh.health import counts
from mesh.kernel import set_sysctl
from mesh.lab import processes
from mesh.lab.places import Lab
from tests.bench import network as net_
from tests.bench.frames import BenchError, Flows, Measurement, Way
from tests.bench.network import DEAD, MACS, NODE_A, OTHER_POD, POD, STRANGER, WORLD, Network
from tests.bench.ours import Node, nodes
from tests.bench.say import say

LONG = bool(os.environ.get("MESHGATE_BENCH_LONG"))
#: Seconds of queries, of new flows, and of a stranger's SYNs and what comes after them.
QUERIES_S, NEW_FLOWS_S, FLOOD_S, AFTER_S = (60, 300, 3, 30) if LONG else (5, 12, 3, 12)
#: Whole periods of the 10 s after which the port of a query without an answer is free.
DEAD_S = 20.0
QUERIES, DEAD_QUERIES, OTHERS = 500, 200, 100
DELAY_S = 0.1
PORTS, TABLE = 1024, 65_536
NEW_FLOWS = 6000
FORGED = 200_000
#: New flows are sent so often a second, all of a turn at once.
TURNS = 20
ECHO_PORT, FIRST_PORT, ASKED_PORTS = 9000, 7000, 8
COUNT_EVERY_S = 10.0
BOTH = (4, 6)
#: Destination ports of queries: RFC 4787 knows no minimum for the first one.
QUERY_PORTS = (53, 7007)
#: Why a new connection is refused: no entry, no mapping, no port, no run of ports, or its quota.
REFUSALS = (
    "CT_MAP_INSERTION_FAILED", "NO_NAT_MAPPING", "RATE_LIMITED", "MASQUERADE_FULL", "PORT_QUOTA",
    "NO_RUN",
)  # fmt: skip
_MAPS = ("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6")
_RUN_TIME = 192  # offset of run_time_ns in struct bpf_prog_info of linux/bpf.h
_STATISTICS = "kernel/bpf_stats_enabled"


@dataclass(frozen=True, slots=True)
class Use:
    """One row, in words."""

    what: str
    figure: str
    aim: str


def measure(lab: Lab, objects: Path) -> list[Use]:
    """All rows."""
    rows: list[Use] = []
    for some in (_queries, _dead, _new_flows, _hogs, _floods):
        for row in some(lab, objects):
            say(f"{row.what}: {row.figure}")
            rows.append(row)
    return rows


class Agent:
    """The agent's part for the node, in a thread; ``load`` is CPU since the last look."""

    def __init__(self, node: Node) -> None:
        self._node, self.datapath = node, node.datapath
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._programs = [self.datapath.program(f"mg_{name}") for name in
                          ("from_pod", "to_pod", "from_uplink", "from_vxlan")]  # fmt: skip
        self._before = self._spent()

    def _run(self) -> None:
        self._loop.run_until_complete(self._work())

    async def _work(self) -> None:
        ring = self._node.ring
        self._loop.add_reader(ring.fd, ring.drain)
        self._tasks = [asyncio.ensure_future(one) for one in (sweep(self.datapath), self._count())]
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._loop.remove_reader(ring.fd)

    async def _count(self) -> None:
        while True:
            await asyncio.to_thread(counts.counted, self.datapath)
            await asyncio.sleep(COUNT_EVERY_S)

    def stop(self) -> None:
        """End the thread."""
        for task in self._tasks:
            self._loop.call_soon_threadsafe(task.cancel)
        self._thread.join(5)

    def _spent(self) -> tuple[float, float, float]:
        raw = [info(program, _RUN_TIME + 8) for program in self._programs]
        ours = sum(struct.unpack_from("=Q", one, _RUN_TIME)[0] for one in raw)
        return time.monotonic(), time.process_time(), ours / 1e9

    def load(self) -> str:
        """Percent of a core: of this process, and of the programs at the hooks."""
        now = self._spent()
        passed, agent, programs = (a - b for a, b in zip(now, self._before, strict=True))
        self._before = now
        return f"agent {100 * agent / passed:.1f} %, programs {100 * programs / passed:.1f} %"

    def refused(self) -> int:
        """Packets that found no port or no room so far."""
        reasons = self.datapath.enum("drop_reason")
        keys, values = self.datapath.map("mg_drop").dump_percpu()
        packets = dict(
            zip(keys.ravel().tolist(), values["packets"].sum(axis=1).tolist(), strict=True)
        )
        return int(sum(packets.get(reasons[f"DROP_{name}"], 0) for name in REFUSALS))

    def size(self, version: int) -> int:
        """Entries that the connection table has room for."""
        return self.datapath.map(f"mg_ct_v{version}").max_entries

    def held(self, version: int) -> int:
        """Entries of the connection table."""
        return counts.counted(self.datapath).sizes[f"connections IPv{version}"][0]


@contextmanager
def _node(
    lab: Lab, *, covered: bool, pods: int = 1, size: int = 0
) -> Iterator[tuple[Network, Agent]]:
    """The node with its pods; the agent's part runs."""
    sizes = dict.fromkeys(_MAPS, size) if size else {}
    set_sysctl(_STATISTICS, "1")
    try:
        with net_.network(lab) as net, nodes(net, "a", sizes) as made:
            net_.sockets(net)
            made["a"].pod(covered=covered)
            if covered:
                made["a"].egress(NODE_A)
            if pods > 1:
                made["a"].other_pod()
            agent = Agent(made["a"])
            try:
                yield net, agent
            finally:
                agent.stop()
    finally:
        set_sysctl(_STATISTICS, "0")


# Programs in namespaces


class _Child:
    """A mode of ``queries`` in a namespace."""

    def __init__(self, net: Network, letter: str, *words: object) -> None:
        place = [f"--net={net.space(letter)}", sys.executable, "-m", "tests.bench.queries"]
        self._process = subprocess.Popen(
            ["nsenter", *place, *map(str, words)], stdout=subprocess.PIPE, text=True,
            env=processes.environment(),
        )  # fmt: skip

    def line(self) -> str:
        """What it prints next."""
        text = self._process.stdout.readline() if self._process.stdout else ""
        if not text:
            raise BenchError("a program in a namespace has ended")
        return text

    def found(self) -> dict[str, Any]:
        """What it prints at its end."""
        answer: dict[str, Any] = json.loads(self.line())
        self._process.wait(10)
        return answer

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)
        if self._process.stdout:
            self._process.stdout.close()


@contextmanager
def _serving(net: Network, letter: str, *words: object) -> Iterator[None]:
    child = _Child(net, letter, *words)
    try:
        child.line()
        yield
    finally:
        child.stop()


def _asked(net: Network, *words: object) -> dict[str, Any]:
    child = _Child(net, "p", *words)
    try:
        return child.found()
    finally:
        child.stop()


# Queries


def _queries(lab: Lab, _: Path) -> Iterator[Use]:
    aim = "refused 0, below 5 % of a core"
    for v in BOTH:
        with _node(lab, covered=True) as (net, agent):
            for port in QUERY_PORTS:
                with _serving(net, "x", "answer", WORLD[v], port, DELAY_S):
                    words = ("ask", POD[v], WORLD[v], port, QUERIES, QUERIES_S)
                    title = f"{QUERIES} new queries/s to port {port}, answered after 100 ms, IPv{v}"
                    yield Use(title, _figure(net, agent, words), aim)
            words = ("ping", POD[v], WORLD[v], QUERIES, QUERIES_S)
            yield Use(f"{QUERIES} new ICMP ids/s, IPv{v}", _figure(net, agent, words), aim)


def _figure(net: Network, agent: Agent, words: Sequence[object]) -> str:
    refused, _ = agent.refused(), agent.load()
    found = _asked(net, *words)
    return (
        f"refused {agent.refused() - refused} of {found['asked']}, "
        f"answered {found['answered']}; {agent.load()}"
    )


def _dead(lab: Lab, _: Path) -> Iterator[Use]:
    for kind, v, pods in (
        ("queries", 4, 1), ("queries", 6, 1), ("ICMP ids", 4, 1), ("ICMP ids", 6, 1),
        ("queries", 4, 2), ("queries", 6, 2),
    ):  # fmt: skip
        to = ("ask", POD[v], DEAD[v], 7007) if kind == "queries" else ("ping", POD[v], DEAD[v])
        with _node(lab, covered=True, pods=pods) as (net, agent):
            before = agent.refused()
            found = _asked(net, *to, DEAD_QUERIES, DEAD_S)
            refused = agent.refused() - before
        rate = (found["asked"] - refused) / DEAD_S
        whose = "" if pods == 1 else ", one pod of two that leave by the address"
        yield Use(
            f"{DEAD_QUERIES} new {kind}/s to a dead remote, IPv{v}{whose}",
            f"{rate:.0f}/s get a port, {refused} are refused, {found['errors']} of them hear of it",
            "100/s" if pods == 1 else "three quarters of that: the rest is the others'",
        )


# Flows without end


def _measurement(net: Network, objects: Path, flows: Flows, way: Way) -> Measurement:
    pins = net.lab.bpffs("sink")
    pins.mkdir(parents=True, exist_ok=True)
    return Measurement(objects, pins, way, flows)


def _from_pod(net: Network, flows: Flows) -> Way:
    return Way(net.space("a"), "a0", MACS["a0"], net.space("b"), "b1", flows.source)


def _new_flows(lab: Lab, objects: Path) -> Iterator[Use]:
    for v in BOTH:
        flows = Flows(POD[v], WORLD[v], 1 << 22, 1 << 15)
        with (
            _node(lab, covered=False, size=TABLE) as (net, agent),
            _measurement(net, objects, flows, _from_pod(net, flows)) as sending,
        ):
            total = NEW_FLOWS * NEW_FLOWS_S
            _paced(sending.send, total, NEW_FLOWS_S)
            yield Use(
                f"{NEW_FLOWS:,} new plain flows/s for {NEW_FLOWS_S} s, "
                f"a table of {TABLE:,}, IPv{v}",
                f"lost {total - sending.arrived()} of {total:,}; {agent.load()} "
                "(with the generator)",
                "0 lost",
            )


def _paced(send: Callable[[int], None], total: int, seconds: float) -> float:
    """So many, evenly over the time; seconds that it has taken."""
    begin, turns = time.monotonic(), int(seconds * TURNS)
    for turn in range(turns):
        send(total // turns)
        time.sleep(max(0.0, begin + (turn + 1) / TURNS - time.monotonic()))
    return time.monotonic() - begin


# Holders


def _hogs(lab: Lab, objects: Path) -> Iterator[Use]:
    for v in BOTH:
        yield _table_hog(lab, objects, v)
    for v in BOTH:
        yield from _port_hog(lab, v)


def _table_hog(lab: Lab, objects: Path, v: int) -> Use:
    """One pod opens and keeps all plain flows that it can; the other one opens more."""
    hog = Flows(POD[v], WORLD[v], 1 << 17, 1 << 15)
    other = Flows(OTHER_POD[v], WORLD[v], 1 << 17, 1 << 15)
    with _node(lab, covered=False, pods=2, size=TABLE) as (net, agent):
        with _measurement(net, objects, hog, _from_pod(net, hog)) as sending:
            sending.send(1 << 17)
        alone = agent.held(v)
        way = _from_pod(net, other)
        with _measurement(net, objects, other, way) as sending:
            _paced(sending.send, OTHERS * 5, 5)
            lost = OTHERS * 5 - sending.arrived()
    return Use(
        f"a pod opens all the flows it can, a table of {TABLE:,}, IPv{v}",
        f"it has {alone / TABLE:.0%} of the table; of another pod's {OTHERS} new flows/s "
        f"{lost} are refused",
        "75 %, 0",
    )


def _port_hog(lab: Lab, v: int) -> Iterator[Use]:
    """The same with the ports to one remote, and with ICMP ids."""
    for kind in ("ports", "ICMP ids"):
        with _node(lab, covered=True, pods=2) as (net, agent):
            to = ("ask", POD[v], DEAD[v], 7007) if kind == "ports" else ("ping", POD[v], DEAD[v])
            before = agent.refused()
            _asked(net, *to, 1000, 2)
            got = 2000 - (agent.refused() - before)
            before = agent.refused()
            words = (*to[:1], OTHER_POD[v], *to[2:])
            _asked(net, *words, OTHERS, 2)
            refused = agent.refused() - before
        yield Use(
            f"a pod takes all {kind} of a remote that it can get, IPv{v}",
            f"it has {got} of {PORTS}; of another pod's {OTHERS} new ones/s {refused} are refused",
            "75 %, 0",
        )


# Who never answers


def _floods(lab: Lab, objects: Path) -> Iterator[Use]:
    for v in BOTH:
        for outside in (True, False):
            yield _flood(lab, objects, v, outside=outside)


def _flood(lab: Lab, objects: Path, v: int, *, outside: bool) -> Use:
    """SYNs from a stranger to one pod, or from that pod; others open, and hold what they have."""
    flows = Flows(
        STRANGER[v] if outside else POD[v], POD[v] if outside else WORLD[v],
        1 << 18, 1 << 15, syn=True,
    )  # fmt: skip
    with _node(lab, covered=False, pods=2, size=0 if LONG else TABLE) as (net, agent):
        way = _from_pod(net, flows)
        if outside:
            way = Way(net.space("b"), "b0", MACS["b0"], net.space("x"), "x0", flows.source)
        with (
            _serving(net, "p", "listen", FIRST_PORT, ASKED_PORTS),
            _serving(net, "p", "echo", ECHO_PORT),
            _serving(net, "x", "echo", ECHO_PORT),
            _measurement(net, objects, flows, way) as sending,
        ):
            seconds = FLOOD_S + 3
            holders = [
                _Child(net, *where, ECHO_PORT, 20, seconds, AFTER_S)
                for where in (
                    ("p", "hold", OTHER_POD[v], WORLD[v]),
                    ("x", "hold", WORLD[v], OTHER_POD[v]),
                )
            ]
            time.sleep(1.5)
            took = _paced(sending.send, FORGED, FLOOD_S)
            most = agent.held(v)
            time.sleep(AFTER_S)
            left = agent.held(v)
            found = [one.found() for one in holders]
        load, size = agent.load(), agent.size(v)
    asked, failed, lost = (sum(one[name] for one in found) for name in ("asked", "failed", "lost"))
    slowest = max(one["slowest_ms"] for one in found)
    return Use(
        f"{FORGED:,} SYNs in {took:.0f} s, never answered, "
        f"{'from outside to' if outside else 'from'} a pod, a table of {size:,}, IPv{v}",
        f"of {asked} connections that others open {failed} fail and {lost} are lost, the slowest "
        f"takes {slowest:.0f} ms; entries {most:,}, {AFTER_S} s later {left:,}; {load} "
        "(with the generator)",
        "0, 0",
    )
