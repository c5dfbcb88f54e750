"""Which BGP sessions a node has and which routes it announces on each: pure functions.

Rules: a route's next hop is the node's own first address of the prefix's family, or of IPv6 when it
leads to an SRv6 SID; a route exists per session, because a session may advertise less than another;
a prefix whose family the node has no address for is a finding, never a route with a wrong next hop;
of two BGPPeers whose addresses overlap the first by name has the session, except that a single
address within a range is a session of its own. ``mesh/speaker.py`` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from bgp.findings import (
    MATCHES_NOTHING,
    NO_LOCAL_ADDRESS,
    NO_NEXT_HOP,
    NO_PASSWORD,
    NOTHING_TO_SAY,
    OVERLAP,
    TWO_PEERS,
    WITHHELD,
)
from bgp.peer import BFD, Advertise, BGPPeer, ImportRule, Override, Password, place_of
from bgp.route import Family, PeerKey, Route, RouteKey
from bgp.routes import PIECE, Made, fill
from mesh.core.feature import Offer
from mesh.core.model import IP, Finding, Network, Node


@dataclass(frozen=True, slots=True)
class Peering:
    """One session of this node, or a range of them; ``name`` and ``origin`` are the BGPPeer's."""

    name: str
    address: PeerKey
    asn: int
    local_address: IP
    local_asn: int
    hold_s: int
    graceful_restart_s: int
    advertise: tuple[Advertise, ...]
    origin: str = ""
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    port: int = 179
    passive: bool = False
    password: str = field(default="", repr=False)
    ttl_security: bool = False
    multihop: int = 0
    router_id: IPv4Address | None = None  # None: the speaker's
    graceful_vpn: bool = False
    imports: tuple[ImportRule, ...] = ()
    max_prefixes: int = 0
    bfd: BFD | None = None
    accept_sids: bool = False
    fields: tuple[tuple[str, str, str], ...] = ()  # as in BGPPeer

    def place(self, field: str) -> tuple[str, str]:
        """Object and field of what is a field of a BGPPeer."""
        return place_of(self.fields, self.origin or f"BGPPeer/{self.name}", field)

    @property
    def dynamic(self) -> bool:
        """Whether it is a range, whose members dial us."""
        return not isinstance(self.address, IPv4Address | IPv6Address)

    @property
    def internal(self) -> bool:
        """Whether the router is of our own AS (iBGP)."""
        return self.asn == self.local_asn


def own_address(node: Node, version: int) -> IP | None:
    """The node's first address of the IP version: source of sessions and next hop of routes."""
    return next((address for address in node.addresses if address.version == version), None)


def peerings(
    node: Node, peers: Iterable[BGPPeer], passwords: Mapping[Password, str] | None = None
) -> tuple[dict[PeerKey, Peering], list[Finding]]:
    """The node's sessions by router address, of the BGPPeers that select it.

    Two BGPPeers with one address: the first by name has it. One whose password is not in
    ``passwords`` has no session; None: whoever asks opens none, and needs no password.
    """
    rows: dict[PeerKey, Peering] = {}
    findings: list[Finding] = []
    for peer in sorted(peers, key=lambda peer: peer.name):
        made = _peering(node, peer, passwords)
        about = (f"node/{node.name}", f"peer/{peer.address}")
        if isinstance(made, Finding):
            findings.append(made)
        elif peer.address in rows:
            text = f"BGPPeer {rows[peer.address].name} has the address {peer.address} on this node"
            findings.append(Finding(TWO_PEERS, *peer.place("spec.address"), text, about))
        elif other := _overlapping(made, rows.values()):
            text = f"it overlaps {other.address} of BGPPeer {other.name} on this node"
            findings.append(Finding(OVERLAP, *peer.place("spec.prefix"), text, about))
        else:
            rows[peer.address] = made
    return rows, findings


def without_password(
    node: Node,
    peers: Iterable[BGPPeer],
    found: Mapping[Password, str],
    used: Mapping[Password, str],
) -> Iterator[Finding]:
    """Findings about sessions that go on with the password that they had (``used``)."""
    for peer in peers:
        if peer.password and peer.password not in found and peer.password in used:
            text = f"{peer.password} gives no password on node {node.name}: the session keeps its"
            about = (f"node/{node.name}", f"peer/{peer.address}")
            field = f"spec.password {node.name}"
            yield Finding(NO_PASSWORD, *peer.place(field), text, about)


def _overlapping(made: Peering, rows: Iterable[Peering]) -> Peering | None:
    """The range of another BGPPeer that has addresses of this one."""
    if not made.dynamic:
        return None
    mine = ip_network(made.address)
    return next((one for one in rows if one.dynamic and _overlap(mine, one)), None)


def _overlap(mine: Network, other: Peering) -> bool:
    theirs = ip_network(other.address)
    return theirs.version == mine.version and theirs.overlaps(mine)


def routes(
    node: Node, sessions: Iterable[Peering], own: Mapping[str, Iterable[Offer]]
) -> tuple[dict[RouteKey, Route], list[Finding]]:
    """Every route on every session; ``own`` has what the node may announce by its word."""
    found = Wanted()
    for _ in derive(found, node, sessions, own):
        pass
    return found.rows, found.findings


@dataclass(slots=True)
class Wanted:
    """What ``derive`` has found so far."""

    rows: dict[RouteKey, Route] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def derive(
    found: Wanted, node: Node, sessions: Iterable[Peering], own: Mapping[str, Iterable[Offer]]
) -> Iterator[None]:
    """``routes`` in pieces."""
    findings: dict[Finding, None] = {}
    hops = {version: own_address(node, version) for version in (4, 6)}
    for session in sessions:
        carried = {kind: _carried(session.name, offers) for kind, offers in own.items()}
        made = Made()
        yield from fill(made, session.advertise, session.families, carried, hops, session.address)
        for place, ((prefix, rd), route) in enumerate(made.rows.items()):
            if place % PIECE == PIECE - 1:
                yield
            key = RouteKey(session.address, prefix, rd)
            found.rows[key] = _internal(route) if session.internal else _external(route)
        findings |= dict.fromkeys(_unsaid(node, session, made))
        yield
    found.findings = list(findings)


def _carried(name: str, offers: Iterable[Offer]) -> list[Offer]:
    """What sessions of a BGPPeer may announce."""
    return [offer for offer in offers if offer.peers is None or name in offer.peers]


def _external(route: Route) -> Route:
    """Local preference stays within an AS (RFC 4271 5.1.5)."""
    return route if route.local_preference is None else replace(route, local_preference=None)


def _internal(route: Route) -> Route:
    """Our own AS in the path is a loop to our own routers (RFC 4271 9.1.2)."""
    return replace(route, prepend=0) if route.prepend else route


def _unsaid(node: Node, session: Peering, made: Made) -> Iterator[Finding]:
    about = (f"node/{node.name}", f"peer/{session.address}")
    for version in sorted(made.lacking):
        text = f"node {node.name} has no IPv{version} address to be next hop"
        yield Finding(NO_NEXT_HOP, f"node/{node.name}", "status.addresses", text)
    for prefix, why in made.withheld.items():
        text = f"{prefix} is not announced to {session.address}: {why}"
        yield Finding(WITHHELD, *session.place(f"{prefix} {node.name}"), text, about)
    if not made.rows and not made.lacking:
        text = f"it advertises nothing from node {node.name}"
        yield Finding(NOTHING_TO_SAY, *session.place("spec.advertise"), text, about)
        return
    for number in made.unmatched:
        one = session.advertise[number]
        if one.selector.requirements or one.prefixes:
            text = f"no prefix of {one.kind} on node {node.name} is selected by an advertisement"
            field = f"spec.advertisements {one.kind} {number} {node.name}"
            yield Finding(MATCHES_NOTHING, *session.place(field), text, about)


def _peering(
    node: Node, peer: BGPPeer, passwords: Mapping[Password, str] | None
) -> Peering | Finding:
    """The session, or why there is none."""
    other = next((one for one in peer.overrides if one.node == node.name), Override(node.name))
    about = (f"node/{node.name}", f"peer/{peer.address}")
    local = other.local_address or peer.local_address or own_address(node, peer.address.version)
    if local is None:
        text = f"node {node.name} has no IPv{peer.address.version} address to reach it from"
        return Finding(NO_LOCAL_ADDRESS, *peer.place("spec.address"), text, about)
    password = passwords.get(peer.password, "") if passwords and peer.password else ""
    if peer.password and passwords is not None and not password:
        text = f"{peer.password} gives no password on node {node.name}: no session without it"
        return Finding(NO_PASSWORD, *peer.place(f"spec.password {node.name}"), text, about)
    return Peering(
        name=peer.name,
        address=peer.address,
        asn=peer.asn,
        local_address=local,
        local_asn=other.local_asn or peer.local_asn,
        hold_s=peer.hold_s,
        graceful_restart_s=peer.graceful_restart_s,
        advertise=peer.advertise,
        origin=peer.origin,
        families=peer.families,
        port=peer.port,
        passive=peer.passive,
        password=password,
        ttl_security=peer.ttl_security,
        multihop=peer.multihop,
        router_id=other.router_id,
        graceful_vpn=peer.graceful_vpn,
        imports=peer.imports,
        max_prefixes=peer.max_prefixes,
        bfd=peer.bfd,
        accept_sids=peer.accept_sids,
        fields=peer.fields,
    )
