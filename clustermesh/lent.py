"""The history of ports in the store: read for a question, and thrown away when it is old.

Keys are ``meshgate/v1/<cluster>/lent/<node>/<day>/<address>/<hour>-<part>``; what is in them is the
affair of ``gateway/history.py``. Nodes are found by leaps from one to the next, so a question costs
the parts of the address and day, not the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

from clustermesh.etcd.auth import LENT
from clustermesh.etcd.client import Client, EtcdAddress, EtcdError
from clustermesh.etcd.names import key_bytes, key_text
from clustermesh.etcd.requests import prefix_end

_ALL = "meshgate/v1/"
#: Days that the history is kept.
KEPT_DAYS = 30
#: Seconds between looks for what is old.
LOOK_S = 3600.0


@dataclass(frozen=True, slots=True)
class LentPart:
    """A part of a node's history; ``place`` is its key below the node: day, address, hour."""

    cluster: str
    node: str
    place: str
    value: bytes


async def names(client: Client, prefix: str) -> Sequence[str]:
    """The names that stand directly below a prefix. Raises EtcdError."""
    found: list[str] = []
    first, end = prefix, prefix_end(key_bytes(prefix))
    while keys := await client.keys(first, end, 1):
        found.append(key_text(keys[0]).removeprefix(prefix).partition("/")[0])
        first = f"{prefix}{found[-1]}0"  # the first key behind all that go on with a slash
    return found


async def find(
    client: Client, address: IPv4Address | IPv6Address, earliest: str, latest: str
) -> Sequence[LentPart]:
    """What each node of each cluster says of an address, of these days.

    A node that says nothing of the earliest one is asked for the last day before that it says
    something of. Days are ``YYYYMMDD``. Raises EtcdError.
    """
    found: list[LentPart] = []
    for cluster in await names(client, _ALL):
        place = f"{_ALL}{cluster}/{LENT}"
        nodes = await names(client, place)
        parts = await asyncio.gather(
            *(_of_node(client, f"{place}{node}/", address, earliest, latest) for node in nodes)
        )
        for node, some in zip(nodes, parts, strict=True):
            found += [LentPart(cluster, node, where, value) for where, value in some]
    return found


async def _of_node(
    client: Client,
    prefix: str,
    address: IPv4Address | IPv6Address,
    earliest: str,
    latest: str,
) -> Sequence[tuple[str, bytes]]:
    days = {earliest, latest}
    known = [day for day in await names(client, prefix) if day < earliest]
    if not await _has(client, f"{prefix}{earliest}/{address}/"):
        for day in reversed(known):
            if await _has(client, f"{prefix}{day}/{address}/"):
                days.add(day)
                break
    rows: list[tuple[str, bytes]] = []
    for day in sorted(days):
        listed = await client.list(f"{prefix}{day}/{address}/")
        rows += [(key_text(kv.key).removeprefix(prefix), kv.value) for kv in listed.kvs]
    return rows


async def _has(client: Client, prefix: str) -> bool:
    return bool(await client.keys(prefix, prefix_end(key_bytes(prefix)), 1))


def ask(
    etcd: EtcdAddress, address: IPv4Address | IPv6Address, earliest: str, latest: str
) -> Sequence[LentPart]:
    """``find`` for a command. Raises EtcdError."""

    async def run() -> Sequence[LentPart]:
        client = Client(etcd)
        try:
            return await find(client, address, earliest, latest)
        finally:
            await client.aclose()

    return asyncio.run(run())


async def drop_old(client: Client, cluster: str, now: datetime) -> int:
    """Throw away what is older than ``KEPT_DAYS``, also of nodes that are gone."""
    day = f"{now - timedelta(days=KEPT_DAYS):%Y%m%d}"
    place = f"{_ALL}{cluster}/{LENT}"
    return sum(
        [
            await client.delete(f"{place}{node}/", key_bytes(f"{place}{node}/{day}"))
            for node in await names(client, place)
        ]
    )


async def keep_young(client: Client, cluster: str, leads: Callable[[], bool]) -> None:
    """``drop_old`` for ever, while this controller leads."""
    while True:
        if leads():
            with suppress(EtcdError):  # the next look finds it
                await drop_old(client, cluster, datetime.now(UTC))
        await asyncio.sleep(LOOK_S)
