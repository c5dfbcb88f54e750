"""Several prefixes of one store: only what is asked for arrives, and one store's word counts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd, client_of, running, task_of, until, until_async

from clustermesh.etcd import client as clients
from clustermesh.etcd.client import Client
from clustermesh.etcd.requests import put_op
from clustermesh.store.follow import Batch
from clustermesh.store.view import StoreView

OWN = "meshgate/v1/east/"
SYNCED = f"{OWN}synced"
NUMBERS, PODS, CIDRS = f"{OWN}identity/labels/number/", f"{OWN}pod/", f"{OWN}podcidr/10/number/"
MESH = "cilium/"


class Mirror:
    """The rows of a view by prefix, and every deletion that it was told."""

    def __init__(self, client: Client, *prefixes: str) -> None:
        self.rows: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.lists_of: Counter[str] = Counter()
        self.synced = 0
        takes = {prefix: partial(self.take, prefix) for prefix in (*prefixes, SYNCED)}
        self.view = StoreView(client, SYNCED, takes, on_synced=self.sync)

    @property
    def lists(self) -> int:
        return self.lists_of.total()

    def sync(self) -> None:
        self.synced += 1

    def take(self, prefix: str, batch: Batch) -> None:
        assert not (batch.page and batch.deletes)
        self.lists_of[prefix] += batch.listed
        self.rows |= {entry.key: entry.value for entry in batch.puts}
        for key in batch.deletes:
            self.deleted.append(key)
            del self.rows[key]


@contextlib.asynccontextmanager
async def mirrored(client: Client, *prefixes: str) -> Any:
    mirror = Mirror(client, *prefixes)
    async with task_of(mirror.view.run()):
        yield mirror
    assert not list(mirror.view.findings())


async def write(client: Client, rows: Mapping[str, bytes]) -> None:
    ops = [put_op(key, value) for key, value in rows.items()]
    for at in range(0, len(ops), 100):
        await client.txn((), ops[at : at + 100], repeat=True)


def claims(count: int, value: bytes = b"1") -> dict[str, bytes]:
    """Identities with their owners' keys, and pod CIDRs."""
    rows = {f"{NUMBERS}{number}": value for number in range(count)}
    rows |= {f"{OWN}identity/labels/owner/k8s:app=a{number};": value for number in range(count)}
    return rows | {f"{CIDRS}{number}": value for number in range(5)}


async def wiped(server: Etcd, client: Client) -> None:
    server.kill()
    await until(lambda: client.problem, "the outage is noticed")
    server.wipe()
    server.start()


async def overtake(client: Client, revision: int) -> None:
    while await client.put("unrelated", b"x") <= revision:
        pass


def test_only_what_is_asked_for_arrives_and_is_followed(tmp_path: Path) -> None:
    """No owner keys; events of each prefix; `synced` when all prefixes have seen the marker."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            await write(client, claims(150))
            async with mirrored(client, NUMBERS, CIDRS, PODS) as mirror:
                await until(lambda: mirror.lists >= 4, "the lists")
                await asyncio.sleep(0.1)
                assert mirror.synced == 0
                await client.put(SYNCED, b"one")
                await until(lambda: mirror.synced, "the marker is seen by all")
                assert set(mirror.rows) == {
                    *(key for key in claims(150) if "/number/" in key), SYNCED,
                }  # fmt: skip
                await client.delete(f"{NUMBERS}7")
                await client.put(f"{CIDRS}9", b"")
                await client.put(f"{OWN}identity/labels/owner/k8s:app=new;", b"")
                await client.put(f"{PODS}n1/shop/web-1", b"")
                await until(lambda: f"{PODS}n1/shop/web-1" in mirror.rows, "the last event")
                await until(lambda: mirror.deleted == [f"{NUMBERS}7"], "the deletion")
                assert f"{CIDRS}9" in mirror.rows
                assert (mirror.synced, mirror.view.replacements) == (1, 0)

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_a_replaced_store_deletes_nothing_before_all_have_seen_its_marker(tmp_path: Path) -> None:
    """Wiped and overtaken. What the new store lacks goes with its marker, pods with their agent's.

    Another cluster's key goes only then, too, although its canary stands long before.
    """
    pod, theirs = f"{PODS}n1/shop/web-1", f"{MESH}cache/ip/v1/west/10.2.0.1"
    canary = f"{MESH}synced/west/cilium/cache/ip/v1"

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            await write(writer, {**claims(150), pod: b"1", theirs: b"1", canary: b"1"})
            await writer.put(SYNCED, b"one")
            async with (
                client_of(server.endpoint) as client,
                mirrored(client, NUMBERS, CIDRS, PODS, MESH) as mirror,
            ):
                await until(lambda: mirror.synced, "sync")
                before = dict(mirror.rows)
                revision = (await writer.range(SYNCED)).header.revision
                await wiped(server, client)
                await overtake(writer, revision + 300)
                await until(lambda: mirror.view.replacements, "the replacement is noticed")
                await write(writer, {**claims(140, b"2"), canary: b"2"})
                await until(lambda: mirror.rows[f"{NUMBERS}139"] == b"2", "the new rows")
                await until(lambda: mirror.rows[canary] == b"2", "the other cluster's canary")
                await asyncio.sleep(2.5)  # longer than between two looks for a canary
                assert (mirror.deleted, set(mirror.rows)) == ([], set(before))
                await writer.put(SYNCED, b"two")
                gone = {*(f"{NUMBERS}{number}" for number in range(140, 150)), theirs}
                await until(lambda: set(mirror.deleted) >= gone, "the marker is seen by all")
                await asyncio.sleep(0.3)
                assert sorted(mirror.deleted) == sorted(gone)
                assert mirror.view.held == {pod}
                await writer.put(f"{PODS}n1/synced", b"{}")
                await until(lambda: pod in mirror.deleted, "the agent's canary")
                assert mirror.synced == 1

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_one_prefix_that_sees_another_store_makes_all_list_again(tmp_path: Path) -> None:
    """Only the marker differs: a prefix without keys could not tell the stores apart."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            await write(client, claims(10))
            await client.put(SYNCED, b"one")
            async with mirrored(client, NUMBERS, f"{OWN}locator/") as mirror:
                await until(lambda: mirror.synced, "sync")
                lists = mirror.lists
                await client.put(SYNCED, b"two")
                await until(lambda: mirror.lists == lists + 3, "three prefixes listed again")
                assert mirror.deleted == []

    with running(tmp_path) as server:
        asyncio.run(run(server))


def test_a_prefix_that_is_left_goes_and_a_new_one_comes(tmp_path: Path) -> None:
    """Blocks of an address of which this node is gateway no longer, and of another one."""
    one, two = f"{OWN}block/192.0.2.1/number/", f"{OWN}block/192.0.2.2/number/"

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            await write(client, {f"{one}1": b"", f"{one}2": b"", f"{two}3": b"", SYNCED: b"one"})
            async with mirrored(client, one) as mirror:
                await until(lambda: mirror.synced, "sync")
                mirror.view.follow({two: partial(mirror.take, two)})
                mirror.view.leave([one])
                await until(lambda: f"{two}3" in mirror.rows, "the new prefix")
                assert sorted(mirror.deleted) == [f"{one}1", f"{one}2"]
                await client.put(f"{one}4", b"")
                await client.put(f"{two}5", b"")
                await until(lambda: f"{two}5" in mirror.rows, "its events")
                assert set(mirror.rows) == {f"{two}3", f"{two}5", SYNCED}
                assert mirror.view.prefixes == (SYNCED, two)

    with running(tmp_path) as server:
        asyncio.run(run(server))


class Compacting(Client):
    """Somebody compacts the store behind the first page of the first list."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.compactions = 0

    async def pages(self, prefix: str) -> Any:
        async for page in super().pages(prefix):
            yield page
            if len(page.kvs) == clients.PAGE_KEYS and not self.compactions:
                self.compactions += 1
                await self.delete(f"{prefix}00003")
                await self.put(f"{prefix}00007", b"new")
                await self.compact(await self.put(f"{prefix}zzzzz", b"late"))


def test_a_list_that_is_compacted_in_its_middle_starts_anew(tmp_path: Path) -> None:
    """No revision is mixed with another; a key that only the first try had is deleted."""
    count = clients.PAGE_KEYS + 50

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as writer:
            await write(writer, {f"{NUMBERS}{number:05}": b"old" for number in range(count)})
            await writer.put(SYNCED, b"one")
            expected = {f"{NUMBERS}{number:05}": b"old" for number in range(count)}
            del expected[f"{NUMBERS}00003"]
            expected |= {f"{NUMBERS}00007": b"new", f"{NUMBERS}zzzzz": b"late", SYNCED: b"one"}
            client = Compacting(server.endpoint)
            async with mirrored(client, NUMBERS) as mirror:
                await until(lambda: mirror.synced, "sync")
                assert client.compactions == 1
                assert mirror.rows == expected
                assert mirror.deleted == [f"{NUMBERS}00003"]
                assert mirror.view.held == frozenset()
            client.compactions = 0
            listing = await client.list(NUMBERS)
            assert client.compactions == 1
            assert len(listing.kvs) == len(expected) - 1
            assert {kv.mod_revision > listing.revision for kv in listing.kvs} == {False}
            await client.aclose()

    with running(tmp_path) as server:
        asyncio.run(run(server))


class CutAgainAndAgain(Client):
    """Before each page, and after the last one, keys change and history is cut up to now."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.random = random.Random(7)
        self.cuts = 0
        self.kept = frozenset[str]()  # keys that are never deleted

    def pages(self, prefix: str) -> Any:
        return self._cut(super().pages(prefix), prefix)

    def loose_pages(self, prefix: str) -> Any:
        return self._cut(super().loose_pages(prefix), prefix)

    async def _cut(self, pages: Any, prefix: str) -> Any:
        async for page in pages:
            if prefix == NUMBERS:
                await self.change()
            yield page
            if prefix == NUMBERS:
                await self.change()

    async def change(self) -> None:
        """Put some keys, delete some, put some of these again, and compact."""
        for _ in range(5):
            key = f"{NUMBERS}{self.random.randrange(60):02}"
            if self.random.random() < 0.5 and key not in self.kept:
                await self.delete(key)
            if self.random.random() < 0.7:
                await self.put(key, b"%d" % self.random.randrange(1000))
        await self.compact(await self.put("unrelated", b""))
        self.cuts += 1


def test_a_list_gets_through_while_somebody_cuts_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each list at one revision is cut, for ever; one below an open watch needs no history.

    What is expected is read from the store: on a busy machine a watch may be cut, too, after its
    list was accepted, and then the next list changes keys once more.
    """
    monkeypatch.setattr(clients, "PAGE_KEYS", 7)

    async def run(server: Etcd) -> None:
        client = CutAgainAndAgain(server.endpoint)
        client.kept = frozenset(f"{NUMBERS}{number:02}" for number in range(0, 60, 3))
        async with client_of(server.endpoint) as reader:

            async def is_the_stores() -> bool:
                kvs = (await reader.list(NUMBERS)).kvs
                return mirror.rows == {kv.key.decode(): kv.value for kv in kvs} | {SYNCED: b"one"}

            await write(client, {f"{NUMBERS}{number:02}": b"old" for number in range(60)})
            await client.put(SYNCED, b"one")
            async with mirrored(client, NUMBERS) as mirror:
                for turn in range(1, 6):
                    lists = mirror.lists_of[NUMBERS]
                    if turn > 1:
                        mirror.view.list_anew()
                    await until(lambda n=lists: mirror.lists_of[NUMBERS] > n, "the list")
                    await client.put(f"{NUMBERS}end", b"%d" % turn)
                    await until_async(is_the_stores, "the store as it is")
                    assert not client.kept.intersection(mirror.deleted)
                    assert mirror.view.compactions >= 2 * turn
                    assert mirror.view.replacements == 0
        assert client.cuts > 0
        await client.aclose()

    with running(tmp_path) as server:
        asyncio.run(run(server))


class BusyBelow(Client):
    """Behind each first page somebody writes more than a watch that is not read takes, and cuts."""

    WRITES, BYTES = 400, 200_000

    async def pages(self, prefix: str) -> Any:
        async for page in super().pages(prefix):
            yield page
            await self.compact(await self.put("unrelated", b""))

    async def loose_pages(self, prefix: str) -> Any:
        busy = prefix == NUMBERS
        async for page in super().loose_pages(prefix):
            yield page
            if busy:
                await self.write()
            busy = False

    async def write(self) -> None:
        for number in range(self.WRITES):
            value = b"%d" % number + bytes(self.BYTES)
            revision = await self.put(f"{NUMBERS}{number % 20:02}", value)
            if number % 20 == 0:
                await self.compact(revision)
        await self.compact(revision)


def test_a_list_gets_through_however_much_is_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch above it is read all the time: etcd gives one up that lags behind a cut."""
    monkeypatch.setattr(clients, "PAGE_KEYS", 7)

    async def run(server: Etcd) -> None:
        client = BusyBelow(server.endpoint)
        async with client_of(server.endpoint) as reader:
            await write(client, {f"{NUMBERS}{number:02}": b"old" for number in range(20)})
            await client.put(SYNCED, b"one")
            async with mirrored(client, NUMBERS) as mirror:
                await until(lambda: mirror.synced, "sync", 60)
                kvs = (await reader.list(NUMBERS)).kvs
                wanted = {kv.key.decode(): kv.value for kv in kvs} | {SYNCED: b"one"}
                await until(lambda: mirror.rows == wanted, "the store as it is")
                cuts = mirror.view.compactions
                await asyncio.sleep(0.3)
                assert (mirror.lists_of[NUMBERS], mirror.view.compactions) == (1, cuts)
                assert mirror.deleted == []
        await client.aclose()

    with running(tmp_path) as server:
        asyncio.run(run(server))


class MarkerLast(Client):
    """The list of the marker waits until another prefix is listed; then the marker is put."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.listed = asyncio.Event()

    async def pages(self, prefix: str) -> Any:
        if prefix == SYNCED:
            await self.listed.wait()
        async for page in super().pages(prefix):
            yield page


def test_a_marker_that_is_put_between_two_lists_is_seen_by_both(tmp_path: Path) -> None:
    """No event of a watch tells of it: the marker's own list already has it."""

    async def run(server: Etcd) -> None:
        client = MarkerLast(server.endpoint)
        async with mirrored(client, MESH) as mirror:
            await client.put(f"{MESH}key", b"1")
            await until(lambda: mirror.lists, "the first list")
            await client.put(SYNCED, b"one")
            client.listed.set()
            await until(lambda: mirror.synced, "sync")
            assert mirror.rows == {f"{MESH}key": b"1", SYNCED: b"one"}
            assert mirror.deleted == []
        await client.aclose()

    with running(tmp_path) as server:
        asyncio.run(run(server))
