"""Whether etcd and BGP say the same of a prefix: both tell of our own nodes (D140).

Each may be late for some seconds. A difference that stays is a finding: that of etcd is used, and a
SID of another VRF is closed by the speaker already (``imports.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv6Address

from mesh.core.feature import Maps
from srv6.vrf import maps as entries
from srv6.vrf.rows import VRFPath, VRFRoute, ZonedPrefix

#: Seconds for which the two may differ.
DIFFER_S = 30.0
Ends = dict[ZonedPrefix, frozenset[IPv6Address]]

#: Routes that are looked up before others have their turn.
_PIECE = 128


class Told:
    """What the speaker has written of some hosts; it may have written many more."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._routes, self._vias = maps.enum("vrf_route_flag"), maps.enum("vrf_via_flag")

    async def ends(
        self, keys: Collection[ZonedPrefix]
    ) -> dict[ZonedPrefix, frozenset[IPv6Address]]:
        """The SIDs to which it leads these hosts. Raises OSError."""
        routes: dict[ZonedPrefix, VRFRoute] = {}
        paths: dict[int, VRFPath] = {}
        for number, key in enumerate(keys):
            if number % _PIECE == 0:
                await asyncio.sleep(0)
            found = self._maps.lookup("mg_vrf_bgp_host", entries.host_key(key))
            if found is not None:
                routes[key] = entries.route_of(found, self._routes)
        for number in {number for row in routes.values() for number in row.via}:
            found = self._maps.lookup("mg_vrf_bgp_via", number)
            if found is not None:
                paths[number] = entries.decode_path(number, found, self._vias)[1]
        return ends(routes, paths, routes)


def ends(
    routes: Mapping[ZonedPrefix, VRFRoute],
    paths: Mapping[int, VRFPath],
    keys: Iterable[ZonedPrefix],
) -> dict[ZonedPrefix, frozenset[IPv6Address]]:
    """The SIDs to which these routes lead."""
    return {
        key: frozenset(
            paths[n].segments[-1] for n in routes[key].via if n in paths and paths[n].segments
        )
        for key in keys
        if key in routes
    }


class Differences:
    """Prefixes whose SIDs differ, each since when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[ZonedPrefix, float] = {}
        self._sids: dict[ZonedPrefix, tuple[IPv6Address, IPv6Address]] = {}

    def take(
        self,
        etcd: Mapping[ZonedPrefix, frozenset[IPv6Address]],
        bgp: Mapping[ZonedPrefix, frozenset[IPv6Address]],
    ) -> None:
        """Compare what both have of the same prefixes."""
        now = self._clock()
        apart = {
            key: (min(etcd[key]), min(sids))
            for key, sids in bgp.items()
            if sids and etcd.get(key) and not sids & etcd[key]
        }
        self._sids = apart
        self._since = {key: self._since.get(key, now) for key in apart}

    def lasting(self) -> dict[ZonedPrefix, tuple[IPv6Address, IPv6Address]]:
        """The SIDs of etcd and of BGP, of prefixes that have differed for longer."""
        late = self._clock() - DIFFER_S
        return {key: self._sids[key] for key, since in self._since.items() if since < late}
