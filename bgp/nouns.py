"""Sessions and routes as ``meshgate peer list`` and ``route list`` print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bgp.findings import SESSION_AWAY
from bgp.route import Route, RouteKey
from mesh.core.noun import Problem, Row, Shown, noun


def _is_up(session: Row) -> bool:
    return str(session["state"]).lower() in ("established", "listening")


def _title(sessions: Sequence[Row]) -> str:
    count = sum(_is_up(session) for session in sessions)
    return f"BGP sessions: {count} of {len(sessions)} established"


def _problem(session: Row) -> Problem | None:
    node, address = session["node"], session["address"]
    if _is_up(session):
        return None
    why = session["reason"] or f"session is {session['state'] or 'unknown'}"
    about = (f"node/{node}", f"peer/{address}")
    return Problem(SESSION_AWAY, f"{node}/{address}", "state", str(why), about)


_PEER = "node address asn state reason families received advertised bfd since"
#: Everything about a session (``peer show``).
DETAILS = noun(
    "peer-details",
    "BGP sessions",
    f"{_PEER} name localAddress localASN port password holdSeconds gracefulRestartSeconds "
    "advertise importRules routerID offers restartSeconds mismatches maximum notTaken looped "
    "echoed malformed lastFault",
    "node address",
)
_ATTRIBUTES = (
    "nextHop asPath origin med localPreference communities largeCommunities extendedCommunities "
    "sid behaviour label"
)
#: What routers have sent, and what they were sent (``peer routes``).
RECEIVED = noun(
    "peer-received",
    "routes that routers have sent",
    f"node peer prefix rd {_ATTRIBUTES} stale reason",
    "node peer rd prefix",
)
ADVERTISED = noun(
    "peer-advertised",
    "routes that routers are sent",
    f"node peer prefix rd {_ATTRIBUTES} state reason",
    "node peer rd prefix",
)
#: Prefixes that are no routes, with the reason (``peer routes --why-not``).
REFUSED = noun(
    "peer-refused",
    "routes of routers that are none",
    "node peer prefix rd reason",
    "node peer rd prefix",
)
UNANNOUNCED = noun(
    "peer-unannounced", "prefixes that are not announced", "node peer prefix rd reason",
    "node peer rd prefix",
)  # fmt: skip
PEER = noun(
    "peer",
    "BGP sessions",
    _PEER,
    "node address",
    Shown(_title, ("node", "address", "asn", "state", "reason"), _problem),
    verbs="bgp.verbs",
    details=DETAILS,
)


def announced_row(
    node: str, key: RouteKey, route: Route, vrfs: Mapping[str, str], *, announced: bool
) -> Row:
    """A route that a node announces, or is to announce; ``vrfs`` has names by distinguisher."""
    return {
        "node": node,
        "origin": "node",
        "vrf": vrfs.get(key.rd, key.rd),
        "peer": key.peer,
        "prefix": key.prefix,
        "nextHop": route.next_hop,
        "sid": route.sid.sid if route.sid else "",
        "communities": (*route.communities, *route.large, *route.extended),
        "labels": (),
        "announced": announced,
        "used": announced,
        "reason": "" if announced else "ExaBGP does not have it yet",
    }


ROUTE = noun(
    "route",
    "routes that nodes announce by BGP, and those that routers have sent",
    "node origin vrf peer prefix nextHop sid communities labels announced used reason",
    "node origin vrf peer prefix",
)
