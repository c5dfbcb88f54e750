"""Pods of this node: the veth that carries a pod's addresses.

``pod_links`` is pure; ``PodLinks`` is the target. What a pod was given is read
back from the kernel (the alias of its veth), so a restarted agent finds it there.
A packet of a pod is dropped until its row is in ``mg_pod_addr``: wiring never has to hurry.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, replace
from ipaddress import ip_address
from typing import Protocol

from mesh.core.model import IP, FurtherAddresses, LinkKey, Network, Pod, PodKey, Sandbox
from mesh.core.reconcile import Errors
from mesh.core.table import Table
from mesh.host.settings import ACCEPT_RA, FORWARD_4, FORWARD_6, RP_FILTER
from mesh.kernel import GATEWAY_V4, GATEWAY_V6, Kernel, set_sysctl
from mesh.netlink import Event, Group, LinkEvent, Lost, OwnRouteGone
from mesh.orders import Link, VethEnd

POD_DEVICE = "eth0"
#: Host ends of pods' veths have names that start so.
DEVICE_PREFIX = "mgp"
_ALIAS = "meshgate pod "
#: Bytes that an alias may have (IFALIASZ), and characters of another name (ALTIFNAMSIZ).
_ALIAS_MAX, _NAME_MAX = 255, 127
#: A pod's name in an alias has three parts, a sandbox's has four.
_KEYS: Mapping[int, type[LinkKey]] = {3: PodKey, 4: Sandbox}
#: Stands in the alias for names that are too long for it: they are other names of the device then.
_LONG = "*"
#: Seconds for which events are collected, and between two looks at everything.
COLLECT_S, PAUSE_S = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class PodLink:
    """How a pod is to be connected.

    ``netns`` is a path and ``inode`` the namespace behind it (a pod made anew under its old name
    has another one); ``mtu`` is the L3 MTU of both ends. The host knows nothing of ``further``.
    """

    netns: str
    inode: int
    device: str
    addresses: tuple[IP, ...]
    mtu: int
    inside: str = POD_DEVICE
    further: FurtherAddresses | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """What the kernel gave a wired pod, and the addresses that it was wired with."""

    ifindex: int
    mac: str
    host_mac: str
    addresses: tuple[IP, ...]


def pod_links(
    pods: Mapping[PodKey, Pod], namespaces: Mapping[str, int], pattern: str, mtu: int
) -> dict[PodKey, PodLink]:
    """Links of the pods that have addresses and whose network namespace exists.

    ``namespaces`` maps the path of each network namespace to its inode.
    """
    rows = {}
    for key, pod in pods.items():
        path = netns_path(pattern, key)
        if pod.addresses and path in namespaces:
            rows[key] = PodLink(path, namespaces[path], device_name(key), pod.addresses, mtu)
    return rows


def netns_path(pattern: str, key: PodKey) -> str:
    """The network namespace of a pod."""
    return pattern.format(cluster=key.cluster, namespace=key.namespace, name=key.name)


def device_name(key: LinkKey) -> str:
    """Name of the host end; at most 15 characters, stable over restarts."""
    digest = hashlib.sha256("/".join(astuple(key)).encode()).hexdigest()
    return f"{DEVICE_PREFIX}{digest[:11]}"


def alias_of(key: LinkKey, addresses: Iterable[IP]) -> str:
    """What the host end's alias says once everything about the pod is wired."""
    name, rest = "/".join(astuple(key)), " ".join(map(str, addresses))
    alias = f"{_ALIAS}{name} {rest}"
    return alias if len(alias) <= _ALIAS_MAX else f"{_ALIAS}{_LONG} {rest}"


def other_names_of(key: LinkKey, addresses: Iterable[IP]) -> list[str]:
    """The further names of a host end whose alias has no room for the pod's.

    They have no slash, and no other device has them: ``mgp…_0_cluster_namespace_na``,
    ``mgp…_1_me``. Names of Kubernetes objects have no underscore.
    """
    if _LONG not in alias_of(key, addresses):
        return []
    device, text = device_name(key), "_".join(astuple(key))
    room = _NAME_MAX - len(f"{device}_0_")
    parts = (text[at : at + room] for at in range(0, len(text), room))
    return [f"{device}_{number}_{part}" for number, part in enumerate(parts)]


def parse_alias(
    alias: str, other_names: Iterable[str] = ()
) -> tuple[LinkKey, tuple[IP, ...]] | None:
    """The pod and addresses of an alias; None when it is not ours, or other names are missing."""
    if not alias.startswith(_ALIAS):
        return None
    name, *addresses = alias.removeprefix(_ALIAS).split()
    if name == _LONG:
        name = "".join(one.split("_", 2)[2] for one in sorted(other_names)).replace("_", "/")
    parts = name.split("/")
    if len(parts) not in _KEYS:
        return None
    return _KEYS[len(parts)](*parts), tuple(map(ip_address, addresses))


class Attach(Protocol):
    """Attaches the programs of a pod to the host end of its veth, or detaches them."""

    def pod(self, device: str) -> None:
        """Attach or update; raises OSError."""

    def forget(self, device: str) -> None:
        """Remove the pins of a device that is gone."""


class PodLinks:
    """Target: veth pairs, with addresses, routes, neighbours and programs.

    The alias is written last, so a half-wired pod is never read back as done. ``devices`` gets a
    row for each wired pod.
    """

    name = "pod links"

    def __init__(
        self,
        kernel: Kernel,
        attach: Attach,
        devices: Table[LinkKey, Device],
        quickly: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``quickly`` is a section in which the kernel need not wait long (``mesh/host/grace``)."""
        self._kernel = kernel
        self._attach = attach
        self._devices = devices
        self._quickly = quickly
        self._wired: dict[LinkKey, PodLink] = {}
        self._unrouted: set[IP] = set()  # addresses whose route has gone

    async def held(self) -> dict[LinkKey, tuple[IP, ...]]:
        """Addresses that the kernel says pods have."""
        parsed = (_pod_of(link) for link in (await self._kernel.links()).values())
        return dict(pair for pair in parsed if pair)

    async def watch(self, recheck: Callable[[], None]) -> None:
        """Follow the host's routes to pods and the pods' devices until cancelled.

        ``recheck`` is called when one of them has been taken away: then ``read`` lacks the pod.
        """
        groups = (Group.LINK, Group.ROUTE, Group.ROUTE_V6)
        due = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(_paced(due, recheck))
            async for event in self._kernel.events(*groups, own=True):
                if await self._takes_away(event):
                    due.set()

    async def _takes_away(self, event: Event) -> bool:
        """Whether an event, or a gap between events, is about what a wired pod needs."""
        if isinstance(event, LinkEvent):
            if event.up or event.gone or event.name not in self._device_names():
                return False
            now = await self._kernel.find(event.name)  # it was down, too, when it was made
            return now is not None and not now.up
        gone: Collection[IP] = ()
        if isinstance(event, Lost):
            found = await self._kernel.host_routes()
            gone = self._addresses().difference(*found.values())
        elif isinstance(event, OwnRouteGone) and event.prefix.num_addresses == 1:
            gone = self._addresses() & {event.prefix.network_address}
        self._unrouted.update(gone)
        return bool(gone)

    def _device_names(self) -> set[str]:
        return {row.device for row in self._wired.values()}

    def _addresses(self) -> set[IP]:
        return {address for row in self._devices.rows.values() for address in row.addresses}

    async def read(self) -> Mapping[LinkKey, PodLink]:
        """Links as they are; of one that lacks its route or is down no row is as desired.

        So it is connected anew, or goes if nobody wants it any more. Meanwhile its device stands.
        """
        rows: dict[LinkKey, PodLink] = {}
        devices: dict[LinkKey, Device] = {}
        links = await self._kernel.links()
        self._forget_gone({link.name for link in links.values()})
        for link in links.values():
            parsed = _pod_of(link)
            if parsed is None:
                continue
            key, addresses = parsed
            lacks = not link.up or bool(self._unrouted.intersection(addresses))
            rows[key] = self._row(key, link, addresses, 0 if lacks else link.mtu)
            known = self._devices.rows.get(key) if lacks else None
            devices[key] = known or _device(link, addresses)
        self._devices.replace(devices)
        return rows

    def _row(self, key: LinkKey, link: Link, addresses: tuple[IP, ...], mtu: int) -> PodLink:
        wired = self._wired.get(key)
        if wired is None:
            return PodLink("", 0, link.name, addresses, mtu)
        return replace(wired, device=link.name, addresses=addresses, mtu=mtu)

    def _forget_gone(self, present: Collection[str]) -> None:
        """A device goes with its pod's namespace. Whoever reads then has no row of it to delete."""
        gone = {key: row.device for key, row in self._wired.items() if row.device not in present}
        for key, device in gone.items():
            self._attach.forget(device)
            del self._wired[key]

    async def upsert(self, rows: Mapping[LinkKey, PodLink]) -> Errors[LinkKey]:
        errors: dict[LinkKey, Exception] = {}
        for key, row in rows.items():
            await asyncio.sleep(0)  # a pod takes some ms of kernel time
            self._unrouted.difference_update(row.addresses)  # first: one may go again meanwhile
            try:
                link = await self._wire(key, row)
            except OSError as error:
                errors[key] = error
                continue
            self._wired[key] = row
            self._devices.upsert({key: _device(link, row.addresses)})
        return errors

    async def delete(self, keys: Collection[LinkKey]) -> Errors[LinkKey]:
        errors: dict[LinkKey, Exception] = {}
        for key in keys:
            try:
                with self._quickly():
                    await self._kernel.delete_link(device_name(key))
                self._attach.forget(device_name(key))
            except OSError as error:
                errors[key] = error
                continue
            if device := self._devices.rows.get(key):
                self._unrouted.difference_update(device.addresses)
            self._wired.pop(key, None)
            self._devices.delete([key])
        return errors

    async def _wire(self, key: LinkKey, row: PodLink) -> Link:
        link = await self._kernel.find(row.device)
        mac, host_mac = _macs(row.addresses)
        async with Kernel.open_in(row.netns) as inside:
            here = await inside.find(row.inside)
            if link and (here is None or link.mac != host_mac):
                with self._quickly():
                    await self._kernel.delete_link(row.device)  # of an earlier pod of this name
                self._attach.forget(row.device)
                link = None
            is_new = link is None
            if link is None:
                if here:
                    raise OSError(errno.EEXIST, f"{row.netns} has another {row.inside}")
                link = await self._kernel.add_veth(
                    VethEnd(row.device, host_mac), VethEnd(row.inside, mac), row.netns, row.mtu
                )
            elif here and here.mtu != row.mtu:
                await inside.set_mtu(here.ifindex, row.mtu)
            if link.mtu != row.mtu:  # last: ``read`` sees it when both ends have it
                await self._kernel.set_mtu(link.ifindex, row.mtu)
            with self._quickly():
                self._attach.pod(row.device)
            await self._host_side(link, row, mac)
            await self._pod_side(inside, row, host_mac)
            if row.further or not is_new:  # a new device has neither, and a look takes 3 ms
                former = await _former(inside, row, self._wired.get(key), is_new=is_new)
                await _further(inside, row, *former)
        names = other_names_of(key, row.addresses)
        if missing := [name for name in names if name not in link.other_names]:
            await self._kernel.add_names(link.ifindex, missing)
        await self._kernel.set_alias(link.ifindex, alias_of(key, row.addresses))
        return link

    async def _host_side(self, link: Link, row: PodLink, mac: str) -> None:
        for name, value in ((ACCEPT_RA, "0"), (RP_FILTER, "0"), (FORWARD_4, "1"), (FORWARD_6, "1")):
            set_sysctl(name.format(device=row.device), value)
        await self._kernel.set_up(link.ifindex)
        for address in row.addresses:
            await self._kernel.add_neighbour(link.ifindex, address, mac)
            await self._kernel.add_host_route(link.ifindex, address)

    async def _pod_side(self, inside: Kernel, row: PodLink, host_mac: str) -> None:
        await inside.set_up((await inside.link("lo")).ifindex)
        ifindex = (await inside.link(row.inside)).ifindex
        await inside.set_up(ifindex)
        for address in row.addresses:
            await inside.add_address(ifindex, address)
            gateway = GATEWAY_V4 if address.version == 4 else GATEWAY_V6
            await inside.add_neighbour(ifindex, gateway, host_mac)
        await inside.add_default_routes(ifindex, {a.version for a in row.addresses})


async def _former(
    inside: Kernel, row: PodLink, before: PodLink | None, *, is_new: bool
) -> tuple[Collection[IP], Collection[Network]]:
    """Further addresses that a pod had, and destinations; those of an earlier agent have routes.

    Nothing else in the pod has routes of ours with a source. A new device has nothing.
    """
    if is_new:
        return (), ()
    if before is None:
        ifindex = (await inside.link(row.inside)).ifindex
        found = await inside.source_routes(ifindex)
        return set(found.values()), found
    return before.further.addresses if before.further else (), _sources(before.further)


async def _further(
    inside: Kernel, row: PodLink, addresses: Collection[IP], destinations: Collection[Network]
) -> None:
    """Further addresses of a pod, and routes with them as source; those of before go."""
    ifindex = (await inside.link(row.inside)).ifindex
    now = row.further
    wanted = _sources(now)
    for prefix in destinations:
        if prefix not in wanted:
            await inside.delete_source_route(ifindex, prefix)
    for address in addresses:
        if address not in ((*now.addresses, *row.addresses) if now else row.addresses):
            await inside.delete_address(ifindex, address)
    for address in now.addresses if now else ():
        await inside.add_address(ifindex, address, further=address not in row.addresses)
    for prefix, source in wanted.items():
        await inside.add_source_route(ifindex, prefix, source)


def _sources(further: FurtherAddresses | None) -> dict[Network, IP]:
    """The source of each destination. A whole family is two halves: its default route stays."""
    if further is None:
        return {}
    sources = {address.version: address for address in reversed(further.addresses)}
    return {
        prefix: sources[destination.version]
        for destination in further.destinations
        if destination.version in sources
        for prefix in (destination.subnets() if destination.prefixlen == 0 else (destination,))
    }


async def _paced(due: asyncio.Event, act: Callable[[], None]) -> None:
    while True:
        await due.wait()
        await asyncio.sleep(COLLECT_S)
        due.clear()
        act()
        await asyncio.sleep(PAUSE_S)


def _pod_of(link: Link) -> tuple[LinkKey, tuple[IP, ...]] | None:
    return parse_alias(link.alias, [one for one in link.other_names if one.startswith(link.name)])


def _macs(addresses: tuple[IP, ...]) -> tuple[str, str]:
    """MAC of the pod's end and of the host's, locally administered, from the first address."""
    tail = addresses[0].packed[-4:].hex(":")
    return f"0a:58:{tail}", f"0e:58:{tail}"


def _device(link: Link, addresses: tuple[IP, ...]) -> Device:
    mac, host_mac = _macs(addresses)
    return Device(link.ifindex, mac, host_mac, addresses)
