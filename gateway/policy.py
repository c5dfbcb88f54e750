"""EgressPolicy and CiliumEgressGatewayPolicy: documents -> rows, strictly.

An unknown or wrong field refuses the whole object by path, because half a policy is a leak. So does
a null: a null in place of ``matchLabels:`` would select everything.
``CiliumEgressGatewayPolicy`` follows ``reference/egress.md`` 2 and 3 (S1, S2, S4, S8).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from mesh.core.model import IP, Finding, Network, PodSelector, Requirement, Selector
from mesh.core.strict import AnyAddress, AnyNetwork, HostNetwork, Wrong, convert
from mesh.objects.definition import Column, Definition, Rule
from mesh.objects.fields import irrelevant, reported, used
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

#: Cilium writes a label's source in front of its key; both of these mean a pod's own labels.
_SOURCES = ("k8s:", "any:")


@dataclass(frozen=True, slots=True)
class Fields:
    """Where a document says which gateways and addresses it wants: findings name its own fields."""

    gateways: str
    addresses: str


OWN_FIELDS = Fields("gateways.nodeSelector", "addresses")


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """One EgressPolicy or CiliumEgressGatewayPolicy, parsed; ``origin`` is its manifest path."""

    name: str
    selectors: tuple[PodSelector, ...]
    destinations: tuple[Network, ...]
    excluded: tuple[Network, ...]
    addresses: tuple[IP, ...]
    gateways: Selector
    origin: str = ""
    created: str = ""
    fields: Fields = field(default=OWN_FIELDS, compare=False)


POLICIES: ObjectNoun[str, EgressPolicy] = ObjectNoun("egress")
#: Word of ``BGPPeer.spec.advertise``: addresses of which a node is the gateway.
ADVERTISED = "egressIPs"


#: Networks of one kind in a policy: the API server bounds what a rule about each may cost.
_NETWORKS = 4096


class _PodChoice(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "has(self.podSelector) || has(self.namespaceSelector)",
            "podSelector or namespaceSelector is required ({} selects everything)",
        ),
    )
    namespace_selector: SelectorField | UnsetType = UNSET
    pod_selector: SelectorField | UnsetType = UNSET


class _NodeChoice(Strict, frozen=True, kw_only=True):
    node_selector: SelectorField


class _EgressSpec(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "self.addresses.all(a, !isIP(a) || !(ip(a).isUnspecified() || ip(a).isLoopback() || "
            "cidr(ip(a).family() == 4 ? '224.0.0.0/4' : 'ff00::/8').containsIP(ip(a))))",
            "expected addresses that can be a source",
            ".addresses",
        ),
        Rule(
            "self.addresses.all(a, self.addresses.all(b, !isIP(a) || !isIP(b) || "
            "ip(a).family() != ip(b).family() || ip(a) == ip(b)))",
            "expected at most one IPv4 and one IPv6 address",
            ".addresses",
        ),
    )
    selectors: Annotated[tuple[_PodChoice, ...], msgspec.Meta(min_length=1)]
    destination_cidrs: Annotated[
        tuple[AnyNetwork, ...], msgspec.Meta(min_length=1, max_length=_NETWORKS)
    ] = msgspec.field(name="destinationCIDRs")
    excluded_cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(max_length=_NETWORKS)] = (
        msgspec.field(name="excludedCIDRs", default=())
    )
    addresses: Annotated[tuple[AnyAddress, ...], msgspec.Meta(min_length=1, max_length=16)]
    gateways: _NodeChoice


class _Egress(StrictObject, frozen=True, kw_only=True):
    spec: _EgressSpec


class _CiliumChoice(_PodChoice, frozen=True, kw_only=True):
    node_selector: SelectorField | UnsetType = UNSET


class _CiliumGateway(_NodeChoice, frozen=True, kw_only=True):
    interface: str = ""
    egress_ip: AnyAddress | UnsetType = msgspec.field(name="egressIP", default=UNSET)


class _CiliumSpec(Strict, frozen=True, kw_only=True):
    selectors: Annotated[tuple[_CiliumChoice, ...], msgspec.Meta(min_length=1)]
    destination_cidrs: tuple[HostNetwork, ...] = msgspec.field(name="destinationCIDRs")
    excluded_cidrs: tuple[HostNetwork, ...] = msgspec.field(name="excludedCIDRs", default=())
    egress_gateway: _CiliumGateway | UnsetType = UNSET
    egress_gateways: tuple[_CiliumGateway, ...] = ()


class _Cilium(StrictObject, frozen=True, kw_only=True):
    spec: _CiliumSpec


def _egress(place: Place, document: object) -> Parsed:
    policy = convert(document, _Egress)
    spec = policy.spec
    for family in (4, 6):
        if len({a for a in spec.addresses if a.version == family}) > 1:
            raise Wrong("spec.addresses", f"expected at most one IPv{family} address")
    for number, address in enumerate(spec.addresses):
        _check_usable(f"spec.addresses[{number}]", address)
    row = EgressPolicy(
        place.key.name,
        selectors=tuple(
            _pods(f"spec.selectors[{number}]", choice)
            for number, choice in enumerate(spec.selectors)
        ),
        destinations=_unique(spec.destination_cidrs),
        excluded=_unique(spec.excluded_cidrs),
        addresses=tuple(sorted(set(spec.addresses), key=lambda a: a.version)),
        gateways=selector_of("spec.gateways.nodeSelector", spec.gateways.node_selector),
        origin=str(place),
        created=created_at(policy.metadata),
    )
    return Parsed(POLICIES.name, row.name, row)


def _cilium(place: Place, document: object) -> Parsed:
    policy = convert(document, _Cilium)
    spec = policy.spec
    path, gateway, notes = _gateway(place, spec)
    if gateway.egress_ip is UNSET:
        text = "not supported yet: needs egressIP; what the policy covers is dropped"
        field = "interface" if gateway.interface else "egressIP"
        notes.append(place.finding(UNSUPPORTED, f"{path}.{field}", text))
    row = EgressPolicy(
        place.key.name,
        selectors=tuple(
            _cilium_pods(f"spec.selectors[{number}]", choice)
            for number, choice in enumerate(spec.selectors)
        ),
        destinations=_unique(spec.destination_cidrs),
        excluded=_unique(spec.excluded_cidrs),
        addresses=() if gateway.egress_ip is UNSET else (gateway.egress_ip,),
        gateways=selector_of(f"{path}.nodeSelector", gateway.node_selector),
        origin=str(place),
        created=created_at(policy.metadata),
        fields=Fields(f"{path}.nodeSelector", f"{path}.egressIP"),
    )
    return Parsed(POLICIES.name, row.name, row, tuple(notes))


def _gateway(place: Place, spec: _CiliumSpec) -> tuple[str, _CiliumGateway, list[Finding]]:
    """The gateway rule that counts, after S1 and S4."""
    if spec.egress_gateways:
        rules = {f"spec.egressGateways[{n}]": rule for n, rule in enumerate(spec.egress_gateways)}
    elif spec.egress_gateway:
        rules = {"spec.egressGateway": spec.egress_gateway}
    else:
        raise Wrong("spec.egressGateway", "required")
    for path, rule in rules.items():
        if rule.interface and rule.egress_ip:
            raise Wrong(path, "interface and egressIP exclude each other: the policy is ignored")
        if rule.egress_ip:
            _check_families(f"{path}.egressIP", rule.egress_ip, spec.destination_cidrs)
    notes = []
    if len(rules) > 1:
        text = f"not supported yet: only the first of {len(rules)} entries is used"
        notes.append(place.finding(UNSUPPORTED, "spec.egressGateways", text))
    first = next(iter(rules))
    return first, rules[first], notes


def _check_families(path: str, address: IP, destinations: tuple[Network, ...]) -> None:
    _check_usable(path, address)
    for number, destination in enumerate(destinations):
        if destination.version != address.version:
            text = f"{address} and spec.destinationCIDRs[{number}] ({destination}) differ in family"
            raise Wrong(path, f"{text}: the policy is ignored")


def _check_usable(path: str, address: IP) -> None:
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise Wrong(path, f"{address} cannot be a source address")


def _pods(path: str, choice: _PodChoice) -> PodSelector:
    if choice.pod_selector is UNSET and choice.namespace_selector is UNSET:
        raise Wrong(path, "podSelector or namespaceSelector is required ({} selects everything)")
    return PodSelector(
        namespaces=optional_selector(f"{path}.namespaceSelector", choice.namespace_selector),
        pods=optional_selector(f"{path}.podSelector", choice.pod_selector),
    )


def _cilium_pods(path: str, choice: _CiliumChoice) -> PodSelector:
    base = _pods(path, choice)
    if choice.node_selector is UNSET:
        return PodSelector(base.namespaces, _unprefixed(base.pods))
    if choice.pod_selector is UNSET:
        raise Wrong(f"{path}.nodeSelector", "not alone, only together with podSelector")
    nodes = selector_of(f"{path}.nodeSelector", choice.node_selector)
    return PodSelector(base.namespaces, _unprefixed(base.pods), nodes)


def _unprefixed(selector: Selector | None) -> Selector | None:
    if selector is None:
        return None
    return Selector(
        tuple(
            Requirement(_without_source(one.key), one.operator, one.values)
            for one in selector.requirements
        )
    )


def _without_source(key: str) -> str:
    for source in _SOURCES:
        key = key.removeprefix(source)
    return key


def _unique(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(networks))


CILIUM_FIELDS = (
    used("spec.selectors[].podSelector", "the pods that the policy covers"),
    used("spec.selectors[].namespaceSelector", "their namespaces"),
    used("spec.selectors[].nodeSelector", "their nodes"),
    used("spec.destinationCIDRs[]", "the destinations that it covers"),
    used("spec.excludedCIDRs[]", "destinations that it does not cover"),
    used("spec.egressGateway.nodeSelector", "the gateways"),
    used("spec.egressGateway.egressIP", "the source address of the connections"),
    reported(
        "spec.egressGateway.interface",
        "each such policy has a finding M106, and what it covers is dropped: egressIP is needed",
    ),
    used("spec.egressGateways[]", "the first one, as egressGateway; it comes before egressGateway"),
    reported("spec.egressGateways[1:]", "each such policy has a finding M106: the first is used"),
    irrelevant("metadata.namespace", "the kind is cluster-scoped, and Kubernetes clears the field"),
    irrelevant("status", "Meshgate does not read it"),
)

DEFINITION = Definition(
    _Egress,
    "egresspolicies",
    ("egp",),
    (
        Column("Addresses", ".spec.addresses"),
        Column("Destinations", ".spec.destinationCIDRs", wide=True),
    ),
)

KINDS = (
    Kind("meshgate.io/v1alpha1", "EgressPolicy", POLICIES, _egress, definition=DEFINITION),
    Kind(
        "cilium.io/v2",
        "CiliumEgressGatewayPolicy",
        POLICIES,
        _cilium,
        fields=CILIUM_FIELDS,
        former=("CiliumEgressNATPolicy",),
        optional=True,
    ),
)
