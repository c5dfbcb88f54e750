"""Why a prefix that a node could announce is not announced on a session, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from itertools import chain

from bgp.desired import Peering
from bgp.peer import Advertise
from bgp.route import Family, RouteKey, family_of
from mesh.core.feature import Offer
from mesh.core.model import IP, Network
from mesh.core.space import within
from mesh.identity.selectors import matches

#: A prefix with its route distinguisher, and why it is not announced.
Reason = tuple[Network, str, str]


def unannounced(
    session: Peering,
    own: Mapping[str, Iterable[Offer]],
    wanted: Iterable[RouteKey],
    hops: Mapping[int, IP | None],
) -> Iterator[Reason]:
    """Each prefix that the node could announce, and that is not to be announced on the session.

    ``own`` has what the node may announce by the words of ``advertise``.
    """
    there = {(key.prefix, key.rd) for key in wanted if key.peer == session.address}
    for word, offers in own.items():
        entries = [entry for entry in session.advertise if entry.kind == word]
        for offer in offers:
            if (offer.prefix, offer.rd) not in there:
                why = _why(session, word, entries, offer, hops)
                yield offer.prefix, offer.rd, why


def _why(
    session: Peering,
    word: str,
    entries: list[Advertise],
    offer: Offer,
    hops: Mapping[int, IP | None],
) -> str:
    """The first reason, in the order in which the prefix would be chosen."""
    reasons = chain(_of_object(session, word, entries, offer), _of_prefix(session, offer, hops))
    return next(reasons, "it is new, and is about to be announced")


def _of_object(
    session: Peering, word: str, entries: list[Advertise], offer: Offer
) -> Iterator[str]:
    """Why the BGPPeer does not select it."""
    if not entries:
        yield f"spec.advertise of BGPPeer {session.name} does not have {word}"
    family = family_of(offer.prefix, offer.rd)
    if family not in session.families:
        yield f"spec.families of BGPPeer {session.name} does not have {family}"
    chosen = [entry for entry in entries if matches(entry.selector, dict(offer.labels))]
    if not chosen:
        labels = ", ".join(f"{key}={value}" for key, value in offer.labels) or "none"
        yield f"no selector of spec.advertisements matches its labels ({labels})"
    inside = [one for one in chosen if not one.prefixes or within(one.prefixes, offer.prefix)]
    if not inside:
        yield "it lies in none of the prefixes of spec.advertisements"
    for whole in (one for entry in inside for one in _around(offer, entry.aggregates)):
        yield f"the aggregate {whole} stands for it"


def _of_prefix(session: Peering, offer: Offer, hops: Mapping[int, IP | None]) -> Iterator[str]:
    """Why a prefix that is selected is none to be announced."""
    version = 6 if offer.sid is not None else offer.prefix.version
    if hops.get(version) is None:
        yield f"the node has no IPv{version} address to be next hop"
    if not offer.prefix.prefixlen:
        yield "it is a default route, which only `prefixes` can name"
    if within((offer.prefix,), ip_network(session.address)):
        yield f"the router {session.address} lies in it, which only `prefixes` can name"


def unsent(
    key: RouteKey, family: Family, state: str, reason: str, families: Iterable[Family], error: str
) -> str:
    """Why a route that is wanted was not sent; ``state`` and ``families`` are the session's."""
    if error:
        return error
    if state != "established":
        return f"the session is {state}: {reason or 'no answer yet'}"
    if family not in families:
        return f"the router does not take {family}"
    return f"ExaBGP has {key.prefix}, and has not sent it yet"


def _around(offer: Offer, wholes: Iterable[Network]) -> Iterator[Network]:
    if not offer.rd:
        yield from (whole for whole in wholes if within((whole,), offer.prefix))
