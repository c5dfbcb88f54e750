"""What an UPDATE says, as rows (RFC 4271 4.3), and how bad it is when a part of it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

from bgp.route import Family, ServiceSID
from mesh.core.model import IP, Network


class Severity(IntEnum):
    """What becomes of an UPDATE of which a part is malformed (RFC 7606 2), the worst last."""

    DISCARD = 1  # the attribute counts as absent
    WITHDRAW = 2  # its routes count as withdrawn
    RESET = 3  # not all of its routes can be found


class Malformed(ValueError):
    """A part that cannot be read, in words."""

    def __init__(self, severity: Severity, text: str) -> None:
        super().__init__(text)
        self.severity = severity


@dataclass(frozen=True, slots=True)
class Nlri:
    """One prefix of an UPDATE; ``next_hop`` is that of an announced one.

    ``rd`` and ``label`` (20 bits) are those of a VPN prefix (RFC 4364 4.3.4).
    """

    family: Family
    prefix: Network
    rd: str = ""
    label: int = 0
    next_hop: IP | None = None


@dataclass(frozen=True, slots=True)
class Attributes:
    """Path attributes; communities are spelled as in ``bgp/route.py``, sorted.

    ``as_path`` has all numbers in their order, also those of sets: a set makes a path longer than
    RFC 4271 9.1.2.2 counts it. ``service`` has the SID as it was sent (``service.real_sid``).
    ``originator`` is the router that has brought the route into our AS, where a route reflector
    says it (RFC 4456 8). ``discarded`` are attributes that count as absent, with the reason.
    """

    origin: int = 0
    as_path: tuple[int, ...] = ()
    med: int | None = None
    local_preference: int | None = None
    communities: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    service: ServiceSID | None = None
    originator: IPv4Address | None = None
    discarded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """One UPDATE.

    ``treat_as_withdraw`` says why its announced prefixes stand in ``withdrawn``; ``reset`` says
    why not all of its prefixes could be read, for which RFC 7606 ends a session.
    """

    announced: tuple[Nlri, ...] = ()
    withdrawn: tuple[Nlri, ...] = ()
    attributes: Attributes = Attributes()
    end_of_rib: Family | None = None
    treat_as_withdraw: str = ""
    reset: str = ""
