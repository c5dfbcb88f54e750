"""Agents of the former commit are replaced under traffic, and come back: nothing is lost.

::

    client-1, client-2 (east) ── 8 UDP lanes, 8 TCP streams ── web-1, web-2 (west), legacy server
                              ── 500 new connections a second ── legacy server
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Versions
from outside import NATS, PROTOCOLS, End, connected, translations
from running import ECHO_PORT, Lab, report, wait
from transfers import losses
from versions import Agents, Version

from bpf.maps import Map
from mesh.datapath.steps import ORDER, Way

HOSTS = ("east-1", "east-2", "west-1", "west-2")
CLIENTS = {"east/shop/client-1": "west/shop/web-1", "east/shop/client-2": "west/shop/web-2"}
CHURN = Path(__file__).with_name("churn.py")
RATE = 250  # of each client
CHURN_PORT = 7008
#: The longest that traffic may go on.
MOST_S = 600
#: Seconds of traffic before the first step and after the last one.
AROUND_S = 2
UDP_RATE = 1000
#: Mappings of datagrams of a family on a node, of 16,384 ports, with which a test begins at most.
FEW_DATAGRAMS = 3000
#: Egress connections that live all the time: of each client, both families, UDP and TCP.
LIVE = 8


@dataclass
class Traffic:
    """Reports of what ran; filled at the end.

    ``outside`` are the translations of the lanes' connections, as they were before anything was
    done.
    """

    lab: Lab
    agents: Agents
    outside: Mapping[End, set[End]]
    lanes: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    churn: list[dict[str, Any]] = field(default_factory=list)
    served: dict[str, Any] = field(default_factory=dict)
    stolen: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    def note(self, words: str) -> None:
        """What is done to the lab, and when."""
        self.log.append(f"{time.monotonic() - self.begin:.1f} s: {words}")

    @contextmanager
    def step(self, words: str) -> Iterator[None]:
        """Something that is done to the lab; the lanes' connections keep their translations."""
        self.note(words)
        yield
        now = outside_of(self.agents, set(self.outside))
        self.moved += [
            f"after {words}: {pod} was {self.outside[pod]} outside and is {now[pod]}"
            for pod in now
            if now[pod] != self.outside[pod]
        ]
        seen = connected(self.lab, "legacy", of=self.lab.shown["legacy"]["tcp"])
        self.moved += [
            f"after {words}: the legacy server has no connection with {end}"
            for ends in self.outside.values()
            for end in ends - seen
            if end.protocol == PROTOCOLS["tcp"]
        ]

    def problems(self) -> list[str]:
        """In words; empty when nothing was lost."""
        found = [words for lanes in self.lanes for words in losses(lanes)]
        for each in (*self.churn, self.served):
            found += [f"failed: {words}" for words in each["failed"]]
            found += [f"sent again: {words}" for words in each["again"]]
            found += [f"{each['wrong']} wrong answers"] if each["wrong"] else []
        return found + self.stolen + self.moved


def outside_of(agents: Agents, pods: set[End]) -> dict[End, set[End]]:
    """What connections of pods are outside, as the maps of all hosts and generations say."""
    directories = [agents.bpffs(host) / name for host in HOSTS for name in ("", "next")]
    return translations(directories, pods, agents.lab.shown["legacy"]["tcp"])


@contextmanager
def traffic(lab: Lab, agents: Agents) -> Iterator[Traffic]:
    """Everything of the picture above, from before the first step to after the last one."""
    legacy = lab.shown["legacy"]
    with ExitStack() as stack:
        stack.enter_context(lab.echo_in(*CLIENTS.values()))
        server = lab.start("legacy", sys.executable, CHURN, "serve", CHURN_PORT)
        stack.callback(server.kill)
        lanes = [_lanes(lab, client, web) for client, web in CLIENTS.items()]
        for lane in (lane for each in lanes for lane in each.values()):
            stack.callback(lane.kill)
        found = Traffic(lab, agents, _live_outside(lab, agents))
        churn = [
            lab.start(
                client, sys.executable, CHURN, "ask", client, CHURN_PORT, legacy["udp"],
                *legacy["addresses"], "--rate", RATE,
            )
            for client in CLIENTS
        ]  # fmt: skip
        for one in churn:
            stack.callback(one.kill)
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(agents, stop, found.stolen))
        watcher.start()
        stack.callback(watcher.join)
        stack.callback(stop.set)
        time.sleep(AROUND_S)
        yield found
        time.sleep(AROUND_S)
        found.churn += [_ended(one) for one in churn]
        found.lanes += [_ended_lanes(each) for each in lanes]
        found.served = _ended(server)


def _ended(running: subprocess.Popen[str]) -> dict[str, Any]:
    running.terminate()
    return report(running)


def _ended_lanes(lanes: dict[str, subprocess.Popen[str]]) -> dict[str, dict[str, Any]]:
    for lane in lanes.values():
        lane.terminate()
    return {name: report(lane) for name, lane in lanes.items()}


def _live_outside(lab: Lab, agents: Agents) -> dict[End, set[End]]:
    """The translations of the lanes' connections, once all of them have one."""
    port = lab.shown["legacy"]["tcp"]
    found: dict[End, set[End]] = {}

    def all_live() -> bool:
        pods = set[End]().union(*(connected(lab, client, to=port) for client in CLIENTS))
        found.clear()
        found.update(outside_of(agents, pods))
        return len(found) == LIVE and all(len(ends) == 1 for ends in found.values())

    wait(all_live, 30, f"{LIVE} connections, each with one egress address and port")
    return found


def _lanes(lab: Lab, client: str, web: str) -> dict[str, subprocess.Popen[str]]:
    legacy = lab.shown["legacy"]
    routes = [("overlay", address, ECHO_PORT) for address in lab.pod(web)["addresses"]]
    routes += [("egress", address, legacy["udp"]) for address in legacy["addresses"]]
    options = {"udp": ("--rate", UDP_RATE), "tcp": ()}
    return {
        f"{mode} {way} {address}": lab.probe(client, mode, address, port, MOST_S, *options[mode])
        for way, address, port in routes
        for mode in ("udp", "tcp")
    }


def _watch(agents: Agents, stop: threading.Event, stolen: list[str]) -> None:
    """Look for ports that live in the maps of both generations with different pods."""
    while not stop.wait(0.005):
        for host in HOSTS:
            directory = agents.bpffs(host)
            if (directory / "next/mg_nat_v6").exists():
                stolen += [f"{host}: {words}" for words in _both(directory)]


def _both(directory: Path) -> list[str]:
    try:
        old, new = _live(directory), _live(directory / "next")
    except FileNotFoundError:
        return []  # just finished
    return [
        f"{key} is {old[key]}'s and {new[key]}'s"
        for key in old.keys() & new.keys()
        if old[key] != new[key]
    ]


def _live(directory: Path) -> dict[tuple[str, ...], tuple[str, int]]:
    found = {}
    for name in NATS:
        with Map.open_pinned(directory / name) as map_:
            keys, values = map_.dump()
        for key, value in zip(keys, values, strict=True):
            if not value["closed"]:
                parts = ("source", "destination", "source_port", "destination_port", "protocol")
                tuple_ = tuple(key[part].tobytes().hex() for part in parts)
                found[tuple_] = (value["pod"].tobytes().hex(), int(value["pod_port"]))
    return found


@pytest.fixture
def agents(lab: Lab) -> Agents:
    """The agents of a healthy lab in which most ports are free.

    A datagram's port is in use for minutes. The former version refuses connections when none is
    free, and so would a test that begins with the ports of the one before it.
    """
    lab.settle()
    made = Agents(lab)
    words = "ports of the test before are free again"
    wait(lambda: max(map(made.datagrams, HOSTS)) < FEW_DATAGRAMS, 400, words, pause_s=2)
    return made


def layouts(agents: Agents, host: str) -> tuple[str, ...]:
    """Fields of a connection's key."""
    with Map.open_pinned(agents.bpffs(host) / "mg_ct_v4") as map_:
        return map_.key.names or ()


def check(found: Traffic) -> None:
    """Nothing lost; connections went on and came all the time.

    An answer may be slow, because a process may be. A lost segment shows in ``again``.
    """
    for each in found.churn:
        assert sum(each["opened"].values()) > 0.95 * RATE * each["seconds"], each
    slow = [f"slow: {words}" for each in found.churn for words in each["slow"]]
    assert not found.problems(), "\n".join([*found.log, *found.problems(), *slow, busy(found.lab)])


def busy(lab: Lab) -> str:
    """Datagrams that the legacy server's socket had no room for: the server had no CPU to read."""
    counters = ("UdpRcvbufErrors", "Udp6RcvbufErrors")
    return lab.exec("legacy", "nstat", "-asz", *counters).stdout


def test_the_lab_runs_the_former_version(agents: Agents, versions: Versions) -> None:
    for host in HOSTS:
        assert str(versions.former.root) in agents.modules(host)
        assert not (agents.bpffs(host) / "mg_handover").exists()


def test_agents_are_replaced(lab: Lab, agents: Agents, versions: Versions) -> None:
    with traffic(lab, agents) as found:
        for host in HOSTS:
            with found.step(host):
                agents.replace(host, versions.tree)
    check(found)
    for host in HOSTS:
        assert "zone" in layouts(agents, host)
        assert not (agents.bpffs(host) / "next").exists()
    lab.settle()


def test_the_former_version_comes_back(lab: Lab, agents: Agents, versions: Versions) -> None:
    with traffic(lab, agents) as found:
        for host in HOSTS:
            with found.step(host):
                agents.back(host, versions.tree, versions.former)
    check(found)
    for host in HOSTS:
        assert "zone" not in layouts(agents, host)
        assert "adopted=True" in agents.log(host).splitlines()[-1] or "adopted=True" in agents.log(
            host
        )
    lab.settle()


@pytest.mark.parametrize("host", ["east-1", "east-2"], ids=["pods", "gateway"])
def test_a_new_agent_that_is_killed_at_each_step(
    lab: Lab, agents: Agents, versions: Versions, host: str
) -> None:
    with traffic(lab, agents) as found:
        agents.stop(host)
        for step in ORDER[Way.TO_NEW]:
            with found.step(f"kill -9 at {step.name}"):
                agents.kill_at(host, versions.wider, step.name)
        with found.step("the next agent"):
            agents.start(host, versions.wider)
    check(found)
    assert "wide" in layouts(agents, host)


def test_without_etcd(lab: Lab, agents: Agents, versions: Versions) -> None:
    hosts = HOSTS[2:]
    with traffic(lab, agents) as found:
        lab.kill("etcd/etcd")
        for host in hosts:
            with found.step(host):
                agents.replace(host, versions.tree)
        lab.revive("etcd/etcd")
    check(found)
    for host in hosts:
        assert "zone" in layouts(agents, host)
    lab.settle()


def test_this_tree_follows_its_own_next_layout(
    lab: Lab, agents: Agents, versions: Versions
) -> None:
    """And the way back to a version that can hand over itself."""
    version: Version = versions.tree
    with traffic(lab, agents) as found:
        for host in HOSTS[:2]:
            with found.step(host):
                agents.back(host, versions.wider, version)
    check(found)
