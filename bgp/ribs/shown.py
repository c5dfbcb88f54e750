"""Sessions and their routes both ways, as rows of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address

from bgp.desired import Peering
from bgp.exabgp.states import State
from bgp.ribs.capabilities import mismatches
from bgp.ribs.incoming import RibIn
from bgp.ribs.outgoing import RibOut
from bgp.ribs.routes import Ribs
from bgp.ribs.why import Reason, unsent
from bgp.route import Family, PeerKey, Route, RouteKey
from bgp.wire.opening import Opening
from mesh.core.noun import Row, Rows
from mesh.core.received import Received, ReceivedKey

#: A session with the router's address, or the range of one to which nobody has dialled.
Shown = tuple[Peering, PeerKey, State]
#: Why a received route is not used; empty: it is.
Verdict = Callable[[ReceivedKey], str]
_ORIGINS = ("igp", "egp", "incomplete")


def peer_row(node: str, ribs: Ribs, shown: Shown) -> Row:
    """``meshgate peer list``."""
    peering, router, state = shown
    return {
        "node": node,
        "address": router,
        "asn": peering.asn,
        "state": state.state,
        "reason": state.reason,
        "families": state.families,
        "received": sum(_counts(ribs.incoming, router).values()),
        "advertised": sum(_counts(ribs.outgoing, router).values()),
        "bfd": None,
        "since": state.entered,
    }


def peer_details(node: str, ribs: Ribs, shown: Shown) -> Row:
    """``meshgate peer show``."""
    peering, router, _ = shown
    row = peer_row(node, ribs, shown)
    return row | _of_peering(peering) | _of_opening(peering, _opening(ribs, router)) | {
        "received": _counts(ribs.incoming, router),
        "advertised": _counts(ribs.outgoing, router),
        **_of_routes(ribs, router),
    }  # fmt: skip


def received_rows(node: str, ribs: Ribs, verdict: Verdict) -> Rows:
    """What routers have sent, each with what becomes of it."""
    found = [(key, row, verdict(key)) for key, row in ribs.incoming.table.rows.items()]
    return Rows.of(found, lambda one: _received_row(node, *one))


def refused_rows(node: str, ribs: Ribs) -> list[Row]:
    """What routers have sent and is no row at all, with the reason."""
    return [
        {"node": node, "peer": peer, "prefix": key.prefix, "rd": key.rd, "reason": why}
        for peer in ribs.incoming.known
        for key, why in ribs.incoming.of(peer).refused.items()
    ]


def advertised_rows(
    node: str,
    ribs: Ribs,
    sessions: Iterable[Shown],
    wanted: Mapping[RouteKey, Route],
    errors: Mapping[str, str],
) -> list[Row]:
    """What is to be sent, was sent, and was echoed, on each session; the truth are the bytes sent.

    A route that was sent and is not wanted any more is being withdrawn.
    """
    sent = ribs.outgoing.table.rows
    rows: list[Row] = []
    for peering, router, state in sessions:
        keys = dict.fromkeys(key for key in wanted if key.peer == peering.address)
        for key in keys:
            at = ReceivedKey(router, key.prefix, key.rd)  # type: ignore[arg-type]
            why = errors.get(str(key))
            error = f"it cannot be announced: {why}" if why else ""
            row = sent.get(at)
            reason = ""
            if row is None:
                family = wanted[key].family
                reason = unsent(key, family, state.state, state.reason, state.families, error)
            rows.append(_advertised_row(node, ribs.incoming, at, row, wanted[key], reason))
        rows += [
            _advertised_row(node, ribs.incoming, at, row, None, "it is being withdrawn")
            for at, row in sent.items()
            if at.peer == router and RouteKey(peering.address, at.prefix, at.rd) not in keys
        ]
    return rows


def unannounced_rows(node: str, router: PeerKey, reasons: Iterable[Reason]) -> list[Row]:
    """What the node could announce, and does not on a session."""
    return [
        {"node": node, "peer": router, "prefix": prefix, "rd": rd, "reason": why}
        for prefix, rd, why in reasons
    ]


def _counts(rib: RibIn | RibOut, router: PeerKey) -> dict[str, int]:
    """Rows by family, of those that have any."""
    if not isinstance(router, IPv4Address | IPv6Address):
        return {}
    return {str(family): n for family in Family if (n := rib.count(router, family))}


def _opening(ribs: Ribs, router: PeerKey) -> Opening | None:
    return ribs.listener.opening(router) if isinstance(router, IPv4Address | IPv6Address) else None


def _of_peering(peering: Peering) -> Row:
    return {
        "name": peering.name,
        "localAddress": peering.local_address,
        "localASN": peering.local_asn,
        "port": peering.port,
        "password": bool(peering.password),
        "holdSeconds": peering.hold_s,
        "gracefulRestartSeconds": peering.graceful_restart_s,
        "advertise": [entry.kind for entry in peering.advertise],
        "importRules": len(peering.imports),
    }


def _of_opening(peering: Peering, said: Opening | None) -> Row:
    """What the router has said it can do, and what does not fit."""
    if said is None:
        return {"routerID": None, "offers": [], "restartSeconds": None, "mismatches": []}
    return {
        "routerID": said.router_id,
        "offers": [*said.families],
        "restartSeconds": said.restart_s,
        "mismatches": mismatches(peering, said),
    }


def _of_routes(ribs: Ribs, router: PeerKey) -> Row:
    if not isinstance(router, IPv4Address | IPv6Address):
        return dict.fromkeys(("maximum", "notTaken", "looped", "echoed", "malformed", "lastFault"))
    known = ribs.incoming.of(router)
    parts = [n for (peer, _), n in ribs.incoming.surplus.items() if peer == router]
    return {
        "maximum": known.most,
        "notTaken": sum(parts),
        "looped": known.looped,
        "echoed": len(known.echoes),
        "malformed": known.faults.count,
        "lastFault": known.faults.text,
    }


def _received_row(node: str, key: ReceivedKey, row: Received, why: str) -> Row:
    return {
        "node": node,
        "peer": key.peer,
        "prefix": key.prefix,
        "rd": key.rd,
        **_attributes(row),
        "stale": row.stale,
        "reason": why or row.unusable,
    }


def _attributes(row: Received) -> Row:
    return {
        "nextHop": row.next_hop,
        "asPath": row.as_path,
        "origin": _ORIGINS[row.origin],
        "med": row.med,
        "localPreference": row.local_preference,
        "communities": row.communities,
        "largeCommunities": row.large,
        "extendedCommunities": row.extended,
        "sid": row.sid,
        "behaviour": row.behaviour or None,
        "label": row.label or None,
    }


def _advertised_row(
    node: str,
    incoming: RibIn,
    at: ReceivedKey,
    row: Received | None,
    route: Route | None,
    reason: str,
) -> Row:
    found = {"node": node, "peer": at.peer, "prefix": at.prefix, "rd": at.rd}
    if row is not None:
        state = "echoed" if at in incoming.of(at.peer).echoes else "sent"
        return found | _attributes(row) | {"state": state, "reason": reason}
    return found | _wanted(route) | {"state": "wanted", "reason": reason}


def _wanted(route: Route | None) -> Row:
    """Attributes of a route that was not sent yet."""
    if route is None:
        return {}
    return {
        "nextHop": route.next_hop,
        "asPath": None,
        "origin": _ORIGINS[0],
        "med": route.med,
        "localPreference": route.local_preference,
        "communities": route.communities,
        "largeCommunities": route.large,
        "extendedCommunities": route.extended,
        "sid": route.sid.sid if route.sid else None,
        "behaviour": route.sid.behaviour if route.sid else None,
        "label": None,
    }
