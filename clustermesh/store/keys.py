"""etcd keys as a target of the reconcile loop.

``LeasedTarget`` holds what a controller publishes: fenced, on leases of its own with at most 1000
keys each (puts slow down 17-fold otherwise). A key hangs on the lease it was *put* with, so one
with the right value on another lease (a dead predecessor's) reads as different and is put again.
``PersistentTarget`` holds what an agent says about its pods: no lease, no fence.

A write that was given up on may still reach etcd, after a newer one of the same key. So every Txn
compares the revisions at which its keys were last seen, and an old one finds others and does
nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import (
    BadRequest,
    Client,
    Denied,
    EtcdError,
    LeaseNotFound,
)
from clustermesh.etcd.names import key_text
from clustermesh.etcd.requests import cut, delete_op, get_op, if_modified, put_op, read_kv
from clustermesh.store.leader import Fenced, fenced_txn
from mesh.core.ticks import tick

#: Operations of one Txn of ours; etcd takes 128.
TXN_OPS = 100
#: Times that a Txn is tried with the revisions that the last one has met.
ATTEMPTS = 5
#: Txns in flight.
IN_FLIGHT = 8
KEYS_PER_LEASE = 1000
#: Seconds between renewals at most: a killed owner's keys live nearly a whole TTL.
RENEW_S = 2.0
#: Seconds to wait for the answers to one renewal.
ANSWER_S = 5.0
#: What a key reads as that does not hang on the lease it should; nobody desires this value.
ELSEWHERE = b"\0on another lease"


def is_canary(key: str) -> bool:
    """The key tells readers that everything before it is there, so it is put last."""
    return key.startswith("cilium/synced/") or key.endswith("/synced")


class KeysTarget:
    """Keys under ``owned``: prefixes, which end in a slash, and exact keys."""

    name = "etcd"

    def __init__(self, client: Client, owned: Sequence[str], fenced: Fenced | None) -> None:
        self._client = client
        self._owned = tuple(owned)
        self._fenced = fenced
        self._modified: dict[str, int] = {}  # key -> revision at which it was last seen

    async def read(self) -> Mapping[str, bytes]:
        rows: dict[str, bytes] = {}
        modified: dict[str, int] = {}
        leases: list[tuple[str, int]] = []
        for owned in self._owned:
            for kv in await self._under(owned):
                key = key_text(kv.key)
                leases.append((key, kv.lease))
                modified[key] = kv.mod_revision
                rows[key] = kv.value if self._is_ours(kv.lease) else ELSEWHERE
        self._modified = modified
        await self._note_read(leases)
        return rows

    def tells(self, key: str) -> bool:
        """Whether the key is a canary, which goes after all others."""
        return is_canary(key)

    async def upsert(self, rows: Mapping[str, bytes]) -> Mapping[str, Exception]:
        plain = {key: value for key, value in rows.items() if not is_canary(key)}
        canaries = {key: value for key, value in rows.items() if is_canary(key)}
        errors = await self._put(plain)
        if errors and canaries:
            waits = EtcdError(f"waits for {len(errors)} keys that could not be written")
            return {**errors, **dict.fromkeys(canaries, waits)}
        return {**errors, **await self._put(canaries)}

    async def delete(self, keys: Collection[str]) -> Mapping[str, Exception]:
        return await self._write({key: delete_op(key) for key in keys})

    def _is_ours(self, lease: int) -> bool:
        return lease == 0

    async def _note_read(self, leases: Sequence[tuple[str, int]]) -> None:
        """Remember which lease each key hangs on."""

    async def _leases_for(self, keys: Collection[str]) -> Mapping[str, int]:
        return dict.fromkeys(keys, 0)

    def _note_written(self, ops: Mapping[str, pb.RequestOp]) -> None:
        """Remember what was put or deleted."""

    async def _under(self, owned: str) -> Sequence[pb.KeyValue]:
        if owned.endswith("/"):
            return (await self._client.list(owned)).kvs
        kv = await self._client.get(owned)
        return [] if kv is None else [kv]

    async def _put(self, rows: Mapping[str, bytes]) -> Mapping[str, Exception]:
        leases = await self._leases_for(rows)
        return await self._write({k: put_op(k, v, leases[k]) for k, v in rows.items()})

    async def _write(self, ops: Mapping[str, pb.RequestOp]) -> Mapping[str, Exception]:
        """Do all operations, several Txns at a time. Return the keys that etcd refuses.

        Raises EtcdError when etcd is out of reach or we are deposed; the rest is then not tried.
        """
        errors: dict[str, Exception] = {}
        fatal: list[EtcdError] = []
        chunks = _chunks(ops)

        async def work() -> None:
            for chunk in chunks:
                if fatal:
                    return
                try:
                    errors.update(await self._write_chunk(chunk))
                except EtcdError as error:
                    fatal.append(error)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        if fatal:
            raise fatal[0]
        return errors

    async def _write_chunk(self, ops: Mapping[str, pb.RequestOp]) -> Mapping[str, Exception]:
        """One Txn; if it is refused, smaller ones, so that one bad key does not stop the rest."""
        try:
            await self._txn(ops)
        except (BadRequest, Denied) as error:
            parts = self._parts(ops, error)
            errors: dict[str, Exception] = dict.fromkeys(ops, error)
            for part in parts if len(parts) > 1 else ():
                again = await self._write_chunk(part)
                errors = {k: e for k, e in errors.items() if k not in part} | dict(again)
            return errors
        self._note_written(ops)
        return {}

    def _parts(
        self, ops: Mapping[str, pb.RequestOp], error: EtcdError
    ) -> Sequence[Mapping[str, pb.RequestOp]]:
        if isinstance(error, Denied):  # rights are given by prefix: no need to try each key
            return [part for owned in self._owned if (part := _under(ops, owned))]
        return [{key: op} for key, op in ops.items()]

    async def _txn(self, ops: Mapping[str, pb.RequestOp]) -> None:
        """All operations, while their keys are as we know them. Raises BadRequest, EtcdError."""
        for _ in range(ATTEMPTS):
            compare = [if_modified(key, self._modified.get(key, 0)) for key in ops]
            reply, reads = await self._send(compare, tuple(ops.values()), [*map(get_op, ops)])
            if reply.succeeded:
                at = reply.header.revision
                self._see({key: at * op.HasField("request_put") for key, op in ops.items()})
                return
            kvs = zip(ops, map(read_kv, reads), strict=True)
            self._see({key: kv.mod_revision if kv else 0 for key, kv in kvs})
        raise BadRequest("another process writes these keys again and again")

    async def _send(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp],
    ) -> tuple[pb.TxnResponse, Sequence[pb.ResponseOp]]:
        """The response, and the results of ``failure``."""
        if self._fenced is not None:
            return await fenced_txn(self._client, self._fenced, compare, success, failure)
        reply = await self._client.txn(compare, success, failure, repeat=True)
        return reply, () if reply.succeeded else reply.responses

    def _see(self, modified: Mapping[str, int]) -> None:
        """Remember revisions; 0: the key does not exist."""
        self._modified |= modified
        for key in [key for key, revision in modified.items() if not revision]:
            del self._modified[key]


class PersistentTarget(KeysTarget):
    """Keys without lease and fence, for an owner that is alone on its keys."""

    def __init__(self, client: Client, owned: Sequence[str]) -> None:
        super().__init__(client, owned, None)


class LeasedTarget(KeysTarget):
    """Keys on leases of this process, written only while ``fenced`` leads.

    ``run`` keeps the leases alive, and a predecessor's while keys hang on them. ``on_lost`` is
    called when etcd says that one of ours is gone, with its keys: the next full round puts them
    again (``Applied.recheck``). An etcd that is away loses no lease: it gives each its whole TTL
    when it comes back.
    """

    def __init__(self, client: Client, owned: Sequence[str], ttl_s: int, fenced: Fenced) -> None:
        super().__init__(client, owned, fenced)
        self.on_lost: Callable[[], None] | None = None
        self._ttl_s = ttl_s
        self._leases: dict[int, None] = {}
        self._where: dict[str, int] = {}  # key -> lease of ours
        self._load: Counter[int] = Counter()  # lease -> keys
        self._theirs: dict[str, int] = {}  # key -> lease of a predecessor

    @property
    def leases(self) -> Sequence[int]:
        """Our leases, oldest first."""
        return tuple(self._leases)

    async def run(self) -> None:
        """Keep the leases alive until cancelled; they then live for one TTL."""
        wait = min(self._ttl_s / 3, RENEW_S)
        while True:
            await tick(wait)
            with suppress(EtcdError):
                if await self._renew() and self.on_lost:
                    self.on_lost()

    async def _renew(self) -> Sequence[int]:
        leases = self.leases
        others = set(self._theirs.values())
        if not leases and not others:
            return leases
        remaining = await self._client.renew([*leases, *others], ANSWER_S)
        lost = [lease for lease in leases if remaining.get(lease, 0) <= 0]
        self._forget(lost)
        return lost

    def _is_ours(self, lease: int) -> bool:
        return lease in self._leases

    async def _note_read(self, leases: Sequence[tuple[str, int]]) -> None:
        self._keep_where(leases)
        ours = {0, *self._leases}
        self._theirs = {key: lease for key, lease in leases if lease not in ours}
        others = set(self._theirs.values())
        if others:  # these keys must not expire before they are on our leases or deleted
            await self._client.renew(tuple(others), ANSWER_S)

    def _keep_where(self, leases: Iterable[tuple[str, int]]) -> None:
        self._where = {key: lease for key, lease in leases if lease in self._leases}
        self._load = Counter(self._where.values())

    async def _leases_for(self, keys: Collection[str]) -> Mapping[str, int]:
        leases = {key: self._where[key] for key in keys if key in self._where}
        new = [key for key in keys if key not in leases]
        free = (lease for lease in self._leases for _ in range(KEYS_PER_LEASE - self._load[lease]))
        room = list(islice(free, len(new)))
        while len(room) < len(new):
            room += [await self._grant()] * KEYS_PER_LEASE
        return {**leases, **dict(zip(new, room, strict=False))}

    async def _grant(self) -> int:
        lease = (await self._client.grant(self._ttl_s)).ID
        self._leases[lease] = None
        return lease

    def _note_written(self, ops: Mapping[str, pb.RequestOp]) -> None:
        for key, op in ops.items():
            self._theirs.pop(key, None)
            self._load[self._where.pop(key, 0)] -= 1
            if op.HasField("request_put"):
                self._where[key] = op.request_put.lease
                self._load[op.request_put.lease] += 1

    async def _txn(self, ops: Mapping[str, pb.RequestOp]) -> None:
        try:
            await super()._txn(ops)
        except LeaseNotFound:
            self._forget({op.request_put.lease for op in ops.values()})
            raise

    def _forget(self, leases: Collection[int]) -> None:
        for lease in leases:
            self._leases.pop(lease, None)
        self._keep_where(self._where.items())


def _under(ops: Mapping[str, pb.RequestOp], owned: str) -> Mapping[str, pb.RequestOp]:
    prefix = owned.endswith("/")
    return {k: op for k, op in ops.items() if k == owned or (prefix and k.startswith(owned))}


def _chunks(ops: Mapping[str, pb.RequestOp]) -> Iterator[Mapping[str, pb.RequestOp]]:
    """A key stands in an operation, in a comparison and in the read of a Txn that fails."""
    rows = cut(ops.items(), TXN_OPS, lambda row: 3 * len(row[0]) + len(row[1].request_put.value))
    return map(dict, rows)
