"""Node, Namespace and Pod: documents -> rows.

Only the fields that we use are looked at. What a kubelet or the API server would add to an object
(``kubernetes.io/hostname`` on nodes, ``kubernetes.io/metadata.name`` on namespaces) is added here,
because in a folder of manifests nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from mesh.core.model import (
    ContainerPort,
    Labels,
    Namespace,
    Node,
    NodeKey,
    Pod,
    PodKey,
)
from mesh.core.strict import Wrong, convert
from mesh.objects.schema import Kind, Loose, Meta, Parsed, Place, address_of, labels_of, name_of
from mesh.objects.tables import ObjectNoun

NODES: ObjectNoun[NodeKey, Node] = ObjectNoun("node")
NAMESPACES: ObjectNoun[str, Namespace] = ObjectNoun("namespace")
PODS: ObjectNoun[PodKey, Pod] = ObjectNoun("pod")

HOSTNAME_LABEL = "kubernetes.io/hostname"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
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


def _node(place: Place, document: object) -> Parsed:
    node = convert(document, _Node)
    found = [
        address_of(f"status.addresses[{number}].address", entry.address)
        for number, entry in enumerate(node.status.addresses or ())
        if entry.type == "InternalIP"
    ]
    if not found:
        raise Wrong("status.addresses", "no address of type InternalIP")
    name = place.key.name
    labels = _labels(node.metadata, HOSTNAME_LABEL, name)
    row = Node(place.cluster, name, tuple(found), labels=labels)
    return Parsed(NODES.name, NodeKey(place.cluster, name), row)


def _namespace(place: Place, document: object) -> Parsed:
    name = place.key.name
    labels = _labels(convert(document, _Namespace).metadata, NAMESPACE_LABEL, name)
    return Parsed(NAMESPACES.name, name, Namespace(place.cluster, name, labels))


def _pod(place: Place, document: object) -> Parsed:
    pod = convert(document, _Pod)
    key = PodKey(place.cluster, place.key.namespace, place.key.name)
    if pod.spec.host_network or (pod.status and pod.status.phase in ("Succeeded", "Failed")):
        return Parsed(PODS.name, key, None)
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
    return Parsed(PODS.name, key, row)


def _container_ports(spec: _PodSpec) -> Iterator[ContainerPort]:
    for container in spec.containers or ():
        for port in container.ports or ():
            if port.name and _protocol(port.protocol) in _PROTOCOLS:
                yield ContainerPort(port.name, _protocol(port.protocol), port.container_port)


def _labels(meta: Meta, key: str, value: str) -> Labels:
    return labels_of("metadata.labels", {key: value} | (meta.labels or {}))


def _protocol(text: str | None) -> str:
    return text or "TCP"


KINDS = (
    Kind("v1", "Node", NODES, _node),
    Kind("v1", "Namespace", NAMESPACES, _namespace),
    Kind("v1", "Pod", PODS, _pod, namespaced=True),
)
