"""Clusters for which no agent is to wait: the leader writes down an operator's requests.

An operator puts ``meshgate/v1/<cluster>/forget/<name>``. The leader turns the request into
``forgotten/<name>``, which all agents of the cluster read, and takes that away once the cluster is
complete in the store again: then it is awaited as any other when the store is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from clustermesh.etcd.client import Client, EtcdError
from clustermesh.etcd.requests import delete_op, put_op
from clustermesh.store.leader import Fence, fenced_txn
from clustermesh.store.own import FORGOTTEN, TO_FORGET, Own

#: Seconds between looks at requests.
LOOK_S = 1.0


class Forgetting:
    """``complete`` gives the clusters that are complete in the store."""

    def __init__(self, client: Client, own: Own, complete: Callable[[], Iterable[str]]) -> None:
        #: Why a request cannot be met, in words.
        self.problem = ""
        self._client, self._own, self._complete = client, own, complete

    async def run(self, fence: Fence) -> None:
        """Meet requests until cancelled."""
        while True:
            try:
                await self.meet(fence)
                self.problem = ""
            except EtcdError as error:
                self.problem = str(error)
            await asyncio.sleep(LOOK_S)

    async def meet(self, fence: Fence) -> None:
        """Meet the requests of now; raises EtcdError."""
        prefix, complete = self._own.prefix, set(self._complete())
        for name in list(self._own.to_forget.rows):
            request = delete_op(f"{prefix}{TO_FORGET}{name}")
            told = [] if name in complete else [put_op(f"{prefix}{FORGOTTEN}{name}", b"{}")]
            await fenced_txn(self._client, fence, [], [request, *told])
        for name in complete & self._own.forgotten.rows.keys():
            await fenced_txn(self._client, fence, [], [delete_op(f"{prefix}{FORGOTTEN}{name}")])
