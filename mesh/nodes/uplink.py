"""The uplink of this node: the datapath is loaded with its index, MTU and address.

The address is where tunnels to this node end. The Node object says it to the other nodes, and it
may stand on another device than the uplink (a fabric that routes to addresses of the loopback
device). It is kept in a file: a restarted agent does not know the object yet.

With ``auto`` in the configuration the uplink is the device that has this address. Before the
address is known, and where the loopback device has it, it is the device of the default route.

A change that stands for a while is followed: ``run`` ends, and the agent begins anew within its
process. Until then it is finding D607.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Protocol

from mesh.core.files import replace_file
from mesh.core.model import Finding
from mesh.core.table import Source
from mesh.kernel import DefaultRoute
from mesh.netlink import Event, Group, LinkEvent
from mesh.nodes.findings import UPLINK_CHANGED
from mesh.orders import Link

log = logging.getLogger(__name__)

#: Outer Ethernet, IPv4, UDP and VXLAN headers: ``OVERLAY_SIZE``. The agent needs the number before
#: the datapath is loaded.
OVERHEAD = 50
#: What an IPv6 link must carry (RFC 8200 5); Linux ends IPv6 on a device with less. What is too
#: big for the uplink then, the kernel cuts (``OVERLAY_INNER_MIN``).
LEAST_MTU = 1280
#: Seconds between looks in case an event was missed; and after a question that failed.
FULL_INTERVAL_S = 600.0
RETRY_S = 5.0
#: Seconds for which a change stands before it is followed, and until the agent begins anew again.
SETTLE_S, REST_S = 2.0, 10.0
#: Of the configuration: the device is found by its address.
AUTO = "auto"
#: Linux gives this index to the loopback device of every network namespace.
_LOOPBACK = 1
#: Name of the file that has the endpoint, in the agent's state directory.
FILE = "endpoint"


class MovedError(Exception):
    """The uplink is not what the datapath was loaded with; ``str`` says in which way."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel told the agent about the uplink; the datapath was loaded with it."""

    ifindex: int
    mtu: int
    endpoint: IPv4Address
    device: str = ""

    @property
    def pod_mtu(self) -> int:
        """What a pod may send."""
        return max(self.mtu - OVERHEAD, LEAST_MTU)


class Kernel(Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    def events(self, *groups: Group) -> AsyncIterator[Event]:
        """Events for ever; ``Lost`` first and after every gap."""

    async def link(self, name: str) -> Link:
        """One device; OSError ENODEV when there is none."""

    async def links(self) -> dict[str, Link]:
        """Devices by name."""

    async def host_addresses(self) -> dict[int, list[IPv4Address]]:
        """IPv4 addresses of global scope by ifindex."""

    async def default_route(self, version: int) -> DefaultRoute | None:
        """Where what is for the world goes; None: nowhere."""


def endpoint_of(
    wanted: Sequence[IPv4Address | None], ifindex: int, addresses: Mapping[int, list[IPv4Address]]
) -> IPv4Address | None:
    """The first of ``wanted`` that this host has; else the first of the uplink, then of others."""
    rest = (addresses[index] for index in sorted(addresses) if index != ifindex)
    have = [*addresses.get(ifindex, ()), *(address for found in rest for address in found)]
    return next((address for address in wanted if address in have), next(iter(have), None))


def device_of(
    wanted: Sequence[IPv4Address | None],
    addresses: Mapping[int, list[IPv4Address]],
    default: int | None,
) -> int | None:
    """Index of the device that has the first of ``wanted`` that any has; else ``default``."""
    for address in wanted:
        for index, found in addresses.items():
            if address in found:
                return default if index == _LOOPBACK else index
    return default


def changes(before: Facts, now: Facts) -> dict[str, str]:
    """What differs, in words, by the name of the field."""
    return {
        field.name: f"{getattr(now, field.name)}, {getattr(before, field.name)} at the start"
        for field in fields(Facts)
        if getattr(now, field.name) != getattr(before, field.name)
    }


def concerned(event: Event, name: str, ifindex: int) -> bool:
    """Whether an event may be about the uplink, which had ``ifindex``, or about the endpoint."""
    return not isinstance(event, LinkEvent) or event.name == name or event.ifindex == ifindex


class Uplink:
    """The device ``name``, which the kernel is asked about when something happens to it.

    ``wanted`` is the endpoint that the Node object says, once it is known; it may change whenever
    ``objects`` do.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        file: Path,
        wanted: Callable[[], IPv4Address | None] = lambda: None,
        objects: Source | None = None,
    ) -> None:
        self._kernel, self._name, self._file = kernel, name, file
        self._wanted = wanted
        self._asked_with: IPv4Address | None = None
        self._kept = _read(file)
        self._ifindex, self._device = 0, name
        self._wake = asyncio.Event()
        self._changes: dict[str, str] = {}
        if objects:
            objects.listen(self._look_at_object)

    async def facts(self) -> Facts:
        """The uplink as it is now; raises OSError when no tunnel can end there."""
        self._asked_with = self._wanted()
        wanted = (self._asked_with, self._kept)
        addresses = await self._kernel.host_addresses()
        link = await self._link(wanted, addresses)
        self._ifindex, self._device = link.ifindex, link.name
        endpoint = endpoint_of(wanted, link.ifindex, addresses)
        if endpoint is None:
            raise OSError(f"{link.name} has no IPv4 address: no tunnel can end here")
        return Facts(link.ifindex, link.mtu, endpoint, link.name)

    async def _link(
        self,
        wanted: Sequence[IPv4Address | None],
        addresses: Mapping[int, list[IPv4Address]],
    ) -> Link:
        if self._name != AUTO:
            return await self._kernel.link(self._name)
        default = await self._kernel.default_route(4)
        index = device_of(wanted, addresses, default.ifindex if default else None)
        for link in (await self._kernel.links()).values():
            if link.ifindex == index:
                return link
        text = "no device has the InternalIP of the Node object, and there is no default route"
        raise OSError(errno.ENODEV, f"uplink: auto: {text}: name the device in the configuration")

    def findings(self, node: str) -> Iterable[Finding]:
        """What differs from what the datapath was loaded with."""
        for field, text in self._changes.items():
            place = f"{node}/{self._device}"
            yield Finding(UPLINK_CHANGED, place, field, text, (f"node/{node}",))

    async def run(self, before: Facts, settle_s: float = SETTLE_S, rest_s: float = REST_S) -> None:
        """Compare with ``before`` whenever something happens, until cancelled.

        Raises:
            MovedError: what differs has stood for ``settle_s``, and ``rest_s`` have passed since
                the start, so that an uplink that comes and goes does not keep the agent busy.

        """
        self._keep(before.endpoint)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(self._kernel.events(Group.LINK, Group.ADDRESS)))
            group.create_task(self._look(before, settle_s, rest_s))

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if concerned(event, self._device, self._ifindex):
                self._wake.set()

    def _look_at_object(self) -> None:
        if self._wanted() != self._asked_with:
            self._wake.set()

    async def _look(self, before: Facts, settle_s: float, rest_s: float) -> None:
        clock = asyncio.get_running_loop().time
        began, pause = clock(), 0.0
        seen, since = before, began
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            try:
                now = await self.facts()
            except OSError as error:
                self._changes, seen, pause = {"": str(error)}, before, RETRY_S
                continue
            self._changes, pause = changes(before, now), FULL_INTERVAL_S
            if now != seen:
                seen, since = now, clock()
            if self._changes:
                pause = max(since + settle_s, began + rest_s) - clock()
            if pause <= 0:
                self._keep(now.endpoint)
                raise MovedError("; ".join(f"{k}: {text}" for k, text in self._changes.items()))

    def _keep(self, endpoint: IPv4Address) -> None:
        if endpoint == self._kept:
            return
        self._kept = endpoint
        try:
            replace_file(self._file, f"{endpoint}\n", durable=True)
        except OSError as error:
            log.warning("event=endpoint_not_kept file=%s reason=%s", self._file, error)


def _read(file: Path) -> IPv4Address | None:
    try:
        return IPv4Address(file.read_text().strip())
    except (OSError, UnicodeDecodeError, AddressValueError):
        return None
