"""Which of the routes to a prefix are used: best path and multipath. Pure.

Order (RFC 4271 9.1.2): local preference, length of the AS path, MED between routes of one
neighbouring AS. All that are equal then are used, at most ``PATHS`` next hops. A route whose next
hop is not on a link of this node is not used, because nothing here looks a next hop up in another
table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bgp.learned.rows import Learned, LearnedKey, State
from bgp.learned.rules import merged
from mesh.core.model import IP, Labels, Network
from mesh.core.received import Received
from mesh.route_table import Hop, Way

#: RFC 4271 5.1.5: of a route without local preference.
LOCAL_PREFERENCE = 100
#: Next hops of one prefix, at most.
PATHS = 16


def chosen(
    candidates: Mapping[LearnedKey, tuple[Received, Learned]], hops: Mapping[IP, Hop | str]
) -> dict[LearnedKey, Learned]:
    """Rows of one prefix: ``candidates`` that rules have accepted (``used``), and others."""
    rows = {key: _reached(row, hops) for key, (_, row) in candidates.items()}
    able = {key: candidates[key][0] for key, row in rows.items() if row.used}
    best = _best(able)
    for key in able:
        if key not in best:
            first = min(best, key=_order)
            rows[key] = _shadowed(rows[key], _worse(able, key, first))
    return _at_most(rows, best)


def _reached(row: Learned, hops: Mapping[IP, Hop | str]) -> Learned:
    """The row with the device of its next hop, or with what is wrong with that."""
    if not row.used:
        return row
    hop = hops.get(row.next_hop, "has not been looked up yet")
    if isinstance(hop, Hop):
        return replace(row, ifindex=hop.ifindex)
    text = f"its next hop {row.next_hop} {hop}"
    return replace(row, state=State.UNREACHED, reason=text)


def _shadowed(row: Learned, reason: str) -> Learned:
    return replace(row, state=State.SHADOWED, reason=reason, ifindex=0)


def _best(able: Mapping[LearnedKey, Received]) -> dict[LearnedKey, Received]:
    if not able:
        return {}
    top = min(map(_rank, able.values()))
    equal = {key: row for key, row in able.items() if _rank(row) == top}
    least: dict[int, int] = {}
    for row in equal.values():
        least[_neighbour(row)] = min(least.get(_neighbour(row), row.med or 0), row.med or 0)
    return {key: row for key, row in equal.items() if (row.med or 0) == least[_neighbour(row)]}


def _rank(row: Received) -> tuple[int, int]:
    return -_preference(row), len(row.as_path)


def _preference(row: Received) -> int:
    return LOCAL_PREFERENCE if row.local_preference is None else row.local_preference


def _neighbour(row: Received) -> int:
    return row.as_path[0] if row.as_path else 0


def _order(key: LearnedKey) -> tuple[int, int]:
    return key.peer.version, int(key.peer)


def _worse(able: Mapping[LearnedKey, Received], key: LearnedKey, best: LearnedKey) -> str:
    """Why the route of ``key`` comes behind that of ``best``."""
    this, that = able[key], able[best]
    if _preference(this) != _preference(that):
        what = f"local preference {_preference(this)}, less than {_preference(that)}"
    elif len(this.as_path) != len(that.as_path):
        what = f"an AS path of {len(this.as_path)}, longer than {len(that.as_path)}"
    else:
        what = f"MED {this.med or 0}, which another one of its AS beats"
    return f"the route of {best.peer} is better: this one has {what}"


def _at_most(
    rows: dict[LearnedKey, Learned], best: Mapping[LearnedKey, Received]
) -> dict[LearnedKey, Learned]:
    """No more next hops than a route of ours has room for; the first peers' stay."""
    taken: dict[IP, None] = {}
    for key in sorted(best, key=_order):
        taken.setdefault(rows[key].next_hop)
        if list(taken).index(rows[key].next_hop) >= PATHS:
            rows[key] = _shadowed(rows[key], f"{PATHS} equal routes are used already")
    return rows


def way_of(prefix: Network, rows: Mapping[LearnedKey, Learned]) -> dict[Network, Way]:
    """The route of a prefix in the kernel table: the next hops of all routes that are used."""
    hops = {Hop(row.next_hop, row.ifindex) for row in rows.values() if row.used}
    return {prefix: tuple(sorted(hops, key=lambda hop: int(hop.address)))} if hops else {}


def labels_of_prefix(prefix: Network, rows: Mapping[LearnedKey, Learned]) -> dict[Network, Labels]:
    """The labels of a prefix: those of all routes that are used; of two with one key, the first."""
    used = [rows[key] for key in sorted(rows, key=_order) if rows[key].used]
    labels = merged(row.labels for row in used)
    return {prefix: labels} if labels else {}
