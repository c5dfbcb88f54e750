"""Routes that routers have sent, as rows: written by ``bgp/``, read by the rooms that use them.

One row for each prefix of each session (the Adj-RIB-In of RFC 4271 3.2), before any rule of an
object was asked: a row says what a router says, not that it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from mesh.core.model import IP, Network


@dataclass(frozen=True, slots=True)
class ReceivedKey:
    """A prefix of a session; ``peer`` is the router's address, also of a member of a range.

    ``rd`` is the route distinguisher of a VPN prefix: ``65001:1`` or ``10.99.0.1:7``; empty: a
    unicast prefix.
    """

    peer: IP
    prefix: Network
    rd: str = ""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """A table of 100,000 rows asks each key for its hash ten times a change."""
        object.__setattr__(self, "_hash", hash((self.peer, self.prefix, self.rd)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        vpn = f"{self.rd} " if self.rd else ""
        return f"{vpn}{self.prefix} of {self.peer}"


@dataclass(frozen=True, slots=True)
class Received:
    """What a router says of a prefix; communities are sorted, and spelled as in ``bgp/route.py``.

    ``sid`` is the SRv6 SID as packets have it, with what the sender had moved into ``label``
    (RFC 9252 4); ``behaviour`` is 0xFFFF where the sender does not say it. ``unusable`` says why
    the SID must not be used. ``stale``: the session is down, and the row is kept for the time that
    its router needs to restart.
    """

    next_hop: IP
    as_path: tuple[int, ...] = ()
    communities: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    med: int | None = None
    local_preference: int | None = None
    sid: IPv6Address | None = None
    behaviour: int = 0
    structure: tuple[int, int, int, int, int, int] | None = None
    label: int = 0
    stale: bool = False
    unusable: str = ""
    origin: int = 0
