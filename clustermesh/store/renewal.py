"""A leader's counter, raised by a thread: a busy event loop loses no leadership, a hung one does.

To raise it is to put the leader's key once more, fenced: its value stays, its revision is the
counter (``counter.py``). The lease is renewed beside it, and only cleans up: any user could renew
it. The thread has a channel of its own. It raises only while the event loop has turned a short
while ago (``HUNG_S``): a process that no longer does its work must not keep others from doing it.
The leadership ends one lease after the sending of the last put that was answered, by our own clock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.blocking import BlockingClient
from clustermesh.etcd.channel import EtcdAddress
from clustermesh.etcd.client import EtcdError, NoWrites
from clustermesh.etcd.requests import get_op, put_op, read_kv

log = logging.getLogger(__name__)

#: Puts and renewals per lease: a restart of etcd of half a lease must fit between two that succeed.
RENEWALS = 5
#: Seconds that one call of a renewal waits for its answer.
ANSWER_S = 1.0
#: Seconds until a renewal without an answer is tried again.
AGAIN_S = 0.3
#: Seconds that the event loop may stand still before its lease is no longer renewed.
HUNG_S = 30.0
#: Seconds between two signs of life of the event loop.
TURN_S = 1.0


class Held(Protocol):
    """A key on a lease."""

    @property
    def key(self) -> str: ...
    @property
    def lease(self) -> int: ...
    def comparisons(self) -> Sequence[pb.Compare]:
        """The comparison of a Txn by which only the holder of the key can write."""

    def check(self, kv: pb.KeyValue | None) -> None:
        """Raise an EtcdError unless ``kv`` is the key as we hold it."""


class Renewal:
    """One leadership's key ``fence``, put again and again with the same ``value``.

    ``start`` and ``watch`` run on the event loop, the rest in a thread until ``end``.
    """

    def __init__(
        self,
        etcd: EtcdAddress,
        fence: Held,
        value: bytes,
        ttl_s: int,
        deadline: float,
        hung_s: float = HUNG_S,
    ) -> None:
        #: When the leadership ends, by ``time.monotonic``.
        self.deadline = deadline
        #: Why the leadership is lost; empty while it is not.
        self.lost = ""
        self._etcd = BlockingClient(etcd)
        self._fence = fence
        self._raise = pb.TxnRequest(
            compare=fence.comparisons(),
            success=[put_op(fence.key, value, fence.lease)],
            failure=[get_op(fence.key)],
        )
        self._ttl_s = ttl_s
        self._hung_s = hung_s
        self._turned = time.monotonic()
        self._hung = False  # the last renewal was left out
        self._ended = threading.Event()
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Begin, at once: the event loop may be busy from now on."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(loop,), name="renew", daemon=True).start()

    async def watch(self) -> str:
        """Return why the leadership is lost, once it is."""
        while not self.lost:
            self._turned = time.monotonic()
            left = self.deadline - self._turned
            if left <= 0:
                return self._overdue()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, TURN_S)):
                    await self._wake.wait()
        return self.lost

    def end(self) -> None:
        """Renew no longer."""
        self._ended.set()
        self._etcd.close()

    # --- In the thread ------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        wait = self._ttl_s / RENEWALS
        while not self._ended.wait(wait) and time.monotonic() < self.deadline:
            wait = self._ttl_s / RENEWALS
            if self._is_hung():
                continue
            try:
                self.lost = self._renew()
            except EtcdError:  # perhaps it answers before the lease ends
                wait = min(AGAIN_S, wait)
            if self.lost:
                break
        self._etcd.close()
        with suppress(RuntimeError):  # the loop has ended in the meantime
            loop.call_soon_threadsafe(self._wake.set)

    def _is_hung(self) -> bool:
        still = time.monotonic() - self._turned
        if still < self._hung_s:
            return False
        if not self._hung:
            log.error("event=loop_hung seconds=%.0f lease=not_renewed", still)
        self._hung = True
        return True

    def _renew(self) -> str:
        """Why the leadership is lost, or nothing. Raises EtcdError when etcd does not answer."""
        sent = time.monotonic()
        is_ours, kv = self._put()
        if not is_ours:
            try:
                self._fence.check(kv)
            except EtcdError as error:
                return str(error)
        self.deadline, self._hung = sent + self._ttl_s, False
        if self._etcd.renew(self._fence.lease, ANSWER_S) <= 0:
            return "the lease has expired in etcd"
        return ""

    def _put(self) -> tuple[bool, pb.KeyValue | None]:
        """Raise the counter. Whether the key was ours, else the key as it stands.

        While an alarm stands in etcd no process can write, so none can take over either.
        """
        try:
            reply = self._etcd.txn(self._raise, ANSWER_S)
        except NoWrites:
            return False, self._etcd.get(self._fence.key, ANSWER_S)
        if reply.succeeded:
            return True, None
        return False, read_kv(reply.responses[0])

    def _overdue(self) -> str:
        if self._hung:
            return f"the event loop stood still for more than {self._hung_s:.0f} s"
        return f"etcd did not answer within the lease of {self._ttl_s} s"
