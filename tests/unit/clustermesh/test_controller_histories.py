"""A controller's tables after any history are those of a controller that is told all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from clustermesh.store.follow import Batch
from mesh.config import load_controller
from mesh.controller import Features
from mesh.core.reconcile import Loop
from mesh.nodes.standing import STANDS_S
from mesh.objects.kinds import KINDS
from mesh.objects.tables import Objects
from tests.unit.gateway.whole import covered, gateways
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
instance: a
manifests: /nowhere
etcd: {endpoints: ["http://127.0.0.1:1"]}
socket: /nowhere
stateDir: /nowhere
pools:
  podCIDRs:
  - {cidr: 10.1.0.0/16, nodePrefix: 24}
"""
#: Tables whose rows may be more than those of a fresh controller: a pod whose identity is not
#: claimed yet keeps its published address (D23), canaries are never taken back.
HISTORY = (
    "cilium/cache/ip/v1/",
    "canary",
    "cluster config",
    "confirmed pod",
    "key of confirmed pod",
)


class Reader:
    """The features of a controller."""

    def __init__(self, path: Path, loop: Loop | None = None) -> None:
        self.objects = Objects(KINDS.nouns)
        self.features = Features(load_controller(path), self.objects)
        self.path, self.loop = path, loop or Loop()
        self.features.derive(self.loop)

    def own(self, batch: Batch) -> None:
        self.features.own.take(batch)

    def mesh(self, batch: Batch) -> None:
        self.features.take(batch)

    def kernel(self) -> None:
        """It asks none."""

    def compare(self, world: World) -> None:
        compare(self, world)

    def own_synced(self) -> None:
        self.features.own.synced()

    def state(self) -> dict[str, tuple[str, bool, dict[Any, Any]]]:
        """Name, sync and rows of each table by its path."""
        features = self.features
        parts: Mapping[str, object] = {str(at): one for at, one in enumerate(features.all)}
        found = tables({**parts, "own": features.own, "wants": features.wants})
        return {path: (one.name, one.synced, rows(one)) for path, one in found.items()}


def compare(live: Reader, world: World) -> None:
    """Against a controller that is told everything at once, and against whole functions."""
    live.features.nodes.standing.settle(monotonic() + STANDS_S)  # time goes by
    settled(live.loop)
    fresh = Reader(live.path)
    world.tell(fresh)
    settled(fresh.loop)
    mine, its = live.state(), fresh.state()
    assert mine.keys() == its.keys()
    for at, (name, synced, have) in mine.items():
        _, wanted_synced, want = its[at]
        if name == "pod that counts":
            unclaimed = [ref for ref, row in want.items() if not row.identity]
            want |= {ref: replace(have[ref], addresses=want[ref].addresses) for ref in unclaimed}
        if name not in HISTORY:
            assert (synced, have) == (wanted_synced, want), f"{at} ({name})"
        elif name != "canary":
            assert {key: have.get(key) for key in want} == want, f"{at} ({name})"
    coverage = live.features.egress.coverage.covered
    if coverage.synced:
        assert coverage.rows == covered(world.objects)
    of_policy = live.features.egress.coverage.gateways.of_policy
    if of_policy.synced:
        assert of_policy.rows == gateways(world.objects)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "controller.yaml"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize("seed", range(4))
def test_after_each_event_all_tables_are_those_of_a_fresh_controller(path: Path, seed: int) -> None:
    after_each_event(seed, Reader(path), EVENTS)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_while_sources_sync_late(path: Path, seed: int) -> None:
    while_sources_sync_late(seed, Reader(path), EVENTS, every=6)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_when_events_come_between_slices(path: Path, seed: int) -> None:
    asyncio.run(between_slices(seed, Reader(path, slicing()), EVENTS))
