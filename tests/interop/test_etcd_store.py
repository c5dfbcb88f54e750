"""Following a prefix: restarts, compaction, and stores that are replaced behind the address."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd, client_of, running, task_of, until

from clustermesh.etcd.client import Client
from clustermesh.etcd.requests import put_op
from clustermesh.store import follow as store
from clustermesh.store.follow import Batch, Follow
from mesh.core.table import Table

OWN = "meshgate/v1/east/"
SYNCED = f"{OWN}synced"


class Mirror:
    """What a process makes of the batches: a table of values, and every deletion it was told."""

    def __init__(self, client: Client, prefix: str = OWN, **options: Any) -> None:
        self.rows: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.lists = 0
        self.follow = Follow(client, prefix, self.take, **options)

    def take(self, batch: Batch) -> None:
        self.lists += batch.listed
        for entry in batch.puts:
            self.rows[entry.key] = entry.value
        for key in batch.deletes:
            self.deleted.append(key)
            del self.rows[key]


@contextlib.asynccontextmanager
async def mirrored(client: Client, prefix: str = OWN, **options: Any) -> Any:
    mirror = Mirror(client, prefix, **options)
    async with task_of(mirror.follow.run()):
        await until(lambda: mirror.lists, "the first list")
        yield mirror
    assert not mirror.follow.not_taken


async def fill(client: Client, count: int, value: bytes = b"v", prefix: str = OWN) -> None:
    """Write ``count`` keys and then the canary."""
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        await client.txn((), [put_op(f"{prefix}k{n}", value) for n in numbers], repeat=True)
    await client.put(SYNCED, b'{"store": "%s"}' % value)


def test_pods_of_a_wiped_store_wait_for_their_agent_not_for_the_leader(tmp_path: Path) -> None:
    """The leader's canary speaks for claims; the agent of n1 speaks for the pods of n1."""
    web, client_pod = f"{OWN}pod/n1/shop/web-1", f"{OWN}pod/n1/shop/client-1"
    other = f"{OWN}pod/n2/shop/web-2"

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            for key in (web, client_pod, other):
                await writer.put(key, b"")
            await fill(writer, 3)
            async with client_of(server.endpoint) as client, mirrored(client) as mirror:
                server.kill()
                await until(lambda: client.problem, "the outage is noticed")
                server.wipe()
                server.start()
                await fill(writer, 2, b"again")
                await until(lambda: mirror.deleted, "the leader's canary")
                assert mirror.deleted == [f"{OWN}k2"]
                await writer.put(web, b"again")
                await writer.put(f"{OWN}pod/n1/synced", b"{}")
                await until(lambda: len(mirror.deleted) == 2, "the agent's canary")
                assert mirror.deleted[1] == client_pod
                assert mirror.follow.held == {other}

    with running(tmp_path) as server:
        asyncio.run(run(server))


async def overtake(client: Client, revision: int) -> None:
    """Write unrelated keys until the store's revision is beyond ``revision``."""
    while await client.put("unrelated", b"x") <= revision:
        pass


def test_a_restarted_store_is_resumed_not_listed(tmp_path: Path) -> None:
    """Kill -9, start, one put and one delete: both arrive, nothing is listed again."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            await fill(client, 150)
            async with mirrored(client) as mirror:
                assert mirror.follow.synced
                server.kill()
                await until(lambda: client.problem, "the outage is noticed")
                server.start()
                await client.delete(f"{OWN}k7")
                await client.put(f"{OWN}new", b"")
                await until(lambda: f"{OWN}new" in mirror.rows, "the put")
                assert mirror.deleted == [f"{OWN}k7"]
                assert (mirror.lists, mirror.follow.replacements) == (1, 0)
                assert len(mirror.rows) == 151

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_after_a_compaction_the_difference_is_derived(tmp_path: Path) -> None:
    """Deletes missed while cut off, and compacted away, show in the new list.

    The store's marker is unchanged, so what the list lacks is gone, also a pod without canary.
    """

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer, client_of(server.endpoint) as client:
            pod = f"{OWN}pod/n1/shop/web-1"
            await writer.put(pod, b"")
            await fill(writer, 150)
            mirror = Mirror(client)
            following = asyncio.create_task(mirror.follow.run())
            await until(lambda: mirror.follow.synced, "sync")
            following.cancel()
            await asyncio.wait({following})
            await writer.delete(f"{OWN}k3")
            await writer.delete(pod)
            await writer.compact(await writer.put(f"{OWN}late", b""))
            async with task_of(mirror.follow.run()):
                await until(lambda: mirror.deleted, "the missed delete")
            assert sorted(mirror.deleted) == sorted([f"{OWN}k3", pod])
            assert f"{OWN}late" in mirror.rows
            assert mirror.lists == 2

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_a_wiped_store_that_overtakes_our_revision_deletes_nothing(tmp_path: Path) -> None:
    """Kill -9, rm -rf data, start, and unrelated keys until the revision is beyond ours.

    The cluster id is the same, no watch gets an error, and yet no row goes. When the owner has
    put its keys and the canary again, what it left out is deleted, and only that.
    """

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            await fill(writer, 150)
            async with client_of(server.endpoint) as client, mirrored(client) as mirror:
                revision = (await writer.range(SYNCED)).header.revision
                server.kill()
                await until(lambda: client.problem, "the outage is noticed")
                server.wipe()
                server.start()
                await overtake(writer, revision + 500)
                await until(lambda: mirror.follow.replacements, "the replacement is noticed")
                await until(lambda: mirror.lists == 2, "the new list")
                assert (mirror.deleted, len(mirror.rows)) == ([], 151)
                assert len(mirror.follow.held) == 151
                await fill(writer, 140, b"again")
                await until(lambda: mirror.deleted, "the canary stands again")
                gone = {f"{OWN}k{number}" for number in range(140, 150)}
                assert set(mirror.deleted) == gone
                assert len(mirror.deleted) == 10
                assert set(mirror.rows.values()) == {b"again", b'{"store": "again"}'}
                assert mirror.follow.held == frozenset()

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_a_wiped_store_with_a_small_revision_deletes_nothing(tmp_path: Path) -> None:
    """The empty store answers with a lower revision; explicit deletes in it still count."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            await fill(writer, 150)
            await overtake(writer, 300)
            async with client_of(server.endpoint) as client, mirrored(client) as mirror:
                server.kill()
                await until(lambda: client.problem, "the outage is noticed")
                server.wipe()
                server.start()
                await until(lambda: mirror.lists == 2, "the new list")
                await writer.put(f"{OWN}k0", b"again")
                await writer.delete(f"{OWN}k0")
                await until(lambda: mirror.deleted, "the explicit delete")
                assert mirror.deleted == [f"{OWN}k0"]
                assert len(mirror.rows) == 150

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_a_replacement_with_the_same_number_of_keys_is_noticed(tmp_path: Path) -> None:
    """The new store has as many keys at our revision, other ones: nothing of it is mistaken."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            for number in range(20):
                await writer.put(f"{OWN}old{number}", b"")
            await writer.put(SYNCED, b'{"store": "1"}')
            async with client_of(server.endpoint) as client, mirrored(client) as mirror:
                server.kill()
                await until(lambda: client.problem, "the outage is noticed")
                server.wipe()
                server.start()
                for number in range(20):
                    await writer.put(f"{OWN}new{number}", b"")
                await writer.put(SYNCED, b'{"store": "2"}')
                await until(lambda: len(mirror.deleted) == 20, "the old store's keys are gone")
                assert (mirror.lists, mirror.follow.replacements) == (2, 1)
                assert sorted(mirror.rows) == sorted([*(f"{OWN}new{n}" for n in range(20)), SYNCED])

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_wiped_again_and_again(tmp_path: Path) -> None:
    """Three replacements in a row, each overtaking: the rows stay."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            await fill(writer, 30)
            async with client_of(server.endpoint) as client, mirrored(client) as mirror:
                for round_ in (1, 2, 3):
                    server.kill()
                    server.wipe()
                    server.start()
                    await overtake(writer, 100 * round_)
                    await writer.put(f"{OWN}round{round_}", b"")
                    await until(lambda r=round_: f"{OWN}round{r}" in mirror.rows, "the next put")
                assert (mirror.deleted, len(mirror.rows)) == ([], 34)
                assert mirror.follow.replacements == 3

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_the_expiry_of_a_lease_is_passed_on(tmp_path: Path) -> None:
    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            lease = await client.grant(2)
            await client.put(f"{OWN}leased", b"", lease.ID)
            await client.put(SYNCED, b"{}")
            async with mirrored(client) as mirror:
                await until(lambda: mirror.deleted, "the expiry")
                assert mirror.deleted == [f"{OWN}leased"]

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_no_sync_before_the_canary_and_none_twice(tmp_path: Path) -> None:
    """Rows arrive at once, `synced` with the canary; each cluster's published types have theirs."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            table: Table[str, bytes] = Table("claims")
            await client.put(f"{OWN}a", b"")
            async with mirrored(client, on_synced=table.mark_synced) as mirror:
                assert not mirror.follow.synced
                assert not table.synced
                await client.put(SYNCED, b"{}")
                await until(lambda: table.synced, "the canary")
                assert mirror.lists == 1

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_a_canary_outside_the_prefix_is_waited_for(tmp_path: Path) -> None:
    """One type of a peer: its canary lies elsewhere; then what the wiped store lacks goes."""
    prefix = "cilium/cache/ip/v1/west/"
    canary = "cilium/synced/west/cilium/cache/ip/v1"

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            await writer.put(f"{prefix}10.2.0.1", b"1")
            await writer.put(f"{prefix}10.2.0.2", b"1")
            await writer.put(canary, b"2026")
            async with client_of(server.endpoint) as client, mirrored(client, prefix) as mirror:
                assert mirror.follow.synced
                server.kill()
                await until(lambda: client.problem, "the outage is noticed")
                server.wipe()
                server.start()
                await overtake(writer, 30)
                await writer.put(f"{prefix}10.2.0.1", b"2")
                await until(lambda: mirror.rows[f"{prefix}10.2.0.1"] == b"2", "the row is back")
                assert mirror.deleted == []
                await writer.put(canary, b"2027")
                await until(lambda: mirror.deleted, "the canary is seen")
                assert mirror.rows == {f"{prefix}10.2.0.1": b"2"}

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_an_etcd_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    """Following goes on trying and says why nothing comes."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            mirror = Mirror(client)
            async with task_of(mirror.follow.run()):
                await until(lambda: "connection refused" in mirror.follow.problem, "the reason")
                server.start()
                await until(lambda: mirror.lists, "the list", 30)
                await until(lambda: mirror.follow.problem == "", "no problem any more")

    server = Etcd(tmp_path)
    try:
        asyncio.run(run(server))
    finally:
        server.stop()


class Slow(Client):
    """A client on a machine on which every answer takes a while."""

    async def get(self, key: str, revision: int = 0) -> Any:
        await asyncio.sleep(0.2)
        return await super().get(key, revision)


def test_a_canary_is_seen_however_slow_the_answers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proving the store takes longer than the pause between two looks for the canary."""
    monkeypatch.setattr(store, "CANARY_S", 0.1)

    async def run(server: Etcd) -> None:
        slow = Slow(server.endpoint)
        async with client_of(server.endpoint) as writer:
            await writer.put(f"{OWN}podcidr/pool/number/1", b"")
            async with mirrored(slow, f"{OWN}podcidr/") as mirror:
                assert not mirror.follow.synced
                await writer.put(SYNCED, b"{}")
                await until(lambda: mirror.follow.synced, "the canary", 10)
                await writer.put(f"{OWN}podcidr/pool/number/2", b"")
                await until(lambda: len(mirror.rows) == 2, "the next event", 10)
        await slow.aclose()

    with running(tmp_path) as server:
        asyncio.run(run(server))
