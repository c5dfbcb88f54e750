"""Claims on a real etcd: no number twice, no owner with two, whoever races, sleeps or is wiped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd, Leadership, client_of, running, task_of, until_async

from clustermesh.etcd.client import Client, KeyList
from clustermesh.etcd.requests import put_op
from clustermesh.store import claims as records
from clustermesh.store.allocator import Allocator, PoolFull
from clustermesh.store.follow import Follow, entry_of
from clustermesh.store.leader import Deposed, Fence
from mesh.core.model import Claim, ClaimKey
from mesh.identity.controller import numbers_of
from tests.fixtures.numbers import scattered

OWN = "meshgate/v1/east/"
CLAIMED = ("identity", "podcidr", "locator", "block")
EAST = numbers_of(1)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running(tmp_path / "etcd") as server:
        yield server


async def fence_of(client: Client) -> Fence:
    return await Leadership().take(client)


async def allocator(client: Client, snapshot: Path | None = None) -> Allocator:
    made = Allocator(client, "east", CLAIMED, await fence_of(client), snapshot)
    assert not await made.recover()
    return made


def labels(count: int) -> list[str]:
    return [f"k8s:app=a{number};k8s:io.kubernetes.pod.namespace=shop;" for number in range(count)]


async def held(client: Client) -> dict[ClaimKey, Claim]:
    """What the store says, checked for pairs that do not fit."""
    listing: KeyList = await client.list(OWN)
    found = dict(records.rows("east", CLAIMED, map(entry_of, listing.kvs)).held)
    owners = {
        kv.key.decode(): records.decode_owner(kv.value)
        for kv in listing.kvs
        if b"/owner/" in kv.key
    }
    assert owners == {
        records.owner_key("east", claim.noun, claim.pool, claim.owner): claim.number
        for claim in found.values()
    }
    return found


def test_500_identities_at_once(etcd: Etcd, capsys: pytest.CaptureFixture[str]) -> None:
    """Lowest free numbers in order; asking again gives the same; printed: claims per second."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claims = await allocator(client)
            started = time.monotonic()
            claimed = await claims.claim_all("identity", "labels", labels(500), EAST)
            took = time.monotonic() - started
            assert not claimed.refused
            numbers = [claimed.claims[owner].number for owner in labels(500)]
            assert numbers == list(range(65537, 65537 + 500))
            again = await claims.claim_all("identity", "labels", labels(501), EAST)
            assert {o: again.claims[o] for o in labels(500)} == claimed.claims
            assert await held(client) == claims.claims
            other = await allocator(client)  # a new leader reads the same
            assert other.claims == claims.claims
            started = time.monotonic()
            for number in range(50):
                await other.claim("block", "198.51.100.10", f"east-1/{number}", range(252))
            single = time.monotonic() - started
        with capsys.disabled():
            sys.stdout.write(
                f"\netcd: 500 identities in {1000 * took:.0f} ms, {500 / took:.0f} claims/s; "
                f"one at a time {50 / single:.0f} claims/s\n"
            )

    asyncio.run(run())


def test_racing_allocators_of_one_leadership_share_no_number(etcd: Etcd) -> None:
    """Eight allocators with separate memories, all fenced alike, claim for the same 60 owners."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            fence = await fence_of(client)
            several = [Allocator(client, "east", CLAIMED, fence) for _ in range(8)]
            for one in several:
                await one.recover()
            results = await asyncio.gather(
                *(
                    one.claim_all(
                        "identity", "labels", random.sample(labels(60), 60), range(100, 170)
                    )
                    for one in several
                )
            )
            first = {owner: claim.number for owner, claim in results[0].claims.items()}
            assert len(set(first.values())) == 60
            for result in results:
                assert {o: claim.number for o, claim in result.claims.items()} == first
            assert len(await held(client)) == 60

    asyncio.run(run())


def test_a_released_number_rests_and_its_next_owner_has_a_greater_epoch(etcd: Etcd) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claims = await allocator(client)
            now = time.time()
            claims.clock = lambda: now
            old = await claims.claim("block", "198.51.100.10", "east-1/0", range(2))
            await claims.release("block", "198.51.100.10", "east-1/0")
            await claims.release("block", "198.51.100.10", "east-1/0")
            assert claims.claims == {}
            later = await allocator(client)  # the rest counts for the next leader as well
            later.clock = lambda: now + 119
            one = await later.claim("block", "198.51.100.10", "east-2/0", range(2))
            with pytest.raises(PoolFull, match=r"block pool 198.51.100.10 of east: no number"):
                await later.claim("block", "198.51.100.10", "east-2/1", range(2))
            later.clock = lambda: now + 121
            new = await later.claim("block", "198.51.100.10", "east-2/1", range(2))
            assert (old.number, one.number, new.number) == (0, 1, 0)
            assert old.epoch < one.epoch < new.epoch
            assert set((await held(client)).values()) == {one, new}

    asyncio.run(run())


def test_a_released_number_is_free_when_its_owner_has_let_it_go(etcd: Etcd) -> None:
    """However long it has rested; the owner itself has it back at once."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            gone = set[str]()
            let_go = {"block": lambda _, claim: claim.owner in gone}
            fence = await fence_of(client)
            claims = Allocator(client, "east", CLAIMED, fence, None, {"block": 0.0}, let_go)
            await claims.recover()
            for again in range(2):
                old = await claims.claim("block", "198.51.100.10", "east-1/0", range(1))
                await claims.release("block", "198.51.100.10", "east-1/0")
                if again:
                    claims = Allocator(client, "east", CLAIMED, fence, None, {"block": 0.0}, let_go)
                    await claims.recover()  # the next leader asks, too
                with pytest.raises(PoolFull):
                    await claims.claim("block", "198.51.100.10", "east-2/0", range(1))
            gone.add("east-1/0")
            new = await claims.claim("block", "198.51.100.10", "east-2/0", range(1))
            assert (new.number, new.epoch > old.epoch) == (0, True)

    asyncio.run(run())


def test_a_full_pool_refuses_by_name_and_serves_who_fits(etcd: Etcd) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claims = await allocator(client)
            claimed = await claims.claim_all("podcidr", "10.1.0.0_16_24", "abcde", range(3))
            assert [claim.number for claim in claimed.claims.values()] == [0, 1, 2]
            assert set(claimed.refused) == {"d", "e"}
            assert "podcidr pool 10.1.0.0_16_24 of east" in str(claimed.refused["d"])

    asyncio.run(run())


def test_foreign_keys_in_the_subtree_are_named_and_left_alone(etcd: Etcd) -> None:
    """An unreadable number is not given away; a contradicting owner gets an error of its own."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            await client.put(f"{OWN}identity/labels/number/65537", b"garbage")
            await client.put(f"{OWN}identity/labels/owner/k8s:app=b;", b'{"number": 65538}')
            await client.put(f"{OWN}pod/n/number/1", b"{}")
            claims = await allocator(client)
            assert list(claims.unreadable) == [f"{OWN}identity/labels/number/65537"]
            claimed = await claims.claim_all(
                "identity", "labels", ["k8s:app=a;", "k8s:app=b;", "k8s:app=c;"], EAST
            )
            assert {o: c.number for o, c in claimed.claims.items()} == {
                "k8s:app=a;": 65538,
                "k8s:app=c;": 65539,
            }
            assert "owner/k8s:app=b; says 65538" in str(claimed.refused["k8s:app=b;"])

    asyncio.run(run())


def test_a_deposed_allocator_claims_releases_and_restores_nothing(etcd: Etcd) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claims = await allocator(client)
            await claims.claim("identity", "labels", "a", EAST)
            await fence_of(client)
            before = (await client.list(OWN)).kvs
            with pytest.raises(Deposed):
                await claims.claim_all("identity", "labels", labels(200), EAST)
            with pytest.raises(Deposed):
                await claims.release("identity", "labels", "a")
            await client.delete(claims.synced_key)
            with pytest.raises(Deposed):
                await claims.recover()
            assert [kv for kv in before if kv.key != claims.synced_key.encode()] == list(
                (await client.list(OWN)).kvs
            )

    asyncio.run(run())


def replace(etcd: Etcd) -> None:
    etcd.kill()
    etcd.wipe()
    etcd.start()


@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "restarted"])
def test_a_wiped_store_gets_the_same_numbers(
    etcd: Etcd, tmp_path: Path, *, restarted: bool
) -> None:
    """From memory, or by a restarted controller from its file; also what rests, also epochs."""
    snapshot = tmp_path / "state" / "claims.json"

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            leadership = Leadership()
            await leadership.take(client)
            claims = Allocator(client, "east", CLAIMED, leadership, snapshot)
            assert not await claims.recover()
            await claims.claim_all("identity", "labels", labels(300), scattered(EAST))
            await claims.claim_all("podcidr", "10.1.0.0_16_24", ["east-1", "east-2"], range(256))
            await claims.claim_all("block", "::10", [f"east-2/{k}" for k in range(4)], range(252))
            await claims.release("block", "::10", "east-2/1")
            before, store = claims.claims, await client.get(claims.synced_key)
            replace(etcd)
            await leadership.take(client)
            if restarted:
                claims = Allocator(client, "east", CLAIMED, leadership, snapshot)
            assert not await claims.recover()
            assert claims.claims == before
            assert await held(client) == before
            now = await client.get(claims.synced_key)
            assert store is not None
            assert now is not None
            assert json.loads(now.value)["store"] != json.loads(store.value)["store"]
            newest = max(claim.epoch for claim in before.values())
            fresh = await claims.claim("block", "::10", "east-1/0", range(252))
            assert fresh.number == 4  # 1 still rests
            assert fresh.epoch > newest > now.mod_revision
            assert (await allocator(client)).claims == {**before, claims_key(fresh): fresh}

    asyncio.run(run())


def claims_key(claim: Claim) -> ClaimKey:
    return ClaimKey(claim.noun, claim.pool, claim.number)


def test_a_standby_that_watched_restores_what_its_leader_had(etcd: Etcd) -> None:
    """The leader dies with the store; the standby knows its claims from following them."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client, client_of(etcd.endpoint) as other:
            leadership = Leadership()
            standby = Allocator(other, "east", CLAIMED, leadership)
            async with task_of(Follow(other, OWN, standby.observe).run()):
                leader = await allocator(client)
                await leader.claim_all("identity", "labels", labels(130), scattered(EAST))
                await leader.release("identity", "labels", labels(1)[0])

                async def caught_up() -> bool:
                    return standby.claims == leader.claims

                await until_async(caught_up, "the standby has seen all")
                replace(etcd)
                await leadership.take(other)
                assert not await standby.recover()
                assert await held(other) == leader.claims

    asyncio.run(run())


def giants() -> list[str]:
    """Label texts of 50 kB, and one that etcd takes in no request."""
    return [*(f"k8s:big={'x' * 50_000}{n};" for n in range(40)), f"k8s:giant={'x' * 1_600_000};"]


def test_an_owner_that_etcd_refuses_costs_no_other_its_number(etcd: Etcd) -> None:
    """Txns are cut by bytes, and the one claim that fails alone says so."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claims = await allocator(client)
            owners = [*labels(150), *giants()]
            claimed = await claims.claim_all("identity", "labels", owners, EAST)
            assert set(claimed.claims) == set(owners[:-1])
            [(owner, error)] = claimed.refused.items()
            assert (owner, "too large" in str(error) or "larger than" in str(error)) == (
                owners[-1],
                True,
            )
            assert len(await held(client)) == len(owners) - 1
            again = await claims.claim_all("identity", "labels", ["k8s:new=1;"], EAST)
            assert again.refused == {}

    asyncio.run(run())


def test_a_record_that_etcd_refuses_is_lost_alone(etcd: Etcd) -> None:
    """A store that was replaced gets all others back."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claims = Allocator(client, "east", CLAIMED, await fence_of(client))
            more = [
                records.Record(ClaimKey("identity", "labels", 65_600 + at), owner, 1)
                for at, owner in enumerate([*labels(100), *giants()])
            ]
            [lost] = await claims.recover(more)
            assert "could not be restored for k8s:giant" in lost
            assert "too large" in lost[-200:] or "larger than" in lost[-200:]
            assert len(await held(client)) == len(more) - 1

    asyncio.run(run())


def test_a_restore_that_was_cut_short_is_finished(etcd: Etcd) -> None:
    """Deposed in the middle: the next leadership restores the rest, a conflict is named."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            leadership = Leadership()
            await leadership.take(client)
            claims = Allocator(client, "east", CLAIMED, leadership)
            await claims.recover()
            await claims.claim_all("identity", "labels", labels(200), EAST)
            before = claims.claims
            replace(etcd)
            with pytest.raises(Deposed):
                await claims.recover()  # its fence is of the old store
            assert not (await client.list(OWN)).kvs
            await leadership.take(client)
            ops = [
                put_op(f"{OWN}identity/labels/number/65540", b'{"owner":"x","released":0}'),
                put_op(f"{OWN}identity/labels/owner/x", b'{"number":65540}'),
            ]
            await client.txn((), ops, repeat=True)
            loser = before[ClaimKey("identity", "labels", 65540)].owner
            lost = f"{OWN}identity/labels/number/65540 could not be restored for {loser}"
            assert await claims.recover() == [lost]
            kept = {key: claim for key, claim in before.items() if key.number != 65540}
            there = await held(client)
            assert {key: there[key] for key in kept} == kept
            assert len(there) == 200

    asyncio.run(run())


class Racer:
    """A racer.py process and the lines it says."""

    def __init__(self, etcd: Etcd, instance: str, state: Path) -> None:
        script = Path(__file__).with_name("racer.py")
        self.instance = instance
        self.log = state / f"{instance}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, etcd.address, instance, "2", "500", state],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(script.parents[2])},
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [words for words in said if words["event"] == event]


class Race:
    """Several racers, and somebody who stops whichever leads."""

    def __init__(self, racers: Sequence[Racer], client: Client) -> None:
        self.racers = racers
        self.client = client

    async def leader(self) -> Racer | None:
        kv = await self.client.get(Leadership.KEY)
        return next((r for r in self.racers if kv and r.instance == kv.value.decode()), None)

    async def stop_the_leader(self) -> bool:
        """SIGSTOP, until another leads and works, then SIGCONT. False when a racer has ended."""
        await until_async(self._led_or_over, "somebody leads")
        leader = await self.leader()
        if leader is None or self._over():
            return False
        await asyncio.sleep(random.uniform(0.05, 0.25))
        leader.process.send_signal(signal.SIGSTOP)

        async def passed_on() -> bool:
            return await self.leader() not in (leader, None) or self._over()

        await until_async(passed_on, "another leads")
        await asyncio.sleep(random.uniform(0, 0.1))
        leader.process.send_signal(signal.SIGCONT)
        return not self._over()

    async def finish(self) -> None:
        async def all_ended() -> bool:
            return all(racer.ended for racer in self.racers)

        # 500 claims are 200 Txns and 200 files, each with an fsync that a busy disk draws out.
        await until_async(all_ended, "every racer has every number", 120)

    def _over(self) -> bool:
        return any(racer.ended for racer in self.racers)

    async def _led_or_over(self) -> bool:
        return self._over() or await self.leader() is not None


async def history(client: Client) -> list[list[Any]]:
    """Every revision of the store as its events."""
    now = (await client.range("x")).header.revision
    events: dict[int, list[Any]] = {}
    async with contextlib.aclosing(client.watch("", 1)) as watch:
        async for seen in watch:
            for event in seen.events:
                events.setdefault(event.kv.mod_revision, []).append(event)
            if seen.events and max(events) >= now:
                return [events[revision] for revision in sorted(events)]
    raise AssertionError("the watch has ended")


def writes_by_leader(revisions: list[list[Any]]) -> Counter[str]:
    """Check each revision: who wrote claims led at that moment, and no claim is written twice."""
    leader, written, writes = "", set[str](), Counter[str]()
    for events in revisions:
        keys = {event.kv.key.decode(): event for event in events}
        claims = {key for key in keys if "/number/" in key or "/owner/" in key}
        if claims:
            audits = [key.removeprefix("audit/") for key in keys if key.startswith("audit/")]
            assert audits == [leader], f"{audits} wrote {claims}, but {leader!r} led"
            assert not claims & written, f"written twice: {claims & written}"
            written |= claims
            writes[leader] += 1
        if Leadership.KEY in keys:
            event = keys[Leadership.KEY]
            leader = "" if event.type else event.kv.value.decode()
    return writes


def test_two_controllers_stopped_past_their_lease_never_double_a_claim(
    etcd: Etcd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 label sets, SIGSTOP of the leader past its 2 s lease, SIGCONT while the other leads.

    No number twice, no label set with two numbers, no write by a deposed one: each revision of the
    store's whole history is checked against who led then.
    """
    racers = [Racer(etcd, f"racer{number}", tmp_path) for number in (1, 2)]

    async def run() -> str:
        async with client_of(etcd.endpoint) as client:
            race, stops = Race(racers, client), 0
            while stops < 6 and await race.stop_the_leader():
                stops += 1
            await race.finish()
            assert [racer.process.returncode for racer in racers] == [0, 0]
            writes = writes_by_leader(await history(client))
            there = {claim.owner: claim.number for claim in (await held(client)).values()}
            assert len(there) == len(set(there.values())) == 500
            said = [words for racer in racers for words in racer.said("claimed")]
            assert {(words["owner"], words["number"]) for words in said} == set(there.items())
            deposed = sum(len(racer.said("deposed")) for racer in racers)
            return f"{stops} stops, Txns by leader {dict(writes)}, {deposed} deposed in a write"

    try:
        summary = asyncio.run(run())
        with capsys.disabled():
            sys.stdout.write(f"\netcd: {summary}\n")
    finally:
        for racer in racers:
            racer.process.kill()
            racer.process.wait()
