"""Which addresses of services a node may announce to routers. Pure.

    standing   pods of one kind -> the nodes where one is ready
    chosen     services with a selector, pods of their anchor -> the nodes where a backend is ready
    announced  a service with its addresses for clients, and where its backends are
    offers     of a node

Rules: an address is announced while a backend of its family is ready (while none is, one that
serves while it terminates); with a traffic policy Local only by the nodes where one is, and an
aggregate does not stand for it. An address of a service without EndpointSlices is announced while
a pod that its selector selects is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mesh.core.feature import Offer
from mesh.core.model import IP, Labels, Pod, PodKey, ServiceKey
from mesh.services.backends import Pair, PodKind
from mesh.services.kinds import Endpoints, EndpointSlice, EndpointSliceKey, ServiceObject
from mesh.services.own import host_network

#: Labels by which Cilium's selectors find a service by its name.
_NAMESPACE, _NAME = "io.kubernetes.service.namespace", "io.kubernetes.service.name"


@dataclass(frozen=True, slots=True)
class AnnouncedAddress:
    """An address in one form; ``local``: only where a backend is."""

    form: str
    address: IP
    local: bool = False


@dataclass(frozen=True, slots=True)
class AnnouncedService:
    """``versions`` are those of backends that get connections; or else ``nodes`` have some.

    ``backends`` are their addresses where an address is ``local``: else a backend more or less
    changes nothing.
    """

    addresses: tuple[AnnouncedAddress, ...]
    labels: Labels
    backends: frozenset[IP] = frozenset()
    nodes: frozenset[str] = frozenset()
    versions: frozenset[int] = frozenset()


def kind_of_pod(_: PodKey, pod: Pod) -> list[PodKind]:
    """The kind of a pod."""
    return [PodKind(pod.namespace, pod.labels)]


def standing(
    kind: PodKind, pods: Mapping[PodKey, Pod], of_hosts: Mapping[PodKey, Pod]
) -> dict[PodKind, frozenset[str]]:
    """The nodes where a pod of the kind is ready."""
    every = (*pods.values(), *of_hosts.values())
    found = frozenset(pod.node for pod in every if pod.serving and not pod.terminating)
    return {kind: found} if found else {}


def chosen(
    _: Pair,
    services: Mapping[ServiceKey, ServiceObject],
    kinds: Mapping[PodKind, frozenset[str]],
) -> dict[ServiceKey, frozenset[str]]:
    """The nodes of backends of the services whose anchor is one label."""
    rows = {}
    for key, service in services.items():
        wanted = set(service.selector or ())
        found = [nodes for kind, nodes in kinds.items() if wanted <= set(kind.labels)]
        rows[key] = frozenset[str]().union(*found)
    return rows


def announced(
    key: ServiceKey,
    service: ServiceObject | None,
    nodes: frozenset[str] | None,
    slices: Mapping[EndpointSliceKey, EndpointSlice],
    endpoints: Endpoints | None,
) -> dict[ServiceKey, AnnouncedService]:
    """A service that has an address for clients."""
    addresses = tuple(_addresses(service)) if service else ()
    if service is None or not addresses:
        return {}
    parts: Iterable[EndpointSlice] = slices.values()
    if not slices and not service.selector and endpoints:
        parts = endpoints.slices
    ready = frozenset(one for part in parts for one in part.addresses)
    leaving = frozenset(one for part in parts for one in part.leaving)
    versions = {one.version for one in ready}
    labels = dict(service.labels) | {_NAMESPACE: key.namespace, _NAME: key.name}
    served = ready | frozenset(one for one in leaving if one.version not in versions)
    row = AnnouncedService(
        addresses,
        tuple(sorted(labels.items())),
        served if any(one.local for one in addresses) else frozenset(),
        frozenset() if slices else nodes or frozenset(),
        frozenset(one.version for one in served),
    )
    return {key: row}


def _addresses(service: ServiceObject) -> Iterator[AnnouncedAddress]:
    for address in service.balanced:
        yield AnnouncedAddress("LoadBalancer", address, service.local)
    for address in service.addresses:
        yield AnnouncedAddress("ClusterIP", address, service.local_inside)
    for address in service.external:
        yield AnnouncedAddress("External", address, service.local)


def offers(
    services: Mapping[ServiceKey, AnnouncedService], node: str, here: Callable[[IP], bool]
) -> Iterator[Offer]:
    """What a node may announce; ``here`` says which addresses its pods and itself have."""
    for key, service in sorted(services.items()):
        for one in service.addresses:
            if _stands(service, one, node, here):
                about = f"service/{key.namespace}/{key.name}"
                network = host_network(one.address)
                yield Offer(network, service.labels, about, form=one.form, exact=one.local)


def _stands(
    service: AnnouncedService, one: AnnouncedAddress, node: str, here: Callable[[IP], bool]
) -> bool:
    version = one.address.version
    if not one.local:
        return bool(service.nodes) or version in service.versions
    own = (back for back in service.backends if back.version == version and here(back))
    return node in service.nodes or any(True for _ in own)
