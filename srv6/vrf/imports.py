"""Routes of routers that VRFs import: which are used, and why others are not. Pure.

Order of the rules: an echo of what this node announces is left out; a route without a target of a
VRF is nobody's; then what makes it unusable, in words (RFC 9252 7 and 8). Of the usable routes to a
prefix the best ones are used: local preference, length of the AS path, MED (RFC 4271 9.1.2); equal
ones share the flows.

A SID of one of our own nodes has to be that of the importing VRF. One that another VRF has closes
the prefix: packets would come out in another tenant's network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv6Address, IPv6Network

from mesh.core.model import IP, Network
from mesh.core.received import Received, ReceivedKey
from srv6.behaviours import families_of, name_of
from srv6.sids import SID
from srv6.vrf.kind import VRF
from srv6.vrf.rows import MOST_PATHS, VRFPath, VRFReach

#: RFC 4271 5.1.5: of a route without local preference.
LOCAL_PREFERENCE = 100
#: In front of a route target, as ``Received.extended`` spells it.
TARGET = "target:"


class ImportState(StrEnum):
    """What becomes of a route in a VRF."""

    USED = "used"
    SHADOWED = "shadowed"  # another route comes first
    UNUSABLE = "unusable"  # its SID cannot be sent to
    CLOSED = "closed"  # its SID is another VRF's


@dataclass(frozen=True, slots=True)
class ImportKey:
    """A route of a router in a VRF."""

    vrf: str
    prefix: Network
    peer: IP
    rd: str
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """A table of 100,000 rows asks each key for its hash ten times a change."""
        object.__setattr__(self, "_hash", hash((self.vrf, self.prefix, self.peer, self.rd)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Imported:
    """The route; ``reason`` says in words why it is not used. ``rank``: the least is the best."""

    next_hop: IP
    sid: IPv6Address | None
    behaviour: str
    state: ImportState
    reason: str = ""
    communities: tuple[str, ...] = ()
    rank: tuple[int, int] = (0, 0)
    neighbour: int = 0
    med: int = 0

    @property
    def used(self) -> bool:
        """Whether packets take it."""
        return self.state is ImportState.USED


@dataclass(frozen=True, slots=True)
class ImportFacts:
    """What the rules look at beside a route.

    ``echoes`` are the route distinguishers that this node alone announces, ``locators`` those of
    all nodes of the cluster with the node's name. ``trusts`` says whether a router's SIDs are
    accepted. The facts are the same for many routes, so ``lengths`` has the locators' lengths.
    """

    node: str
    vrfs: Mapping[str, VRF] = field(default_factory=dict)
    echoes: Collection[str] = ()
    locators: Mapping[IPv6Network, str] = field(default_factory=dict)
    trusts: Callable[[IP], bool] = lambda _: False
    lengths: Collection[int] = ()

    def node_of(self, sid: IPv6Address) -> str:
        """The node of our cluster in whose locator a SID is; empty: in none."""
        places = (IPv6Network((sid, length), strict=False) for length in self.lengths)
        return next((self.locators[one] for one in places if one in self.locators), "")


def imported(
    prefix: Network,
    rows: Mapping[ReceivedKey, Received],
    sids: Mapping[IPv6Address, SID],
    facts: ImportFacts,
) -> dict[ImportKey, Imported]:
    """The routes to a prefix in each VRF that imports them; ``sids`` are those of our nodes."""
    found: dict[str, dict[ImportKey, Imported]] = {}
    for key, row in rows.items():
        if key.rd in facts.echoes or _is_own(row.sid, sids, facts.node):
            continue
        for vrf in importing(row, facts.vrfs):
            name = ImportKey(vrf.name, prefix, key.peer, key.rd)
            found.setdefault(vrf.name, {})[name] = _judged(key, row, vrf, sids, facts)
    return {key: row for by_vrf in found.values() for key, row in _chosen(by_vrf).items()}


def importing(row: Received, vrfs: Mapping[str, VRF]) -> list[VRF]:
    """The VRFs that import one of the route's targets."""
    targets = {one.removeprefix(TARGET) for one in row.extended if one.startswith(TARGET)}
    return [vrf for vrf in vrfs.values() if targets.intersection(vrf.imports)]


def _is_own(sid: IPv6Address | None, sids: Mapping[IPv6Address, SID], node: str) -> bool:
    row = sids.get(sid) if sid is not None else None
    return row is not None and row.node == node


def _judged(
    key: ReceivedKey, row: Received, vrf: VRF, sids: Mapping[IPv6Address, SID], facts: ImportFacts
) -> Imported:
    preference = LOCAL_PREFERENCE if row.local_preference is None else row.local_preference
    made = Imported(
        row.next_hop,
        row.sid,
        name_of(row.behaviour) if row.sid is not None else "",
        ImportState.USED,
        communities=tuple(sorted({*row.communities, *row.large, *row.extended})),
        rank=(-preference, len(row.as_path)),
        neighbour=row.as_path[0] if row.as_path else 0,
        med=row.med or 0,
    )
    if other := _another(row.sid, vrf, sids):
        reason = f"{row.sid} is a SID of VRF {other}"
        return replace(made, state=ImportState.CLOSED, reason=reason)
    reason = _unusable(key, row, sids, facts)
    return replace(made, state=ImportState.UNUSABLE, reason=reason) if reason else made


def _another(sid: IPv6Address | None, vrf: VRF, sids: Mapping[IPv6Address, SID]) -> str:
    """The other VRF of our cluster that has the SID."""
    owner = sids[sid].vrf if sid is not None and sid in sids else vrf.name
    return owner if owner != vrf.name else ""


def _unusable(
    key: ReceivedKey, row: Received, sids: Mapping[IPv6Address, SID], facts: ImportFacts
) -> str:
    """Why the SID of a route cannot be sent to; empty: it can."""
    if row.unusable:
        return row.unusable
    if row.sid is None:
        return "it has no SRv6 SID: a plain MPLS VPN"
    if not facts.trusts(key.peer):
        return f"SIDs of {key.peer} are not accepted: acceptSIDs of its BGPPeer is off"
    return _wrong_behaviour(row.behaviour, key.prefix.version) or _unknown(row.sid, sids, facts)


def _wrong_behaviour(code: int, version: int) -> str:
    name = name_of(code)
    if not families_of(name):
        return f"behaviour {name} ({code}) is none of a VRF"
    return "" if version in families_of(name) else f"behaviour {name} takes no IPv{version}"


def _unknown(sid: IPv6Address, sids: Mapping[IPv6Address, SID], facts: ImportFacts) -> str:
    """A SID in the locator of one of our nodes has to be one that we know."""
    if sid in sids or not (node := facts.node_of(sid)):
        return ""
    return f"{sid} is in the locator of {node}, and no VRF has it"


def _chosen(rows: dict[ImportKey, Imported]) -> dict[ImportKey, Imported]:
    """The best of the usable routes; the others say which is better."""
    able = {key: row for key, row in rows.items() if row.used}
    if not able:
        return rows
    top = min(row.rank for row in able.values())
    equal = {key: row for key, row in able.items() if row.rank == top}
    least: dict[int, int] = {}
    for row in equal.values():
        least[row.neighbour] = min(least.get(row.neighbour, row.med), row.med)
    best = sorted(
        (key for key, row in equal.items() if row.med == least[row.neighbour]), key=_order
    )
    for number, key in enumerate(best):
        if number >= MOST_PATHS:
            reason = f"{MOST_PATHS} equal routes are used already"
            rows[key] = replace(rows[key], state=ImportState.SHADOWED, reason=reason)
    for key in able:
        if key not in best:
            reason = f"the route of {best[0].peer} is better"
            rows[key] = replace(rows[key], state=ImportState.SHADOWED, reason=reason)
    return rows


def within(
    rows: Mapping[ImportKey, Imported], admitted: Collection[ImportKey]
) -> dict[ImportKey, Imported]:
    """The routes to a prefix in a VRF: the best of those within the limits of their routers."""
    made = {}
    for key, row in rows.items():
        if row.state is ImportState.UNUSABLE:
            made[key] = row
        elif key not in admitted:
            reason = f"{key.peer} announces more than maxPrefixes"
            made[key] = replace(row, state=ImportState.SHADOWED, reason=reason)
        elif row.state is ImportState.SHADOWED:
            made[key] = replace(row, state=ImportState.USED, reason="")
        else:
            made[key] = row
    return _chosen(made)


def _order(key: ImportKey) -> tuple[int, int, str]:
    return key.peer.version, int(key.peer), key.rd


def reach(
    rows: Mapping[ImportKey, Imported],
    vrf: VRF,
    source: IPv6Address | None,
    identity: int,
    bfd: Mapping[IP, int],
) -> VRFReach | None:
    """Where a prefix of a VRF is; None: no route is used, and none closes it.

    ``bfd`` are the numbers of BFD sessions by router.
    """
    if any(row.state is ImportState.CLOSED for row in rows.values()):
        return VRFReach((), identity, closed=True)
    used = sorted((key for key, row in rows.items() if row.used), key=_order)
    numbers: dict[IPv6Address, set[int]] = {}
    for key in used:
        if sid := rows[key].sid:
            numbers.setdefault(sid, set()).add(_liveness(key, rows[key], bfd))
    paths = tuple(
        VRFPath((*vrf.segments, sid), source, bfd=found.pop() if len(found) == 1 else 0)
        for sid, found in numbers.items()
        if source
    )
    return VRFReach(paths, identity) if paths else None


def _liveness(key: ImportKey, row: Imported, bfd: Mapping[IP, int]) -> int:
    """The BFD session of a route's way; of a next hop behind the router BFD says nothing: 0."""
    return bfd.get(key.peer, 0) if row.next_hop == key.peer else 0


class Admitted:
    """At most ``maxPrefixes`` of a router's prefixes in a VRF: those that came first."""

    def __init__(self) -> None:
        self._inside: dict[tuple[str, IP], dict[ImportKey, None]] = {}
        self._waiting: dict[tuple[str, IP], dict[ImportKey, None]] = {}

    def put(self, key: ImportKey, most: int) -> bool:
        """Whether the route is within the limit."""
        place = (key.vrf, key.peer)
        inside = self._inside.setdefault(place, {})
        if key in inside or len(inside) < most:
            inside[key] = None
            self._waiting.get(place, {}).pop(key, None)
            return True
        self._waiting.setdefault(place, {})[key] = None
        return False

    def drop(self, key: ImportKey, most: int) -> Iterable[ImportKey]:
        """The route has gone; those that have room now."""
        place = (key.vrf, key.peer)
        inside, waiting = self._inside.get(place, {}), self._waiting.get(place, {})
        waiting.pop(key, None)
        inside.pop(key, None)
        came = []
        while waiting and len(inside) < most:
            first = next(iter(waiting))
            del waiting[first]
            inside[first] = None
            came.append(first)
        return came

    def fit(self, vrf: str, most: int) -> tuple[list[ImportKey], list[ImportKey]]:
        """Another limit: routes that have room now, and those that have none any more."""
        came: list[ImportKey] = []
        gone: list[ImportKey] = []
        for place in [one for one in {**self._inside, **self._waiting} if one[0] == vrf]:
            inside = self._inside.setdefault(place, {})
            waiting = self._waiting.setdefault(place, {})
            if most < len(inside):
                last = [*inside][most:]
                self._inside[place] = dict.fromkeys([*inside][:most])
                self._waiting[place] = dict.fromkeys((*last, *waiting))
                gone += last
            elif waiting and most > len(inside):
                first = [*waiting][: most - len(inside)]
                inside.update(dict.fromkeys(first))
                self._waiting[place] = dict.fromkeys([*waiting][len(first) :])
                came += first
        return came, gone

    def __contains__(self, key: ImportKey) -> bool:
        return key in self._inside.get((key.vrf, key.peer), {})

    def beyond(self) -> set[ImportKey]:
        """The routes that wait."""
        return {key for keys in self._waiting.values() for key in keys}

    def over(self) -> dict[tuple[str, IP], int]:
        """How many prefixes are beyond the limit, by VRF and router."""
        return {place: len(keys) for place, keys in self._waiting.items() if keys}
