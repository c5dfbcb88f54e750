"""Services: from objects and pods to backends, joined over clusters, to what the maps need. Pure.

    own_services   objects, pods, slices of the own cluster -> its rows, which peers get published
    merged         own rows + what peers contribute to global services of the same name
    translations   service address, port and protocol -> backends; ``mesh.slices`` places them

Run them only when every input is synced: a missing input looks like missing backends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mesh.core.model import IP, Backend, Finding, Pod, PodKey, Service, ServiceKey, ServicePort
from mesh.services.kinds import EndpointSlice, EndpointSliceKey, ServiceObject, ServicePortObject

#: Two services claim one address, port and protocol.
ADDRESS_CONFLICT = "M161"


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Key of ``mg_service_addr``: what a client asks for."""

    address: IP
    port: int
    protocol: str  # TCP or UDP


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """Value of ``mg_backend_addr``: what it gets."""

    address: IP
    port: int


#: What a client asks for, and between which backends it is decided; none: it is refused.
Translations = Mapping[ServiceAddress, tuple[BackendAddress, ...]]


def own_services(
    services: Mapping[ServiceKey, ServiceObject],
    pods: Mapping[PodKey, Pod],
    slices: Mapping[EndpointSliceKey, EndpointSlice],
) -> dict[ServiceKey, Service]:
    """Services of one cluster with the backends that it contributes; pods carry addresses.

    A service with a selector has its matching pods behind it, one without its EndpointSlices.
    """
    pods_of: dict[str, list[Pod]] = defaultdict(list)
    slices_of: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for pod in pods.values():
        pods_of[pod.namespace].append(pod)
    for part in slices.values():
        slices_of[part.namespace, part.service].append(part)
    rows = {}
    for key, service in services.items():
        if service.selector:
            found = _from_pods(service, pods_of[key.namespace])
        else:
            found = _from_slices(service, slices_of[key.namespace, key.name])
        rows[key] = Service(
            key.cluster,
            key.namespace,
            key.name,
            service.addresses,
            tuple(ServicePort(port.name, port.protocol, port.port) for port in service.ports),
            service.is_global,
            service.is_shared,
            _ordered(found),
        )
    return rows


def _from_pods(service: ServiceObject, pods: Iterable[Pod]) -> Iterator[Backend]:
    wanted = set(service.selector or ())
    for pod in pods:
        if not wanted <= set(pod.labels):
            continue
        for port in service.ports:
            number = _target(port, pod)
            if number is None:
                continue
            for address in pod.addresses:
                yield Backend(address, number, port.name, port.protocol, service.cluster)


def _target(port: ServicePortObject, pod: Pod) -> int | None:
    """The pod's port behind a service port; None when it names one that the pod has not."""
    if isinstance(port.target, int):
        return port.target
    for candidate in pod.ports:
        if (candidate.name, candidate.protocol) == (port.target, port.protocol):
            return candidate.port
    return None


def _from_slices(service: ServiceObject, slices: Iterable[EndpointSlice]) -> Iterator[Backend]:
    wanted = {(port.name, port.protocol) for port in service.ports}
    for part in slices:
        for port in part.ports:
            if (port.name, port.protocol) not in wanted:
                continue
            for address in part.addresses:
                yield Backend(address, port.port, port.name, port.protocol, service.cluster)


def _ordered(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    return tuple(sorted(set(backends), key=_backend_order))


def _backend_order(backend: Backend) -> tuple[object, ...]:
    address = backend.address
    place = backend.cluster, backend.port_name, backend.protocol
    return *place, address.version, int(address), backend.port


def merged(
    own: Mapping[ServiceKey, Service], imported: Iterable[Service]
) -> dict[ServiceKey, Service]:
    """Own services; a global one also has the backends that other clusters share under its name."""
    shared: dict[tuple[str, str], list[Service]] = defaultdict(list)
    for service in imported:
        if service.is_global and service.is_shared:
            shared[service.namespace, service.name].append(service)
    rows = dict(own)
    for key, service in own.items():
        others = shared.get((key.namespace, key.name), ())
        if service.is_global and others:
            foreign = [
                b for other in others if other.cluster != key.cluster for b in other.backends
            ]
            rows[key] = replace(service, backends=_ordered([*service.backends, *foreign]))
    return rows


def translations(
    services: Mapping[ServiceKey, Service],
) -> tuple[dict[ServiceAddress, tuple[BackendAddress, ...]], list[Finding]]:
    """Every address and port of the services, each with its backends of the same family.

    Backends belong to a port by its name and protocol, the only thing that ports of one service
    have in common in different clusters. Of two services that claim the same, the first by name
    has it.
    """
    rows: dict[ServiceAddress, tuple[BackendAddress, ...]] = {}
    owners: dict[ServiceAddress, ServiceKey] = {}
    findings = []
    for key in sorted(services):
        for ask, backends in _translations(services[key]):
            if ask in rows:
                findings.append(_conflict(key, ask, owners[ask]))
            else:
                rows[ask], owners[ask] = backends, key
    return rows, findings


def _translations(
    service: Service,
) -> Iterator[tuple[ServiceAddress, tuple[BackendAddress, ...]]]:
    behind: dict[tuple[str, str, int], list[BackendAddress]] = defaultdict(list)
    for backend in service.backends:
        place = backend.port_name, backend.protocol, backend.address.version
        behind[place].append(BackendAddress(backend.address, backend.port))
    for address in service.addresses:
        for port in service.ports:
            ask = ServiceAddress(address, port.port, port.protocol)
            found = behind[port.name, port.protocol, address.version]
            yield ask, tuple(dict.fromkeys(found))


def _conflict(key: ServiceKey, ask: ServiceAddress, owner: ServiceKey) -> Finding:
    return Finding(
        ADDRESS_CONFLICT,
        f"Service/{key.namespace}/{key.name}",
        "spec.clusterIPs",
        f"{ask.address} port {ask.port}/{ask.protocol} belongs to Service/{owner.namespace}/"
        f"{owner.name} already",
    )
