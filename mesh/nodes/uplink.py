"""The uplink of this node: the datapath is loaded with its index, MTU and address.

A later change is finding D607, because the programs keep what they were loaded with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from ipaddress import IPv4Address

from mesh.core.model import Finding
from mesh.kernel import Kernel
from mesh.netlink import AddressEvent, Event, Group, LinkEvent
from mesh.nodes.findings import UPLINK_CHANGED

#: Outer Ethernet, IPv4, UDP and VXLAN headers: ``OVERLAY_SIZE``. The agent needs the number before
#: the datapath is loaded.
OVERHEAD = 50
#: Seconds between looks in case an event was missed; and after a question that failed.
FULL_INTERVAL_S = 600.0
RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel told the agent about the uplink; the datapath was loaded with it."""

    ifindex: int
    mtu: int
    endpoint: IPv4Address

    @property
    def pod_mtu(self) -> int:
        """What a pod may send."""
        return self.mtu - OVERHEAD


def changes(before: Facts, now: Facts) -> dict[str, str]:
    """What differs, in words, by the name of the field."""
    return {
        field.name: f"{getattr(now, field.name)}, {getattr(before, field.name)} at the start"
        for field in fields(Facts)
        if getattr(now, field.name) != getattr(before, field.name)
    }


def concerned(event: Event, name: str, ifindex: int) -> bool:
    """Whether an event may be about the uplink, which had ``ifindex`` when it was last seen."""
    if isinstance(event, LinkEvent):
        return event.name == name or event.ifindex == ifindex
    return not isinstance(event, AddressEvent) or event.ifindex == ifindex


class Uplink:
    """The device ``name``, which the kernel is asked about when something happens to it."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel = kernel
        self._name = name
        self._ifindex = 0
        self._wake = asyncio.Event()
        self._changes: dict[str, str] = {}

    async def facts(self) -> Facts:
        """The uplink as it is now; raises OSError when no tunnel can end there."""
        link = await self._kernel.link(self._name)
        self._ifindex = link.ifindex
        endpoint = next(iter(await self._kernel.addresses(link.ifindex)), None)
        if endpoint is None:
            raise OSError(f"{link.name} has no IPv4 address: no tunnel can end here")
        return Facts(link.ifindex, link.mtu, endpoint)

    def findings(self, node: str) -> Iterable[Finding]:
        """What differs from what the datapath was loaded with."""
        for field, text in self._changes.items():
            place, again = f"{node}/{self._name}", f"{text}: restart the agent"
            yield Finding(UPLINK_CHANGED, place, field, again, (f"node/{node}",))

    async def run(self, before: Facts) -> None:
        """Compare with ``before`` whenever something happens, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(self._kernel.events(Group.LINK, Group.ADDRESS)))
            group.create_task(self._look(before))

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if concerned(event, self._name, self._ifindex):
                self._wake.set()

    async def _look(self, before: Facts) -> None:
        pause = FULL_INTERVAL_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            try:
                self._changes, pause = changes(before, await self.facts()), FULL_INTERVAL_S
            except OSError as error:
                self._changes, pause = {"": str(error)}, RETRY_S
