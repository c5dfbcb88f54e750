"""The document of a BGPPeer as Structs: one declaration for manifests and for the API server."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, ClassVar, Literal

import msgspec

from mesh.core.strict import AnyAddress, AnyNetwork
from mesh.objects.definition import Column, Rule
from mesh.objects.schema import SelectorField, Strict, StrictObject

_ASN = Annotated[int, msgspec.Meta(ge=1, le=4294967295)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=4294967295)]
_Length = Annotated[int, msgspec.Meta(ge=0, le=128)]
#: Numbers of 16 and of 32 bits, and an IPv4 address, as parts of communities.
_N16 = r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_N32 = (
    r"([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}"
    r"|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]"
    r"|429496729[0-5])"
)
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}"
Standard = Annotated[str, msgspec.Meta(pattern=rf"^{_N16}:{_N16}$")]
Large = Annotated[str, msgspec.Meta(pattern=rf"^{_N32}:{_N32}:{_N32}$")]
#: Two octets of AS and four of number, four and two, or an address and two (RFC 4360, 5668).
Extended = Annotated[
    str,
    msgspec.Meta(pattern=rf"^(target|origin):({_N16}:{_N32}|{_N32}:{_N16}|{_IPV4}:{_N16})$"),
]
WellKnown = Literal["no-export", "no-advertise", "no-export-subconfed", "no-peer", "blackhole"]
#: A community of a received route, in the spelling of ``Route``.
Community = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^({_N16}:{_N16}|{_N32}:{_N32}:{_N32}|(target|origin):[0-9.]+:[0-9]+"
        r"|no-export|no-advertise|no-export-subconfed|no-peer|blackhole|graceful-shutdown)$"
    ),
]

#: Forms of a service's address.
_Form = Literal["LoadBalancer", "ClusterIP", "External"]
_Family = Literal["ipv4Unicast", "ipv6Unicast", "vpnv4", "vpnv6"]


class _Communities(Strict, frozen=True, kw_only=True):
    standard: tuple[Standard, ...] = ()
    large: tuple[Large, ...] = ()
    extended: tuple[Extended, ...] = ()
    well_known: tuple[WellKnown, ...] = ()


class Advertisement(Strict, frozen=True, kw_only=True):
    """One kind of prefix and its attributes."""

    rules: ClassVar = (
        Rule(
            "self.type != 'prefixes' || has(self.prefixes) && size(self.prefixes) > 0",
            "required with type prefixes",
            ".prefixes",
        ),
        Rule(
            "!has(self.addresses) || size(self.addresses) == 0 || self.type == 'services'",
            "only with type services",
            ".addresses",
        ),
    )
    type: str
    addresses: tuple[_Form, ...] = ()
    selector: SelectorField = msgspec.field(default_factory=SelectorField)
    communities: _Communities = msgspec.field(default_factory=_Communities)
    med: _U32 | None = None
    local_preference: _U32 | None = None
    prepend: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    prefixes: tuple[AnyNetwork, ...] = ()
    aggregate: tuple[AnyNetwork, ...] = ()


class PrefixField(Strict, frozen=True, kw_only=True):
    """A prefix of a rule, and the lengths that match."""

    rules: ClassVar = (
        Rule(
            "!isCIDR(self.prefix) || "
            "(!has(self.ge) || self.ge >= cidr(self.prefix).prefixLength() && "
            "self.ge <= (cidr(self.prefix).ip().family() == 4 ? 32 : 128)) && "
            "(!has(self.le) || self.le >= cidr(self.prefix).prefixLength() && "
            "self.le <= (cidr(self.prefix).ip().family() == 4 ? 32 : 128)) && "
            "(!has(self.ge) || !has(self.le) || self.ge <= self.le)",
            "expected the length of prefix <= ge <= le <= 32 (IPv4) or 128 (IPv6)",
        ),
    )
    prefix: AnyNetwork
    ge: _Length | None = None
    le: _Length | None = None


class _LabelField(Strict, frozen=True, kw_only=True):
    community: Community
    key: Annotated[
        str,
        msgspec.Meta(
            max_length=317,
            pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?"
            r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        ),
    ]
    value: Annotated[
        str,
        msgspec.Meta(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"),
    ] = ""


class RuleField(Strict, frozen=True, kw_only=True):
    """A rule about received routes."""

    accept: bool = True
    prefixes: Annotated[tuple[PrefixField, ...], msgspec.Meta(max_length=128)] = ()
    communities: tuple[Community, ...] = ()
    labels: tuple[_LabelField, ...] = ()


class _BFDField(Strict, frozen=True, kw_only=True):
    interval: Annotated[int, msgspec.Meta(ge=50, le=60000)] = 300
    multiplier: Annotated[int, msgspec.Meta(ge=1, le=255)] = 3
    multihop: bool = False
    passive: bool = False
    simple_password: Annotated[str, msgspec.Meta(max_length=16, pattern=r"^[!-~]*$")] = ""


_NAME = Annotated[
    str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]


class _SecretField(Strict, frozen=True, kw_only=True):
    name: _NAME
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=253)] = "password"


class _PasswordField(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "(has(self.file) && self.file != '') != has(self.secret)",
            "expected either file or secret",
        ),
    )
    file: str = ""
    secret: _SecretField | None = None


class _OverrideField(Strict, frozen=True, kw_only=True):
    node: _NAME
    local_asn: _ASN | None = msgspec.field(name="localASN", default=None)
    local_address: AnyAddress | None = None
    router_id: IPv4Address | None = msgspec.field(name="routerID", default=None)


#: An own address is of the router's family, as far as the router's is one at all.
_SAME = (
    "(has(self.address) ? !isIP(self.address) || "
    "ip(self.address).family() == ip({0}.localAddress).family() : "
    "!has(self.prefix) || !isCIDR(self.prefix) || "
    "cidr(self.prefix).ip().family() == ip({0}.localAddress).family())"
)


class PeerSpec(Strict, frozen=True, kw_only=True):
    """``spec``."""

    rules: ClassVar = (
        Rule("has(self.address) != has(self.prefix)", "expected either address or prefix"),
        Rule(
            "!has(self.prefix) || !isCIDR(self.prefix) || cidr(self.prefix).prefixLength() < "
            "(cidr(self.prefix).ip().family() == 4 ? 32 : 128)",
            "is one address, which spec.address is for",
            ".prefix",
        ),
        Rule(
            f"!has(self.localAddress) || !isIP(self.localAddress) || {_SAME.format('self')}",
            "is not of the family of the router",
            ".localAddress",
        ),
        Rule(
            "!has(self.overrides) || self.overrides.all(one, !has(one.localAddress) || "
            f"!isIP(one.localAddress) || {_SAME.format('one')})",
            "have a localAddress that is not of the family of the router",
            ".overrides",
        ),
        Rule(
            "!(has(self.prefix) && has(self.bfd))",
            "not together with prefix: its members are not known before",
            ".bfd",
        ),
        Rule(
            "!(has(self.multihop) && self.ttlSecurity)",
            "not together with ttlSecurity",
            ".multihop",
        ),
        Rule(
            "self.asn == self.localASN || !has(self.advertisements) || "
            "self.advertisements.all(one, !has(one.localPreference))",
            "localPreference is for a peer of our own AS only",
            ".advertisements",
        ),
    )
    node_selector: SelectorField
    address: AnyAddress | None = None
    prefix: AnyNetwork | None = None
    asn: _ASN
    local_asn: _ASN = msgspec.field(name="localASN")
    advertise: tuple[str, ...] = ()
    advertisements: Annotated[tuple[Advertisement, ...], msgspec.Meta(max_length=64)] = ()
    hold_seconds: Annotated[int, msgspec.Meta(ge=3, le=65535)] = 90
    graceful_restart_seconds: Annotated[int, msgspec.Meta(ge=0, le=4095)] = 120
    graceful_restart_vpn: bool = msgspec.field(name="gracefulRestartVPN", default=False)
    families: Annotated[tuple[_Family, ...], msgspec.Meta(min_length=1)] = (
        "ipv4Unicast",
        "ipv6Unicast",
    )
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 179
    passive: bool = False
    password: _PasswordField | None = None
    ttl_security: bool = False
    multihop: Annotated[int, msgspec.Meta(ge=1, le=255)] | None = None
    local_address: AnyAddress | None = None
    imports: Annotated[tuple[RuleField, ...], msgspec.Meta(max_length=64)] = msgspec.field(
        name="import", default=()
    )
    maximum_prefixes: Annotated[int, msgspec.Meta(ge=1, le=4294967295)] | None = None
    bfd: _BFDField | None = None
    accept_sids: bool = msgspec.field(name="acceptSIDs", default=False)
    overrides: tuple[_OverrideField, ...] = ()


class Peer(StrictObject, frozen=True, kw_only=True):
    """The whole object."""

    spec: PeerSpec


COLUMNS = (
    Column("Address", ".spec.address"),
    Column("Prefix", ".spec.prefix", wide=True),
    Column("ASN", ".spec.asn", "integer"),
    Column("Advertise", ".spec.advertise", wide=True),
)
