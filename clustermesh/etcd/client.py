"""etcd v3 spoken directly over grpc.aio: the one door to the store.

Rules that the outside forces (figures: clients reference, section 3):
- A call is cut into attempts of 1 s: a dying leader holds a proposal for seconds.
- A write without an answer has an unknown outcome. Puts are repeated; a Txn only if the caller says
  that a repeated one is recognised (it reads its own keys back in the failure branch).
- A watch resumes after the last *event*; a batch's header carries the store's revision and would
  skip events. It reports each new connection (``created``), because a replaced store is silent.
- An unreachable etcd is a state, not an exception at start: ``problem`` says it in words.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from clustermesh.etcd import channel
from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.channel import EtcdAddress
from clustermesh.etcd.errors import (
    BadRequest,
    Compacted,
    Denied,
    EtcdError,
    FutureRevision,
    LeaseNotFound,
    NoWrites,
    OutcomeUnknown,
    Replaced,
    StoreCorrupt,
    StoreFull,
    Unavailable,
    canceled,
    classify,
)
from clustermesh.etcd.names import key_bytes, key_text, shown
from clustermesh.etcd.requests import prefix_end, prefix_range

__all__ = [
    "BadRequest",
    "Client",
    "Compacted",
    "Denied",
    "EtcdAddress",
    "EtcdError",
    "FutureRevision",
    "KeyList",
    "LeaseNotFound",
    "NoWrites",
    "OutcomeUnknown",
    "Replaced",
    "StoreCorrupt",
    "StoreFull",
    "Unavailable",
    "Watched",
]

#: Most operations of one Txn that etcd takes (``--max-txn-ops``).
MAX_TXN_OPS = 128
#: Keys per page of a list: with fewer, etcd 3.4 scans the rest of the range again and again.
PAGE_KEYS = 5000
#: Times that a list is started anew when its revision is compacted before its last page.
LISTS = 4
#: Seconds between two tries of a watch at most.
WATCH_PAUSE_S = 2.0

#: Seconds between looks for new certificate files.
LOOK_S = 1.0

#: Shortest attempt, when a call's time is nearly up.
SHORTEST_S = 0.05
#: Without it a watch on a member that lost its quorum is silent for ever.
HAS_LEADER = (("hasleader", "true"),)
#: What grpcio raises besides CancelledError; unreadable certificate files are OSError too.
GRPC_ERRORS = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, OSError)

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for one attempt and for the whole call."""

    attempt: float
    total: float


WRITE = Limits(1.0, 5.0)
LIST = Limits(10.0, 10.0)


@dataclass(slots=True)
class Pause:
    """A doubling pause with jitter."""

    longest: float = 1.0
    seconds: float = 0.05

    def next(self) -> float:
        """Seconds to wait now."""
        now = self.seconds * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        self.seconds = min(2 * self.seconds, self.longest)
        return now

    def reset(self) -> None:
        """Start small again after a success."""
        self.seconds = 0.05


@dataclass(slots=True)
class _Renewals:
    """Leases that are renewed together, and the task that does it."""

    leases: dict[int, None] = field(default_factory=dict)
    task: asyncio.Task[Mapping[int, int]] | None = None


@dataclass(frozen=True, slots=True)
class KeyList:
    """Keys of a prefix at one revision: all of them, or a page."""

    revision: int
    kvs: Sequence[pb.KeyValue]


@dataclass(frozen=True, slots=True)
class Watched:
    """One message of a watch: a new connection (``created``), events, or neither: progress."""

    revision: int
    events: Sequence[pb.Event] = field(default=())
    created: bool = False


class Client:
    """One etcd, several endpoints; connects on the first call."""

    def __init__(self, endpoint: EtcdAddress) -> None:
        channel.check(endpoint)  # wrong endpoints are wrong now, not at each call
        self.endpoint = endpoint
        #: Why the last attempt failed, in words; empty when it did not.
        self.problem = ""
        self._secrets: channel.Secrets | None = None
        self._stamp: tuple[int, ...] = ()
        self._channel: grpc.aio.Channel | None = None
        self._retired: list[grpc.aio.Channel] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._looked = 0.0  # when the files were looked at
        self._lives = channel.Lives(endpoint)
        self._renewals: _Renewals | None = None  # those of this turn of the event loop

    def ending(self) -> str:
        """Whether our certificate, or the CA's, ends soon, in words; empty when none does."""
        return self._lives.ending(datetime.now(UTC))

    async def aclose(self) -> None:
        """End all calls and streams."""
        self._closed = True
        for open_channel in [*self._retired, self._channel]:
            if open_channel is not None:
                await open_channel.close(None)

    async def range(
        self, key: str, end: bytes = b"", *, revision: int = 0, count_only: bool = False
    ) -> pb.RangeResponse:
        """Keys from ``key`` up to ``end``, or one key; ``revision`` 0 is now."""
        request = pb.RangeRequest(
            key=key_bytes(key), range_end=end, revision=revision, count_only=count_only
        )
        return await self._call("KV/Range", request, pb.RangeResponse, LIST)

    async def get(self, key: str, revision: int = 0) -> pb.KeyValue | None:
        """One key, or None."""
        request = pb.RangeRequest(key=key_bytes(key), revision=revision)
        kvs = (await self._call("KV/Range", request, pb.RangeResponse)).kvs
        return kvs[0] if kvs else None

    def pages(self, prefix: str, revision: int = 0) -> AsyncGenerator[KeyList, None]:
        """All keys of a prefix in the order of their bytes, page by page, at one revision.

        Without one it is that of the first page; at least one page comes. Raises Compacted when
        that revision is gone before the last page: what came so far is then no complete list, and
        the caller starts anew. Close it with ``aclosing``.
        """
        return self._pages(prefix, revision, pinned=True)

    def loose_pages(self, prefix: str) -> AsyncGenerator[KeyList, None]:
        """``pages``, but each as it is when it is read, with its own revision."""
        return self._pages(prefix, 0, pinned=False)

    async def _pages(
        self, prefix: str, revision: int, *, pinned: bool
    ) -> AsyncGenerator[KeyList, None]:
        key, end = prefix_range(prefix)
        while True:
            request = pb.RangeRequest(key=key, range_end=end, limit=PAGE_KEYS, revision=revision)
            page = await self._call("KV/Range", request, pb.RangeResponse, LIST)
            yield KeyList(revision or page.header.revision, page.kvs)
            if pinned:
                revision = revision or page.header.revision
            if not page.more:
                return
            key = page.kvs[-1].key + b"\0"

    async def keys(self, first: str, end: bytes, most: int) -> Sequence[bytes]:
        """The first keys of a range in the order of their bytes, without their values."""
        request = pb.RangeRequest(key=key_bytes(first), range_end=end, limit=most, keys_only=True)
        return [kv.key for kv in (await self._call("KV/Range", request, pb.RangeResponse)).kvs]

    async def list(self, prefix: str) -> KeyList:
        """All keys of a prefix at one revision, at once; for prefixes with few keys.

        When history is cut again and again meanwhile, each page comes as it is then, and the
        revision is that of the first one.
        """
        for _ in range(LISTS):
            with suppress(Compacted):
                return await _list(self.pages(prefix))
        return await _list(self.loose_pages(prefix))

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write one key. Return the revision."""
        request = pb.PutRequest(key=key_bytes(key), value=value, lease=lease)
        return (await self._call("KV/Put", request, pb.PutResponse)).header.revision

    async def delete(self, key: str, end: bytes = b"") -> int:
        """Delete one key, or all up to ``end``. Return how many there were."""
        request = pb.DeleteRangeRequest(key=key_bytes(key), range_end=end)
        return (await self._call("KV/DeleteRange", request, pb.DeleteRangeResponse)).deleted

    async def txn(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        repeat: bool,
    ) -> pb.TxnResponse:
        """Do ``success`` if every comparison holds, else ``failure``, in one revision.

        ``repeat``: send it again after an unknown outcome. If the first try had won, the second
        fails its own comparison, so the caller must recognise its own write in ``failure``'s reads.
        Raises OutcomeUnknown when it may not be repeated.
        """
        request = pb.TxnRequest(compare=compare, success=success, failure=failure)
        return await self._call("KV/Txn", request, pb.TxnResponse, repeat=repeat)

    async def grant(self, ttl_s: int) -> pb.LeaseGrantResponse:
        """A new lease; its TTL may be longer than asked for."""
        request = pb.LeaseGrantRequest(TTL=ttl_s)
        return await self._call("Lease/LeaseGrant", request, pb.LeaseGrantResponse)

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; one that is gone is no error."""
        try:
            request = pb.LeaseRevokeRequest(ID=lease)
            await self._call("Lease/LeaseRevoke", request, pb.LeaseRevokeResponse)
        except LeaseNotFound:
            return

    async def renew(self, leases: Collection[int], within_s: float) -> Mapping[int, int]:
        """Remaining seconds of each lease after renewing it; 0 for one that is gone.

        What is asked in one turn of the event loop goes through one stream, since a stream costs
        more than the renewal: a controller has a lease for each kind of key.
        """
        batch = self._renewals
        if batch is None or batch.task is None:
            batch = self._renewals = _Renewals()
            batch.task = asyncio.create_task(self._renew_all(batch, within_s))
            batch.task.add_done_callback(_heard)
        batch.leases |= dict.fromkeys(leases)
        answers = await asyncio.shield(batch.task)
        return {lease: answers[lease] for lease in leases if lease in answers}

    async def _renew_all(self, batch: _Renewals, within_s: float) -> Mapping[int, int]:
        await asyncio.sleep(0)
        self._renewals = None
        answers: dict[int, int] = {}
        try:
            async with asyncio.timeout(within_s), aclosing(self._keep_alive()) as stream:
                for lease in batch.leases:
                    await stream.write(pb.LeaseKeepAliveRequest(ID=lease))
                for _ in batch.leases:
                    answer = await stream.read()
                    answers[answer.ID] = answer.TTL
        except TimeoutError as error:
            raise self.failed(error) from error
        return answers

    def _keep_alive(self) -> _Stream[pb.LeaseKeepAliveResponse]:
        return _Stream(self, "Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)

    async def remaining(self, lease: int) -> int:
        """Seconds until a lease ends if nobody renews it; not positive for one that is gone."""
        request = pb.LeaseTimeToLiveRequest(ID=lease)
        return (await self._call("Lease/LeaseTimeToLive", request, pb.LeaseTimeToLiveResponse)).TTL

    async def status(self) -> pb.StatusResponse:
        """Version, leader and size of the member that answers."""
        return await self._call("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)

    async def alarms(self) -> Sequence[str]:
        """The alarms that keep all users from writing, in etcd's words; mostly none.

        A user that may not ask is told of none.
        """
        with suppress(Denied):
            return tuple((await self.status()).errors)
        return ()

    async def compact(self, revision: int) -> None:
        """Forget the history before ``revision``."""
        request = pb.CompactionRequest(revision=revision, physical=True)
        await self._call("KV/Compact", request, pb.CompactionResponse, LIST)

    async def auth(self, method: str, request: Message, reply: type[M]) -> M:
        """One call of the Auth service, e.g. ``RoleAdd``."""
        return await self._call(f"Auth/{method}", request, reply)

    async def watch(
        self, prefix: str, start: int = 0, *, exact: bool = False
    ) -> AsyncGenerator[Watched, None]:
        """Follow a prefix (or one key) from revision ``start`` for ever, over reconnects.

        Each new connection yields ``created`` first, before any event. Close it with ``aclosing``.
        Raises Compacted, Denied, BadRequest, and Replaced when the store's revision went backwards.
        """
        key = key_bytes(prefix)
        end = b"" if exact else prefix_end(key)
        following, pause = start, Pause(WATCH_PAUSE_S)
        while True:
            create = pb.WatchCreateRequest(
                key=key, range_end=end, start_revision=following, progress_notify=True
            )
            try:
                async with aclosing(self._watch_once(create)) as replies:
                    async for seen in replies:
                        pause.reset()
                        yield seen
                        following = _next(following, seen)
            except Unavailable:
                if self._closed:
                    raise
                await asyncio.sleep(pause.next())

    async def _watch_once(self, create: pb.WatchCreateRequest) -> AsyncGenerator[Watched, None]:
        async with aclosing(_Stream(self, "Watch/Watch", pb.WatchResponse)) as stream:
            await stream.write(pb.WatchRequest(create_request=create))
            while True:
                reply = await stream.read()
                if reply.compact_revision:
                    oldest = f"revision {reply.compact_revision} is the oldest there is"
                    raise Compacted(f"watch of {shown(key_text(create.key))}: {oldest}")
                if reply.canceled:  # a refused watch is created and canceled in one message
                    raise canceled(create.key, reply.cancel_reason)
                if reply.created and reply.header.revision + 1 < create.start_revision:
                    raise Replaced(
                        f"etcd at {self.endpoint.text} is at revision {reply.header.revision}, "
                        f"before it was at {create.start_revision - 1}: another store"
                    )
                yield Watched(reply.header.revision, reply.events, reply.created)
                if not stream.is_current:
                    return  # it goes over to a connection with the new certificate, loses nothing

    async def _call(
        self,
        method: str,
        request: Message,
        reply: type[M],
        limits: Limits = WRITE,
        *,
        repeat: bool = True,
    ) -> M:
        end, pause = time.monotonic() + limits.total, Pause()
        while True:
            left = max(end - time.monotonic(), SHORTEST_S)
            try:
                return await self._attempt(method, request, reply, min(limits.attempt, left))
            except Unavailable as failure:
                if failure.sent and not repeat:
                    raise OutcomeUnknown(str(failure), sent=True) from failure
                wait = pause.next()
                if self._closed or time.monotonic() + wait >= end:
                    raise
            await asyncio.sleep(wait)

    async def _attempt(self, method: str, request: Message, reply: type[M], timeout_s: float) -> M:
        try:
            rpc = self.connected().unary_unary(f"/etcdserverpb.{method}", _wire, reply.FromString)
            answer: M = await rpc(request, timeout=timeout_s)
        except (*GRPC_ERRORS, asyncio.CancelledError) as error:
            raise self.failed(error, request) from error
        self.problem = ""
        return answer

    def connected(self) -> grpc.aio.Channel:
        """The channel; a new one after certificate files were replaced. Raises OSError."""
        if self._closed:
            raise Unavailable("the client is closed", sent=False)
        self.look()
        if self._channel is None:
            self._stamp = channel.stamp(self.endpoint)
            self._secrets = channel.read_secrets(self.endpoint)
            self._channel = channel.open_channel(self.endpoint, self._secrets)
        return self._channel

    def is_current(self, opened: grpc.aio.Channel) -> bool:
        """Whether the channel was made of the files that there are."""
        self.look()
        return opened is self._channel

    def look(self) -> None:
        """Retire the channel when its files were replaced; while it works, by better ones only."""
        now = time.monotonic()
        if self._channel is None or (not self.problem and now - self._looked < LOOK_S):
            return
        self._looked = now
        if self._stamp == channel.stamp(self.endpoint):
            return
        if self.problem or channel.is_usable(self.endpoint):
            self._retire(self._channel)

    def _retire(self, old: grpc.aio.Channel) -> None:
        """Its open streams go on; those of the one before it have gone over long ago.

        One that does not work is closed: it would go on knocking with a certificate that has ended.
        """
        ended, kept = [*self._retired, old], list[grpc.aio.Channel]()
        if not self.problem:
            kept.append(ended.pop())
        self._retired, self._channel = kept, None
        for one in ended:
            closing = asyncio.ensure_future(one.close(None))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def failed(self, error: BaseException, request: Message | None = None) -> BaseException:
        """What to raise for an error of grpcio or of a certificate file; notes ``problem``."""
        if isinstance(error, EtcdError) or _cancelled_by_caller(error):
            return error
        if self._closed:
            return Unavailable("the client is closed", sent=True)
        code, details = grpc.StatusCode.UNAVAILABLE, str(error)
        if isinstance(error, grpc.aio.AioRpcError):
            code, details = error.code(), error.details() or ""
        failure = classify(code, details, request)
        if isinstance(failure, Unavailable):
            self.problem = channel.problem(self.endpoint, self._secrets, details)
            return Unavailable(self.problem, sent=failure.sent)
        return failure


class _Stream(Generic[M]):
    """One bidirectional stream whose errors are ours."""

    def __init__(self, client: Client, method: str, reply: type[M]) -> None:
        self._client = client
        try:
            self._channel = client.connected()
            self._call = self._channel.stream_stream(
                f"/etcdserverpb.{method}", _wire, reply.FromString
            )(metadata=HAS_LEADER)
        except GRPC_ERRORS as error:
            raise client.failed(error) from error

    @property
    def is_current(self) -> bool:
        """Whether it goes over a connection with the certificate that there is now."""
        return self._client.is_current(self._channel)

    async def write(self, message: Message) -> None:
        # grpc.aio leaves a write waiting for ever when the call ends before its metadata is sent.
        writing = asyncio.ensure_future(self._call.write(message))

        def stop_waiting(_: object) -> None:
            writing.cancel()

        self._call.add_done_callback(stop_waiting)
        try:
            await writing
        except asyncio.InvalidStateError as error:
            raise self._client.failed(OSError(await self._call.details())) from error
        except (*GRPC_ERRORS, asyncio.CancelledError) as error:
            raise self._client.failed(error) from error

    async def read(self) -> M:
        try:
            reply = await self._call.read()
        except (*GRPC_ERRORS, asyncio.CancelledError) as error:
            raise self._client.failed(error) from error
        if reply is grpc.aio.EOF:
            raise self._client.failed(OSError("the server has ended the stream"))
        self._client.problem = ""
        return cast("M", reply)

    async def aclose(self) -> None:
        self._call.cancel()


async def _list(pages: AsyncGenerator[KeyList, None]) -> KeyList:
    """All pages as one, at the revision of the first."""
    kvs: list[pb.KeyValue] = []
    revision = 0
    async with aclosing(pages):
        async for page in pages:
            kvs += page.kvs
            revision = revision or page.revision
    return KeyList(revision, kvs)


def _heard(task: asyncio.Task[Mapping[int, int]]) -> None:
    """Its error is for those that wait; when they all were cancelled it is nobody's."""
    if not task.cancelled():
        task.exception()


def _wire(message: Message) -> bytes:
    return message.SerializeToString()


def _cancelled_by_caller(error: BaseException) -> bool:
    """Tell the caller's cancellation from a call that its closing channel has cancelled."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _next(following: int, seen: Watched) -> int:
    """Revision to resume from: never what a header says while events may be outstanding."""
    if seen.created:
        return following or seen.revision + 1
    if seen.events:
        return seen.events[-1].kv.mod_revision + 1
    return max(following, seen.revision + 1)
