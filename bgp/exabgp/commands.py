"""Every command that the speaker gives to ExaBGP.

Each is built here and must match ``ALLOWED``: the forms ``announce|withdraw ipv4|ipv6 mpls-vpn``
end a session for ever, a withdrawal of a VPN route without its label is not sent (bgp-exabgp.md 6),
and nothing that is not in the list can be said by mistake. Routes of one session with the same
attributes share a command, because ExaBGP then reads the attributes once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from itertools import islice

from bgp.route import Family, PeerKey, Route, RouteKey, ServiceSID

RELOAD = "reload"
RESET = "reset"  # forgets what an earlier speaker had scheduled; gives no acknowledgement
VERSION = "version"
OPENS = "meshgate opens"  # the OPENs of routers (``opens.py``)
LEVEL = "meshgate"  # how many of our changes it has (``bulk.py``); a stock one refuses it
ROUTES = "show adj-rib out meshgate"  # in the words in which they were announced (``bulk.py``)
ROUTES_JSON = "show adj-rib out json"
NEIGHBORS = "show neighbor json"

#: Prefixes of one command: more is not faster, and a line has an end (1 MiB).
MOST = 500
#: Routes that are looked at before the first of their commands is said.
PART = 5000
#: The label of a VPN route whose SID has everything (implicit null; srv6-l3vpn.md 3).
LABEL = 3
#: Octets of an extended community's type and subtype (RFC 4360 3, 4; RFC 5668 2).
_SUBTYPES = {"target": 2, "origin": 3}

#: Subcode of Cease (RFC 9384). A session that ends by it is told, also under graceful restart.
BFD_DOWN = 10

_ADDRESS = r"[0-9a-f.:]+"
_PEER = rf"{_ADDRESS}(?:/\d{{1,3}})?"
_PREFIX = rf"{_ADDRESS}/\d{{1,3}}"
_LIST = r"\[ [0-9a-z:x -]+ \]"
_ATTRIBUTES = (
    rf"next-hop {_ADDRESS}(?: community {_LIST})?(?: large-community {_LIST})?"
    rf"(?: extended-community {_LIST})?(?: med \d+)?(?: local-preference \d+)?"
    rf"(?: as-path {_LIST})?"
)
_SID = rf" bgp-prefix-sid-srv6 \( l3-service {_ADDRESS} 0x[0-9a-f]+(?: \[[0-9,]+\])? \)"
_VPN = rf" rd [0-9.:]+ label {LABEL}"
_NLRI = rf" nlri {_PREFIX}(?: {_PREFIX})*"
_FAMILY = "|".join(Family)
ALLOWED = re.compile(
    rf"neighbor {_PEER} announce attributes {_ATTRIBUTES}(?:(?:{_SID})?{_VPN})?{_NLRI}"
    rf"|neighbor {_PEER} withdraw attributes next-hop {_ADDRESS}(?:{_VPN})?{_NLRI}"
    rf"|neighbor {_PEER} announce eor (?:{_FAMILY})"
    rf"|neighbor {_ADDRESS} announce route-refresh (?:{_FAMILY})"
    rf"|neighbor {_PEER} teardown \d\d?"
    rf"|{RELOAD}|{RESET}|{VERSION}|{LEVEL}|{OPENS}|{ROUTES}|{ROUTES_JSON}|{NEIGHBORS}"
)


def checked(line: str) -> str:
    """The line itself; raises ValueError for anything that this speaker never says."""
    if not ALLOWED.fullmatch(line):
        raise ValueError(f"not a command of the speaker: {line[:200]!r}")
    return line


def announcements(
    rows: Mapping[RouteKey, Route], asns: Mapping[PeerKey, int], wrong: dict[RouteKey, Exception]
) -> Iterator[tuple[str, list[RouteKey]]]:
    """Commands that announce the routes, or replace their attributes, each with its keys.

    ``asns`` are our own AS numbers by session. Routes that cannot be said go into ``wrong``.
    """
    left = iter(rows.items())
    while part := list(islice(left, PART)):
        groups: dict[tuple[object, ...], list[RouteKey]] = {}
        for key, route in part:
            if why := _unfit(key, route):
                wrong[key] = ValueError(f"{key.prefix}: {why}")
            else:
                groups.setdefault(_shared(key, route), []).append(key)
        for keys in groups.values():
            peer, route = keys[0].peer, rows[keys[0]]
            try:
                text = attributes(route, asns.get(peer, 0))
                yield from _commands(f"neighbor {peer} announce attributes {text}", keys)
            except (ValueError, KeyError) as error:
                wrong |= dict.fromkeys(keys, error)


def withdrawals(rows: Mapping[RouteKey, Route]) -> Iterator[tuple[str, list[RouteKey]]]:
    """Commands that withdraw the routes, each with its keys.

    A command has prefixes of one family: ExaBGP would put all of them into MP_UNREACH_NLRI of the
    first one's, and a router ends the session for that (RFC 7606 5.3).
    """
    groups: dict[tuple[PeerKey, int, str], list[RouteKey]] = {}
    for key, route in rows.items():
        vpn = f" rd {route.rd} label {LABEL}" if route.rd else ""
        name = (key.peer, key.prefix.version, f"next-hop {route.next_hop}{vpn}")
        groups.setdefault(name, []).append(key)
    for (peer, _, text), keys in groups.items():
        yield from _commands(f"neighbor {peer} withdraw attributes {text}", keys)


def end_of_rib(peer: PeerKey, family: Family) -> str:
    """Say that everything of the family has been announced (RFC 4724)."""
    return checked(f"neighbor {peer} announce eor {family}")


def route_refresh(peer: PeerKey, family: Family) -> str:
    """Ask the router for its routes of the family (RFC 2918)."""
    return checked(f"neighbor {peer} announce route-refresh {family}")


def teardown(peer: PeerKey, subcode: int) -> str:
    """End a session by a Cease of this subcode (RFC 4486); ExaBGP dials again."""
    return checked(f"neighbor {peer} teardown {subcode}")


def _commands(head: str, keys: list[RouteKey]) -> Iterator[tuple[str, list[RouteKey]]]:
    for at in range(0, len(keys), MOST):
        part = keys[at : at + MOST]
        yield checked(f"{head} nlri {' '.join(str(key.prefix) for key in part)}"), part


def _unfit(key: RouteKey, route: Route) -> str:
    """Why a route cannot be said; empty: it can."""
    if key.prefix != route.prefix or key.rd != route.rd:
        return f"the route is that of {route.rd} {route.prefix}"
    if route.sid is None and route.prefix.version != route.next_hop.version:
        return f"next hop {route.next_hop} is of the other family"
    return ""


def _shared(key: RouteKey, route: Route) -> tuple[object, ...]:
    """What two routes have in common that can share a command."""
    return (
        key.peer, route.prefix.version, route.next_hop, route.communities, route.large,
        route.extended, route.med, route.local_preference, route.prepend, route.rd, route.sid,
    )  # fmt: skip


def attributes(route: Route, asn: int) -> str:
    """The attributes in a command; ``asn`` is our own AS, which ``prepend`` repeats."""
    words = [f"next-hop {route.next_hop}"]
    words += _list("community", route.communities)
    words += _list("large-community", route.large)
    words += _list("extended-community", map(extended, route.extended))
    if route.med is not None:
        words.append(f"med {route.med}")
    if route.local_preference is not None:
        words.append(f"local-preference {route.local_preference}")
    if route.prepend:
        words += _list("as-path", [str(asn)] * (route.prepend + 1))
    if route.sid is not None:
        words.append(_sid(route.sid))
    if route.rd:
        words.append(f"rd {route.rd} label {LABEL}")
    return " ".join(words)


def _list(name: str, items: Iterable[str]) -> list[str]:
    text = " ".join(items)
    return [f"{name} [ {text} ]"] if text else []


def _sid(one: ServiceSID) -> str:
    shape = f" [{','.join(map(str, one.structure))}]" if one.structure else ""
    return f"bgp-prefix-sid-srv6 ( l3-service {one.sid} {one.behaviour:#06x}{shape} )"


def extended(text: str) -> str:
    """An extended community as ExaBGP takes every one: eight octets in hexadecimal digits.

    Its own grammar writes an AS of four octets as an address. Raises ValueError.
    """
    kind, _, rest = text.partition(":")
    head, _, tail = rest.rpartition(":")
    subtype, number = _SUBTYPES[kind], int(tail)
    if "." in head:
        octets = bytes((1, subtype)) + IPv4Address(head).packed + number.to_bytes(2)
    elif int(head) > 0xFFFF:
        octets = bytes((2, subtype)) + int(head).to_bytes(4) + number.to_bytes(2)
    else:
        octets = bytes((0, subtype)) + int(head).to_bytes(2) + number.to_bytes(4)
    return f"0x{octets.hex()}"
