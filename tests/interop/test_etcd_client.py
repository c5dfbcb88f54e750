"""The client against a real etcd: restarts, cuts, races, limits, and errors in words."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from etcd_server import Etcd, client_of, free_port, running, task_of, until

from clustermesh.etcd.client import (
    BadRequest,
    Client,
    Compacted,
    EtcdAddress,
    OutcomeUnknown,
    Unavailable,
)
from clustermesh.etcd.requests import delete_op, get_op, if_created, put_op, read_kv


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running(tmp_path_factory.mktemp("etcd")) as server:
        yield server


async def collect(client: Client, prefix: str, into: list[tuple[str, int]], start: int = 1) -> None:
    async with contextlib.aclosing(client.watch(prefix, start)) as watch:
        async for seen in watch:
            into += [(event.kv.key.decode(), event.kv.mod_revision) for event in seen.events]


def test_a_watch_survives_a_restart_without_loss_or_doubles(tmp_path: Path) -> None:
    """50 puts, kill -9, start, 100 puts: 150 events, each once, in order."""

    async def run(server: Etcd) -> None:
        seen: list[tuple[str, int]] = []
        async with client_of(server.endpoint) as client, task_of(collect(client, "k/", seen)):
            for number in range(50):
                await client.put(f"k/{number}", b"x")
            await until(lambda: len(seen) == 50, "50 events")
            server.kill()
            await until(lambda: client.problem, "the watch notices")
            server.start()
            for number in range(50, 150):
                await client.put(f"k/{number}", b"x")
            await until(lambda: len(seen) >= 150, "150 events")
        keys = [key for key, _ in seen]
        assert sorted(keys) == sorted(f"k/{number}" for number in range(150))
        assert [rev for _, rev in seen] == sorted(rev for _, rev in seen)

    with running(tmp_path) as server:
        asyncio.run(run(server))


class Cutter:
    """A TCP proxy that breaks every connection after so many bytes from the server."""

    def __init__(self, to: str, after: int) -> None:
        self.host, _, port = to.rpartition(":")
        self.port, self.after, self.cuts = int(port), after, 0
        self.address = ""

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self.host, self.port)
        await asyncio.gather(
            self._pump(reader, up_writer, 0), self._pump(up_reader, writer, self.after)
        )

    async def _pump(self, source: Any, sink: Any, limit: int) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                passed += len(chunk)
                if limit and self.cuts < 4 and passed > limit:
                    self.cuts += 1
                    break
                sink.write(chunk)
                await sink.drain()
        sink.transport.abort()


def test_cuts_in_a_catch_up_lose_nothing(tmp_path: Path) -> None:
    """20,000 events, the TCP connection broken four times in the middle: each arrives once."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            for start in range(0, 20_000, 100):
                ops = [put_op(f"k/{start + n:05}", b"v" * 100) for n in range(100)]
                await client.txn((), ops, repeat=True)
        seen: list[tuple[str, int]] = []
        async with (
            Cutter(server.address, 500_000) as cutter,
            client_of(EtcdAddress((cutter.address,))) as client,
            task_of(collect(client, "k/", seen, 2)),
        ):
            await until(lambda: len(seen) >= 20_000, "20,000 events", 60)
            assert cutter.cuts == 4
        counts = Counter(key for key, _ in seen)
        assert len(counts) == 20_000
        assert set(counts.values()) == {1}

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_a_backlog_of_10_mb_arrives(shared: Etcd) -> None:
    async def run() -> None:
        seen: list[tuple[str, int]] = []
        async with client_of(shared.endpoint) as client:
            for number in range(101):
                await client.put(f"big/{number}", b"x" * 100_000)
            async with task_of(collect(client, "big/", seen)):
                await until(lambda: len(seen) == 101, "101 events")

    asyncio.run(run())


def test_a_list_in_pages_has_one_revision(shared: Etcd) -> None:
    """12,000 keys are three pages; a key written between two pages is not in the list."""

    async def run() -> None:
        async with client_of(shared.endpoint) as client:
            for start in range(0, 12_000, 120):
                ops = [put_op(f"page/{start + n:05}", b"v") for n in range(120)]
                await client.txn((), ops, repeat=True)
            before = await client.put("page/other", b"")
            listing, _ = await asyncio.gather(client.list("page/"), client.put("page/zzz", b""))
            keys = [kv.key for kv in listing.kvs]
            assert listing.revision >= before
            assert len(keys) - (listing.revision > before) == 12_001
            assert keys == sorted(set(keys))

    asyncio.run(run())


def test_a_compacted_revision_ends_the_watch(shared: Etcd) -> None:
    async def run() -> None:
        async with client_of(shared.endpoint) as client:
            revision = [await client.put("c/1", b"%d" % n) for n in range(5)][-1]
            await client.compact(revision)
            with pytest.raises(Compacted, match=f"c/: revision {revision} is the oldest"):
                await collect(client, "c/", [], revision - 2)
            with pytest.raises(Compacted):
                await client.get("c/1", revision - 2)

    asyncio.run(run())


def test_32_workers_race_for_one_number(shared: Etcd) -> None:
    """A create-only Txn has one winner, and each loser reads who it is."""

    async def worker(client: Client, name: bytes) -> bytes:
        reply = await client.txn(
            [if_created("race", 0)], [put_op("race", name)], [get_op("race")], repeat=True
        )
        kv = None if reply.succeeded else read_kv(reply.responses[0])
        return kv.value if kv else name

    async def run() -> None:
        async with client_of(shared.endpoint) as client:
            names = [b"%d" % number for number in range(32)]
            winners = await asyncio.gather(*(worker(client, name) for name in names))
            assert len(set(winners)) == 1
            kv = await client.get("race")
            assert kv is not None
            assert (kv.version, kv.value) == (1, winners[0])

    asyncio.run(run())


def test_refused_requests_name_what_is_wrong_and_write_nothing(shared: Etcd) -> None:
    async def run() -> None:
        async with client_of(shared.endpoint) as client:
            many = [put_op(f"r/{number}", b"") for number in range(129)]
            with pytest.raises(BadRequest, match=r"Txn of 129 operations \(first key r/0"):
                await client.txn((), many, repeat=True)
            with pytest.raises(BadRequest, match=r"Txn of 2 operations \(first key r/1"):
                await client.txn((), [put_op("r/1", b"a"), put_op("r/1", b"b")], repeat=True)
            with pytest.raises(BadRequest, match=r"Txn of 2 operations \(first key r/1"):
                await client.txn((), [put_op("r/1", b"a"), delete_op("r/1")], repeat=True)
            with pytest.raises(BadRequest, match=r"put r/big \(1600\d+ bytes\): "):
                await client.put("r/big", b"x" * 1_600_000)
            with pytest.raises(BadRequest, match=r"put r/huge \(4000\d+ bytes\): "):
                await client.put("r/huge", b"x" * 4_000_000)
            assert not (await client.list("r/")).kvs
            assert client.problem == ""

    asyncio.run(run())


def test_one_dead_endpoint_of_two_is_not_noticed(shared: Etcd) -> None:
    async def run() -> None:
        for _ in range(4):  # the client shuffles them
            endpoint = EtcdAddress((f"127.0.0.1:{free_port()}", shared.address))
            async with client_of(endpoint) as client:
                async with asyncio.timeout(3):
                    assert await client.put("two", b"") > 0

    asyncio.run(run())


def test_an_ipv6_endpoint(tmp_path: Path) -> None:
    async def run() -> None:
        async with client_of(EtcdAddress((f"http://[::1]:{port}",))) as client:
            assert (await client.status()).version.startswith("3.")

    port = free_port()
    server = Etcd(tmp_path)
    server.address = f"[::1]:{port}"
    try:
        server.start()
        asyncio.run(run())
    finally:
        server.stop()


def test_an_etcd_that_is_away_is_a_state_in_words(tmp_path: Path) -> None:
    """No error at the start; calls end in words within their time; all works once it is there."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            assert client.problem == ""
            with pytest.raises(Unavailable, match=r"etcd at 127.0.0.1:.*: connection refused"):
                await client.put("a", b"")
            assert "connection refused" in client.problem
            seen: list[tuple[str, int]] = []
            async with task_of(collect(client, "a", seen)):
                server.start()
                await client.put("a", b"")
                await until(lambda: seen, "the watch arrives")
            assert client.problem == ""

    server = Etcd(tmp_path)
    try:
        asyncio.run(run(server))
    finally:
        server.stop()


def test_a_stopped_server_is_noticed_by_deadlines(tmp_path: Path) -> None:
    """SIGSTOP: a put ends after 5 s, a Txn that may not be repeated after 1 s, as unknown."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            await client.put("a", b"")
            server.signal(signal.SIGSTOP)
            with pytest.raises(OutcomeUnknown):
                async with asyncio.timeout(1.5):
                    await client.txn((), [put_op("a", b"1")], repeat=False)
            with pytest.raises(Unavailable, match="no answer in time"):
                async with asyncio.timeout(6):
                    await client.put("a", b"2")
            server.signal(signal.SIGCONT)
            await client.put("b", b"3")  # what was given up on "a" may still arrive, even last
            kv = await client.get("b")
            assert kv is not None
            assert kv.value == b"3"

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_closing_leaves_no_task_and_no_noise(
    shared: Etcd, capfd: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        async with client_of(shared.endpoint) as client:
            async with contextlib.aclosing(client.watch("x/")) as watch:
                assert (await anext(watch)).created
            lease = await client.grant(5)
            await client.renew([lease.ID], 2)
            waiting = asyncio.create_task(collect(client, "y/", []))
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="closed"):
            await waiting
        await until(lambda: len(asyncio.all_tasks()) == 1, "grpc's own tasks are done", 2)
        with pytest.raises(Unavailable, match="closed"):
            await client.put("x", b"")

    asyncio.run(run(), debug=True)
    assert "Task was destroyed" not in capfd.readouterr().err
