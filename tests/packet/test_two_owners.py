"""No block of ports has two owners, whoever of controllers, store and agents is cut off or stopped.

::

    etcd m0 ─┐              controller c0 - m0     node a (datapath, owner process) - m1
    etcd m1 ─┼─ bridge hub  controller c1 - m1     node b (datapath, owner process) - m2
    etcd m2 ─┘

Blocks go from one node to the other and back while both datapaths open connections. A block is
owned by a node whose datapath lends from it, or has a run of it lent or at rest: its gateways
accept what the datapath sends. One of the members is cut off from the others, the controller that
leads stands still past its lease, or the process of the old owner stands still from a random
moment on, while its datapath goes on. A try is one block that changes hands.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from bpf import netns
from mesh.core.address import decode_address
from tests.interop.etcd_server import Etcd
from tests.packet.conftest import ip, unique
from tests.packet.nodes import EGRESS, Node
from tests.packet.test_whois import Traffic

SOAK = bool(os.environ.get("MESHGATE_SOAK"))
#: Block numbers that go back and forth, in each family; tries in all.
BLOCKS, TRIES = range(60, 68), 1000
#: Seconds that a stopped process stands still, and that a hand-over may take with all alive.
STILL_S, HANDOVER_S = 0.6, 30.0
#: Longer than a leadership without a sign.
PAST_LEASE_S = 3.0
REST_S = 130


@dataclass
class Hub:
    """A namespace with a bridge, and one for each member of an etcd."""

    directory: Path
    stack: ExitStack
    members: list[Etcd] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self._namespace()
        ip("-n", self.name, "link", "add", "hub", "type", "bridge")
        ip("-n", self.name, "addr", "add", "10.77.0.1/24", "dev", "hub")
        ip("-n", self.name, "link", "set", "hub", "up")
        self._spaces = [self._joined(number) for number in range(3)]
        peers = []
        for number in range(3):
            member = Etcd(self.directory / f"m{number}")
            member.name, member.election_ms = f"m{number}", 1000
            member.address = f"10.77.0.{11 + number}:2379"
            member.peer = f"http://10.77.0.{11 + number}:2380"
            peers.append(f"m{number}={member.peer}")
            self.members.append(member)
        for space, member in zip(self._spaces, self.members, strict=True):
            member.cluster = ",".join(peers)
            self.stack.callback(member.stop)
            with netns.enter(Path("/run/netns") / space):
                member.start()

    def _namespace(self) -> str:
        name = unique()
        ip("netns", "add", name)
        self.stack.callback(ip, "netns", "del", name)
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def _joined(self, number: int) -> str:
        space, port = self._namespace(), f"m{number}"
        pair = ("type", "veth", "peer", "name", "eth0", "netns", space)
        ip("-n", self.name, "link", "add", port, *pair)
        ip("-n", self.name, "link", "set", port, "master", "hub", "up")
        ip("-n", space, "addr", "add", f"10.77.0.{11 + number}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        return space

    @contextmanager
    def cut_off(self, number: int) -> Iterator[None]:
        """A member and the others hear nothing of each other; their clients do."""
        others = [f"10.77.0.{11 + other}/32" for other in range(3) if other != number]
        for other in others:
            ip("-n", self._spaces[number], "route", "add", "blackhole", other)
        try:
            yield
        finally:
            for other in others:
                ip("-n", self._spaces[number], "route", "del", "blackhole", other)

    def start(self, module: str, *words: object) -> subprocess.Popen[bytes]:
        """A process of ours in the hub; killed at the end."""
        command = [sys.executable, "-m", f"tests.packet.{module}", *map(str, words)]
        log = (self.directory / f"{module}-{len(list(self.directory.glob('*.log')))}.log").open(
            "wb"
        )
        with netns.enter(Path("/run/netns") / self.name), log:
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.stack.callback(child.wait)
        self.stack.callback(child.kill)
        return child


class Story:
    """Two nodes, two controllers, three members, and who is to have which block."""

    def __init__(self, nodes: dict[str, Node], directory: Path, stack: ExitStack) -> None:
        self.dice = random.Random(215)
        self.nodes = {letter: nodes[letter] for letter in ("a", "b")}
        self.hub = Hub(directory, stack)
        self.wishes, self._file = dict[str, str](), directory / "wishes.json"
        for family in (4, 6):
            for number in BLOCKS:
                self.wishes[f"{EGRESS[family]}/{number}"] = "east-a"
        self._wish()
        addresses = [member.address for member in self.hub.members]
        self.controllers = [
            self.hub.start("claiming_process", addresses[at], f"c{at}", self._file, directory)
            for at in (0, 1)
        ]
        self.traffic, self.owners = {}, {}
        for at, (letter, node) in enumerate(self.nodes.items(), 1):
            node.clear("mg_own_block")
            self.traffic[letter] = Traffic(node, self.dice)
            pods = directory / f"{letter}.json"
            names = self.traffic[letter].pods
            pods.write_text(json.dumps({name: [*some.values()] for name, some in names.items()}))
            words = (node.directory, addresses[at], f"east-{letter}", pods)
            self.owners[letter] = self.hub.start("owning_process", *words)
        self.opened = {"a": 0, "b": 0}

    def _wish(self) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self.wishes))
        fresh.replace(self._file)

    def pass_on(self) -> dict[str, int]:
        """Half of the blocks are to change hands; how many of each node."""
        places = self.dice.sample(sorted(self.wishes), len(self.wishes) // 2)
        lost = {"a": 0, "b": 0}
        for place in places:
            lost[self.wishes[place].removeprefix("east-")] += 1
            self.wishes[place] = {"east-a": "east-b", "east-b": "east-a"}[self.wishes[place]]
        self._wish()
        return lost

    def owned(self, letter: str) -> set[str]:
        """Blocks from which the datapath lends, or has lent."""
        return self.lends(letter) | self._taken(letter)

    def lends(self, letter: str) -> set[str]:
        keys, values = self.nodes[letter].maps["mg_own_block"].dump()
        return {
            f"{decode_address(key)}/{number}"
            for key, value in zip(keys, values, strict=True)
            for number in value["number"][: int(value["count"])].tolist()
        }

    def _taken(self, letter: str) -> set[str]:
        keys, values = self.nodes[letter].maps["mg_block_runs"].dump()
        return {
            f"{decode_address(key['address'])}/{int(key['number'])}"
            for key, value in zip(keys, values, strict=True)
            if value["taken"]
        }

    def look(self) -> None:
        """No block is owned by both."""
        both = self.owned("a") & self.owned("b")
        assert not both, both

    def go_on(self, seconds: float) -> None:
        """Open connections at both nodes for a while; each has a port of a block of its own."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for letter in ("a", "b"):
                self.opened[letter] += self.traffic[letter].open()
            self.look()

    def forget(self) -> None:
        """All connections end, and their runs have rested."""
        for letter, node in self.nodes.items():
            for addresses in self.traffic[letter].pods.values():
                for text in addresses.values():
                    node.forget(text)
            keys, values = node.maps["mg_run"].dump()
            if len(keys):
                values["returned"] -= np.uint64(REST_S * 1e9) * (values["returned"] > 0)
                node.maps["mg_run"].update(keys, values)
            node.sweep(run=600)

    def arrive(self) -> None:
        """All blocks are where they are wished to be, and nowhere else."""
        wanted = {
            letter: {place for place, node in self.wishes.items() if node == f"east-{letter}"}
            for letter in ("a", "b")
        }
        end, again = time.monotonic() + HANDOVER_S, 0.0
        while {letter: self.lends(letter) for letter in ("a", "b")} != wanted:
            for child in (*self.controllers, *self.owners.values()):
                assert child.poll() is None, self.logs()
            self.look()
            if time.monotonic() > again:  # what opens late is forgotten, too
                self.forget()
                again = time.monotonic() + 1
            assert time.monotonic() < end, self.logs()
            time.sleep(0.01)
        self.look()

    def logs(self) -> str:
        texts = [path.read_text()[-1500:] for path in self.hub.directory.glob("*.log")]
        return "\n".join([str({x: sorted(self.lends(x)) for x in "ab"}), *texts])


@contextmanager
def stopped(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """It stands still."""
    child.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        child.send_signal(signal.SIGCONT)


def hand_over(story: Story, fault: str) -> tuple[int, int]:
    """Blocks go to the other node; how many, and how many of an owner whose process stood still."""
    lost, still = story.pass_on(), 0
    with ExitStack() as stack:
        if fault == "member":
            stack.enter_context(story.hub.cut_off(story.dice.randrange(3)))
            story.go_on(story.dice.uniform(0.5, 4))
        elif fault == "controller":
            with stopped(story.controllers[story.dice.randrange(2)]):
                story.go_on(PAST_LEASE_S)
        elif fault:
            story.go_on(story.dice.uniform(0, 0.4))
            with stopped(story.owners[fault]):
                story.go_on(STILL_S)
            still = lost[fault]
    story.arrive()
    return sum(lost.values()), still


if SOAK:

    def test_a_thousand_blocks_change_hands_and_none_has_two_owners(
        nodes: dict[str, Node], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        faults: Sequence[str] = ("a", "b", "member", "a", "b", "controller", "")
        with ExitStack() as stack:
            story = Story(nodes, tmp_path, stack)
            story.arrive()
            tries = still = rounds = 0
            while tries < TRIES or still < TRIES // 10:
                moved, stood = hand_over(story, faults[rounds % len(faults)])
                tries, still, rounds = tries + moved, still + stood, rounds + 1
                if rounds % 10 == 0:
                    with capsys.disabled():
                        sys.stdout.write(f"{time.strftime('%T')} {tries} tries\n")
        with capsys.disabled():
            sys.stdout.write(
                f"\n{tries} blocks changed hands in {rounds} rounds, {still} of an owner that was "
                f"stopped; connections opened meanwhile: {story.opened}\n"
            )
        assert min(story.opened.values()) > 0
