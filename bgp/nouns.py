"""Sessions and routes as ``meshgate peer list`` and ``route list`` print them."""

from __future__ import annotations

from collections.abc import Sequence

from bgp.findings import SESSION_AWAY
from mesh.core.noun import Problem, Row, Shown, noun


def _is_up(session: Row) -> bool:
    return str(session["state"]).lower() == "established"


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


PEER = noun(
    "peer",
    "BGP sessions",
    "node address asn state reason",
    "node address",
    Shown(_title, ("node", "address", "asn", "state", "reason"), _problem),
)
ROUTE = noun(
    "route",
    "BGP routes that nodes announce",
    "node peer prefix nextHop announced",
    "node peer prefix",
)
