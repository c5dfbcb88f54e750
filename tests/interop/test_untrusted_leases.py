"""Leases are not trusted: any user of etcd keeps any lease alive, and nothing follows from it.

The attacker has a certificate that may read and write nothing. It renews leases of others, raises
and disarms alarms, and compacts. What counts are counters, which only their owner may raise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from etcd_server import (
    DISARM,
    NO_SPACE,
    Etcd,
    alarm,
    client_of,
    maintain,
    running,
    task_of,
    until,
)

from clustermesh.etcd.auth import Grant, add_user, bootstrap_auth
from clustermesh.etcd.client import Client, Denied, EtcdError, StoreFull
from clustermesh.etcd.requests import put_op
from clustermesh.issued import Pki, write_pki
from clustermesh.publish import PREFIXES
from clustermesh.remote import wire
from clustermesh.remote.counters import Counters
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.tables import PREFIX, RemoteTables
from clustermesh.store.leader import Deposed, Fence, Leader, fenced_txn
from clustermesh.store.view import StoreView
from mesh.core.model import Node, NodeKey
from tests.interop import controllers

KEY = "meshgate/v1/east/leader"
READER = "reader"
TTL_S = 2
QUOTA = 4_000_000
#: How long a counter of published keys may stand here, and the seconds between two looks.
COUNTER_S = 2
LOOK_S = 0.1
#: Longer than a counter may stand.
LONG_S = 1.3 * COUNTER_S
#: ``leaseSeconds`` of real controllers here.
SHORT_S = 4
WEST = Node("west", "west-1", (IPv4Address("10.99.0.21"),), (ip_network("10.2.0.0/24"),))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    users = ["root", READER, "narrow", "east-controller"]
    return write_pki(tmp_path_factory.mktemp("pki"), users, ["127.0.0.1"])


@pytest.fixture
def etcd(tmp_path: Path, pki: Pki) -> Iterator[Etcd]:
    with running(tmp_path, pki) as server:
        asyncio.run(enter(server))
        yield server


async def enter(server: Etcd) -> None:
    """The users of both clusters, and one that reads everything of theirs."""
    async with client_of(server.endpoint) as client:
        await bootstrap_auth(client, [], PREFIXES)
        reads = [Grant("cilium/"), Grant("meshgate/v1/")]
        writes = [Grant(key, write=True) for key in ("meshgate/v1/east/", "counter/")]
        await add_user(client, "east-controller", [*reads, *writes])
        await add_user(client, READER, reads)


class Attack:
    """When the leases that are kept alive were last seen alive."""

    alive = 0.0


@contextlib.asynccontextmanager
async def kept_alive(
    etcd: Etcd, leases: Sequence[int], user: str = READER
) -> AsyncIterator[Attack]:
    """A user that may write nothing of theirs renews leases of others."""
    attack = Attack()
    async with client_of(etcd.endpoint_of(user)) as client:
        with pytest.raises(Denied):
            await client.put(KEY, b"mine")
        with pytest.raises(Denied):
            await client.revoke(leases[0])  # of this etcd itself takes care

        async def renew() -> None:
            while True:
                with contextlib.suppress(EtcdError):
                    if all((await client.renew(leases, 1)).values()):
                        attack.alive = time.monotonic()
                await asyncio.sleep(0.2)

        async with task_of(renew()):
            yield attack


@contextlib.contextmanager
def holder(etcd: Etcd, instance: str) -> Iterator[subprocess.Popen[str]]:
    """A candidate of its own process, which writes while it leads."""
    script = Path(__file__).with_name("holder.py")
    assert etcd.pki is not None
    files = etcd.pki.users["east-controller"]
    process = subprocess.Popen(
        [
            *(sys.executable, str(script), etcd.address, instance, str(TTL_S)),
            *map(str, (etcd.pki.ca, files.cert, files.key)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Candidate:
    """A leader whose work is to be there."""

    def __init__(self, client: Client, instance: str) -> None:
        self.leader = Leader(client, "east", instance, TTL_S)
        self.reigns = 0

    async def lead(self, _: Fence) -> None:
        self.reigns += 1
        await asyncio.Event().wait()


# --- The leadership ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lease_that_somebody_keeps_alive_holds_no_leadership(
    etcd: Etcd, end: signal.Signals
) -> None:
    """The leader is killed, or sleeps; its lease lives on. A standby leads as soon as before."""

    async def run() -> None:
        async with client_of(etcd.endpoint_of("east-controller")) as client:
            with holder(etcd, "one") as one:
                assert one.stdout is not None
                assert (await asyncio.to_thread(one.stdout.readline)).startswith("leads")
                kv = await client.get(KEY)
                old = Fence(KEY, kv.create_revision, kv.lease)
                two = Candidate(client, "two")
                async with (
                    kept_alive(etcd, [kv.lease]) as attack,
                    task_of(two.leader.run(two.lead)),
                ):
                    await until(lambda: two.leader.holder == "one", "two stands by")
                    one.send_signal(end)
                    stopped = time.monotonic()
                    await until(lambda: two.leader.leads, "two leads", 6 * TTL_S)
                    assert attack.alive - stopped > TTL_S / 2
                    with pytest.raises(Deposed, match="belongs to two"):
                        await fenced_txn(client, old, (), [put_op("meshgate/v1/east/x", b"")])
                    one.send_signal(signal.SIGCONT)
                    if end == signal.SIGSTOP:
                        line = await asyncio.to_thread(one.stdout.readline)
                        assert line.startswith(("deposed", "cancelled")), line
                    await asyncio.sleep(TTL_S)
                    assert (await client.get(KEY)).value == b"two"
                    assert two.reigns == 1

    asyncio.run(run())


def test_an_alarm_costs_no_leadership(tmp_path: Path) -> None:
    """The store is full: nobody can write, so nobody takes over, and the fence is as it was."""

    async def run(server: Etcd) -> None:
        async with client_of(server.endpoint) as client, client_of(server.endpoint) as other:
            one, two = Candidate(client, "one"), Candidate(other, "two")
            async with task_of(one.leader.run(one.lead)):
                await until(lambda: one.leader.leads, "one leads")
                fence = one.leader.current()
                async with task_of(two.leader.run(two.lead)):
                    await fill(client)
                    await asyncio.sleep(1.5 * TTL_S)
                    assert one.leader.current() == fence
                    assert "space" in two.leader.problem or not two.leader.problem
                    with pytest.raises(StoreFull):
                        await fenced_txn(client, fence, (), [put_op("a", b"1")])
                    await make_room(client)
                    await fenced_txn(client, fence, (), [put_op("a", b"1")])
                    await asyncio.sleep(1.5 * TTL_S)
                    assert one.leader.current() == fence
                    assert (one.reigns, two.reigns) == (1, 0)

    with full_soon(tmp_path) as server:
        asyncio.run(run(server))


def test_compactions_in_a_row_hold_no_leadership(etcd: Etcd) -> None:
    """Each of them ends the standby's watch; its clock goes on."""

    async def run() -> None:
        reader, writer = etcd.endpoint_of(READER), etcd.endpoint_of("east-controller")
        async with client_of(writer) as client, client_of(reader) as attacker:

            async def compact() -> None:
                while True:
                    with contextlib.suppress(EtcdError):
                        revision = await client.put("meshgate/v1/east/x", b"")
                        await attacker.compact(revision)

            with holder(etcd, "one") as one:
                assert one.stdout is not None
                assert (await asyncio.to_thread(one.stdout.readline)).startswith("leads")
                lease = (await client.get(KEY)).lease
                two = Candidate(client, "two")
                async with (
                    kept_alive(etcd, [lease]),
                    task_of(compact()),
                    task_of(two.leader.run(two.lead)),
                ):
                    await until(lambda: two.leader.holder == "one", "two stands by")
                    one.kill()
                    await until(lambda: two.leader.leads, "two leads", 6 * TTL_S)

    asyncio.run(run())


@contextlib.contextmanager
def full_soon(directory: Path) -> Iterator[Etcd]:
    """An etcd with room for a few megabytes."""
    server = Etcd(directory / "small")
    server.start(f"--quota-backend-bytes={QUOTA}")
    try:
        yield server
    finally:
        server.stop()


async def fill(client: Client) -> None:
    """Write until the store is full."""

    async def write() -> None:
        for number in range(1000):
            await client.put(f"meshgate/v1/south/pod/{number % 3}", bytes(200_000))

    with pytest.raises(StoreFull):
        await write()


async def make_room(client: Client) -> None:
    """What an operator does: compact, defragment, disarm."""
    revision = (await client.status()).header.revision
    await client.delete("meshgate/v1/south/", b"meshgate/v1/south0")
    await client.compact(revision)
    await maintain(client, "Defragment", b"")
    await alarm(client, DISARM, NO_SPACE)


# --- What is published ------------------------------------------------------------------------


@dataclass
class Reader:
    """An agent's view of other clusters, which looks often."""

    client: Client

    def __post_init__(self) -> None:
        own = OwnFacts("east", 1)
        self.remote = RemoteTables(own, lambda _: None)
        self.remote.update_own(own)
        self.counters = Counters(
            self.client, "east", self.remote.take, lambda: self.view.told(PREFIX), LOOK_S
        )
        self.view = StoreView(self.client, "meshgate/v1/east/synced", {PREFIX: self.counters.take})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with task_of(self.view.run()), task_of(self.counters.run()):
            await until(lambda: self.remote.heard.synced, "the first list")
            yield

    @property
    def has_west(self) -> bool:
        """Everything of west is there, or nothing is."""
        nodes = NodeKey("west", "west-1") in self.remote.nodes.rows
        assert nodes == ("west" in self.remote.ids.rows) == bool(self.remote.complete_clusters())
        return nodes

    @property
    def codes(self) -> list[str]:
        return [finding.code for finding in self.counters.findings()]


class Publisher:
    """West, as its controller publishes it: keys on a lease, and a counter."""

    def __init__(self, client: Client, counter_s: int = COUNTER_S, ttl_s: int = 600) -> None:
        self.client = client
        self.lease = 0
        self._counter_s, self._ttl_s = counter_s, ttl_s

    async def publish(self) -> None:
        """Put the keys; a counter that stands for ever is raised once."""
        self.lease = (await self.client.grant(self._ttl_s)).ID
        config = wire.cluster_config(2, self._counter_s)
        await self.client.put(wire.config_key("west"), config, self.lease)
        await self.client.put(wire.node_key("west", "west-1"), wire.node_value(WEST, 2), self.lease)
        for prefix in PREFIXES:
            await self.client.put(wire.canary_key("west", prefix), b"now", self.lease)
        await self.raise_once()

    async def raise_once(self) -> None:
        await self.client.put(wire.leader_key("west"), b"west-a")

    async def lead(self) -> None:
        """Raise the counter for ever."""
        while True:
            with contextlib.suppress(EtcdError):
                await self.raise_once()
            await asyncio.sleep(COUNTER_S / 10)


@contextlib.asynccontextmanager
async def west_and_reader(server: Etcd) -> AsyncIterator[tuple[Publisher, Reader]]:
    """West has published, and its reader runs; nobody raises the counter yet."""
    async with client_of(server.endpoint) as writer, client_of(server.endpoint) as client:
        await writer.put("meshgate/v1/east/synced", b'{"store": "one"}')
        west, reader = Publisher(writer), Reader(client)
        await west.publish()
        async with reader.running():
            yield west, reader


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd without users."""
    with running(tmp_path) as server:
        yield server


def test_a_lease_that_somebody_keeps_alive_keeps_no_cluster(etcd: Etcd) -> None:
    """Its controller is away for longer than the keys may live: gone, as if they had ended."""

    async def run() -> None:
        async with west_and_reader(etcd) as (west, reader), kept_alive(etcd, [west.lease]):
            async with task_of(west.lead()):
                await asyncio.sleep(LONG_S)
                assert reader.has_west
            await until(lambda: not reader.has_west, "west is gone", 3 * COUNTER_S)
            assert reader.codes == ["M188"]
            assert (await west.client.get(wire.config_key("west"))) is not None
            await west.client.put(wire.node_key("west", "west-2"), b"x")
            await asyncio.sleep(1)
            assert not reader.has_west
            assert not reader.remote.findings, "what a cluster that is gone puts is not judged"
            await west.client.delete(wire.node_key("west", "west-2"))
            async with task_of(west.lead()):
                await until(lambda: reader.has_west, "west is back, and has put no key anew")
                assert reader.codes == []

    asyncio.run(run())


def test_without_a_counter_the_lease_decides(plain: Etcd) -> None:
    """Cilium has none, nor have our clusters of an earlier version."""

    async def run() -> None:
        async with west_and_reader(plain) as (west, reader):
            old = Publisher(west.client, counter_s=0)
            await old.publish()
            await asyncio.sleep(LONG_S)
            assert reader.has_west
            await west.client.revoke(old.lease)
            await until(lambda: not reader.has_west, "west is gone", 3)

    asyncio.run(run())


def test_a_store_that_is_away_or_takes_no_writes_ends_no_cluster(tmp_path: Path) -> None:
    """The reader's clock stands still: etcd is full, and then it is away."""

    async def run(server: Etcd) -> None:
        async with west_and_reader(server) as (west, reader), task_of(west.lead()):
            await fill(west.client)
            for _ in range(13):
                await asyncio.sleep(COUNTER_S / 10)
                assert reader.has_west
            await make_room(west.client)
            await asyncio.sleep(COUNTER_S)
            assert reader.has_west
            server.kill()
            await asyncio.sleep(LONG_S)
            server.start(f"--quota-backend-bytes={QUOTA}")
            for _ in range(13):
                await asyncio.sleep(COUNTER_S / 10)
                assert reader.has_west
            assert reader.codes == []

    with full_soon(tmp_path) as server:
        asyncio.run(run(server))


def test_a_replaced_store_ends_no_cluster(plain: Etcd) -> None:
    """West is not in it, so its counter is not either: what it had stays until it is back (D8)."""

    async def run() -> None:
        async with west_and_reader(plain) as (west, reader):
            async with task_of(west.lead()):
                await until(lambda: reader.has_west, "west is there")
                plain.kill()
            plain.wipe()
            plain.start()
            await west.client.put("meshgate/v1/east/synced", b'{"store": "two"}')
            await until(lambda: reader.view.held, "what west had is held")
            for _ in range(13):
                await asyncio.sleep(COUNTER_S / 10)
                assert reader.has_west
            await west.publish()
            async with task_of(west.lead()):
                await until(lambda: not reader.view.held, "west is back")
                await asyncio.sleep(LONG_S)
                assert reader.has_west

    asyncio.run(run())


def test_a_reader_that_may_not_read_counters_says_so(etcd: Etcd) -> None:
    """Then leases decide, as before."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as root:
            await add_user(root, "narrow", [Grant("cilium/")])
            await Publisher(root).publish()
            remote = RemoteTables(OwnFacts("east", 1), lambda _: None)
            async with client_of(etcd.endpoint_of("narrow")) as client:
                counters = Counters(client, "east", remote.take, list, LOOK_S)
                view = StoreView(client, "cilium/.heartbeat", {PREFIX: counters.take})
                async with task_of(view.run()), task_of(counters.run()):
                    await until(lambda: list(counters.findings()), "a finding")
                    assert [one.code for one in counters.findings()] == ["M189"]

    asyncio.run(run())


def test_a_controller_that_is_killed_is_gone_although_its_leases_live(tmp_path: Path) -> None:
    """Another cluster's controller withdraws it, says so, and has all of it when it is back."""

    async def run(mesh: controllers.Mesh) -> None:
        await controllers.start_etcd(mesh)
        for cluster in ("east", "west"):
            mesh.apply_all(cluster)
        east = mesh.controller("east", leaseSeconds=SHORT_S).start()
        west = mesh.controller("west", leaseSeconds=SHORT_S).start()
        await until(lambda: east.leads_and_is_ready() and west.leads_and_is_ready(), "both lead")
        await until(lambda: rows(west), "west has east")
        async with controllers.root(mesh) as client:
            kvs = [kv for kv in (await client.list("cilium/")).kvs if b"east" in kv.key]
        leases = {kv.lease for kv in kvs} - {0}
        other = next(user for user in mesh.pki.users if user.startswith("north"))
        async with kept_alive(mesh.etcd, sorted(leases), other):
            east.end(signal.SIGKILL)
            await until(lambda: not rows(west), "east is withdrawn", 5 * SHORT_S)
            await until(lambda: {"M170", "M188"} <= {f[0] for f in west.findings()}, "findings")
            async with controllers.root(mesh) as client:
                assert await client.get(wire.config_key("east")) is not None
            east.start()
            await until(lambda: rows(west), "east is back")
            await until(lambda: west.findings() == [], "no finding is left")

    def rows(west: controllers.Controller) -> list[dict[str, object]]:
        found = [row for row in west.rows("cluster") if row["cluster"] == "east"]
        return [row for row in found if row["nodes"] == 2 and row["synced"]]

    with controllers.mesh(tmp_path) as mesh:
        asyncio.run(run(mesh))
