"""The paths that routes of VRFs name, each once: many routes share one, so they are counted.

A number is a hash of 32 bits, so two paths may have one: of 10,000 paths in one of 80 fabrics. They
may lead into two VRFs, so while both are there the number's row has no segments, and what has it is
dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mesh.core.groups import Followed
from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.core.table import Changes, Table
from srv6.vrf.findings import ONE_NUMBER
from srv6.vrf.rows import VRFPath, VRFReach, ZonedPrefix, paths_of


class Paths:
    """``table`` has the paths of ``reach``, by number; a change costs the routes that change."""

    def __init__(self, name: str, reach: Table[ZonedPrefix, VRFReach]) -> None:
        self.table: Table[int, VRFPath] = Table(name)
        self._reach = reach
        self._of: dict[ZonedPrefix, tuple[VRFPath, ...]] = {}
        self._count: Counter[VRFPath] = Counter()
        self._with: dict[int, set[VRFPath]] = {}  # the paths that have a number: nearly always one

    def derive(self, loop: Loop) -> None:
        """Add the derivation."""
        loop.work(self.table.name, Followed(self._reach, self.take), [], [self._reach])
        loop.derive([self._reach], self.table.mark_synced)

    def take(self, changes: Changes[ZonedPrefix, VRFReach]) -> None:
        """Take in changed routes: paths of new ones come before those of old ones go."""
        before = [self._of.pop(key, ()) for key in (*changes.upsert, *changes.delete)]
        for key, row in changes.upsert.items():
            self._of[key] = paths_of(key, row)
            self._count.update(self._of[key])
        named = {path for key in changes.upsert for path in self._of[key]}
        gone: set[VRFPath] = set()
        for paths in before:
            self._count.subtract(paths)
            gone.update(path for path in paths if not self._count[path])
        for path in named:
            self._with.setdefault(path.number, set()).add(path)
        for path in gone:
            self._with[path.number].discard(path)
            del self._count[path]
        now = {path.number: self._with[path.number] for path in (*named, *gone)}
        self.table.upsert({number: _row(paths) for number, paths in now.items() if paths})
        empty = [number for number, paths in now.items() if not paths]
        self.table.delete(empty)
        for number in empty:
            del self._with[number]

    def findings(self, node: str) -> Iterable[Finding]:
        """Paths that have one number, so that none of them is used."""
        for number, paths in self._with.items():
            if len(paths) > 1:
                sids = " and ".join(sorted(str(path.segments[-1]) for path in paths))
                text = f"paths to {sids} have the number {number}: neither is used on node {node}"
                about = (f"node/{node}",)
                yield Finding(ONE_NUMBER, f"{node}/vrfs", str(number), text, about)


def _row(paths: set[VRFPath]) -> VRFPath:
    first = next(iter(paths))
    return first if len(paths) == 1 else VRFPath((), first.source)
