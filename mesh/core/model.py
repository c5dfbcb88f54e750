"""Nouns shared by two or more features; frozen, hashable, no behaviour.

A noun is spelled the same in the BPF map, the etcd key, the CLI and here. Addresses are
``ipaddress`` objects, parsed once at the edge. ``labels`` are sorted ``(key, value)`` pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mesh.core.findings import Code

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Labels = tuple[tuple[str, str], ...]

#: Reserved identities (``reference/clustermesh-wire.md`` 4).
IDENTITY_HOST = 1
IDENTITY_WORLD = 2
IDENTITY_REMOTE_NODE = 6
#: UDP port of the overlay of a cluster that publishes none: Cilium's default, and ours.
OVERLAY_PORT = 8472


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, named so that an operator can act on it.

    ``object`` is a manifest's ``path`` or ``kind/namespace/name``, an etcd key, or a host/process.
    ``about`` names what the finding concerns beside its object, each as ``noun/name``:
    ``node/east-1``, ``peer/10.99.0.1``, ``cluster/west``; ``store`` says that the store does not
    answer. Code, object, field and ``about`` say whether two findings are the same. The text may
    change.
    """

    code: Code
    object: str
    field: str
    text: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of something that has an end is in use on a node.

    ``what`` is in the words of an operator: ``connections IPv4``, ``ports 198.51.100.10``, or the
    name of a map.
    """

    what: str
    node: str
    used: int
    size: int


@dataclass(frozen=True, slots=True, order=True)
class NodeKey:
    cluster: str
    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node of this or another cluster; the first IPv4 address is its tunnel endpoint.

    ``routers`` are further addresses of the host, to which the tunnel leads (CiliumInternalIP).
    ``given`` are the pod CIDRs that Kubernetes has given to the node (``spec.podCIDRs``).
    """

    cluster: str
    name: str
    addresses: tuple[IP, ...]
    pod_cidrs: tuple[Network, ...] = ()
    locator: IPv6Network | None = None
    labels: Labels = ()
    routers: tuple[IP, ...] = ()
    given: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    cluster: str
    name: str
    labels: Labels = ()


@dataclass(frozen=True, slots=True, order=True)
class PodKey:
    cluster: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, order=True)
class Sandbox:
    """One interface of a pod that a container runtime has asked for; a pod may have two at times.

    ``tag`` is short and says which one: a digest of the container's id and the interface's name.
    """

    cluster: str
    namespace: str
    name: str
    tag: str

    @property
    def pod(self) -> PodKey:
        """The pod."""
        return PodKey(self.cluster, self.namespace, self.name)


#: What is connected: a pod whose network namespace was found, or a sandbox of one.
LinkKey = PodKey | Sandbox


def pod_of(key: LinkKey) -> PodKey:
    """The pod that is connected."""
    return key.pod if isinstance(key, Sandbox) else key


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a container runtime said when it asked for an interface (CNI ADD).

    ``netns`` is the path of the network namespace and ``inode`` the namespace behind it; ``number``
    orders the attachments of a node in time. ``uid``, ``labels`` and ``service_account`` are those
    of the Pod object at that time. ``addresses`` are another CNI's; empty: they are ours to give.
    """

    container: str
    interface: str
    network: str
    netns: str
    inode: int
    number: int
    uid: str = ""
    labels: Labels = ()
    service_account: str = "default"
    addresses: tuple[IP, ...] = ()


@dataclass(frozen=True, slots=True)
class Connection:
    """How an attachment is connected: both ends of its device, and what it has."""

    device: str
    host_mac: str
    mac: str
    mtu: int
    addresses: tuple[IP, ...]


@dataclass(frozen=True, slots=True, order=True)
class ContainerPort:
    """A named port of a pod's container, what a service's ``targetPort`` may name."""

    name: str
    protocol: str  # TCP or UDP
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod object; ``addresses`` is empty until the agent of ``node`` has assigned them.

    ``serving``: its condition Ready holds. ``terminating``: it has been deleted, and its processes
    have not ended yet. ``reported`` are the addresses in its status: another CNI's, or ours.
    ``uid`` tells a pod from a later one of its name, as the runtime says it; empty: not known.
    ``tenant_addresses`` are those that its object names for the VRF that it is in.
    ``datagram_ports`` are the UDP ports that its containers declare, named or not.
    """

    cluster: str
    namespace: str
    name: str
    node: str
    labels: Labels = ()
    addresses: tuple[IP, ...] = ()
    service_account: str = "default"
    ports: tuple[ContainerPort, ...] = ()
    serving: bool = True
    terminating: bool = False
    reported: tuple[IP, ...] = ()
    uid: str = ""
    tenant_addresses: tuple[IP, ...] = ()
    datagram_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FurtherAddresses:
    """Addresses that a pod has beside its own, and the destinations for which they are the source.

    No other host knows them, and the host has no route to them.
    """

    addresses: tuple[IP, ...]
    destinations: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """``labels`` in wire form: ``k8s:app=web;…;``, sorted, each with its trailing semicolon."""

    cluster: str
    id: int
    labels: str


@dataclass(frozen=True, slots=True)
class Address:
    """Who an address is, and behind which node (its tunnel endpoint); key is the address."""

    address: IP
    identity: int
    cluster: str
    node: IPv4Address


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    cluster: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, order=True)
class ServicePort:
    name: str
    protocol: str  # TCP or UDP
    port: int


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """One endpoint of a service port; ``cluster`` says whose pod it is."""

    address: IP
    port: int
    port_name: str
    protocol: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Service:
    """A service of one cluster with the backends that this cluster itself contributes.

    ``affinity`` of a global service: ``local`` prefers backends of its own cluster, ``remote``
    those of others, and empty prefers none. ``proxy_only`` names a field that a kube-proxy honours,
    and Meshgate does not.
    """

    cluster: str
    namespace: str
    name: str
    addresses: tuple[IP, ...]
    ports: tuple[ServicePort, ...]
    is_global: bool = False
    is_shared: bool = True
    backends: tuple[Backend, ...] = ()
    affinity: str = ""
    proxy_only: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One matchExpressions entry; ``matchLabels`` become ``In`` with one value."""

    key: str
    operator: str  # In, NotIn, Exists, DoesNotExist
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector; no requirement selects everything."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class PodSelector:
    """``None`` means the field was absent; both absent is refused at the edge."""

    namespaces: Selector | None
    pods: Selector | None
    nodes: Selector | None = None  # only pods on these nodes


@dataclass(frozen=True, slots=True, order=True)
class ClaimKey:
    noun: str  # identity, podcidr, locator, block
    pool: str
    number: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A number that belongs to an owner for good (``clustermesh/store/allocator.py``).

    ``epoch`` orders a number's owners over time: the etcd revision of the claim, or a greater one
    where the store was replaced and its revisions began anew.
    """

    noun: str
    pool: str
    number: int
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class PortsInUse:
    """Ports of each egress address that are in use on a node, in its count number ``count``."""

    count: int
    ports: Mapping[IP, int]


@dataclass(frozen=True, slots=True)
class Draining:
    """What a node says of a draining egress address: ports in use, in the drain of this epoch."""

    ports: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Beat:
    """A node that carries egress addresses on layer 2, or sees that a gateway does not answer.

    ``number`` grows with each beat; ``silent`` are the tunnel endpoints of gateways that do not
    answer the node.
    """

    number: int
    silent: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """An egress address as the feeds for firewalls have it.

    ``groups`` are those that list it, or that its last list was of. ``acknowledged``: every
    firewall of these groups has it, so that it may carry traffic. ``waits`` are the firewalls that
    have not told so; ``without`` those that an operator does not wait for. ``leaving``: no list has
    it any more, and ``waits`` are the firewalls that may still have it; nobody else gets it before.
    """

    groups: tuple[str, ...]
    acknowledged: bool = False
    waits: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class ForeignNode:
    """Prefixes of our pools that a node of another cluster publishes, not judged yet.

    ``cluster`` and ``node`` are fit to be shown; ``created`` orders who published first.
    """

    cluster: str
    node: str
    networks: tuple[Network, ...]
    created: int

    def __str__(self) -> str:
        return f"cluster {self.cluster} (node {self.node})"


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """A pod as its agent's key names it."""

    node: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class PodEntry:
    """What an agent says of its pod; ``labels`` in wire form.

    ``identity`` stands in the entries that count (``mesh/identity/counted.py``); 0: not known.
    ``vrf`` names the VRF that the pod is in.
    """

    addresses: tuple[IP, ...]
    labels: str
    identity: int = 0
    vrf: str = ""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What a controller says of a pod, from its object.

    ``addresses`` are those that another CNI has given it.
    """

    identity: int
    addresses: tuple[IP, ...] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """A pod of the own cluster whose identity and node are known; ``node`` is a tunnel endpoint."""

    ref: PodRef
    labels: str
    identity: int
    node: IPv4Address
