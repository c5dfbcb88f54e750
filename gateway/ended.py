"""Egress addresses that were evicted or denied: how their connections end. Pure.

A connection stays in the table of its node while it is idle. When its address is cut, the next
packet of either end is answered by RST (``bpf/include/reset.h``). The datapath learns of it by a
row, because an address whose row is only missing ends nothing. For ``ACCEPTS_S`` the row names the
last gateways, by which the other end is told; afterwards only the pod is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from gateway.members import ACCEPTS_S, Gateways
from mesh.core.model import IP

#: How long an ended address is remembered: an idle connection stays in the table for less
#: (``mesh/datapath/sweep.py``, ``established``).
REMEMBERED_S = 7800.0


@dataclass(frozen=True, slots=True)
class Ending:
    """The time from which the address was cut, and the gateways until then."""

    since: float
    gateways: tuple[IPv4Address, ...]


def endings(
    cut: Collection[IP],
    named: Collection[IP],
    last: Gateways,
    ended: Mapping[IP, Ending],
    time_s: float,
) -> dict[IP, Ending]:
    """The addresses that have ended: ``cut`` now, or once, and ``named`` by nobody since.

    ``last`` are the gateways of before, ``ended`` the endings that were known already.
    """
    kept = {
        address: ending
        for address, ending in ended.items()
        if address not in named and time_s - ending.since < REMEMBERED_S
    }
    return kept | {
        address: ended.get(address) or Ending(time_s, tuple(last.get(address, ())))
        for address in cut
    }


def silent(rows: Gateways) -> set[IP]:
    """The addresses with which nothing leaves any more, of the rows of ``mg_ended``."""
    return {address for address, gateways in rows.items() if not gateways}


def ended_rows(ended: Mapping[IP, Ending], time_s: float) -> Gateways:
    """``mg_ended``: each ended address with the gateways that may still send for it."""
    return {
        address: ending.gateways if time_s - ending.since < ACCEPTS_S else ()
        for address, ending in ended.items()
    }
