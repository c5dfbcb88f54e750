"""The room of services as an agent has it: tables in, rows of both maps out."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.tables import RemoteTables
from mesh.core.feature import Maps
from mesh.core.model import Pod, PodEntry, PodKey, PodRef
from mesh.core.reconcile import AppliedRows, Loop
from mesh.core.table import Source, Table
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.objects.tables import Objects
from mesh.services.agent import ServicesAgent
from mesh.services.backends import BackendAddress, ServiceAddress
from mesh.services.cidrs import SERVICE_CIDRS
from mesh.services.kinds import ENDPOINTS, SERVICES, SLICES
from mesh.services.proxy import Look, Proxy, look
from mesh.services.settings import ServicesSettings


class FakeMap:
    """A hash map in memory: a new entry that finds no room is refused, as by the kernel."""

    name = "a map"

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: dict[Any, Any] = {}
        self.away = False
        self.watch: Callable[[], None] = lambda: None

    async def read(self) -> Mapping[Any, Any]:
        self._reach()
        return dict(self.rows)

    async def upsert(self, rows: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        self._reach()
        failed: dict[Any, Exception] = {}
        for key, row in rows.items():
            if key in self.rows or len(self.rows) < self.capacity:
                self.rows[key] = row
                self.watch()
            else:
                failed[key] = OSError(7, "Argument list too long")
        return failed

    async def delete(self, keys: Collection[Any]) -> Mapping[Any, Exception]:
        self._reach()
        for key in keys:
            self.rows.pop(key, None)
            self.watch()
        return {}

    def _reach(self) -> None:
        if self.away:
            raise OSError(5, "away")


class FakeMaps(Maps):
    """The maps of services; rows stay rows."""

    def __init__(self, services: int = 1000, backends: int = 10000) -> None:
        self.services, self.backends = FakeMap(services), FakeMap(backends)
        self.addresses = FakeMap(services)

    def rows(self, name: str, *_: Any) -> FakeMap:
        return {
            "mg_service_addr": self.services,
            "mg_backend_addr": self.backends,
            "mg_service_ip": self.addresses,
        }[name]

    def capacity(self, name: str) -> int:
        return self.rows(name).capacity


class Room:
    """``objects``, ``entries``, ``remote`` and ``complete`` are the sources."""

    def __init__(
        self, cluster: str = "east", *, synced: bool = True, proxy: Any = False, ask: Look = look
    ) -> None:
        self.objects = Objects([PODS, HOST_PODS, NODES, SERVICES, SLICES, ENDPOINTS, SERVICE_CIDRS])
        self.entries: Table[PodRef, PodEntry] = Table("pod entry")
        self.peers = RemoteTables(OwnFacts(cluster, 1), lambda _: None)
        self.remote = self.peers.services
        self.heard, self.complete = self.peers.heard, self.peers.complete
        self.proxy = Proxy(ServicesSettings(kube_proxy=proxy), ask)
        self.agent = ServicesAgent(cluster, self.objects, self.entries, self.peers, self.proxy)
        self.loop = Loop()
        self.applied: list[AppliedRows[Any, Any]] = []
        if synced:
            self.sync()

    @property
    def sources(self) -> list[Source]:
        return [
            *self.objects.tables().values(),
            self.entries,
            self.remote,
            self.heard,
            self.complete,
        ]

    def sync(self) -> None:
        for source in self.sources:
            source.mark_synced()

    async def connect(self, maps: Maps) -> None:
        """As a process starts: what the maps hold, derivations, targets."""
        await self.agent.recover(maps)
        self.agent.derive(self.loop)
        self.agent.apply(self.loop, maps)
        self.applied = [one for one in self.loop.applied if isinstance(one, AppliedRows)]

    def settle(self) -> None:
        """Run derivations until nothing changes."""
        for _ in range(4):
            self.loop.derive_all()

    async def round(self, one: AppliedRows[Any, Any]) -> None:
        """One round of a target, with derivations while it waits for its turn."""
        running = asyncio.ensure_future(one.round())
        while not running.done():
            self.settle()
            await asyncio.sleep(0)
        await running

    async def rounds(self, count: int = 3) -> None:
        """Let both targets catch up, backends first."""
        for _ in range(count):
            for one in self.applied:
                await self.round(one)
                one.full = bool(one.report.errors)
        self.settle()

    def put_pods(self, *pods: tuple[PodKey, Pod]) -> None:
        """Pods with the addresses that their agents gave them."""
        self.objects[PODS].upsert(dict(pods))
        entries = {
            PodRef(pod.node, key.namespace, key.name): PodEntry(pod.addresses, "")
            for key, pod in pods
        }
        self.entries.upsert(entries)

    def translations(self) -> dict[ServiceAddress, tuple[BackendAddress, ...]]:
        """The backends to which each service address leads."""
        slots = self.agent.backend.rows
        return {
            ask: tuple(slots[slot] for slot in range(row.first, row.first + row.count))
            for ask, row in self.agent.service_slots.rows.items()
        }
