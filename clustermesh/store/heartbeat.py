"""The key that tells Cilium's clients that a store works: each leading controller puts it.

A Cilium agent, operator or kvstoremesh that reads a store drops its connection and lists everything
again when the key was not put for 120 s (``reference/cilium-peer.md`` B4). All clusters of a store
put the same key: a reader counts the time since the last put and looks at nothing else.
"""

from __future__ import annotations

import asyncio
import time

from clustermesh.etcd.client import Client, EtcdError
from clustermesh.etcd.requests import put_op
from clustermesh.remote.wire import HEARTBEAT
from clustermesh.store.leader import Fence, fenced_txn

#: Seconds between puts, and until the next try after an error.
BEAT_S = 30.0
AGAIN_S = 1.0


class Heartbeat:
    """Puts the key while its process leads."""

    def __init__(self, client: Client, every_s: float = BEAT_S) -> None:
        #: Why the key cannot be put, in words.
        self.problem = ""
        self._client = client
        self._every_s = every_s

    async def run(self, fence: Fence) -> None:
        """Put the key until cancelled; without a lease, so that it outlives every leader."""
        while True:
            value = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()).encode()
            try:
                await fenced_txn(self._client, fence, [], [put_op(HEARTBEAT, value)])
                self.problem = ""
            except EtcdError as error:
                self.problem = str(error)
            await asyncio.sleep(AGAIN_S if self.problem else self._every_s)
