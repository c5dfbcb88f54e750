"""BGPPeers from Cilium's BGP objects: pure functions.

Rules: each peer of each instance is one BGPPeer, named ``cluster/instance/peer``; a family of it
announces what the advertisements have that the family's selector finds, and a family without one
announces nothing; without selector an entry selects no service; overlapping entries are united as
those of a BGPPeer are (communities of all, the highest local preference). What is not served is a
finding that names the object and its own field, and changes nothing else.

Source: cilium/Documentation/network/bgp-control-plane/bgp-control-plane-configuration.rst.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bgp.cilium import findings as codes
from bgp.cilium.rows import (
    CiliumAdvertisement,
    CiliumCluster,
    CiliumEntry,
    CiliumFamily,
    CiliumInstance,
    CiliumOverride,
    CiliumPeer,
    CiliumPeerConfig,
)
from bgp.peer import EVERYTHING, Advertise, BGPPeer, Override, Password
from bgp.route import Family
from mesh.core.findings import Code
from mesh.core.model import IP, Finding
from mesh.identity.selectors import matches

#: Families that are served, as Cilium spells them.
FAMILIES = {("ipv4", "unicast"): Family.IPV4, ("ipv6", "unicast"): Family.IPV6}
#: Forms of a service's address, and how ``Offer`` spells them.
FORMS = {"LoadBalancerIP": "LoadBalancer", "ClusterIP": "ClusterIP", "ExternalIP": "External"}
_SERVICE = "Service"


@dataclass(frozen=True, slots=True)
class CiliumObjects:
    """Every object, by name; of overrides by node. ``words`` are those of ``advertise`` by type."""

    clusters: Mapping[str, CiliumCluster]
    configs: Mapping[str, CiliumPeerConfig]
    advertisements: Mapping[str, CiliumAdvertisement]
    overrides: Mapping[str, CiliumOverride]
    words: Mapping[str, str]


@dataclass(slots=True)
class DerivedPeers:
    """BGPPeers by name, and what is not served."""

    rows: dict[str, BGPPeer] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Spot:
    """A peer in its object."""

    cluster: CiliumCluster
    instance: CiliumInstance
    peer: CiliumPeer
    path: str  # of the instance
    number: int

    def at(self, name: str) -> str:
        return f"{self.path}.peers[{self.number}].{name}"

    def finding(self, code: Code, name: str, text: str) -> Finding:
        about = (f"peer/{self.peer.address}",) if self.peer.address else ()
        path = name if name.startswith("spec.") else self.at(name)
        said = f"peer {self.instance.name}/{self.peer.name}: {text}"
        return Finding(code, self.cluster.origin, path, said, about)


def derived(objects: CiliumObjects) -> DerivedPeers:
    """The BGPPeers of all objects."""
    made = DerivedPeers()
    asked: list[CiliumFamily] = []
    named: dict[str, CiliumPeerConfig] = {}
    for spot in _spots(objects.clusters.values()):
        config = _config(spot, objects.configs)
        if isinstance(config, Finding):
            made.findings.append(config)
            continue
        asked += config.families
        named[config.name] = config
        peer = _peer(spot, config, objects)
        if isinstance(peer, BGPPeer):
            made.rows[peer.name] = peer
        elif peer is not None:
            made.findings.append(peer)
    for config in named.values():
        made.findings += _unserved_families(config)
    for one in objects.advertisements.values():
        made.findings += _of_advertisement(one, asked, objects)
    made.findings += _of_overrides(objects)
    return made


def _spots(clusters: Iterable[CiliumCluster]) -> Iterator[_Spot]:
    for cluster in sorted(clusters, key=lambda one: one.name):
        for place, instance in enumerate(cluster.instances):
            path = f"spec.bgpInstances[{place}]"
            for number, peer in enumerate(instance.peers):
                yield _Spot(cluster, instance, peer, path, number)


def _config(spot: _Spot, configs: Mapping[str, CiliumPeerConfig]) -> CiliumPeerConfig | Finding:
    """What the peer's reference names; the defaults where it has none."""
    name = spot.peer.config
    if not name:
        return CiliumPeerConfig()
    text = f"CiliumBGPPeerConfig {name} is absent (MissingPeerConfigs): no session"
    missing = spot.finding(codes.MISSING_CONFIG, "peerConfigRef.name", text)
    return configs.get(name, missing)


def _peer(
    spot: _Spot, config: CiliumPeerConfig, objects: CiliumObjects
) -> BGPPeer | Finding | None:
    """The session; None: a family that is served is lacking, about which a finding is there."""
    peer, instance = spot.peer, spot.instance
    if peer.address is None:
        name = "autoDiscovery" if peer.discovers else "peerAddress"
        text = "autoDiscovery is not served" if peer.discovers else "no peerAddress"
        return spot.finding(codes.NO_ROUTER, name, f"{text}: no session")
    if instance.asn is None:
        path = f"{spot.path}.localASN"
        return spot.finding(codes.NO_AS, path, "localASN is absent: no session")
    if not peer.asn:
        return spot.finding(codes.NO_AS, "peerASN", "any AS is not served: no session")
    served = tuple(dict.fromkeys(f for one in config.families if (f := _served(one))))
    if not served:
        return None
    return BGPPeer(
        f"{spot.cluster.name}/{instance.name}/{peer.name}",
        spot.cluster.nodes,
        peer.address,
        peer.asn,
        instance.asn,
        tuple(dict.fromkeys(_advertise(config, objects))),
        hold_s=config.hold_s,
        graceful_restart_s=config.restart_s,
        origin=spot.cluster.origin,
        families=served,
        port=config.port,
        password=Password(secret=config.secret) if config.secret else None,
        multihop=config.multihop if config.multihop > 1 else 0,
        overrides=tuple(_overrides(instance, peer, peer.address, objects.overrides)),
        labels=spot.cluster.labels,
        fields=_fields(spot, config),
    )


def _fields(spot: _Spot, config: CiliumPeerConfig) -> tuple[tuple[str, str, str], ...]:
    """Where the fields of a BGPPeer stand."""
    cluster = spot.cluster.origin
    at = config.origin or cluster
    families = "spec.families" if config.origin else spot.at("peerConfigRef")
    return (
        ("spec.address", cluster, spot.at("peerAddress")),
        ("spec.asn", cluster, spot.at("peerASN")),
        ("spec.localASN", cluster, f"{spot.path}.localASN"),
        ("spec.password", at, "spec.authSecretRef"),
        ("spec.families", at, families),
        ("spec.advertise", at, families),
        ("spec.advertisements", at, families),
    )


def _served(one: CiliumFamily) -> Family | None:
    return FAMILIES.get((one.afi, one.safi))


def _advertise(config: CiliumPeerConfig, objects: CiliumObjects) -> Iterator[Advertise]:
    for one in config.families:
        family = _served(one)
        if family is None or one.advertisements is None:
            continue
        for _, advertisement in sorted(objects.advertisements.items()):
            if matches(one.advertisements, dict(advertisement.labels)):
                for entry in advertisement.entries:
                    yield from _entry(entry, family, objects.words)


def _entry(entry: CiliumEntry, family: Family, words: Mapping[str, str]) -> Iterator[Advertise]:
    """What an entry announces in a family."""
    word, service = words.get(entry.type), entry.type == _SERVICE
    forms = tuple(FORMS[one] for one in entry.addresses if one in FORMS)
    if word is None or (service and (entry.selector is None or not forms)):
        return
    yield Advertise(
        word,
        entry.selector if service and entry.selector else EVERYTHING,
        entry.communities,
        entry.large,
        local_preference=entry.local_preference,
        addresses=forms if service else (),
        lengths=entry.lengths if service else (None, None),
        families=(family,),
    )


def _overrides(
    instance: CiliumInstance,
    peer: CiliumPeer,
    address: IP,
    overrides: Mapping[str, CiliumOverride],
) -> Iterator[Override]:
    for node, override in sorted(overrides.items()):
        for one in override.instances:
            if one.name != instance.name:
                continue
            local = dict(one.addresses).get(peer.name)
            if local is not None and local.version != address.version:
                local = None
            if local or one.asn or one.router_id:
                yield Override(node, one.asn, local, one.router_id)
                break


# --- Findings -----------------------------------------------------------------------------------


def _unserved_families(config: CiliumPeerConfig) -> Iterator[Finding]:
    for number, one in enumerate(config.families):
        if _served(one) is None:
            text = f"{one.afi} {one.safi} is not served, and left out"
            path = f"spec.families[{number}]"
            yield Finding(codes.FAMILY_NOT_SERVED, config.origin, path, text)


def _of_advertisement(
    one: CiliumAdvertisement, asked: Iterable[CiliumFamily], objects: CiliumObjects
) -> Iterator[Finding]:
    labels = dict(one.labels)
    if not any(f.advertisements is not None and matches(f.advertisements, labels) for f in asked):
        text = "no family of a peer asks for its labels: it announces nothing"
        yield Finding(codes.UNUSED_ADVERTISEMENT, one.origin, "metadata.labels", text)
    for number, entry in enumerate(one.entries):
        path = f"spec.advertisements[{number}]"
        if entry.type not in objects.words:
            text = f"{entry.type} is not served: the entry announces nothing"
            at = f"{path}.advertisementType"
            yield Finding(codes.TYPE_NOT_SERVED, one.origin, at, text)
        elif entry.type == _SERVICE and entry.selector is None:
            text = "absent, which selects no service: the entry announces nothing"
            yield Finding(codes.NO_SELECTOR, one.origin, f"{path}.selector", text)


def _of_overrides(objects: CiliumObjects) -> Iterator[Finding]:
    known: dict[str, dict[str, CiliumPeer]] = {}
    for spot in _spots(objects.clusters.values()):
        known.setdefault(spot.instance.name, {})[spot.peer.name] = spot.peer
    for node, override in sorted(objects.overrides.items()):
        about = (f"node/{node}",)
        for number, one in enumerate(override.instances):
            path = f"spec.bgpInstances[{number}]"
            if one.name not in known:
                text = f"no CiliumBGPClusterConfig has an instance {one.name}"
                at = f"{path}.name"
                yield Finding(codes.UNKNOWN_OVERRIDE, override.origin, at, text, about)
                continue
            for name, address in one.addresses:
                peer = known[one.name].get(name)
                if peer is None:
                    text = f"instance {one.name} has no peer {name}"
                elif peer.address is not None and peer.address.version != address.version:
                    text = f"{address} is not of the family of {peer.address}: it is not used"
                else:
                    continue
                at = f"{path}.peers {name}"
                yield Finding(codes.UNKNOWN_OVERRIDE, override.origin, at, text, about)
