"""What two OPENs do not have in common, in words that name the side that has to act. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bgp.desired import Peering
from bgp.route import Family
from bgp.wire.opening import Opening

_ASN2 = 1 << 16


def mismatches(peering: Peering, said: Opening) -> list[str]:
    """What the router's OPEN lacks of what the session has; the most important first."""
    return [*_of_families(peering, said), *_of_restart(peering, said), *_of_others(peering, said)]


def _of_families(peering: Peering, said: Opening) -> Iterator[str]:
    for family in peering.families:
        if family not in said.families:
            yield f"the router does not offer {family}: enable the family at the router"
    for family in said.families:
        if family not in peering.families:
            yield f"the router offers {family}, which spec.families does not have"


def _of_restart(peering: Peering, said: Opening) -> Iterator[str]:
    """The families in its OPEN are those that it keeps itself; none of them keeps ours, too."""
    if peering.graceful_restart_s and said.restart_s is None:
        yield "the router does not restart gracefully: it drops our routes with the session"


def _of_others(peering: Peering, said: Opening) -> Iterator[str]:
    if not said.refresh:
        yield "the router has no route refresh: what it sent before cannot be asked for again"
    if not said.asn4 and max(peering.asn, peering.local_asn) >= _ASN2:
        yield "the router knows no AS numbers of four octets: it sees 23456 in their place"
    if Family.VPNV4 in peering.families and Family.VPNV4 not in said.next_hops:
        yield "the router takes no IPv6 next hop for IPv4 VPN prefixes (RFC 8950)"
