"""The agent's part that owns blocks and lends from them, as a process that may stand still.

python -m tests.packet.owning_process PINS ETCD NODE PODS.json

Its claims become ``mg_own_block``, its datapath lends by itself, and the process says which blocks
it has let go, as an agent does, with shorter waits.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.store.follow import Follow
from clustermesh.store.keys import PersistentTarget
from clustermesh.store.own import Own, programmed_key, programmed_of
from gateway import blocks, lending, maps
from gateway.lending import LendingAgent
from gateway.settings import EgressSettings
from mesh.core.groups import By
from mesh.core.model import IP, Claim, ClaimKey, NodeKey, Pod
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.health import programmed
from mesh.health.programmed import Programmed
from tests.packet.lending_process import Pinned


class Owner:
    """One node, without objects of the API server."""

    def __init__(self, pins: Path, client: Client, name: str) -> None:
        self._name, self._client, self._loop = name, client, Loop()
        self.own, maps_ = Own("east"), Pinned(pins)
        claims = self.own.claims_of(blocks.NOUN)
        self._own_block: Table[IP, tuple[int, ...]] = Table("own block")
        self._loop.group(self._own_block, blocks.own_blocks, By(claims.held, self._if_own))
        target: Any = maps_.rows("mg_own_block", maps.encode_own_block, maps.decode_own_block)
        self._loop.apply(self._own_block, target)
        self.pod: Table[str, Pod] = Table("pod")
        self._lending = LendingAgent(
            NodeKey("east", name), EgressSettings(), self.pod, self._own_block, claims.resting,
            client,
        )  # fmt: skip
        self._lending.derive(self._loop)
        self._lending.apply(self._loop, maps_)  # type: ignore[arg-type]
        known: Table[str, None] = Table("findings")
        known.mark_synced()
        objects: Any = SimpleNamespace(objects=SimpleNamespace(findings=known), generations={})
        self._programmed = Programmed(
            partial(programmed_of, "east", name), objects, self._loop,
            lambda: self._lending.let_go.told,
        )  # fmt: skip
        self._programmed.apply(PersistentTarget(client, [programmed_key("east", name)]))

    def _if_own(self, _: ClaimKey, claim: Claim) -> list[IP]:
        address = blocks.address_of_pool(claim.pool)
        return [address] if address and blocks.node_of_owner(claim.owner) == self._name else []

    async def run(self) -> None:
        follow = Follow(self._client, self.own.prefix, self.own.take, on_synced=self.own.synced)
        tasks = [task() for task in self._lending.tasks()]
        await asyncio.gather(follow.run(), self._loop.run(), self._programmed.run(), *tasks)


async def run(pins: Path, etcd: str, node: str, pods: Mapping[str, list[str]]) -> None:
    """``pods`` are addresses by name."""
    lending.WRITE_S, lending.POLL_S, programmed.EACH_S = 0.05, 0.02, 0.05
    made = Owner(pins, Client(EtcdAddress((etcd,))), node)
    made.pod.replace(
        {
            name: Pod("east", "shop", name, node, addresses=tuple(map(ip_address, addresses)))
            for name, addresses in pods.items()
        }
    )
    await made.run()


if __name__ == "__main__":
    _, place, endpoint, name, file = sys.argv
    asyncio.run(run(Path(place), endpoint, name, json.loads(Path(file).read_text())))
