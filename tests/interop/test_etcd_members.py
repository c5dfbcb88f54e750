"""Three members: the leader dies under load, and a member that lost its quorum."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from etcd_server import Etcd, client_of, task_of, three_members, until, until_async

from clustermesh.etcd.client import Client, EtcdAddress, Unavailable


async def leader_of(members: Sequence[Etcd]) -> Etcd:
    """The member that says of itself that it leads."""
    for member in members:
        async with client_of(member.endpoint) as client:
            status = await client.status()
            if status.leader == status.header.member_id:
                return member
    raise AssertionError("no member leads")


async def collect(client: Client, into: list[str]) -> None:
    async with contextlib.aclosing(client.watch("k/", 1)) as watch:
        async for seen in watch:
            into += [event.kv.key.decode() for event in seen.events]


def test_the_leaders_death_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Puts one after the other, the leader killed after the 30th: each event once, a short gap."""

    async def run(members: Sequence[Etcd]) -> None:
        endpoint = EtcdAddress([member.address for member in members])
        seen: list[str] = []
        gaps = [0.0]
        async with client_of(endpoint) as client, client_of(endpoint) as other:
            await client.put("warm", b"")
            async with task_of(collect(other, seen)):
                for number in range(100):
                    if number == 30:
                        (await leader_of(members)).kill()
                    started = time.monotonic()
                    await client.put(f"k/{number}", b"")
                    gaps.append(time.monotonic() - started)
                await until(lambda: len(set(seen)) == 100, "100 keys")
        assert sorted(set(seen)) == sorted(f"k/{number}" for number in range(100))
        assert len(seen) <= 101  # a put that is repeated without an answer may be two
        assert max(gaps) < 5

    with three_members(tmp_path) as members:
        asyncio.run(run(members))


def test_a_member_without_quorum_is_not_silent(tmp_path: Path) -> None:
    """Two of three killed: the watch on the third says so, a put ends in words, both recover."""

    async def run(members: Sequence[Etcd]) -> None:
        lone = members[0]
        async with client_of(lone.endpoint) as client, client_of(lone.endpoint) as watching:
            await client.put("k/0", b"")
            seen: list[str] = []
            async with task_of(collect(watching, seen)):
                await until(lambda: seen, "the first event")
                for member in members[1:]:
                    member.kill()

                async def says_so() -> bool:
                    return "no leader" in watching.problem

                await until_async(says_so, "the watch ends", 15)
                with pytest.raises(Unavailable, match=f"etcd at {lone.address}"):
                    await client.put("k/1", b"")
                members[1].start()
                await client.put("k/2", b"")
                await until(lambda: "k/2" in seen, "the watch goes on")

    with three_members(tmp_path) as members:
        asyncio.run(run(members))
