"""Agents of the former commit are replaced under traffic, and come back: nothing is lost.

::

    client-1, client-2 (east) ── 8 UDP lanes, 8 TCP streams ── web-1, web-2 (west), legacy server
                              ── 500 new connections a second ── legacy server
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Versions
from running import ECHO_PORT, Lab, report, wait
from transfers import losses
from versions import Agents, Version

from bpf.maps import Map
from mesh.datapath.steps import ORDER, Way

HOSTS = ("east-1", "east-2", "west-1", "west-2")
CLIENTS = {"east/shop/client-1": "west/shop/web-1", "east/shop/client-2": "west/shop/web-2"}
CHURN = Path(__file__).with_name("churn.py")
RATE = 250  # of each client
UDP_RATE = 1000
NATS = ("mg_nat_v4", "mg_nat_v6")


@dataclass
class Traffic:
    """Reports of what ran; filled at the end."""

    lanes: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    churn: list[dict[str, Any]] = field(default_factory=list)
    stolen: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    def note(self, words: str) -> None:
        """What is done to the lab, and when."""
        self.log.append(f"{time.monotonic() - self.begin:.1f} s: {words}")

    def problems(self) -> list[str]:
        """In words; empty when nothing was lost."""
        found = [words for lanes in self.lanes for words in losses(lanes)]
        for each in self.churn:
            found += [f"failed: {words}" for words in each["failed"]]
            found += [f"{each['wrong']} wrong answers"] if each["wrong"] else []
        return found + self.stolen


@contextmanager
def traffic(lab: Lab, agents: Agents, seconds: float) -> Iterator[Traffic]:
    """Everything of the picture above for some seconds."""
    legacy = lab.shown["legacy"]
    found = Traffic()
    with ExitStack() as stack:
        stack.enter_context(lab.echo_in(*CLIENTS.values()))
        lanes = [_lanes(lab, client, web, seconds) for client, web in CLIENTS.items()]
        churn = [
            lab.start(
                client, sys.executable, CHURN, client, legacy["tcp"], *legacy["addresses"],
                "--seconds", seconds - 2, "--rate", RATE,
            )
            for client in CLIENTS
        ]  # fmt: skip
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(agents, stop, found.stolen))
        watcher.start()
        try:
            yield found
        finally:
            found.lanes += [{name: report(one) for name, one in each.items()} for each in lanes]
            found.churn += [json.loads(_text(one)) for one in churn]
            stop.set()
            watcher.join()


def _text(running: subprocess.Popen[str]) -> str:
    text, _ = running.communicate(timeout=120)
    return text.splitlines()[-1]


def _lanes(lab: Lab, client: str, web: str, seconds: float) -> dict[str, subprocess.Popen[str]]:
    legacy = lab.shown["legacy"]
    routes = [("overlay", address, ECHO_PORT) for address in lab.pod(web)["addresses"]]
    routes += [("egress", address, legacy["udp"]) for address in legacy["addresses"]]
    options = {"udp": ("--rate", UDP_RATE), "tcp": ()}
    return {
        f"{mode} {way} {address}": lab.probe(client, mode, address, port, seconds, *options[mode])
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
    wait(lab.healthy, 60, "healthy before")
    return Agents(lab)


def layouts(agents: Agents, host: str) -> tuple[str, ...]:
    """Fields of a connection's key."""
    with Map.open_pinned(agents.bpffs(host) / "mg_ct_v4") as map_:
        return map_.key.names or ()


def check(found: Traffic) -> None:
    """Nothing lost; connections went on and came all the time."""
    opened = sum(sum(each["opened"].values()) for each in found.churn)
    assert opened > RATE, found.churn
    slow = [f"slow: {words}" for each in found.churn for words in each["slow"]]
    assert not found.problems(), "\n".join([*found.log, *found.problems(), *slow])


def test_the_lab_runs_the_former_version(agents: Agents, versions: Versions) -> None:
    for host in HOSTS:
        assert str(versions.former.root) in agents.modules(host)
        assert not (agents.bpffs(host) / "mg_handover").exists()


def test_agents_are_replaced(lab: Lab, agents: Agents, versions: Versions) -> None:
    with traffic(lab, agents, 40) as found:
        time.sleep(2)
        for host in HOSTS:
            found.note(host)
            agents.replace(host, versions.tree)
    check(found)
    for host in HOSTS:
        assert "zone" in layouts(agents, host)
        assert not (agents.bpffs(host) / "next").exists()
    wait(lab.healthy, 30, "healthy afterwards")


def test_the_former_version_comes_back(lab: Lab, agents: Agents, versions: Versions) -> None:
    with traffic(lab, agents, 50) as found:
        time.sleep(2)
        for host in HOSTS:
            found.note(host)
            agents.back(host, versions.tree, versions.former)
    check(found)
    for host in HOSTS:
        assert "zone" not in layouts(agents, host)
        assert "adopted=True" in agents.log(host).splitlines()[-1] or "adopted=True" in agents.log(
            host
        )
    wait(lab.healthy, 30, "healthy afterwards")


@pytest.mark.parametrize("host", ["east-1", "east-2"], ids=["pods", "gateway"])
def test_a_new_agent_that_is_killed_at_each_step(
    lab: Lab, agents: Agents, versions: Versions, host: str
) -> None:
    with traffic(lab, agents, 60) as found:
        time.sleep(2)
        agents.stop(host)
        for step in ORDER[Way.TO_NEW]:
            found.note(step.name)
            agents.kill_at(host, versions.wider, step.name)
        agents.start(host, versions.wider)
    check(found)
    assert "wide" in layouts(agents, host)


def test_without_etcd(lab: Lab, agents: Agents, versions: Versions) -> None:
    hosts = HOSTS[2:]
    with traffic(lab, agents, 40) as found:
        time.sleep(2)
        lab.kill("etcd/etcd")
        for host in hosts:
            found.note(host)
            agents.replace(host, versions.tree)
        lab.revive("etcd/etcd")
    check(found)
    for host in hosts:
        assert "zone" in layouts(agents, host)
    wait(lab.healthy, 60, "healthy afterwards")


def test_this_tree_follows_its_own_next_layout(
    lab: Lab, agents: Agents, versions: Versions
) -> None:
    """And the way back to a version that can hand over itself."""
    version: Version = versions.tree
    with traffic(lab, agents, 30) as found:
        time.sleep(2)
        for host in HOSTS[:2]:
            found.note(host)
            agents.back(host, versions.wider, version)
    check(found)
