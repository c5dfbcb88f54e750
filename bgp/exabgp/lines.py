"""What ExaBGP says over the relay: events, and answers to what it was asked.

OPENs, UPDATEs and ROUTE-REFRESHes come as the octets that were on the wire (``Heard``), received
UPDATEs and sent ones: ExaBGP does not read them, and what was sent is what the router was told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

import msgspec

from bgp.route import Family
from mesh.core.model import IP

_NOTIFICATION_HEAD = 2  # code and subcode
_CEASE = 6
_MAXIMUM, _HARD_RESET = 1, 9
#: Subcodes of Cease whose data is a length and a text for people (RFC 9003).
_WITH_TEXT = (2, 4)
#: Octets of a maximum of prefixes: AFI, SAFI, number (RFC 4486 4).
_MAXIMUM_SIZE = 7
_AFI_SAFI = {
    (1, 1): Family.IPV4,
    (2, 1): Family.IPV6,
    (1, 128): Family.VPNV4,
    (2, 128): Family.VPNV6,
}
#: Types of events that tell about a session.
_NEEDED = ("state", "notification", "negotiated", "open", "update", "route-refresh", "refresh")
#: Types of BGP messages (RFC 4271 4.1, RFC 2918).
OPEN, UPDATE, ROUTE_REFRESH = 1, 2, 5
_PASSED = (OPEN, UPDATE, ROUTE_REFRESH)
#: Octets of a ROUTE-REFRESH, and what its third one says (RFC 7313).
_REFRESH_SIZE = 4
_REFRESHES = {0: "query", 1: "begin", 2: "end"}
#: What reading a line raises when the line is odd; the last, when it is nested too deeply.
ODD = (ValueError, RecursionError)
#: Characters of an odd line that are shown.
_SHOWN = 80
_NAMED = re.compile(r'"(?:peer|address)"\s*:\s*"([0-9a-fA-F.:]{2,45})"')
_Octet = Annotated[int, msgspec.Meta(ge=0, le=255)]


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
    families: tuple[Family, ...] = ()
    limit: int = 0
    family: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it was on the wire, without its header; ``received`` or sent by us."""

    kind: int
    peer: IP
    received: bool
    body: bytes

    def refresh(self) -> tuple[Family, str] | None:
        """The family of a ROUTE-REFRESH, and whether it is a query, the begin or the end."""
        if len(self.body) != _REFRESH_SIZE:
            return None
        family = _AFI_SAFI.get((int.from_bytes(self.body[:2]), self.body[3]))
        said = _REFRESHES.get(self.body[2])
        return (family, said) if family and said else None


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
    category: int = 0


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


def event(line: str) -> SessionEvent | Heard | None:
    """The event in a line; None for events that nobody needs. Raises ``OddLine``."""
    try:
        head = msgspec.json.decode(line, type=_Event)
        if not bytes(head.neighbor) or head.type not in _NEEDED:
            return None
        return _session_event(head.type, msgspec.json.decode(head.neighbor, type=_About))
    except ODD as error:
        raise OddLine(line, error) from error


def _session_event(kind: str, about: _About) -> SessionEvent | Heard | None:
    peer, sent = ip_address(about.address.peer), about.direction == "send"
    if about.message is not None and about.message.category in _PASSED:
        body = bytes.fromhex(about.message.body.removeprefix("0x"))
        return Heard(about.message.category, peer, not sent, body)
    if kind in ("open", "update", "route-refresh", "refresh"):
        return None
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
        families=tuple(family for family in Family if family in families),
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


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One session in the answer to ``NEIGHBORS``; ``families`` are the negotiated ones."""

    peer: IP
    established: bool
    families: tuple[Family, ...]


class _DumpedNeighbor(msgspec.Struct):
    fsm: str
    peer: _OfPeer


def dumped_neighbors(line: str, on_odd: OnOdd = lambda _: None) -> list[Neighbor]:
    """The answer to ``NEIGHBORS``: one line; an odd session that has a name costs itself only.

    Raises ``OddLine`` when it is no list of sessions.
    """
    try:
        parts = msgspec.json.decode(line, type=list[msgspec.Raw])
    except ODD as error:
        raise OddLine(line, error) from error
    found: list[Neighbor] = []
    for part in parts:
        try:
            said = msgspec.json.decode(part, type=_DumpedNeighbor)
            if "/" not in said.peer.address:  # a range; its members are listed, too
                found.append(_neighbor(said))
        except ODD as error:
            odd = OddLine(bytes(part).decode(errors="replace"), error)
            if odd.peer is None:
                raise odd from error
            on_odd(odd)
    return found


def _neighbor(message: _DumpedNeighbor) -> Neighbor:
    established = message.fsm == "ESTABLISHED"
    theirs = message.peer.families or {}
    families = tuple(family for family in Family if established and theirs.get(family))
    return Neighbor(ip_address(message.peer.address), established, families)
