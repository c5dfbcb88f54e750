"""A cluster of any size for the bench: rows of objects, and keys of the store.

Everything is a function of ``Size`` and a number, so the bench keeps nothing that the measured
process would not keep itself, and each run sees the same cluster. Labels are those of real
workloads: six for each pod, a selector of two, three of four workloads with a service, slices of
both families with at most 100 endpoints, half of the services with two ports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

import msgspec

from clustermesh.contract import ALL, Contract
from clustermesh.remote import wire
from clustermesh.store.claims import encode_number, number_key
from clustermesh.store.follow import Entry
from clustermesh.store.own import (
    PODS_SYNCED,
    all_confirmed_key,
    confirmed_key,
    confirmed_value,
    pod_key,
    pod_value,
    pods_synced_key,
)
from gateway.policy import EgressPolicy
from mesh.core.model import (
    IP,
    Address,
    Backend,
    ClaimKey,
    Confirmed,
    ContainerPort,
    Namespace,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    PodSelector,
    Requirement,
    Selector,
    Service,
    ServiceKey,
    ServicePort,
)
from mesh.identity.labels import identity_labels
from mesh.identity.selectors import matches_pod
from mesh.services.kinds import EndpointSlice, EndpointSliceKey, ServiceObject, ServicePortObject

CLUSTER, CLUSTER_ID = "east", 1
POOL_V4, POOL_V6 = "10.0.0.0_8_24", "fd10::_32_64"
FIRST_HOST = 2
BLOCK_SIZE, BLOCKS_PER_NODE, BLOCKS = 256, 4, 252
#: The node whose agent is measured.
OWN = 10
SLICE = 100
#: Other clusters that have a contract, at most.
PEERS = 16
PEER_NODES, PEER_IDENTITIES, PEER_SERVICES = 100, 500, 100
_PORTS = (ContainerPort("http", "TCP", 8080), ContainerPort("metrics", "TCP", 9090))
#: Letters instead of digits: a hash of digits alone would be a number in YAML.
_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjklmnpqrst")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; ``peers`` are other clusters."""

    pods: int
    services: int
    policies: int
    nodes: int
    peers: int = 0
    peer_addresses: int = 10_000

    @property
    def namespaces(self) -> int:
        """Namespaces."""
        return max(10, self.services // 20)

    @property
    def workloads(self) -> int:
        """Sets of pods with the same labels; the first ``services`` of them have a service."""
        return self.services * 4 // 3

    @property
    def gateways(self) -> int:
        """Nodes that policies name as gateways."""
        return max(2, self.nodes // 50)

    @property
    def name(self) -> str:
        """As rows of the report are titled."""
        return f"{self.pods:,} / {self.services:,} / {self.policies:,}"


SIZES = {
    "1k": Size(1_000, 500, 50, 50),
    "10k": Size(10_000, 5_000, 500, 200),
    "150k": Size(150_000, 10_000, 1_000, 5_000),
}


# --- Objects ----------------------------------------------------------------------------------


def node_name(n: int) -> str:
    return f"node-{n:04d}"


def node_key(n: int) -> NodeKey:
    return NodeKey(CLUSTER, node_name(n))


def endpoint(n: int) -> IPv4Address:
    return IPv4Address(0xAC100001 + n)


def node(size: Size, n: int) -> Node:
    """The object as the API server gives it."""
    labels = {
        "kubernetes.io/hostname": node_name(n),
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"zone-{n % 3}",
        "node.kubernetes.io/instance-type": f"m{n % 5}.large",
    }
    if n < size.gateways:
        labels["egress.example.com/gateway"] = f"g{n}"
    addresses = (endpoint(n), IPv6Address((0xFD20 << 112) + n + 1))
    return Node(CLUSTER, node_name(n), addresses, labels=tuple(sorted(labels.items())))


def namespace_name(n: int) -> str:
    return f"team-{n:03d}"


def namespace(n: int) -> Namespace:
    name = namespace_name(n)
    labels = {"kubernetes.io/metadata.name": name, "team": f"t{n % 40}", "env": "prod"}
    return Namespace(CLUSTER, name, tuple(sorted(labels.items())))


def space_of(size: Size, workload: int) -> str:
    return namespace_name(workload % size.namespaces)


def pod(size: Size, n: int) -> Pod:
    """Pod ``n``; numbers from ``size.pods`` on are pods that come later."""
    workload = n % size.workloads
    app, digest = f"app-{workload:05d}", f"{workload * 7919:08x}".translate(_LETTERS)
    labels = (
        ("app.kubernetes.io/instance", app),
        ("app.kubernetes.io/name", app),
        ("app.kubernetes.io/version", "1.0.0"),
        ("pod-template-hash", digest),
        ("team", f"t{workload % size.namespaces % 40}"),
        ("tier", ("backend", "frontend", "job", "cache")[workload % 4]),
    )
    name = f"{app}-{digest}-{n // size.workloads:05d}"
    space, host = space_of(size, workload), node_name(node_of(size, n))
    return Pod(CLUSTER, space, name, host, labels, (), app, _PORTS)


def node_of(size: Size, n: int) -> int:
    return n * 31 % size.nodes  # 31 and the numbers of nodes have no common divisor


def pod_addresses(size: Size, n: int) -> tuple[IPv4Address, IPv6Address]:
    """Distinct for all pods of a node."""
    at, rank = node_of(size, n), n // size.nodes
    v4 = (10 << 24) + (at << 8) + FIRST_HOST + rank % 250
    return IPv4Address(v4), IPv6Address((0xFD10 << 112) + (at << 64) + 0x100 + rank)


def key_of(row: Pod) -> PodKey:
    return PodKey(row.cluster, row.namespace, row.name)


def ref_of(row: Pod) -> PodRef:
    return PodRef(row.node, row.namespace, row.name)


def labels_of(row: Pod) -> str:
    """The label text of a pod."""
    return identity_labels(row, namespace(int(row.namespace.removeprefix("team-"))))


def service_key(size: Size, s: int) -> ServiceKey:
    return ServiceKey(CLUSTER, space_of(size, s), f"app-{s:05d}")


def service(size: Size, s: int, *, selects: bool) -> ServiceObject:
    """``selects``: of a folder. With an API server the slices say everything."""
    key = service_key(size, s)
    ports = [ServicePortObject("http", "TCP", 80, 8080)]
    if s % 2:
        ports.append(ServicePortObject("metrics", "TCP", 9090, "metrics"))
    selector = (("app.kubernetes.io/instance", key.name), ("app.kubernetes.io/name", key.name))
    addresses = (IPv4Address(0xAC800001 + s), IPv6Address((0xFD30 << 112) + s + 1))
    return ServiceObject(
        key.cluster, key.namespace, key.name, addresses, tuple(ports),
        selector if selects else None, is_global=s % 20 == 0, origin=f"/m/{key.name}.yaml",
    )  # fmt: skip


def members(size: Size, s: int) -> range:
    """Numbers of the pods behind a service."""
    return range(s, size.pods, size.workloads)


def slices(size: Size, s: int) -> Iterator[tuple[EndpointSliceKey, EndpointSlice]]:
    """What the endpoint slice controller of the API server would have written."""
    for family in (0, 1):
        found = [pod_addresses(size, n)[family] for n in members(size, s)]
        for part in range(0, max(len(found), 1), SLICE):
            yield _slice(size, s, f"{'46'[family]}-{part // SLICE}", found[part : part + SLICE])


def _slice(
    size: Size, s: int, suffix: str, addresses: list[IPv4Address] | list[IPv6Address]
) -> tuple[EndpointSliceKey, EndpointSlice]:
    key = service_key(size, s)
    name = f"{key.name}-{suffix}"
    ports = [ServicePort("http", "TCP", 8080)]
    if s % 2:
        ports.append(ServicePort("metrics", "TCP", 9090))
    row = EndpointSlice(
        key.cluster, key.namespace, name, key.name, tuple(addresses), tuple(ports), f"/m/{name}"
    )
    return EndpointSliceKey(key.cluster, key.namespace, name), row


NOTHING = Selector()


def requirement(key: str, *values: str) -> Requirement:
    return Requirement(key, "In", values)


def policy(size: Size, p: int) -> EgressPolicy:
    """Seven of ten name one workload, two a tier by expressions, one a whole namespace."""
    workload = p * 13 % size.workloads
    space = Selector((requirement("kubernetes.io/metadata.name", space_of(size, workload)),))
    if p % 10 < 7:
        app = requirement("app.kubernetes.io/name", f"app-{workload:05d}")
        selector = PodSelector(space, Selector((app,)))
    elif p % 10 < 9:
        rules = (
            requirement("tier", "backend", "cache"),
            Requirement("team", "Exists"),
            Requirement("app.kubernetes.io/version", "NotIn", ("0.0.1",)),
        )
        selector = PodSelector(Selector((requirement("team", f"t{p % 40}"),)), Selector(rules))
    else:
        selector = PodSelector(space, None)
    destinations = (
        ip_network(((192 << 24) + (p << 8), 24)),
        ip_network(((198 << 24) + (18 << 16) + (p << 4), 28)),
        ip_network(((0xFD40 << 112) + (p << 64), 64)),
    )
    addresses = (IPv4Address(0xCB007100 + p), IPv6Address((0xFD50 << 112) + p))
    gateways = Selector((requirement("egress.example.com/gateway", f"g{p % size.gateways}"),))
    created = f"2026-01-01T00:{p // 60:02d}:{p % 60:02d}Z"
    return EgressPolicy(
        f"policy-{p:04d}", (selector,), destinations, (), addresses, gateways,
        origin=f"/m/policy-{p:04d}.yaml", created=created,
    )  # fmt: skip


def covered_nodes(size: Size) -> Mapping[int, list[str]]:
    """Nodes with a pod that each policy covers; the pods of a workload look the same."""
    rows = [pod(size, n) for n in range(min(size.workloads, size.pods))]
    spaces = [namespace(n) for n in range(size.namespaces)]
    by_space: dict[str, list[int]] = {}
    for n, row in enumerate(rows):
        by_space.setdefault(row.namespace, []).append(n)
    return {p: _hosts(size, policy(size, p), rows, spaces, by_space) for p in range(size.policies)}


def _hosts(
    size: Size,
    row: EgressPolicy,
    pods: list[Pod],
    spaces: list[Namespace],
    by_space: Mapping[str, list[int]],
) -> list[str]:
    found: set[int] = set()
    (selector,) = row.selectors
    outer = PodSelector(selector.namespaces, None)
    for space in spaces:
        some = by_space.get(space.name, [])
        if some and matches_pod(outer, pods[some[0]], space, {}):
            chosen = [n for n in some if matches_pod(selector, pods[n], space, {})]
            found.update(node_of(size, m) for n in chosen for m in members(size, n))
    return [node_name(n) for n in sorted(found)]


# --- The store: our own subtree ---------------------------------------------------------------

STORED = {
    "name": CLUSTER,
    "id": CLUSTER_ID,
    "podCIDRs": [POOL_V4, POOL_V6],
    "locators": [],
    "blockSize": BLOCK_SIZE,
    "blocksPerNode": BLOCKS_PER_NODE,
}


def entry(key: str, value: bytes) -> Entry:
    return Entry(key, value, 2, 2, 0)


def claim(noun: str, pool: str, number: int, owner: str) -> Entry:
    return entry(number_key(CLUSTER, ClaimKey(noun, pool, number)), encode_number(owner))


def identity_claims(size: Size) -> Iterator[Entry]:
    for n in range(min(size.workloads, size.pods)):
        yield claim("identity", "labels", (CLUSTER_ID << 16) + 1 + n, labels_of(pod(size, n)))


def node_claims(n: int) -> list[Entry]:
    return [claim("podcidr", pool, n, node_name(n)) for pool in (POOL_V4, POOL_V6)]


def block_claims(size: Size) -> Iterator[Entry]:
    """As the controller grants them, until an address has no block left."""
    for p, hosts in covered_nodes(size).items():
        for address in policy(size, p).addresses:
            owners = (f"{host}/{k}" for host in hosts for k in range(BLOCKS_PER_NODE))
            for number, owner in zip(range(BLOCKS), owners, strict=False):
                yield claim("block", str(address), number, owner)


def pod_entry(size: Size, n: int, row: Pod | None = None) -> Entry:
    """What the agent of the pod's node writes."""
    row = row or pod(size, n)
    value = pod_value(PodEntry(pod_addresses(size, n), labels_of(row)))
    return entry(pod_key(CLUSTER, ref_of(row)), value)


def confirmation(size: Size, n: int, row: Pod | None = None, identity: int = 0) -> Entry:
    """What a controller says of a pod."""
    row = row or pod(size, n)
    number = identity or identity_of(size, n)
    return entry(confirmed_key(CLUSTER, ref_of(row)), confirmed_value(Confirmed(number)))


def identity_of(size: Size, n: int) -> int:
    """The number that the labels of a pod have."""
    return (CLUSTER_ID << 16) + 1 + n % size.workloads


def own_subtree(size: Size, without: int | None = None) -> Iterator[Entry]:
    """All keys; of the pods of node ``without`` none: its agent has not written them yet."""
    own = f"meshgate/v1/{CLUSTER}/"
    yield entry(f"{own}config", msgspec.json.encode(STORED))
    yield entry(f"{own}synced", b'{"store":"00000000-0000-0000-0000-000000000000"}')
    yield from identity_claims(size)
    for n in range(size.nodes):
        yield from node_claims(n)
        yield entry(pods_synced_key(CLUSTER, node_name(n)), PODS_SYNCED)
    yield from block_claims(size)
    for n in range(size.pods):
        yield confirmation(size, n)
        if node_of(size, n) != without:
            yield pod_entry(size, n)
    yield entry(all_confirmed_key(CLUSTER), PODS_SYNCED)


# --- The store: other clusters ----------------------------------------------------------------


def peer_name(p: int) -> str:
    return f"peer-{p:02d}"


def contract(p: int) -> Contract:
    """What another cluster gets; so its pods may be in shared address space (RFC 6598)."""
    v4 = ip_network(((100 << 24) + (64 + p << 16), 16))
    v6 = ip_network(((0xFD60 << 112) + (p << 96), 32))
    nodes = ip_network((0xC6140000 + (p << 8), 24)), ip_network(((0xFD70 << 112) + (p << 64), 64))
    services = (ip_network((0xAC900000 + (p << 8), 24)),)
    return Contract(peer_name(p), peer_name(p), p + 2, (v4, v6), nodes, services, (ALL,))


def _peer_node(p: int, n: int) -> Node:
    v4 = ip_network(((100 << 24) + (64 << 16) + (p << 16) + (n << 8), 24))
    v6 = ip_network(((0xFD60 << 112) + (p << 96) + (n << 64), 64))
    addresses = (peer_endpoint(p, n), IPv6Address((0xFD70 << 112) + (p << 64) + n + 1))
    return Node(peer_name(p), f"n-{n:04d}", addresses, (v4, v6), labels=(("zone", f"z{n % 3}"),))


def peer_endpoint(p: int, n: int) -> IPv4Address:
    return IPv4Address(0xC6140000 + (p << 8) + n)


def peer_identity(p: int, i: int) -> int:
    return (p + 2 << 16) + 256 + i % PEER_IDENTITIES


def _peer_labels(p: int, i: int) -> str:
    return (
        f"k8s:app.kubernetes.io/name=app-{i:05d};k8s:io.cilium.k8s.policy.cluster={peer_name(p)};"
        f"k8s:io.cilium.k8s.policy.serviceaccount=app-{i:05d};"
        f"k8s:io.kubernetes.pod.namespace=team-{i % 40:03d};"
    )


def _peer_address(p: int, a: int) -> tuple[IP, int]:
    """An address and the number of its node; even ones are IPv4."""
    n, host = a // 2 % PEER_NODES, FIRST_HOST + a // 2 // PEER_NODES
    return _peer_node(p, n).pod_cidrs[a % 2].network_address + host, n


def peer_address(p: int, a: int, identity: int | None = None) -> Entry:
    address, n = _peer_address(p, a)
    number = peer_identity(p, a // 2) if identity is None else identity
    row = Address(address, number, peer_name(p), peer_endpoint(p, n))
    key = PodKey(peer_name(p), f"team-{a % 40:03d}", f"app-{a // 2:05d}")
    value = wire.address_value(row, key, _peer_labels(p, a // 2 % PEER_IDENTITIES))
    return entry(wire.address_key(peer_name(p), address), value)


def _peer_service(p: int, s: int, addresses: int) -> Entry:
    some = range(s * 20, min(s * 20 + 20, addresses))
    backends = tuple(
        Backend(_peer_address(p, a)[0], 8080, "http", "TCP", peer_name(p)) for a in some
    )
    row = Service(
        peer_name(p), f"team-{s % 10:03d}", f"app-{s * 20:05d}",
        (IPv4Address(0xAC900001 + (p << 8) + s),), (ServicePort("http", "TCP", 80),),
        is_global=True, is_shared=True, backends=backends,
    )  # fmt: skip
    return entry(
        wire.service_key(row.cluster, row.namespace, row.name), wire.service_value(row, p + 2)
    )


def peer_keys(p: int, addresses: int) -> Iterator[Entry]:
    """One other cluster, in the order in which its controller writes."""
    name = peer_name(p)
    yield entry(wire.config_key(name), wire.cluster_config(p + 2))
    for n in range(PEER_NODES):
        yield entry(wire.node_key(name, f"n-{n:04d}"), wire.node_value(_peer_node(p, n), p + 2))
    for i in range(PEER_IDENTITIES):
        key = wire.identity_key(name, peer_identity(p, i))
        yield entry(key, _peer_labels(p, i).encode())
    for s in range(PEER_SERVICES):
        yield _peer_service(p, s, addresses)
    for a in range(addresses):
        yield peer_address(p, a)
    for prefix in (wire.NODES, wire.SERVICES, wire.IDENTITIES, wire.ADDRESSES):
        yield entry(wire.canary_key(name, prefix), b"2026-01-01T00:00:00Z")
