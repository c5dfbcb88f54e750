"""Routes of this host in private space: another cluster has pods there by contract only.

The kernel is asked for all of them, and again when a route or a device changes. Only private and
unique-local space counts, because nowhere else has a cluster without a contract pods at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from mesh.core.model import Network
from mesh.core.table import Source, Table
from mesh.netlink import Event, Group, RouteEvent
from mesh.nodes.asking import Asking, Events

GROUPS = (Group.LINK, Group.ROUTE, Group.ROUTE_V6, Group.NEXT_HOP)
#: Devices whose names start so are ours: pods, and the overlay.
OURS = "mg"
_VERSIONS = (4, 6)


class Kernel(Events, Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    async def private_routes(self, version: int, ours: str) -> frozenset[Network]:
        """Prefixes of this host's routes in private space, without our own and default ones."""


class HostRoutes(Asking[int, frozenset[Network], frozenset[Network]]):
    """Keeps ``answers``: the prefixes of each family."""

    groups = GROUPS

    def __init__(self, kernel: Kernel, answers: Table[int, frozenset[Network]]) -> None:
        source = Source("families")
        source.mark_synced()
        super().__init__(kernel, source, answers, OURS)
        self._kernel = kernel

    def listed(self) -> Iterable[int]:
        return _VERSIONS

    def concerned(self, events: Iterable[Event], keys: Sequence[int]) -> set[int]:
        found: set[int] = set()
        for event in events:
            if not isinstance(event, RouteEvent):
                return set(keys)
            found.add(event.prefix.version)
        return found

    async def ask(self, keys: Collection[int]) -> Mapping[int, frozenset[Network]]:
        return {key: await self._kernel.private_routes(key, OURS) for key in keys}

    def new_rows(self, answers: Mapping[int, frozenset[Network]]) -> dict[int, frozenset[Network]]:
        return dict(answers)


def prefixes_of(_: int, prefixes: frozenset[Network]) -> Iterable[Network]:
    """The prefixes of a family, as groups."""
    return prefixes


def routed(prefix: Network, families: Mapping[int, frozenset[Network]]) -> dict[Network, None]:
    """A prefix to which the host has a route."""
    return {prefix: None} if families else {}
