"""What one session announces of what a node may announce: selection, attributes, aggregates. Pure.

Rules: a default route, and a prefix in which the router itself lies, are announced only when the
object names them; of several entries of ``advertise`` that cover a prefix, communities are united,
the highest local preference counts, the lowest MED and the longest prepending; an aggregate is
announced while at least one prefix within it would be, and stands for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from bgp.peer import NAMED, Advertise
from bgp.route import Family, PeerKey, Route, ServiceSID, family_of
from mesh.core.feature import Offer
from mesh.core.model import IP, Network
from mesh.identity.selectors import matches

#: Forms of an address that a service has for clients outside of its cluster.
OUTSIDE = ("LoadBalancer", "External")
#: Offers or routes that are looked at in one piece.
PIECE = 100
#: A prefix and its route distinguisher.
Target = tuple[Network, str]


@dataclass(slots=True)
class Made:
    """Routes of one session, and what is not one."""

    rows: dict[Target, Route] = field(default_factory=dict)
    lacking: set[int] = field(default_factory=set)  # IP versions that have no next hop
    withheld: dict[Network, str] = field(default_factory=dict)  # prefixes, and why
    unmatched: list[int] = field(default_factory=list)  # entries that no prefix matches


def routes_of(
    advertise: Sequence[Advertise],
    families: Iterable[Family],
    own: Mapping[str, Iterable[Offer]],
    hops: Mapping[int, IP | None],
    router: PeerKey,
) -> Made:
    """The routes; ``own`` has what the node may announce by its word, ``hops`` its addresses."""
    made = Made()
    for _ in fill(made, advertise, families, own, hops, router):
        pass
    return made


def fill(
    made: Made,
    advertise: Sequence[Advertise],
    families: Iterable[Family],
    own: Mapping[str, Iterable[Offer]],
    hops: Mapping[int, IP | None],
    router: PeerKey,
) -> Iterator[None]:
    """``routes_of`` in pieces: there may be 100,000 routes."""
    wanted, lies = frozenset(families), ip_network(router)
    for number, entry in enumerate(advertise):
        found = False
        for place, offer in enumerate(_offers(entry, own)):
            if place % PIECE == PIECE - 1:
                yield
            family = family_of(offer.prefix, offer.rd)
            if family not in wanted or (entry.families and family not in entry.families):
                continue
            found = True
            if why := _withheld(entry, offer, lies, router):
                made.withheld[offer.prefix] = why
                continue
            hop = hops.get(6 if offer.sid is not None else offer.prefix.version)
            if hop is None:
                made.lacking.add(6 if offer.sid is not None else offer.prefix.version)
                continue
            _add(made.rows, _route(entry, offer, hop))
        if not found:
            made.unmatched.append(number)


def _offers(entry: Advertise, own: Mapping[str, Iterable[Offer]]) -> Iterator[Offer]:
    """What an entry selects, each aggregate instead of what lies within it."""
    if entry.kind == NAMED:
        yield from (Offer(prefix) for prefix in entry.prefixes)
        return
    aggregated: dict[Network, None] = {}
    plain = not (entry.prefixes or entry.aggregates or entry.selector.requirements)
    plain = plain and entry.lengths == (None, None)
    for offer in own.get(entry.kind, ()):
        if offer.form and offer.form not in (entry.addresses or OUTSIDE):
            continue
        if plain:
            yield offer
            continue
        if not matches(entry.selector, dict(offer.labels)):
            continue
        if entry.prefixes and not within(offer.prefix, entry.prefixes):
            continue
        whole = None if offer.rd else whole_of(entry, offer)
        if whole is None:
            yield offer
        else:
            aggregated[whole] = None
    yield from (Offer(prefix) for prefix in aggregated)


def whole_of(entry: Advertise, offer: Offer) -> Network | None:
    """The aggregate of an entry that stands for a prefix; None: it stands for itself."""
    whole = within(offer.prefix, entry.aggregates)
    length = entry.lengths[offer.prefix.version == 6]
    if whole is not None or length is None or offer.exact or length >= offer.prefix.prefixlen:
        return whole
    return offer.prefix.supernet(new_prefix=length)


def within(prefix: Network, wholes: Iterable[Network]) -> Network | None:
    """The first of ``wholes`` in which the prefix lies."""
    for whole in wholes:
        if whole.version == prefix.version and prefix.subnet_of(whole):  # type: ignore[arg-type]
            return whole
    return None


def _withheld(entry: Advertise, offer: Offer, lies: Network, router: PeerKey) -> str:
    """Why a prefix is not announced; empty: it is. ``lies`` is the router as a network."""
    if offer.rd or offer.prefix in entry.prefixes:
        return ""
    if not offer.prefix.prefixlen:
        return "it is a default route, which only `prefixes` can name"
    if within(lies, (offer.prefix,)):
        return f"the router {router} lies in it, which only `prefixes` can name"
    return ""


def _route(entry: Advertise, offer: Offer, hop: IP) -> Route:
    extended = entry.extended
    if offer.targets:
        extended = tuple(sorted({*extended, *offer.targets}))
    sid = None
    if offer.sid is not None:
        sid = ServiceSID(offer.sid, offer.behaviour, offer.structure)
    return Route(
        offer.prefix,
        hop,
        entry.communities,
        entry.large,
        extended,
        entry.med,
        entry.local_preference,
        entry.prepend,
        offer.rd,
        sid,
    )


def _add(rows: dict[Target, Route], route: Route) -> None:
    key = (route.prefix, route.rd)
    other = rows.get(key)
    rows[key] = route if other is None or other == route else _merged(other, route)


def _merged(one: Route, other: Route) -> Route:
    return replace(
        one,
        communities=tuple(sorted({*one.communities, *other.communities})),
        large=tuple(sorted({*one.large, *other.large})),
        extended=tuple(sorted({*one.extended, *other.extended})),
        med=min((n for n in (one.med, other.med) if n is not None), default=None),
        local_preference=max(
            (n for n in (one.local_preference, other.local_preference) if n is not None),
            default=None,
        ),
        prepend=max(one.prepend, other.prepend),
    )
