"""What is said over the relay: the commands that we send and the lines that ExaBGP answers.

Every command is built here and must match ``ALLOWED``, which knows unicast only: the forms
``announce|withdraw ipv4|ipv6 mpls-vpn`` end a session for ever (bgp-exabgp.md 6), and nothing
that is not in the list can be sent by mistake. The ``route`` grammar serves both families.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from bgp.desired import RouteKey
from bgp.peer import Route
from mesh.core.model import IP

#: Address families of a session, as ExaBGP spells them.
FAMILIES = ("ipv4 unicast", "ipv6 unicast")

RELOAD = "reload"
RESET = "reset"  # forgets what an earlier speaker had scheduled; gives no acknowledgement
VERSION = "version"
ROUTES = "show adj-rib out json"
NEIGHBORS = "show neighbor json"

_NOTIFICATION_HEAD = 2  # code and subcode
_CEASE = 6
_MAXIMUM, _HARD_RESET = 1, 9
#: Subcodes of Cease whose data is a length and a text for people (RFC 9003).
_WITH_TEXT = (2, 4)
#: Octets of a maximum of prefixes: AFI, SAFI, number (RFC 4486 4).
_MAXIMUM_SIZE = 7
_AFI_SAFI = {(1, 1): FAMILIES[0], (2, 1): FAMILIES[1]}

_ADDRESS = r"[0-9a-f.:]+"
ALLOWED = re.compile(
    rf"neighbor {_ADDRESS} (announce|withdraw) route {_ADDRESS}/\d{{1,3}} next-hop {_ADDRESS}"
    rf"|neighbor {_ADDRESS} announce eor ({'|'.join(FAMILIES)})"
    rf"|{RELOAD}|{RESET}|{VERSION}|{ROUTES}|{NEIGHBORS}"
)


def checked(line: str) -> str:
    """The line itself; raises ValueError for anything that this speaker never says."""
    if not ALLOWED.fullmatch(line):
        raise ValueError(f"not a command of the speaker: {line!r}")
    return line


def announce(key: RouteKey, route: Route) -> str:
    """Announce the route, or replace its next hop; raises ValueError for a wrong next hop."""
    if key.prefix != route.prefix or route.prefix.version != route.next_hop.version:
        raise ValueError(f"{key.prefix}: next hop {route.next_hop} is of the other family")
    return checked(f"neighbor {key.peer} announce route {route.prefix} next-hop {route.next_hop}")


def withdraw(key: RouteKey, next_hop: IP) -> str:
    """Withdraw the prefix; the next hop is the announced one."""
    return checked(f"neighbor {key.peer} withdraw route {key.prefix} next-hop {next_hop}")


def end_of_rib(peer: IP, family: str) -> str:
    """Say that everything of the family has been announced (RFC 4724)."""
    return checked(f"neighbor {peer} announce eor {family}")


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """``state`` (connected, up, down), ``notification`` or ``negotiated`` of one session.

    ``text`` of a received NOTIFICATION is what the router's operator has written (RFC 9003).
    ``limit`` is the maximum of prefixes of ``family``, where the router names it (RFC 4486).
    """

    kind: str
    peer: IP
    state: str = ""
    text: str = ""
    sent: bool = False  # a notification of ours
    code: int = 0
    subcode: int = 0
    families: tuple[str, ...] = ()
    limit: int = 0
    family: str = ""


@contextmanager
def _readable() -> Iterator[None]:
    """What is not as ExaBGP writes it is a ValueError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"a line is not as ExaBGP writes it: {error!r}") from error


@_readable()
def event(line: str) -> SessionEvent | None:
    """The event in a line; None for events that nobody needs. Raises ValueError for no JSON."""
    message = json.loads(line)
    neighbor = message.get("neighbor")
    kind = message.get("type", "")
    if not neighbor or kind not in ("state", "notification", "negotiated"):
        return None
    peer = ip_address(neighbor["address"]["peer"])
    sent = neighbor.get("direction") == "send"
    if kind == "notification" and "message" in neighbor:
        return _notification(peer, neighbor["message"], sent=sent)
    notification = neighbor.get("notification", {})
    return SessionEvent(
        kind=kind,
        peer=peer,
        state=neighbor.get("state", ""),
        text=notification.get("message", "") or neighbor.get("reason", ""),
        sent=sent,
        code=notification.get("code", 0),
        subcode=notification.get("subcode", 0),
        families=tuple(neighbor.get("negotiated", {}).get("families", ())),
    )


def _notification(peer: IP, packet: dict[str, Any], *, sent: bool) -> SessionEvent:
    """A received NOTIFICATION, which comes as a packet."""
    body = bytes.fromhex(packet.get("body", "").removeprefix("0x"))
    if body[:_NOTIFICATION_HEAD] == bytes((_CEASE, _HARD_RESET)):
        # RFC 8538 3.1: the reason for the hard reset stands in its data.
        body = body[_NOTIFICATION_HEAD:] if len(body) >= 2 * _NOTIFICATION_HEAD else body
    if len(body) < _NOTIFICATION_HEAD:
        return SessionEvent("notification", peer, sent=sent)
    code, subcode, rest = body[0], body[1], body[_NOTIFICATION_HEAD:]
    limit, family = 0, ""
    if (code, subcode) == (_CEASE, _MAXIMUM) and len(rest) == _MAXIMUM_SIZE:
        family = _AFI_SAFI.get((int.from_bytes(rest[:2]), rest[2]), "")
        limit = int.from_bytes(rest[3:])
    text = _communication(rest) if code == _CEASE and subcode in _WITH_TEXT else ""
    return SessionEvent("notification", peer, "", text, sent, code, subcode, (), limit, family)


def _communication(data: bytes) -> str:
    """A text of RFC 9003 as one line; what is no text becomes a question mark."""
    if not data:
        return ""
    text = data[1 : 1 + data[0]].decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def is_event(line: str) -> bool:
    """Events begin with the ExaBGP version; answers never do."""
    return line.startswith('{ "exabgp"')


@_readable()
def dumped_route(line: str) -> tuple[RouteKey, Route]:
    """One line of the answer to ``ROUTES``."""
    message = json.loads(line)
    nlri = message["route"]["nlri"]
    prefix = ip_network(nlri["prefix"])
    key = RouteKey(ip_address(message["peer"]["address"]), prefix)
    return key, Route(prefix, ip_address(nlri["nexthop"]))


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One session in the answer to ``NEIGHBORS``; ``families`` are the negotiated ones."""

    peer: IP
    established: bool
    families: tuple[str, ...]


@_readable()
def dumped_neighbors(line: str) -> list[Neighbor]:
    """The answer to ``NEIGHBORS``: one line."""
    return [_neighbor(message) for message in json.loads(line)]


def _neighbor(message: dict[str, Any]) -> Neighbor:
    established = message["fsm"] == "ESTABLISHED"
    theirs = message["peer"]["families"]
    families = tuple(family for family in FAMILIES if established and theirs.get(family))
    return Neighbor(ip_address(message["peer"]["address"]), established, families)
