"""The health of a node's datapath: counters and tables are looked at for as long as the agent runs.

Walk: ``run`` reads the drop counters every few seconds, and counts tables every ten; ``findings``
and ``status`` only report the last look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from mesh.core.model import IP, Finding, PortsInUse, Usage
from mesh.core.noun import Row
from mesh.core.reconcile import Applied
from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.datapath.programs import Datapath
from mesh.health import counts, rules, shares
from mesh.health.history import Dropped, History

#: Seconds between looks at the drop counters, and between counts of the tables.
LOOK_S, COUNT_S = 5.0, 10.0


def counters(keys: Any, values: Any) -> dict[int, Dropped]:
    """``mg_drop`` by reason; ``keys`` and ``values[key, cpu]`` come from a dump."""
    packets, pod, overlay = (
        values[name].sum(axis=1, dtype="uint64").tolist()
        for name in ("packets", "from_pod", "from_overlay")
    )
    rows = zip(keys.ravel().tolist(), packets, pod, overlay, strict=True)
    # Counters of different CPUs are not read at one moment, so a part may be ahead of the whole.
    return {
        number: Dropped(mine, others, max(0, all_ - mine - others))
        for number, all_, mine, others in rows
        if all_
    }


def map_usages(node: str, applied: Iterable[Applied]) -> Iterator[Usage]:
    """The maps that rows are written into."""
    for one in applied:
        if one.limit.capacity is not None:
            yield Usage(one.name, node, one.used, one.limit.capacity)


class Health:
    """``ports`` says how many ports of each address are this node's; ``texts`` name the reasons.

    ``more`` gives the other tables with a size: maps of rows, and those of features. ``in_use`` is
    filled: one row, the last count of ports.
    """

    def __init__(
        self,
        node: str,
        datapath: Datapath,
        texts: Mapping[int, str],
        ports: Callable[[], Mapping[IP, int]],
        more: Callable[[], Iterable[Usage]],
        in_use: Table[str, PortsInUse],
    ) -> None:
        self._node, self._datapath, self._texts = node, datapath, texts
        self._ports, self._more, self._in_use = ports, more, in_use
        self._counts = 0
        self._names = {number: name for name, number in datapath.enum("drop_reason").items()}
        self._history = History()
        self._alarms: frozenset[rules.Alarm] = frozenset()
        self._nearly, self._half = shares.Pressure(), shares.Pressure(shares.HALF)
        self._counted = counts.Counted()

    def look(self) -> None:
        """Read the counters, and judge the last minute."""
        now = time.monotonic()
        self._history.note(now, counters(*self._datapath.map("mg_drop").dump_percpu()))
        self._alarms = rules.judged(self._alarms, self._lately())
        usages = self._usages().values()
        for pressure in (self._nearly, self._half):
            pressure.note(now, usages)

    async def count(self) -> None:
        """Count the tables, in a thread."""
        self._counted = await asyncio.to_thread(counts.counted, self._datapath)
        self._counts += 1
        self._in_use.replace({"": PortsInUse(self._counts, self._counted.ports)})

    async def run(self) -> None:
        """Look for ever."""
        counted = -COUNT_S
        while True:
            if (now := time.monotonic()) - counted >= COUNT_S:
                counted = now
                await self.count()
            self.look()
            await tick(LOOK_S)

    def findings(self) -> Iterable[Finding]:
        """Drops at a rate, and tables and ports that are nearly full."""
        texts = {name: self._texts.get(number, name) for number, name in self._names.items()}
        yield from rules.findings(self._node, self._alarms, self._lately(), texts)
        yield from shares.findings(
            self._node, self._half, self._nearly, self._usages(), self._counted.half_open
        )

    def status(self) -> dict[str, list[Row]]:
        """``drops`` of the last minute and ``usage``, for ``meshgate status``."""
        self.look()
        drops = [
            {"reason": self._texts.get(number, str(number)), "packets": dropped.packets}
            | {"node": self._node}
            for number, dropped in sorted(self._history.lately().items())
        ]
        return {"drops": drops, "usage": [asdict(one) for one in self._usages().values()]}

    def _lately(self) -> dict[str, Dropped]:
        lately = self._history.lately()
        return {self._names.get(number, str(number)): one for number, one in lately.items()}

    def _usages(self) -> dict[str, Usage]:
        """By name; a row that a feature makes itself replaces ours."""
        sizes, ports = self._counted.sizes, self._counted.ports
        found = counts.usages(self._node, sizes, ports, self._ports())
        rows = {one.what: one for one in found}
        return rows | {one.what: one for one in self._more()}
