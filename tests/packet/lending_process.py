"""The agent's part that takes a node's log of runs into a store, as a process that may be killed.

python -m tests.packet.lending_process PINS ETCD NODE PODS.json
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bpf.maps import Map, RowTarget
from bpf.object import Object
from clustermesh.etcd.client import Client, EtcdAddress
from gateway import lending
from gateway.lending import LendingAgent
from gateway.settings import EgressSettings
from mesh.core.model import IP, Claim, ClaimKey, NodeKey, Pod
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from tests.packet.nodes import OBJECTS


class Pinned:
    """Maps that are pinned in a directory, as a feature sees them."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._maps = directory, dict[str, Map]()
        with Object.open(OBJECTS / "pod.o") as one:
            self._btf = one.btf

    def map(self, name: str) -> Map:
        if name not in self._maps:
            self._maps[name] = Map.open_pinned(self._directory / name)
        return self._maps[name]

    def rows(self, name: str, encode: Callable[..., Any], decode: Callable[..., Any]) -> Any:
        return RowTarget(self.map(name), encode, decode)

    def enum(self, name: str) -> Mapping[str, int]:
        return self._btf.enum(name)

    def lookup(self, name: str, key: object) -> Any:
        return self.map(name).lookup(key)


async def run(pins: Path, etcd: str, node: str, pods: Mapping[str, list[str]]) -> None:
    """``pods`` are addresses by name. It looks every second whether the store has lost them."""
    lending.CHECK_S = 1.0
    pod: Table[str, Pod] = Table("pod")
    own_block: Table[IP, tuple[int, ...]] = Table("own block")
    store = Client(EtcdAddress((etcd,)))
    resting: Table[ClaimKey, Claim] = Table("resting block claim")
    agent = LendingAgent(NodeKey("east", node), EgressSettings(), pod, own_block, resting, store)
    loop = Loop()
    agent.derive(loop)
    agent.apply(loop, Pinned(pins))  # type: ignore[arg-type]
    pod.replace(
        {
            name: Pod("east", "shop", name, node, addresses=tuple(map(ip_address, addresses)))
            for name, addresses in pods.items()
        }
    )
    own_block.mark_synced()
    loop.derive_all()
    await asyncio.gather(*(task() for task in agent.tasks()))


if __name__ == "__main__":
    _, place, endpoint, name, file = sys.argv
    asyncio.run(run(Path(place), endpoint, name, json.loads(Path(file).read_text())))
