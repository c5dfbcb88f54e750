"""One route on one session: pure rows, that bgp/ and its features share.

Spelling of communities is that of ExaBGP and of ``meshgate route list``: standard ``65001:100``, or
the name of a well-known one (RFC 1997, ``no-export``); large ``65001:1:2`` (RFC 8092); extended
``target:65001:100`` and ``origin:65001:100`` (RFC 4360).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address

from mesh.core.model import IP, Network

#: What names a session: the router's address, or the range of which its members are.
PeerKey = IP | Network


class Family(StrEnum):
    """An address family of a session, as ExaBGP spells it."""

    IPV4 = "ipv4 unicast"
    IPV6 = "ipv6 unicast"
    VPNV4 = "ipv4 mpls-vpn"
    VPNV6 = "ipv6 mpls-vpn"

    @property
    def version(self) -> int:
        """IP version of its prefixes."""
        return 4 if self in (Family.IPV4, Family.VPNV4) else 6

    @property
    def vpn(self) -> bool:
        """Whether its prefixes have a route distinguisher (RFC 4364, RFC 4659)."""
        return self in (Family.VPNV4, Family.VPNV6)


def family_of(prefix: Network, rd: str = "") -> Family:
    """The family in which a prefix is announced."""
    if rd:
        return Family.VPNV4 if prefix.version == 4 else Family.VPNV6
    return Family.IPV4 if prefix.version == 4 else Family.IPV6


#: Lengths in bits: locator block, locator node, function, argument, transposed, and the offset of
#: what is transposed (RFC 9252 3.2.1).
Structure = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True, order=True)
class ServiceSID:
    """The SRv6 SID of a VPN route, and its structure where it is known (RFC 9252 3)."""

    sid: IPv6Address
    behaviour: int
    structure: Structure | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """What is announced for one prefix; communities are in sorted order.

    ``prepend`` counts how often our AS stands in the path beyond once. ``rd`` is empty for unicast.
    """

    prefix: Network
    next_hop: IP
    communities: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    med: int | None = None
    local_preference: int | None = None
    prepend: int = 0
    rd: str = ""
    sid: ServiceSID | None = None

    @property
    def family(self) -> Family:
        """The family in which it is announced."""
        return family_of(self.prefix, self.rd)


@dataclass(frozen=True, slots=True)
class RouteKey:
    """A prefix on one session; ``peer`` is the session's address, or the range of a dynamic one."""

    peer: PeerKey
    prefix: Network
    rd: str = ""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """A table of 100,000 rows asks each key for its hash ten times a change."""
        object.__setattr__(self, "_hash", hash((self.peer, self.prefix, self.rd)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        vpn = f"{self.rd} " if self.rd else ""
        return f"{vpn}{self.prefix} to {self.peer}"
