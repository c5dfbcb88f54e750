"""A candidate that writes one fenced counter after the other while it leads (a child process).

Usage: holder.py ENDPOINT INSTANCE TTL [CA CERT KEY]. Prints a line for each thing that happens to
it.
"""

from __future__ import annotations

import asyncio
import sys

from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.etcd.requests import put_op
from clustermesh.store.leader import Deposed, Fence, Leader, fenced_txn


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(endpoint: str, instance: str, ttl_s: int, *files: str) -> None:
    client = Client(EtcdAddress((endpoint,), *files))
    leader = Leader(client, "east", instance, ttl_s)

    async def lead(fence: Fence) -> None:
        say("leads", fence.create_revision)
        number = 0
        try:
            while True:
                number += 1
                ops = [put_op(f"counter/{instance}", b"%d" % number)]
                await fenced_txn(client, fence, (), ops)
                await asyncio.sleep(0.01)
        except Deposed as error:
            say("deposed", error)
            raise
        except asyncio.CancelledError:
            say("cancelled")
            raise

    await leader.run(lead)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
