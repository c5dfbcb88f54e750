"""The services of the own cluster: the same derivations in an agent and in the controller.

    pods, entries of agents, nodes -> member -> kind of pods -+
    services with a selector, by their anchor ----------------+-> selected backends -+
    services, EndpointSlices, Endpoints ---------------------------------------------+-> own service

A change of one pod makes its kind and the services that select this kind anew.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from mesh.core.groups import By, To
from mesh.core.model import (
    IP,
    Backend,
    Network,
    PodEntry,
    PodKey,
    PodRef,
    Service,
    ServiceKey,
)
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.objects.tables import Objects
from mesh.services import backends
from mesh.services.backends import Member, PodKind
from mesh.services.cidrs import SERVICE_CIDRS
from mesh.services.kinds import ENDPOINTS, SERVICES, SLICES, ServiceObject


class OwnServices:
    """``service`` are the services; ``network`` are their addresses and CIDRs."""

    def __init__(self, objects: Objects, pods: Table[PodRef, PodEntry]) -> None:
        self._objects = objects
        self._pods = pods
        self.service: Table[ServiceKey, Service] = Table("own service")
        self.network: Table[Network, None] = Table("service network")
        self._member: Table[PodKey, Member] = Table("pod behind services")
        self._kind: Table[PodKind, tuple[Member, ...]] = Table("kind of pods")
        self._selected: Table[ServiceKey, tuple[Backend, ...]] = Table("selected backends")

    def derive(self, loop: Loop) -> None:
        """Add the derivations, each below its inputs."""
        services, slices = self._objects[SERVICES], self._objects[SLICES]
        cidrs = By(self._objects[SERVICE_CIDRS], lambda _, row: row.networks)
        loop.group(self.network, network, By(services, _addresses), cidrs)
        loop.group(
            self._member,
            backends.member,
            By(self._objects[PODS]),
            To(self._pods, backends.entry_of),
            By(self._objects[HOST_PODS]),
            To(self._objects[NODES], backends.node_of),
        )
        loop.group(self._kind, backends.kind_members, By(self._member, backends.kind_of))
        loop.group(
            self._selected,
            backends.selected,
            By(services, backends.anchor, needed=True),
            By(self._kind, backends.pairs_of),
        )
        loop.group(
            self.service,
            backends.own_service,
            By(services),
            By(self._selected),
            By(slices, backends.service_of),
            By(self._objects[ENDPOINTS]),
        )


def _addresses(_: ServiceKey, service: ServiceObject) -> list[Network]:
    return [host_network(address) for address in service.addresses]


def host_network(address: IP) -> Network:
    """The network of one address."""
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 32))
    return IPv6Network((int(address), 128))


def network(one: Network, services: object, cidrs: object) -> dict[Network, None]:
    """The network of an address that services have, or one that they have them out of."""
    return {one: None} if services or cidrs else {}
