"""Service, EndpointSlice and Endpoints: documents -> rows.

Only the fields that we use are looked at; the lists at the end say what follows for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from mesh.core.model import IP, Labels, ServiceKey, ServicePort
from mesh.core.strict import Wrong, convert
from mesh.objects.fields import Field, FieldServer, irrelevant, unused, used
from mesh.objects.findings import UNSUPPORTED
from mesh.objects.schema import (
    Kind,
    Loose,
    Meta,
    Parsed,
    Place,
    labels_of,
    name_of,
    unicast_of,
)
from mesh.objects.tables import ObjectNoun

#: Word of ``BGPPeer.spec.advertise``: addresses of services.
ADVERTISED = "services"
_SERVICE_LABEL = "kubernetes.io/service-name"


_GLOBAL = ("service.cilium.io/global", "io.cilium/global-service")


_SHARED = ("service.cilium.io/shared", "io.cilium/shared-service")


_AFFINITY = ("service.cilium.io/affinity", "io.cilium/service-affinity")
#: A service with this label belongs to another service proxy.
_OTHER_PROXY = "service.kubernetes.io/service-proxy-name"
#: On slices that somebody wrote about the backends of another cluster.
_SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"
#: A slice with one of these labels and without a Service serves a purpose of somebody else's.
_OTHERS_SLICE = (
    "endpointslice.kubernetes.io/managed-by",
    "multicluster.kubernetes.io/service-name",
)
#: Endpoints of which Kubernetes makes no slice: so its user asks, or they elect a leader.
_NO_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
_LEADER = "control-plane.alpha.kubernetes.io/leader"


_PROTOCOLS = ("TCP", "UDP")


_PORTS = range(1, 65536)
_Port = Annotated[int, msgspec.Meta(ge=_PORTS.start, le=_PORTS.stop - 1)]


@dataclass(frozen=True, slots=True, order=True)
class ServicePortObject:
    """``target`` is a number, or the name of a container port."""

    name: str
    protocol: str  # TCP or UDP
    port: int
    target: int | str


@dataclass(frozen=True, slots=True)
class ServiceObject:
    """A Service manifest; key in tables: ``ServiceKey``. No address: a headless service.

    ``selector`` is None when the manifest has none. ``affinity`` is ``local``, ``remote`` or empty.
    ``with_unready``: every pod that exists counts as ready. ``proxy_only`` is as in ``Service``.
    ``balanced`` are addresses of a load balancer that nodes answer at, ``external`` are those of
    ``spec.externalIPs``; ``local`` and ``local_inside``: backends of the own node alone are for
    clients outside, and for those at the cluster addresses.
    """

    cluster: str
    namespace: str
    name: str
    addresses: tuple[IP, ...]
    ports: tuple[ServicePortObject, ...]
    selector: Labels | None = None
    is_global: bool = False
    is_shared: bool = True
    origin: str = ""
    affinity: str = ""
    with_unready: bool = False
    proxy_only: str = ""
    labels: Labels = ()
    balanced: tuple[IP, ...] = ()
    external: tuple[IP, ...] = ()
    local: bool = False
    local_inside: bool = False


@dataclass(frozen=True, slots=True, order=True)
class EndpointSliceKey:
    """Key of an EndpointSlice."""

    cluster: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Every address listens on every port; ``service`` is its kubernetes.io/service-name.

    ``addresses`` are ready, those in ``leaving`` serve while they terminate.
    """

    cluster: str
    namespace: str
    name: str
    service: str
    addresses: tuple[IP, ...]
    ports: tuple[ServicePort, ...]
    origin: str = ""
    leaving: tuple[IP, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What Kubernetes would make slices of; its key in tables is that of its service."""

    cluster: str
    namespace: str
    name: str
    slices: tuple[EndpointSlice, ...]


SERVICES: ObjectNoun[ServiceKey, ServiceObject] = ObjectNoun("service")
SLICES: ObjectNoun[EndpointSliceKey, EndpointSlice] = ObjectNoun("endpoint slice")
ENDPOINTS: ObjectNoun[ServiceKey, Endpoints] = ObjectNoun("endpoints object")


class _ServicePort(Loose, frozen=True):
    port: _Port
    name: str | None = None
    protocol: str | None = None
    target_port: int | str | None = None


class _ServiceSpec(Loose, frozen=True):
    type: str | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: tuple[str, ...] | None = msgspec.field(name="clusterIPs", default=None)
    ports: tuple[_ServicePort, ...] | None = None
    selector: dict[str, str] | None = None
    publish_not_ready_addresses: bool | None = None
    session_affinity: Any = None  # a wrong type harms nobody
    internal_traffic_policy: Any = None
    external_traffic_policy: Any = None
    external_ips: Any = msgspec.field(name="externalIPs", default=None)


class _Service(Loose, frozen=True):
    metadata: Meta
    spec: _ServiceSpec
    status: Any = None


class _Conditions(Loose, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Endpoint(Loose, frozen=True):
    addresses: tuple[str, ...] | None = None
    conditions: _Conditions | None = None


class _SlicePort(Loose, frozen=True):
    port: _Port | None = None
    name: str | None = None
    protocol: str | None = None


class _Slice(Loose, frozen=True):
    metadata: Meta
    address_type: str
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_SlicePort, ...] | None = None


class _EndpointAddress(Loose, frozen=True):
    ip: str


class _Subset(Loose, frozen=True):
    addresses: tuple[_EndpointAddress, ...] | None = None
    ports: tuple[_SlicePort, ...] | None = None


class _Endpoints(Loose, frozen=True):
    metadata: Meta
    subsets: tuple[_Subset, ...] | None = None


def _service(place: Place, document: object) -> Parsed:
    service = convert(document, _Service)
    spec, metadata = service.spec, service.metadata
    key = ServiceKey(place.cluster, place.key.namespace, place.key.name)
    if spec.type == "ExternalName" or _OTHER_PROXY in (metadata.labels or {}):
        return Parsed(SERVICES.name, key, None)
    _check_ports(spec.ports or ())
    ports = [
        (number, port)
        for number, port in enumerate(spec.ports or ())
        if _protocol(port.protocol) in _PROTOCOLS
    ]
    annotations = metadata.annotations or {}
    row = ServiceObject(
        key.cluster,
        key.namespace,
        key.name,
        addresses=_cluster_ips(spec),
        ports=tuple(_service_port(number, port) for number, port in ports),
        selector=labels_of("spec.selector", spec.selector) or None,
        is_global=_annotated(annotations, _GLOBAL, default=False),
        is_shared=_annotated(annotations, _SHARED, default=True),
        origin=str(place),
        affinity=_affinity(annotations),
        with_unready=bool(spec.publish_not_ready_addresses),
        proxy_only=_proxy_only(spec),
        labels=tuple(sorted((metadata.labels or {}).items())),
        balanced=_usable(_ingress(service.status)),
        external=_usable(spec.external_ips if isinstance(spec.external_ips, list) else ()),
        local=spec.external_traffic_policy == "Local",
        local_inside=spec.internal_traffic_policy == "Local",
    )
    return Parsed(SERVICES.name, key, row, unused=tuple(_not_as_written(spec)))


def _ingress(status: Any) -> Iterator[object]:
    """Addresses of the load balancer at which nodes answer (KEP-1860)."""
    balancer = status.get("loadBalancer") if isinstance(status, dict) else None
    ingress = balancer.get("ingress") if isinstance(balancer, dict) else None
    for one in ingress if isinstance(ingress, list) else ():
        if isinstance(one, dict) and one.get("ipMode") != "Proxy":
            yield one.get("ip")


def _usable(texts: Iterable[object]) -> tuple[IP, ...]:
    """Addresses that can be announced; what is none harms nobody."""
    found: list[IP] = []
    for text in texts:
        with suppress(Wrong):
            found.append(unicast_of("", text if isinstance(text, str) else ""))
    return tuple(dict.fromkeys(found))


def _proxy_only(spec: _ServiceSpec) -> str:
    """A field of whose kind of choice a kube-proxy makes, and we do not; empty: none."""
    if spec.session_affinity == "ClientIP":
        return "spec.sessionAffinity"
    return "spec.internalTrafficPolicy" if spec.internal_traffic_policy == "Local" else ""


def _not_as_written(spec: _ServiceSpec) -> Iterator[Field]:
    """Fields that are used, and whose value here is not supported."""
    if not any(spec.cluster_ips or (spec.cluster_ip,)):
        yield _CLUSTER_IP
    if any(_protocol(port.protocol) not in _PROTOCOLS for port in spec.ports or ()):
        yield _PORT_PROTOCOL


def _check_ports(ports: Sequence[_ServicePort]) -> None:
    """Raise ``Wrong`` for ports that cannot be told apart.

    Slices and other clusters name a backend's port by the name of the service's: under one name
    for two ports, each would get the backends of both.
    """
    names: dict[str, int] = {}
    places: dict[tuple[str, int], int] = {}
    for number, port in enumerate(ports):
        path, name = f"spec.ports[{number}]", port.name or ""
        if name:  # peers refuse a service that has a port whose name is none
            name_of(f"{path}.name", name.lower())
        elif len(ports) > 1:
            raise Wrong(f"{path}.name", "required, because the service has several ports")
        if (first := names.setdefault(name, number)) != number:
            raise Wrong(f"{path}.name", f"{name!r} is the name of spec.ports[{first}] already")
        place = _protocol(port.protocol), port.port
        if (first := places.setdefault(place, number)) != number:
            text = f"port {port.port}/{place[0]} is that of spec.ports[{first}] already"
            raise Wrong(f"{path}.port", text)


def _service_port(number: int, port: _ServicePort) -> ServicePortObject:
    target = port.target_port or port.port
    if isinstance(target, str) and target.isdecimal():
        target = int(target)
    if isinstance(target, int) and target not in _PORTS:
        text = f"expected a port of 1 to 65535 or a container port's name, got {target}"
        raise Wrong(f"spec.ports[{number}].targetPort", text)
    return ServicePortObject(port.name or "", _protocol(port.protocol), port.port, target)


def _cluster_ips(spec: _ServiceSpec) -> tuple[IP, ...]:
    if spec.cluster_ips:
        texts = {f"spec.clusterIPs[{n}]": text for n, text in enumerate(spec.cluster_ips)}
    else:
        texts = {"spec.clusterIP": spec.cluster_ip or ""}
    found = [unicast_of(path, text) for path, text in texts.items() if text not in ("None", "")]
    return tuple(dict.fromkeys(found))


def _annotated(annotations: Mapping[str, str], names: tuple[str, ...], *, default: bool) -> bool:
    for name in names:
        if name in annotations:
            return annotations[name].lower() == "true"
    return default


def _affinity(annotations: Mapping[str, str]) -> str:
    """The one of a global service; any other value prefers nobody, as in Cilium."""
    found = next((annotations[name].lower() for name in _AFFINITY if name in annotations), "")
    return found if found in ("local", "remote") else ""


def _slice(place: Place, document: object) -> Parsed:
    written = convert(document, _Slice)
    key = EndpointSliceKey(place.cluster, place.key.namespace, place.key.name)
    labels = written.metadata.labels or {}
    service = labels.get(_SERVICE_LABEL)
    if not service and any(name in labels for name in _OTHERS_SLICE):
        return Parsed(SLICES.name, key, None)
    if labels.get(_SOURCE_CLUSTER, place.cluster) != place.cluster:
        return Parsed(SLICES.name, key, None)  # peers publish their backends themselves
    if written.address_type not in ("IPv4", "IPv6"):
        note = place.finding(
            UNSUPPORTED,
            "addressType",
            f"not supported: {written.address_type}; the slice is left out",
        )
        return Parsed(SLICES.name, key, None, (note,))
    ready, leaving = _addresses(written)
    row = EndpointSlice(
        key.cluster,
        key.namespace,
        key.name,
        service=name_of(f"metadata.labels.{_SERVICE_LABEL}", service),
        addresses=ready,
        ports=_slice_ports(written.ports),
        origin=str(place),
        leaving=leaving,
    )
    return Parsed(SLICES.name, key, row)


def _addresses(document: _Slice) -> tuple[tuple[IP, ...], tuple[IP, ...]]:
    """Addresses of the endpoints that are ready, and of those that serve while they terminate."""
    ready: list[IP] = []
    leaving: list[IP] = []
    for number, endpoint in enumerate(document.endpoints or ()):
        state = endpoint.conditions or _Conditions()
        is_ready = state.ready is not False  # an endpoint that says nothing is
        serves = is_ready if state.serving is None else state.serving
        for index, text in enumerate(endpoint.addresses or ()):
            path = f"endpoints[{number}].addresses[{index}]"
            address = _backend_of(path, text)
            if f"IPv{address.version}" != document.address_type:
                raise Wrong(path, f"expected an {document.address_type} address, got {text!r}")
            if is_ready:
                ready.append(address)
            elif serves and state.terminating:
                leaving.append(address)
    return tuple(ready), tuple(leaving)


def _backend_of(path: str, text: str) -> IP:
    """An address that the API server takes as a backend's (CVE-2021-25737). Raises ``Wrong``."""
    address = unicast_of(path, text)
    if address.is_link_local:
        raise Wrong(path, f"{text} is a link-local address: each link has a host of its own there")
    return address


def _slice_ports(ports: tuple[_SlicePort, ...] | None) -> tuple[ServicePort, ...]:
    return tuple(
        ServicePort(port.name or "", _protocol(port.protocol), port.port)
        for port in ports or ()
        if port.port and _protocol(port.protocol) in _PROTOCOLS
    )


def _endpoints(place: Place, document: object) -> Parsed:
    """One slice for each subset, as Kubernetes mirrors it; it makes none of some Endpoints."""
    written = convert(document, _Endpoints)
    key = ServiceKey(place.cluster, place.key.namespace, place.key.name)
    metadata = written.metadata
    if _annotated(metadata.labels or {}, (_NO_MIRROR,), default=False):
        return Parsed(ENDPOINTS.name, key, None)
    if _LEADER in (metadata.annotations or {}):
        return Parsed(ENDPOINTS.name, key, None)
    slices = tuple(
        EndpointSlice(
            key.cluster,
            key.namespace,
            key.name,
            service=key.name,
            addresses=tuple(
                _backend_of(f"subsets[{number}].addresses[{index}].ip", one.ip)
                for index, one in enumerate(subset.addresses or ())
            ),
            ports=_slice_ports(subset.ports),
            origin=str(place),
        )
        for number, subset in enumerate(written.subsets or ())
    )
    row = Endpoints(key.cluster, key.namespace, key.name, slices)
    return Parsed(ENDPOINTS.name, key, row)


def _protocol(text: str | None) -> str:
    return text or "TCP"


def _has_served_ingress(document: Any) -> bool:
    """Whether a node would answer at an address of the load balancer (KEP-1860)."""
    ingress = document["status"]["loadBalancer"]["ingress"]
    found = (one for one in ingress if isinstance(one, dict))
    return any(one.get("ip") and one.get("ipMode") != "Proxy" for one in found)


def _is_translated(document: Any) -> bool:
    """Whether the service has an address to translate: a headless one has names only."""
    spec = document["spec"]
    return "None" not in (spec.get("clusterIP"), *(spec.get("clusterIPs") or ()))


def _is_ours(document: Any) -> bool:
    """Whether Meshgate translates the service beside a kube-proxy, too: a global one."""
    annotations = document["metadata"].get("annotations") or {}
    text = {str(name): str(value) for name, value in annotations.items()}
    return _is_translated(document) and _annotated(text, _GLOBAL, default=False)


def _is_the_proxys(document: Any) -> bool:
    return _is_translated(document) and not _is_ours(document)


def _is_for_proxies(document: Any) -> bool:
    """Whether the slice is not one of a headless service."""
    return "service.kubernetes.io/headless" not in document["metadata"]["labels"]


_CLUSTER_IP = used(
    "spec.clusterIP",
    "the address that is translated; None makes a headless service. Absent or empty is a finding",
    "absent or empty, and a folder of manifests has nobody who assigns one; the service has no "
    "address. Give it one, or None",
)
_PORT_PROTOCOL = used(
    "spec.ports[].protocol",
    "TCP or UDP. Another protocol is a finding, and the port is left out",
    "only TCP and UDP are supported; the port is left out",
)
_NO_EXTERNAL = "the service answers at its cluster addresses only, and for pods and nodes only"

SERVICE_FIELDS = (
    used("metadata.labels", "selects the services whose addresses a BGPPeer announces"),
    used("metadata.labels[service.kubernetes.io/service-proxy-name]", "another proxy's service"),
    used("metadata.annotations[service.cilium.io/global]", "backends of all clusters"),
    used("metadata.annotations[service.cilium.io/shared]", "whether other clusters get backends"),
    used(
        "metadata.annotations[service.cilium.io/affinity]",
        "local: the own cluster's backends alone, while there are any; remote: those of others",
    ),
    used("metadata.annotations[io.cilium/global-service]", "as service.cilium.io/global"),
    used("metadata.annotations[io.cilium/shared-service]", "as service.cilium.io/shared"),
    used("metadata.annotations[io.cilium/service-affinity]", "as service.cilium.io/affinity"),
    unused(
        "metadata.annotations[service.cilium.io/type]",
        "the service keeps its cluster addresses, whatever types the annotation lists",
        same=("ClusterIP",),
        server=FieldServer.CNI,
    ),
    irrelevant(
        "metadata.annotations[service.cilium.io/global-sync-endpoint-slices]",
        "slices about other clusters are not read: peers publish their backends themselves",
    ),
    irrelevant(
        "metadata.annotations[service.cilium.io/lb-algorithm], [.../forwarding-mode], "
        "[.../node], [.../node-selector], [.../src-ranges-policy], [.../proxy-delegation]",
        "only packets from outside ask for them, and spec.type says that none are answered",
    ),
    irrelevant(
        "metadata.annotations[lbipam.cilium.io/ips]", "status.loadBalancer has what came of it"
    ),
    _CLUSTER_IP,
    used("spec.clusterIPs[]", "as spec.clusterIP, one address for each family"),
    used("spec.ports[].name", "joins the port with slices and with services of other clusters"),
    used("spec.ports[].port", "the port that is translated"),
    _PORT_PROTOCOL,
    used("spec.ports[].targetPort", "the backend's port, a number or a container port's name"),
    used("spec.selector", "the pods behind a service that has no EndpointSlices"),
    used("spec.publishNotReadyAddresses", "pods that are not ready count as ready"),
    unused("spec.type", _NO_EXTERNAL, same=("ClusterIP",), server=FieldServer.PROXY),
    unused("spec.externalIPs[]", "the addresses are not translated", server=FieldServer.PROXY),
    unused(
        "status.loadBalancer.ingress[].ip",
        "the addresses are not translated",
        when=_has_served_ingress,
        server=FieldServer.PROXY,
    ),
    unused(
        "spec.ports[].nodePort",
        "nothing listens on the port of the nodes",
        server=FieldServer.PROXY,
    ),
    unused(
        "spec.healthCheckNodePort",
        "nothing listens on the port of the nodes: a load balancer takes them for dead",
        server=FieldServer.PROXY,
    ),
    unused(
        "spec.sessionAffinity",
        "the connections of one client go to different backends",
        same=("None",),
        when=_is_translated,
        server=FieldServer.PROXY,
    ),
    unused(
        "spec.internalTrafficPolicy",
        "connections go to backends of all nodes, not of the client's node only",
        same=("Cluster",),
        when=_is_translated,
        server=FieldServer.PROXY,
    ),
    unused(
        "spec.externalTrafficPolicy",
        "packets from outside are not answered, and so not by backends of this node only",
        same=("Cluster",),
        server=FieldServer.PROXY,
    ),
    unused(
        "spec.trafficDistribution",
        "connections go to backends of all zones and nodes",
        when=_is_the_proxys,
        server=FieldServer.PROXY,
    ),
    unused(
        "spec.trafficDistribution",
        "those of a global service go to backends of all zones and nodes, also beside a kube-proxy",
        when=_is_ours,
    ),
    irrelevant("spec.sessionAffinityConfig", "it belongs to sessionAffinity"),
    irrelevant("spec.ipFamilies[], spec.ipFamilyPolicy", "clusterIPs has what came of them"),
    irrelevant("spec.loadBalancerIP", "status.loadBalancer has what came of it"),
    irrelevant("spec.loadBalancerClass", "it says who assigns addresses"),
    irrelevant("spec.loadBalancerSourceRanges[]", "the load balancer's addresses answer nobody"),
    irrelevant("spec.allocateLoadBalancerNodePorts", "spec.ports has what came of it"),
    irrelevant("spec.externalName", "a name for DNS; the service has no address"),
    irrelevant("spec.ports[].appProtocol", "advice for proxies that read more than addresses"),
    irrelevant("status.loadBalancer.ingress[].hostname", "a name for DNS"),
    irrelevant("status.loadBalancer.ingress[].ports[]", "errors of the load balancer"),
    irrelevant("metadata.deletionTimestamp", "a service serves as long as its object is there"),
)
SLICE_FIELDS = (
    used("metadata.labels[kubernetes.io/service-name]", "the service of the slice"),
    used(
        "metadata.labels[endpointslice.kubernetes.io/managed-by]",
        "a slice that has this label and no service is left out: it serves another purpose",
    ),
    used(
        "metadata.labels[multicluster.kubernetes.io/service-name]",
        "as endpointslice.kubernetes.io/managed-by",
    ),
    used(
        "metadata.labels[multicluster.kubernetes.io/source-cluster]",
        "slices about another cluster are left out: it publishes its backends itself",
    ),
    used("addressType", "IPv4 or IPv6; a slice of names (FQDN) is a finding, and left out"),
    used("endpoints[].addresses[]", "the backends"),
    used("endpoints[].conditions.ready", "false: no new connections, but for the next line"),
    used(
        "endpoints[].conditions.serving",
        "with terminating: gets new connections while no backend is ready",
    ),
    used("endpoints[].conditions.terminating", "as serving"),
    used("ports[].name", "joins the port with a port of the service"),
    used("ports[].port", "the backend's port; a port without a number is left out"),
    used("ports[].protocol", "TCP or UDP; a port of another protocol is left out"),
    unused(
        "endpoints[].hints.forZones[]",
        "connections go to backends of all zones",
        when=_is_for_proxies,
        server=FieldServer.PROXY,
    ),
    unused(
        "endpoints[].hints.forNodes[]",
        "connections go to backends of all nodes",
        when=_is_for_proxies,
        server=FieldServer.PROXY,
    ),
    irrelevant("endpoints[].nodeName", "only the traffic policies of a service ask for it"),
    irrelevant("endpoints[].zone", "only hints ask for it"),
    irrelevant("endpoints[].hostname", "a name for DNS"),
    irrelevant("endpoints[].targetRef", "it says of which object the endpoint was made"),
    irrelevant("ports[].appProtocol", "advice for proxies that read more than addresses"),
)
ENDPOINTS_FIELDS = (
    used("metadata.name", "the service: one without a selector and without EndpointSlices"),
    used("metadata.labels[endpointslice.kubernetes.io/skip-mirror]", "true: they are left out"),
    used("metadata.annotations[control-plane.alpha.kubernetes.io/leader]", "they are left out"),
    used("subsets[].addresses[].ip", "the backends"),
    used("subsets[].ports[].name", "joins the port with a port of the service"),
    used("subsets[].ports[].port", "the backend's port"),
    used("subsets[].ports[].protocol", "TCP or UDP; a port of another protocol is left out"),
    irrelevant("subsets[].notReadyAddresses[]", "they get no connections"),
    irrelevant("subsets[].addresses[].nodeName", "only traffic policies ask for it"),
    irrelevant("subsets[].addresses[].hostname", "a name for DNS"),
    irrelevant("subsets[].addresses[].targetRef", "it says of which object the address is"),
    irrelevant("subsets[].ports[].appProtocol", "advice for proxies that read more than addresses"),
)

KINDS = (
    Kind("v1", "Service", SERVICES, _service, namespaced=True, fields=SERVICE_FIELDS),
    Kind(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        SLICES,
        _slice,
        namespaced=True,
        fields=SLICE_FIELDS,
        churns=True,
    ),
    # A controller of Kubernetes mirrors Endpoints in EndpointSlices. Since 1.33 the API server
    # answers each request for them with a warning.
    Kind(
        "v1",
        "Endpoints",
        ENDPOINTS,
        _endpoints,
        namespaced=True,
        fields=ENDPOINTS_FIELDS,
        mirrored=True,
    ),
)
