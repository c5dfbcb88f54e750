"""Whether the kernel knows native routes to the pod CIDRs of other nodes: asked, and followed.

A route counts when it is more specific than a default route and leads out of a device that is not
ours. So the routes that we add change no answer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from mesh.core.model import Network
from mesh.core.table import Table
from mesh.netlink import Event, Group, RouteEvent
from mesh.nodes.asking import Asking, Events
from mesh.nodes.rows import Behind, Native
from mesh.orders import Link

GROUPS = (
    Group.LINK, Group.ADDRESS, Group.ROUTE, Group.ROUTE_V6, Group.RULE, Group.RULE_V6,
    Group.NEXT_HOP,
)  # fmt: skip
#: Devices whose names start so are ours: pods, and the overlay.
OURS = "mg"
LOOPBACK = "lo"


class Kernel(Events, Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    async def links(self) -> dict[str, Link]:
        """Devices by name."""

    async def natively_routed(
        self, prefixes: Collection[Network], ifindex: int
    ) -> dict[Network, bool]:
        """Whether a route out of the device leads to each prefix."""


def order(prefix: Network) -> tuple[int, ...]:
    """Family, then address."""
    return prefix.version, int(prefix.network_address)


def concerned(events: Iterable[Event], prefixes: Sequence[Network]) -> set[Network]:
    """The prefixes to which other routes may lead after the events; ``prefixes`` are in order.

    A route concerns the prefixes whose first address it holds. Everything else concerns all.
    """
    found: set[Network] = set()
    for event in events:
        if not isinstance(event, RouteEvent):
            return set(prefixes)
        last: tuple[int, ...] = (event.prefix.version, int(event.prefix.broadcast_address))
        begin = bisect_left(prefixes, order(event.prefix), key=order)
        end = bisect_right(prefixes, last, key=order)
        found.update(prefixes[begin:end])
    return found


class NativeRoutes(Asking[Network, Native, bool]):
    """Keeps ``native``: whether a native route leads to each pod CIDR of ``behind``."""

    groups = GROUPS
    waits = False  # the pods of our own cluster are reached while another one is awaited

    def __init__(
        self, kernel: Kernel, behind: Table[Network, Behind], native: Table[Network, Native]
    ) -> None:
        super().__init__(kernel, behind, native, OURS)
        self._kernel, self._behind, self._native = kernel, behind, native

    def listed(self) -> Iterable[Network]:
        return sorted(self._behind.rows, key=order)

    def concerned(self, events: Iterable[Event], keys: Sequence[Network]) -> set[Network]:
        return concerned(events, keys)

    async def ask(self, keys: Collection[Network]) -> Mapping[Network, bool]:
        """One question for each device, until one has a route."""
        left, native = set(keys), dict[Network, bool]()
        for link in (await self._kernel.links()).values():
            if left and link.up and link.name != LOOPBACK and not link.name.startswith(OURS):
                found = await self._kernel.natively_routed(left, link.ifindex)
                native.update((key, True) for key, there in found.items() if there)
                left = {key for key, there in found.items() if not there}
        return native | dict.fromkeys(left, False)

    def new_rows(self, answers: Mapping[Network, bool]) -> dict[Network, Native]:
        return {key: Native.YES if there else Native.NO for key, there in answers.items()}
