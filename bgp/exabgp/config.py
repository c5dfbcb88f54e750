"""The text of ``exabgp.conf``: the relay and one neighbor per session.

Rules (bgp-exabgp.md 5 and 10): ``manual-eor``, else the router drops at once what we have not
announced again; ``adj-rib-out``, so that a reconnect replays; all families on one session, because
a router takes one session from an address; explicit next hops; a listener only for a session that
waits for its router. ``packets`` instead of ``parsed`` for UPDATEs: ExaBGP then does not decode the
router's, so that none of them can end the session (change 6 of ``patches.py``).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from bgp.desired import Peering
from bgp.route import Family

PROCESS = "relay"
#: ``description`` of a neighbor whose VPN routes survive a graceful restart, too (change 8).
GRACEFUL_VPN = "graceful-vpn"
#: TCP port of BGP (RFC 4271).
_PORT = 179
#: TTL of a packet that no router has forwarded (RFC 5082).
_DIRECT = 255

_WORD = re.compile(r"[A-Za-z0-9_./:=+-]+")


def config_text(
    sessions: Iterable[Peering],
    router_id: IPv4Address,
    relay: Sequence[str],
    *,
    former: bool = False,
) -> str:
    """The whole file; ``relay`` is the command that ExaBGP starts.

    A ``former`` ExaBGP lacks the changes that UPDATEs as octets need; it is told what it was told
    before, because a session whose text has another meaning starts over. Raises ValueError for a
    word that ExaBGP's grammar would split.
    """
    for word in relay:
        if not _WORD.fullmatch(word):
            raise ValueError(f"a path in ExaBGP's configuration cannot contain {word!r}")
    ordered = sorted(sessions, key=lambda one: (one.address.version, str(one.address)))
    head = f"process {PROCESS} {{ run {' '.join(relay)}; encoder json; }}\n"
    return head + "".join(_neighbor(peering, router_id, former=former) for peering in ordered)


def _neighbor(peering: Peering, router_id: IPv4Address, *, former: bool) -> str:
    restart = peering.graceful_restart_s or "disable"
    families = [f for f in Family if f in peering.families and not (former and f.vpn)]
    heard = (
        "receive { packets; notification; } send { parsed; notification; }"
        if former
        else "receive { packets; notification; open; update; refresh; } "
        "send { packets; parsed; notification; update; }"
    )
    hops = "" if former else _next_hops(families)
    return f"""neighbor {peering.address} {{
  router-id {peering.router_id or router_id}; local-address {peering.local_address};
  local-as {peering.local_asn}; peer-as {peering.asn}; hold-time {peering.hold_s};
  {_transport(peering)}
  adj-rib-out true; adj-rib-in false; group-updates true; manual-eor true;
  family {{ {" ".join(f"{family};" for family in families)} }}
  {hops}
  capability {{ graceful-restart {restart}; route-refresh enable; asn4 enable;{
        " nexthop enable;" if hops else ""
    } }}
  api {{ processes [ {PROCESS} ]; neighbor-changes; negotiated;
    {heard} }}
}}
"""


def _transport(peering: Peering) -> str:
    """Who dials, to which port, with which TTL and key."""
    words = []
    if peering.passive:
        words.append(f"passive true; listen {peering.port};")
    elif peering.port != _PORT:
        words.append(f"connect {peering.port};")
    if peering.ttl_security:
        words.append(f"outgoing-ttl {_DIRECT}; incoming-ttl {_DIRECT};")
    elif peering.multihop:
        words.append(f"outgoing-ttl {peering.multihop};")
    if peering.password:  # in base64: a key may have any character
        key = b64encode(peering.password.encode()).decode()
        words.append(f"md5-base64 true; md5-password {key};")
    if peering.graceful_vpn:
        words.append(f"description {GRACEFUL_VPN};")
    return " ".join(words)


def _next_hops(families: Sequence[Family]) -> str:
    """IPv4 prefixes may have an IPv6 next hop (RFC 8950); ExaBGP wants both families for it."""
    pairs = ((Family.IPV4, Family.IPV6), (Family.VPNV4, Family.VPNV6))
    found = [f"{four} ipv6;" for four, six in pairs if four in families and six in families]
    return f"nexthop {{ {' '.join(found)} }}" if found else ""
