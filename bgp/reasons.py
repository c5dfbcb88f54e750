"""Why a session is not up, in words that name the side that has to act.

Input is what ExaBGP says: a ``down`` event with its text (completed by the launcher with the
error) and the notification that came just before it. Codes: RFC 4271 4.5, RFC 4486, RFC 8538.
"""

from __future__ import annotations

import re

from bgp.desired import Peering
from bgp.exabgp.lines import SessionEvent

#: A session that has said nothing for so long gets a reason.
SILENT_S = 5.0

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


def silent(peering: Peering) -> str:
    """Nothing was heard since the session was configured or lost."""
    return (
        f"no answer from {peering.address} on TCP port 179: it is away, filtered, "
        "or expects a TCP MD5 password that we do not have"
    )


def reason(peering: Peering, down: str, notification: SessionEvent | None) -> str:
    """The sentence for a ``down`` event with the text ``down``."""
    if notification is not None:
        return _notified(peering, notification)
    if "closed by the remote end" in down:
        return (
            f"{peering.address} closes the connection at once: it does not know "
            f"{peering.local_address} as a neighbor, or has not taken us back yet"
        )
    if "Broken TCP connection" in down:
        return f"{peering.address} is not reachable, or refuses TCP port 179"
    if "without sending any notification" in down:
        return "the session is restarting with a new configuration"
    return down


def _notified(peering: Peering, notification: SessionEvent) -> str:
    number = f"({notification.code}/{notification.subcode})"
    if (notification.code, notification.subcode) == (2, 2):
        return f"{_as_mismatch(peering, notification)} {number}"
    if notification.code == 4:
        side = (
            f"nothing heard from {peering.address}"
            if notification.sent
            else "the router heard nothing"
        )
        return f"hold timer expired: {side} for {peering.hold_s} s {number}"
    if notification.code == 3:
        who = (
            "we refuse an UPDATE of the router"
            if notification.sent
            else "the router refuses our route"
        )
        return f"{who} {number} {notification.text}".rstrip()
    if notification.code == 6:
        words = (
            "we have closed the session"
            if notification.sent
            else _CEASE.get(notification.subcode, "")
        )
        return f"{words or 'the router has closed the session'} {number}"
    who = "we close" if notification.sent else "the router closes"
    return f"{who} the session: {notification.text or 'notification'} {number}"


def _as_mismatch(peering: Peering, notification: SessionEvent) -> str:
    if not notification.sent:
        return f"AS mismatch: the router expects another AS than our {peering.local_asn}"
    theirs = re.search(r"\((\d+)\)", notification.text)
    number = theirs[1] if theirs else "another AS"
    return f"AS mismatch: the router is {number}, the BGPPeer says {peering.asn}"
