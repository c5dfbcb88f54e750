"""What the store is told of a node's pods: whatever the kernel has, and of each pod by itself."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

from mesh.core.model import Pod, PodKey
from mesh.core.table import Table
from mesh.objects.kubernetes import PODS
from mesh.pods.links import Device, PodLink, PodLinks
from tests.fixtures.rooms import FakeEntries, Rooms
from tests.unit.core.kernels import simulate

GOOD, BAD = (PodKey("east", "shop", name) for name in ("good", "bad"))


class Links:
    """The kernel's part: it wires every pod but one."""

    name = "pod links"

    def __init__(self, devices: Table[PodKey, Device]) -> None:
        self.devices = devices
        self.rows: dict[PodKey, PodLink] = {}

    async def watch(self, _: Callable[[], None]) -> None:
        """Nobody takes anything away."""

    async def read(self) -> Mapping[PodKey, PodLink]:
        self.devices.mark_synced()
        return dict(self.rows)

    async def upsert(self, rows: Mapping[PodKey, PodLink]) -> Mapping[PodKey, Exception]:
        for key, row in rows.items():
            if key != BAD:
                self.rows[key] = row
                self.devices.upsert({key: Device(7, "m", "h", row.addresses)})
        return {BAD: OSError(errno.ERANGE, "too long")} if BAD in rows else {}

    async def delete(self, _: Collection[PodKey]) -> Mapping[PodKey, Exception]:
        return {}


class Keys:
    """The store's part."""

    name = "store"

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}

    async def read(self) -> Mapping[str, bytes]:
        return dict(self.rows)

    async def upsert(self, rows: Mapping[str, bytes]) -> Mapping[str, Exception]:
        self.rows |= rows
        return {}

    async def delete(self, keys: Collection[str]) -> Mapping[str, Exception]:
        for key in keys:
            self.rows.pop(key)
        return {}


def test_a_pod_that_cannot_be_wired_costs_its_own_key_only(tmp_path: Path) -> None:
    """The other pods of the node, and the key that says that these are all, are in the store."""
    rooms, keys = Rooms(tmp_path, ip_network("10.1.0.0/24")), Keys()
    rooms.egress.derive(rooms.loop)
    rooms.pods.derive(rooms.loop)
    rooms.pods.apply_links(rooms.loop, cast("PodLinks", Links(rooms.pods.devices)), keys)
    rooms.pods.namespaces.replace({"good": 11, "bad": 12})
    pods = {key: Pod("east", "shop", key.name, "east-1") for key in (GOOD, BAD)}
    rooms.objects[PODS].upsert(pods)

    async def story() -> None:
        task: asyncio.Task[Any] = asyncio.create_task(rooms.loop.run())
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while {"good", FakeEntries.synced[0]} - keys.rows.keys():
                    await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    simulate(story())
    assert set(keys.rows) == {"good", FakeEntries.synced[0]}
