"""The allocator of claims: numbers that belong to an owner for good.

Two persistent keys per claim (``records.py``) are made by one create-only Txn of the leader, so
there is no number twice and no owner with two numbers, whoever races. A released number rests;
its next owner has a greater epoch. Everything claimed is also kept in memory and in a file: a store
that was replaced by an empty one gets the same numbers back, even from a restarted controller.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client, EtcdError
from clustermesh.etcd.requests import delete_op, found, get_op, if_created, if_modified, put_op
from clustermesh.store import claims as records
from clustermesh.store.claims import Record, number_key, owner_key
from clustermesh.store.follow import Batch, Entry, entry_of
from clustermesh.store.leader import Deposed, Fenced, fenced_txn
from mesh.core.model import Claim, ClaimKey

#: Seconds that a released number rests before it may be claimed again.
REST_S = 120
#: Seconds between writes of the snapshot of a standby.
SNAPSHOT_S = 5.0
#: Claims per Txn: two comparisons each and the fence's two stay below etcd's 128.
PAIRS = 60
#: Txns in flight.
IN_FLIGHT = 4
#: Numbers tried for one owner when others turn out to be taken.
ATTEMPTS = 16


class PoolFull(Exception):
    """Every number of the pool is held or rests."""


class Inconsistent(EtcdError):
    """The two keys of a claim contradict each other."""


@dataclass(slots=True)
class _Pool:
    numbers: dict[int, Record] = field(default_factory=dict)
    owners: dict[str, Record] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    inconsistent: dict[str, Inconsistent] = field(default_factory=dict)

    def learn(self, record: Record) -> None:
        self.forget(record.key.number)
        self.numbers[record.key.number] = record
        if not record.released:
            self.owners[record.owner] = record

    def forget(self, number: int) -> None:
        old = self.numbers.pop(number, None)
        if old and self.owners.get(old.owner) is old:
            del self.owners[old.owner]

    def former(self, owners: Collection[str], candidates: Sequence[int]) -> Mapping[str, int]:
        """Numbers that rest, by their last owner: nobody else has had them, so he need not wait."""
        return {
            record.owner: number
            for number, record in self.numbers.items()
            if record.released and record.owner in owners and number in candidates
        }

    def free(self, candidates: Iterable[int], now: float) -> Iterator[int]:
        """Candidates that nobody holds and that have rested."""
        for number in candidates:
            record = self.numbers.get(number)
            if number in self.unreadable:
                continue
            if record is None or (record.released and now - record.released >= REST_S):
                yield number


@dataclass(frozen=True, slots=True)
class Claimed:
    """Claims by owner, and why the other owners have none."""

    claims: Mapping[str, Claim]
    refused: Mapping[str, PoolFull | Inconsistent]


def identity_numbers(cluster_id: int) -> range:
    """The identities a cluster may give: 24 bits with the cluster id on top."""
    return range((cluster_id << 16) + 1, (cluster_id + 1) << 16)


def scattered(numbers: range) -> Sequence[int]:
    """The same numbers in random order."""
    return random.sample(numbers, len(numbers))


class Allocator:
    """Claims of one cluster. Keep one for the life of a controller.

    ``recover`` loads it at the start of each leadership; ``observe`` keeps it current on a standby.
    ``fenced`` is a Fence or the Leader. All writes are one at a time (a lock) and fenced.
    """

    def __init__(
        self, client: Client, cluster: str, fenced: Fenced, snapshot: Path | None = None
    ) -> None:
        self.synced_key = f"meshgate/v1/{cluster}/synced"
        self.clock: Callable[[], float] = time.time
        self._client = client
        self._cluster = cluster
        self._fenced = fenced
        self._snapshot = snapshot
        self._pools: defaultdict[tuple[str, str], _Pool] = defaultdict(_Pool)
        self._revision = 0  # of the store, as far as we have seen
        self._epoch = 0  # greatest ever given
        #: Keys whose values cannot be read, with the reason; their numbers are not given away.
        self.unreadable: dict[str, str] = {}
        #: Why the snapshot cannot be written, in words.
        self.problem = ""
        self._unrestored: dict[ClaimKey, Record] = {}
        self._observed = False  # something that the snapshot does not have
        self._lock = asyncio.Lock()
        self._flights = asyncio.Semaphore(IN_FLIGHT)
        for record in records.load(snapshot) if snapshot else ():
            self._learn(replace(record, modified=0))

    @property
    def claims(self) -> Mapping[ClaimKey, Claim]:
        """Everything that is held."""
        return {record.key: record.claim for record in self.records if not record.released}

    @property
    def records(self) -> Sequence[Record]:
        """Everything that is held or rests."""
        return [r for pool in self._pools.values() for r in pool.numbers.values()]

    async def recover(self, known: Iterable[Record] = ()) -> Sequence[str]:
        """Load the store, or give a new one what we know; then put ``synced``.

        A store without ``synced`` never had, or has lost, its claims: those in memory, in the
        snapshot and ``known`` are created in it with the same numbers. Returns what could not be,
        because others hold it: at most one sentence per record.
        """
        async with self._lock:
            self._unrestored |= {record.key: record for record in (*known, *self.records)}
            lost: Sequence[str] = ()
            if not await self._load():
                lost = await self._restore(self._unrestored.values())
                await self._put_synced()
            self._unrestored.clear()
            await self.save()
            return lost

    async def claim(self, noun: str, pool: str, owner: str, candidates: Sequence[int]) -> Claim:
        """The owner's number, a new one if it has none. Raises PoolFull, Deposed."""
        claimed = await self.claim_all(noun, pool, [owner], candidates)
        for error in claimed.refused.values():
            raise error
        return claimed.claims[owner]

    async def claim_all(
        self, noun: str, pool: str, owners: Iterable[str], candidates: Sequence[int]
    ) -> Claimed:
        """Numbers for many owners at once, taken from ``candidates`` in their order."""
        async with self._lock:
            wanted = tuple(dict.fromkeys(owners))
            place = self._pools[noun, pool]
            new = [owner for owner in wanted if owner not in place.owners]
            if new:
                await self._claim_new(noun, pool, new, candidates)
                await self.save()
            claims = {o: place.owners[o].claim for o in wanted if o in place.owners}
            full = PoolFull(f"{noun} pool {pool} of {self._cluster}: no number is free")
            rest = (owner for owner in wanted if owner not in claims)
            return Claimed(claims, {owner: place.inconsistent.get(owner, full) for owner in rest})

    async def release(self, noun: str, pool: str, owner: str) -> None:
        """Give the owner's number back; it rests. An owner without one is no error."""
        async with self._lock:
            record = self._pools[noun, pool].owners.get(owner)
            if record is None:
                return
            resting = replace(record, released=int(self.clock()))
            value = records.encode_number(
                owner,
                released=resting.released,
                epoch=record.epoch if record.epoch > self._revision else 0,
            )
            number = number_key(self._cluster, record.key)
            reply, there = await fenced_txn(
                self._client,
                self._fenced,
                [if_modified(number, record.modified)],
                [put_op(number, value), delete_op(owner_key(self._cluster, noun, pool, owner))],
                [get_op(number)],
            )
            if reply.succeeded:
                self._learn(replace(resting, modified=reply.header.revision))
            else:
                self._learn_kv(found(there[0]), record.key)
            await self.save()

    def observe(self, batch: Batch) -> None:
        """Learn what the leader has claimed, while we stand by."""
        if self._leads():
            return
        self._revision = batch.revision
        for text in batch.deletes:
            key = records.claim_key(self._cluster, text)
            if key:
                self._pools[key.noun, key.pool].forget(key.number)
        for entry in batch.puts:
            self._learn_entry(entry)
        self._observed = True

    async def keep(self) -> None:
        """Write down what was observed, for ever: the next start may be a leader's."""
        while True:
            await asyncio.sleep(SNAPSHOT_S)
            if self._observed:
                async with self._lock:
                    await self.save()

    async def save(self) -> None:
        """Write the snapshot file; a full disk stops no claim."""
        self._observed = False
        if not self._snapshot:
            return
        try:
            await asyncio.to_thread(records.save, self._snapshot, self.records)
            self.problem = ""
        except OSError as error:
            self._observed = True
            self.problem = str(error)

    async def _load(self) -> bool:
        """Make memory what the store says. Return whether the store has been ``synced``."""
        listing = await self._client.list(f"meshgate/v1/{self._cluster}/")
        self._pools.clear()
        self.unreadable.clear()
        self._revision = listing.revision
        for kv in listing.kvs:
            self._learn_kv(kv, None)
        return any(kv.key == self.synced_key.encode() for kv in listing.kvs)

    async def _put_synced(self) -> None:
        value = msgspec.json.encode({"store": str(uuid.uuid4())})
        absent = if_created(self.synced_key, 0)
        await fenced_txn(self._client, self._fenced, [absent], [put_op(self.synced_key, value)])

    async def _claim_new(
        self, noun: str, pool: str, owners: Sequence[str], candidates: Sequence[int]
    ) -> None:
        place, now = self._pools[noun, pool], self.clock()
        place.inconsistent.clear()
        picks = dict(place.former(owners, candidates))
        others = [owner for owner in owners if owner not in picks]
        fresh = (n for n in place.free(candidates, now) if n not in picks.values())
        picks |= zip(others, fresh, strict=False)
        pairs = [(ClaimKey(noun, pool, number), owner) for owner, number in picks.items()]
        await _together(self._try(pairs[at : at + PAIRS]) for at in range(0, len(pairs), PAIRS))
        for owner in owners:
            for number in islice(place.free(candidates, now), ATTEMPTS):
                if owner in place.owners or owner in place.inconsistent:
                    break
                await self._try([(ClaimKey(noun, pool, number), owner)])

    async def _try(self, pairs: Sequence[tuple[ClaimKey, str]]) -> None:
        """Claim all pairs in one Txn, or none and learn what is there instead."""
        async with self._flights:
            epoch = self._next_epoch()
            txn = _Txn(self._cluster)
            for key, owner in pairs:
                known = self._pools[key.noun, key.pool].numbers.get(key.number)
                txn.take(Record(key, owner, epoch), known.modified if known else 0)
            reply, there = await txn.commit(self._client, self._fenced)
            revision = reply.header.revision
            self._revision = max(self._revision, revision)
            if reply.succeeded:
                for key, owner in pairs:
                    self._learn(Record(key, owner, epoch or revision, 0, revision))
                return
            for (key, owner), number, own in zip(pairs, there[::2], there[1::2], strict=True):
                self._learn_kv(found(number), key)
                await self._learn_owner(found(own), key, owner)

    async def _restore(self, wanted: Iterable[Record]) -> Sequence[str]:
        missing = [record for record in wanted if not self._has(record)]
        chunks = (missing[at : at + PAIRS] for at in range(0, len(missing), PAIRS))
        await _together(self._recreate(chunk) for chunk in chunks)
        for record in missing:  # a chunk with one conflict was not written at all
            if not self._has(record):
                await self._recreate([record])
        return [
            f"{number_key(self._cluster, record.key)} could not be restored for {record.owner}"
            for record in missing
            if not self._has(record)
        ]

    async def _recreate(self, chunk: Sequence[Record]) -> None:
        async with self._flights:
            txn = _Txn(self._cluster)
            for record in chunk:
                txn.take(record, 0)
            reply, there = await txn.commit(self._client, self._fenced)
            self._revision = max(self._revision, reply.header.revision)
            for at, record in enumerate(chunk):
                if reply.succeeded:
                    self._learn(replace(record, modified=reply.header.revision))
                else:
                    self._learn_kv(found(there[2 * at]), record.key)

    def _has(self, record: Record) -> bool:
        there = self._pools[record.key.noun, record.key.pool].numbers.get(record.key.number)
        return there is not None and (there.owner, bool(there.released)) == (
            record.owner,
            bool(record.released),
        )

    def _next_epoch(self) -> int:
        """0 when the next revision is greater than every epoch; else the next epoch."""
        if self._epoch <= self._revision:
            return 0
        self._epoch += 1
        return self._epoch

    def _learn(self, record: Record) -> None:
        self._epoch = max(self._epoch, record.epoch)
        self._pools[record.key.noun, record.key.pool].learn(record)

    def _learn_kv(self, kv: pb.KeyValue | None, key: ClaimKey | None) -> None:
        """Learn a number's key as the store has it; None: ``key`` is not there."""
        if kv is None:
            if key:
                self._pools[key.noun, key.pool].forget(key.number)
            return
        self._learn_entry(entry_of(kv))

    def _learn_entry(self, entry: Entry) -> None:
        try:
            record = records.record_of(self._cluster, entry)
        except ValueError as error:
            self.unreadable[entry.key] = str(error)
            key = records.claim_key(self._cluster, entry.key)
            if key:
                self._pools[key.noun, key.pool].unreadable.add(key.number)
            return
        if record:
            self._learn(record)

    async def _learn_owner(self, kv: pb.KeyValue | None, key: ClaimKey, owner: str) -> None:
        """An owner that has a number already keeps it."""
        place = self._pools[key.noun, key.pool]
        if kv is None or owner in place.owners:
            return
        text = kv.key.decode()
        try:
            theirs = replace(key, number=records.decode_owner(kv.value))
        except ValueError as error:
            place.inconsistent[owner] = Inconsistent(f"{text}: {error}")
            return
        number = number_key(self._cluster, theirs)
        self._learn_kv(await self._client.get(number), theirs)
        if owner not in place.owners:
            place.inconsistent[owner] = Inconsistent(f"{text} says {theirs.number}, {number} not")

    def _leads(self) -> bool:
        try:
            self._fenced.current()
        except Deposed:
            return False
        return True


class _Txn:
    """One Txn over several claims; its failure branch reads both keys of each."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._compare: list[pb.Compare] = []
        self._success: list[pb.RequestOp] = []
        self._failure: list[pb.RequestOp] = []

    def take(self, record: Record, modified: int) -> None:
        """Write the record over the number's key as of ``modified``; its owner must have none."""
        number = number_key(self._cluster, record.key)
        owner = owner_key(self._cluster, record.key.noun, record.key.pool, record.owner)
        value = records.encode_number(record.owner, released=record.released, epoch=record.epoch)
        self._compare.append(if_modified(number, modified))
        self._success.append(put_op(number, value))
        self._failure += [get_op(number), get_op(owner)]
        if not record.released:
            self._compare.append(if_created(owner, 0))
            self._success.append(put_op(owner, records.encode_owner(record.key.number)))

    async def commit(
        self, client: Client, fenced: Fenced
    ) -> tuple[pb.TxnResponse, Sequence[pb.ResponseOp]]:
        return await fenced_txn(client, fenced, self._compare, self._success, self._failure)


async def _together(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first error cancels the rest and is raised as it is.

    No TaskGroup: before Python 3.11.3 its own cancellation stays counted in ``cancelling()``, so
    it cannot be told from the caller's.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
