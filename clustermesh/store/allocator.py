"""The allocator of claims: numbers that belong to an owner for good.

Two persistent keys per claim (``claims.py``) are made by one create-only Txn of the leader, so
there is no number twice and no owner with two numbers, however many race. A released number rests;
its next owner has a greater epoch. Everything claimed is also kept in memory and in a file: a store
that was replaced by an empty one gets the same numbers back, even from a restarted controller.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import (
    LISTS,
    BadRequest,
    Client,
    Compacted,
    Denied,
    EtcdError,
    KeyList,
)
from clustermesh.etcd.names import is_readable, key_text
from clustermesh.etcd.requests import (
    cut,
    delete_op,
    get_op,
    if_created,
    if_modified,
    put_op,
    read_kv,
)
from clustermesh.store import claims as records
from clustermesh.store.claims import Record, claim_key, number_key, owner_key
from clustermesh.store.follow import Batch, Entry, entry_of
from clustermesh.store.leader import Deposed, Fenced, fenced_txn
from mesh.core.journal import Journal
from mesh.core.model import Claim, ClaimKey

#: Seconds that a released number rests before it may be claimed again, if its noun says no other.
REST_S = 120
#: Seconds between writes of the snapshot of a standby.
SNAPSHOT_S = 5.0
#: Claims per Txn: two comparisons each and the fence's two stay below etcd's 128.
PAIRS = 60
#: Txns in flight.
IN_FLIGHT = 4
#: Numbers tried for one owner when others turn out to be taken.
ATTEMPTS = 16


#: Whether whoever had a released number has let go of it.
LetGo = Callable[[ClaimKey, Claim], bool]


class PoolFull(Exception):
    """Every number of the pool is held or rests."""


class Inconsistent(EtcdError):
    """The two keys of a claim contradict each other."""


#: Answers that are about the keys of a Txn: other claims go on.
_OF_THE_KEYS = (BadRequest, Denied)


def _always(*_: object) -> bool:
    return True


@dataclass(slots=True)
class _Pool:
    """The claims of one pool.

    A pool is given away in the order of its candidates, so nearly all numbers at the front are
    held. ``_walked`` counts the candidates at the front that no search has to look at again, except
    those in ``_idle``: a claim then costs the same however full the pool is.
    """

    numbers: dict[int, Record] = field(default_factory=dict)
    owners: dict[str, Record] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    refused: dict[str, EtcdError] = field(default_factory=dict)  # owners, until they ask again
    _idle: dict[int, None] = field(default_factory=dict)  # resting, or forgotten
    _candidates: Sequence[int] = ()
    _walked: int = 0

    def learn(self, record: Record) -> None:
        number = record.key.number
        self.forget(number)
        self.numbers[number] = record
        if not record.released:
            self.owners[record.owner] = record
            del self._idle[number]
            self._walk()  # step by step, so that no claim pays for the walk over a whole batch

    def forget(self, number: int) -> None:
        old = self.numbers.pop(number, None)
        if old and self.owners.get(old.owner) is old:
            del self.owners[old.owner]
        self._idle.pop(number, None)  # re-insertion keeps the order in which numbers were learned
        self._idle[number] = None

    def former(self, owners: Collection[str], candidates: Sequence[int]) -> Mapping[str, int]:
        """Resting numbers by last owner: no other has had them, so that owner need not wait."""
        resting = (self.numbers[number] for number in self._idle if number in self.numbers)
        return {
            record.owner: record.key.number
            for record in resting
            if record.owner in owners and record.key.number in candidates
        }

    def free(
        self,
        candidates: Sequence[int],
        now: float,
        rest_s: float = REST_S,
        let_go: LetGo = _always,
    ) -> Iterator[int]:
        """Candidates that are free and have rested, in their order."""
        if not _same(candidates, self._candidates):
            self._candidates, self._walked = candidates, 0
        self._walk()
        numbers = chain(self._left_behind(), _from(candidates, self._walked))
        yield from (number for number in numbers if self._is_free(number, now - rest_s, let_go))

    def _walk(self) -> None:
        """Go on to the first candidate that is neither held nor rests nor is unreadable."""
        at, end = self._walked, len(self._candidates)
        while at < end:
            number = self._candidates[at]
            if number not in self.numbers and number not in self.unreadable:
                break
            at += 1
        self._walked = at

    def _left_behind(self) -> Sequence[int]:
        """Idle numbers among the candidates that were walked over."""
        places = {n: self._candidates.index(n) for n in self._idle if n in self._candidates}
        return sorted((n for n, at in places.items() if at < self._walked), key=places.__getitem__)

    def _is_free(self, number: int, rested: float, let_go: LetGo) -> bool:
        """``rested``: what was released until then has rested."""
        if number in self.unreadable:
            return False
        record = self.numbers.get(number)
        if record is None:
            return True
        has_rested = bool(record.released and record.released <= rested)
        return has_rested and let_go(record.key, record.claim)


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """Claims by owner, and why the other owners have none."""

    claims: Mapping[str, Claim]
    refused: Mapping[str, PoolFull | EtcdError]


@dataclass(frozen=True, slots=True)
class Ask:
    """Owners that are to have a number of a pool each, taken from ``candidates`` in their order."""

    noun: str
    pool: str
    owners: Sequence[str]
    candidates: Sequence[int]


class Allocator:
    """Claims of one cluster, of the nouns that are given. Keep one for the life of a controller.

    ``recover`` loads it at the start of each leadership; ``observe`` keeps it current on a standby.
    ``fenced`` is a Fence or the Leader. All writes are one at a time (a lock) and fenced.
    """

    def __init__(
        self,
        client: Client,
        cluster: str,
        nouns: Collection[str],
        fenced: Fenced,
        snapshot: Path | None = None,
        rests: Mapping[str, float] = {},
        let_go: Mapping[str, LetGo] = {},
    ) -> None:
        """A snapshot in JSON, of a former version, is read once and removed (``claims.former``).

        ``rests``: seconds that a number rests, of nouns whose numbers rest longer than others.
        ``let_go``: of nouns whose numbers also rest until their former owner has let go of them.
        """
        self.synced_key = f"meshgate/v1/{cluster}/synced"
        self.clock: Callable[[], float] = time.time
        self._client = client
        self._cluster = cluster
        self._nouns = frozenset(nouns)
        self._fenced = fenced
        self._rests, self._let_go = rests, let_go
        self._snapshot = Journal(snapshot, records.former(snapshot)) if snapshot else None
        self._pools: defaultdict[tuple[str, str], _Pool] = defaultdict(_Pool)
        self._revision = 0  # of the store, as far as we have seen
        self._epoch = 0  # greatest ever given
        #: Keys whose values cannot be read, with the reason; their numbers are not given away.
        self.unreadable: dict[str, str] = {}
        #: Why the snapshot cannot be written, in words.
        self.problem = ""
        self._unrestored: dict[ClaimKey, Record] = {}
        #: Changes that the snapshot does not have; None: not known, so it is written as a whole.
        self._unsaved: dict[ClaimKey, None] | None = None
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

    async def recover(self, more: Iterable[Record] = ()) -> Sequence[str]:
        """Load the store, or give a new one the claims that we know; then put ``synced``.

        A store without ``synced`` never had, or has lost, its claims: those in memory, in the
        snapshot and ``more`` are created in it with the same numbers. Returns what could not be,
        because others hold it: at most one sentence per record.
        """
        async with self._lock:
            self._unrestored |= {record.key: record for record in (*more, *self.records)}
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
    ) -> ClaimAnswer:
        """Numbers for many owners at once, taken from ``candidates`` in their order."""
        return (await self.claim_pools([Ask(noun, pool, tuple(owners), candidates)]))[0]

    async def claim_pools(self, asks: Sequence[Ask]) -> Sequence[ClaimAnswer]:
        """Numbers out of several pools, each named once; the snapshot is written once."""
        async with self._lock:
            await _together(self._claim_new(ask) for ask in asks)
            await self.save()
            return [self._claimed(ask) for ask in asks]

    def _claimed(self, ask: Ask) -> ClaimAnswer:
        place = self._pools[ask.noun, ask.pool]
        claims = {o: place.owners[o].claim for o in ask.owners if o in place.owners}
        full = PoolFull(f"{ask.noun} pool {ask.pool} of {self._cluster}: no number is free")
        rest = (owner for owner in ask.owners if owner not in claims)
        return ClaimAnswer(claims, {owner: place.refused.get(owner, full) for owner in rest})

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
            reply, reads = await fenced_txn(
                self._client,
                self._fenced,
                [if_modified(number, record.modified)],
                [put_op(number, value), delete_op(owner_key(self._cluster, noun, pool, owner))],
                [get_op(number)],
            )
            if reply.succeeded:
                self._learn(replace(resting, modified=reply.header.revision))
            else:
                self._learn_kv(read_kv(reads[0]), record.key)
            await self.save()

    def observe(self, batch: Batch) -> None:
        """Learn the leader's claims, while we stand by."""
        if self._leads():
            return
        self._revision = batch.revision
        for text in batch.deletes:
            key = records.claim_key(self._cluster, self._nouns, text)
            if key:
                self._forget(key)
        for entry in batch.puts:
            self._learn_entry(entry)

    async def keep(self) -> None:
        """Write down observed claims, for ever: the next start may be a leader's."""
        while True:
            await asyncio.sleep(SNAPSHOT_S)
            if self._unsaved is None or self._unsaved:
                async with self._lock:
                    await self.save()

    async def save(self) -> None:
        """Bring the snapshot up to date; a full disk stops no claim."""
        changed, self._unsaved = self._unsaved, {}
        snapshot = self._snapshot
        if snapshot is None or (changed is not None and not changed):
            return
        try:
            if changed is None:
                rows = self.records
                await asyncio.to_thread(lambda: _replace(snapshot, rows))
            else:
                news = {key: self._record(key) for key in changed}
                await asyncio.to_thread(lambda: _append(snapshot, news))
        except OSError as error:
            self._unsaved = None
            self.problem = str(error)
        except asyncio.CancelledError:
            self._unsaved = None
            raise
        else:
            self.problem = ""

    def _record(self, key: ClaimKey) -> Record | None:
        return self._pools[key.noun, key.pool].numbers.get(key.number)

    async def _load(self) -> bool:
        """Make memory equal to the store. Return whether the store has been ``synced``."""
        entries, revision, synced = await self._read()
        self._pools.clear()
        self._unsaved = None
        self.unreadable.clear()
        self._revision = revision
        for entry in entries:
            self._learn_entry(entry)
        return synced

    async def _read(self) -> tuple[Sequence[Entry], int, bool]:
        """The numbers' keys, their revision, and whether ``synced`` stands.

        When history is cut again and again, pages of several revisions do: only the leader writes
        these keys, and that is us.
        """
        for _ in range(LISTS):
            with suppress(Compacted):
                return await self._read_nouns(self._client.pages)
        return await self._read_nouns(lambda prefix, _: self._client.loose_pages(prefix))

    async def _read_nouns(
        self, pages_of: Callable[[str, int], AsyncGenerator[KeyList, None]]
    ) -> tuple[Sequence[Entry], int, bool]:
        """Of the cluster's subtree only these: its history may be large."""
        entries, revision = list[Entry](), 0
        for noun in sorted(self._nouns):
            prefix = f"meshgate/v1/{self._cluster}/{noun}/"
            async with aclosing(pages_of(prefix, revision)) as pages:
                async for page in pages:
                    rows = (row for row in map(entry_of, page.kvs) if is_readable(row.key))
                    entries += (
                        row for row in rows if claim_key(self._cluster, self._nouns, row.key)
                    )
            revision = revision or page.revision
        return entries, revision, await self._client.get(self.synced_key, revision) is not None

    def _is_claim(self, entry: Entry) -> bool:
        return claim_key(self._cluster, self._nouns, entry.key) is not None

    async def _put_synced(self) -> None:
        value = msgspec.json.encode({"store": str(uuid.uuid4())})
        absent = if_created(self.synced_key, 0)
        await fenced_txn(self._client, self._fenced, [absent], [put_op(self.synced_key, value)])

    async def _claim_new(self, ask: Ask) -> None:
        """Claim for the owners that have no number."""
        noun, pool, candidates = ask.noun, ask.pool, ask.candidates
        place, now = self._pools[noun, pool], self.clock()
        rest_s, let_go = self._rests.get(noun, REST_S), self._let_go.get(noun, _always)
        owners = [owner for owner in dict.fromkeys(ask.owners) if owner not in place.owners]
        if not owners:
            return
        for owner in owners:
            place.refused.pop(owner, None)
        picks = dict(place.former(owners, candidates))
        others, given = [owner for owner in owners if owner not in picks], set(picks.values())
        free = place.free(candidates, now, rest_s, let_go)
        fresh = (number for number in free if number not in given)
        picks |= zip(others, fresh, strict=False)
        pairs = [(ClaimKey(noun, pool, number), owner) for owner, number in picks.items()]
        await _together(map(self._try_some, cut(pairs, PAIRS, _weight_of_pair)))
        for owner in owners:
            free = place.free(candidates, now, rest_s, let_go)
            await self._claim_singly(noun, pool, owner, free)

    async def _claim_singly(self, noun: str, pool: str, owner: str, numbers: Iterator[int]) -> None:
        """A number for an owner whose Txn met another one; none if the owner has got one."""
        place = self._pools[noun, pool]
        for _ in range(ATTEMPTS):
            if owner in place.owners or owner in place.refused:
                return
            number = next(numbers, None)
            if number is None:
                return
            await self._try_some([(ClaimKey(noun, pool, number), owner)])

    async def _try_some(self, pairs: Sequence[tuple[ClaimKey, str]]) -> None:
        """``_try``; a Txn that etcd refuses because of one pair is tried pair by pair."""
        try:
            await self._try(pairs)
        except _OF_THE_KEYS as error:
            for pair in pairs if len(pairs) > 1 else ():
                await self._try_some([pair])
            if len(pairs) == 1:
                [(key, owner)] = pairs
                self._pools[key.noun, key.pool].refused[owner] = error

    async def _try(self, pairs: Sequence[tuple[ClaimKey, str]]) -> None:
        """Claim all pairs in one Txn, or none and learn what is there instead."""
        async with self._flights:
            epoch = self._next_epoch()
            txn = _Txn(self._cluster)
            for key, owner in pairs:
                before = self._record(key)
                txn.take(Record(key, owner, epoch), before.modified if before else 0)
            reply, reads = await txn.commit(self._client, self._fenced)
            revision = reply.header.revision
            self._revision = max(self._revision, revision)
            if reply.succeeded:
                for key, owner in pairs:
                    self._learn(Record(key, owner, epoch or revision, 0, revision))
                return
            for (key, owner), number, own in zip(pairs, reads[::2], reads[1::2], strict=True):
                self._learn_kv(read_kv(number), key)
                await self._learn_owner(read_kv(own), key, owner)

    async def _restore(self, wanted: Iterable[Record]) -> Sequence[str]:
        missing = [record for record in wanted if not self._has(record)]
        errors: dict[ClaimKey, EtcdError] = {}
        chunks = cut(missing, PAIRS, _weight_of_record)
        await _together(self._recreate(chunk, errors) for chunk in chunks)
        for record in missing:  # a chunk with one conflict was not written at all
            if not self._has(record):
                await self._recreate([record], errors)
        return [
            self._not_restored(record, errors.get(record.key))
            for record in missing
            if not self._has(record)
        ]

    def _not_restored(self, record: Record, error: EtcdError | None) -> str:
        text = f"{number_key(self._cluster, record.key)} could not be restored for {record.owner}"
        return f"{text}: {error}" if error else text

    async def _recreate(self, chunk: Sequence[Record], errors: dict[ClaimKey, EtcdError]) -> None:
        """Create all records, or none and learn what is there instead, or why it is refused."""
        try:
            await self._recreate_all(chunk)
        except _OF_THE_KEYS as error:
            errors.update(dict.fromkeys((record.key for record in chunk), error))

    async def _recreate_all(self, chunk: Sequence[Record]) -> None:
        async with self._flights:
            txn = _Txn(self._cluster)
            for record in chunk:
                txn.take(record, 0)
            reply, reads = await txn.commit(self._client, self._fenced)
            self._revision = max(self._revision, reply.header.revision)
            for at, record in enumerate(chunk):
                if reply.succeeded:
                    self._learn(replace(record, modified=reply.header.revision))
                else:
                    self._learn_kv(read_kv(reads[2 * at]), record.key)

    def _has(self, record: Record) -> bool:
        stored = self._record(record.key)
        return stored is not None and (stored.owner, bool(stored.released)) == (
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
        if _differ(self._record(record.key), record):
            self._note_unsaved(record.key)
        self._pools[record.key.noun, record.key.pool].learn(record)

    def _forget(self, key: ClaimKey) -> None:
        self._note_unsaved(key)
        self._pools[key.noun, key.pool].forget(key.number)

    def _note_unsaved(self, key: ClaimKey) -> None:
        if self._unsaved is not None:
            self._unsaved[key] = None

    def _learn_kv(self, kv: pb.KeyValue | None, key: ClaimKey | None) -> None:
        """Learn a number's key as the store has it; None: ``key`` is not there."""
        if kv is None:
            if key:
                self._forget(key)
            return
        self._learn_entry(entry_of(kv))

    def _learn_entry(self, entry: Entry) -> None:
        try:
            record = records.record_of(self._cluster, self._nouns, entry)
        except ValueError as error:
            self.unreadable[entry.key] = str(error)
            key = records.claim_key(self._cluster, self._nouns, entry.key)
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
        text = key_text(kv.key)
        try:
            theirs = replace(key, number=records.decode_owner(kv.value))
        except ValueError as error:
            place.refused[owner] = Inconsistent(f"{text}: {error}")
            return
        number = number_key(self._cluster, theirs)
        self._learn_kv(await self._client.get(number), theirs)
        if owner not in place.owners:
            place.refused[owner] = Inconsistent(f"{text} says {theirs.number}, {number} not")

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


def _weight_of_pair(pair: tuple[ClaimKey, str]) -> int:
    """Bytes of one claim in a Txn: the owner stands in three places of a key, and in a value."""
    key, owner = pair
    return 4 * len(owner.encode()) + 6 * len(key.pool) + 400


def _weight_of_record(record: Record) -> int:
    return _weight_of_pair((record.key, record.owner))


def _differ(before: Record | None, now: Record) -> bool:
    """Whether a snapshot that has ``before`` lacks something of ``now``."""
    return before is None or replace(before, modified=now.modified) != now


def _from(candidates: Sequence[int], start: int) -> Iterator[int]:
    return (candidates[at] for at in range(start, len(candidates)))


def _same(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two pools' candidates are equal, as far as that can be told at once."""
    if isinstance(one, range) and isinstance(other, range):
        return one == other
    return one is other


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


def _replace(snapshot: Journal, rows: Iterable[Record]) -> None:
    snapshot.replace({records.snapshot_key(row.key): records.snapshot_value(row) for row in rows})


def _append(snapshot: Journal, news: Mapping[ClaimKey, Record | None]) -> None:
    snapshot.append(
        {
            records.snapshot_key(key): records.snapshot_value(row) if row else None
            for key, row in news.items()
        }
    )
