"""What is said over the relay: the commands that we send and the lines that ExaBGP answers.

Every command is built here and must match ``ALLOWED``, which knows unicast only: the forms
``announce|withdraw ipv4|ipv6 mpls-vpn`` end a session for ever (bgp-exabgp.md 6), and nothing
that is not in the list can be sent by mistake. The ``route`` grammar serves both families.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Annotated

import msgspec

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

#: Types of events that tell about a session.
_NEEDED = ("state", "notification", "negotiated")
#: What reading a line raises when the line is odd; the last, when it is nested too deeply.
_ODD = (ValueError, RecursionError)
#: Characters of an odd line that are shown.
_SHOWN = 80
_NAMED = re.compile(r'"(?:peer|address)"\s*:\s*"([0-9a-fA-F.:]{2,45})"')
_Octet = Annotated[int, msgspec.Meta(ge=0, le=255)]

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


class OddLine(ValueError):
    """A line that is not as ExaBGP writes it; ``peer``: the session that it names, if any."""

    def __init__(self, line: str, why: Exception) -> None:
        super().__init__(f"{why}: {_shown(line)}")
        self.peer = _peer_in(line)


OnOdd = Callable[[OddLine], None]


class _Address(msgspec.Struct):
    peer: str


class _Said(msgspec.Struct):
    """A NOTIFICATION that we have sent."""

    code: _Octet = 0
    subcode: _Octet = 0
    message: str = ""


class _Packet(msgspec.Struct):
    body: str = ""


class _Negotiated(msgspec.Struct):
    families: tuple[str, ...] = ()


class _About(msgspec.Struct):
    """The part of an event that is about a session."""

    address: _Address
    direction: str = ""
    state: str = ""
    reason: str = ""
    notification: _Said | None = None
    message: _Packet | None = None
    negotiated: _Negotiated | None = None


class _Event(msgspec.Struct):
    type: str = ""
    neighbor: msgspec.Raw = msgspec.Raw()


def event(line: str) -> SessionEvent | None:
    """The event in a line; None for events that nobody needs. Raises ``OddLine``."""
    try:
        head = msgspec.json.decode(line, type=_Event)
        if not bytes(head.neighbor) or head.type not in _NEEDED:
            return None
        return _session_event(head.type, msgspec.json.decode(head.neighbor, type=_About))
    except _ODD as error:
        raise OddLine(line, error) from error


def _session_event(kind: str, about: _About) -> SessionEvent:
    peer, sent = ip_address(about.address.peer), about.direction == "send"
    if kind == "notification" and about.message is not None:
        return _notification(peer, about.message, sent=sent)
    said = about.notification or _Said()
    families = about.negotiated.families if about.negotiated else ()
    return SessionEvent(
        kind=kind,
        peer=peer,
        state=about.state,
        text=_printable(said.message or about.reason),
        sent=sent,
        code=said.code,
        subcode=said.subcode,
        families=tuple(family for family in FAMILIES if family in families),
    )


def _notification(peer: IP, packet: _Packet, *, sent: bool) -> SessionEvent:
    """A received NOTIFICATION, which comes as a packet."""
    body = bytes.fromhex(packet.body.removeprefix("0x"))
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
    return _printable(data[1 : 1 + data[0]].decode(errors="replace"))


def _printable(text: str) -> str:
    """One line without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _shown(line: str) -> str:
    """The beginning of a line, for people."""
    text = _printable(line[:_SHOWN])
    return f"{text} …" if len(line) > _SHOWN else text


def _peer_in(line: str) -> IP | None:
    """The router that a line names, whatever else stands in it."""
    found = _NAMED.search(line)
    try:
        return ip_address(found[1]) if found else None
    except ValueError:
        return None


def is_event(line: str) -> bool:
    """Events begin with the ExaBGP version; answers never do."""
    return line.startswith('{ "exabgp"')


class _OfPeer(msgspec.Struct):
    address: str
    families: dict[str, bool | None] | None = None


class _Nlri(msgspec.Struct):
    prefix: str
    nexthop: str


class _Route(msgspec.Struct):
    nlri: _Nlri


class _DumpedRoute(msgspec.Struct):
    peer: _OfPeer
    route: _Route


def dumped_route(line: str) -> tuple[RouteKey, Route]:
    """One line of the answer to ``ROUTES``. Raises ``OddLine``."""
    try:
        message = msgspec.json.decode(line, type=_DumpedRoute)
        prefix = ip_network(message.route.nlri.prefix)
        key = RouteKey(ip_address(message.peer.address), prefix)
        return key, Route(prefix, ip_address(message.route.nlri.nexthop))
    except _ODD as error:
        raise OddLine(line, error) from error


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One session in the answer to ``NEIGHBORS``; ``families`` are the negotiated ones."""

    peer: IP
    established: bool
    families: tuple[str, ...]


class _DumpedNeighbor(msgspec.Struct):
    fsm: str
    peer: _OfPeer


def dumped_neighbors(line: str, on_odd: OnOdd = lambda _: None) -> list[Neighbor]:
    """The answer to ``NEIGHBORS``: one line; an odd session that has a name costs itself only.

    Raises ``OddLine`` when it is no list of sessions.
    """
    try:
        parts = msgspec.json.decode(line, type=list[msgspec.Raw])
    except _ODD as error:
        raise OddLine(line, error) from error
    found: list[Neighbor] = []
    for part in parts:
        try:
            found.append(_neighbor(msgspec.json.decode(part, type=_DumpedNeighbor)))
        except _ODD as error:
            odd = OddLine(bytes(part).decode(errors="replace"), error)
            if odd.peer is None:
                raise odd from error
            on_odd(odd)
    return found


def _neighbor(message: _DumpedNeighbor) -> Neighbor:
    established = message.fsm == "ESTABLISHED"
    theirs = message.peer.families or {}
    families = tuple(family for family in FAMILIES if established and theirs.get(family))
    return Neighbor(ip_address(message.peer.address), established, families)
