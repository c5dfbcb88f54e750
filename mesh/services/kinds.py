"""Service and EndpointSlice: documents -> rows.

Only the fields that we use are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from mesh.core.model import IP, Labels, ServiceKey, ServicePort
from mesh.core.strict import Wrong, convert
from mesh.objects.findings import UNSUPPORTED
from mesh.objects.schema import (
    Kind,
    Loose,
    Meta,
    Parsed,
    Place,
    address_of,
    labels_of,
    name_of,
)
from mesh.objects.tables import ObjectNoun

_SERVICE_LABEL = "kubernetes.io/service-name"


_GLOBAL = ("service.cilium.io/global", "io.cilium/global-service")


_SHARED = ("service.cilium.io/shared", "io.cilium/shared-service")


_PROTOCOLS = ("TCP", "UDP")


_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


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

    ``selector`` is None when the manifest has none: then EndpointSlices name the backends.
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


@dataclass(frozen=True, slots=True, order=True)
class EndpointSliceKey:
    """Key of an EndpointSlice."""

    cluster: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Every ready address listens on every port; ``service`` is its kubernetes.io/service-name."""

    cluster: str
    namespace: str
    name: str
    service: str
    addresses: tuple[IP, ...]
    ports: tuple[ServicePort, ...]
    origin: str = ""


SERVICES: ObjectNoun[ServiceKey, ServiceObject] = ObjectNoun("service")
SLICES: ObjectNoun[EndpointSliceKey, EndpointSlice] = ObjectNoun("endpoint slice")


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


def _service(place: Place, document: object) -> Parsed:
    service = convert(document, _Service)
    spec = service.spec
    key = ServiceKey(place.cluster, place.key.namespace, place.key.name)
    if spec.type == "ExternalName":
        return Parsed(SERVICES.name, key, None)
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
    return Parsed(SERVICES.name, key, row, tuple(notes))


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
    return tuple(address_of(path, text) for path, text in texts.items() if text not in ("None", ""))


def _annotated(annotations: Mapping[str, str], names: tuple[str, ...], *, default: bool) -> bool:
    for name in names:
        if name in annotations:
            return annotations[name].lower() == "true"
    return default


def _slice(place: Place, document: object) -> Parsed:
    written = convert(document, _Slice)
    key = EndpointSliceKey(place.cluster, place.key.namespace, place.key.name)
    service = (written.metadata.labels or {}).get(_SERVICE_LABEL)
    if written.address_type not in ("IPv4", "IPv6"):
        note = place.finding(
            UNSUPPORTED,
            "addressType",
            f"not supported: {written.address_type}; the slice is left out",
        )
        return Parsed(SLICES.name, key, None, (note,))
    row = EndpointSlice(
        key.cluster,
        key.namespace,
        key.name,
        service=name_of(f"metadata.labels.{_SERVICE_LABEL}", service),
        addresses=tuple(_ready(written)),
        ports=tuple(
            ServicePort(port.name or "", _protocol(port.protocol), port.port)
            for port in written.ports or ()
            if port.port and _protocol(port.protocol) in _PROTOCOLS
        ),
        origin=str(place),
    )
    return Parsed(SLICES.name, key, row)


def _ready(document: _Slice) -> Iterator[IP]:
    """Addresses of the endpoints that are ready; an endpoint that says nothing is."""
    for number, endpoint in enumerate(document.endpoints or ()):
        ready = endpoint.conditions is None or endpoint.conditions.ready is not False
        for index, text in enumerate(endpoint.addresses or ()):
            path = f"endpoints[{number}].addresses[{index}]"
            address = address_of(path, text)
            if f"IPv{address.version}" != document.address_type:
                raise Wrong(path, f"expected an {document.address_type} address, got {text!r}")
            if ready:
                yield address


def _protocol(text: str | None) -> str:
    return text or "TCP"


KINDS = (
    Kind("v1", "Service", SERVICES, _service, namespaced=True),
    Kind("discovery.k8s.io/v1", "EndpointSlice", SLICES, _slice, namespaced=True),
)
