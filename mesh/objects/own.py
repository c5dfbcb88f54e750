"""EgressPolicy, BGPPeer and CiliumEgressGatewayPolicy: documents -> rows, strictly.

An unknown or wrong field refuses the whole object by path, because half a policy is a leak. So does
a null: what stands where ``matchLabels:`` was cut off would select everything.
``CiliumEgressGatewayPolicy`` follows ``reference/egress.md`` 2 and 3 (S1, S2, S4, S8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mesh.core.model import (
    IP,
    BGPPeer,
    EgressPolicy,
    Finding,
    Network,
    PodSelector,
    Requirement,
    Selector,
)
from mesh.core.strict import AnyAddress, AnyNetwork, HostNetwork, Wrong, convert
from mesh.objects.tables import UNSUPPORTED, Parsed, Place, Strict

#: Cilium writes a label's source in front of its key; both of these mean a pod's own labels.
_SOURCES = ("k8s:", "any:")


class _Meta(Strict, frozen=True, kw_only=True):
    name: str
    namespace: None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    generate_name: str | None = None
    self_link: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: list[str] | None = None
    owner_references: list[Any] | None = None
    managed_fields: list[Any] | None = None


class _Object(Strict, frozen=True, kw_only=True):
    api_version: str
    kind: str
    metadata: _Meta
    status: Any = None


class _Expression(Strict, frozen=True, kw_only=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class _Selector(Strict, frozen=True, kw_only=True):
    match_labels: dict[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[_Expression, ...] = ()


class _PodChoice(Strict, frozen=True, kw_only=True):
    namespace_selector: _Selector | UnsetType = UNSET
    pod_selector: _Selector | UnsetType = UNSET


class _NodeChoice(Strict, frozen=True, kw_only=True):
    node_selector: _Selector


class _EgressSpec(Strict, frozen=True, kw_only=True):
    selectors: Annotated[tuple[_PodChoice, ...], msgspec.Meta(min_length=1)]
    destination_cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(min_length=1)] = (
        msgspec.field(name="destinationCIDRs")
    )
    excluded_cidrs: tuple[AnyNetwork, ...] = msgspec.field(name="excludedCIDRs", default=())
    addresses: Annotated[tuple[AnyAddress, ...], msgspec.Meta(min_length=1)]
    gateways: _NodeChoice


class _Egress(_Object, frozen=True, kw_only=True):
    spec: _EgressSpec


class _CiliumChoice(_PodChoice, frozen=True, kw_only=True):
    node_selector: _Selector | UnsetType = UNSET


class _CiliumGateway(_NodeChoice, frozen=True, kw_only=True):
    interface: str = ""
    egress_ip: AnyAddress | UnsetType = msgspec.field(name="egressIP", default=UNSET)


class _CiliumSpec(Strict, frozen=True, kw_only=True):
    selectors: Annotated[tuple[_CiliumChoice, ...], msgspec.Meta(min_length=1)]
    destination_cidrs: tuple[HostNetwork, ...] = msgspec.field(name="destinationCIDRs")
    excluded_cidrs: tuple[HostNetwork, ...] = msgspec.field(name="excludedCIDRs", default=())
    egress_gateway: _CiliumGateway | UnsetType = UNSET
    egress_gateways: tuple[_CiliumGateway, ...] = ()


class _Cilium(_Object, frozen=True, kw_only=True):
    spec: _CiliumSpec


class _PeerSpec(Strict, frozen=True, kw_only=True):
    node_selector: _Selector
    address: AnyAddress
    asn: Annotated[int, msgspec.Meta(ge=1, le=4294967295)]
    local_asn: Annotated[int, msgspec.Meta(ge=1, le=4294967295)] = msgspec.field(name="localASN")
    advertise: tuple[Literal["podCIDRs", "egressIPs", "srv6Locators"], ...]
    hold_seconds: Annotated[int, msgspec.Meta(ge=3, le=65535)] = 90
    graceful_restart_seconds: Annotated[int, msgspec.Meta(ge=1, le=4095)] = 120


class _Peer(_Object, frozen=True, kw_only=True):
    spec: _PeerSpec


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
        gateways=_selector("spec.gateways.nodeSelector", spec.gateways.node_selector),
        origin=str(place),
        created=_created(policy.metadata),
    )
    return Parsed("egress", row.name, row)


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
        gateways=_selector(f"{path}.nodeSelector", gateway.node_selector),
        origin=str(place),
        created=_created(policy.metadata),
    )
    return Parsed("egress", row.name, row, tuple(notes))


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


def _peer(place: Place, document: object) -> Parsed:
    spec = convert(document, _Peer).spec
    row = BGPPeer(
        place.key.name,
        nodes=_selector("spec.nodeSelector", spec.node_selector),
        address=spec.address,
        asn=spec.asn,
        local_asn=spec.local_asn,
        advertise=tuple(sorted(set(spec.advertise))),
        hold_s=spec.hold_seconds,
        graceful_restart_s=spec.graceful_restart_seconds,
        origin=str(place),
    )
    return Parsed("peer", row.name, row)


def _pods(path: str, choice: _PodChoice) -> PodSelector:
    if choice.pod_selector is UNSET and choice.namespace_selector is UNSET:
        raise Wrong(path, "podSelector or namespaceSelector is required ({} selects everything)")
    return PodSelector(
        namespaces=_optional(f"{path}.namespaceSelector", choice.namespace_selector),
        pods=_optional(f"{path}.podSelector", choice.pod_selector),
    )


def _cilium_pods(path: str, choice: _CiliumChoice) -> PodSelector:
    base = _pods(path, choice)
    if choice.node_selector is UNSET:
        return PodSelector(base.namespaces, _unprefixed(base.pods))
    if choice.pod_selector is UNSET:
        raise Wrong(f"{path}.nodeSelector", "not alone, only together with podSelector")
    nodes = _selector(f"{path}.nodeSelector", choice.node_selector)
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


def _optional(path: str, selector: _Selector | UnsetType) -> Selector | None:
    return None if selector is UNSET else _selector(path, selector)


def _selector(path: str, selector: _Selector) -> Selector:
    labels = sorted(selector.match_labels.items())
    found = [Requirement(key, "In", (value,)) for key, value in labels]
    for number, one in enumerate(selector.match_expressions):
        values = tuple(sorted(set(one.values)))
        place = f"{path}.matchExpressions[{number}].values"
        if one.operator in ("In", "NotIn") and not values:
            raise Wrong(place, f"required with operator {one.operator}")
        if one.operator in ("Exists", "DoesNotExist") and values:
            raise Wrong(place, f"must be empty with operator {one.operator}")
        found.append(Requirement(one.key, one.operator, values))
    return Selector(tuple(found))


def _unique(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(networks))


def _created(meta: _Meta) -> str:
    """Creation time in one form that sorts, or empty."""
    if not meta.creation_timestamp:
        return ""
    try:
        time = datetime.fromisoformat(meta.creation_timestamp)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        text = f"expected a time (RFC 3339), got {meta.creation_timestamp!r}"
        raise Wrong("metadata.creationTimestamp", text) from None


#: apiVersion, kind -> whether it has a namespace, and its parser.
KINDS: Mapping[tuple[str, str], tuple[bool, Callable[[Place, object], Parsed]]] = {
    ("meshgate.io/v1alpha1", "EgressPolicy"): (False, _egress),
    ("meshgate.io/v1alpha1", "BGPPeer"): (False, _peer),
    ("cilium.io/v2", "CiliumEgressGatewayPolicy"): (False, _cilium),
}
