"""A controller's tables after any history are those of a controller that is told all at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import suppress
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
from tests.unit.histories import World, rows, tables

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

    def __init__(self, path: Path, loop: Loop) -> None:
        self.objects = Objects(KINDS.nouns)
        self.features = Features(load_controller(path), self.objects)
        self.loop = loop
        self.features.derive(loop)

    def own(self, batch: Batch) -> None:
        self.features.own.take(batch)

    def mesh(self, batch: Batch) -> None:
        self.features.take(batch)

    def own_synced(self) -> None:
        self.features.own.synced()

    def state(self) -> dict[str, tuple[str, bool, dict[Any, Any]]]:
        """Name, sync and rows of each table by its path."""
        features = self.features
        parts: Mapping[str, object] = {str(at): one for at, one in enumerate(features.all)}
        found = tables({**parts, "own": features.own, "wants": features.wants})
        return {path: (one.name, one.synced, rows(one)) for path, one in found.items()}


def settled(loop: Loop) -> None:
    for _ in range(6):
        loop.derive_all()


def compare(live: Reader, world: World, path: Path) -> None:
    """Against a controller that is told everything at once, and against whole functions."""
    live.features.nodes.standing.settle(monotonic() + STANDS_S)  # time goes by
    settled(live.loop)
    fresh = Reader(path, Loop())
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
    live = Reader(path, Loop())
    world = World(seed, live)
    for name in world.sources:
        world.sync(name)
    for _ in range(EVENTS):
        world.step()
        settled(live.loop)
        compare(live, world, path)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_while_sources_sync_late(path: Path, seed: int) -> None:
    live = Reader(path, Loop())
    world = World(100 + seed, live)
    late = list(world.sources)
    world.chance.shuffle(late)
    for number in range(EVENTS):
        world.step()
        if number % 6 == 5 and late:
            world.sync(late.pop())
        settled(live.loop)
        compare(live, world, path)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_when_events_come_between_slices(path: Path, seed: int) -> None:
    asyncio.run(_in_slices(path, seed))


async def _in_slices(path: Path, seed: int) -> None:
    ticks = itertools.count()
    live = Reader(path, Loop(clock=lambda: float(next(ticks))))  # each piece is a slice
    world = World(200 + seed, live)
    for name in world.sources:
        world.sync(name)
    task = asyncio.create_task(live.loop.run())
    try:
        for _ in range(EVENTS // 4):
            for _ in range(world.chance.randrange(1, 8)):
                world.chance.choice((world.step, world.step, world.relist))()
                for _ in range(world.chance.randrange(6)):
                    await asyncio.sleep(0)
            await live.loop.gate.look(lambda: compare(live, world, path))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
