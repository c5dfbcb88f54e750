"""How full tables and ports are, and from when on that is a finding. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.core.findings import Code
from mesh.core.model import Finding, Usage
from mesh.health.findings import HALF_FULL, NEARLY_FULL

#: Seconds below the share at which a finding ends, until it ends.
QUIET_S = 60.0
#: Tables that give way to new entries by themselves: they are full, and nothing is refused.
GIVE_WAY = ("fragments",)

_CONNECTIONS = (
    "from three quarters on, a pod that has its share of the table opens no further connection; "
    "when it is full, no new connection from or to the outside is opened (drop 155): give {map} "
    "more entries in `limits` of the agent's configuration, or find the pod that opens them "
    "(`meshgate flow list`)"
)
_MAPPINGS = (
    "when it is full, covered pods open no connection out of the mesh (drop 167): give {map} more "
    "entries in `limits` of the agent's configuration"
)
_PORTS = (
    "a pod that has its quota of ports opens no further connection to the busiest remote (drop "
    "247), nor does any pod of this node when all are lent (drop 248, or 236 of the node's own "
    "address): let nodes have more blocks (`blocksPerNode` of the egress section), or give the "
    "policy more addresses, or the section masquerade more `ports`"
)
_ROWS = (
    "rows that do not fit are left out, and finding D608 names the consequence: give {map} more "
    "entries in `limits` of the agent's configuration"
)
_MAPS = {
    "connections IPv4": "mg_ct_v4",
    "connections IPv6": "mg_ct_v6",
    "mappings IPv4": "mg_nat_v4",
    "mappings IPv6": "mg_nat_v6",
}
EMPTY: Mapping[str, int] = MappingProxyType({})


def share(usage: Usage) -> float:
    """The part in use; 0 of a table without entries."""
    return usage.used / usage.size if usage.size else 0.0


def means(what: str) -> str:
    """The connections or rows that are refused when the rest is used, and the remedy."""
    noun = what.partition(" ")[0]
    text = {"connections": _CONNECTIONS, "mappings": _MAPPINGS, "ports": _PORTS}.get(noun, _ROWS)
    return text.format(map=_MAPS.get(what, what))


@dataclass(frozen=True, slots=True)
class Mark:
    """Shares in use at which a finding begins, and below which it ends after ``QUIET_S``."""

    code: Code
    begins: float
    ends: float
    of: tuple[str, ...] = ()  # nouns that are judged; none: all


NEARLY = Mark(NEARLY_FULL, 3 / 4, 2 / 3)
#: Only tables that strangers can fill: an egress address, say, is there to be used.
HALF = Mark(HALF_FULL, 1 / 2, 2 / 5, ("connections",))


@dataclass(slots=True)
class Pressure:
    """Tables and addresses that are full up to a mark, and since when they have been less so."""

    _mark: Mark = NEARLY
    _alarms: dict[str, float] = field(default_factory=dict)  # -> when it last was not quiet

    def note(self, at: float, usages: Iterable[Usage]) -> None:
        """How much is in use at a time."""
        shares = {one.what: share(one) for one in usages if self._judges(one.what)}
        for what, part in shares.items():
            if part >= self._mark.begins or (what in self._alarms and part >= self._mark.ends):
                self._alarms[what] = at
        self._alarms = {
            what: last
            for what, last in self._alarms.items()
            if what in shares and at - last < QUIET_S
        }

    def _judges(self, what: str) -> bool:
        of = self._mark.of
        return what not in GIVE_WAY and (not of or what.partition(" ")[0] in of)

    def findings(
        self, node: str, usages: Mapping[str, Usage], half_open: Mapping[str, int] = EMPTY
    ) -> Iterator[Finding]:
        """One finding for each table that is so full; ``half_open`` are entries of some of them."""
        for what in sorted(self._alarms.keys() & usages.keys()):
            one = usages[what]
            some = f", {half_open[what]} of them half-open" if what in half_open else ""
            text = f"{one.used} of {one.size} are in use ({share(one):.0%}){some}: {means(what)}"
            yield Finding(self._mark.code, f"{node}/agent", what, text, (f"node/{node}",))


def findings(
    node: str, half: Pressure, nearly: Pressure, usages: Mapping[str, Usage],
    half_open: Mapping[str, int],
) -> Iterator[Finding]:  # fmt: skip
    """Of both marks: a table that is nearly full is not said to be half full, too."""
    worse = list(nearly.findings(node, usages, half_open))
    yield from worse
    known = {one.field for one in worse}
    for one in half.findings(node, usages, half_open):
        if one.field not in known:
            yield one
