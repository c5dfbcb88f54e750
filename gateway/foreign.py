"""Egress policies of other products as rows of ours.

``CiliumEgressGatewayPolicy`` and ``IsovalentEgressGatewayPolicy`` (``reference/egress.md`` 2 to 4).
They are read as strictly as our own kind, because half a policy is a leak. Of several gateways each
entry has its first nodes by name (S5), and any of them carries any connection, with any of the
entries' addresses (S8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.policy import (
    MOST_GATEWAYS,
    POLICIES,
    EgressPolicy,
    Fields,
    NodeChoice,
    PodChoice,
    check_usable,
    labels_of,
    pods_of,
    unique,
)
from mesh.core.model import IP, Finding, Network, Requirement, Selector
from mesh.core.strict import AnyAddress, HostNetwork, Wrong, convert
from mesh.objects.fields import irrelevant, reported, used
from mesh.objects.findings import UNSUPPORTED
from mesh.objects.schema import Kind, Parsed, Place, Strict, StrictObject, created_at, selector_of

#: Cilium writes a label's source in front of its key; both of these mean a pod's own labels.
_SOURCES = ("k8s:", "any:")
_DROPPED = "not supported yet: needs egressIP; packets that the policy covers are dropped"


class _Gateway(NodeChoice, frozen=True, kw_only=True):
    interface: str = ""
    egress_ip: AnyAddress | UnsetType = msgspec.field(name="egressIP", default=UNSET)


class _Group(_Gateway, frozen=True, kw_only=True):
    max_gateway_nodes: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Covered(Strict, frozen=True, kw_only=True):
    selectors: Annotated[tuple[PodChoice, ...], msgspec.Meta(min_length=1)]
    destination_cidrs: tuple[HostNetwork, ...] = msgspec.field(name="destinationCIDRs")
    excluded_cidrs: tuple[HostNetwork, ...] = msgspec.field(name="excludedCIDRs", default=())


class _CiliumSpec(_Covered, frozen=True, kw_only=True):
    egress_gateway: _Gateway | UnsetType = UNSET
    egress_gateways: tuple[_Gateway, ...] = ()


class _Cilium(StrictObject, frozen=True, kw_only=True):
    spec: _CiliumSpec


class _IsovalentSpec(_Covered, frozen=True, kw_only=True):
    egress_groups: Annotated[tuple[_Group, ...], msgspec.Meta(min_length=1)]
    egress_cidrs: Any = msgspec.field(name="egressCIDRs", default=None)
    az_affinity: str = ""
    bgp_enabled: bool = False


class _Isovalent(StrictObject, frozen=True, kw_only=True):
    spec: _IsovalentSpec


def _cilium(place: Place, document: object) -> Parsed:
    policy = convert(document, _Cilium)
    spec = policy.spec
    if spec.egress_gateways:
        rules = {f"spec.egressGateways[{n}]": rule for n, rule in enumerate(spec.egress_gateways)}
    elif spec.egress_gateway:
        rules = {"spec.egressGateway": spec.egress_gateway}
    else:
        raise Wrong("spec.egressGateway", "required")
    return _parsed(place, policy, spec, rules, dict.fromkeys(rules, 1), ())


def _isovalent(place: Place, document: object) -> Parsed:
    policy = convert(document, _Isovalent)
    spec = policy.spec
    groups = {f"spec.egressGroups[{n}]": group for n, group in enumerate(spec.egress_groups)}
    most = {
        path: min(group.max_gateway_nodes or MOST_GATEWAYS, MOST_GATEWAYS)
        for path, group in groups.items()
    }
    return _parsed(place, policy, spec, groups, most, tuple(_not_read(place, spec)))


def _not_read(place: Place, spec: _IsovalentSpec) -> Iterator[Finding]:
    for path, wanted, instead in (
        ("spec.egressCIDRs", spec.egress_cidrs, "addresses come from egressIP of a group"),
        (
            "spec.azAffinity",
            spec.az_affinity not in ("", "disabled"),
            "any gateway carries any connection, whatever its zone",
        ),
        ("spec.bgpEnabled", spec.bgp_enabled, "a BGPPeer says who hears of the addresses"),
    ):
        if wanted:
            yield place.finding(UNSUPPORTED, path, f"not supported: {instead}")


def _parsed(
    place: Place,
    policy: StrictObject,
    spec: _Covered,
    rules: Mapping[str, _Gateway],
    most: Mapping[str, int],
    notes: Sequence[Finding],
) -> Parsed:
    """The row after S1 and S4; ``rules`` are the entries about gateways by path."""
    for path, rule in rules.items():
        if rule.interface and rule.egress_ip:
            raise Wrong(path, "interface and egressIP exclude each other: the policy is ignored")
        if rule.egress_ip:
            _check_families(f"{path}.egressIP", rule.egress_ip, spec.destination_cidrs)
    choices = [
        (selector_of(f"{path}.nodeSelector", rule.node_selector), most[path])
        for path, rule in rules.items()
    ]
    first = next(iter(rules))
    row = EgressPolicy(
        place.key.name,
        selectors=tuple(
            pods_of(f"spec.selectors[{number}]", choice, _unprefixed)
            for number, choice in enumerate(spec.selectors)
        ),
        destinations=unique(spec.destination_cidrs),
        excluded=unique(spec.excluded_cidrs),
        addresses=tuple(dict.fromkeys(one.egress_ip for one in rules.values() if one.egress_ip)),
        gateways=choices[0][0],
        origin=str(place),
        created=created_at(policy.metadata),
        fields=Fields(f"{first}.nodeSelector", f"{first}.egressIP"),
        labels=labels_of(policy),
        max_gateways=choices[0][1],
        further=tuple(choices[1:]),
    )
    return Parsed(POLICIES.name, row.name, row, (*notes, *_without_address(place, rules)))


def _without_address(place: Place, rules: Mapping[str, _Gateway]) -> Iterator[Finding]:
    """Entries whose address is that of an interface (S2)."""
    others = any(rule.egress_ip for rule in rules.values())
    text = "not supported yet: the addresses of the other entries are used" if others else _DROPPED
    for path, rule in rules.items():
        if rule.egress_ip is UNSET:
            field = "interface" if rule.interface else "egressIP"
            yield place.finding(UNSUPPORTED, f"{path}.{field}", text)


def _check_families(path: str, address: IP, destinations: tuple[Network, ...]) -> None:
    check_usable(path, address)
    for number, destination in enumerate(destinations):
        if destination.version != address.version:
            text = f"{address} and spec.destinationCIDRs[{number}] ({destination}) differ in family"
            raise Wrong(path, f"{text}: the policy is ignored")


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


_COVERED_FIELDS = (
    used("spec.selectors[].podSelector", "the pods that the policy covers"),
    used("spec.selectors[].namespaceSelector", "their namespaces"),
    used("spec.selectors[].nodeSelector", "their nodes"),
    used("spec.destinationCIDRs[]", "the destinations that it covers"),
    used("spec.excludedCIDRs[]", "destinations that it does not cover"),
)
_OBJECT_FIELDS = (
    irrelevant("metadata.namespace", "the kind is cluster-scoped, and Kubernetes clears the field"),
    irrelevant("status", "Meshgate does not read it"),
)
_BY_INTERFACE = (
    "each such policy has a finding M106, and covered packets are dropped: egressIP is needed"
)
CILIUM_FIELDS = (
    *_COVERED_FIELDS,
    used("spec.egressGateway.nodeSelector", "the gateways"),
    used("spec.egressGateway.egressIP", "the source address of the connections"),
    reported("spec.egressGateway.interface", _BY_INTERFACE),
    used(
        "spec.egressGateways[]",
        "the first node of each, and its address; it comes before egressGateway",
    ),
    reported("spec.egressGateways[].interface", _BY_INTERFACE),
    *_OBJECT_FIELDS,
)
ISOVALENT_FIELDS = (
    *_COVERED_FIELDS,
    used("spec.egressGroups[].nodeSelector", "the gateways"),
    used("spec.egressGroups[].egressIP", "the source address of the connections"),
    used("spec.egressGroups[].maxGatewayNodes", "how many of the nodes are gateways; 0: 16"),
    reported("spec.egressGroups[].interface", _BY_INTERFACE),
    reported("spec.egressCIDRs", "each such policy has a finding M106: egressIP is used"),
    reported("spec.azAffinity", "each such policy has a finding M106: any gateway carries any pod"),
    reported("spec.bgpEnabled", "each such policy has a finding M106: a BGPPeer says it"),
    *_OBJECT_FIELDS,
)

KINDS = (
    Kind(
        "cilium.io/v2",
        "CiliumEgressGatewayPolicy",
        POLICIES,
        _cilium,
        fields=CILIUM_FIELDS,
        former=("CiliumEgressNATPolicy",),
        optional=True,
    ),
    Kind(
        "isovalent.com/v1",
        "IsovalentEgressGatewayPolicy",
        POLICIES,
        _isovalent,
        fields=ISOVALENT_FIELDS,
        optional=True,
    ),
)
