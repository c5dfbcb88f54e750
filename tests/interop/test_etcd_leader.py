"""Leadership on a real etcd: one at a time, ended by the own clock, fenced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd, Leadership, client_of, running, task_of, until, until_async

from clustermesh.etcd.client import Client
from clustermesh.etcd.requests import put_op
from clustermesh.remote.wire import HEARTBEAT
from clustermesh.store.heartbeat import Heartbeat
from clustermesh.store.leader import Deposed, Fence, Leader, fenced_txn

KEY = "meshgate/v1/east/leader"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running(tmp_path) as server:
        yield server


class Candidate:
    """A leader whose work is to be there."""

    def __init__(self, client: Client, instance: str, ttl_s: int = 2, hung_s: float = 30) -> None:
        self.leader = Leader(client, "east", instance, ttl_s, hung_s)
        self.reigns: list[tuple[float, float]] = []

    async def lead(self, _: Fence) -> None:
        since = time.monotonic()
        try:
            await asyncio.Event().wait()
        finally:
            self.reigns.append((since, time.monotonic()))

    def run(self) -> Any:
        return task_of(self.leader.run(self.lead))


def test_two_candidates_one_leads_and_a_clean_end_hands_over_at_once(etcd: Etcd) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client, client_of(etcd.endpoint) as other:
            one, two = Candidate(client, "one", 10), Candidate(other, "two", 10)
            async with two.run():
                async with one.run():
                    await until(lambda: one.leader.leads or two.leader.leads, "one leads")
                    first, second = (one, two) if one.leader.leads else (two, one)
                    await until(lambda: second.leader.holder == first.leader.instance, "standby")
                    assert not second.leader.leads
                    with pytest.raises(Deposed, match=f"{first.leader.instance} does"):
                        second.leader.current()
                    assert (await client.get(KEY)).value.decode() == first.leader.instance
                await until(lambda: two.leader.leads, "the other takes over", 2)
            assert await client.get(KEY) is None

    asyncio.run(run())


def test_a_predecessor_of_the_same_name_is_replaced_at_once(etcd: Etcd) -> None:
    """A killed controller's key has 60 s left; its successor leads now, a third name waits."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            old = (await client.grant(60)).ID
            revision = await client.put(KEY, b"one", old)
            dead = Fence(KEY, revision, old)
            await fenced_txn(client, dead, (), [put_op("a", b"1")])
            other, same = Candidate(client, "two", 10), Candidate(client, "one", 10)
            async with other.run():
                await until(lambda: other.leader.holder == "one", "two stands by")
                async with same.run():
                    await until(lambda: same.leader.leads or other.leader.leads, "succession", 2)
                    with pytest.raises(Deposed, match="nothing was written"):
                        await fenced_txn(client, dead, (), [put_op("a", b"2")])
                    assert (await client.get("a")).value == b"1"

    asyncio.run(run())


def test_a_twin_of_the_same_name_does_not_take_turns(etcd: Etcd) -> None:
    """Two live controllers of one name: the deposed one stands by and says why."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client, client_of(etcd.endpoint) as other:
            one, twin = Candidate(client, "one"), Candidate(other, "one")
            async with one.run():
                await until(lambda: one.leader.leads, "the first leads")
                async with twin.run():
                    await until(lambda: twin.leader.leads, "its twin replaces it")
                    await until(
                        lambda: one.leader.problem == "another controller named one leads",
                        "the first says why it stands by",
                    )
                    assert twin.leader.leads
                    assert not one.leader.leads
                    assert len(one.reigns) == 1

    asyncio.run(run())


def test_leading_ends_by_the_own_clock_when_etcd_is_silent(etcd: Etcd) -> None:
    """SIGSTOP of the server: the work is cancelled within the lease of the last answer."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            one = Candidate(client, "one", 3)
            async with one.run():
                await until(lambda: one.leader.leads, "leads")
                etcd.signal(signal.SIGSTOP)
                stopped = time.monotonic()
                await until(lambda: one.reigns, "the work is cancelled", 5)
                assert 1 < one.reigns[0][1] - stopped < 3.2
                with pytest.raises(Deposed):
                    one.leader.current()
                etcd.signal(signal.SIGCONT)
                await until(lambda: one.leader.leads, "leads again", 10)

    asyncio.run(run())


def test_a_short_outage_of_etcd_costs_no_leadership(etcd: Etcd) -> None:
    """Kill -9 and start within the lease: the same leadership, the same fence."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            one = Candidate(client, "one", 10)
            async with one.run():
                await until(lambda: one.leader.leads, "leads")
                fence = one.leader.current()
                etcd.kill()
                await until_async(lambda: asyncio.sleep(2, result=True), "2 s without etcd")
                etcd.start()
                await fenced_txn(client, fence, (), [put_op("a", b"1")])
                assert one.leader.current() == fence
                assert not one.reigns

    asyncio.run(run())


def test_a_replaced_store_ends_the_leadership(etcd: Etcd) -> None:
    """The lease is unknown to the new store; the old fence writes nothing there."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            one = Candidate(client, "one", 3)
            async with one.run():
                await until(lambda: one.leader.leads, "leads")
                fence = one.leader.current()
                etcd.kill()
                etcd.wipe()
                etcd.start()
                await until(lambda: one.reigns and one.leader.leads, "leads again", 15)
                assert one.leader.current() != fence
                with pytest.raises(Deposed):
                    await fenced_txn(client, fence, (), [put_op("a", b"1")])

    asyncio.run(run())


def test_an_equal_revision_in_a_new_store_is_no_fence(etcd: Etcd) -> None:
    """Another leadership with our very create revision: the lease tells them apart."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            lease = (await client.grant(60)).ID
            revision = await client.put(KEY, b"two", lease)
            with pytest.raises(Deposed, match="belongs to two"):
                await fenced_txn(client, Fence(KEY, revision, lease + 1), (), [put_op("a", b"")])

    asyncio.run(run())


@contextlib.contextmanager
def holder(etcd: Etcd, instance: str, ttl_s: int) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("holder.py")
    process = subprocess.Popen(
        [sys.executable, str(script), etcd.address, instance, str(ttl_s)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_holder_that_slept_past_its_lease_writes_nothing(etcd: Etcd) -> None:
    """SIGSTOP in the middle of a stream of fenced writes, SIGCONT after another one leads."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:

            async def value(instance: str) -> bytes:
                kv = await client.get(f"counter/{instance}")
                return kv.value if kv else b""

            async def has_written(instance: str) -> bool:
                return bool(await value(instance))

            with holder(etcd, "one", 2) as one:
                await until_async(lambda: has_written("one"), "one writes")
                with holder(etcd, "two", 2):
                    one.send_signal(signal.SIGSTOP)
                    stopped = time.monotonic()
                    await until_async(lambda: has_written("two"), "two leads and writes")
                    assert time.monotonic() - stopped > 1
                    before = await value("one")
                    one.send_signal(signal.SIGCONT)
                    assert one.stdout is not None
                    lines = [await asyncio.to_thread(one.stdout.readline) for _ in range(2)]
                    assert lines[0].startswith("leads")
                    assert lines[1].startswith(("deposed", "cancelled")), lines
                    assert await value("one") == before
                    assert (await client.get(KEY)).value == b"two"

    asyncio.run(run())


def stand_still(seconds: float) -> None:
    """The event loop does nothing else meanwhile."""
    time.sleep(seconds)


def test_a_busy_event_loop_loses_no_leadership(etcd: Etcd) -> None:
    """The loop stands still for three leases: the thread renews, the fence is the same."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            one = Candidate(client, "one", 2)
            async with one.run():
                await until(lambda: one.leader.leads, "leads")
                fence = one.leader.current()
                with holder(etcd, "two", 2):
                    stand_still(6)
                    assert one.leader.current() == fence
                    await fenced_txn(client, fence, (), [put_op("a", b"1")])
                assert (await client.get(KEY)).create_revision == fence.create_revision
                assert not one.reigns

    asyncio.run(run())


def test_a_hung_event_loop_loses_the_leadership(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands still beyond the time it may: another one leads, and nothing is written here."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            one = Candidate(client, "one", 2, hung_s=2)
            async with one.run():
                await until(lambda: one.leader.leads, "leads")
                fence = one.leader.current()
                with holder(etcd, "two", 2) as two:
                    stand_still(9)
                    with pytest.raises(Deposed, match="run out"):
                        one.leader.current()
                    assert not one.leader.leads
                    with pytest.raises(Deposed, match="belongs to two"):
                        await fenced_txn(client, fence, (), [put_op("a", b"1")])
                    assert two.stdout is not None
                    assert two.stdout.readline().startswith("leads")
                    await until(lambda: one.reigns, "the work is cancelled", 5)
                    reason = "the event loop stood still for more than 2 s"
                    await until(lambda: reason in caplog.text, "the reason is logged", 5)

    asyncio.run(run())


def test_no_thread_is_left_of_a_leadership_that_ended(etcd: Etcd) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            one = Candidate(client, "one", 2)
            async with one.run():
                await until(lambda: one.leader.leads, "leads")
                assert renewers() == 1
            await until(lambda: renewers() == 0, "the thread has ended", 5)

    asyncio.run(run())


def renewers() -> int:
    return sum(thread.name == "renew" for thread in threading.enumerate())


def test_the_heartbeat_is_put_again_and_again_by_who_leads(etcd: Etcd) -> None:
    """A deposed leader puts it no more, and says why; a reader of Cilium's counts the puts."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            fence = await Leadership().take(client)
            heartbeat = Heartbeat(client, every_s=0.05)
            async with task_of(heartbeat.run(fence)):

                async def put_twice() -> bool:
                    beat = await client.get(HEARTBEAT)
                    return beat is not None and beat.version >= 2 and not beat.lease

                await until_async(put_twice, "two puts, without a lease")
                assert heartbeat.problem == ""
                await Leadership().take(client)
                await until(lambda: "belongs to" in heartbeat.problem, "it is fenced")

    asyncio.run(run())
