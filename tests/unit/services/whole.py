"""The same results from whole tables at once: what the derivations by group are compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from mesh.core.model import Backend, Pod, PodKey, Service, ServiceKey, ServicePort
from mesh.services.backends import BackendAddress, ServiceAddress
from mesh.services.kinds import (
    Endpoints,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
    ServicePortObject,
)

Conflict = tuple[ServiceKey, ServiceAddress, ServiceKey]


def own_services(
    services: Mapping[ServiceKey, ServiceObject],
    pods: Mapping[PodKey, Pod],
    slices: Mapping[EndpointSliceKey, EndpointSlice],
    endpoints: Mapping[ServiceKey, Endpoints],
) -> dict[ServiceKey, Service]:
    """Services of one cluster with the backends that it contributes; pods carry addresses.

    A service that has EndpointSlices has their addresses behind it, one without them its matching
    pods, and one without a selector the addresses of its Endpoints.
    """
    pods_of: dict[str, list[Pod]] = defaultdict(list)
    slices_of: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for pod in pods.values():
        pods_of[pod.namespace].append(pod)
    for part in slices.values():
        slices_of[part.namespace, part.service].append(part)
    rows = {}
    for key, service in services.items():
        if parts := slices_of[key.namespace, key.name]:
            found = _from_slices(service, parts)
        elif service.selector:
            found = _from_pods(service, pods_of[key.namespace])
        else:
            found = _from_slices(service, endpoints[key].slices if key in endpoints else ())
        rows[key] = Service(
            key.cluster,
            key.namespace,
            key.name,
            service.addresses,
            tuple(ServicePort(port.name, port.protocol, port.port) for port in service.ports),
            service.is_global,
            service.is_shared,
            _usable(found),
            service.affinity,
        )
    return rows


#: A backend, and whether it is ready; else it serves while it terminates.
Found = tuple[Backend, bool]


def _usable(found: Iterable[Found]) -> tuple[Backend, ...]:
    """Of each port and family: the ready ones, or else the others."""
    ready: dict[object, set[Backend]] = defaultdict(set)
    leaving: dict[object, set[Backend]] = defaultdict(set)
    for one, is_ready in found:
        place = one.port_name, one.protocol, one.address.version
        (ready if is_ready else leaving)[place].add(one)
    return _ordered(
        one for place in {**leaving, **ready} for one in (ready[place] or leaving[place])
    )


def _from_pods(service: ServiceObject, pods: Iterable[Pod]) -> Iterator[Found]:
    wanted = set(service.selector or ())
    for pod in pods:
        if not wanted <= set(pod.labels):
            continue
        for port in service.ports:
            number = _target(port, pod)
            if number is None:
                continue
            is_ready = service.with_unready or (pod.serving and not pod.terminating)
            for address in pod.addresses if is_ready or pod.serving else ():
                one = Backend(address, number, port.name, port.protocol, service.cluster)
                yield one, is_ready


def _target(port: ServicePortObject, pod: Pod) -> int | None:
    """The pod's port behind a service port; None when it names one that the pod has not."""
    if isinstance(port.target, int):
        return port.target
    for candidate in pod.ports:
        if (candidate.name, candidate.protocol) == (port.target, port.protocol):
            return candidate.port
    return None


def _from_slices(service: ServiceObject, slices: Iterable[EndpointSlice]) -> Iterator[Found]:
    wanted = {(port.name, port.protocol) for port in service.ports}
    for part in slices:
        for port in part.ports:
            if (port.name, port.protocol) not in wanted:
                continue
            for address in (*part.addresses, *part.leaving):
                one = Backend(address, port.port, port.name, port.protocol, service.cluster)
                yield one, address in part.addresses


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
            near = _near(service.affinity, service.backends, foreign)
            rows[key] = replace(service, backends=_ordered(near))
    return rows


def _near(affinity: str, own: Iterable[Backend], foreign: Iterable[Backend]) -> list[Backend]:
    """All of them, or for each port and family the preferred ones if there are any."""
    sides = {"local": (own, foreign), "remote": (foreign, own)}.get(affinity)
    if sides is None:
        return [*own, *foreign]
    places = {(one.port_name, one.protocol, one.address.version) for one in sides[0]}
    rest = [b for b in sides[1] if (b.port_name, b.protocol, b.address.version) not in places]
    return [*sides[0], *rest]


def translations(
    services: Mapping[ServiceKey, Service],
) -> tuple[dict[ServiceAddress, tuple[BackendAddress, ...]], list[Conflict]]:
    """Every address and port of the services, each with its backends of the same family.

    Backends belong to a port by its name and protocol, the only thing that ports of one service
    have in common in different clusters. Of two services that claim the same, the first by name
    has it.
    """
    rows: dict[ServiceAddress, tuple[BackendAddress, ...]] = {}
    owners: dict[ServiceAddress, ServiceKey] = {}
    conflicts = []
    for key in sorted(services):
        for ask, backends in _translations(services[key]):
            if ask in rows:
                conflicts.append((key, ask, owners[ask]))
            else:
                rows[ask], owners[ask] = backends, key
    return rows, conflicts


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
