"""Whois is right for every port that pods have used, whatever becomes of agents and nodes."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from bpf.testrun import run
from clustermesh import lent
from clustermesh.etcd.client import Client, EtcdAddress
from gateway import whois
from gateway.history import day_of, holders_at, read_part, run_of
from mesh.cli import main
from tests.interop.etcd_server import Etcd
from tests.packet.nodes import EGRESS, HEAD, REDIRECT, TAIL, Node, Pod
from tests.packet.packets import UDP, Overlay, Packet

PODS, CONNECTIONS = 40, 10_000
#: Connections by which the process is killed once.
KILLED_EVERY = 700
BLOCKS = tuple(range(60, 92))


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    server = Etcd(tmp_path / "etcd")
    server.start()
    yield server
    server.kill()


@dataclass
class Agent:
    """The process of a node; ``kill`` starts another one."""

    node: Node
    etcd: Etcd
    pods: Path
    kills: int = -1
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.kills += 1
        words = (self.node.directory, self.etcd.address, f"east-{self.node.plan.name}", self.pods)
        command = [sys.executable, "-m", "tests.packet.lending_process", *map(str, words)]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def drained(self) -> None:
        """Everything is in the store."""
        deadline = time.monotonic() + 60
        ends = self.node.maps["mg_lent"]
        while int(ends.lookup(HEAD)["line"]) != int(ends.lookup(TAIL)["line"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)


@dataclass(frozen=True)
class Used:
    """A port that a connection has had at a time."""

    family: int
    port: int
    pod: str
    node: str
    at: float


@dataclass
class Traffic:
    """Connections of 20 pods of a node to a few remotes, in both families."""

    node: Node
    dice: random.Random
    pods: dict[str, dict[int, str]] = field(default_factory=dict)
    used: list[Used] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        third = self.node.plan.number
        for number in range(PODS // 2):
            name = f"{self.node.plan.name}-{number}"
            v4 = f"10.1.{third}.{100 + number}"
            v6 = str(ip_address(f"fd01:0:0:{third}::{100 + number:x}"))
            self.pods[name] = {4: v4, 6: v6}
            self.node.pod(Pod("dpw1", 0x10100 + number, self.pods[name], 1))

    def open(self) -> bool:
        """One connection, and which port it has; whether it was let out."""
        self._number += 1
        name = self.dice.choice(list(self.pods))
        family = self.dice.choice((4, 6))
        last = 1 + self.dice.randrange(2)
        remote = {4: f"192.0.2.{last}", 6: f"2001:db8:2::{last:x}"}[family]
        l4 = UDP(1024 + self._number % 60000, 4000)
        wire = Packet(self.pods[name][family], remote, l4).wire()
        device = self.node.devices["dpw1"]
        result = run(self.node.programs["mg_from_pod"], wire, ctx={"ifindex": device})
        if result.verdict != REDIRECT:
            return False
        try:
            sent = Overlay.read(result.packet_out).inner
        except ValueError:  # refused, by an ICMP error to the pod
            return False
        assert sent.source == EGRESS[family]
        assert isinstance(sent.l4, UDP)
        node = f"east-{self.node.plan.name}"
        self.used.append(Used(family, sent.l4.source, name, node, time.time()))
        return True


def hold(node: Node, *numbers: int) -> None:
    for family in (4, 6):
        node.own_blocks(family, *numbers)
        for number in numbers:
            node.block(family, number, node.plan.name)


def history(etcd: Etcd, family: int) -> Mapping[str, list[object]]:
    """Events by node, as ``whois`` reads them."""
    address = ip_address(EGRESS[family])
    today = day_of(time.time())
    found = lent.ask(EtcdAddress((etcd.address,)), address, day_of(time.time() - 600), today)
    nodes: dict[str, list[object]] = {}
    for one in found:
        day, _, name = one.place.split("/")
        part = read_part(address, day, name.partition("-")[0], one.value)
        nodes.setdefault(one.node, []).extend(part.events)
    return nodes


def answers(events: Mapping[str, list[object]], used: Used) -> set[tuple[str, str]]:
    return {
        (node, lending.holder.name)
        for node, some in events.items()
        for lending in holders_at(some, run_of(used.port), used.at, 1)  # type: ignore[arg-type]
    }


@pytest.mark.slow
def test_whois_is_right_for_every_port_of_ten_thousand_connections(
    nodes: dict[str, Node],
    etcd: Etcd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Agents are killed at random; the blocks change hands; the first node is destroyed.

    Nobody reads the ring of flows, so it is full long before the end.
    """
    dice = random.Random(12)
    used: list[Used] = []
    for letter in ("a", "b"):
        node = nodes[letter]
        hold(node, *BLOCKS)
        traffic = Traffic(node, dice)
        file = tmp_path / f"{letter}.json"
        file.write_text(json.dumps({k: list(v.values()) for k, v in traffic.pods.items()}))
        agent = Agent(node, etcd, file)
        agent.start()
        for number in range(CONNECTIONS // 2):
            assert traffic.open()
            if dice.randrange(KILLED_EVERY) == 0:
                agent.kill()
                agent.start()
            if number % 500 == 499:
                time.sleep(dice.random() / 2)  # so that it is killed in the midst of it
        for addresses in traffic.pods.values():  # all runs come back
            for text in addresses.values():
                node.forget(text)
        agent.drained()
        agent.kill()
        assert agent.kills >= 3
        used += traffic.used
        time.sleep(3)  # the rest of a run in this test

    assert len(used) == CONNECTIONS
    assert len({one.pod for one in used}) == PODS
    nodes["a"].reset()  # nothing of it is left
    by_family = {family: history(etcd, family) for family in (4, 6)}
    wrong = [one for one in used if answers(by_family[one.family], one) != {(one.node, one.pod)}]
    assert wrong == []
    runs = {(one.family, one.node, run_of(one.port)) for one in used}
    shared = {run[0::2] for run in runs if run[1] == "east-a"} & {
        run[0::2] for run in runs if run[1] == "east-b"
    }
    assert shared  # what both nodes have had

    (tmp_path / "run" / "east").mkdir(parents=True)
    config = {"cluster": {"name": "east"}, "etcd": {"endpoints": [f"http://{etcd.address}"]}}
    (tmp_path / "run" / "east" / "agent.yaml").write_text(json.dumps(config))
    monkeypatch.setenv("MESHGATE_RUN", str(tmp_path / "run"))
    for one in dice.sample(used, 20):
        when = datetime.fromtimestamp(one.at, UTC).isoformat()
        words = ["egress", "whois", EGRESS[one.family], str(one.port), "udp", when]
        assert main([*words, "--error", "1", "-o", "json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        pods = {(row["cluster"], row["namespace"], row["pod"], row["node"]) for row in rows}
        assert pods == {("east", "shop", one.pod, one.node)}
    stored = asyncio.run(_stored(etcd))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{CONNECTIONS} connections, {len(runs)} lendings, {stored} bytes stored, "
            f"{stored / len(runs):.0f} a lending\n"
        )


async def _stored(etcd: Etcd) -> int:
    client = Client(EtcdAddress((etcd.address,)))
    try:
        found = await client.list("meshgate/v1/east/lent/")
        return sum(len(kv.key) + len(kv.value) for kv in found.kvs)
    finally:
        await client.aclose()


def test_a_store_that_is_replaced_by_an_empty_one_learns_what_is_lent(
    nodes: dict[str, Node], etcd: Etcd, tmp_path: Path
) -> None:
    node = nodes["a"]
    hold(node, *BLOCKS)
    traffic = Traffic(node, random.Random(7))
    file = tmp_path / "a.json"
    file.write_text(json.dumps({k: list(v.values()) for k, v in traffic.pods.items()}))
    agent = Agent(node, etcd, file)
    agent.start()
    try:
        for _ in range(200):
            assert traffic.open()
        agent.drained()
        before = {family: answers_of(etcd, family, traffic.used) for family in (4, 6)}
        asyncio.run(_wiped(etcd))
        deadline = time.monotonic() + 30
        while {f: answers_of(etcd, f, traffic.used) for f in (4, 6)} != before:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        said = asyncio.run(_value(etcd, "meshgate/v1/east/demand/east-a"))
        assert said == b"{}"  # the process knows no block of its own here
    finally:
        agent.kill()
    right = {(one.node, one.pod) for one in traffic.used}
    assert set.union(*before.values()) == right


def answers_of(etcd: Etcd, family: int, used: list[Used]) -> set[tuple[str, str]]:
    """The pods of all ports of a family, each at its time."""
    events = history(etcd, family)
    return set[tuple[str, str]]().union(
        *(answers(events, one) for one in used if one.family == family)
    )


async def _wiped(etcd: Etcd) -> None:
    client = Client(EtcdAddress((etcd.address,)))
    try:
        assert await client.delete("meshgate/", b"meshgate0") > 0
    finally:
        await client.aclose()


async def _value(etcd: Etcd, key: str) -> bytes | None:
    client = Client(EtcdAddress((etcd.address,)))
    try:
        found = await client.get(key)
        return found.value if found else None
    finally:
        await client.aclose()


def test_a_word_that_is_no_protocol_and_an_unknown_address_are_said(
    etcd: Etcd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.yaml"
    config = {"cluster": {"name": "east"}, "etcd": {"endpoints": [f"http://{etcd.address}"]}}
    file.write_text(json.dumps(config))
    words = ["egress", "whois", "198.51.100.99", "5000"]
    assert main([*words, "--config", str(file)]) == 1
    assert "nobody had port 5000 of 198.51.100.99 then" in capsys.readouterr().err
    assert main([*words, "tcp", "yesterday", "--config", str(file)]) == 2
    assert main([*words, "gre", "2026-01-01", "--config", str(file)]) == 2
    assert "gre is none of tcp, udp, icmp" in capsys.readouterr().err
    assert whois.rows_of([], ip_address("198.51.100.99"), 80, 0, 0) == []
