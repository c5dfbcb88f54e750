"""A controller's part that gives blocks to nodes, as a process that is one of two.

python -m tests.packet.claiming_process ETCD INSTANCE WISHES.json STATE

WISHES says by ``address/number`` which node is to have the block; it is read again and again. The
nodes' own words count as the controller's room takes them, and whoever is deposed in the midst of
its work goes on with it: nothing but the fence stops it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from clustermesh.etcd.client import Client, EtcdAddress, EtcdError
from clustermesh.store.allocator import Allocator, Ask
from clustermesh.store.follow import Follow
from clustermesh.store.leader import Deposed, Fence, Leader
from clustermesh.store.own import Own
from gateway.blocks import NOUN, has_let_go, node_of_owner
from mesh.core.model import Claim, ClaimKey

TTL_S, PAUSE_S = 2, 0.01


class Controller:
    """Stands for the leadership, and gives what is wished."""

    def __init__(self, client: Client, instance: str, wishes: Path, state: Path) -> None:
        self._wishes, self._own = wishes, Own("east")
        self._own.claims_of(NOUN)
        self._follow = Follow(client, self._own.prefix, self._own.take)
        self._leader = Leader(client, "east", instance, TTL_S)
        self._allocator = Allocator(
            client, "east", [NOUN], self._leader, state / instance,
            rests={NOUN: 0.0}, let_go={NOUN: self._let_go},
        )  # fmt: skip

    def _let_go(self, key: ClaimKey, claim: Claim) -> bool:
        said = self._own.programmed.rows.get(node_of_owner(claim.owner), {})
        return has_let_go(said, key, claim)

    async def run(self) -> None:
        await asyncio.gather(self._follow.run(), self._leader.run(self._lead))

    async def _lead(self, _: Fence) -> None:
        work = asyncio.ensure_future(self._give())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await work  # careless on purpose
        except EtcdError as error:
            raise Deposed(str(error)) from error

    async def _give(self) -> None:
        await self._allocator.recover()
        while True:
            wishes: Mapping[str, str] = json.loads(self._wishes.read_text())
            await self._take_back(wishes)
            await self._give_new(wishes)
            await asyncio.sleep(PAUSE_S)

    async def _give_new(self, wishes: Mapping[str, str]) -> None:
        """Each node gets the very block, or none."""
        have = self._allocator.claims
        for place, node in wishes.items():
            pool, _, number = place.partition("/")
            if ClaimKey(NOUN, pool, int(number)) not in have:
                ask = Ask(NOUN, pool, [f"{node}/{number}"], [int(number)])
                await self._allocator.claim_pools([ask])

    async def _take_back(self, wishes: Mapping[str, str]) -> None:
        for key, claim in self._allocator.claims.items():
            if wishes[f"{key.pool}/{key.number}"] != node_of_owner(claim.owner):
                await self._allocator.release(NOUN, key.pool, claim.owner)


if __name__ == "__main__":
    _, endpoint, name, file, directory = sys.argv
    made = Controller(Client(EtcdAddress((endpoint,))), name, Path(file), Path(directory))
    asyncio.run(made.run())
