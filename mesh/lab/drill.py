"""Lose gateways of the lab under load, all at once, and say what that has cost.

A covered pod and the legacy server talk (``talks.py``): TCP connections of which some send, some
are pushed to and some are idle, and numbered datagrams each way in both families. Meanwhile the
gateways are lost in one of the ways of ``LOSSES``. The report counts survivors and lost datagrams,
and gives the longest gap of each direction; packets that the firewall has refused came with another
source than the egress address. The gateways are put right again at the end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from gateway.gateways import DRAINED
from mesh.core.files import replace_file
from mesh.lab import enter, processes, topology
from mesh.lab.places import Lab, LabError

PORT = 7711
#: Seconds of talk before the loss and after it.
BEFORE_S, AFTER_S = 2.0, 3.0
REPORT_S = 60.0
#: States of a bridge's port (BR_STATE_DISABLED, BR_STATE_FORWARDING of linux/if_bridge.h).
DISABLED, FORWARDING = "0", "3"
_TALKS = Path(__file__).with_name("talks.py")
_REFUSED = ("nft", "list", "counter", "inet", "firewall", "refused")


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of all lanes: datagrams that came and were lost, the gap of each lane in ms.

    Lanes that have lost nothing have no gap. ``most_gaps`` is how many the lane has that has most;
    ``gaps_ms`` are the longest of each.
    """

    came: int
    lost: int
    gaps_ms: tuple[float, ...]
    most_gaps: int = 0

    @property
    def median_ms(self) -> float:
        """Of the lanes that have lost something; 0: none has."""
        return statistics.median(self.gaps_ms or (0.0,))

    @property
    def longest_ms(self) -> float:
        """0: no lane has lost anything."""
        return max(self.gaps_ms, default=0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a loss has cost. ``refused``: packets that the firewall has refused meanwhile.

    ``gateway`` names all that were lost, with commas between them.
    """

    gateway: str
    how: str
    pod: str
    connections: int
    survived: int
    outwards: Way
    back: Way
    refused: int
    errors: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Every connection lives, and nothing has left with another source."""
        return self.survived == self.connections > 0 and not self.refused


@dataclass(frozen=True, slots=True)
class Load:
    """How much a drill talks, how long the loss lasts, and whether agents may help.

    ``alone``: the agents of the pod's node and of the gateways stand still all the time.
    """

    connections: int = 50
    lanes: int = 4
    rate: int = 250
    lost_s: float = 4.0
    alone: bool = False


@dataclass
class _Talk:
    """One of the two processes."""

    child: subprocess.Popen[str]
    said: dict[str, Any] = field(default_factory=dict)

    def ready(self) -> None:
        """Wait until it talks."""
        assert self.child.stdout  # noqa: S101 - a pipe
        line = self.child.stdout.readline()
        if line.strip() != "ready":
            raise DrillError(f"{line}{self.child.stdout.read()}".strip() or "a talker has ended")

    def report(self) -> dict[str, Any]:
        """End it."""
        self.child.send_signal(signal.SIGTERM)
        text, _ = self.child.communicate(timeout=REPORT_S)
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        return found


class DrillError(Exception):
    """The drill could not be held."""


def drill(
    lab: Lab, gateways: Sequence[str], how: str, pod: str = "", load: Load | None = None
) -> Outcome:
    """Lose ``gateways`` at once while ``pod`` talks; by default the first client of their cluster.

    Raises:
        DrillError: the conversations could not begin, or ended early.
        LabError: no such pod.

    """
    load, pod = load or Load(), pod or f"{gateways[0].partition('-')[0]}/shop/client-1"
    still = [*dict.fromkeys([*gateways, _node(lab, pod)])] if load.alone else []
    found = during(lab, pod, load, LOSSES[how](lab, gateways), still)
    return replace(found, gateway=", ".join(gateways), how=how)


def during(
    lab: Lab,
    pod: str,
    load: Load,
    fault: AbstractContextManager[Any],
    still: Sequence[str] = (),
) -> Outcome:
    """What ``fault`` costs while ``pod`` talks; it begins after a while, and ends before the talk.

    The agents of ``still`` stand still from before the fault until after the talk.

    Raises:
        DrillError: the conversations could not begin, or ended early.
        LabError: no such pod.

    """
    with _talking(lab, pod, load) as (server, client), ExitStack() as stack:
        for node in still:
            stack.enter_context(hung(lab, node))
        time.sleep(BEFORE_S)
        refused = _refused(lab)
        with fault:
            time.sleep(load.lost_s)
        time.sleep(AFTER_S)
        here = client.report()
        there = server.report()
        return _outcome(here, there, pod, _refused(lab) - refused)


def _node(lab: Lab, pod: str) -> str:
    """The node on which a pod of the lab runs: its cgroup is the node's."""
    return lab.find(pod).cgroup.parent.name


def _outcome(
    here: Mapping[str, Any],
    there: Mapping[str, Any],
    pod: str,
    refused: int,
) -> Outcome:
    return Outcome(
        gateway="",
        how="",
        pod=pod,
        connections=here["connections"],
        survived=here["survived"],
        outwards=_way([there[lane] for lane in here["lanes"] if lane in there]),
        back=_way([*here["lanes"].values()]),
        refused=refused,
        errors=tuple(here["errors"]),
    )


def _way(lanes: Sequence[Mapping[str, Any]]) -> Way:
    lossy = [lane for lane in lanes if lane["lost"]]
    return Way(
        came=sum(lane["came"] for lane in lanes),
        lost=sum(lane["lost"] for lane in lanes),
        gaps_ms=tuple(sorted(lane["gap_ms"] for lane in lossy)),
        most_gaps=max((lane["gaps"] for lane in lossy), default=0),
    )


@contextmanager
def _talking(lab: Lab, pod: str, load: Load) -> Iterator[tuple[_Talk, _Talk]]:
    addresses = topology.load(lab.topology).legacy.addresses
    numbers = ("--rate", load.rate, "--lanes", load.lanes, "--connections", load.connections)
    server = _start(lab, "legacy", "serve", PORT, *numbers)
    client = None
    try:
        server.ready()
        client = _start(lab, pod, "talk", PORT, *addresses, *numbers)
        client.ready()
        yield server, client
    finally:
        for talk in (client, server):
            if talk and talk.child.poll() is None:
                talk.child.kill()
                talk.child.wait()


def _start(lab: Lab, host: str, *arguments: object) -> _Talk:
    words = [sys.executable, str(_TALKS), *map(str, arguments)]
    child = subprocess.Popen(
        enter.argv(lab.find(host), words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return _Talk(child)


def _run(lab: Lab, host: str, *words: str, text: str = "") -> str:
    command = enter.argv(lab.host(host), words)
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return said.stdout


def _refused(lab: Lab) -> int:
    found = re.search(r"packets (\d+)", _run(lab, "firewall", *_REFUSED))
    return int(found[1]) if found else 0


# How a gateway is lost, and put right again


@contextmanager
def cut(lab: Lab, gateways: Sequence[str]) -> Iterator[None]:
    """The fabric carries nothing from or to them any more, and does not know it; all links stay up.

    Off the bridge a port would take the bridge's MAC address with it, and frames for it would go
    to all others.
    """
    _ports(lab, gateways, DISABLED)
    try:
        yield
    finally:
        _ports(lab, gateways, FORWARDING)


def _ports(lab: Lab, gateways: Sequence[str], state: str) -> None:
    """The state of their ports of the fabric's bridge, all by one command."""
    lines = [f"link set dev {gateway} state {state}\n" for gateway in gateways]
    _run(lab, "router", "bridge", "-batch", "-", text="".join(lines))


@contextmanager
def killed(lab: Lab, gateways: Sequence[str]) -> Iterator[None]:
    """The hosts are gone: the fabric has lost them, and all their processes are killed."""
    there = [one for one in processes.alive(lab) if one.host in gateways]
    with cut(lab, gateways):
        for one in there:
            os.kill(one.pid, signal.SIGKILL)
        yield
    for gateway in gateways:
        for role in ("agent", "speaker"):
            processes.start(lab, f"{gateway}/{role}")


def _each(way: Callable[[Lab, str], Any]) -> Callable[[Lab, Sequence[str]], Any]:
    """A way to lose one gateway, for several."""

    @contextmanager
    def lost(lab: Lab, gateways: Sequence[str]) -> Iterator[None]:
        with ExitStack() as stack:
            for gateway in gateways:
                stack.enter_context(way(lab, gateway))
            yield

    return lost


@contextmanager
def agent_killed(lab: Lab, gateway: str) -> Iterator[None]:
    """Its agent is killed; the datapath goes on."""
    (agent,) = (one for one in processes.alive(lab) if (one.host, one.role) == (gateway, "agent"))
    os.kill(agent.pid, signal.SIGKILL)
    try:
        yield
    finally:
        processes.start(lab, agent.name)


@contextmanager
def hung(lab: Lab, gateway: str) -> Iterator[None]:
    """Its agent stands still."""
    (agent,) = (one for one in processes.alive(lab) if (one.host, one.role) == (gateway, "agent"))
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have been killed meanwhile
            os.kill(agent.pid, signal.SIGCONT)


@contextmanager
def drained(lab: Lab, gateway: str) -> Iterator[None]:
    """Its Node gets the label by which it is to carry egress addresses no more."""
    path = lab.manifests(gateway.partition("-")[0]) / "nodes.yaml"
    before = path.read_text()
    nodes = [*yaml.safe_load_all(before)]
    for node in nodes:
        if node["metadata"]["name"] == gateway:
            node["metadata"]["labels"] |= dict([DRAINED])
    replace_file(path, yaml.safe_dump_all(nodes), mode=0o644)
    try:
        yield
    finally:
        replace_file(path, before, mode=0o644)


LOSSES: Mapping[str, Callable[[Lab, Sequence[str]], Any]] = {
    "kill": killed,
    "cut": cut,
    "hang": _each(hung),
    "kill-agent": _each(agent_killed),
    "drain": _each(drained),
    "none": lambda *_: nullcontext(),
}


def check(lab: Lab, gateways: Sequence[str]) -> None:
    """Raise LabError unless the lab has these gateways."""
    if processes.read(lab) is None:
        raise LabError(f"no lab {lab.name} is up: `meshgate lab up`; a drill loses hosts of a lab")
    names = sorted(_gateways(lab))
    for gateway in gateways:
        if gateway not in names:
            raise LabError(f"{gateway}: no gateway; there are {', '.join(names)}")


def _gateways(lab: Lab) -> Iterator[str]:
    """Nodes whose object has the gateways' label now."""
    key, value = topology.GATEWAY_LABEL
    for cluster in topology.load(lab.topology).clusters:
        for node in yaml.safe_load_all((lab.manifests(cluster.name) / "nodes.yaml").read_text()):
            if node["metadata"].get("labels", {}).get(key) == value:
                yield node["metadata"]["name"]


def lines(outcome: Outcome) -> Iterator[str]:
    """The report for people."""
    yield f"lost: {outcome.gateway} ({outcome.how}) while {outcome.pod} talked"
    yield f"connections  {outcome.survived} of {outcome.connections} survived"
    for name, way in (("outwards", outcome.outwards), ("back", outcome.back)):
        gap = f", gap {way.median_ms:.0f} ms in the middle, {way.longest_ms:.0f} ms at most, in "
        lanes = f"{len(way.gaps_ms)} lanes"
        lost = f"{way.lost} of {way.came + way.lost} datagrams lost"
        yield f"{name:<12} {lost}{gap + lanes if way.gaps_ms else ''}"
    yield f"refused      {outcome.refused} packets by the firewall: with another source"
    yield from (f"error        {text}" for text in outcome.errors)
