"""SIDs, numbers of VRFs and tenant addresses as claims on a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_server import Etcd, Leadership, client_of, running

from clustermesh.etcd.client import Client
from clustermesh.store.allocator import Allocator
from clustermesh.store.leading import ClaimTarget, Wants
from mesh.core.feature import ControllerFeature, Want
from mesh.core.model import Claim
from srv6.vrf.controller import VRFController
from tests.fixtures.vrfs import Cluster, vrf

POOL = "fcbb:bb01:1::_48_64"
BLUE, GREEN = Want("sid", POOL, "blue/End.DT46"), Want("sid", POOL, "green/End.DT46")


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running(tmp_path / "etcd") as server:
        yield server


class Claimant:
    """The claims of a leader, as its loop makes and releases them."""

    def __init__(self, allocator: Allocator, wants: Wants) -> None:
        self.allocator, self.wants = allocator, wants
        self._target = ClaimTarget(allocator, wants)

    @classmethod
    async def of(cls, client: Client, features: list[ControllerFeature], file: Path) -> Claimant:
        wants = Wants(features)
        fence = await Leadership().take(client)
        made = Allocator(client, "east", wants.nouns, fence, file, wants.rests)
        assert not await made.recover()
        return cls(made, wants)

    async def want(self, *wants: Want) -> dict[str, Claim]:
        """The claims by owner when these are all that is wanted."""
        now = dict.fromkeys(wants, True)
        self.wants.wanted.replace(now)
        held = await self._target.read()
        await self._target.upsert([want for want in now if want not in held])
        await self._target.delete([want for want in held if want not in now])
        return {claim.owner: claim for claim in self.allocator.claims.values()}


def room(state: Path) -> VRFController:
    return Cluster(state).controller


def test_a_released_sid_rests_ten_minutes_for_all_but_its_owner(etcd: Etcd, tmp_path: Path) -> None:
    """A router may hold a stale route for as long: its packets must not reach another tenant."""

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claimant = await Claimant.of(client, [room(tmp_path)], tmp_path / "claims")
            now = claimant.allocator.clock()
            claimant.allocator.clock = lambda: now
            assert (await claimant.want(BLUE))["blue/End.DT46"].number == 0xE000
            assert await claimant.want() == {}
            claimant.allocator.clock = lambda: now + 599
            assert (await claimant.want(GREEN))["green/End.DT46"].number == 0xE001
            both = await claimant.want(BLUE, GREEN)
            assert both["blue/End.DT46"].number == 0xE000, "its owner need not wait"
            await claimant.want()
            claimant.allocator.clock = lambda: now + 599 + 600
            red = Want("sid", POOL, "red/End.DT46")
            assert (await claimant.want(red))["red/End.DT46"].number == 0xE000

    asyncio.run(run())


def test_a_new_leader_keeps_what_rests(etcd: Etcd, tmp_path: Path) -> None:
    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            features: list[ControllerFeature] = [room(tmp_path)]
            first = await Claimant.of(client, features, tmp_path / "claims")
            await first.want(BLUE)
            await first.want()
            later = await Claimant.of(client, features, tmp_path / "other")
            assert (await later.want(GREEN))["green/End.DT46"].number == 0xE001

    asyncio.run(run())


def test_named_functions_and_addresses_are_got_or_refused(etcd: Etcd, tmp_path: Path) -> None:
    """A named number comes before others ask, and nobody gets another one in its place."""
    named = Want("sid", POOL, "blue/End.DT46@57344")
    first = Want("tenant", "blue@10.50.0.0_24_32", "shop/app-1")
    second = Want("tenant", "blue@10.50.0.0_24_32", "shop/app-2@10.50.0.1")
    third = Want("tenant", "blue@10.50.0.0_24_32", "shop/app-3@10.50.0.1")

    async def run() -> None:
        async with client_of(etcd.endpoint) as client:
            claimant = await Claimant.of(client, [room(tmp_path)], tmp_path / "claims")
            claims = await claimant.want(named, GREEN, first, second, third)
            assert {owner: claim.number for owner, claim in claims.items()} == {
                "blue/End.DT46@57344": 0xE000,
                "green/End.DT46": 0xE001,
                "shop/app-1": 2,
                "shop/app-2@10.50.0.1": 1,
            }
            assert list(claimant.wants.refused.rows) == [third]
            claims = await claimant.want(named, third)
            assert "shop/app-3@10.50.0.1" not in claims
            now = claimant.allocator.clock()
            claimant.allocator.clock = lambda: now + 121
            claims = await claimant.want(named, third)
            assert claims["shop/app-3@10.50.0.1"].number == 1

    asyncio.run(run())


def test_what_the_room_wants_becomes_claims_that_it_reads(etcd: Etcd, tmp_path: Path) -> None:
    """From objects to keys in etcd; a wiped etcd gets the same numbers back."""

    async def run() -> None:
        cluster = Cluster(tmp_path)
        cluster.put(vrf("blue"), vrf("green"))
        cluster.put_pod("app-1", "blue", 1)
        cluster.sync()
        wants = [want for table in cluster.controller.wants for want in table.rows]
        async with client_of(etcd.endpoint) as client:
            claimant = await Claimant.of(client, [cluster.controller], tmp_path / "claims")
            before = await claimant.want(*wants)
            assert set(before) == {"blue", "green", "blue/End.DT46"}
            keys = [kv.key.decode() for kv in (await client.list("meshgate/v1/east/sid/")).kvs]
            assert keys == [
                f"meshgate/v1/east/sid/{POOL}/number/57344",
                f"meshgate/v1/east/sid/{POOL}/owner/blue/End.DT46",
            ]
        etcd.kill()
        etcd.wipe()
        etcd.start()
        async with client_of(etcd.endpoint) as client:
            again = await Claimant.of(client, [cluster.controller], tmp_path / "claims")
            after = await again.want(*wants)
        assert {o: c.number for o, c in after.items()} == {o: c.number for o, c in before.items()}

    asyncio.run(run())
