"""BGPPeer: documents -> rows, strictly.

An unknown or wrong field refuses the whole object by path. The Structs, which the API server's
schema comes from as well, are in ``spec.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

from bgp.route import Family, PeerKey
from bgp.spec import COLUMNS, Advertisement, Peer, PeerSpec, PrefixField, RuleField
from mesh.core.model import IP, Labels, Network, Selector
from mesh.core.strict import Misfit, Wrong, convert
from mesh.objects.definition import Definition
from mesh.objects.schema import Kind, Parsed, Place, labels_of, selector_of
from mesh.objects.tables import ObjectNoun

EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class Advertise:
    """What a session announces of one kind, and with which attributes.

    ``kind`` is a word of a room (``podCIDRs``). Prefixes of ``prefixes`` are announced by
    themselves when the kind is ``prefixes``; else only those of the kind's that lie within one.
    ``aggregates`` stand for the announced prefixes that lie within them, and so does the prefix
    with one of ``lengths`` (IPv4, IPv6). ``addresses`` are the forms that count of a kind that has
    several, as services have; ``families`` limit the entry to some of the session's.
    """

    kind: str
    selector: Selector = EVERYTHING
    communities: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    med: int | None = None
    local_preference: int | None = None
    prepend: int = 0
    prefixes: tuple[Network, ...] = ()
    aggregates: tuple[Network, ...] = ()
    addresses: tuple[str, ...] = ()  # empty: those for clients outside
    lengths: tuple[int | None, int | None] = (None, None)
    families: tuple[Family, ...] = ()  # empty: all


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """Prefixes within ``network`` whose length is ``ge`` to ``le``."""

    network: Network
    ge: int
    le: int


@dataclass(frozen=True, slots=True)
class ImportRule:
    """Whether a received route is taken; of several rules the first that matches decides.

    A rule matches a route of one of ``prefixes`` that has one of ``communities``; an empty list
    matches every route. ``labels`` are (community, key, value).
    """

    accept: bool
    prefixes: tuple[PrefixMatch, ...] = ()
    communities: tuple[str, ...] = ()
    labels: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class BFD:
    """Bidirectional forwarding detection on the way to a peer (RFC 5880, 5881, 5883).

    ``passive``: the router waits for our first packet. ``password`` is that of RFC 5880 6.7.2,
    which everybody on the way can read.
    """

    interval_ms: int = 300
    multiplier: int = 3
    multihop: bool = False
    passive: bool = False
    password: str = ""


@dataclass(frozen=True, slots=True)
class Password:
    """Where the TCP MD5 key stands (RFC 2385): in a file, or in a Secret."""

    file: str = ""
    secret: str = ""
    key: str = "password"

    def __str__(self) -> str:
        return self.file or f"Secret {self.secret}, key {self.key}"


@dataclass(frozen=True, slots=True)
class Override:
    """What is different on one node."""

    node: str
    local_asn: int | None = None
    local_address: IP | None = None
    router_id: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class BGPPeer:
    """One BGPPeer object, parsed; ``address`` is a router's, or the range of dynamic ones."""

    name: str
    nodes: Selector
    address: PeerKey
    asn: int
    local_asn: int
    advertise: tuple[Advertise, ...]
    hold_s: int = 90
    graceful_restart_s: int = 120  # 0: none
    origin: str = ""
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    port: int = 179
    passive: bool = False
    password: Password | None = None
    ttl_security: bool = False
    multihop: int = 0  # hops to the router at most; 0: not said
    local_address: IP | None = None
    graceful_vpn: bool = False  # VPN families in the graceful restart capability, too
    imports: tuple[ImportRule, ...] = ()
    max_prefixes: int = 0  # 0: the default of the importer
    bfd: BFD | None = None
    accept_sids: bool = False
    overrides: tuple[Override, ...] = ()
    labels: Labels = ()
    #: Fields that stand in another object, or under another name: field, object, its own field.
    fields: tuple[tuple[str, str, str], ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Words of ``advertise``, each once."""
        return tuple(dict.fromkeys(one.kind for one in self.advertise))

    def place(self, field: str) -> tuple[str, str]:
        """Object and field of what is a field of a BGPPeer; words after the field stay."""
        return place_of(self.fields, self.origin or f"BGPPeer/{self.name}", field)


def place_of(fields: tuple[tuple[str, str, str], ...], origin: str, field: str) -> tuple[str, str]:
    """Object and field; ``fields`` are as in ``BGPPeer``."""
    name, _, rest = field.partition(" ")
    for own, other, its in fields:
        if own == name:
            return other, f"{its} {rest}".rstrip()
    return origin, field


PEERS: ObjectNoun[str, BGPPeer] = ObjectNoun("peer")

_FAMILIES = {
    "ipv4Unicast": Family.IPV4,
    "ipv6Unicast": Family.IPV6,
    "vpnv4": Family.VPNV4,
    "vpnv6": Family.VPNV6,
}
#: The word of ``advertise`` whose prefixes the object itself names.
NAMED = "prefixes"
#: The word whose prefixes have several forms.
_WITH_FORMS = "services"


def _peer(place: Place, document: object, advertised: Collection[str]) -> Parsed:
    made = convert(document, Peer)
    spec = made.spec
    row = BGPPeer(
        place.key.name,
        nodes=selector_of("spec.nodeSelector", spec.node_selector),
        address=_address(spec),
        asn=spec.asn,
        local_asn=spec.local_asn,
        advertise=_advertise(spec, advertised),
        hold_s=spec.hold_seconds,
        graceful_restart_s=spec.graceful_restart_seconds,
        origin=str(place),
        families=tuple(family for word, family in _FAMILIES.items() if word in spec.families),
        port=spec.port,
        passive=spec.passive or spec.prefix is not None,
        password=_password(spec),
        ttl_security=spec.ttl_security,
        multihop=spec.multihop or 0,
        local_address=spec.local_address,
        graceful_vpn=spec.graceful_restart_vpn,
        imports=tuple(_rule(f"spec.import[{n}]", one) for n, one in enumerate(spec.imports)),
        max_prefixes=spec.maximum_prefixes or 0,
        bfd=_bfd(spec),
        accept_sids=spec.accept_sids,
        overrides=_overrides(spec),
        labels=labels_of("metadata.labels", made.metadata.labels),
    )
    _check_versions(row)
    return Parsed(PEERS.name, row.name, row)


def _address(spec: PeerSpec) -> PeerKey:
    if (spec.address is None) == (spec.prefix is None):
        raise Wrong("spec", "expected either address or prefix")
    if spec.multihop is not None and spec.ttl_security:
        raise Wrong("spec.multihop", "not together with ttlSecurity")
    if spec.address is not None:
        return spec.address
    prefix = spec.prefix
    if prefix is None or prefix.prefixlen == prefix.max_prefixlen:
        raise Wrong("spec.prefix", f"{prefix} is one address, which spec.address is for")
    return prefix


def _check_versions(peer: BGPPeer) -> None:
    """A session's own address is of the router's family."""
    places = [("spec.localAddress", peer.local_address)]
    places += [
        (f"spec.overrides[{number}].localAddress", one.local_address)
        for number, one in enumerate(peer.overrides)
    ]
    for path, address in places:
        if address is not None and address.version != peer.address.version:
            raise Wrong(path, f"{address} is not of the family of {peer.address}")


def _password(spec: PeerSpec) -> Password | None:
    said = spec.password
    if said is None:
        return None
    if (not said.file) == (said.secret is None):
        raise Wrong("spec.password", "expected either file or secret")
    if said.secret is None:
        return Password(file=said.file)
    one = said.secret
    return Password(secret=one.name, key=one.key)


def _bfd(spec: PeerSpec) -> BFD | None:
    said = spec.bfd
    if said is None:
        return None
    if spec.prefix is not None:
        raise Wrong("spec.bfd", "not together with prefix: its members are not known before")
    return BFD(said.interval, said.multiplier, said.multihop, said.passive, said.simple_password)


def _overrides(spec: PeerSpec) -> tuple[Override, ...]:
    """The first entry of a node counts."""
    return tuple(
        Override(one.node, one.local_asn, one.local_address, one.router_id)
        for one in spec.overrides
    )


def _advertise(spec: PeerSpec, advertised: Collection[str]) -> tuple[Advertise, ...]:
    """Words first, sorted; then those with attributes, in the order of the object."""
    _check_words("spec.advertise[{}]", spec.advertise, advertised)
    kinds = [one.type for one in spec.advertisements]
    _check_words("spec.advertisements[{}].type", kinds, advertised)
    words = [Advertise(word) for word in sorted(set(spec.advertise))]
    for number, one in enumerate(spec.advertisements):
        words.append(_advertisement(f"spec.advertisements[{number}]", one, spec))
    return tuple(words)


def _check_words(path: str, words: Collection[str], advertised: Collection[str]) -> None:
    for number, word in enumerate(words):
        if word not in advertised:
            raise Misfit(path.format(number), f"invalid enum value {word!r}", word)


def _advertisement(path: str, one: Advertisement, spec: PeerSpec) -> Advertise:
    if one.type == NAMED and not one.prefixes:
        raise Wrong(f"{path}.prefixes", "required with type prefixes")
    if one.addresses and one.type != _WITH_FORMS:
        raise Wrong(f"{path}.addresses", f"only with type {_WITH_FORMS}")
    if one.local_preference is not None and spec.asn != spec.local_asn:
        text = "is for a peer of our own AS only (RFC 4271 5.1.5)"
        raise Wrong(f"{path}.localPreference", text)
    said = one.communities
    return Advertise(
        one.type,
        selector_of(f"{path}.selector", one.selector),
        tuple(sorted({*said.standard, *said.well_known})),
        tuple(sorted(set(said.large))),
        tuple(sorted(set(said.extended))),
        one.med,
        one.local_preference,
        one.prepend,
        tuple(dict.fromkeys(one.prefixes)),
        tuple(dict.fromkeys(one.aggregate)),
        tuple(dict.fromkeys(one.addresses)),
    )


def _rule(path: str, one: RuleField) -> ImportRule:
    return ImportRule(
        one.accept,
        tuple(_prefix(f"{path}.prefixes[{n}]", match) for n, match in enumerate(one.prefixes)),
        tuple(sorted(set(one.communities))),
        tuple((label.community, label.key, label.value) for label in one.labels),
    )


def _prefix(path: str, one: PrefixField) -> PrefixMatch:
    """Lengths as in a router's prefix list: without ``ge`` and ``le`` exactly the prefix."""
    length, longest = one.prefix.prefixlen, one.prefix.max_prefixlen
    least = length if one.ge is None else one.ge
    most = one.le if one.le is not None else length if one.ge is None else longest
    if not length <= least <= most <= longest:
        text = f"expected {length} <= ge <= le <= {longest}, got ge {least}, le {most}"
        raise Wrong(path, text)
    return PrefixMatch(one.prefix, least, most)


def kinds(advertised: Collection[str]) -> tuple[Kind, ...]:
    """The kind; ``advertised`` are the words that ``spec.advertise`` may have."""
    every = (*advertised, NAMED)
    parse = partial(_peer, advertised=every)
    words = {"spec.advertise[]": tuple(advertised), "spec.advertisements[].type": every}
    definition = Definition(Peer, "bgppeers", ("bgpp",), COLUMNS, words)
    return (Kind("meshgate.io/v1alpha1", "BGPPeer", PEERS, parse, definition=definition),)
