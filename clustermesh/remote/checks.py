"""The claims of another cluster: one function per noun, from a decoded value to a row.

A function raises ``NotAccepted``, or returns a row that was judged against ``RemoteCluster``: the
cluster's name and accepted id, its accepted nodes, and the ledger of the others' prefixes and
addresses. ``read_address`` alone reads the value by itself. The codes are those of
``clustermesh/findings.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

from clustermesh.contract import Contract
from clustermesh.findings import (
    ADDRESS_TAKEN,
    BACKEND_OUTSIDE,
    CAPABILITIES,
    CLUSTER_ID,
    CLUSTER_NAME,
    CONTRACT_ID,
    IDENTITY_RANGE,
    LABELS,
    MISMATCH,
    NO_ENDPOINT,
    OUTSIDE,
    RESERVED,
)
from clustermesh.remote import slice_pb2 as pb
from clustermesh.remote import slices, terms, wire
from clustermesh.remote.holdings import (
    MAPPED,
    Holder,
    Holdings,
    Ledger,
    NotAccepted,
    number,
    shift_of,
    span,
)
from clustermesh.remote.slices import ServiceSlice
from mesh.core.model import (
    IDENTITY_HOST,
    IDENTITY_REMOTE_NODE,
    IP,
    Backend,
    Identity,
    Network,
    Node,
    Service,
)
from mesh.identity.labels import CLUSTER_SHIFT, FIRST_IDENTITY, identity_range

_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_EXPORT_MODES = frozenset({"", wire.BOTH_FORMS, wire.SLICES_ONLY})
#: Reserved identities that mean the same in every cluster: health, init, the well-known ones.
_AS_IT_IS = frozenset({4, 5, *range(100, 116)})
#: Addresses of a node of a peer: itself, its API server, its ingress. Ours have 1, 7 and 8.
_OF_NODE = frozenset({6, 7, 8})
#: Numbers that a cluster's operator has given away; they mean nothing to others.
_OF_OPERATOR = range(128, 256)
#: Characters of a host that are kept: an address has at most 45.
_LONGEST_HOST = 64
#: Backends that a finding names.
_NAMED = 3
_CANONICAL_MAPPED = MAPPED.to_bytes(16, "big")[:12]


@dataclass(frozen=True, slots=True)
class RemoteNode:
    """An accepted node."""

    row: Node

    @property
    def endpoint(self) -> int | None:
        """Its tunnel endpoint as a number."""
        return next((int(a) for a in self.row.addresses if isinstance(a, IPv4Address)), None)

    def lacks_cidr(self, address: str) -> bool:
        """It has no pod CIDR of the address's family: its pods have addresses of a cloud."""
        return self._lacks(6 if ":" in address else 4)

    def _lacks(self, version: int) -> bool:
        return all(cidr.version != version for cidr in self.row.pod_cidrs)

    def parts(self) -> dict[str, object]:
        """Parts on which judgements may rest, by name: pod CIDRs, addresses with their meaning."""
        host = self.endpoint, self._lacks(4), self._lacks(6)
        named: dict[str, object] = {host_part(str(a)): host for a in self.row.addresses}
        named |= {host_part(str(a)): self.endpoint for a in self.row.routers}
        for network in self.row.pod_cidrs:
            shift = shift_of(network)
            named[_cidr_part(span(network)[0] >> shift, shift)] = None
        return named


def host_part(address: str) -> str:
    """What rests on an address of a node names it so: no node has such a name."""
    return f"@{address}"


def _cidr_part(prefix: int, shift: int) -> str:
    """What rests on a pod CIDR names it so: no node has such a name."""
    return f"{prefix:x}/{shift}"


def moved_parts(node: RemoteNode | None, before: RemoteNode | None) -> set[str]:
    """The parts that a node has not had before as they are now, or has no more."""
    now, then = node.parts() if node else {}, before.parts() if before else {}
    absent = object()
    return {part for part in {*now, *then} if now.get(part, absent) != then.get(part, absent)}


@dataclass(slots=True)
class RemoteCluster:
    """The accepted parts of another cluster; ``id`` is 0 until its config is accepted."""

    name: str
    ledger: Ledger
    id: int = 0
    claimed: int = 0  # the id that its config says, accepted or not
    config_gone: bool = False  # since the id was accepted, so another one may come
    capabilities: wire.Capabilities = wire.Capabilities()  # noqa: RUF009 - frozen
    nodes: dict[str, RemoteNode] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)  # address of a node -> node
    routers: dict[str, str] = field(default_factory=dict)
    cidrs: dict[int, dict[int, str]] = field(default_factory=dict)  # host bits -> prefix -> node

    @property
    def contract(self) -> Contract | None:
        """The contract of the cluster; None: it is provisional."""
        return self.ledger.contracts.get(self.name)

    def enter(self, node: RemoteNode) -> None:
        """Make a node's prefixes and addresses count."""
        name = node.row.name
        self.nodes[name] = node
        self.hosts.update((str(address), name) for address in node.row.addresses)
        self.routers.update((str(address), name) for address in node.row.routers)
        for network in node.row.pod_cidrs:
            shift = shift_of(network)
            self.cidrs.setdefault(shift, {})[span(network)[0] >> shift] = name

    def leave(self, name: str) -> None:
        """Make a node count no longer."""
        node = self.nodes.pop(name)
        for address in node.row.addresses:
            self.hosts.pop(str(address), None)
        for address in node.row.routers:
            self.routers.pop(str(address), None)
        for network in node.row.pod_cidrs:
            shift = shift_of(network)
            self.cidrs[shift].pop(span(network)[0] >> shift, None)

    def node_of(self, address: int) -> str | None:
        """The node whose pod CIDR holds the address."""
        place = self.place_of(address)
        return place[0] if place else None

    def place_of(self, address: int) -> tuple[str, str] | None:
        """The node whose pod CIDR holds the address, and the name of that part of it."""
        for shift, prefixes in self.cidrs.items():
            node = prefixes.get(address >> shift)
            if node is not None:
                return node, _cidr_part(address >> shift, shift)
        return None

    def has_part(self, name: str) -> bool:
        """Whether a node has a part of this name."""
        if name.startswith(host_part("")):
            address = name.removeprefix(host_part(""))
            return address in self.hosts or address in self.routers
        prefix, _, shift = name.partition("/")
        return bool(shift) and int(prefix, 16) in self.cidrs.get(int(shift), ())

    def rests(self, address: IP) -> str | None:
        """On which part rests that the cluster has the address; None: on none of a node."""
        place, text = self.place_of(number(address)), str(address)
        if place:
            return place[1]
        return host_part(text) if text in self.hosts else None


def read_config(_: str, value: bytes) -> bytes:
    """The value of a config's key: the cluster's name is judged before it."""
    return value


def cluster_id(remote: RemoteCluster, _: str, value: bytes) -> tuple[int, tuple[str, ...]]:
    """The id of a cluster, taken in the ledger; the same as before while its config stands."""
    if not wire.is_cluster_name(remote.name):
        text = f"{remote.name!r} is no cluster name: 1 to 32 of a-z, 0-9 and dash, not 'default'"
        raise NotAccepted(CLUSTER_NAME, "name", text)
    config = wire.decode(wire.ClusterConfig, value)
    if not 1 <= config.id <= wire.MAX_CLUSTERS:
        raise NotAccepted(
            CLUSTER_ID, "id", f"cluster id {config.id} is not in 1..{wire.MAX_CLUSTERS}"
        )
    remote.claimed = config.id
    _check_capabilities(config.capabilities)
    if remote.id and config.id != remote.id and not remote.config_gone:
        text = f"cluster id {config.id}, but {remote.name} was accepted with {remote.id}"
        raise NotAccepted(CLUSTER_ID, "id", text)
    contract = remote.contract
    if contract is not None and config.id != contract.id:
        text = f"cluster id {config.id}, but spec.id of {contract} is {contract.id}"
        raise NotAccepted(CONTRACT_ID, "id", text)
    remote.ledger.take_id(remote.name, config.id)
    remote.capabilities = config.capabilities
    return config.id, ()


def read_node(_: str, value: bytes) -> wire.WireNode:
    """The value of a node's key. Raises WireError."""
    return wire.decode(wire.WireNode, value)


def node(
    remote: RemoteCluster, name: str, wired: wire.WireNode
) -> tuple[RemoteNode, tuple[str, ...]]:
    """A node whose prefixes and addresses are its own, taken in the ledger."""
    _check_cluster(remote, "Cluster", wired.cluster, "ClusterID", wired.cluster_id)
    if wired.name != name or not wire.is_object_name(name):
        raise NotAccepted(MISMATCH, "Name", f"node {wired.name!r} under key {name!r}")
    row = wire.node_row(wired)
    routers = dict.fromkeys(a for a in wire.router_addresses(wired) if a not in row.addresses)
    addresses = tuple(("IPAddresses", address) for address in (*row.addresses, *routers))
    holder, claimed = Holder(remote.name, name), Holdings(tuple(_networks(row)), addresses)
    remote.ledger.check(holder, claimed)
    _check_terms(remote, row, routers)
    remote.ledger.enter(holder, claimed)
    return RemoteNode(replace(row, routers=tuple(routers))), ()


def _check_terms(remote: RemoteCluster, row: Node, routers: Iterable[IP]) -> None:
    """Whether the cluster may have the node's prefixes and addresses (``terms.py``)."""
    ledger, cluster = remote.ledger, remote.name
    for cidr in row.pod_cidrs:
        terms.check_pods(ledger, cluster, f"IPv{cidr.version}AllocCIDR", cidr)
    for address in row.addresses:
        terms.check_node_address(ledger, cluster, "IPAddresses", address)
    for address in routers:
        terms.check_router(ledger, cluster, "IPAddresses", address)
    if row.locator:
        terms.check_locator(ledger, cluster, f"Annotations.{wire.LOCATOR}", row.locator)


def read_identity(_: str, value: bytes) -> bytes:
    """The value of an identity's key: its number stands in the key and is judged first."""
    return value


def identity(remote: RemoteCluster, name: str, value: bytes) -> tuple[Identity, tuple[str, ...]]:
    """An identity in the cluster's range that names its cluster."""
    kind, _, text = name.partition("/")
    if kind != "id" or _NUMBER.fullmatch(text) is None:
        raise NotAccepted(MISMATCH, "id", f"{name!r} is no identity key")
    _check_identity(remote, "id", int(text))
    try:
        labels = value.decode()
    except UnicodeDecodeError as error:
        raise wire.WireError("labels", f"not readable as UTF-8: {error}") from None
    if not labels.endswith(";") or not labels.isprintable():
        raise NotAccepted(LABELS, "labels", "labels are not of the form source:key=value;")
    named = wire.split_labels(labels)
    if twice := _twice(key.partition(":")[2] or key for key, _ in named):
        raise NotAccepted(LABELS, "labels", f"label {twice!r} stands there twice")
    if (wire.CLUSTER_LABEL, remote.name) not in named:
        raise NotAccepted(LABELS, "labels", f"label {wire.CLUSTER_LABEL}={remote.name} is missing")
    for label, namespace in named:
        if label == wire.NAMESPACE_LABEL:
            terms.check_namespace(remote.ledger, remote.name, "labels", namespace)
    return Identity(remote.name, int(text), labels), ()


def _twice(keys: Iterable[str]) -> str:
    """The first key that comes again: a reader of the text takes either value for true."""
    counts = Counter(keys)
    return next((key for key, count in counts.items() if count > 1), "")


def read_service(_: str, value: bytes) -> wire.WireService:
    """The value of a service's key. Raises WireError."""
    return wire.decode(wire.WireService, value)


def service(
    remote: RemoteCluster, name: str, wired: wire.WireService
) -> tuple[Service, tuple[str, ...]]:
    """A service with the backends that are the cluster's own, and the parts on which those rest.

    Raises NotAccepted with the usable part when there are others; without it when all are others.
    """
    _check_cluster(remote, "cluster", wired.cluster, "clusterID", wired.cluster_id)
    own_name = f"{wired.namespace}/{wired.name}"
    if own_name != name or not all(map(wire.is_object_name, name.split("/"))):
        raise NotAccepted(MISMATCH, "name", f"service {own_name!r} under key {name!r}")
    row = wire.service_row(wired)
    if not all(map(_is_port_name, (part.name for part in row.ports))):
        raise NotAccepted(MISMATCH, "frontends", "a port's name is no name")
    if not all(map(_is_port_name, (part.port_name for part in row.backends))):
        raise NotAccepted(MISMATCH, "backends", "a port's name is no name")
    terms.check_namespace(remote.ledger, remote.name, "namespace", row.namespace)
    terms.check_services(remote.ledger, remote.name, "frontends", row.addresses)
    kept, rests = own_backends(remote, row.backends, lambda kept: replace(row, backends=kept))
    return replace(row, backends=kept), rests


def read_slice(_: str, value: bytes) -> pb.ClusterEndpointSlice:
    """The value of a slice's key. Raises WireError."""
    return slices.decode(value)


def service_slice(
    remote: RemoteCluster, name: str, wired: pb.ClusterEndpointSlice
) -> tuple[ServiceSlice, tuple[str, ...]]:
    """A slice with the backends that are the cluster's own, judged as those of a service are."""
    _check_cluster(remote, "cluster", wired.cluster, "clusterID", wired.clusterID)
    own_name = f"{wired.namespace}/{wired.name}"
    if own_name != name or not all(map(wire.is_object_name, name.split("/"))):
        raise NotAccepted(MISMATCH, "name", f"slice {own_name!r} under key {name!r}")
    row = slices.slice_row(wired)
    if not wire.is_object_name(row.service):
        label = f"labels.{slices.SERVICE_LABEL}"
        raise NotAccepted(MISMATCH, label, f"{row.service!r} is no name of a service")
    if not all(map(_is_port_name, (part.port_name for part in row.backends))):
        raise NotAccepted(MISMATCH, "ports", "a port's name is no name")
    terms.check_namespace(remote.ledger, remote.name, "namespace", row.namespace)
    kept, rests = own_backends(remote, row.backends, lambda kept: replace(row, backends=kept))
    return replace(row, backends=kept), rests


def own_backends(
    remote: RemoteCluster,
    backends: Sequence[Backend],
    part: Callable[[tuple[Backend, ...]], object],
) -> tuple[tuple[Backend, ...], tuple[str, ...]]:
    """Backends that are pods or nodes of the cluster, and the parts on which that rests.

    Raises NotAccepted when there are others, with the ``part`` that is left of its owner.
    """
    addresses = dict.fromkeys(backend.address for backend in backends)
    usable, rests = set[IP](), dict[str, None]()
    for address in addresses:
        here = number(address)
        part_of_node = remote.rests(address)
        rests[part_of_node or single(here)] = None
        if part_of_node or remote.ledger.pods.holder(here) == remote.name:
            usable.add(address)
    kept = tuple(backend for backend in backends if backend.address in usable)
    others = [str(address) for address in addresses if address not in usable]
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        text = f"no pod and no node of cluster {remote.name} has {', '.join(others[:_NAMED])}{more}"
        raise NotAccepted(BACKEND_OUTSIDE, "backends", text, part(kept) if kept else None, rests)
    return kept, tuple(rests)


#: Stands for the node of an address that lies in no pod CIDR.
SINGLE = "="


def single(here: int) -> str:
    """What rests on a single address names it so: no node has such a name."""
    return f"{SINGLE}{here}"


class AddressValue(NamedTuple):
    """The row of an address by its value alone. The address is in the key."""

    identity: int
    host: str  # tunnel endpoint as text
    pod: str = ""  # namespace/name for people to read; it decides nothing


#: 16 bytes of the address, its identity, its tunnel endpoint as a number. The identity of a node
#: says that the address is a router's.
AcceptedAddress = tuple[bytes, int, int]


def read_address(name: str, value: bytes) -> AddressValue:
    """The value of an address's key, which fits to the key. Raises WireError, NotAccepted."""
    head = wire.decode(wire.PairHead, value)
    if "/" in name or head.ip != name:
        return _read_prefix(name, value)
    _packed(name)
    pod = f"{head.k8s_namespace}/{head.k8s_pod_name}"
    named = all(map(wire.is_object_name, (head.k8s_namespace, head.k8s_pod_name)))
    return AddressValue(head.id, head.host_ip[:_LONGEST_HOST], pod if named else "")


def address(
    remote: RemoteCluster, name: str, value: AddressValue
) -> tuple[AcceptedAddress | None, tuple[str, ...]]:
    """The row of an address, or None for one that node rows carry already.

    The second part names the parts on which the judgement rests: the pod CIDR that holds it, and
    the host whose tunnel endpoint it has.
    """
    if "/" in name:
        return _prefix(remote, name, value)
    packed = pack(name)
    here = int.from_bytes(packed, "big")
    place, host = remote.place_of(here), remote.hosts.get(value.host)
    if value.identity == IDENTITY_HOST or name in remote.routers:
        return _node_address(remote, name, packed)
    if value.identity in _OF_NODE and name in remote.hosts:
        return None, (host_part(name),)
    is_single = place is None and host is not None and remote.nodes[host].lacks_cidr(name)
    if place is None and not is_single:
        raise _outside(remote, name, here, here)
    identity = _identity_here(remote, value.identity)
    endpoint = remote.nodes[host].endpoint if host else None
    if host is None or endpoint is None:
        text = f"tunnel endpoint {value.host!r} is no node of cluster {remote.name} with IPv4"
        raise NotAccepted(NO_ENDPOINT, "HostIP", text)
    if is_single:
        remote.ledger.check_pod(remote.name, "IP", here, name)
        terms.check_pod(remote.ledger, remote.name, "IP", here)
        remote.ledger.pods.take(remote.name, here)
    rests = place[1] if place else SINGLE, host_part(value.host)
    return (packed, identity, endpoint) if identity else None, rests


def _identity_here(remote: RemoteCluster, claimed: int) -> int:
    """The identity that an address of a peer has here; 0: none, it is known by its node only.

    Raises NotAccepted for a number that no address of a peer can have.
    """
    if claimed in _OF_NODE:
        return IDENTITY_REMOTE_NODE
    if claimed in _AS_IT_IS:
        return claimed
    if claimed in _OF_OPERATOR:
        return 0
    _check_identity(remote, "ID", claimed)
    return claimed


def _node_address(
    remote: RemoteCluster, name: str, packed: bytes
) -> tuple[AcceptedAddress | None, tuple[str, ...]]:
    """Identity 1 (host) is that of another node here: 6, and only for addresses of its nodes."""
    if name in remote.hosts:
        return None, (host_part(name),)
    of_node = remote.routers.get(name)
    endpoint = remote.nodes[of_node].endpoint if of_node else None
    if of_node is None or endpoint is None:
        raise NotAccepted(
            RESERVED, "ID", f"identity {IDENTITY_HOST} (host) for {name}, no node's own"
        )
    return (packed, IDENTITY_REMOTE_NODE, endpoint), (host_part(name),)


def _read_prefix(name: str, value: bytes) -> AddressValue:
    """An entry for a whole prefix, as older clusters write it."""
    pair = wire.decode(wire.WirePair, value)
    text = f"{pair.ip}/{_prefix_length(pair)}" if pair.mask else pair.ip
    if text != name:
        raise NotAccepted(MISMATCH, "IP", f"IP address {text} does not match key {name}")
    try:
        ip_network(name)
    except ValueError as error:
        raise wire.WireError("IP", str(error)) from None
    return AddressValue(pair.id, pair.host_ip[:_LONGEST_HOST])


def _prefix(remote: RemoteCluster, name: str, value: AddressValue) -> tuple[None, tuple[str, ...]]:
    """An entry for a whole prefix is checked, and not used."""
    first, last = span(ip_network(name))
    place = remote.place_of(first)
    if place is None or place != remote.place_of(last):
        raise _outside(remote, name, first, last)
    _check_identity(remote, "ID", value.identity)
    return None, (place[1],)


def _prefix_length(pair: wire.WirePair) -> int:
    return (pair.mask or b"").hex().translate(_BITS).count("1")


#: Hexadecimal digits to their set bits.
_BITS = {ord(f"{digit:x}"): f"{digit:b}" for digit in range(16)}


def pack(name: str) -> bytes:
    """16 bytes of an address that has been read."""
    if ":" not in name:
        return _CANONICAL_MAPPED + inet_pton(AF_INET, name)
    return inet_pton(AF_INET6, name)


def _packed(text: str) -> bytes:
    """16 bytes of an address in its one spelling, so that two keys never mean the same."""
    try:
        if ":" not in text:
            return _CANONICAL_MAPPED + inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        raise wire.WireError("IP", f"{text!r} is not an IP address") from None
    if packed.startswith(_CANONICAL_MAPPED) or inet_ntop(AF_INET6, packed) != text:
        raise NotAccepted(MISMATCH, "IP", f"{text} is not the one spelling of its address")
    return packed


def _is_port_name(name: str) -> bool:
    return not name or wire.is_object_name(name.lower())


def _outside(remote: RemoteCluster, name: str, first: int, last: int) -> NotAccepted:
    if remote.ledger.holds_own_node(first, last):
        text = f"{name}: a node of our cluster {remote.ledger.own_cluster} has this address"
        return NotAccepted(ADDRESS_TAKEN, "IP", text)
    return NotAccepted(OUTSIDE, "IP", f"{name} is in no pod CIDR of cluster {remote.name}")


def _check_identity(remote: RemoteCluster, name: str, identity_id: int) -> None:
    if identity_id < FIRST_IDENTITY:
        raise NotAccepted(RESERVED, name, f"identity {identity_id} is reserved")
    if identity_id >> CLUSTER_SHIFT != remote.id:
        numbers = identity_range(remote.id)
        text = (
            f"identity {identity_id} is not in {numbers[0]}..{numbers[-1]} of cluster {remote.name}"
        )
        raise NotAccepted(IDENTITY_RANGE, name, text)


def _check_cluster(
    remote: RemoteCluster, name: str, cluster: str, id_name: str, claimed_id: int
) -> None:
    if cluster != remote.name:
        raise NotAccepted(
            CLUSTER_NAME, name, f"cluster {cluster!r} under the keys of {remote.name}"
        )
    if claimed_id != remote.id:
        text = f"cluster id {claimed_id}, but that of {remote.name} is {remote.id}"
        raise NotAccepted(CLUSTER_ID, id_name, text)


def _check_capabilities(capabilities: wire.Capabilities) -> None:
    mode = capabilities.endpoint_slices_export_mode or ""
    if mode not in _EXPORT_MODES:
        text = f"{mode!r} is no known mode"
        raise NotAccepted(CAPABILITIES, "capabilities.endpointSlicesExportMode", text)
    clusters = capabilities.max_connected_clusters or wire.MAX_CLUSTERS
    if clusters != wire.MAX_CLUSTERS:
        text = f"{clusters} clusters in its mesh, {wire.MAX_CLUSTERS} in ours"
        raise NotAccepted(CAPABILITIES, "capabilities.maxConnectedClusters", text)


def _networks(row: Node) -> list[tuple[str, Network]]:
    claimed: list[tuple[str, Network]] = [
        (f"IPv{cidr.version}AllocCIDR", cidr) for cidr in row.pod_cidrs
    ]
    if row.locator:
        claimed.append((f"Annotations.{wire.LOCATOR}", row.locator))
    return claimed
