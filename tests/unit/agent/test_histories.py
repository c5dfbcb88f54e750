"""An agent's tables after any history are those of an agent that is told everything at once.

Exceptions, each with the rule that makes it history: a pod keeps its identity until a new one is
claimed (D23), slots, classes that retired, gateways that have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from clustermesh.store.follow import Batch
from gateway.members import ACCEPTS_S
from mesh.agent import Features
from mesh.config import load_agent
from mesh.core.model import IP
from mesh.core.reconcile import Loop
from mesh.nodes.standing import STANDS_S
from mesh.nodes.uplink import Facts
from mesh.objects.kinds import KINDS
from mesh.objects.tables import Objects
from mesh.pods.links import Device
from mesh.services.backends import BackendAddress
from tests.unit.histories import (
    World,
    after_each_event,
    between_slices,
    rows,
    settled,
    slicing,
    tables,
    while_sources_sync_late,
)

EVENTS = 50
CONFIG = """
cluster: {name: east, id: 1}
node: east-1
manifests: /nowhere
etcd: {endpoints: ["http://127.0.0.1:1"]}
bpffs: /nowhere
cgroup: /nowhere
uplink: uplink
services: {kubeProxy: false}
socket: /nowhere
podNetns: /run/netns/{cluster}-{namespace}_{name}
stateDir: /nowhere
"""
#: Tables whose rows may be more than those of a fresh agent.
HISTORY = {
    "address": "D23: a pod whose identity is not claimed yet keeps its row",
    "identity of pod": "D23",
    "pod": "D23",
    "egress class": "classes that retired",
    "egress": "their rows",
    "rows of egress class": "how many they are",
    "gateway": "gateways that have left",
    "ended egress address": "addresses that policies have named",
    "backend": "slots",
    "service slots": "slots",
}
#: Synced once the kernel was asked about every node that there was at some time (D13).
SYNCED_BEFORE = ("node hop", "overlay port")


#: What each cluster publishes of its overlay; one is Cilium's, and nobody has read that of another.
PORTS = {"west": 8473, "north": 8472}


class NoKernel:
    """Stands for the kernel, which derivations do not ask."""


class Reader:
    """The features of an agent, with what the kernel would answer."""

    def __init__(self, path: Path, loop: Loop | None = None) -> None:
        self.objects = Objects(KINDS.nouns)
        facts = Facts(7, 1500, IPv4Address("10.99.0.11"), "uplink")
        self.features = Features(load_agent(path), facts, self.objects, NoKernel())
        self.path, self.loop = path, loop or Loop()
        self.features.store.remote.expect(())
        self.features.store.remote.ports.upsert(PORTS)
        self.features.derive(self.loop)

    def own(self, batch: Batch) -> None:
        self.features.store.own.take(batch)

    def mesh(self, batch: Batch) -> None:
        self.features.store.remote.take(batch)

    def compare(self, world: World) -> None:
        compare(self, world)

    def own_synced(self) -> None:
        self.features.store.own.synced()

    def kernel(self) -> None:
        """Next hops of every node, a namespace and a device for every pod."""
        nodes, pods = self.features.nodes, self.features.pods
        hops = {a: IPv4Address("10.99.0.1") for a in nodes.tunnel_endpoints()}
        nodes.next_hops.replace(hops)
        self.features.hosts.private.replace({4: frozenset(), 6: frozenset()})
        keys = pods.local_pod.rows
        paths = {f"/run/netns/{k.cluster}-{k.namespace}-{k.name}": 1 for k in keys}
        pods.namespaces.replace(paths)
        pods.devices.replace({k: _device(k, v.addresses) for k, v in pods.link.rows.items()})

    def like(self, other: Reader) -> None:
        """Take over the kernel of another."""
        mine, its = self.features, other.features
        mine.pods.held = dict(its.pods.held)
        for table, source in (
            (mine.nodes.next_hops, its.nodes.next_hops),
            (mine.hosts.private, its.hosts.private),
            (mine.pods.namespaces, its.pods.namespaces),
            (mine.pods.devices, its.pods.devices),
        ):
            table.upsert(source.rows)
            if source.synced:
                table.mark_synced()

    def state(self) -> dict[str, tuple[str, bool, dict[Any, Any]]]:
        """Name, sync and rows of each table by its path."""
        features = {str(at): one for at, one in enumerate(self.features.all)}
        found = tables({**features, "own": self.features.store.own})
        return {path: (one.name, one.synced, rows(one)) for path, one in found.items()}

    def translations(self) -> dict[Any, list[BackendAddress]]:
        """Where each service address leads, without the numbers of slots."""
        services = self.features.services
        backends = services.backend.rows
        return {
            ask: [backends[slot] for slot in range(row.first, row.first + row.count)]
            for ask, row in services.service_slots.rows.items()
        }


def _device(key: Any, addresses: tuple[IP, ...]) -> Device:
    number = 100 + 16 * int(key.name[-1]) + len(key.namespace) % 7 + len(key.name)
    tail = f"58:00:00:00:{number % 256:02x}"
    return Device(number, f"0a:{tail}", f"0e:{tail}", addresses)


def compare(live: Reader, world: World) -> None:
    """Against an agent that is told everything at once."""
    live.features.nodes.standing.settle(monotonic() + STANDS_S)  # time goes by
    settled(live.loop)
    fresh = Reader(live.path)
    fresh.like(live)
    world.tell(fresh)
    settled(fresh.loop)
    mine, its = live.state(), fresh.state()
    assert mine.keys() == its.keys()
    for at, (name, synced, have) in mine.items():
        _, wanted_synced, want = its[at]
        _equal(f"{at} ({name})", name, have, want)
        assert synced == wanted_synced or name in SYNCED_BEFORE, at
    assert live.translations() == fresh.translations()
    assert live.features.egress.egress_address.rows == fresh.features.egress.egress_address.rows
    named = {network.network_address for network in live.features.egress.ours[0].rows}
    assert not named & live.features.egress.ended.rows.keys(), "ended, and a policy names it"
    ours, theirs = (one.features.store.remote.imports.ledger.own for one in (live, fresh))
    assert set(ours.networks) == set(theirs.networks)
    assert ours.addresses == theirs.addresses


def _equal(at: str, name: str, have: Mapping[Any, Any], want: Mapping[Any, Any]) -> None:
    if name in ("backend", "service slots"):
        return  # compared by where they lead
    if name in HISTORY:
        assert {key: have.get(key) for key in want} == want, at
    else:
        assert have == want, at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "agent.yaml"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize("seed", range(4))
def test_after_each_event_all_tables_are_those_of_a_fresh_agent(path: Path, seed: int) -> None:
    after_each_event(seed, Reader(path), EVENTS)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_while_sources_sync_late(path: Path, seed: int) -> None:
    while_sources_sync_late(seed, Reader(path), EVENTS, every=8)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_when_events_come_between_slices(path: Path, seed: int) -> None:
    asyncio.run(between_slices(seed, Reader(path, slicing()), EVENTS))


def test_a_gateway_that_has_left_is_the_only_reason_for_more_gateways(path: Path) -> None:
    live = Reader(path)
    world = World(300, live)
    for name in world.sources:
        world.sync(name)
    for _ in range(EVENTS):
        world.step()
        settled(live.loop)
    egress = live.features.egress
    egress.rest_gateways(dict(egress.egress_address.rows), 10 * ACCEPTS_S + 1e9)
    picked = {(a, n) for a, nodes in egress.egress_address.rows.items() for n in nodes}
    assert {(key.address, key.node) for key in egress.gateway.rows} == picked
