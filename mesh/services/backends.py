"""Services: from objects and pods to backends, joined over clusters, to what the maps need. Pure.

    member        a pod that has addresses; one in its node's own network has the node's
    kind_members  pods of one namespace with equal labels: no selector tells them apart
    selected      services with a selector and the kinds that have its anchor -> backends
    own_service   a service object with the backends that its own cluster has
    merged        services of one name in all clusters: a global one has the backends of all
    translation   service address, port and protocol -> backends, of the first service by name

Which backends get connections (KEP-1669): those that are ready, for each port and family; while
none is, those that serve while they terminate.

Each function makes the rows of one group (``mesh/core/groups.py``). The functions whose results are
groups stand beside them: ``kind_of``, ``anchor``, ``pairs_of``, ``service_of``, ``name_of``,
``asks_of``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain
from operator import attrgetter

from mesh.core.model import (
    IP,
    Backend,
    ContainerPort,
    Finding,
    Labels,
    Network,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    Service,
    ServiceKey,
    ServicePort,
)
from mesh.services.findings import ADDRESS_CONFLICT, NOT_PUBLISHED
from mesh.services.kinds import (
    Endpoints,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
    ServicePortObject,
)


class Owner(Enum):
    """Who translates what is for the address of a service, by ``enum service_owner``."""

    OURS = "SERVICE_OURS"
    PROXIED = "SERVICE_PROXIED"


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Key of ``mg_service_addr``: what a client asks for."""

    address: IP
    port: int
    protocol: str  # TCP or UDP

    def __hash__(self) -> int:
        """Half the time of the default: an address's own hash goes by way of its text."""
        return hash((int(self.address), self.port, self.protocol))


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """Value of ``mg_backend_addr``: what it gets."""

    address: IP
    port: int

    def __hash__(self) -> int:
        """As that of ``ServiceAddress``."""
        return hash((int(self.address), self.port))


@dataclass(frozen=True, slots=True)
class Member:
    """A pod that may be behind services; ``serving`` and ``terminating`` as in ``Pod``."""

    namespace: str
    labels: Labels
    addresses: tuple[IP, ...]
    ports: tuple[ContainerPort, ...]
    serving: bool = True
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class PodKind:
    """Pods that no selector of a service can tell apart."""

    namespace: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class Translation:
    """The backends of ``owner``, between which a client gets one; none: it is refused.

    ``refused`` are services that claim the same address, port and protocol.
    """

    owner: ServiceKey
    backends: tuple[BackendAddress, ...]
    refused: tuple[ServiceKey, ...] = ()


#: Addresses that a finding names.
_NAMED = 3
#: A label in a namespace: what selectors and kinds of pods are joined by.
Pair = tuple[str, str, str]


def entry_of(key: PodKey, pod: Pod | None) -> PodRef | None:
    """The entry of the node where the pod is; the node where it was may be dead and have one."""
    return PodRef(pod.node, key.namespace, key.name) if pod else None


def node_of(key: PodKey, _: object, __: object, pod: Pod | None) -> NodeKey | None:
    """The node in whose network the pod is."""
    return NodeKey(key.cluster, pod.node) if pod else None


def member(
    key: PodKey,
    pod: Pod | None,
    entry: PodEntry | None,
    of_host: Pod | None,
    node: Node | None,
) -> dict[PodKey, Member]:
    """The pod with the addresses that its agent gave it, or with those of its node."""
    if pod is not None:
        return _member(key, pod, entry.addresses if entry else ())
    if of_host is not None:
        return _member(key, of_host, of_host.addresses or _main_addresses(node))
    return {}


def _member(key: PodKey, pod: Pod, addresses: tuple[IP, ...]) -> dict[PodKey, Member]:
    if not addresses:
        return {}
    serving, terminating = pod.serving, pod.terminating
    return {key: Member(pod.namespace, pod.labels, addresses, pod.ports, serving, terminating)}


def _main_addresses(node: Node | None) -> tuple[IP, ...]:
    """The first address of each family, which a kubelet gives to pods in its own network."""
    of_family: dict[int, IP] = {}
    for address in node.addresses if node else ():
        of_family.setdefault(address.version, address)
    return tuple(of_family.values())


def kind_of(_: PodKey, one: Member) -> list[PodKind]:
    """The kind of a pod."""
    return [PodKind(one.namespace, one.labels)]


def kind_members(
    kind: PodKind, members: Mapping[PodKey, Member]
) -> dict[PodKind, tuple[Member, ...]]:
    """The pods of a kind."""
    return {kind: tuple(members.values())} if members else {}


def anchor(key: ServiceKey, service: ServiceObject) -> list[Pair]:
    """One label that every selected pod has: the longest, because names are rarer than tiers."""
    pairs = service.selector
    return [(key.namespace, *max(pairs, key=_pair_length))] if pairs else []


def _pair_length(pair: tuple[str, str]) -> tuple[int, tuple[str, str]]:
    return len(pair[1]), pair


def pairs_of(kind: PodKind, _: object) -> list[Pair]:
    """Every label of a kind."""
    return [(kind.namespace, *pair) for pair in kind.labels]


def selected(
    _: Pair,
    services: Mapping[ServiceKey, ServiceObject],
    kinds: Mapping[PodKind, tuple[Member, ...]],
) -> dict[ServiceKey, tuple[Backend, ...]]:
    """Backends of the services whose anchor is one label, from the kinds that have this label."""
    rows = {}
    for key, service in services.items():
        wanted = set(service.selector or ())
        found = [pods for kind, pods in kinds.items() if wanted <= set(kind.labels)]
        rows[key] = _usable(_from_members(service, chain.from_iterable(found)))
    return rows


#: Backends that are ready, and those that serve while they terminate.
Choice = tuple[Iterable[Backend], Iterable[Backend]]


def _from_members(service: ServiceObject, members: Iterable[Member]) -> Choice:
    ready, leaving = [], []
    for one in members:
        if service.with_unready or (one.serving and not one.terminating):
            ready.append(one)
        elif one.serving:
            leaving.append(one)
    return _backends(service, ready), _backends(service, leaving)


def _backends(service: ServiceObject, members: Iterable[Member]) -> Iterator[Backend]:
    for one in members:
        for port in service.ports:
            number = _target(port, one)
            if number is None:
                continue
            for address in one.addresses:
                yield Backend(address, number, port.name, port.protocol, service.cluster)


def _usable(choice: Choice) -> tuple[Backend, ...]:
    """The backends that get connections, for each port and family."""
    ready, leaving = list(choice[0]), list(choice[1])
    served = set(map(_frontend, ready)) if leaving else set()
    return _ordered([*ready, *(one for one in leaving if _frontend(one) not in served)])


def _frontend(backend: Backend) -> tuple[str, str, int]:
    """The port and family of a service that the backend answers."""
    return backend.port_name, backend.protocol, backend.address.version


def service_of(key: EndpointSliceKey, part: EndpointSlice) -> list[ServiceKey]:
    """The service of an EndpointSlice."""
    return [ServiceKey(key.cluster, key.namespace, part.service)]


def own_service(
    key: ServiceKey,
    service: ServiceObject | None,
    pods: tuple[Backend, ...] | None,
    slices: Mapping[EndpointSliceKey, EndpointSlice],
    endpoints: Endpoints | None,
) -> dict[ServiceKey, Service]:
    """A service with the backends that its EndpointSlices name.

    One without slices has its matching pods behind it, and one that has no selector either the
    addresses of its Endpoints: in a folder nobody makes slices of them.
    """
    if service is None:
        return {}
    if slices:
        backends = _usable(_from_slices(service, slices.values()))
    elif service.selector:
        backends = pods or ()
    else:
        backends = _usable(_from_slices(service, endpoints.slices if endpoints else ()))
    ports = tuple(ServicePort(port.name, port.protocol, port.port) for port in service.ports)
    row = Service(
        key.cluster,
        key.namespace,
        key.name,
        service.addresses,
        ports,
        service.is_global,
        service.is_shared,
        backends,
        service.affinity,
        service.proxy_only,
    )
    return {key: row}


def name_of(key: ServiceKey, _: Service) -> list[tuple[str, str]]:
    """The name that services of several clusters share."""
    return [(key.namespace, key.name)]


def merged_services(
    _: tuple[str, str], own: Mapping[ServiceKey, Service], remote: Mapping[ServiceKey, Service]
) -> dict[ServiceKey, Service]:
    """Services of one name; an own global one also has the backends that other clusters share.

    With an affinity the preferred ones are alone, for each port and family, while there are any.
    """
    rows = {**own, **remote}
    for key, service in own.items():
        foreign = [
            backend
            for other in remote.values()
            if other.is_global and other.is_shared and other.cluster != key.cluster
            for backend in other.backends
        ]
        if service.is_global and foreign:
            rows[key] = replace(service, backends=_ordered(_near(service, foreign)))
    return rows


def _near(service: Service, foreign: Sequence[Backend]) -> Iterable[Backend]:
    if not service.affinity:
        return [*service.backends, *foreign]
    both: tuple[Sequence[Backend], Sequence[Backend]] = service.backends, foreign
    first, second = both if service.affinity == "local" else reversed(both)
    served = set(map(_frontend, first))
    return [*first, *(one for one in second if _frontend(one) not in served)]


def inside(
    key: ServiceKey,
    service: Service | None,
    *known: Container[IP],
    networks: Sequence[Network],
) -> dict[ServiceKey, Service]:
    """A service that other clusters may use, with the backends that they accept."""
    if service is None or not (service.is_global and service.is_shared):
        return {}
    backends = tuple(one for one in service.backends if _is_inside(one, networks, known))
    return {key: replace(service, backends=backends)}


def outside(
    key: ServiceKey,
    service: Service | None,
    *known: Container[IP],
    networks: Sequence[Network],
) -> dict[ServiceKey, tuple[IP, ...]]:
    """The addresses of backends that other clusters do not accept."""
    if service is None or not (service.is_global and service.is_shared):
        return {}
    others = (one for one in service.backends if not _is_inside(one, networks, known))
    found = dict.fromkeys(one.address for one in others)
    return {key: tuple(found)} if found else {}


def addresses_of(_: ServiceKey, service: Service | None, *__: object) -> Iterable[IP]:
    """The addresses of a service's backends."""
    return {one.address for one in service.backends} if service else ()


def _is_inside(
    backend: Backend, networks: Sequence[Network], known: Sequence[Container[IP]]
) -> bool:
    """``known`` are addresses of the cluster's nodes and, beside another CNI, of its pods."""
    return any(backend.address in one for one in (*known, *networks))


def held(address: IP, pods: Mapping[PodRef, PodEntry]) -> dict[IP, None]:
    """An address that a pod of the cluster has."""
    return {address: None} if pods else {}


def not_published(key: ServiceKey, addresses: Sequence[IP]) -> Finding:
    """The backends of a global service that other clusters do not get."""
    more = ", …" if len(addresses) > _NAMED else ""
    names = ", ".join(map(str, addresses[:_NAMED]))
    count = f"{len(addresses)} backend{'s' if len(addresses) > 1 else ''}"
    return Finding(
        NOT_PUBLISHED,
        f"Service/{key.namespace}/{key.name}",
        "backends",
        f"{count} ({names}{more}) neither pod nor node of cluster {key.cluster}; other "
        "clusters get the other backends alone",
        (f"service/{key.namespace}/{key.name}",),
    )


def asks_of(service: Service) -> list[ServiceAddress]:
    """Every address, port and protocol that a service claims."""
    return [
        ServiceAddress(address, port.port, port.protocol)
        for address in service.addresses
        for port in service.ports
    ]


def translation(
    ask: ServiceAddress, services: Mapping[ServiceKey, Service]
) -> dict[ServiceAddress, Translation]:
    """Of several services that claim the same, the first by name has it."""
    claims = [
        (key, port)
        for key in sorted(services)
        for address in services[key].addresses
        for port in services[key].ports
        if (address, port.port, port.protocol) == (ask.address, ask.port, ask.protocol)
    ]
    if not claims:
        return {}
    owner, port = claims[0]
    backends = _behind(services[owner], port, ask.address.version)
    return {ask: Translation(owner, backends, tuple(key for key, _ in claims[1:]))}


def _behind(service: Service, port: ServicePort, version: int) -> tuple[BackendAddress, ...]:
    """Backends of one family of a port.

    Ports of one service have nothing in common in different clusters but name and protocol.
    """
    place = port.name, port.protocol
    found = [
        BackendAddress(backend.address, backend.port)
        for backend in service.backends
        if (backend.port_name, backend.protocol) == place and backend.address.version == version
    ]
    return tuple(dict.fromkeys(found))


def conflicts(ask: ServiceAddress, row: Translation) -> list[Finding]:
    """The services that claim what another one has."""
    return [_conflict(key, ask, row.owner) for key in row.refused]


def _conflict(key: ServiceKey, ask: ServiceAddress, owner: ServiceKey) -> Finding:
    return Finding(
        ADDRESS_CONFLICT,
        f"Service/{key.namespace}/{key.name}",
        "spec.clusterIPs",
        f"{ask.address} port {ask.port}/{ask.protocol} belongs to Service/{owner.namespace}/"
        f"{owner.name} already",
        tuple(f"service/{one.namespace}/{one.name}" for one in (key, owner)),
    )


def _target(port: ServicePortObject, pod: Pod | Member) -> int | None:
    """The pod's port behind a service port; None when it names one that the pod has not."""
    if isinstance(port.target, int):
        return port.target
    for candidate in pod.ports:
        if (candidate.name, candidate.protocol) == (port.target, port.protocol):
            return candidate.port
    return None


def _from_slices(service: ServiceObject, slices: Collection[EndpointSlice]) -> Choice:
    """An address in several slices is ready when one of them says so."""
    ports = {(port.name, port.protocol) for port in service.ports}
    ready = _named(service, slices, attrgetter("addresses"), ports)
    return ready, _named(service, slices, attrgetter("leaving"), ports)


def _named(
    service: ServiceObject,
    slices: Collection[EndpointSlice],
    addresses: Callable[[EndpointSlice], Iterable[IP]],
    ports: Collection[tuple[str, str]],
) -> Iterator[Backend]:
    for part in slices:
        for port in part.ports:
            if (port.name, port.protocol) not in ports:
                continue
            for address in addresses(part):
                yield Backend(address, port.port, port.name, port.protocol, service.cluster)


def _ordered(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    by_place = {_backend_order(backend): backend for backend in backends}
    return tuple(by_place[place] for place in sorted(by_place))


def _backend_order(backend: Backend) -> tuple[str, str, str, int, int, int]:
    """Every field of a backend, in the order of the list."""
    address, name = backend.address, backend.port_name
    return backend.cluster, name, backend.protocol, address.version, int(address), backend.port
