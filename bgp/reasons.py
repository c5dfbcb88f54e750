"""Why a session is not up, in words that name the side that has to act.

Input is what ExaBGP says: a ``down`` event with its text (completed by the launcher with the
error) and NOTIFICATIONs. Codes: RFC 4271 4.5, RFC 4486, RFC 8538, RFC 9003.

A NOTIFICATION is the cause. What the router does afterwards follows from it: it closes each new
connection, or does not answer at all. So a cause stands until the session is up or another
NOTIFICATION comes, and what follows is added to it (``with_sequel``). No sentence carries an errno
or ExaBGP's own words: those are in its log.
"""

from __future__ import annotations

import re

from bgp.desired import Peering
from bgp.exabgp.applied import Cause
from bgp.exabgp.lines import SessionEvent

#: A session that has said nothing for so long gets a reason.
SILENT_S = 5.0
#: Likewise one that went down: ExaBGP tries again within 10 s (change 4 of its patches).
SILENT_AGAIN_S = 15.0

_AS_MISMATCH = (2, 2)
_BFD_DOWN = 10
_CEASE = {
    1: "the router takes no more prefixes from us (maximum reached)",
    2: "the router has shut this session down (administrative shutdown)",
    3: "the router has removed this session from its configuration",
    4: "the router has reset the session",
    5: "the router rejects the connection",
    6: "the router has changed its configuration and resets the session",
    7: "two connections at once, the router has closed one",
    8: "the router is out of resources",
    9: "the router has reset the session hard",
    10: "the router's BFD session to us is down",
}
#: Why an OPEN is refused, whichever side refuses it.
_OPEN = {
    1: "the other side speaks another version of BGP",
    3: "the other side's router id is not acceptable, perhaps because it is used twice",
    4: "an optional parameter of the other side's OPEN is unknown",
    5: "the authentication does not fit",
    6: "the other side's hold time is not acceptable",
    7: "the other side lacks a capability that is required",
}
#: Words of ExaBGP's text about the end of a connection, and what they mean.
_ENDS = (
    (
        ("closed by the remote end",),
        (
            "{router} closes the connection at once: it does not know {own} as a neighbor, or has "
            "not taken us back yet"
        ),
    ),
    (
        ("Could not bind",),
        (
            "this host does not have the address {own}, from which the session is to be opened: "
            "correct the Node object's addresses, or give the host the address"
        ),
    ),
    (("without sending any notification",), "the session is restarting with a new configuration"),
    (
        ("Broken TCP connection", "Could not connect", "failed"),
        "{router} is not reachable, or refuses TCP port 179",
    ),
    (
        ("reading", "writing", "lost the TCP", "closed TCP"),
        "the TCP connection to {router} broke: the router or the way to it failed",
    ),
    (("stop, message",), "the session is being removed from ExaBGP's configuration"),
)
_ENDED = (
    "the connection to {router} has ended without a NOTIFICATION; ExaBGP's log on this node has "
    "the details"
)
_OTHER = {
    1: "a message could not be read",
    2: "the other side's OPEN is not acceptable",
    5: "a message came that does not belong here",
}


def silent(peering: Peering) -> str:
    """Nothing was heard since the session was configured or lost."""
    key = "expects a TCP MD5 password that we do not have"
    if peering.password:
        key = "has another TCP MD5 password"
    if peering.passive:
        return (
            f"{peering.address} has not dialled {peering.local_address} port {peering.port}: "
            f"it is away, filtered, does not know us, or {key}"
        )
    return (
        f"no answer from {peering.address} on TCP port {peering.port}: "
        f"it is away, filtered, or {key}"
    )


def with_sequel(cause: str, sequel: str) -> str:
    """The cause, and what followed from it."""
    return f"{cause}; since then: {sequel}" if cause and sequel else cause or sequel


def replaces(former: Cause | None, event: SessionEvent) -> bool:
    """Whether a NOTIFICATION is the cause from now on.

    What the router has said is not replaced by what we answer to it.
    """
    return former is None or former.sent or not event.sent


def closed(peering: Peering, down: str) -> str:
    """The sentence for the ``down`` event of a connection that ended without a NOTIFICATION."""
    for signs, text in _ENDS:
        if any(sign in down for sign in signs):
            return text.format(router=peering.address, own=peering.local_address)
    return _ENDED.format(router=peering.address)


def notified(peering: Peering, notification: SessionEvent) -> str:
    """The sentence for a NOTIFICATION, with its numbers."""
    number = f"({notification.code}/{notification.subcode})"
    said = f': "{notification.text}"' if notification.text and not notification.sent else ""
    return f"{_words(peering, notification)} {number}{said}"


def _words(peering: Peering, notification: SessionEvent) -> str:
    sent, code = notification.sent, notification.code
    if (code, notification.subcode) == _AS_MISMATCH:
        return _as_mismatch(peering, notification)
    if code == 4:
        side = f"nothing heard from {peering.address}" if sent else "the router heard nothing"
        return f"hold timer expired: {side} for {peering.hold_s} s"
    if code == 3:
        return "we refuse an UPDATE of the router" if sent else "the router refuses our route"
    if code == 6:
        if sent and notification.subcode == _BFD_DOWN:
            return f"we have closed the session: BFD finds the way to {peering.address} down"
        return "we have closed the session" if sent else _ceased(notification)
    known = _OPEN.get(notification.subcode) if code == 2 else None
    who = "we close" if sent else "the router closes"
    why = known or _OTHER.get(code, "the NOTIFICATION has a code that we do not know")
    return f"{who} the session: {why}"


def _ceased(notification: SessionEvent) -> str:
    words = _CEASE.get(notification.subcode, "the router has closed the session")
    if not notification.limit:
        return words
    return f"{words}: it takes {notification.limit} of {notification.family or 'a family'}"


def _as_mismatch(peering: Peering, notification: SessionEvent) -> str:
    if not notification.sent:
        return f"AS mismatch: the router expects another AS than our {peering.local_asn}"
    theirs = re.search(r"\((\d+)\)", notification.text)
    number = theirs[1] if theirs else "another AS"
    return f"AS mismatch: the router is {number}, the BGPPeer says {peering.asn}"
