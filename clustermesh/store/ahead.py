"""A watch that is read while whoever follows it does something else.

etcd keeps few events for a watch that is not read. One that lags needs history, and when somebody
cuts that, the watch ends (``compact_revision``). So a list that needs no history (rule 3 of
``follow.py``) needs a watch that is read all the time. Source: etcd,
server/storage/mvcc/watchable_store.go (``notify``, ``syncWatchers``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Watched


class _Backlog:
    """Messages that nobody has taken yet; of a key's events the last one, so it has an end."""

    def __init__(self) -> None:
        self._before: deque[Watched] = deque()
        self._events: dict[bytes, pb.Event] = {}
        self._revision = 0

    def put(self, seen: Watched) -> None:
        """A message has come."""
        if seen.created:
            self._close()
            self._before.append(seen)
            return
        for event in seen.events:
            self._events.pop(event.kv.key, None)  # the order is that of revisions
            self._events[event.kv.key] = event
        self._revision = seen.revision

    def take(self) -> Watched | None:
        """The oldest message; None when there is none."""
        if not self._before:
            self._close()
        return self._before.popleft() if self._before else None

    def _close(self) -> None:
        if self._revision:
            self._before.append(Watched(self._revision, tuple(self._events.values())))
        self._events, self._revision = {}, 0


async def ahead(watch: AsyncGenerator[Watched, None]) -> AsyncGenerator[Watched, None]:
    """The messages of a watch, which is read from the first ``anext`` on, whoever takes them.

    Close it with ``aclosing``; that ends the watch, too. Raises what the watch raises, after
    everything that had come before.
    """
    backlog, came = _Backlog(), asyncio.Event()

    async def read() -> None:
        try:
            async for seen in watch:
                backlog.put(seen)
                came.set()
        finally:
            came.set()

    reading = asyncio.create_task(read())
    try:
        while True:
            seen = backlog.take()
            if seen is not None:
                yield seen
            elif reading.done():
                reading.result()
                return
            else:
                came.clear()
                await came.wait()
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await reading
