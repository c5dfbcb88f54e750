"""Node, Namespace and Pod: documents -> rows.

Only the fields that we use are looked at; the lists at the end say what follows for the others.
What a kubelet or the API server would add to an object (``kubernetes.io/hostname`` on nodes,
``kubernetes.io/metadata.name`` on namespaces) is added here, because in a folder of manifests
nobody else does. A pod without status counts as ready for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from mesh.core.model import (
    IP,
    ContainerPort,
    Labels,
    Namespace,
    Network,
    Node,
    NodeKey,
    Pod,
    PodKey,
)
from mesh.core.strict import AnyNetwork, Wrong, convert
from mesh.objects.fields import FieldServer, irrelevant, unused, used
from mesh.objects.schema import Kind, Loose, Meta, Parsed, Place, labels_of, name_of, unicast_of
from mesh.objects.tables import ObjectNoun

NODES: ObjectNoun[NodeKey, Node] = ObjectNoun("node")
NAMESPACES: ObjectNoun[str, Namespace] = ObjectNoun("namespace")
PODS: ObjectNoun[PodKey, Pod] = ObjectNoun("pod")
#: Pods in their node's own network: no device, row or identity of a pod, but backends of services.
#: ``addresses`` are those that the kubelet has written; without any they are the node's.
HOST_PODS: ObjectNoun[PodKey, Pod] = ObjectNoun("pod of a host")

HOSTNAME_LABEL = "kubernetes.io/hostname"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
#: The UID by which kubelet and runtime know a static pod, whose object has one of its own.
_STATIC_UID = "kubernetes.io/config.hash"
#: Addresses, with commas in between, that a pod is to have in the VRF that it is in.
TENANT_ADDRESSES = "meshgate.io/tenant-addresses"
_UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"
_PROTOCOLS = ("TCP", "UDP")

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _NodeAddress(Loose, frozen=True):
    type: str
    address: str


class _NodeStatus(Loose, frozen=True):
    addresses: tuple[_NodeAddress, ...] | None = None


class _Taint(Loose, frozen=True):
    key: str


class _NodeSpec(Loose, frozen=True):
    pod_cidr: AnyNetwork | None = msgspec.field(name="podCIDR", default=None)
    pod_cidrs: tuple[AnyNetwork, ...] | None = msgspec.field(name="podCIDRs", default=None)
    taints: tuple[_Taint, ...] | None = None


class _Node(Loose, frozen=True):
    metadata: Meta
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


class _Namespace(Loose, frozen=True):
    metadata: Meta


class _ContainerPort(Loose, frozen=True):
    container_port: _Port
    name: str | None = None
    protocol: str | None = None


class _Container(Loose, frozen=True):
    ports: tuple[_ContainerPort, ...] | None = None
    restart_policy: str | None = None


class _PodSpec(Loose, frozen=True):
    node_name: str | None = None
    service_account_name: str | None = None
    service_account: str | None = None
    host_network: bool | None = None
    containers: tuple[_Container, ...] | None = None
    init_containers: tuple[_Container, ...] | None = None


class _Condition(Loose, frozen=True):
    type: str
    status: str


class _PodAddress(Loose, frozen=True):
    ip: str


class _PodStatus(Loose, frozen=True):
    phase: str | None = None
    conditions: tuple[_Condition, ...] | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    pod_ips: tuple[_PodAddress, ...] | None = msgspec.field(name="podIPs", default=None)


class _Pod(Loose, frozen=True):
    metadata: Meta
    spec: _PodSpec
    status: _PodStatus | None = None


def _node(place: Place, document: object) -> Parsed:
    node = convert(document, _Node)
    status = node.status or _NodeStatus()
    found = [
        unicast_of(f"status.addresses[{number}].address", entry.address)
        for number, entry in enumerate(status.addresses or ())
        if entry.type == "InternalIP"
    ]
    name = place.key.name
    key = NodeKey(place.cluster, name)
    if not found and _waits_for_its_cloud(node.spec or _NodeSpec()):
        return Parsed(NODES.name, key, None)
    if node.status is None:
        raise Wrong("status", "required")
    if not found:
        raise Wrong("status.addresses", "no address of type InternalIP")
    labels = _labels(node.metadata, HOSTNAME_LABEL, name)
    given = _given(node.spec or _NodeSpec())
    row = Node(place.cluster, name, tuple(dict.fromkeys(found)), labels=labels, given=given)
    return Parsed(NODES.name, key, row)


def _given(spec: _NodeSpec) -> tuple[Network, ...]:
    """What the cluster has handed out to the node; none, where it hands nothing out."""
    first = (spec.pod_cidr,) if spec.pod_cidr else ()
    return tuple(dict.fromkeys(spec.pod_cidrs or first))


def _waits_for_its_cloud(spec: _NodeSpec) -> bool:
    """Whether the cloud's controller has yet to say which addresses the node has."""
    return any(taint.key == _UNINITIALIZED for taint in spec.taints or ())


def _namespace(place: Place, document: object) -> Parsed:
    name = place.key.name
    labels = _labels(convert(document, _Namespace).metadata, NAMESPACE_LABEL, name)
    return Parsed(NAMESPACES.name, name, Namespace(place.cluster, name, labels))


def _pod(place: Place, document: object) -> Parsed:
    pod = convert(document, _Pod)
    spec, status = pod.spec, pod.status or _PodStatus()
    key = PodKey(place.cluster, place.key.namespace, place.key.name)
    if not spec.node_name or status.phase in ("Succeeded", "Failed"):
        return Parsed(PODS.name, key, None)  # it runs nowhere yet, or no longer
    account = spec.service_account_name or spec.service_account
    reported = tuple(_reported(status))
    row = Pod(
        key.cluster,
        key.namespace,
        key.name,
        node=name_of("spec.nodeName", spec.node_name),
        labels=labels_of("metadata.labels", pod.metadata.labels),
        addresses=reported if spec.host_network else (),
        service_account=name_of("spec.serviceAccountName", account, "default"),
        ports=_container_ports(spec),
        serving=_is_serving(status),
        terminating=bool(pod.metadata.deletion_timestamp),
        reported=() if spec.host_network else reported,
        uid=(pod.metadata.annotations or {}).get(_STATIC_UID) or pod.metadata.uid or "",
        tenant_addresses=_tenant_addresses(pod.metadata),
        datagram_ports=_datagram_ports(spec),
    )
    noun = HOST_PODS if spec.host_network else PODS
    return Parsed(noun.name, key, row, space=PODS.name)


def _tenant_addresses(meta: Meta) -> tuple[IP, ...]:
    """At most one of each family. Raises ``Wrong``."""
    path = f"metadata.annotations.{TENANT_ADDRESSES}"
    texts = [text.strip() for text in (meta.annotations or {}).get(TENANT_ADDRESSES, "").split(",")]
    found = tuple([unicast_of(path, text) for text in texts if text])
    if len({address.version for address in found}) < len(found):
        raise Wrong(path, "expected at most one IPv4 and one IPv6 address")
    return found


def _is_serving(status: _PodStatus) -> bool:
    """Whether the condition Ready holds; a manifest without conditions says by its phase."""
    if status.conditions:
        return any(one.type == "Ready" and one.status == "True" for one in status.conditions)
    return status.phase in (None, "", "Running")


def _reported(status: _PodStatus) -> Iterator[IP]:
    for number, one in enumerate(status.pod_ips or ()):
        yield unicast_of(f"status.podIPs[{number}].ip", one.ip)
    if status.pod_ip and not status.pod_ips:
        yield unicast_of("status.podIP", status.pod_ip)


def _container_ports(spec: _PodSpec) -> tuple[ContainerPort, ...]:
    """Named ports; of two containers with one name and protocol the first counts."""
    found: dict[tuple[str, str], ContainerPort] = {}
    for container in _running_containers(spec):
        for port in container.ports or ():
            protocol = _protocol(port.protocol)
            if port.name and protocol in _PROTOCOLS:
                row = ContainerPort(port.name, protocol, port.container_port)
                found.setdefault((port.name, protocol), row)
    return tuple(sorted(found.values()))


def _datagram_ports(spec: _PodSpec) -> tuple[int, ...]:
    ports = (port for container in _running_containers(spec) for port in container.ports or ())
    return tuple(sorted({one.container_port for one in ports if one.protocol == "UDP"}))


def _running_containers(spec: _PodSpec) -> Iterator[_Container]:
    """The containers that run as long as the pod does: also sidecars among the first ones."""
    yield from spec.containers or ()
    yield from (one for one in spec.init_containers or () if one.restart_policy == "Always")


def _labels(meta: Meta, key: str, value: str) -> Labels:
    return labels_of("metadata.labels", {key: value} | (meta.labels or {}))


def _protocol(text: str | None) -> str:
    return text or "TCP"


def _has_own_network(document: Any) -> bool:
    return not document["spec"].get("hostNetwork")


_OURS = "Meshgate gives each pod its addresses"
_OWN = "Meshgate gives each node a piece of its own pools"

NODE_FIELDS = (
    used("metadata.name", "the node's name, as pods and peers name it"),
    used("metadata.labels", "selectors of policies and BGP peers"),
    used("status.addresses[].type", "InternalIP counts; the other types are of no concern"),
    used("status.addresses[].address", "the first IPv4 address is the tunnel endpoint"),
    irrelevant("metadata.deletionTimestamp", "a node counts as long as its object is there"),
    used(
        "spec.podCIDRs[]",
        "the node's pods get their addresses out of them; without any " + _OWN + "; beside "
        "another CNI they count if they hold the addresses of all the node's pods",
    ),
    used("spec.podCIDR", "as spec.podCIDRs, where those are absent"),
    used(
        "spec.taints[].key",
        "node.cloudprovider.kubernetes.io/uninitialized: a node without addresses is none yet; the "
        "scheduler acts on the others",
    ),
    irrelevant("spec.unschedulable", "the scheduler acts on it"),
    irrelevant("spec.providerID", "it names the machine at its provider"),
    irrelevant("status.conditions", "the pods' condition Ready follows them"),
)
NAMESPACE_FIELDS = (
    used("metadata.name", "the namespace's name"),
    used("metadata.labels", "selectors of policies, and identities of pods"),
    unused(
        "metadata.annotations[clustermesh.cilium.io/global]",
        "the annotation of each service alone says whether it is global",
        same=("true",),
    ),
    irrelevant("spec.finalizers", "the objects in the namespace count until they are gone"),
    irrelevant("status.phase", "the objects in the namespace count until they are gone"),
)
POD_FIELDS = (
    used("metadata.uid", "tells a pod from a later one of its name when the runtime connects it"),
    used("metadata.annotations[kubernetes.io/config.hash]", "the UID of a static pod"),
    used("metadata.labels", "selectors of services and policies, and the pod's identity"),
    used(f"metadata.annotations[{TENANT_ADDRESSES}]", "the pod's addresses in its VRF"),
    used(
        "metadata.deletionTimestamp",
        "the pod is terminating: it gets new connections only while no backend is ready",
    ),
    used("spec.nodeName", "the node that connects the pod; without one the pod is none yet"),
    used(
        "spec.hostNetwork",
        "the pod has its node's addresses, as a backend of services; no egress policy covers it",
    ),
    used("spec.serviceAccountName", "a label of the pod's identity"),
    used("spec.serviceAccount", "the former name of serviceAccountName"),
    used("spec.containers[].ports[].name", "what a service's targetPort names"),
    used(
        "spec.containers[].ports[].containerPort",
        "the number behind the name; from a UDP port that is declared here a pod that an egress "
        "policy covers answers with its own address",
    ),
    used("spec.containers[].ports[].protocol", "TCP or UDP; ports of others have no name here"),
    used("spec.initContainers[].restartPolicy", "Always: a sidecar, whose ports count"),
    used("spec.initContainers[].ports[]", "ports of sidecars, as those of containers"),
    used("status.phase", "a pod that Succeeded or Failed is none any more"),
    used(
        "status.conditions[].status",
        "Ready: the pod gets new connections of services; without conditions, it is ready unless "
        "its phase is Pending or Unknown",
    ),
    used(
        "status.podIPs[].ip",
        "with hostNetwork: the backend's addresses. Else those that another CNI has given the pod; "
        "where there is none, " + _OURS,
    ),
    used("status.podIP", "as status.podIPs"),
    unused(
        "spec.containers[].ports[].hostPort",
        "nothing listens on the port of the node; the pod's own address and services reach it",
        when=_has_own_network,
        server=FieldServer.PORTMAP,
    ),
    unused(
        "spec.initContainers[].ports[].hostPort",
        "nothing listens on the port of the node; the pod's own address and services reach it",
        when=_has_own_network,
        server=FieldServer.PORTMAP,
    ),
    unused(
        "metadata.annotations[ipam.cilium.io/ip-pool]",
        "the pod's address comes from the pod CIDRs of its node, not from the pool",
        server=FieldServer.CNI,
    ),
    unused(
        "metadata.annotations[ipam.cilium.io/skip-masquerade]",
        "egress policies and the node's configuration say which connections get another source",
        server=FieldServer.CNI,
    ),
    irrelevant("spec.containers[].ports[].hostIP", "without hostPort it says nothing"),
    irrelevant("spec.hostname, spec.subdomain", "names for DNS"),
    irrelevant("spec.dnsPolicy, spec.dnsConfig, spec.hostAliases", "names for DNS"),
    irrelevant("spec.readinessGates", "the condition Ready includes them"),
    irrelevant("status.hostIP, status.hostIPs", "the Node object says which addresses a node has"),
)

KINDS = (
    Kind("v1", "Node", NODES, _node, fields=NODE_FIELDS),
    Kind("v1", "Namespace", NAMESPACES, _namespace, fields=NAMESPACE_FIELDS),
    Kind(
        "v1",
        "Pod",
        PODS,
        _pod,
        namespaced=True,
        fields=POD_FIELDS,
        also=(HOST_PODS,),
        churns=True,
    ),
)
