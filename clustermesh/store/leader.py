"""One controller of a cluster leads: an etcd key on a lease, and a fence for every write.

A thread puts the key again and again (``renewal.py``): the revision of its last put is a counter
that only controllers of the cluster can raise. A standby takes over when the counter has stood for
the time of a lease, by its own clock, whether the lease lives or not: anybody can keep a lease
alive (D67). Leading ends by the holder's own clock, one lease after the sending of the last
answered put, whatever errors arrive or do not arrive. A holder that slept through it (SIGSTOP)
writes nothing when it wakes: each of its Txns compares the key's create revision and lease. Whoever
takes over puts the key on another lease. And a replaced store may hand out the same revision again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client, Compacted, EtcdError, Pause
from clustermesh.etcd.requests import (
    delete_op,
    get_op,
    if_created,
    if_leased,
    if_modified,
    put_op,
    read_kv,
)
from clustermesh.remote.wire import leader_key
from clustermesh.store.counter import Standing
from clustermesh.store.renewal import HUNG_S, RENEWALS, Renewal

log = logging.getLogger(__name__)

#: Seconds until a task that did not end is cancelled again.
STOP_S = 0.5
#: Seconds that giving the leadership up waits for its answer.
GIVE_UP_S = 1.0


class Deposed(EtcdError):
    """We do not lead, so nothing was written."""


class Fenced(Protocol):
    """Whoever knows under which leadership to write now."""

    def current(self) -> Fence:
        """The fence of this moment. Raises Deposed."""


@dataclass(frozen=True, slots=True)
class Fence:
    """One leadership: its key as it was created, and the lease it hangs on."""

    key: str
    create_revision: int
    lease: int

    def current(self) -> Fence:
        return self

    def comparisons(self) -> Sequence[pb.Compare]:
        """What a Txn compares so that only this leadership can write."""
        return if_created(self.key, self.create_revision), if_leased(self.key, self.lease)

    def check(self, kv: pb.KeyValue | None) -> None:
        """Raise Deposed unless ``kv`` is the leader key of this leadership."""
        if kv is None:
            raise Deposed(f"{self.key} is gone: we no longer lead, nothing was written")
        if (kv.create_revision, kv.lease) != (self.create_revision, self.lease):
            holder = kv.value.decode(errors="replace")
            raise Deposed(f"{self.key} belongs to {holder} now, nothing was written")


async def fenced_txn(
    client: Client,
    fenced: Fenced,
    compare: Sequence[pb.Compare],
    success: Sequence[pb.RequestOp],
    failure: Sequence[pb.RequestOp] = (),
) -> tuple[pb.TxnResponse, Sequence[pb.ResponseOp]]:
    """A Txn that only the leader can do; it may be sent twice.

    Returns the response and the results of ``failure``. Raises Deposed; then nothing was written.
    """
    fence = fenced.current()
    reply = await client.txn(
        [*fence.comparisons(), *compare], success, [get_op(fence.key), *failure], repeat=True
    )
    if not reply.succeeded:
        fence.check(read_kv(reply.responses[0]))
    return reply, reply.responses[1:] if not reply.succeeded else ()


class Leader:
    """A candidate for its cluster's leadership, and the fence of what it leads."""

    def __init__(
        self,
        client: Client,
        cluster: str,
        instance: str,
        ttl_s: int = 10,
        hung_s: float = HUNG_S,
    ) -> None:
        self.key = leader_key(cluster)
        self.instance = instance
        #: Who leads, as far as we have seen; our own name while we do.
        self.holder = ""
        #: Why we cannot stand, or whom we compete with under one name.
        self.problem = ""
        self._client = client
        self._ttl_s = ttl_s
        self._fence: Fence | None = None
        self._deadline = 0.0  # of a leadership that was just taken
        self._hung_s = hung_s
        self._renewal: Renewal | None = None
        self._rival = Standing()  # the counter of another leader
        self._leases: set[int] = set()  # granted here, perhaps still alive
        self._has_led = False

    @property
    def leads(self) -> bool:
        """We hold the key, by our own clock."""
        return self._fence is not None and not self._has_run_out()

    def current(self) -> Fence:
        if self._fence is None:
            raise Deposed(f"{self.instance} does not lead ({self.holder or 'nobody'} does)")
        if self._has_run_out():
            raise Deposed(f"{self.instance} no longer leads: its lease has run out")
        return self._fence

    def _has_run_out(self) -> bool:
        return self._renewal is None or time.monotonic() >= self._renewal.deadline

    async def run(self, lead: Callable[[Fence], Coroutine[Any, Any, None]]) -> None:
        """Stand for ever; call ``lead`` for each leadership and cancel it when that ends.

        Returns when ``lead`` returns; its errors pass through, except that being deposed starts
        the next candidacy. A clean end gives the leadership away at once.
        """
        while True:
            fence = await self._campaign()
            log.info("event=leading key=%s revision=%d", self.key, fence.create_revision)
            try:
                if await self._reign(fence, lead):
                    return
            except (Deposed, BaseExceptionGroup) as error:
                self.problem = _deposed(error)
            log.warning("event=deposed key=%s reason=%s", self.key, self.problem)

    async def _reign(
        self, fence: Fence, lead: Callable[[Fence], Coroutine[Any, Any, None]]
    ) -> bool:
        """Whether ``lead`` has returned by itself; False: the leadership was lost."""
        self._renewal = renewal = Renewal(
            self._client.endpoint,
            fence,
            self.instance.encode(),
            self._ttl_s,
            self._deadline,
            self._hung_s,
        )
        renewal.start()  # a callback that sees that we lead may keep the loop busy
        self._fence, self.holder, self._has_led = fence, self.instance, True
        work = asyncio.create_task(lead(fence), name="lead")
        keep = asyncio.create_task(renewal.watch(), name="keep the leadership")
        try:
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._fence, self.holder = None, ""
            try:
                await _stop(work)
            finally:
                renewal.end()
            await _stop(keep)
            await self._give_up(fence.lease)
        if keep.done() and not keep.cancelled():
            self.problem = keep.result()
        if work.cancelled():
            return False
        work.result()
        return True

    async def _campaign(self) -> Fence:
        pause = Pause()
        while True:
            try:
                reply = await self._client.range(self.key)
                fence = await self._stand(reply)
                self.problem = self.problem if fence is None else ""
                if fence is not None:
                    return fence
                pause.reset()
            except EtcdError as error:
                self._rival.lose()
                self.problem = str(error)
                await asyncio.sleep(pause.next())

    async def _stand(self, reply: pb.RangeResponse) -> Fence | None:
        """Take the key if it is free or our own, else wait until something happens to it."""
        if not reply.kvs:
            return await self._take()
        kv = reply.kvs[0]
        self.holder = kv.value.decode(errors="replace")
        counter = kv.create_revision, kv.mod_revision, kv.lease
        stood_s = self._rival.read(counter, self._ttl_s / RENEWALS)
        if stood_s > self._ttl_s / 2 and await self._client.alarms():
            self._rival.lose()  # the holder may be kept from writing
            stood_s = 0.0
        if kv.lease in self._leases:
            await self._client.revoke(kv.lease)
            self._leases.discard(kv.lease)
        elif self.holder == self.instance and not self._has_led:
            await self._remove_predecessor(kv)
        elif stood_s >= self._ttl_s:
            return await self._take_over(kv)
        else:
            twin = self.holder == self.instance
            self.problem = f"another controller named {self.holder} leads" if twin else ""
            await self._wait_for_change(reply.header.revision)
        return None

    async def _take(self, stands: pb.KeyValue | None = None) -> Fence | None:
        """Put the key on a lease of ours; None: another instance was faster.

        ``stands`` is the key of a holder that puts it no more. One Txn replaces it: a put that came
        meanwhile makes it fail, and an alarm that keeps the holder from writing keeps us as well.
        The holder's writes fail from then on, because they compare the lease.
        """
        sent = time.monotonic()
        lease = await self._client.grant(self._ttl_s)
        self._leases.add(lease.ID)
        free = [if_created(self.key, 0)]
        if stands is not None:
            free = [if_modified(self.key, stands.mod_revision), if_leased(self.key, stands.lease)]
        put = put_op(self.key, self.instance.encode(), lease.ID)
        reply = await self._client.txn(free, [put], [get_op(self.key)], repeat=True)
        revision = stands.create_revision if stands else reply.header.revision
        if not reply.succeeded:
            kv = read_kv(reply.responses[0])
            if kv is None or kv.lease != lease.ID:
                await self._give_up(lease.ID)
                return None
            revision = kv.create_revision  # our own first try had won, its answer was lost
        self._ttl_s = lease.TTL
        self._deadline = sent + lease.TTL
        return Fence(self.key, revision, lease.ID)

    async def _take_over(self, stands: pb.KeyValue) -> Fence | None:
        """Lead instead of a holder whose counter stands: it is hung, or dead on a living lease."""
        fence = await self._take(stands)
        if fence is not None:
            log.warning("event=leader_stood_still key=%s holder=%s", self.key, self.holder)
            await self._give_up(stands.lease)
        return fence

    async def _remove_predecessor(self, kv: pb.KeyValue) -> None:
        """A key under our name from before our start: whoever wrote it is fenced by its end."""
        mine = [if_created(self.key, kv.create_revision), if_leased(self.key, kv.lease)]
        await self._client.txn(mine, [delete_op(self.key)], repeat=True)

    async def _wait_for_change(self, revision: int) -> None:
        """Return on any event of the key, and when it is time to look at its counter.

        A watch can be mute; and one that was compacted says nothing about the counter.
        """
        wait = self._ttl_s / RENEWALS
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                with suppress(Compacted):
                    async with aclosing(
                        self._client.watch(self.key, revision + 1, exact=True)
                    ) as watch:
                        async for seen in watch:
                            if seen.events:
                                return
                await asyncio.sleep(wait)

    async def _give_up(self, lease: int) -> None:
        with suppress(EtcdError, TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                await self._client.revoke(lease)
            self._leases.discard(lease)


def _deposed(error: Deposed | BaseExceptionGroup) -> str:
    """Why; any other error of a task group passes through."""
    if isinstance(error, Deposed):
        return str(error)
    deposed, other = error.split(Deposed)
    if other is not None or deposed is None:
        raise error
    return str(deposed.exceptions[0])


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel until it ends: a task group whose children fail at that moment swallows one."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_S)
