"""Node, Namespace, Pod, Service and EndpointSlice: documents -> rows.

Only the fields that we use are looked at. What a kubelet or the API server would add to an object
(``kubernetes.io/hostname`` on nodes, ``kubernetes.io/metadata.name`` on namespaces) is added here,
because in a folder of manifests nobody else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import msgspec

from mesh.core.model import (
    IP,
    ContainerPort,
    EndpointSlice,
    EndpointSliceKey,
    Labels,
    Namespace,
    Node,
    NodeKey,
    Pod,
    PodKey,
    ServiceKey,
    ServiceObject,
    ServicePort,
    ServicePortObject,
)
from mesh.core.strict import Wrong, convert, parse_address
from mesh.objects.tables import UNSUPPORTED, Loose, Meta, Parsed, Place, labels_of, name_of

HOSTNAME_LABEL = "kubernetes.io/hostname"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_SERVICE_LABEL = "kubernetes.io/service-name"
_GLOBAL = ("service.cilium.io/global", "io.cilium/global-service")
_SHARED = ("service.cilium.io/shared", "io.cilium/shared-service")
_PROTOCOLS = ("TCP", "UDP")

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _NodeAddress(Loose, frozen=True):
    type: str
    address: str


class _NodeStatus(Loose, frozen=True):
    addresses: tuple[_NodeAddress, ...] | None = None


class _Node(Loose, frozen=True):
    metadata: Meta
    status: _NodeStatus


class _Namespace(Loose, frozen=True):
    metadata: Meta


class _ContainerPort(Loose, frozen=True):
    container_port: _Port
    name: str | None = None
    protocol: str | None = None


class _Container(Loose, frozen=True):
    ports: tuple[_ContainerPort, ...] | None = None


class _PodSpec(Loose, frozen=True):
    node_name: str | None = None
    service_account_name: str | None = None
    host_network: bool | None = None
    containers: tuple[_Container, ...] | None = None


class _PodStatus(Loose, frozen=True):
    phase: str | None = None


class _Pod(Loose, frozen=True):
    metadata: Meta
    spec: _PodSpec
    status: _PodStatus | None = None


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


class _Service(Loose, frozen=True):
    metadata: Meta
    spec: _ServiceSpec


class _Conditions(Loose, frozen=True):
    ready: bool | None = None


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


def _node(place: Place, document: object) -> Parsed:
    node = convert(document, _Node)
    found = [
        _address(f"status.addresses[{number}].address", entry.address)
        for number, entry in enumerate(node.status.addresses or ())
        if entry.type == "InternalIP"
    ]
    if not found:
        raise Wrong("status.addresses", "no address of type InternalIP")
    name = place.key.name
    labels = _labels(node.metadata, HOSTNAME_LABEL, name)
    row = Node(place.cluster, name, tuple(found), labels=labels)
    return Parsed("node", NodeKey(place.cluster, name), row)


def _namespace(place: Place, document: object) -> Parsed:
    name = place.key.name
    labels = _labels(convert(document, _Namespace).metadata, NAMESPACE_LABEL, name)
    return Parsed("namespace", name, Namespace(place.cluster, name, labels))


def _pod(place: Place, document: object) -> Parsed:
    pod = convert(document, _Pod)
    key = PodKey(place.cluster, place.key.namespace, place.key.name)
    if pod.spec.host_network or (pod.status and pod.status.phase in ("Succeeded", "Failed")):
        return Parsed("pod", key, None)
    row = Pod(
        key.cluster,
        key.namespace,
        key.name,
        node=name_of("spec.nodeName", pod.spec.node_name),
        labels=labels_of("metadata.labels", pod.metadata.labels),
        service_account=name_of(
            "spec.serviceAccountName", pod.spec.service_account_name, "default"
        ),
        ports=tuple(sorted(_container_ports(pod.spec))),
    )
    return Parsed("pod", key, row)


def _container_ports(spec: _PodSpec) -> Iterator[ContainerPort]:
    for container in spec.containers or ():
        for port in container.ports or ():
            if port.name and _protocol(port.protocol) in _PROTOCOLS:
                yield ContainerPort(port.name, _protocol(port.protocol), port.container_port)


def _service(place: Place, document: object) -> Parsed:
    service = convert(document, _Service)
    spec = service.spec
    key = ServiceKey(place.cluster, place.key.namespace, place.key.name)
    if spec.type == "ExternalName":
        return Parsed("service", key, None)
    notes = []
    if spec.cluster_ip is None and not spec.cluster_ips:
        text = "absent, and a folder of manifests has nobody who assigns one: no address"
        notes.append(place.finding(UNSUPPORTED, "spec.clusterIP", text))
    ports = []
    for number, port in enumerate(spec.ports or ()):
        if _protocol(port.protocol) in _PROTOCOLS:
            ports.append(_service_port(port))
        else:
            text = f"not supported yet: {port.protocol}; the port is left out"
            notes.append(place.finding(UNSUPPORTED, f"spec.ports[{number}].protocol", text))
    annotations = service.metadata.annotations or {}
    row = ServiceObject(
        key.cluster,
        key.namespace,
        key.name,
        addresses=_cluster_ips(spec),
        ports=tuple(ports),
        selector=labels_of("spec.selector", spec.selector) or None,
        is_global=_annotated(annotations, _GLOBAL, default=False),
        is_shared=_annotated(annotations, _SHARED, default=True),
        origin=str(place),
    )
    return Parsed("service", key, row, tuple(notes))


def _service_port(port: _ServicePort) -> ServicePortObject:
    target = port.target_port or port.port
    if isinstance(target, str) and target.isdecimal():
        target = int(target)
    return ServicePortObject(port.name or "", _protocol(port.protocol), port.port, target)


def _cluster_ips(spec: _ServiceSpec) -> tuple[IP, ...]:
    if spec.cluster_ips:
        texts = {f"spec.clusterIPs[{n}]": text for n, text in enumerate(spec.cluster_ips)}
    else:
        texts = {"spec.clusterIP": spec.cluster_ip or ""}
    return tuple(_address(path, text) for path, text in texts.items() if text not in ("None", ""))


def _annotated(annotations: Mapping[str, str], names: tuple[str, ...], *, default: bool) -> bool:
    for name in names:
        if name in annotations:
            return annotations[name].lower() == "true"
    return default


def _slice(place: Place, document: object) -> Parsed:
    found = convert(document, _Slice)
    key = EndpointSliceKey(place.cluster, place.key.namespace, place.key.name)
    service = (found.metadata.labels or {}).get(_SERVICE_LABEL)
    if found.address_type not in ("IPv4", "IPv6"):
        note = place.finding(
            UNSUPPORTED,
            "addressType",
            f"not supported: {found.address_type}; the slice is left out",
        )
        return Parsed("slice", key, None, (note,))
    row = EndpointSlice(
        key.cluster,
        key.namespace,
        key.name,
        service=name_of(f"metadata.labels.{_SERVICE_LABEL}", service),
        addresses=tuple(_ready(found)),
        ports=tuple(
            ServicePort(port.name or "", _protocol(port.protocol), port.port)
            for port in found.ports or ()
            if port.port and _protocol(port.protocol) in _PROTOCOLS
        ),
        origin=str(place),
    )
    return Parsed("slice", key, row)


def _ready(found: _Slice) -> Iterator[IP]:
    """Addresses of the endpoints that are ready; an endpoint that says nothing is."""
    for number, endpoint in enumerate(found.endpoints or ()):
        ready = endpoint.conditions is None or endpoint.conditions.ready is not False
        for index, text in enumerate(endpoint.addresses or ()):
            path = f"endpoints[{number}].addresses[{index}]"
            address = _address(path, text)
            if f"IPv{address.version}" != found.address_type:
                raise Wrong(path, f"expected an {found.address_type} address, got {text!r}")
            if ready:
                yield address


def _labels(meta: Meta, key: str, value: str) -> Labels:
    return labels_of("metadata.labels", {key: value} | (meta.labels or {}))


def _protocol(text: str | None) -> str:
    return text or "TCP"


def _address(path: str, text: str) -> IP:
    try:
        return parse_address(text)
    except ValueError:
        raise Wrong(path, f"expected an IP address, got {text!r}") from None


#: apiVersion, kind -> whether it has a namespace, and its parser.
KINDS: Mapping[tuple[str, str], tuple[bool, Callable[[Place, object], Parsed]]] = {
    ("v1", "Node"): (False, _node),
    ("v1", "Namespace"): (False, _namespace),
    ("v1", "Pod"): (True, _pod),
    ("v1", "Service"): (True, _service),
    ("discovery.k8s.io/v1", "EndpointSlice"): (True, _slice),
}
