"""EgressPolicy: documents -> rows, strictly. Other products' policies are in ``foreign.py``.

An unknown or wrong field refuses the whole object by path, because half a policy is a leak. So does
a null: a null in place of ``matchLabels:`` would select everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mesh.core.model import IP, Finding, Labels, Network, PodSelector, Selector
from mesh.core.strict import AnyAddress, AnyNetwork, Wrong, convert
from mesh.objects.definition import Column, Definition, Rule
from mesh.objects.findings import UNSUPPORTED
from mesh.objects.schema import (
    Kind,
    Parsed,
    Place,
    SelectorField,
    Strict,
    StrictObject,
    created_at,
    optional_selector,
    selector_of,
)
from mesh.objects.tables import ObjectNoun

#: ``enum gateway_limit``: gateways of one address. It is also what a policy has that says nothing.
MOST_GATEWAYS = 16


@dataclass(frozen=True, slots=True)
class Fields:
    """Where a document says which gateways and addresses it wants: findings name its own fields."""

    gateways: str
    addresses: str


OWN_FIELDS = Fields("gateways.nodeSelector", "addresses")
POOL_FIELDS = Fields("gateways.nodeSelector", "pool")

Outbound = Literal["gateway", "direct"]
Mapping = Literal["endpoint-dependent", "endpoint-independent"]
Filtering = Literal["address-dependent", "endpoint-independent"]
Activation = Literal["Immediate", "Acknowledged"]


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds without a packet after which a connection ends; 0: as all connections."""

    tcp_established: int = 0
    tcp_transitory: int = 0
    udp: int = 0
    icmp: int = 0


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """One EgressPolicy, or a policy of another product, parsed; ``origin`` is its manifest path."""

    name: str
    selectors: tuple[PodSelector, ...]
    destinations: tuple[Network, ...]
    excluded: tuple[Network, ...]
    addresses: tuple[IP, ...]
    gateways: Selector
    origin: str = ""
    created: str = ""
    labelled: Selector | None = None
    """Learned networks by the labels that BGP communities have become; None: none."""
    fields: Fields = field(default=OWN_FIELDS, compare=False)
    labels: Labels = ()  # of the object, which BGPPeers may select
    max_gateways: int = MOST_GATEWAYS
    pool: str = ""
    """The EgressPool out of which its addresses come; empty: ``addresses`` are fixed."""
    outbound: Outbound = "gateway"
    mapping: Mapping = "endpoint-dependent"
    filtering: Filtering = "address-dependent"
    """Who may send to a port of an endpoint-independent mapping."""
    quota_ports: int = 0
    """Ports of an address that a pod may have, in runs of 16; 0: no quota but that of all pods."""
    quota_new_per_second: int = 0
    """New mappings of a pod in a second; 0: no quota."""
    timers: Timers = Timers()
    activation: Activation = "Immediate"
    names: tuple[str, ...] = ()
    """Destinations by host name, in lower case and without the last dot."""
    waiting: tuple[IP, ...] = ()
    """Addresses that firewalls have not acknowledged (``feed/acknowledged.py``)."""
    further: tuple[tuple[Selector, int], ...] = ()
    """More selectors of gateways, each with its own maximum."""

    @property
    def choices(self) -> tuple[tuple[Selector, int], ...]:
        """All selectors of gateways, each with its maximum."""
        return (self.gateways, self.max_gateways), *self.further


POLICIES: ObjectNoun[str, EgressPolicy] = ObjectNoun("egress")
#: Word of ``BGPPeer.spec.advertise``: addresses of which a node is the gateway.
ADVERTISED = "egressIPs"


#: A field that is read, whether a policy wants something of it that is not there yet, and what
#: happens instead. Whoever makes the datapath of a field removes its line.
_NOT_YET: tuple[tuple[str, Callable[[EgressPolicy], object], str], ...] = (
    ("spec.destinationNames", lambda one: one.names, "destinations by name are not covered"),
    (
        "spec.pool",
        lambda one: "/" in one.pool,
        "a pool of another cluster gives no address, and covered packets are dropped",
    ),
)

#: Networks of one kind in a policy: the API server bounds the cost of a rule about each.
_NETWORKS = 4096


class PodChoice(Strict, frozen=True, kw_only=True):
    """One selector of pods, by their labels, their namespace's and their node's."""

    rules: ClassVar = (
        Rule(
            "has(self.podSelector) || has(self.namespaceSelector)",
            "podSelector or namespaceSelector is required ({} selects everything)",
        ),
        Rule(
            "has(self.podSelector) || !has(self.nodeSelector)",
            "not alone, only together with podSelector",
            ".nodeSelector",
        ),
    )
    namespace_selector: SelectorField | UnsetType = UNSET
    pod_selector: SelectorField | UnsetType = UNSET
    node_selector: SelectorField | UnsetType = UNSET


class NodeChoice(Strict, frozen=True, kw_only=True):
    """A selector of nodes."""

    node_selector: SelectorField


class _Gateways(NodeChoice, frozen=True, kw_only=True):
    max: Annotated[int, msgspec.Meta(ge=1, le=MOST_GATEWAYS)] = MOST_GATEWAYS


class _Quota(Strict, frozen=True, kw_only=True):
    ports: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    new_per_second: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0


#: A timer of a policy; the least of RFC 4787, 5382 and 5508 stand in its document.
_Established = Annotated[int, msgspec.Meta(ge=7440, le=604_800)]
_Transitory = Annotated[int, msgspec.Meta(ge=240, le=86_400)]
_Datagram = Annotated[int, msgspec.Meta(ge=120, le=86_400)]
_Query = Annotated[int, msgspec.Meta(ge=60, le=86_400)]


class _Timers(Strict, frozen=True, kw_only=True):
    tcp_established_seconds: _Established | UnsetType = UNSET
    tcp_transitory_seconds: _Transitory | UnsetType = UNSET
    udp_seconds: _Datagram | UnsetType = UNSET
    icmp_seconds: _Query | UnsetType = UNSET


_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HostName = Annotated[str, msgspec.Meta(max_length=253, pattern=rf"^(\*\.)?({_LABEL}\.)*{_LABEL}$")]


_FILTERING = "endpoint-independent only together with mapping: endpoint-independent"


class _EgressSpec(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "(has(self.addresses) && size(self.addresses) > 0) != "
            "(has(self.pool) && self.pool != '')",
            "expected addresses or a pool, and not both",
            ".addresses",
        ),
        Rule(
            "!has(self.addresses) || self.addresses.all(a, !isIP(a) || "
            "!(ip(a).isUnspecified() || ip(a).isLoopback() || "
            "cidr(ip(a).family() == 4 ? '224.0.0.0/4' : 'ff00::/8').containsIP(ip(a))))",
            "expected addresses that can be a source",
            ".addresses",
        ),
        Rule(
            "has(self.destinationCIDRs) && size(self.destinationCIDRs) > 0 || "
            "has(self.destinationSelector) || "
            "has(self.destinationNames) && size(self.destinationNames) > 0",
            "required, or else destinationSelector or destinationNames",
            ".destinationCIDRs",
        ),
        Rule(
            "!has(self.filtering) || self.filtering == 'address-dependent' || "
            "has(self.mapping) && self.mapping == 'endpoint-independent'",
            _FILTERING,
            ".filtering",
        ),
    )
    selectors: Annotated[tuple[PodChoice, ...], msgspec.Meta(min_length=1)]
    destination_cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(max_length=_NETWORKS)] = (
        msgspec.field(name="destinationCIDRs", default=())
    )
    destination_selector: SelectorField | UnsetType = UNSET
    destination_names: Annotated[tuple[_HostName, ...], msgspec.Meta(max_length=64)] = ()
    excluded_cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(max_length=_NETWORKS)] = (
        msgspec.field(name="excludedCIDRs", default=())
    )
    addresses: Annotated[tuple[AnyAddress, ...], msgspec.Meta(max_length=16)] = ()
    pool: Annotated[str, msgspec.Meta(max_length=286)] = ""
    gateways: _Gateways
    outbound: Outbound = "gateway"
    mapping: Mapping = "endpoint-dependent"
    filtering: Filtering = "address-dependent"
    quota: _Quota = _Quota()
    timers: _Timers = _Timers()
    activation: Activation = "Immediate"


class _Egress(StrictObject, frozen=True, kw_only=True):
    spec: _EgressSpec


def _egress(place: Place, document: object) -> Parsed:
    policy = convert(document, _Egress)
    spec = policy.spec
    for number, address in enumerate(spec.addresses):
        check_usable(f"spec.addresses[{number}]", address)
    if bool(spec.addresses) == bool(spec.pool):
        raise Wrong("spec.addresses", "expected addresses or a pool, and not both")
    named = spec.destination_names or spec.destination_selector is not UNSET
    if not spec.destination_cidrs and not named:
        text = "required, or else destinationSelector or destinationNames"
        raise Wrong("spec.destinationCIDRs", text)
    if "endpoint-independent" == spec.filtering != spec.mapping:
        raise Wrong("spec.filtering", _FILTERING)
    row = EgressPolicy(
        place.key.name,
        selectors=tuple(
            pods_of(f"spec.selectors[{number}]", choice)
            for number, choice in enumerate(spec.selectors)
        ),
        destinations=unique(spec.destination_cidrs),
        excluded=unique(spec.excluded_cidrs),
        addresses=tuple(sorted(dict.fromkeys(spec.addresses), key=lambda a: a.version)),
        gateways=selector_of("spec.gateways.nodeSelector", spec.gateways.node_selector),
        origin=str(place),
        created=created_at(policy.metadata),
        labelled=optional_selector("spec.destinationSelector", spec.destination_selector),
        labels=labels_of(policy),
        max_gateways=spec.gateways.max,
        fields=POOL_FIELDS if spec.pool else OWN_FIELDS,
        pool=spec.pool,
        outbound=spec.outbound,
        mapping=spec.mapping,
        filtering=spec.filtering,
        quota_ports=spec.quota.ports,
        quota_new_per_second=spec.quota.new_per_second,
        timers=_timers(spec.timers),
        activation=spec.activation,
        names=tuple(dict.fromkeys(spec.destination_names)),
    )
    return Parsed(POLICIES.name, row.name, row, tuple(_not_yet(place, row)))


def _timers(timers: _Timers) -> Timers:
    return Timers(
        timers.tcp_established_seconds or 0,
        timers.tcp_transitory_seconds or 0,
        timers.udp_seconds or 0,
        timers.icmp_seconds or 0,
    )


def _not_yet(place: Place, row: EgressPolicy) -> Iterator[Finding]:
    """What the policy wants and nobody does yet."""
    for path, wanted, instead in _NOT_YET:
        if wanted(row):
            yield place.finding(UNSUPPORTED, path, f"not supported yet: {instead}")


def labels_of(policy: StrictObject) -> Labels:
    """The labels of the object."""
    return tuple(sorted((policy.metadata.labels or {}).items()))


def check_usable(path: str, address: IP) -> None:
    """Raises Wrong for an address that can be no source."""
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise Wrong(path, f"{address} cannot be a source address")


def _same(selector: Selector | None) -> Selector | None:
    return selector


def pods_of(
    path: str,
    choice: PodChoice,
    read: Callable[[Selector | None], Selector | None] = _same,
) -> PodSelector:
    """The pods of one choice; ``read`` makes a kind's selector of pods one of ours."""
    if choice.pod_selector is UNSET and choice.namespace_selector is UNSET:
        raise Wrong(path, "podSelector or namespaceSelector is required ({} selects everything)")
    if choice.pod_selector is UNSET and choice.node_selector is not UNSET:
        raise Wrong(f"{path}.nodeSelector", "not alone, only together with podSelector")
    return PodSelector(
        optional_selector(f"{path}.namespaceSelector", choice.namespace_selector),
        read(optional_selector(f"{path}.podSelector", choice.pod_selector)),
        optional_selector(f"{path}.nodeSelector", choice.node_selector),
    )


def unique(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Each network once, in their order."""
    return tuple(dict.fromkeys(networks))


DEFINITION = Definition(
    _Egress,
    "egresspolicies",
    ("egp",),
    (
        Column("Addresses", ".spec.addresses"),
        Column("Destinations", ".spec.destinationCIDRs", wide=True),
    ),
)

KINDS = (Kind("meshgate.io/v1alpha1", "EgressPolicy", POLICIES, _egress, definition=DEFINITION),)
