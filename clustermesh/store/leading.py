"""What only the leader of a cluster does: claims, publishing, the marks that say "complete".

Walk of one leadership: ``_agree`` (the cluster's ``config`` key is ours) -> ``_restore_pods`` and
``Allocator.recover`` (an empty store gets back what we know, then ``synced``) -> a loop that
applies wanted claims, published keys, and canaries after those. A standby does none of it; a
controller that does not fit to the cluster never stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import msgspec

from clustermesh import publish
from clustermesh.controller import PublishController
from clustermesh.etcd.client import BadRequest, Client, EtcdError
from clustermesh.etcd.names import key_text
from clustermesh.etcd.requests import cut, get_op, if_created, put_op, read_kv
from clustermesh.findings import (
    CANNOT_WRITE,
    CONTRADICTION,
    NO_HEARTBEAT,
    NOT_CLAIMED,
    NOT_LEADING,
    NOT_RESTORED,
    NOT_SAVED,
    POOL_FULL,
)
from clustermesh.remote import wire
from clustermesh.store.agreed import config_findings, encode, id_findings
from clustermesh.store.allocator import Allocator, Ask, Inconsistent
from clustermesh.store.claims import former, owner_key
from clustermesh.store.forgetting import Forgetting
from clustermesh.store.heartbeat import Heartbeat
from clustermesh.store.keys import KeysTarget, LeasedTarget
from clustermesh.store.leader import Fence, Leader, fenced_txn
from clustermesh.store.own import CONFIRMED, FORGOTTEN, Own, pod_key, pod_value
from mesh.core import journal
from mesh.core.feature import ControllerFeature, Want
from mesh.core.findings import Code
from mesh.core.journal import Journal
from mesh.core.model import Claim, ClaimKey, Finding, PodEntry, PodRef
from mesh.core.passes import Gate
from mesh.core.reconcile import Applied, Errors, Loop
from mesh.core.table import Changes, Table

log = logging.getLogger(__name__)

#: Lease of the leadership; shorter when what is published lives less than three times as long.
LEADER_S = 10
#: Seconds until a controller that may not lead, or met an error, looks again.
AGAIN_S = 1.0
#: Seconds between writes of the pods' snapshot.
SNAPSHOT_S = 5.0
#: Keys of one Txn of restored pods: one comparison each and the fence's two.
PODS_PER_TXN = 100

#: Snapshots in the state directory, and one's name when it was written as a whole.
CLAIMS_FILE, PODS_FILE = "claims.journal", "pods.journal"
FORMER_PODS_FILE = "pods.json"


class Wants:
    """Which numbers the features want: ``wanted`` for all nouns, and ``refused`` with reasons."""

    def __init__(self, features: Iterable[ControllerFeature]) -> None:
        self.wanted: Table[Want, bool] = Table("claim wanted")
        self.refused: Table[Want, str] = Table("claim refused")
        #: What is wrong with those of the refused for whom there would be room.
        self.codes: dict[Want, Code] = {}
        self._features = tuple(features)
        self._claimable = {one.noun: one for feature in self._features for one in feature.claims}

    @property
    def nouns(self) -> Collection[str]:
        """Nouns whose numbers are claimed."""
        return self._claimable

    @property
    def rests(self) -> Mapping[str, float]:
        """Seconds that a released number rests, of the nouns that say so."""
        claimable = self._claimable.items()
        return {noun: one.rest_s for noun, one in claimable if one.rest_s is not None}

    @property
    def let_go(self) -> Mapping[str, Callable[[ClaimKey, Claim], bool]]:
        """Whether a released number's owner has let go of it, of the nouns that ask."""
        claimable = self._claimable.items()
        return {noun: one.let_go for noun, one in claimable if one.let_go is not None}

    def derive(self, loop: Loop) -> None:
        """Add the derivations of ``wanted``."""
        tables = [table for feature in self._features for table in feature.wants]
        for table in tables:
            loop.follow(table, self.take)
        loop.derive(tables, self.wanted.mark_synced)

    def candidates(self, want: Want) -> Sequence[int]:
        """The numbers that may be given to a want."""
        return self._claimable[want.noun].candidates(want)

    def named(self, want: Want) -> int | None:
        """The number that a want names."""
        return self._claimable[want.noun].named(want)

    def is_released(self, noun: str) -> bool:
        """Whether numbers of the noun are given back when nobody wants them."""
        claimable = self._claimable.get(noun)
        return claimable is not None and claimable.released

    def forget_refused(self) -> None:
        """Nothing is refused: nobody asks any more."""
        self.codes = {}
        self.refused.delete(list(self.refused.rows))

    def findings(self, cluster: str) -> Iterable[Finding]:
        """Owners that get no number."""
        for want, text in self.refused.rows.items():
            key = wire.plain(owner_key(cluster, want.noun, want.pool, want.owner))
            yield Finding(self.codes.get(want, POOL_FULL), key, "number", wire.plain(text))

    def take(self, changes: Changes[Want, bool]) -> None:
        """Take in which claims are wanted now."""
        self.wanted.upsert(changes.upsert)
        self.wanted.delete(changes.delete)
        self.refused.delete(changes.delete)  # whoever has gone lacks nothing


class ClaimTarget:
    """Target: wanted claims. Only nouns that say so are ever given back.

    A full pool is no error of the target but a row in ``refused``: the next full round tries again.
    """

    name = "claims"

    def __init__(self, allocator: Allocator, wants: Wants) -> None:
        self._allocator = allocator
        self._wants = wants

    async def read(self) -> Mapping[Want, bool]:
        claims = self._allocator.claims.values()
        return {Want(claim.noun, claim.pool, claim.owner): True for claim in claims}

    async def upsert(self, rows: Collection[Want]) -> Errors[Want]:
        numbers = {want: number for want in rows if (number := self._wants.named(want)) is not None}
        errors: dict[Want, Exception] = {}
        for want, number in sorted(numbers.items()):  # before others get the numbers
            errors |= await self._claim([Ask(want.noun, want.pool, [want.owner], [number])])
        others = sorted(want for want in rows if want not in numbers)
        asks = [
            Ask(noun, pool, [want.owner for want in wants], self._wants.candidates(wants[0]))
            for (noun, pool), group in groupby(others, lambda want: (want.noun, want.pool))
            if (wants := list(group))
        ]
        errors |= await self._claim(asks)
        table, wanted = self._wants.refused, self._wants.wanted.rows
        table.delete([want for want in table.rows if want in rows or want not in wanted])
        table.upsert({want: str(error) for want, error in errors.items()})
        codes, refused = self._wants.codes, table.rows
        codes |= {want: _code_of(error) for want, error in errors.items()}
        for want in [want for want in codes if want not in refused]:
            del codes[want]
        return {}

    async def _claim(self, asks: Sequence[Ask]) -> Mapping[Want, Exception]:
        """Why owners got no number; each pool stands in one of ``asks``."""
        return {
            Want(ask.noun, ask.pool, owner): error
            for ask, claimed in zip(asks, await self._allocator.claim_pools(asks), strict=True)
            for owner, error in claimed.refused.items()
        }

    async def delete(self, keys: Collection[Want]) -> Errors[Want]:
        wanted = self._wants.wanted.rows  # may change while the others are released
        for want in sorted(keys):
            if self._wants.is_released(want.noun) and want not in wanted:
                await self._allocator.release(want.noun, want.pool, want.owner)
        self._wants.refused.delete(keys)
        return {}


def _code_of(error: Exception) -> Code:
    """Why an owner has no number."""
    if isinstance(error, Inconsistent):
        return CONTRADICTION
    return NOT_CLAIMED if isinstance(error, EtcdError) else POOL_FULL


class PodSnapshot:
    """The agents' pod keys in a file: a store that was replaced gets them back before ``synced``.

    Without it the pods of an agent that is slower than the controller would be withdrawn.
    ``former`` is the file of a version that wrote JSON.
    """

    def __init__(self, path: Path, cluster: str, own: Own, former: Path | None = None) -> None:
        #: Why the file cannot be written, in words.
        self.problem = ""
        self._path = path
        self._former = former or path
        self._cluster, self._own = cluster, own
        self._journal = Journal(path, former)
        self._saved = -1  # the revision of the pods' table that the file has

    @property
    def keys(self) -> Mapping[str, bytes]:
        """What the store had when we last saw it; else what the file says."""
        if self._own.pods.synced:
            return _pod_keys(self._cluster, self._own.pods.rows)
        with suppress(OSError, ValueError):
            return journal.read(self._path)
        with suppress(OSError, msgspec.DecodeError):
            keys = msgspec.json.decode(self._former.read_bytes(), type=dict[str, str])
            return {key: value.encode() for key, value in keys.items()}
        return {}

    async def run(self) -> None:
        """Keep the file up to date."""
        pods = self._own.pods
        while True:
            await asyncio.sleep(SNAPSHOT_S)
            if pods.synced and pods.revision != self._saved:
                await self._save()

    async def _save(self) -> None:
        """Append what changed; everything after an error, and when too much has changed."""
        cluster, pods = self._cluster, self._own.pods
        changes, revision = pods.changes(self._saved), pods.revision
        self._saved = -1
        try:
            if changes is None:
                rows = dict(pods.rows)
                await asyncio.to_thread(lambda: self._journal.replace(_pod_keys(cluster, rows)))
            else:
                gone = dict.fromkeys(pod_key(cluster, ref) for ref in changes.delete)
                news = _pod_keys(cluster, changes.upsert)
                await asyncio.to_thread(lambda: self._journal.append({**gone, **news}))
        except OSError as error:
            self.problem = str(error)
        else:
            self._saved, self.problem = revision, ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who stands for the leadership; ``lease_s`` is the life of what is published."""

    cluster: str
    id: int
    instance: str
    lease_s: int
    state_dir: Path


class Leading:
    """Stands for the leadership while this controller fits to the cluster, and uses it.

    ``agreed`` are the fields of the configuration that all controllers must have in common.
    ``gate`` is that of the loop whose derivations make the published tables, ``complete`` gives the
    other clusters that are complete in the store.
    """

    def __init__(
        self,
        who: Candidate,
        client: Client,
        own: Own,
        wants: Wants,
        publishing: PublishController,
        agreed: Mapping[str, object],
        gate: Gate,
        complete: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        # A standby must take over before what is published ends.
        ttl_s = min(LEADER_S, max(2, who.lease_s // 3))
        self.leader = Leader(client, who.cluster, who.instance, ttl_s)
        self.allocator = _allocator(client, who, wants, self.leader)
        place = who.state_dir
        self.pods = PodSnapshot(place / PODS_FILE, who.cluster, own, place / FORMER_PODS_FILE)
        self.applied: list[Applied] = []
        self._who, self._client, self._gate = who, client, gate
        self._wants, self._publishing = wants, publishing
        self._config_key = f"{own.prefix}config"
        self._confirmed = f"{own.prefix}{CONFIRMED}"
        self._agreed = {"name": who.cluster, "id": who.id, **agreed}
        self._unfit: list[Finding] = []
        self._lost: list[str] = []
        self._heartbeat = Heartbeat(client)
        self._forgetting = Forgetting(client, own, complete)

    async def run(self) -> None:
        """For ever: look whether we fit, stand, lead."""
        while True:
            with suppress(EtcdError):
                self._unfit = await self._mismatches()
                if not self._unfit:
                    await self.leader.run(self._lead)
            await asyncio.sleep(AGAIN_S)

    def findings(self) -> Iterable[Finding]:
        """Why we do not lead, what could not be written or restored."""
        yield from self._unfit
        for text in self._lost:
            yield Finding(NOT_RESTORED, text.split(" ", 1)[0], "owner", wire.plain(text))
        for path, problem in self.problems.items():
            yield Finding(NOT_SAVED, str(path), "", f"{problem}: another store may lack it")
        if self._client.problem:
            return  # said once, for the process
        if self.leader.problem:
            yield Finding(NOT_LEADING, self.leader.key, "leader", self.leader.problem)
        yield from self._not_written()

    def _not_written(self) -> Iterable[Finding]:
        if self._heartbeat.problem:
            yield Finding(NO_HEARTBEAT, wire.HEARTBEAT, "", self._heartbeat.problem)
        if self._forgetting.problem:
            place = f"{self._config_key.removesuffix('config')}{FORGOTTEN}"
            yield Finding(CANNOT_WRITE, place, "*", wire.plain(self._forgetting.problem))
        for applied in self.applied:
            for key, text in applied.report.errors.items():
                place = f"etcd {applied.report.table}"
                yield Finding(CANNOT_WRITE, place, wire.plain(key), wire.plain(text))

    @property
    def problems(self) -> Mapping[Path, str]:
        """Why a snapshot cannot be written."""
        place, problems = self._who.state_dir, (self.allocator.problem, self.pods.problem)
        files = dict(zip((place / CLAIMS_FILE, place / PODS_FILE), problems, strict=True))
        return {path: problem for path, problem in files.items() if problem}

    # --- Whether we fit -----------------------------------------------------------------------

    async def _mismatches(self) -> list[Finding]:
        """How the cluster's stored configuration, or another cluster's id, contradicts ours."""
        stored = await self._client.get(self._config_key)
        configs = (await self._client.list(wire.CONFIGS)).kvs
        published = {key_text(kv.key): kv.value for kv in configs}
        findings = id_findings(self._who.cluster, self._who.id, published)
        if stored is not None:
            findings += config_findings(self._config_key, stored.value, self._agreed)
        return findings

    async def _agree(self, fence: Fence) -> bool:
        """Write the ``config`` key if there is none; whether it says what we say."""
        reply, reads = await fenced_txn(
            self._client,
            fence,
            [if_created(self._config_key, 0)],
            [put_op(self._config_key, encode(self._agreed))],
            [get_op(self._config_key)],
        )
        stored = None if reply.succeeded else read_kv(reads[0])
        if stored is not None:
            self._unfit = config_findings(self._config_key, stored.value, self._agreed)
        return not self._unfit

    # --- One leadership -----------------------------------------------------------------------

    async def _lead(self, fence: Fence) -> None:
        if not await self._agree(fence):
            return
        if await self._client.get(self.allocator.synced_key) is None:
            await self._restore_pods(fence)
        self._lost = list(await self.allocator.recover())
        loop, targets = self._loop(fence)
        self.applied = loop.applied
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(loop.run(), name="apply")
                group.create_task(self._heartbeat.run(fence), name="heartbeat")
                group.create_task(self._forgetting.run(fence), name="forget clusters")
                for target in targets:
                    group.create_task(target.run(), name="leases")
        finally:
            self._forget_term()

    def _forget_term(self) -> None:
        """What could not be written is another leader's affair from now on."""
        self.applied, self._lost = [], []
        self._wants.forget_refused()

    def _loop(self, fence: Fence) -> tuple[Loop, list[LeasedTarget]]:
        """What goes where, and in which order."""
        publishing, loop, targets = self._publishing, Loop(self._gate), list[LeasedTarget]()

        def leased(owned: Collection[str]) -> LeasedTarget:
            ttl_s = self._who.lease_s
            targets.append(LeasedTarget(self._client, list(owned), ttl_s, fence))
            return targets[-1]

        loop.apply(self._wants.wanted, ClaimTarget(self.allocator, self._wants))
        confirmed = KeysTarget(self._client, [self._confirmed], fence)
        loop.apply(publishing.confirmed, confirmed)
        cluster = self._who.cluster
        overlay = KeysTarget(self._client, [wire.overlay_key(cluster)], fence)
        # Before the config: whoever sees a new cluster reads the port at once.
        port = loop.apply(publishing.overlay, overlay)
        config = loop.apply(publishing.config_key, leased([wire.config_key(cluster)]), after=[port])
        data = {
            prefix: loop.apply(table, leased([f"{prefix}{cluster}/"]))
            for prefix, table in publishing.published.items()
        }
        last: list[Applied] = []
        for table, late in ((publishing.canaries, False), (publishing.later, True)):
            prefixes = [prefix for prefix in data if (prefix in publish.LATER) == late]
            keys = [wire.canary_key(cluster, prefix) for prefix in prefixes]
            after = [config, *(data[prefix] for prefix in prefixes), *last]
            last.append(loop.apply(table, leased(keys), after=after))
        for target, applied in zip(targets, (config, *data.values(), *last), strict=True):
            target.on_lost = applied.recheck
        return loop, targets

    async def _restore_pods(self, fence: Fence) -> None:
        """Create the pod keys that an empty store lacks; agents correct them where they differ."""
        keys = sorted(self.pods.keys.items())
        for chunk in cut(keys, PODS_PER_TXN, lambda row: 2 * len(row[0]) + len(row[1])):
            if not await self._create(fence, chunk):
                for one in chunk:  # some agent was faster: its key stands
                    await self._create(fence, [one])
        if keys:
            log.info("event=pods_restored count=%d", len(keys))

    async def _create(self, fence: Fence, keys: Iterable[tuple[str, bytes]]) -> bool:
        rows = dict(keys)
        absent = [if_created(key, 0) for key in rows]
        puts = [put_op(key, value) for key, value in rows.items()]
        try:
            reply, _ = await fenced_txn(self._client, fence, absent, puts)
        except BadRequest as error:  # a pod of a version that let longer labels in
            log.warning("event=pod_not_restored reason=%s", error)
            return False
        return reply.succeeded


def _allocator(client: Client, who: Candidate, wants: Wants, leader: Leader) -> Allocator:
    """The allocator with its snapshot; an unreadable one is put aside."""
    path = who.state_dir / CLAIMS_FILE
    made = partial(
        Allocator, client, who.cluster, wants.nouns, leader, path, wants.rests, wants.let_go
    )
    try:
        return made()
    except ValueError as error:
        log.warning("event=snapshot_unreadable reason=%s", error)
        for file in (path, former(path)):
            with suppress(FileNotFoundError):
                file.replace(file.with_suffix(f"{file.suffix}.broken"))
        return made()


def _pod_keys(cluster: str, pods: Mapping[PodRef, PodEntry]) -> dict[str, bytes]:
    return {pod_key(cluster, ref): pod_value(entry) for ref, entry in pods.items()}
