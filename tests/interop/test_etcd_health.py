"""Any user of etcd may raise alarms, compact, and fill the store: survived, and named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from etcd_server import (
    CORRUPT,
    DISARM,
    NO_SPACE,
    RAISE,
    Etcd,
    alarm,
    client_of,
    running,
    task_of,
    until,
)

from clustermesh.etcd.auth import Grant, add_user, bootstrap_auth
from clustermesh.etcd.client import Client, StoreCorrupt, StoreFull
from clustermesh.issued import write_pki
from clustermesh.publish import PREFIXES
from clustermesh.remote import wire
from clustermesh.store.follow import Batch
from clustermesh.store.health import StoreHealth, cut_history
from clustermesh.store.view import StoreView

#: Of the etcd of this module, which tells no quota (3.4).
QUOTA = 16 << 20
SYNCED = "meshgate/v1/east/synced"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    pki = write_pki(tmp_path_factory.mktemp("pki"), ["root", "reader"], ["127.0.0.1"])
    with running(tmp_path_factory.mktemp("etcd"), pki) as server:
        asyncio.run(enter(server))
        yield server


async def enter(server: Etcd) -> None:
    async with client_of(server.endpoint) as client:
        await bootstrap_auth(client, [], PREFIXES)
        await add_user(client, "reader", [Grant("cilium/"), Grant("meshgate/v1/")])
        await client.put(SYNCED, b'{"store": "one"}')


def health_of(client: Client, quota: int = 0) -> StoreHealth:
    return StoreHealth(client, quota, lambda: True, lambda: ["east", "west"])


@pytest.mark.parametrize(
    ("kind", "name", "error"),
    [(NO_SPACE, "NOSPACE", StoreFull), (CORRUPT, "CORRUPT", StoreCorrupt)],
)
def test_an_alarm_is_a_finding_and_writes_fail_by_its_name(
    etcd: Etcd, kind: int, name: str, error: type[Exception]
) -> None:
    """A user that may write nothing raises it; reads go on, and it ends."""

    async def run() -> None:
        async with (
            client_of(etcd.endpoint) as client,
            client_of(etcd.endpoint_of("reader")) as attacker,
        ):
            health = health_of(client)
            await health.look()
            assert list(health.findings()) == []
            await alarm(attacker, RAISE, kind)
            with pytest.raises(error):
                await client.put("meshgate/v1/east/x", b"")
            assert await client.get(SYNCED) is not None
            await health.look()
            place = f"etcd {etcd.endpoint.text}"
            found = [(one.code, one.object, one.field) for one in health.findings()]
            assert found == [("M196", place, name)]
            await alarm(attacker, DISARM, kind)
            await client.put("meshgate/v1/east/x", b"")
            await health.look()
            assert list(health.findings()) == []

    asyncio.run(run())


def test_a_store_that_is_half_full_names_its_largest_writers(etcd: Etcd) -> None:
    """The one with the most bytes, and the one that writes the same key again and again."""
    services, nodes = f"{wire.SERVICES}west/", f"{wire.NODES}east/"

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            for number in range(60):
                await client.put(f"{services}shop/s{number}", bytes(100_000))
                await client.put(f"{nodes}n{number}", bytes(1_000))

            async def write() -> None:
                while True:
                    await client.put(f"{nodes}n0", bytes(50_000))
                    await asyncio.sleep(0.05)

            async with task_of(write()):
                early = health_of(client, 100 * QUOTA)
                await early.look()
                assert list(early.findings()) == []
                health = health_of(client, (await client.status()).dbSize * 2)
                await health.look()
            [finding] = health.findings()
            assert (finding.code, finding.field) == ("M197", "size")
            stored, written = finding.text.split("; ")[1:]
            assert f"below {services} (5.7 MiB)" in stored
            assert f"below {nodes} (" in written
            assert services not in written

    asyncio.run(run())


def test_a_compaction_under_a_watch_costs_no_key(etcd: Etcd) -> None:
    """Who is up to date notices nothing; who is not lists anew, and a finding names it."""
    prefix = "meshgate/v1/east/pod/"

    async def run() -> None:
        keys: set[str] = set()
        gone: list[str] = []

        def take(batch: Batch) -> None:
            keys.update(entry.key for entry in batch.puts)
            keys.difference_update(batch.deletes)
            gone.extend(batch.deletes)

        async with (
            client_of(etcd.endpoint) as writer,
            client_of(etcd.endpoint_of("reader")) as client,
        ):
            for number in range(100):
                await writer.put(f"{prefix}n/s/p{number}", b"")
            view = StoreView(client, SYNCED, {prefix: take})
            async with task_of(view.run()):
                await until(lambda: view.synced, "sync")
                await client.compact(await writer.put(f"{prefix}n/s/one", b""))
                await writer.put(f"{prefix}n/s/two", b"")
                await until(lambda: f"{prefix}n/s/two" in keys, "the watch goes on")
                assert list(cut_history(view, client)) == []
            await writer.delete(f"{prefix}n/s/p7")
            await client.compact(await writer.put(f"{prefix}n/s/three", b""))
            async with task_of(view.run()):
                await until(lambda: gone, "the list")
                assert gone == [f"{prefix}n/s/p7"]
                assert len(keys) == 102
                assert {one.code for one in cut_history(view, client)} == {"M195"}

    asyncio.run(run())
