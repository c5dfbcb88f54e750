"""One of several controllers that claim numbers for the same label sets (a child process).

Usage: racer.py ENDPOINT INSTANCE TTL OWNERS STATE_DIRECTORY. Whenever it leads it recovers the
claims, then claims for the owners in an order of its own, a few at a time, and releases some. Every
write Txn also puts ``audit/<instance>``, so that the store's history shows who wrote what.
One JSON line per event; it ends when it leads and every owner has a number.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client, EtcdAddress, EtcdError
from clustermesh.etcd.requests import put_op
from clustermesh.store.allocator import Allocator
from clustermesh.store.leader import Deposed, Fence, Leader
from mesh.identity.controller import numbers_of

FEW = 5


class AuditedClient(Client):
    """Signs each fenced Txn."""

    instance = ""

    async def txn(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        repeat: bool,
    ) -> pb.TxnResponse:
        fenced = any(c.target == pb.Compare.CompareTarget.LEASE for c in compare)
        if fenced:
            success = [*success, put_op(f"audit/{self.instance}", b"")]
        return await super().txn(compare, success, failure, repeat=repeat)


def say(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def main(endpoint: str, instance: str, ttl_s: int, count: int, state: str) -> None:
    client = AuditedClient(EtcdAddress((endpoint,)))
    client.instance = instance
    leader = Leader(client, "east", instance, ttl_s)
    snapshot = Path(state) / f"{instance}.json"

    async def lead(fence: Fence) -> None:
        say(event="leads", revision=fence.create_revision)
        allocator = Allocator(client, "east", ("identity",), fence, snapshot)
        await allocator.recover()
        order = random.sample(range(count), count)
        numbers = random.sample(numbers_of(1), len(numbers_of(1)))
        for start in range(0, count, FEW):
            owners = [f"k8s:app=a{number};" for number in order[start : start + FEW]]
            claimed = await allocator.claim_all("identity", "labels", owners, numbers)
            for owner, claim in claimed.claims.items():
                say(event="claimed", owner=owner, number=claim.number, epoch=claim.epoch)
            await asyncio.sleep(0.02)

    async def watched_lead(fence: Fence) -> None:
        work = asyncio.ensure_future(lead(fence))
        try:
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work  # careless on purpose: nothing but the fence stops it
        except Deposed as error:
            say(event="deposed", text=str(error))
            raise
        except EtcdError as error:
            say(event="error", text=str(error))
            raise Deposed(str(error)) from error

    await leader.run(watched_lead)
    say(event="done")
    await client.aclose()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
