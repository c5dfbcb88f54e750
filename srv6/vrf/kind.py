"""VRF and CiliumSRv6VRF: documents -> rows, strictly.

An unknown or wrong field refuses the whole object by path: half a VRF sends a tenant's packets
where they do not belong. Number, route distinguisher and SIDs are allocated; an object names them
only where the routers' side demands a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mesh.core.model import Labels, Network, PodSelector, Selector
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
    labels_of,
    optional_selector,
    selector_of,
)
from mesh.objects.tables import ObjectNoun

#: ``VRF.spec.routeDistinguisher`` and ``locatorPool`` of an object that leaves the choice to us.
AUTO, DEFAULT = "auto", "default"
#: SIDs that a packet may visit before the last one; eight are in a header at most.
MOST_SEGMENTS = 7
#: Prefixes that a VRF takes from each router.
MOST_PREFIXES = 10_000
_NETWORKS, _TARGETS = 1024, 64

_AS2, _AS4, _NUMBER2 = 1 << 16, 1 << 32, 1 << 16
_PAIR = r"^([0-9]{1,10}|[0-9]{1,3}(\.[0-9]{1,3}){3}):[0-9]{1,10}$"

_TARGET = re.compile(_PAIR)
Pair = Annotated[str, msgspec.Meta(pattern=_PAIR, max_length=26)]
Exported = Literal["podAddresses", "podCIDR", "prefixes"]
Form = Literal["DT46", "DT4AndDT6", "uDT46", "uDT4AndUDT6"]


@dataclass(frozen=True, slots=True)
class VRF:
    """One VRF, parsed. Route targets are ``65001:100``; ``rd`` is empty when it is ours to give.

    ``sid`` is the SID that the object names: it counts on the node whose locator it lies in.
    ``peers`` selects the BGPPeers that carry the VRF, None: all with a VPN family.
    """

    name: str
    selectors: tuple[PodSelector, ...] = ()
    destinations: tuple[Network, ...] = ()
    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    rd: str = ""
    locator_pool: str = DEFAULT
    behaviour: Form = "DT46"
    advertise: Exported = "podAddresses"
    prefixes: tuple[Network, ...] = ()
    segments: tuple[IPv6Address, ...] = ()
    max_prefixes: int = MOST_PREFIXES
    peers: Selector | None = None
    addresses: tuple[Network, ...] = ()
    sid: IPv6Address | None = None
    labels: Labels = ()
    origin: str = ""
    created: str = ""


VRFS: ObjectNoun[str, VRF] = ObjectNoun("vrf")


class _PodChoice(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "has(self.podSelector) || has(self.namespaceSelector)",
            "podSelector or namespaceSelector is required ({} selects everything)",
        ),
    )
    namespace_selector: SelectorField | UnsetType = UNSET
    pod_selector: SelectorField | UnsetType = UNSET


def _fits(text: str) -> str:
    """The CEL rule of ``_check_pair`` for a text, as far as its pattern holds."""
    first, last = f"{text}.split(':')[0]", f"{text}.split(':')[1]"
    return (
        f"({first}.contains('.') ? isIP({first}) && int({last}) < {_NUMBER2} : "
        f"int({first}) < {_AS2} && int({last}) < {_AS4} || "
        f"int({first}) < {_AS4} && int({last}) < {_NUMBER2})"
    )


def _of_one_node(text: str) -> str:
    """The CEL rule of ``_ipv6`` for the text of an address."""
    return (
        f"!isIP({text}) || ip({text}).family() == 6 && !ip({text}).isUnspecified() && "
        f"!ip({text}).isLoopback() && !cidr('ff00::/8').containsIP({text})"
    )


_PAIR_TEXT = "have a pair that needs more than 48 bits, or whose address is none"


class _VRFSpec(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "(self.advertise == 'prefixes') == (has(self.prefixes) && size(self.prefixes) > 0)",
            "expected prefixes exactly with advertise: prefixes",
            ".prefixes",
        ),
        Rule(
            f"!has(self.segments) || self.segments.all(a, {_of_one_node('a')})",
            "expected IPv6 addresses, each of one node",
            ".segments",
        ),
        Rule(f"!has(self.sid) || {_of_one_node('self.sid')}",
             "expected an IPv6 address of one node", ".sid"),
        Rule(f"!has(self.__import__) || self.__import__.all(t, {_fits('t')})",
             _PAIR_TEXT, ".import"),
        Rule(f"!has(self.export) || self.export.all(t, {_fits('t')})", _PAIR_TEXT, ".export"),
        Rule(f"self.routeDistinguisher == '{AUTO}' || {_fits('self.routeDistinguisher')}",
             "needs more than 48 bits, or its address is none", ".routeDistinguisher"),
        Rule("!has(self.addresses) || self.addresses.all(a, !isCIDR(a) || size(self.addresses."
             "filter(b, isCIDR(b) && (cidr(a).containsCIDR(b) || cidr(b).containsCIDR(a)))) == 1)",
             "have networks that overlap", ".addresses"),
        Rule("!has(self.sid) || !self.behaviour.contains('And')",
             "one SID serves one behaviour, expected DT46 or uDT46", ".sid"),
    )  # fmt: skip
    pods: Annotated[tuple[_PodChoice, ...], msgspec.Meta(max_length=64)] = ()
    destinations: Annotated[
        tuple[AnyNetwork, ...], msgspec.Meta(min_length=1, max_length=_NETWORKS)
    ]
    import_targets: Annotated[tuple[Pair, ...], msgspec.Meta(max_length=_TARGETS)] = msgspec.field(
        name="import", default=()
    )
    export: Annotated[tuple[Pair, ...], msgspec.Meta(max_length=_TARGETS)] | UnsetType = UNSET
    route_distinguisher: Annotated[
        str, msgspec.Meta(pattern=f"^{AUTO}$|{_PAIR}", max_length=26)
    ] = AUTO
    locator_pool: str = DEFAULT
    behaviour: Form = "DT46"
    advertise: Exported = "podAddresses"
    prefixes: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(max_length=_NETWORKS)] = ()
    segments: Annotated[tuple[AnyAddress, ...], msgspec.Meta(max_length=MOST_SEGMENTS)] = ()
    max_prefixes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = MOST_PREFIXES
    peers: SelectorField | UnsetType = UNSET
    addresses: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(max_length=16)] = ()
    sid: AnyAddress | UnsetType = UNSET


class _VRF(StrictObject, frozen=True, kw_only=True):
    spec: _VRFSpec


def _vrf(place: Place, document: object) -> Parsed:
    made = convert(document, _VRF)
    spec = made.spec
    exports = spec.import_targets if spec.export is UNSET else spec.export
    if (spec.advertise == "prefixes") != bool(spec.prefixes):
        raise Wrong("spec.prefixes", "expected exactly with advertise: prefixes")
    if spec.sid is not UNSET and "And" in spec.behaviour:
        raise Wrong("spec.sid", "one SID serves one behaviour, expected DT46 or uDT46")
    row = VRF(
        place.key.name,
        selectors=tuple(_pods(f"spec.pods[{number}]", one) for number, one in enumerate(spec.pods)),
        destinations=tuple(dict.fromkeys(spec.destinations)),
        imports=_targets("spec.import", spec.import_targets),
        exports=_targets("spec.export", exports),
        rd=_distinguisher(spec.route_distinguisher),
        locator_pool=spec.locator_pool,
        behaviour=spec.behaviour,
        advertise=spec.advertise,
        prefixes=tuple(dict.fromkeys(spec.prefixes)),
        segments=tuple(
            _ipv6(f"spec.segments[{number}]", one) for number, one in enumerate(spec.segments)
        ),
        max_prefixes=spec.max_prefixes,
        peers=optional_selector("spec.peers", spec.peers),
        addresses=_apart("spec.addresses", spec.addresses),
        sid=None if spec.sid is UNSET else _ipv6("spec.sid", spec.sid),
        labels=labels_of("metadata.labels", made.metadata.labels),
        origin=str(place),
        created=created_at(made.metadata),
    )
    return Parsed(VRFS.name, row.name, row)


def _pods(path: str, choice: _PodChoice) -> PodSelector:
    if choice.pod_selector is UNSET and choice.namespace_selector is UNSET:
        raise Wrong(path, "podSelector or namespaceSelector is required ({} selects everything)")
    return PodSelector(
        namespaces=optional_selector(f"{path}.namespaceSelector", choice.namespace_selector),
        pods=optional_selector(f"{path}.podSelector", choice.pod_selector),
    )


def _ipv6(path: str, address: IPv4Address | IPv6Address) -> IPv6Address:
    if not isinstance(address, IPv6Address):
        raise Wrong(path, f"expected an IPv6 address, got {address}")
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise Wrong(path, f"{address} is no address of one node")
    return address


def _apart(path: str, networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Networks of which none overlaps another: a pod gets one address of each family."""
    for number, one in enumerate(networks):
        for other in networks[:number]:
            if one.version == other.version and one.overlaps(other):
                raise Wrong(f"{path}[{number}]", f"{one} overlaps {other}")
    return networks


def _targets(path: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    for number, text in enumerate(texts):
        _check_pair(f"{path}[{number}]", text)
    return tuple(sorted(set(texts)))


def _distinguisher(text: str) -> str:
    if text == AUTO:
        return ""
    _check_pair("spec.routeDistinguisher", text)
    return text


def _check_pair(path: str, text: str) -> None:
    """Route targets and distinguishers: AS or IPv4 address, and a number (RFC 4360 3.1, 3.2)."""
    if not _TARGET.fullmatch(text):
        raise Wrong(path, f"expected a text as 65001:100, got {text!r}")
    first, _, last = text.partition(":")
    if "." in first:
        try:
            IPv4Address(first)
        except ValueError:
            raise Wrong(path, f"expected an IPv4 address before the colon, got {first!r}") from None
        fits = int(last) < _NUMBER2
    else:
        asn, number = int(first), int(last)
        fits = (asn < _AS2 and number < _AS4) or (asn < _AS4 and number < _NUMBER2)
    if not fits:
        raise Wrong(path, f"{text}: together they have more than 48 bits")


# --- CiliumSRv6VRF ----------------------------------------------------------------------------


class _CiliumChoice(Strict, frozen=True, kw_only=True):
    namespace_selector: SelectorField | UnsetType = UNSET
    pod_selector: SelectorField | UnsetType = UNSET
    endpoint_selector: SelectorField | UnsetType = UNSET


class _CiliumRule(Strict, frozen=True, kw_only=True):
    selectors: Annotated[tuple[_CiliumChoice, ...], msgspec.Meta(min_length=1)]
    destination_cidrs: Annotated[tuple[HostNetwork, ...], msgspec.Meta(min_length=1)] = (
        msgspec.field(name="destinationCIDRs")
    )


class _CiliumSpec(Strict, frozen=True, kw_only=True):
    vrf_id: int = msgspec.field(name="vrfID")
    import_route_target: str = ""
    export_route_target: str = ""
    rules: Annotated[tuple[_CiliumRule, ...], msgspec.Meta(min_length=1)]


class _Cilium(StrictObject, frozen=True, kw_only=True):
    spec: _CiliumSpec


def _cilium(place: Place, document: object) -> Parsed:
    made = convert(document, _Cilium)
    spec = made.spec
    imports = _cilium_target("spec.importRouteTarget", spec.import_route_target)
    exports = _cilium_target("spec.exportRouteTarget", spec.export_route_target)
    networks = [frozenset(rule.destination_cidrs) for rule in spec.rules]
    notes = []
    if len(set(networks)) > 1:
        text = "not supported yet: the pods of each rule send into the VRF to the networks of all"
        notes.append(place.finding(UNSUPPORTED, "spec.rules[].destinationCIDRs", text))
    row = VRF(
        place.key.name,
        selectors=tuple(
            _cilium_pods(f"spec.rules[{at}].selectors[{number}]", one)
            for at, rule in enumerate(spec.rules)
            for number, one in enumerate(rule.selectors)
        ),
        destinations=tuple(
            dict.fromkeys(one for rule in spec.rules for one in rule.destination_cidrs)
        ),
        imports=imports,
        exports=exports or imports,
        labels=labels_of("metadata.labels", made.metadata.labels),
        origin=str(place),
        created=created_at(made.metadata),
    )
    return Parsed(VRFS.name, row.name, row, tuple(notes))


def _cilium_target(path: str, text: str) -> tuple[str, ...]:
    if not text:
        return ()
    _check_pair(path, text)
    return (text,)


def _cilium_pods(path: str, choice: _CiliumChoice) -> PodSelector:
    if choice.pod_selector is not UNSET and choice.endpoint_selector is not UNSET:
        raise Wrong(path, "podSelector and endpointSelector exclude each other")
    pods = choice.endpoint_selector if choice.pod_selector is UNSET else choice.pod_selector
    if pods is UNSET and choice.namespace_selector is UNSET:
        raise Wrong(path, "a selector is required ({} selects everything)")
    return PodSelector(
        namespaces=optional_selector(f"{path}.namespaceSelector", choice.namespace_selector),
        pods=None if pods is UNSET else selector_of(f"{path}.podSelector", pods),
    )


CILIUM_FIELDS = (
    used("spec.importRouteTarget", "routes of routers that carry it are in the VRF"),
    used("spec.exportRouteTarget", "routes of the VRF's pods carry it; absent: as the import"),
    used("spec.rules[].selectors[].podSelector", "the pods of the VRF"),
    used("spec.rules[].selectors[].endpointSelector", "as podSelector, its later name"),
    used("spec.rules[].selectors[].namespaceSelector", "their namespaces"),
    used("spec.rules[].destinationCIDRs[]", "what these pods send into the VRF"),
    reported(
        "spec.rules[1:].destinationCIDRs[]",
        "a VRF whose rules differ in their networks has a finding M106: each counts for all pods",
    ),
    irrelevant("spec.vrfID", "the VRF gets a number that no other one of the cluster has"),
    irrelevant("metadata.namespace", "the kind is cluster-scoped, and Kubernetes clears the field"),
    irrelevant("status", "Meshgate does not read it"),
)

DEFINITION = Definition(
    _VRF,
    "vrfs",
    ("mgvrf",),
    (
        Column("Import", ".spec.import"),
        Column("Addresses", ".spec.addresses"),
        Column("Destinations", ".spec.destinations", wide=True),
    ),
)

KINDS = (
    Kind("meshgate.io/v1alpha1", "VRF", VRFS, _vrf, definition=DEFINITION),
    Kind(
        "cilium.io/v2alpha1",
        "CiliumSRv6VRF",
        VRFS,
        _cilium,
        fields=CILIUM_FIELDS,
        optional=True,
    ),
)
