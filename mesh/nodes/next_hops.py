"""The next hop to each node: asked once, and again when the kernel says that it may have changed.

``concerned`` is pure; ``NextHops`` keeps the table. A route that is away for a moment keeps the
next hop that it had (ARCHITECTURE.md D13), and an endpoint has a row only when the kernel has been
asked about it. Outer packets are IPv4, so IPv6 routes and neighbours concern no endpoint; an IPv4
route through an IPv6 neighbour has no next hop that ``mg_node`` could hold, and counts as away.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from mesh.core.files import in_words
from mesh.core.model import Finding
from mesh.core.table import Source, Table
from mesh.netlink import Event, Group, NeighbourEvent, RouteEvent
from mesh.nodes.asking import EVENTS, FULL_INTERVAL_S, Asking
from mesh.nodes.findings import NO_WAY

__all__ = ["EVENTS", "FULL_INTERVAL_S", "GROUPS", "NextHops", "concerned", "new_rows"]

log = logging.getLogger(__name__)

#: IPv6 groups are left out on purpose; addresses matter because IPv4 routes go silently with them.
GROUPS = (
    Group.LINK, Group.ADDRESS, Group.ROUTE, Group.RULE, Group.NEXT_HOP, Group.NEIGHBOUR,
)  # fmt: skip
#: Nodes without a way that a finding names.
_NAMED = 3


class Kernel(Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    def events(self, *groups: Group) -> AsyncIterator[Event]:
        """Events for ever; ``Lost`` first and after every gap."""

    async def next_hops(
        self, addresses: Collection[IPv4Address]
    ) -> dict[IPv4Address, IPv4Address | OSError]:
        """Next hops, or errors, of the addresses that got an answer."""

    async def route_mtus(self, addresses: Collection[IPv4Address]) -> dict[IPv4Address, int]:
        """The MTU that the route to each address was given, 0 for none."""


def concerned(
    events: Iterable[Event],
    endpoints: Sequence[IPv4Address],
    hops: Mapping[IPv4Address, IPv4Address | None],
) -> set[IPv4Address]:
    """The endpoints whose next hop may be another one after the events.

    ``endpoints`` are in ascending order. A route concerns the endpoints inside its destination. A
    neighbour that failed concerns those behind it, because Linux may take another of several
    routes. Devices, addresses, rules and lost events concern all: IPv4 routes that go with their
    device or address go without an event of their own.
    """
    endpoints_concerned: set[IPv4Address] = set()
    failed: set[IPv4Address] = set()
    for event in events:
        if isinstance(event, RouteEvent):
            if not isinstance(event.prefix, IPv4Network):
                continue
            first = bisect_left(endpoints, int(event.prefix.network_address), key=int)
            last = bisect_right(endpoints, int(event.prefix.broadcast_address), key=int)
            endpoints_concerned.update(endpoints[first:last])
        elif isinstance(event, NeighbourEvent):
            failed.add(event.address)
        else:
            return set(endpoints)
    if failed:
        endpoints_concerned.update(address for address in endpoints if hops.get(address) in failed)
    return endpoints_concerned


class NextHops(Asking[IPv4Address, IPv4Address | None, IPv4Address | OSError]):
    """Keeps ``hops``: next hop by tunnel endpoint, None while no route has been seen.

    ``mtus`` has those of the routes that were given one. What the kernel has learned of a path it
    says to the datapath itself (``bpf/include/overlay.h``), and says nothing when it forgets.

    ``endpoints`` says all tunnel endpoints and follows from the table ``nodes``.
    """

    groups = GROUPS

    def __init__(
        self,
        kernel: Kernel,
        nodes: Source,
        endpoints: Callable[[], Iterable[IPv4Address]],
        hops: Table[IPv4Address, IPv4Address | None],
        mtus: Table[IPv4Address, int],
        pods: str,
    ) -> None:
        super().__init__(kernel, nodes, hops, pods)
        self._kernel, self._list, self._hops, self._mtus = kernel, endpoints, hops, mtus
        #: Endpoints to which the kernel knows no way now, with its reason in words.
        self.away: dict[IPv4Address, str] = {}

    def listed(self) -> Iterable[IPv4Address]:
        listed = set(self._list())
        self.away = {address: why for address, why in self.away.items() if address in listed}
        self._mtus.delete([address for address in self._mtus.rows if address not in listed])
        return sorted(listed, key=int)

    def concerned(self, events: Iterable[Event], keys: Sequence[IPv4Address]) -> set[IPv4Address]:
        return concerned(events, keys, self._hops.rows)

    async def ask(
        self, keys: Collection[IPv4Address]
    ) -> Mapping[IPv4Address, IPv4Address | OSError]:
        mtus = await self._kernel.route_mtus(keys)
        self._mtus.upsert({address: mtu for address, mtu in mtus.items() if mtu})
        self._mtus.delete([address for address, mtu in mtus.items() if not mtu])
        answers = await self._kernel.next_hops(keys)
        _say_what_failed(answers)
        for address, answer in answers.items():
            self.away.pop(address, None)
            if isinstance(answer, OSError):
                self.away[address] = in_words(answer)
        return answers

    def new_rows(
        self, answers: Mapping[IPv4Address, IPv4Address | OSError]
    ) -> dict[IPv4Address, IPv4Address | None]:
        return new_rows(answers, self._hops.rows)

    def findings(self, node: str) -> Iterable[Finding]:
        """The nodes that this one has no way to, in one finding."""
        if not self.away:
            return
        first = sorted(self.away, key=int)[:_NAMED]
        named = ", ".join(f"{address} ({self.away[address]})" for address in first)
        more = f" and {len(self.away) - len(first)} more" if len(self.away) > len(first) else ""
        text = (
            f"this host has no route to the nodes at {named}{more}: what is for their pods goes to "
            "the next hop that they had, or is dropped (160); add the routes"
        )
        yield Finding(NO_WAY, f"{node}/agent", "next hop", text, (f"node/{node}",))


def new_rows(
    answers: Mapping[IPv4Address, IPv4Address | OSError],
    hops: Mapping[IPv4Address, IPv4Address | None],
) -> dict[IPv4Address, IPv4Address | None]:
    """Rows that the answers change: a route that is away keeps the next hop that it had."""
    rows = {
        address: hops.get(address) if isinstance(answer, OSError) else answer
        for address, answer in answers.items()
    }
    return {a: hop for a, hop in rows.items() if a not in hops or hops[a] != hop}


def _say_what_failed(answers: Mapping[IPv4Address, IPv4Address | OSError]) -> None:
    failed = [answer for answer in answers.values() if isinstance(answer, OSError)]
    if failed:
        log.warning("event=no_next_hop nodes=%s first=%s", len(failed), failed[0])
