"""The text of ``exabgp.conf``: the relay and one neighbor per session.

Rules (bgp-exabgp.md 5 and 10): ``manual-eor``, else the router drops at once what we have not
announced again; ``adj-rib-out``, so that a reconnect replays; both families on every session with
explicit next hops; no listener. ``packets`` instead of ``parsed`` for what is received: with it
ExaBGP does not decode the router's UPDATEs, so that none of them can end the session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from bgp.desired import Peering
from bgp.exabgp.lines import FAMILIES

PROCESS = "relay"

_WORD = re.compile(r"[A-Za-z0-9_./:=+-]+")


def config_text(sessions: Iterable[Peering], router_id: IPv4Address, relay: Sequence[str]) -> str:
    """The whole file; ``relay`` is the command that ExaBGP starts.

    Raises ValueError for a word that ExaBGP's grammar would split.
    """
    for word in relay:
        if not _WORD.fullmatch(word):
            raise ValueError(f"a path in ExaBGP's configuration cannot contain {word!r}")
    ordered = sorted(sessions, key=lambda peering: (peering.address.version, peering.address))
    head = f"process {PROCESS} {{ run {' '.join(relay)}; encoder json; }}\n"
    return head + "".join(_neighbor(peering, router_id) for peering in ordered)


def _neighbor(peering: Peering, router_id: IPv4Address) -> str:
    restart = peering.graceful_restart_s or "disable"
    families = " ".join(f"{family};" for family in FAMILIES)
    return f"""neighbor {peering.address} {{
  router-id {router_id}; local-address {peering.local_address};
  local-as {peering.local_asn}; peer-as {peering.asn}; hold-time {peering.hold_s};
  adj-rib-out true; adj-rib-in false; group-updates true; manual-eor true;
  family {{ {families} }}
  capability {{ graceful-restart {restart}; route-refresh enable; asn4 enable; }}
  api {{ processes [ {PROCESS} ]; neighbor-changes; negotiated;
    receive {{ packets; notification; }} send {{ parsed; notification; }} }}
}}
"""
