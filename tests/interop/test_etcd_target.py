"""Tables into etcd through the reconcile loop: leases, fences, and rows that etcd refuses."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd, Leadership, client_of, running, task_of, until, until_async

from clustermesh.etcd.auth import NODE, EtcdUser, bootstrap_auth
from clustermesh.etcd.client import Client
from clustermesh.etcd.errors import BadRequest, Denied, Unavailable
from clustermesh.issued import write_pki
from clustermesh.publish import PREFIXES
from clustermesh.store.follow import Follow
from clustermesh.store.keys import KEYS_PER_LEASE, LeasedTarget, PersistentTarget
from clustermesh.store.leader import Deposed, Fence
from mesh.core.reconcile import Applied, Loop
from mesh.core.table import Table

IPS = "cilium/cache/ip/v1/east/"
CONFIG = "cilium/cluster-config/east"
CANARY = "cilium/synced/east/cilium/cache/ip/v1"
AGENT = EtcdUser("east", NODE, "n1")
OWNED = (IPS, "cilium/synced/east/", CONFIG)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running(tmp_path) as server:
        yield server


async def fence_of(client: Client) -> Fence:
    return await Leadership().take(client)


def rows(count: int, value: bytes = b"{}") -> dict[str, bytes]:
    return {f"{IPS}{number}": value for number in range(count)}


@contextlib.asynccontextmanager
async def applied(target: Any, table: Table[str, bytes]) -> Any:
    """The loop keeping ``target`` equal to ``table``, and the target's own task if it has one."""
    loop = Loop()
    into = loop.apply(table, target)
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(target, LeasedTarget):
            target.on_lost = into.recheck
            await stack.enter_async_context(task_of(target.run()))
        await stack.enter_async_context(task_of(loop.run()))
        yield into


async def arrived(into: Applied) -> None:
    await until(lambda: into.current, f"everything is written: {into.report}")


async def stored(client: Client) -> dict[str, tuple[bytes, int]]:
    found: dict[str, tuple[bytes, int]] = {}
    for owned in OWNED:
        kvs = (await client.list(owned)).kvs
        found |= {kv.key.decode(): (kv.value, kv.lease) for kv in kvs}
    return found


def test_a_table_arrives_on_leases_of_at_most_1000_keys(etcd: Etcd) -> None:
    """2,501 rows: three leases; then one row changed, one gone, and a stranger's key removed."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            target = LeasedTarget(client, OWNED, 60, await fence_of(client))
            await client.put(f"{IPS}stale", b"")
            table.replace({**rows(2500), CONFIG: b"{}"})
            async with applied(target, table) as into:
                await arrived(into)
                there = await stored(client)
                assert {key: value for key, (value, _) in there.items()} == dict(table.rows)
                loads = Counter(lease for _, lease in there.values())
                assert len(loads) == 3
                assert max(loads.values()) <= KEYS_PER_LEASE
                table.upsert({CONFIG: b"new"})
                table.delete([f"{IPS}0"])
                await arrived(into)
                there = await stored(client)
                assert there[CONFIG] == (b"new", there[CONFIG][1])
                assert f"{IPS}0" not in there
                assert set(Counter(lease for _, lease in there.values())) <= set(target.leases)

    asyncio.run(run())


def test_a_restarted_owner_puts_everything_on_its_own_lease(etcd: Etcd) -> None:
    """The values are the same and no watcher sees a delete, then or when the old lease ends."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            table.replace({**rows(150), CONFIG: b"{}"})
            deleted: list[str] = []
            follow = Follow(client, "cilium/", lambda batch: deleted.extend(batch.deletes))
            async with task_of(follow.run()):
                async with applied(
                    LeasedTarget(client, OWNED, 2, await fence_of(client)), table
                ) as into:
                    await arrived(into)
                old = {lease for _, lease in (await stored(client)).values()}
                second = LeasedTarget(client, OWNED, 2, await fence_of(client))
                async with applied(second, table) as into:
                    await arrived(into)
                    new = {lease for _, lease in (await stored(client)).values()}
                    assert new == set(second.leases)
                    assert not old & new

                    async def is_over() -> bool:
                        return all(ttl <= 0 for ttl in await ttls(client, old))

                    await until_async(is_over, "the old lease has run out")
                    assert len(await stored(client)) == 151
                assert deleted == []

    asyncio.run(run())


async def ttls(client: Client, leases: set[int]) -> list[int]:
    return [await client.remaining(lease) for lease in leases]


def test_a_lost_lease_is_replaced_and_its_keys_put_again(etcd: Etcd) -> None:
    """One of three leases is revoked: its 1000 keys are back within a renewal, on a new one."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            table.replace(rows(2500))
            target = LeasedTarget(client, OWNED, 3, await fence_of(client))
            async with applied(target, table) as into:
                await arrived(into)
                lost = target.leases[0]
                await client.revoke(lost)
                assert len(await stored(client)) == 1500

                async def is_back() -> bool:
                    return len(await stored(client)) == 2500

                await until_async(is_back, "all keys are back")
                assert lost not in target.leases

    asyncio.run(run())


def test_leases_live_on_while_the_target_runs_and_over_an_outage(etcd: Etcd) -> None:
    """Two TTLs later, and after 3 s without etcd, every key is there as it was written."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            table.replace(rows(120))
            target = LeasedTarget(client, OWNED, 2, await fence_of(client))
            async with applied(target, table) as into:
                await arrived(into)
                before = await client.list(IPS)
                end = time.monotonic() + 4
                await until(lambda: time.monotonic() > end, "two TTLs")
                etcd.kill()
                end = time.monotonic() + 3
                await until(lambda: time.monotonic() > end, "an outage longer than the TTL")
                etcd.start()
                after = await client.list(IPS)
                assert [kv.mod_revision for kv in after.kvs] == [
                    kv.mod_revision for kv in before.kvs
                ]

    asyncio.run(run())


def test_a_wiped_store_is_filled_again_canary_last(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key comes back, and no reader sees the canary before the last of the others.

    The table takes several rounds, as a large one does, and one on a loaded machine.
    """
    monkeypatch.setattr("mesh.core.applied_rows._CHOICE_S", -1.0)

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            table.replace({CANARY: b"2026", **rows(1500)})
            leadership = Leadership()
            await leadership.take(client)
            target = LeasedTarget(client, OWNED, 3, leadership)
            async with applied(target, table) as into:
                await arrived(into)
                etcd.kill()
                etcd.wipe()
                etcd.start()
                await leadership.take(client)

                async def is_back() -> bool:
                    return len(await stored(client)) == 1501

                await until_async(is_back, "all keys are back")
                kvs = (await client.list(IPS)).kvs
                canary = await client.get(CANARY)
                assert canary is not None
                assert canary.create_revision > max(kv.mod_revision for kv in kvs)

    asyncio.run(run())


def test_a_deposed_owner_writes_and_deletes_nothing(etcd: Etcd) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            target = LeasedTarget(client, OWNED, 60, await fence_of(client))
            await target.upsert(rows(10))
            before = await stored(client)
            await fence_of(client)  # somebody else leads now
            with pytest.raises(Deposed, match="nothing was written"):
                await target.upsert(rows(500, b"late"))
            with pytest.raises(Deposed, match="nothing was written"):
                await target.delete(list(rows(10)))
            assert await stored(client) == before

    asyncio.run(run())


def test_one_refused_row_stops_no_other(etcd: Etcd) -> None:
    """A value over etcd's limit is an error of its key; the canary waits for it."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            target = LeasedTarget(client, OWNED, 60, await fence_of(client))
            big = f"{IPS}big"
            errors = await target.upsert({CANARY: b"", **rows(150), big: b"x" * 1_600_000})
            assert set(errors) == {big, CANARY}
            assert isinstance(errors[big], BadRequest)
            assert "waits for 1 keys" in str(errors[CANARY])
            assert set(await stored(client)) == set(rows(150))

    asyncio.run(run())


def test_a_killed_owner_leaves_time_for_the_next(etcd: Etcd) -> None:
    """Leases are renewed every 2 s at most, and a successor's read renews its predecessor's."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            table.replace(rows(10))
            async with applied(
                LeasedTarget(client, OWNED, 10, await fence_of(client)), table
            ) as into:
                await arrived(into)
                [lease] = {lease for _, lease in (await stored(client)).values()}
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    assert await client.remaining(lease) >= 7
                    await asyncio.sleep(0.1)

            async def is_older() -> bool:
                return await client.remaining(lease) <= 7

            await until_async(is_older, "nobody renews it")
            await LeasedTarget(client, OWNED, 10, await fence_of(client)).read()
            assert await client.remaining(lease) >= 9

    asyncio.run(run())


def test_a_denied_prefix_costs_one_more_try_not_one_per_key(tmp_path: Path) -> None:
    """Keys of another cluster are refused as a group; those that are allowed are written."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as root:
            await bootstrap_auth(root, [AGENT], PREFIXES)
        async with client_of(server.endpoint_of(AGENT.cn)) as client:
            mine, other = "meshgate/v1/east/pod/n1/", "meshgate/v1/west/pod/n1/"
            target = PersistentTarget(client, [mine, other])
            keys = [f"{prefix}s/p{number}" for number in range(60) for prefix in (mine, other)]
            started = time.monotonic()
            errors = await target.upsert(dict.fromkeys(keys, b"{}"))
            assert set(errors) == {key for key in keys if key.startswith(other)}
            assert all(isinstance(error, Denied) for error in errors.values())
            assert time.monotonic() - started < 1
            assert len((await client.list(mine)).kvs) == 60

    pki = write_pki(tmp_path / "pki", ["root", AGENT.cn], [])
    with running(tmp_path / "etcd", pki) as server:
        asyncio.run(run(server))


def test_an_agents_keys_hang_on_nothing(etcd: Etcd) -> None:
    """No lease, no fence; one that came to hang on a lease is put again without."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            prefix = "meshgate/v1/east/pod/east-1/"
            await client.put(f"{prefix}shop/web-1", b"{}", (await client.grant(60)).ID)
            await client.put(f"{prefix}shop/gone", b"{}")
            await client.put("meshgate/v1/east/pod/east-10/shop/web-1", b"other node")
            table = Table[str, bytes]("pod keys")
            table.replace({f"{prefix}shop/web-{number}": b"{}" for number in range(1, 4)})
            async with applied(PersistentTarget(client, [prefix]), table) as into:
                await arrived(into)
            kvs = (await client.list("meshgate/v1/east/pod/")).kvs
            assert {(kv.key.decode(), kv.lease) for kv in kvs} == {
                *((key, 0) for key in table.rows),
                ("meshgate/v1/east/pod/east-10/shop/web-1", 0),
            }

    asyncio.run(run())


@pytest.mark.parametrize("kind", [PersistentTarget, LeasedTarget])
def test_a_put_that_was_given_up_on_does_nothing_when_it_arrives_late(
    etcd: Etcd, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held back until a newer one of the same key has been written."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            table.replace({CONFIG: b"1", f"{IPS}0": b"1"})
            leased = [60, await fence_of(client)] if kind is LeasedTarget else []
            async with applied(kind(client, OWNED, *leased), table) as into:
                await arrived(into)
                send, late = client.txn, list[Any]()

                async def give_up(*arguments: Any, **options: Any) -> Any:
                    late.append((arguments, options))
                    monkeypatch.undo()
                    raise Unavailable("given up", sent=True)

                monkeypatch.setattr(client, "txn", give_up)
                table.upsert({CONFIG: b"2"})
                await until(lambda: bool(late), "the second value is on its way")
                table.upsert({CONFIG: b"3"})
                await arrived(into)
                arguments, options = late[0]
                assert not (await send(*arguments, **options)).succeeded
                assert (await stored(client))[CONFIG][0] == b"3"
                table.upsert({CONFIG: b"4"})
                await arrived(into)
                assert (await stored(client))[CONFIG][0] == b"4"

    asyncio.run(run())


def test_keys_that_others_have_changed_meanwhile_are_put_right_at_once(etcd: Etcd) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            table.replace(rows(3))
            async with applied(PersistentTarget(client, OWNED), table) as into:
                await arrived(into)
                await client.put(f"{IPS}0", b"foreign")
                await client.delete(f"{IPS}1")
                table.upsert({f"{IPS}0": b"ours", f"{IPS}1": b"ours"})
                table.delete([f"{IPS}2"])
                await client.put(f"{IPS}2", b"foreign")
                await arrived(into)
                there = {key: value for key, (value, _) in (await stored(client)).items()}
                assert there == {f"{IPS}0": b"ours", f"{IPS}1": b"ours"}

    asyncio.run(run())


def test_65536_keys_and_one_change_among_them(
    etcd: Etcd, capsys: pytest.CaptureFixture[str]
) -> None:
    """66 leases; printed: publish of all, the full read-and-diff, and one change."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            target = LeasedTarget(client, OWNED, 900, await fence_of(client))
            desired = rows(65_536, b"x" * 150)
            started = time.monotonic()
            assert not await target.upsert(desired)
            published = time.monotonic()
            there = await target.read()
            read = time.monotonic()
            assert not await target.upsert({f"{IPS}7": b"new"})
            changed = time.monotonic()
            assert len(there) == 65_536
            assert len(target.leases) == 66
            with capsys.disabled():
                sys.stdout.write(
                    f"\netcd: publish of 65,536 keys {published - started:.2f} s, "
                    f"read back {read - published:.2f} s, "
                    f"one change {1000 * (changed - read):.1f} ms\n"
                )

    asyncio.run(run())


def test_a_predecessors_keys_live_until_they_are_decided_upon(etcd: Etcd) -> None:
    """The next controller cannot read its manifests yet: it neither puts nor deletes."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            table = Table[str, bytes]("published")
            lease = (await client.grant(2)).ID
            await client.put(f"{IPS}1", b"{}", lease)
            await client.put(f"{IPS}2", b"{}", lease)
            target = LeasedTarget(client, OWNED, 2, await fence_of(client))
            async with applied(target, table) as into:
                end = time.monotonic() + 5
                while time.monotonic() < end:
                    assert await client.remaining(lease) > 0
                    await asyncio.sleep(0.2)
                assert set(await stored(client)) == {f"{IPS}1", f"{IPS}2"}
                table.replace({f"{IPS}1": b"{}"})
                await arrived(into)
                there = await stored(client)
                assert there == {f"{IPS}1": (b"{}", target.leases[0])}

                async def over() -> bool:
                    return await client.remaining(lease) <= 0

                await until_async(over, "nobody renews it any more")
                assert await stored(client) == there

    asyncio.run(run())
