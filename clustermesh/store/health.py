"""Faults of etcd itself: an alarm, a database that fills up, a history that was cut.

etcd lets any user raise and disarm alarms and compact its history (ARCHITECTURE.md D69). All of it
is survived: reads go on, maps and published keys stay. Here it gets a name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from clustermesh.etcd.client import Client, EtcdError
from clustermesh.findings import ALARM, COMPACTED, FILLING
from clustermesh.remote.wire import plain
from clustermesh.store.view import StoreView
from clustermesh.store.writers import Writers, mib, writers
from mesh.core.model import Finding

#: Seconds between looks at the status of etcd, and between two samples of its writers.
LOOK_S, SAMPLE_S = 10.0, 3600.0
#: Bytes that etcd takes without another quota in its configuration.
QUOTA = 2 << 30
#: Seconds for which it is told that history was cut.
TOLD_S = 600.0


class StoreHealth:
    """``quota`` is etcd's own in bytes, for an etcd that does not tell it (before 3.6); 0: unknown.

    Only a process that ``leads`` samples the writers, which ``clusters`` names.
    """

    def __init__(
        self,
        client: Client,
        quota: int,
        leads: Callable[[], bool],
        clusters: Callable[[], Iterable[str]],
    ) -> None:
        self._client, self._quota = client, quota
        self._leads, self._clusters = leads, clusters
        self._alarms: Sequence[str] = ()
        self._size = self._in_use = 0
        self._writers: Writers | None = None
        self._sampled = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except EtcdError:
                self._alarms = ()  # nothing is known; the process says that etcd is away
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask etcd how it is. Raises EtcdError."""
        status = await self._client.status()
        self._alarms = tuple(status.errors)
        self._size, self._in_use = status.dbSize, status.dbSizeInUse
        self._quota = status.dbSizeQuota or self._quota or QUOTA
        if not self._is_filling:
            self._writers = None
        elif self._leads() and self._is_due():
            self._writers = await writers(self._client, self._clusters())
            self._sampled = time.monotonic()

    @property
    def _is_filling(self) -> bool:
        return 2 * self._size >= self._quota > 0

    def _is_due(self) -> bool:
        return self._writers is None or time.monotonic() >= self._sampled + SAMPLE_S

    def findings(self) -> Iterable[Finding]:
        """Alarms that stand, and a database that is half full."""
        place = f"etcd {self._client.endpoint.text}"
        for alarm in self._alarms:
            name = alarm.rpartition("alarm:")[2].strip()
            text = f"{plain(alarm.strip())}: etcd answers reads and takes no writes"
            yield Finding(ALARM, place, plain(name), text)
        if self._is_filling:
            text = (
                f"the database has {mib(self._size)} of {mib(self._quota)}, "
                f"{mib(self._in_use)} of it in use"
            )
            more = f"; {self._writers}" if self._writers and str(self._writers) else ""
            yield Finding(FILLING, place, "size", f"{text}{more}")


def cut_history(view: StoreView, client: Client) -> Iterable[Finding]:
    """A finding for a while after a watch was cut by a compaction."""
    if view.compactions and time.monotonic() < view.compacted + TOLD_S:
        text = (
            f"{view.compactions} times a list or watch was cut, the last one "
            f"{time.monotonic() - view.compacted:.0f} s ago; everything was listed anew and stays"
        )
        yield Finding(COMPACTED, f"etcd {client.endpoint.text}", "", text)
