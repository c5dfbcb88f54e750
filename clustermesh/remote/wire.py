"""The wire form of a published cluster: Cilium's JSON values and the keys of the cached layout.

Values are decoded into structs that hold every field of the format, so that what is read can be
written again; unknown fields are ignored. What a value *means* is checked in ``checks.py``, here
only whether it can be read. Source: ``reference/clustermesh-wire.md`` 2, 3, 4, 6, 13.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType, field

from mesh.core.model import IP, Address, Backend, Network, Node, PodKey, Service, ServicePort

ROOT = "cilium/"
#: Any put of it says that the store works; its value is not looked at.
HEARTBEAT = "cilium/.heartbeat"
#: Below it stands the key of the kvstoremesh that writes, then those of others that wait.
MESH_LOCK = "cilium/kvstoremesh-lock/"
CONFIGS = "cilium/cluster-config/"
CANARIES = "cilium/synced/"
NODES = "cilium/cache/nodes/v1/"
SERVICES = "cilium/cache/services/v1/"
SLICES = "cilium/cache/endpointslices/v1/"
IDENTITIES = "cilium/cache/identities/v1/"
ADDRESSES = "cilium/cache/ip/v1/"
_PREFIXES = frozenset({CONFIGS, CANARIES, NODES, SERVICES, SLICES, IDENTITIES, ADDRESSES})

LOCATOR = "meshgate.io/locator"
CLUSTER_LABEL = "k8s:io.cilium.k8s.policy.cluster"
NAMESPACE_LABEL = "k8s:io.kubernetes.pod.namespace"
ACCOUNT_LABEL = "k8s:io.cilium.k8s.policy.serviceaccount"
#: 255 clusters: 8 bits of cluster id over 16 bits of number.
MAX_CLUSTERS = 255
#: In which forms a cluster publishes its services; without a mode in the first one only.
BOTH_FORMS, SLICES_ONLY = "services-and-endpointslices", "endpointslices-only"
#: Protocols of service ports; others (SCTP) are left out of rows.
PROTOCOLS = frozenset({"TCP", "UDP"})

_CLUSTER_NAME = re.compile(r"(?=.{1,32}\Z)([a-z0-9][-a-z0-9]*)?[a-z0-9]")
_OBJECT_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")

#: Characters of a foreign text that are shown.
_LONGEST = 512

S = TypeVar("S", bound=msgspec.Struct)


class WireError(ValueError):
    """A value that cannot be read; ``field`` is its JSON path, empty for the whole value."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}" if field else text)
        self.field = field
        self.text = text


# --- Keys -------------------------------------------------------------------------------------


def config_key(cluster: str) -> str:
    """Where the cluster's config stands: the first thing that a reader reads."""
    return CONFIGS + cluster


def leader_key(cluster: str) -> str:
    """Where the cluster's leader stands. It puts the key again and again: the cluster's counter."""
    return f"meshgate/v1/{cluster}/leader"


def overlay_key(cluster: str) -> str:
    """Where the UDP port of the cluster's overlay stands."""
    return f"meshgate/v1/{cluster}/overlay"


def node_key(cluster: str, name: str) -> str:
    """Where a node stands."""
    return f"{NODES}{cluster}/{name}"


def service_key(cluster: str, namespace: str, name: str) -> str:
    """Where a global service stands."""
    return f"{SERVICES}{cluster}/{namespace}/{name}"


def slice_key(cluster: str, namespace: str, name: str) -> str:
    """Where some backends of a global service stand."""
    return f"{SLICES}{cluster}/{namespace}/{name}"


def identity_key(cluster: str, number: int) -> str:
    """Where the labels of an identity stand."""
    return f"{IDENTITIES}{cluster}/id/{number}"


def address_key(cluster: str, address: IP) -> str:
    """Where a pod address stands."""
    return f"{ADDRESSES}{cluster}/{address}"


def canary_key(cluster: str, prefix: str) -> str:
    """The key that says: every key of ``prefix`` (``NODES``, …) has been written."""
    return f"{CANARIES}{cluster}/{prefix.removesuffix('/')}"


def split_key(key: str) -> tuple[str, str]:
    """What stands before the cluster in a key, and the cluster; empty for a key of another kind.

    Any ``cilium/cache/<type>/v1/`` counts: which types are read is said in ``shared.py``.
    """
    match key.split("/", 5):
        case ["cilium", "cache", kind, "v1", cluster, *_]:
            return f"cilium/cache/{kind}/v1/", cluster
        case ["cilium", "cluster-config" | "synced" as kind, cluster, *_]:
            return f"cilium/{kind}/", cluster
    return "", ""


def cluster_of(key: str) -> str:
    """The cluster whose key this is; empty for a key of no cluster."""
    prefix, cluster = split_key(key)
    return cluster if prefix in _PREFIXES else ""


def is_cluster_name(name: str) -> bool:
    """At most 32 lower-case letters, digits and dashes, and not ``default``."""
    return name != "default" and _CLUSTER_NAME.fullmatch(name) is not None


def is_object_name(name: str) -> bool:
    """The name of a Kubernetes object: a DNS subdomain."""
    return _OBJECT_NAME.fullmatch(name) is not None


def plain(text: str) -> str:
    """Text of somebody else's as a terminal and JSON can bear it, cut to one line's length."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


# --- Values -----------------------------------------------------------------------------------


class Capabilities(msgspec.Struct, rename="camel", frozen=True):
    """What a cluster publishes and where; an absent mode means the kind is not published."""

    synced_canaries: bool = False
    cached: bool = False
    max_connected_clusters: int = MAX_CLUSTERS
    service_exports_enabled: bool | UnsetType | None = UNSET
    endpoint_slices_export_mode: str | UnsetType = field(
        default=UNSET, name="endpointSlicesExportMode"
    )


class ClusterConfig(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True):
    """The value of ``config_key``.

    ``counter_seconds`` is a field of ours, which others do not read: the cluster has a counter
    (``leader_key``), and is gone when that has stood for so long. 0: it has none.
    """

    id: int
    capabilities: Capabilities = Capabilities()
    counter_seconds: int = 0


class Overlay(msgspec.Struct, frozen=True):
    """The value of ``overlay_key``."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class WireAddress(msgspec.Struct, rename="pascal", frozen=True):
    """One address of a node; ``type`` is InternalIP, ExternalIP, Hostname or CiliumInternalIP."""

    type: str
    ip: str = field(name="IP")


class WireCIDR(msgspec.Struct, rename="pascal", frozen=True):
    """A prefix; the mask travels as base64 of its 4 or 16 bytes."""

    ip: str = field(name="IP")
    mask: bytes


class WireNode(msgspec.Struct, rename="pascal", frozen=True):
    """The value of ``node_key``."""

    name: str
    cluster: str
    ip_addresses: list[WireAddress] | None = field(default=None, name="IPAddresses")
    ipv4_alloc_cidr: WireCIDR | None = field(default=None, name="IPv4AllocCIDR")
    ipv4_secondary: list[WireCIDR] | None = field(default=None, name="IPv4SecondaryAllocCIDRs")
    ipv6_alloc_cidr: WireCIDR | None = field(default=None, name="IPv6AllocCIDR")
    ipv6_secondary: list[WireCIDR] | None = field(default=None, name="IPv6SecondaryAllocCIDRs")
    ipv4_health_ip: str = field(default="", name="IPv4HealthIP")
    ipv6_health_ip: str = field(default="", name="IPv6HealthIP")
    ipv4_ingress_ip: str = field(default="", name="IPv4IngressIP")
    ipv6_ingress_ip: str = field(default="", name="IPv6IngressIP")
    cluster_id: int = field(default=0, name="ClusterID")
    source: str = ""
    encryption_key: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    wireguard_pub_key: str = ""
    boot_id: str = field(default="", name="BootID")


class WirePort(msgspec.Struct, rename="pascal", frozen=True):
    """One port of a frontend or backend, by port name."""

    protocol: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


WirePorts = Mapping[str, Mapping[str, WirePort] | None]


class WireService(msgspec.Struct, frozen=True):
    """The value of ``service_key`` (ClusterService, version 1)."""

    cluster: str
    namespace: str
    name: str
    frontends: WirePorts | None = None
    backends: WirePorts | None = None
    hostnames: dict[str, str] | UnsetType = UNSET
    zones: dict[str, object] | UnsetType = UNSET
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    include_external: bool = field(default=False, name="includeExternal")
    shared: bool = False
    cluster_id: int = field(default=0, name="clusterID")


class NamedPort(msgspec.Struct, rename="pascal", frozen=True):
    """A container port of a pod."""

    name: str
    port: int
    protocol: str


class WirePair(msgspec.Struct, rename="pascal", frozen=True):
    """An IPIdentityPair; ``mask`` is set by older clusters for CIDR entries only."""

    ip: str = field(name="IP")
    mask: bytes | None = None
    host_ip: str = field(default="", name="HostIP")
    id: int = field(default=0, name="ID")
    key: int = 0
    metadata: str = ""
    k8s_namespace: str = field(default="", name="K8sNamespace")
    k8s_pod_name: str = field(default="", name="K8sPodName")
    k8s_service_account: str = field(default="", name="K8sServiceAccount")
    named_ports: list[NamedPort] | UnsetType | None = UNSET


class PairHead(msgspec.Struct, rename="pascal", frozen=True, gc=False):
    """The fields of an IPIdentityPair that we use: read once per address, so only these."""

    ip: str = field(name="IP")
    host_ip: str = field(default="", name="HostIP")
    id: int = field(default=0, name="ID")
    k8s_namespace: str = field(default="", name="K8sNamespace")
    k8s_pod_name: str = field(default="", name="K8sPodName")


_encode = msgspec.json.Encoder(order="deterministic").encode
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


def decode(kind: type[S], value: bytes) -> S:
    """The struct in ``value``. Raises WireError naming the field."""
    decoder: msgspec.json.Decoder[S] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at ")
        raise WireError(path.strip("`").removeprefix("$").removeprefix("."), text) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("", f"not readable as JSON: {error}") from None


def encode(value: msgspec.Struct) -> bytes:
    """Compact JSON; equal structs give equal bytes."""
    return _encode(value)


# --- Rows to values and back ------------------------------------------------------------------


def cluster_config(cluster_id: int, counter_s: int = 0) -> bytes:
    """What this cluster says of itself; ``counter_s`` is for how long its counter may stand."""
    capabilities = Capabilities(
        synced_canaries=True, cached=True, endpoint_slices_export_mode=BOTH_FORMS
    )
    return encode(ClusterConfig(cluster_id, capabilities, counter_s))


def node_value(node: Node, cluster_id: int) -> bytes:
    """A node with its pod CIDRs; the locator rides as an annotation."""
    v4 = [_wire_cidr(cidr) for cidr in node.pod_cidrs if isinstance(cidr, IPv4Network)]
    v6 = [_wire_cidr(cidr) for cidr in node.pod_cidrs if isinstance(cidr, IPv6Network)]
    return encode(
        WireNode(
            name=node.name,
            cluster=node.cluster,
            ip_addresses=[WireAddress("InternalIP", str(a)) for a in node.addresses],
            ipv4_alloc_cidr=v4[0] if v4 else None,
            ipv4_secondary=v4[1:] or None,
            ipv6_alloc_cidr=v6[0] if v6 else None,
            ipv6_secondary=v6[1:] or None,
            cluster_id=cluster_id,
            source="custom-resource",
            labels=dict(node.labels),
            annotations={LOCATOR: str(node.locator)} if node.locator else None,
        )
    )


def node_row(wire: WireNode) -> Node:
    """The row of a node. Raises WireError naming the field that is no address or prefix."""
    return Node(
        cluster=wire.cluster,
        name=wire.name,
        addresses=tuple(dict.fromkeys(_node_addresses(wire))),
        pod_cidrs=tuple(dict.fromkeys(_node_cidrs(wire))),
        locator=_locator(wire),
        labels=tuple(sorted((wire.labels or {}).items())),
    )


def router_addresses(wire: WireNode) -> list[IP]:
    """Addresses of the node itself inside its pod CIDRs (Cilium's own interface)."""
    addresses = wire.ip_addresses or []
    return [parse_ip(a.ip, "IPAddresses") for a in addresses if a.type == "CiliumInternalIP"]


def service_value(service: Service, cluster_id: int) -> bytes:
    """A global service with the backends that the cluster itself contributes."""
    ports = {port.name: WirePort(port.protocol, port.port) for port in service.ports}
    backends: dict[str, dict[str, WirePort]] = {}
    for backend in service.backends:
        entry = backends.setdefault(str(backend.address), {})
        entry[backend.port_name] = WirePort(backend.protocol, backend.port)
    return encode(
        WireService(
            cluster=service.cluster,
            namespace=service.namespace,
            name=service.name,
            frontends={str(address): dict(ports) for address in service.addresses},
            backends=backends,
            labels={},
            selector={},
            include_external=service.is_global,
            shared=service.is_shared,
            cluster_id=cluster_id,
        )
    )


def service_row(wire: WireService) -> Service:
    """The row of a service. Raises WireError naming the address that is none."""
    frontends, backends = _carried(wire.frontends), _carried(wire.backends)
    ports = {
        ServicePort(name, port.protocol, port.port)
        for of_address in frontends.values()
        for name, port in of_address.items()
    }
    return Service(
        cluster=wire.cluster,
        namespace=wire.namespace,
        name=wire.name,
        addresses=tuple(parse_ip(text, "frontends") for text in frontends),
        ports=tuple(sorted(ports)),
        is_global=True,
        is_shared=wire.shared,
        backends=tuple(
            Backend(address, port.port, name, port.protocol, wire.cluster)
            for text, of_address in backends.items()
            for address in (parse_ip(text, "backends"),)
            for name, port in of_address.items()
        ),
    )


def _carried(ports: WirePorts | None) -> Mapping[str, Mapping[str, WirePort]]:
    """The ports whose protocol the datapath can translate."""
    return {
        address: {n: port for n, port in (named or {}).items() if port.protocol in PROTOCOLS}
        for address, named in (ports or {}).items()
    }


def address_value(row: Address, pod: PodKey, labels: str) -> bytes:
    """Who a pod address is and behind which node; always a single address."""
    return encode(
        WirePair(
            ip=str(row.address),
            host_ip=str(row.node),
            id=row.identity,
            k8s_namespace=pod.namespace,
            k8s_pod_name=pod.name,
            k8s_service_account=label_of(labels, ACCOUNT_LABEL),
        )
    )


@lru_cache(maxsize=4096)
def label_of(labels: str, name: str) -> str:
    """The value of one label of an identity's label string; empty when it is absent."""
    return dict(split_labels(labels)).get(name, "")


def split_labels(labels: str) -> list[tuple[str, str]]:
    """``source:key`` and value of each label of ``k8s:a=b;…;``."""
    parts = [label.partition("=") for label in labels.split(";") if label]
    return [(name, value) for name, _, value in parts]


def parse_ip(text: str, field: str) -> IP:
    """An address without a zone, in its shortest spelling. Raises WireError."""
    try:
        address = ip_address(text)
    except ValueError:
        raise WireError(field, f"{text!r} is not an IP address") from None
    if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise WireError(field, f"{text} has a zone or is an IPv4-mapped address")
    return address


def parse_network(text: str, field: str) -> Network:
    """A prefix without host bits. Raises WireError."""
    try:
        network = ip_network(text)
    except ValueError as error:
        raise WireError(field, str(error)) from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise WireError(field, f"{text} is an IPv4-mapped prefix")
    return network


def _node_addresses(wire: WireNode) -> Iterable[IP]:
    order = {"InternalIP": 0, "ExternalIP": 1}
    addresses = [a for a in wire.ip_addresses or [] if a.type in order]
    for address in sorted(addresses, key=lambda a: order[a.type]):
        yield parse_ip(address.ip, "IPAddresses")


def _node_cidrs(wire: WireNode) -> Iterable[Network]:
    fields: Mapping[str, list[WireCIDR]] = {
        "IPv4AllocCIDR": [wire.ipv4_alloc_cidr] if wire.ipv4_alloc_cidr else [],
        "IPv4SecondaryAllocCIDRs": wire.ipv4_secondary or [],
        "IPv6AllocCIDR": [wire.ipv6_alloc_cidr] if wire.ipv6_alloc_cidr else [],
        "IPv6SecondaryAllocCIDRs": wire.ipv6_secondary or [],
    }
    for name, cidrs in fields.items():
        for cidr in cidrs:
            network = _network(cidr, name)
            if f"IPv{network.version}" != name[:4]:
                raise WireError(name, f"{network} is not an IPv{name[3]} prefix")
            yield network


def _network(cidr: WireCIDR, field: str) -> Network:
    bits = 8 * len(cidr.mask)
    inverse = int.from_bytes(cidr.mask, "big") ^ ((1 << bits) - 1)
    if bits not in (32, 128) or inverse & (inverse + 1):
        raise WireError(field, f"mask {cidr.mask.hex()} is not a netmask")
    return parse_network(f"{cidr.ip}/{bits - inverse.bit_length()}", field)


def _wire_cidr(network: Network) -> WireCIDR:
    return WireCIDR(str(network.network_address), network.netmask.packed)


def _locator(wire: WireNode) -> IPv6Network | None:
    text = (wire.annotations or {}).get(LOCATOR)
    if text is None:
        return None
    network = parse_network(text, f"Annotations.{LOCATOR}")
    if isinstance(network, IPv4Network):
        raise WireError(f"Annotations.{LOCATOR}", f"{text} is not an IPv6 prefix")
    return network
