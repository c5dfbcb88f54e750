"""The router's side of its sessions with nodes: rows from which each router's text is made.

``bgp/routers/{frr,bird,gobgp,iosxr,junos}.py`` each have ``router_config``, which takes these rows.
Pure: passwords are given by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bgp.peer import BFD
from bgp.route import Family
from mesh.core.model import IP

UNICAST = (Family.IPV4, Family.IPV6)
VPN = (Family.VPNV4, Family.VPNV6)
#: What stands in place of a password that is not known here.
UNKNOWN_PASSWORD = "CHANGE-ME"  # noqa: S105  # it says that it is none
HOLD_S = 90
#: What ends or changes a text in quotation marks.
BREAKING = '"\\'


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One speaker as the router sees it; ``password`` is the TCP MD5 key, empty for none.

    ``multihop`` is the number of hops between the two when there is a router in between, else 0.
    ``dials``: the speaker opens the session, and the router waits. ``is_told``: the router
    announces its routes to it. ``is_client``: the router reflects routes of iBGP to it (RFC 4456).
    """

    address: IP
    asn: int
    password: str = ""
    name: str = ""
    families: tuple[Family, ...] = UNICAST
    hold_s: int = HOLD_S
    port: int = 179
    gtsm: bool = False
    multihop: int = 0
    bfd: BFD | None = None
    dials: bool = True
    is_told: bool = True
    is_client: bool = False

    @property
    def keepalive_s(self) -> int:
        """Seconds between two KEEPALIVE messages: a third of the hold time (RFC 4271 10)."""
        return max(1, self.hold_s // 3)


def in_order(neighbors: Iterable[Neighbor]) -> list[Neighbor]:
    """IPv4 first, then by address."""
    return sorted(neighbors, key=lambda one: (one.address.version, one.address))


def families_of(neighbors: Iterable[Neighbor]) -> list[Family]:
    """The families of any of them: unicast first."""
    used = {family for one in neighbors for family in one.families}
    return [family for family in (*UNICAST, *VPN) if family in used]


def plain(peer: Neighbor) -> str:
    """The password where a router's text has it as one word.

    Raises:
        ValueError: the router's text cannot say it.

    """
    return _without(peer, " \t", "with a space")


def quoted(peer: Neighbor) -> str:
    """The password in quotation marks.

    Raises:
        ValueError: the router's text cannot say it.

    """
    return f'"{_without(peer, BREAKING, "with a quotation mark or backslash")}"'


def _without(peer: Neighbor, characters: str, kind: str) -> str:
    if any(one in characters or not one.isprintable() for one in peer.password):
        raise ValueError(f"the router's text cannot say a password {kind}: {peer.address}")
    return peer.password
