"""The datapath's rows: our way and the kernel's way for the same packets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mesh.lab.places import Lab
from tests.bench import network as net_
from tests.bench.frames import BenchError, Flows, Measurement, Way
from tests.bench.network import (
    EGRESS,
    FAR_POD,
    MACS,
    NODE_A,
    NODE_B,
    POD,
    WORLD,
    WORLD_SIDE,
    Network,
)
from tests.bench.ours import drain, nodes
from tests.bench.say import say

PAIRS = 7
#: Runs of one measurement, after the warm-up; their median counts.
RUNS = 9
PACKETS = 20_480
WARM = 8_192
#: Packets, each of a connection of its own: fits into both connection tables.
NEW = 32_768
NEW_RUNS = 4
#: Connections of them to one destination port, of the 1024 ports that the node has for each.
NEW_SOURCE_PORTS = 256

#: Yields what is to be called after each run: the agent's part of the work.
Setup = Callable[[Network], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class Probe:
    """One row: what is sent, where it must arrive, and with which source."""

    title: str
    flows: Flows
    sink: str
    ours_source: str
    peer_source: str
    warm: int = WARM
    packets: int = PACKETS
    runs: int = RUNS


@dataclass(frozen=True, slots=True)
class Scenario:
    """Two setups of the same namespaces; without a peer it is a reference."""

    peer_name: str
    ours: Setup
    peer: Setup | None
    probes: tuple[Probe, ...]


@dataclass(slots=True)
class Figure:
    """ns per packet of every pair."""

    title: str
    peer_name: str
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def ratios(self) -> list[float]:
        """Peer over ours, by pair: above 1 we are cheaper."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=False)]


def measure(lab: Lab, objects: Path, pairs: int = PAIRS) -> list[Figure]:
    """All rows; pairs are alternated: ours, peer, ours, peer."""
    figures: list[Figure] = []
    for scenario in _scenarios():
        found = [Figure(probe.title, scenario.peer_name) for probe in scenario.probes]
        figures += found
        for pair in range(pairs):
            _side(lab, objects, scenario, found, ours=True)
            if scenario.peer:
                _side(lab, objects, scenario, found, ours=False)
            if pair == pairs - 1:
                _tell(found)
    return figures


def _tell(found: list[Figure]) -> None:
    for figure in found:
        ours = f"{statistics.median(figure.ours):.0f} ns" if figure.ours else figure.problem
        peer = (
            f", {figure.peer_name} {statistics.median(figure.peer):.0f} ns" if figure.peer else ""
        )
        say(f"{figure.title}: {ours}{peer}")


def _side(
    lab: Lab, objects: Path, scenario: Scenario, figures: list[Figure], *, ours: bool
) -> None:
    setup = scenario.ours if ours or scenario.peer is None else scenario.peer
    with net_.network(lab) as net, setup(net) as after:
        for probe, figure in zip(scenario.probes, figures, strict=True):
            try:
                value = _probe(net, objects, probe, after, ours=ours)
            except BenchError as error:
                figure.problem = f"{'ours' if ours else scenario.peer_name}: {error}"
                continue
            (figure.ours if ours else figure.peer).append(value)


def _probe(
    net: Network, objects: Path, probe: Probe, after: Callable[[], None], *, ours: bool
) -> float:
    way = Way(
        net.space("a"),
        "a0",
        MACS["a0"],
        net.space(probe.sink[0]),
        probe.sink,
        probe.ours_source if ours else probe.peer_source,
    )
    pins = net.lab.bpffs("sink")
    pins.mkdir(parents=True, exist_ok=True)
    with Measurement(objects, pins, way, probe.flows) as measurement:
        if probe.warm:
            measurement.run(probe.warm)
        after()
        values = []
        for _ in range(probe.runs):
            values.append(measurement.run(probe.packets))
            after()
        return statistics.median(values)


@contextmanager
def _nothing(_: Network) -> Iterator[Callable[[], None]]:
    yield _no_agent


def _no_agent() -> None:
    """The kernel's ways have none."""


def _kernel(*steps: Callable[[Network], None]) -> Setup:
    @contextmanager
    def setup(net: Network) -> Iterator[Callable[[], None]]:
        for step in steps:
            step(net)
        yield _no_agent

    return setup


@contextmanager
def _overlay(net: Network) -> Iterator[Callable[[], None]]:
    with nodes(net, "ab") as made:
        for node in made.values():
            node.pod()
        yield drain(made)


@contextmanager
def _forward(net: Network) -> Iterator[Callable[[], None]]:
    with nodes(net, "a") as made:
        made["a"].pod()
        yield drain(made)


@contextmanager
def _own_gateway(net: Network) -> Iterator[Callable[[], None]]:
    with nodes(net, "a") as made:
        made["a"].pod(covered=True)
        made["a"].egress(NODE_A)
        yield drain(made)


@contextmanager
def _other_gateway(net: Network) -> Iterator[Callable[[], None]]:
    with nodes(net, "ab") as made:
        made["a"].pod(covered=True)
        for node in made.values():
            node.egress(NODE_B)
        yield drain(made)


@contextmanager
def _direct(net: Network) -> Iterator[Callable[[], None]]:
    """Node b is the gateway, and has no part in it but that it routes."""
    with nodes(net, "a") as made:
        made["a"].pod(covered=True)
        made["a"].egress(NODE_B)
        made["a"].direct()
        yield drain(made)


@contextmanager
def _l3vpn(net: Network) -> Iterator[Callable[[], None]]:
    with nodes(net, "ab") as made:
        for node in made.values():
            node.tenant()
        made["a"].vrf_routes()
        made["b"].sids()
        yield drain(made)


@contextmanager
def _l3vpn_out(net: Network) -> Iterator[Callable[[], None]]:
    net_.seg6_in(net)
    with nodes(net, "a") as made:
        made["a"].tenant()
        made["a"].vrf_routes()
        yield drain(made)


@contextmanager
def _l3vpn_in(net: Network) -> Iterator[Callable[[], None]]:
    net_.seg6_out(net)
    with nodes(net, "b") as made:
        made["b"].tenant()
        made["b"].sids()
        yield drain(made)


def _scenarios() -> Iterator[Scenario]:
    families = (4, 6)
    world = {v: Flows(POD[v], WORLD[v]) for v in families}
    yield Scenario(
        "", _nothing, None,
        (
            Probe("reference: generator and drop at the pod's device", world[4], "a0", POD[4], ""),
            Probe("reference: kernel routing over one node", world[4], "b1", POD[4], ""),
            Probe("reference: kernel routing over two nodes", world[4], "x0", POD[4], ""),
        ),
    )  # fmt: skip
    yield Scenario(
        "kernel VXLAN", _overlay, _kernel(net_.kernel_vxlan),
        tuple(
            Probe(f"overlay, IPv{v}", Flows(POD[v], FAR_POD[v]), "x0", POD[v], POD[v])
            for v in families
        ),
    )  # fmt: skip
    seg6 = _kernel(net_.seg6_out, net_.seg6_in)
    yield Scenario(
        "kernel seg6, connections tracked", _l3vpn,
        _kernel(net_.seg6_out, net_.seg6_in, net_.tracked),
        tuple(
            Probe(f"SRv6 L3VPN, the same work, IPv{v}", Flows(POD[v], FAR_POD[v]), "x0", POD[v],
                  POD[v])
            for v in families
        ),
    )  # fmt: skip
    for title, ours in (
        ("SRv6 L3VPN over two nodes", _l3vpn),
        ("SRv6 encapsulation, the other node the kernel's", _l3vpn_out),
        ("SRv6 decapsulation, the other node the kernel's", _l3vpn_in),
    ):
        yield Scenario(
            "kernel seg6", ours, seg6,
            tuple(
                Probe(f"{title}, IPv{v}", Flows(POD[v], FAR_POD[v]), "x0", POD[v], POD[v])
                for v in families
            ),
        )  # fmt: skip
    yield Scenario(
        "routing, nft masquerade at the gateway", _other_gateway,
        _kernel(lambda net: net_.masquerade(net, "b", "b0")),
        tuple(
            Probe(f"egress over another node, IPv{v}", world[v], "x0", EGRESS[v], WORLD_SIDE[v])
            for v in families
        ),
    )  # fmt: skip
    for peer, setup, source in (
        (
            "routing, nft masquerade at the gateway",
            _kernel(lambda net: net_.masquerade(net, "b", "b0")),
            WORLD_SIDE,
        ),
        ("kernel routing without our programs", _kernel(), POD),
    ):
        yield Scenario(
            peer, _direct, setup,
            tuple(
                Probe(f"egress by the direct path, IPv{v}", world[v], "x0", EGRESS[v], source[v])
                for v in families
            ),
        )  # fmt: skip
    local = _kernel(lambda net: net_.masquerade(net, "a", "a1"))
    yield Scenario(
        "nft masquerade", _own_gateway, local,
        tuple(
            Probe(f"egress on the gateway itself, IPv{v}", world[v], "b1", EGRESS[v], NODE_A[v])
            for v in families
        ),
    )  # fmt: skip
    yield Scenario(
        "nft masquerade", _own_gateway, local,
        tuple(
            Probe(
                f"egress, a new connection in every packet, IPv{v}",
                Flows(POD[v], WORLD[v], NEW, NEW_SOURCE_PORTS), "b1", EGRESS[v], NODE_A[v],
                warm=0, packets=NEW // NEW_RUNS, runs=NEW_RUNS,
            )
            for v in families
        ),
    )  # fmt: skip
    yield Scenario(
        "kernel routing without our programs", _forward, _kernel(),
        tuple(
            Probe(f"plain forwarding to the world, IPv{v}", world[v], "b1", POD[v], POD[v])
            for v in families
        ),
    )  # fmt: skip
