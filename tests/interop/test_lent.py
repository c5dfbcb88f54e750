"""The history of ports in a real etcd: found by address and day, and thrown away when it is old."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from etcd_server import client_of, running

from clustermesh import lent
from clustermesh.etcd.client import Client

V4, V6 = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
EAST, WEST = "meshgate/v1/east/lent/", "meshgate/v1/west/lent/"
KEYS = {
    f"{EAST}east-1/20261129/{V4}/00-1": b"yesterday",
    f"{EAST}east-1/20261130/{V4}/00-2": b"first",
    f"{EAST}east-1/20261130/{V4}/18-3": b"evening",
    f"{EAST}east-1/20261130/{V6}/18-4": b"another address",
    f"{EAST}east-1/20261130/198.51.100.100/18-5": b"a longer address",
    f"{EAST}east-10/20261128/{V4}/07-6": b"silent since",
    f"{EAST}east-2/20261201/{V4}/00-7": b"tomorrow",
    f"{WEST}west-1/20261130/{V4}/03-8": b"west",
    "meshgate/v1/east/leader": b"",
    "meshgate/v1/east2/pod/n/a/b": b"{}",
}


def test_a_question_reads_the_parts_of_its_address_and_days(tmp_path: Path) -> None:
    """Of a node that is silent the last day on which it said something."""

    async def scenario() -> None:
        async with client_of(server.endpoint) as client:
            for key, value in KEYS.items():
                await client.put(key, value)
            found = await lent.find(client, V4, "20261130", "20261130")
            assert {(one.cluster, one.node, one.value) for one in found} == {
                ("east", "east-1", b"first"),
                ("east", "east-1", b"evening"),
                ("east", "east-10", b"silent since"),
                ("west", "west-1", b"west"),
            }
            assert {one.place for one in found if one.node == "west-1"} == {f"20261130/{V4}/03-8"}
            found = await lent.find(client, V4, "20261130", "20261201")
            assert ("east-2", b"tomorrow") in {(one.node, one.value) for one in found}
            found = await lent.find(client, V6, "20261130", "20261130")
            assert [one.value for one in found] == [b"another address"]

    with running(tmp_path) as server:
        asyncio.run(scenario())


def test_what_is_older_than_thirty_days_goes_also_of_nodes_that_are_gone(tmp_path: Path) -> None:
    async def left(client: Client) -> set[bytes]:
        return {kv.value for kv in (await client.list(EAST)).kvs}

    async def scenario() -> None:
        async with client_of(server.endpoint) as client:
            for key, value in KEYS.items():
                await client.put(key, value)
            now = datetime(2026, 12, 30, 23, tzinfo=UTC)
            assert await lent.drop_old(client, "east", now) == 2
            assert await left(client) == {
                b"first", b"evening", b"another address", b"a longer address", b"tomorrow",
            }  # fmt: skip
            assert await lent.drop_old(client, "east", datetime(2027, 3, 1, tzinfo=UTC)) == 5
            assert await left(client) == set()
            assert [kv.value for kv in (await client.list(WEST)).kvs] == [b"west"]

    with running(tmp_path) as server:
        asyncio.run(scenario())
