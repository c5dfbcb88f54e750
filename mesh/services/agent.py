"""Services on a node: backends of all clusters become the maps that ``service.h`` reads.

    own services, services of peers -> service -> translation -> slots
    slots                           -> mg_backend_addr, then mg_service_addr

Nothing is derived before objects and entries of pods are complete (D6): a missing input looks like
missing backends. Nobody waits for another cluster: what an awaited one has is held (``held.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import islice
from typing import Any

from mesh.core.feature import AgentFeature, Maps
from mesh.core.groups import By
from mesh.core.model import IP, Finding, PodEntry, PodRef, Service, ServiceKey
from mesh.core.noun import Listing
from mesh.core.reconcile import Loop, Refers
from mesh.core.sources import Remote
from mesh.core.table import Source, Table
from mesh.objects.fields import FieldServer
from mesh.objects.tables import Objects
from mesh.services import backends
from mesh.services.backends import BackendAddress, Owner, ServiceAddress, Translation
from mesh.services.findings import (
    BACKENDS_FULL,
    LEFT_TO_PROXY,
    PROXY_CONTRADICTS,
    SERVICES_FULL,
)
from mesh.services.held import Held, read_back, with_held
from mesh.services.layouts import DECLARED
from mesh.services.maps import (
    ADDRESS_MAP,
    BACKEND_MAP,
    SERVICE_MAP,
    ServiceTarget,
    address_map,
    backend_map,
    service_map,
)
from mesh.services.nouns import service_list
from mesh.services.own import OwnServices
from mesh.services.placement import Placement
from mesh.services.proxy import Proxy
from mesh.services.slots import SlotRange, recovered_slots
from mesh.services.uses import Use, Uses

#: Who lacks what when the map of addresses is full.
WITHOUT_ADDRESS = (
    "packets to the addresses that do not fit, at ports that their services do not have, leave by "
    "the host's routes"
)

#: Services that a finding names.
_NAMED = 8


class ServicesAgent(AgentFeature):
    """``pods`` are the entries of the own cluster's pods, ``remote`` is what peers publish.

    ``proxy`` says whether a kube-proxy of this node has the services; then ours are the global ones
    of which it does not honour more than we do.
    """

    layouts = DECLARED

    def __init__(
        self,
        cluster: str,
        objects: Objects,
        pods: Table[PodRef, PodEntry],
        remote: Remote,
        proxy: Proxy,
    ) -> None:
        self._cluster = cluster
        self._proxy = proxy
        self._own = OwnServices(objects, pods)
        #: Services of the own cluster, with the backends that it has itself.
        self.own_service = self._own.service
        self._remote = remote
        self._held = Held(remote)
        self.service: Table[ServiceKey, Service] = Table("service")
        self.service_slots: Table[ServiceAddress, SlotRange] = Table("service slots")
        self.backend: Table[int, BackendAddress] = Table("backend")
        self.ours = (self._own.network,)
        #: Addresses that a service of this cluster has, whatever the port.
        self.address: Table[IP, Owner] = Table("service address")
        self._translation: Table[ServiceAddress, Translation] = Table("translation")
        #: Backends to which a service leads.
        self.uses = Uses(self._translation)
        self._placement = Placement(self._translation, self.service_slots, self.backend)
        self._room_for_services: int | None = None

    def derive(self, loop: Loop) -> None:
        own, remote, placement = self._own.service, self._remote.services, self._placement
        awaited: list[Source] = [self._remote.awaited, self._remote.nodes]
        loop.work("held backends", self._held, [self._remote.heard], awaited)
        self._own.derive(loop)
        loop.group(
            self.service,
            backends.merged_services,
            By(own, backends.name_of),
            By(remote, backends.name_of),
            whole=[self._remote.heard],
            also=[remote],
        )
        loop.group(
            self._translation,
            self._translate,
            By(self.service, self._asks),
            By(self._held.table),
            whole=[self._proxy.table],
        )
        loop.group(
            self.address,
            self._owner,
            By(self.service, lambda key, row: {ask.address for ask in self._asks(key, row)}),
            whole=[self._proxy.table],
        )
        loop.work("uses of backends", self.uses, [self._translation])
        loop.work("slots of services", placement, [self._translation, placement.released])

    def _asks(self, key: ServiceKey, service: Service) -> list[ServiceAddress]:
        """A service that only other clusters have has no address here."""
        return backends.asks_of(service) if key.cluster == self._cluster else []

    def _translate(
        self,
        ask: ServiceAddress,
        services: Mapping[ServiceKey, Service],
        held: tuple[BackendAddress, ...] | None,
    ) -> dict[ServiceAddress, Translation]:
        rows = backends.translation(ask, services)
        row = rows.get(ask)
        if row and self._proxy.owns and not _is_ours_beside(services[row.owner]):
            return {}
        if row is None or not held or not services[row.owner].is_global:
            return rows
        return {ask: with_held(row, held)}

    def _owner(self, address: IP, services: Mapping[ServiceKey, Service]) -> dict[IP, Owner]:
        if not services:
            return {}
        return {address: Owner.PROXIED if self._proxy.owns else Owner.OURS}

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._proxy.run,)

    async def recover(self, maps: Maps) -> None:
        """Go on with what the maps hold: from empty ones, slots would change owners."""
        services, slots = await service_map(maps).read(), await backend_map(maps).read()
        self._held.take_over(read_back(services, slots))
        self._placement.take_over(recovered_slots(services, slots, maps.capacity(BACKEND_MAP)))
        self.uses.recover(_recovered(services, slots))

    def apply(self, loop: Loop, maps: Maps) -> None:
        placement = self._placement
        room = self._room_for_services = maps.capacity(SERVICE_MAP)
        # The slots are never more than the map has: M162 and M163 say who lacks which.
        slots = loop.apply(self.backend, backend_map(maps), capacity=maps.capacity(BACKEND_MAP))
        services = ServiceTarget(service_map(maps), placement.slots, placement.released)
        refers = [Refers(slots, _slots_of)]
        loop.apply(self.service_slots, services, refers=refers, capacity=room)
        loop.apply(
            self.address,
            address_map(maps),
            capacity=maps.capacity(ADDRESS_MAP),
            meaning=WITHOUT_ADDRESS,
        )

    def listings(self) -> Mapping[str, Listing]:
        return {"service": lambda: service_list(self.service.rows.values())}

    def served(self) -> Iterable[str]:
        """Nothing is known before the first look."""
        return () if self._proxy.looked and not self._proxy.owns else (FieldServer.PROXY,)

    def service_of(self, address: IP, port: int, protocol: str) -> ServiceKey | None:
        """The service that gets what is for an address, port and protocol (TCP, UDP)."""
        row = self._translation.rows.get(ServiceAddress(address, port, protocol))
        return row.owner if row else None

    def findings(self) -> Iterable[Finding]:
        for ask, row in self._placement.contested.items():
            yield from backends.conflicts(ask, row)
        yield from self._backends_full()
        yield from self._services_full()
        yield from self._proxy_contradicts()
        yield from self._left_to_proxy()

    def _proxy_contradicts(self) -> Iterable[Finding]:
        said, place = self._proxy.configured, self._proxy.place
        if said == "auto" or place is None or bool(place) == said:
            return
        found = (
            f"a kube-proxy is there ({place}), and translates what is ours"
            if place
            else ("none is found: the addresses of services that are not global lead nowhere")
        )
        text = f"the configuration says {str(said).lower()}, but {found}; set it to auto"
        yield Finding(PROXY_CONTRADICTS, "agent", "services.kubeProxy", text)

    def _left_to_proxy(self) -> Iterable[Finding]:
        if not self._proxy.owns:
            return
        for key, row in self.service.rows.items():
            if key.cluster == self._cluster and row.is_global and row.proxy_only:
                text = "the kube-proxy of the node honours it and has the service: connections go "
                text += "to backends of this cluster only; remove the field, or the annotation "
                text += "that makes the service global"
                place = f"Service/{key.namespace}/{key.name}"
                about = (f"service/{key.namespace}/{key.name}",)
                yield Finding(LEFT_TO_PROXY, place, row.proxy_only, text, about)

    def _backends_full(self) -> Iterable[Finding]:
        slots = self._placement.slots
        if not slots.lacking:
            return
        refused = [ask for ask in slots.lacking if not slots.given(ask).count]
        fewer = [ask for ask in slots.lacking if slots.given(ask).count]
        parts = [f"{slots.demand} backends, room for {slots.capacity}"]
        if slots.demand <= slots.capacity:
            parts.append("the free slots are not in a row")
        if refused:
            parts.append(f"refused, because not one backend fits: {self._names(refused)}")
        if fewer:
            parts.append(f"without some of their backends: {self._names(fewer)}")
        yield Finding(BACKENDS_FULL, f"map {BACKEND_MAP}", "max_entries", "; ".join(parts))

    def _services_full(self) -> Iterable[Finding]:
        room, rows, slots = self._room_for_services, self.service_slots.rows, self._placement.slots
        if room is None or len(rows) <= room:
            return
        absent = [ask for ask in rows if not slots.in_map(ask)]
        text = f"{len(rows)} service addresses, room for {room}; not translated: "
        text += self._names(absent)
        yield Finding(SERVICES_FULL, f"map {SERVICE_MAP}", "max_entries", text)

    def _names(self, asks: Iterable[ServiceAddress]) -> str:
        rows = self._translation.rows
        owners = {rows[ask].owner for ask in asks if ask in rows}
        names = [f"Service/{key.namespace}/{key.name}" for key in sorted(owners)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(islice(names, _NAMED)) + more


def _slots_of(_: ServiceAddress, row: SlotRange) -> Iterable[int]:
    """The entries of ``mg_backend_addr`` to which a service address leads."""
    return range(row.first, row.first + row.count)


def _is_ours_beside(service: Service) -> bool:
    """Whether sockets get its backends although a kube-proxy has the services of the node."""
    return service.is_global and not service.proxy_only


def _recovered(
    services: Mapping[ServiceAddress, SlotRange], slots: Mapping[int, BackendAddress]
) -> Iterable[Use]:
    """The backends that the maps of the last process lead to."""
    for ask, row in services.items():
        yield from ((ask.protocol, slots[slot]) for slot in _slots_of(ask, row) if slot in slots)
