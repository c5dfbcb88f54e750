"""Pods that another CNI connects: where they are, and our programs on their devices.

    namespaces              -> inside: what stands on eth0 of each network namespace
    pods' objects, inside   -> found: a pod is where eth0 has the addresses of its status
    found                   -> programs on the host's device and on eth0; rows of ``devices``

We make no link, route, address or setting here, and take none away. Only veths have an end in the
host that we can stand on. The kernel says which device that is (``IFLA_LINK``), both ways.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mesh.core.model import IP, Attachment, Finding, LinkKey, Pod, PodKey, Sandbox, pod_of
from mesh.core.reconcile import Errors
from mesh.core.table import Table
from mesh.kernel import Kernel
from mesh.orders import Link
from mesh.pods.findings import NO_HOST_DEVICE, NOT_FOUND
from mesh.pods.links import POD_DEVICE, Device, device_name
from mesh.pods.local import no_attachments, rank

log = logging.getLogger(__name__)

#: Folder of network namespaces that container runtimes make.
FOLDER = "/run/netns"
#: Seconds between looks for new namespaces; and at one that has no eth0 with an address yet.
INTERVAL_S, RETRY_S = 0.2, 1.0
#: Seconds after which a namespace without eth0 is some other program's: it is looked at seldom.
YOUNG_S, SELDOM_S = 60.0, 30.0
#: Seconds for which a pod with an address may be without a namespace before that is a finding.
SETTLE_S = 10.0

Addresses = tuple[IP, ...]


@dataclass(frozen=True, slots=True)
class Inside:
    """eth0 of a network namespace; ``outside`` is the ifindex of its other end, 0: it has none."""

    inode: int
    ifindex: int
    outside: int
    mac: str
    addresses: Addresses
    adopted: bool = False
    """It was there when the agent started: its pod may have connections."""


@dataclass(frozen=True, slots=True)
class FoundPod:
    """A pod that is connected: through the host's device ``ifindex``, and its own eth0."""

    netns: str
    inode: int
    ifindex: int
    inside: int
    mac: str
    addresses: Addresses
    adopted: bool = False


def ordered(addresses: Iterable[IP]) -> Addresses:
    """The same addresses in the one order in which two sets of them compare."""
    return tuple(sorted(addresses, key=lambda one: (one.version, int(one))))


def reported(
    pods: Mapping[PodKey, Pod], attached: Mapping[Sandbox, Attachment]
) -> dict[LinkKey, Addresses]:
    """Addresses by pod, of those to which the other CNI has given some.

    The status of a pod says them when its containers run. Before, a chained ADD does.
    """
    found: dict[LinkKey, Addresses] = {
        key: pod.reported for key, pod in pods.items() if pod.reported
    }
    for key, row in sorted(attached.items(), key=lambda one: rank(one[1])):
        if row.addresses and key.pod in pods:
            found[key.pod] = row.addresses
    return found


def found_pods(
    _: Addresses, pods: Mapping[LinkKey, Pod], inside: Mapping[str, Inside]
) -> dict[LinkKey, FoundPod]:
    """The pod that has these addresses, where eth0 has them.

    Of two pods the one that goes on counts; of two namespaces the newer one.
    """
    if not pods or not inside:
        return {}
    key = min(pods, key=lambda key: (pods[key].terminating, pod_of(key)))
    netns, row = max(inside.items(), key=lambda one: (one[1].inode, one[0]))
    if not row.outside:
        return {}
    addresses = pods[key].addresses
    return {
        key: FoundPod(netns, row.inode, row.outside, row.ifindex, row.mac, addresses, row.adopted)
    }


class Door(Protocol):
    """The part of ``mesh/kernel.py`` that is needed, in one network namespace."""

    async def find(self, name: str) -> Link | None:
        """One device, None when there is none."""

    async def addresses(self, ifindex: int) -> Addresses:
        """Addresses of global scope of a device."""


Entered = Callable[[str], AbstractAsyncContextManager[Door]]


@asynccontextmanager
async def _open_in(path: str) -> AsyncIterator[Door]:
    async with Kernel.open_in(path) as kernel:
        yield kernel


class Insides:
    """Looks into each network namespace of ``namespaces`` until eth0 there has addresses.

    ``inside`` gets a row for each such namespace. It is synced when all that were there at the
    start have been looked at. A namespace of ``attached``, chained ADDs, is looked at at once.
    """

    def __init__(
        self,
        namespaces: Table[str, int],
        inside: Table[str, Inside],
        open_in: Entered = _open_in,
        clock: Callable[[], float] = time.monotonic,
        *,
        attached: Table[Sandbox, Attachment] | None = None,
    ) -> None:
        self._namespaces, self._inside = namespaces, inside
        self._attached = attached if attached is not None else no_attachments()
        self._open_in, self._clock = open_in, clock
        self._due: dict[tuple[str, int], float] = {}  # when to look again
        self._since: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        asked = asyncio.Event()
        self._attached.listen(asked.set)
        while True:
            asked.clear()
            if self._namespaces.synced:
                await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await asked.wait()

    async def look(self) -> None:
        """Look once at what is due."""
        asked = {row.netns: row for row in self._attached.rows.values() if row.addresses}
        there = {**self._namespaces.rows, **{path: row.inode for path, row in asked.items()}}
        given = {row.inode: ordered(row.addresses) for row in asked.values()}
        rows, now = self._inside.rows, self._clock()
        self._inside.delete([path for path, row in rows.items() if there.get(path) != row.inode])
        for known in self._due.keys() - there.items():
            del self._due[known], self._since[known]
        for one in there.items():
            row, wanted = rows.get(one[0]), given.get(one[1])
            if row and wanted in (None, row.addresses):
                continue
            if self._due.get(one, now) <= now or (wanted and self._is_young(one, now)):
                await self._look_at(*one, now)
        self._inside.mark_synced()

    def _is_young(self, one: tuple[str, int], now: float) -> bool:
        return now < self._since.setdefault(one, now) + YOUNG_S

    async def _look_at(self, path: str, inode: int, now: float) -> None:
        young = self._is_young((path, inode), now)
        self._due[path, inode] = now + (RETRY_S if young else SELDOM_S)
        try:
            async with self._open_in(path) as kernel:
                link = await kernel.find(POD_DEVICE)
                addresses = await kernel.addresses(link.ifindex) if link else ()
        except OSError as error:
            log.debug("event=namespace_not_read path=%s reason=%s", path, error)
            return
        if link and addresses:
            last = self._inside.rows.get(path)
            adopted = last.adopted if last else not self._inside.synced
            ends = link.ifindex, link.other
            row = Inside(inode, *ends, link.mac, ordered(addresses), adopted)
            self._inside.upsert({path: row})


class Attach(Protocol):
    """Attaches the programs of a pod to both ends of its veth, or detaches them."""

    def both_ends(self, name: str, device: str, netns: Path, inside: str) -> None:
        """Attach or update, before all others; raises OSError."""

    def detach(self, name: str) -> None:
        """Take the programs of a pod off its devices."""


class Host(Protocol):
    """The part of ``mesh/kernel.py`` that is needed of the host."""

    def links(self) -> Awaitable[Mapping[str, Link]]:
        """Devices by name."""


class FoundPods:
    """Target: our programs on the devices of pods that another CNI has connected.

    ``devices`` gets a row for each. Pins are named as those of our own links (``device_name``).
    """

    name = "pods of another CNI"

    def __init__(
        self,
        host: Host,
        attach: Attach,
        devices: Table[LinkKey, Device],
        quickly: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``quickly`` is a section in which the kernel need not wait long (``mesh/host/grace``)."""
        self._host, self._attach, self._devices = host, attach, devices
        self._quickly = quickly
        self._attached: dict[LinkKey, FoundPod] = {}
        #: Pods that cannot be attached to.
        self.failed: set[LinkKey] = set()

    async def held(self) -> dict[LinkKey, Addresses]:
        """Nothing on the other CNI's devices says whose they are: the pods' objects do."""
        return {}

    async def watch(self, recheck: Callable[[], None]) -> None:
        """Devices are the other CNI's; a pod's own goes with its namespace, which is looked at."""

    async def read(self) -> Mapping[LinkKey, FoundPod]:
        return dict(self._attached)

    async def upsert(self, rows: Mapping[LinkKey, FoundPod]) -> Errors[LinkKey]:
        errors: dict[LinkKey, Exception] = {}
        by_ifindex = {link.ifindex: link for link in (await self._host.links()).values()}
        for key, row in rows.items():
            self.failed.discard(key)
            try:
                with self._quickly():
                    link = self._attach_to(key, row, by_ifindex.get(row.ifindex))
            except OSError as error:
                errors[key] = error
                self.failed.add(key)
                continue
            self._attached[key] = row
            device = Device(row.ifindex, row.mac, link.mac, row.addresses)
            self._devices.upsert({key: device})
        return errors

    def _attach_to(self, key: LinkKey, row: FoundPod, link: Link | None) -> Link:
        if link is None or link.other != row.inside:
            text = f"{POD_DEVICE} of {row.netns} has no other end in this host's network namespace"
            raise OSError(errno.ENODEV, text)
        name, before = device_name(key), self._attached.get(key)
        if before and (before.inode, before.ifindex) != (row.inode, row.ifindex):
            self._attach.detach(name)  # of an earlier pod of this name
        self._attach.both_ends(name, link.name, Path(row.netns), POD_DEVICE)
        return link

    async def delete(self, keys: Collection[LinkKey]) -> Errors[LinkKey]:
        errors: dict[LinkKey, Exception] = {}
        for key in keys:
            try:
                with self._quickly():
                    self._attach.detach(device_name(key))
            except OSError as error:
                errors[key] = error
                continue
            self._attached.pop(key, None)
            self.failed.discard(key)
            self._devices.delete([key])
        return errors


class Missing:
    """Pods that have addresses, and of which nobody knows where they are; each since when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[LinkKey, float] = {}

    def findings(
        self,
        pods: Mapping[LinkKey, Pod],
        found: Collection[LinkKey],
        inside: Mapping[str, Inside],
    ) -> Iterable[Finding]:
        """What is wrong with pods that are not found: we take nothing of theirs."""
        now, ends = self._clock(), {row.addresses: row.outside for row in inside.values()}
        for key in self._since.keys() - pods.keys():
            del self._since[key]
        for key, pod in pods.items():
            if key in found or not pod.addresses:
                self._since.pop(key, None)
                continue
            if now < self._since.setdefault(key, now) + SETTLE_S:
                continue
            place = f"Pod/{key.namespace}/{key.name}"
            if ends.get(ordered(pod.addresses)) == 0:
                text = f"its {POD_DEVICE} is no veth: egress policies, global services and other "
                text += "clusters do not reach it"
                yield Finding(NO_HOST_DEVICE, place, "status.podIPs", text)
            else:
                addresses = ", ".join(map(str, pod.addresses))
                text = f"no network namespace has an {POD_DEVICE} with {addresses}: egress "
                text += "policies, global services and other clusters do not reach it"
                yield Finding(NOT_FOUND, place, "status.podIPs", text)
