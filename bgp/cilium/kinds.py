"""Cilium's BGP objects: documents -> rows.

A field that is not known is left alone: an object of a later Cilium keeps its sessions. What a
field that is not served means for traffic is said in ``fields.py``, or by ``derived.py``.

Source: cilium/pkg/k8s/apis/cilium.io/v2/bgp_*_types.go.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated

import msgspec

from bgp.cilium import fields, rows
from bgp.spec import Large
from mesh.core.strict import AnyAddress, Wrong, convert
from mesh.objects.schema import (
    Kind,
    Loose,
    Meta,
    Parsed,
    Place,
    SelectorField,
    labels_of,
    selector_of,
)

_ASN = Annotated[int, msgspec.Meta(ge=0, le=4294967295)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Standard = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,10}$|^[0-9]{1,5}:[0-9]{1,5}$")]
#: Well-known communities that have another spelling here: as numbers (RFC 1997, IANA's registry).
_NUMBERS = {
    "internet": "0:0",
    "planned-shut": "65535:0",
    "accept-own": "65535:1",
    "route-filter-translated-v4": "65535:2",
    "route-filter-v4": "65535:3",
    "route-filter-translated-v6": "65535:4",
    "route-filter-v6": "65535:5",
    "llgr-stale": "65535:6",
    "no-llgr": "65535:7",
}
_NAMES = ("blackhole", "no-export", "no-advertise", "no-export-subconfed", "no-peer")
_OCTETS = 65535
_U32 = 4294967295


class _Reference(Loose, frozen=True):
    name: str


class _Discovery(Loose, frozen=True):
    mode: str = ""


class _Peer(Loose, frozen=True):
    name: str
    peer_address: AnyAddress | None = None
    peer_asn: _ASN | None = msgspec.field(name="peerASN", default=None)
    auto_discovery: _Discovery | None = None
    peer_config_ref: _Reference | None = None


class _Instance(Loose, frozen=True):
    name: str
    local_asn: _ASN | None = msgspec.field(name="localASN", default=None)
    peers: tuple[_Peer, ...] | None = None


class _ClusterSpec(Loose, frozen=True):
    bgp_instances: tuple[_Instance, ...]
    node_selector: SelectorField | None = None


class _Cluster(Loose, frozen=True):
    metadata: Meta
    spec: _ClusterSpec


class _Transport(Loose, frozen=True):
    peer_port: _Port | None = None


class _Timers(Loose, frozen=True):
    hold_time_seconds: Annotated[int, msgspec.Meta(ge=3, le=65535)] | None = None


class _Restart(Loose, frozen=True):
    enabled: bool = False
    restart_time_seconds: Annotated[int, msgspec.Meta(ge=1, le=4095)] | None = None


class _Family(Loose, frozen=True):
    afi: str
    safi: str
    advertisements: SelectorField | None = None


class _ConfigSpec(Loose, frozen=True):
    transport: _Transport | None = None
    timers: _Timers | None = None
    auth_secret_ref: str | None = None
    graceful_restart: _Restart | None = None
    ebgp_multihop: Annotated[int, msgspec.Meta(ge=1, le=255)] | None = None
    families: tuple[_Family, ...] | None = None


class _Config(Loose, frozen=True):
    metadata: Meta
    spec: _ConfigSpec


class _Service(Loose, frozen=True):
    addresses: tuple[str, ...] = ()
    length4: Annotated[int, msgspec.Meta(ge=0, le=31)] | None = msgspec.field(
        name="aggregationLengthIPv4", default=None
    )
    length6: Annotated[int, msgspec.Meta(ge=0, le=127)] | None = msgspec.field(
        name="aggregationLengthIPv6", default=None
    )


class _Communities(Loose, frozen=True):
    standard: tuple[_Standard, ...] | None = None
    well_known: tuple[str, ...] | None = None
    large: tuple[Large, ...] | None = None


class _Attributes(Loose, frozen=True):
    communities: _Communities | None = None
    local_preference: Annotated[int, msgspec.Meta(ge=0, le=_U32)] | None = None


class _Entry(Loose, frozen=True):
    advertisement_type: str
    selector: SelectorField | None = None
    service: _Service | None = None
    attributes: _Attributes | None = None


class _AdvertisementSpec(Loose, frozen=True):
    advertisements: tuple[_Entry, ...]


class _Advertisement(Loose, frozen=True):
    metadata: Meta
    spec: _AdvertisementSpec


class _NodePeer(Loose, frozen=True):
    name: str
    local_address: AnyAddress | None = None


class _NodeInstance(Loose, frozen=True):
    name: str
    router_id: IPv4Address | None = msgspec.field(name="routerID", default=None)
    local_asn: _ASN | None = msgspec.field(name="localASN", default=None)
    peers: tuple[_NodePeer, ...] | None = None


class _OverrideSpec(Loose, frozen=True):
    bgp_instances: tuple[_NodeInstance, ...]


class _Override(Loose, frozen=True):
    metadata: Meta
    spec: _OverrideSpec


def _cluster(place: Place, document: object) -> Parsed:
    made = convert(document, _Cluster)
    spec = made.spec
    instances = []
    for number, one in enumerate(spec.bgp_instances):
        peers = tuple(
            rows.CiliumPeer(
                peer.name,
                peer.peer_address,
                peer.peer_asn or 0,
                peer.peer_config_ref.name if peer.peer_config_ref else "",
                peer.auto_discovery is not None,
            )
            for peer in one.peers or ()
        )
        path = f"spec.bgpInstances[{number}]"
        _once(f"{path}.peers", [peer.name for peer in peers])
        instances.append(rows.CiliumInstance(one.name, one.local_asn or None, peers))
    _once("spec.bgpInstances", [one.name for one in instances])
    row = rows.CiliumCluster(
        place.key.name,
        selector_of("spec.nodeSelector", spec.node_selector or SelectorField()),
        tuple(instances),
        labels_of("metadata.labels", made.metadata.labels),
        str(place),
    )
    return Parsed(rows.CLUSTERS.name, row.name, row)


def _once(path: str, names: list[str]) -> None:
    for number, name in enumerate(names):
        if names.index(name) != number:
            raise Wrong(f"{path}[{number}].name", f"{name!r} is the name of an entry before it")


def _config(place: Place, document: object) -> Parsed:
    spec = convert(document, _Config).spec
    transport, timers = spec.transport or _Transport(), spec.timers or _Timers()
    restart, usual = spec.graceful_restart or _Restart(), rows.CiliumPeerConfig()
    found = tuple(
        rows.CiliumFamily(
            one.afi,
            one.safi,
            None
            if one.advertisements is None
            else selector_of(f"spec.families[{n}].advertisements", one.advertisements),
        )
        for n, one in enumerate(spec.families or ())
    )
    row = rows.CiliumPeerConfig(
        place.key.name,
        found or usual.families,
        transport.peer_port or usual.port,
        timers.hold_time_seconds or usual.hold_s,
        (restart.restart_time_seconds or 120) if restart.enabled else 0,
        spec.ebgp_multihop or usual.multihop,
        spec.auth_secret_ref or "",
        str(place),
    )
    return Parsed(rows.PEER_CONFIGS.name, row.name, row)


def _advertisement(place: Place, document: object) -> Parsed:
    made = convert(document, _Advertisement)
    row = rows.CiliumAdvertisement(
        place.key.name,
        tuple(
            _entry(f"spec.advertisements[{number}]", one)
            for number, one in enumerate(made.spec.advertisements)
        ),
        labels_of("metadata.labels", made.metadata.labels),
        str(place),
    )
    return Parsed(rows.ADVERTISEMENTS.name, row.name, row)


def _entry(path: str, one: _Entry) -> rows.CiliumEntry:
    service, attributes = one.service or _Service(), one.attributes or _Attributes()
    said = attributes.communities or _Communities()
    place = f"{path}.attributes.communities"
    standard = [
        _standard(f"{place}.standard[{number}]", text)
        for number, text in enumerate(said.standard or ())
    ]
    standard += [
        _well_known(f"{place}.wellKnown[{number}]", text)
        for number, text in enumerate(said.well_known or ())
    ]
    return rows.CiliumEntry(
        one.advertisement_type,
        None if one.selector is None else selector_of(f"{path}.selector", one.selector),
        tuple(dict.fromkeys(service.addresses)),
        (service.length4, service.length6),
        tuple(sorted(set(standard))),
        tuple(sorted(set(said.large or ()))),
        attributes.local_preference,
    )


def _standard(path: str, text: str) -> str:
    """A standard community, which may be written as one number of 32 bits (RFC 1997)."""
    high, colon, low = text.partition(":")
    parts = (int(high), int(low)) if colon else divmod(int(text), _OCTETS + 1)
    if max(parts) > _OCTETS:
        raise Wrong(path, f"expected two numbers of 16 bits, or one of 32, got {text!r}")
    return f"{parts[0]}:{parts[1]}"


def _well_known(path: str, text: str) -> str:
    if text not in _NAMES and text not in _NUMBERS:
        raise Wrong(path, f"not a well-known community: {text!r}")
    return _NUMBERS.get(text, text)


def _override(place: Place, document: object) -> Parsed:
    spec = convert(document, _Override).spec
    instances = tuple(
        rows.CiliumNodeInstance(
            one.name,
            one.router_id,
            one.local_asn or None,
            tuple(
                (peer.name, peer.local_address)
                for peer in one.peers or ()
                if peer.local_address is not None
            ),
        )
        for one in spec.bgp_instances
    )
    row = rows.CiliumOverride(place.key.name, instances, str(place))
    return Parsed(rows.OVERRIDES.name, row.node, row)


_SORTS = (
    ("CiliumBGPClusterConfig", rows.CLUSTERS, _cluster, fields.CLUSTER),
    ("CiliumBGPPeerConfig", rows.PEER_CONFIGS, _config, fields.PEER_CONFIG),
    ("CiliumBGPAdvertisement", rows.ADVERTISEMENTS, _advertisement, fields.ADVERTISEMENT),
    ("CiliumBGPNodeConfigOverride", rows.OVERRIDES, _override, fields.OVERRIDE),
)
#: An API server serves each object in both versions; the former one is read of a folder only.
KINDS = tuple(
    Kind(
        f"cilium.io/{version}",
        name,
        noun,
        parse,
        fields=listed,
        former=("CiliumBGPPeeringPolicy",),
        optional=True,
        mirrored=version != "v2",
    )
    for version in ("v2", "v2alpha1")
    for name, noun, parse, listed in _SORTS
)
