"""The nouns of sessions and of their routes, as a speaker serves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bgp.ribs import shown
from bgp.ribs.routes import Ribs
from bgp.ribs.shown import Shown
from bgp.ribs.why import unannounced
from bgp.route import PeerKey, Route, RouteKey
from mesh.core.feature import Offer
from mesh.core.model import IP
from mesh.core.noun import Listing, Row
from mesh.core.received import ReceivedKey

#: What a node may announce, by the words of ``advertise``.
Offers = Mapping[str, Sequence[Offer]]


class Listings:
    """``errors`` are routes that ExaBGP refuses, ``verdict`` says why a received one is not used.

    ``hops`` are the node's addresses by IP version. ``bfd`` says whether the way to a peer stands:
    up, down, or - where that is not known.
    """

    def __init__(
        self,
        node: str,
        ribs: Ribs,
        *,
        sessions: Callable[[], Sequence[Shown]],
        routes: Mapping[RouteKey, Route],
        errors: Callable[[], Mapping[str, str]],
        offers: Callable[[], Offers],
        hops: Callable[[], Mapping[int, IP | None]],
        verdict: Callable[[ReceivedKey], str] = lambda _: "",
        bfd: Callable[[PeerKey], str] = lambda _: "-",
    ) -> None:
        self._node, self._ribs, self._routes = node, ribs, routes
        self._sessions, self._errors = sessions, errors
        self._offers, self._hops, self._verdict, self._bfd = offers, hops, verdict, bfd

    def all(self) -> Mapping[str, Listing]:
        """By noun."""
        return {
            "peer": self._peers,
            "peer-details": self._details,
            "peer-received": lambda: shown.received_rows(self._node, self._ribs, self._verdict),
            "peer-refused": lambda: shown.refused_rows(self._node, self._ribs),
            "peer-advertised": self._advertised,
            "peer-unannounced": self._unannounced,
        }

    def _peers(self) -> list[Row]:
        return [self._with_bfd(one, shown.peer_row) for one in self._sessions()]

    def _details(self) -> list[Row]:
        return [self._with_bfd(one, shown.peer_details) for one in self._sessions()]

    def _with_bfd(self, one: Shown, row: Callable[[str, Ribs, Shown], Row]) -> Row:
        return row(self._node, self._ribs, one) | {"bfd": self._bfd(one[1])}

    def _advertised(self) -> list[Row]:
        sessions, errors = self._sessions(), self._errors()
        return shown.advertised_rows(self._node, self._ribs, sessions, self._routes, errors)

    def _unannounced(self) -> list[Row]:
        own, hops, rows = self._offers(), self._hops(), list[Row]()
        for peering, router, _ in self._sessions():
            reasons = unannounced(peering, own, self._routes, hops)
            rows += shown.unannounced_rows(self._node, router, reasons)
        return rows
