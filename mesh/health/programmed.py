"""Which nodes hold an object as it stands: the agents' keys, and the nodes that lack a generation.

    agent: objects in its tables -> everything written -> one key of the node
    controller: the keys of all nodes -> the nodes that do not hold a generation of an object

The key is ``meshgate/v1/<cluster>/programmed/<node>``; its value is the generation of each object
of ours, by the object's name in findings, and numbers that other rooms of the agent say by names
of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mesh.core.model import Node, NodeKey
from mesh.core.reconcile import Applied, Loop, Target
from mesh.core.table import Changes, Table
from mesh.core.ticks import tick
from mesh.objects.sources import Sources

#: Seconds between two values of a node's key, at least.
EACH_S = 1.0


class Programmed:
    """A node says which generations it holds. ``key_of`` makes the key that says so.

    ``more``: further numbers by name.

    Rule 1: a generation is told once everything that was derived from its row stands in the targets
            of the node (maps, routes, links), without an error.
    Rule 2: nothing is told before all objects were listed, so a restart takes nothing back.
    """

    def __init__(
        self,
        key_of: Callable[[Mapping[str, int]], Mapping[str, bytes]],
        sources: Sources,
        loop: Loop,
        more: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.told: Table[str, bytes] = Table("programmed objects of the node")
        self._key_of, self._sources, self._loop, self._more = key_of, sources, loop, more
        self._own: Applied | None = None

    def apply(self, target: Target[str, bytes]) -> None:
        """Keep the node's key in the store."""
        self._own = self._loop.apply(self.told, target)

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self.look()
            await tick(EACH_S)

    async def look(self) -> None:
        """Tell what is held, when that has changed; returns when the targets have it."""
        if not self._sources.objects.findings.synced:
            return
        rows = self._key_of({**self._sources.generations, **self._more()})
        if self.told.synced and self.told.rows == rows:
            return
        for applied, revision in await self._loop.gate.look(self._revisions):
            await applied.reached(revision)
        self.told.upsert(rows)
        self.told.delete([key for key in self.told.rows if key not in rows])
        self.told.mark_synced()

    def _revisions(self) -> list[tuple[Applied, int]]:
        applied = self._loop.applied
        return [(one, one.table.revision) for one in applied if one is not self._own]


@dataclass(slots=True)
class Holders:
    """Nodes by the generation of one object that they hold."""

    of: dict[int, set[str]] = field(default_factory=dict)

    def move(self, node: str, old: int | None, new: int | None) -> None:
        """A node holds another generation; None: none."""
        if old is not None and old in self.of:
            self.of[old].discard(node)
            if not self.of[old]:
                del self.of[old]
        if new is not None:
            self.of.setdefault(new, set()).add(node)


class HeldObjects:
    """Which nodes lack a generation of an object.

    A change costs the objects that have changed on its node; a question costs the nodes only when
    some of them lack the generation.
    """

    def __init__(
        self, nodes: Table[NodeKey, Node], programmed: Table[str, Mapping[str, int]]
    ) -> None:
        self._nodes, self._programmed = nodes, programmed
        self._counted: dict[str, Mapping[str, int]] = {}  # of each node of the cluster
        self._holders: dict[str, Holders] = {}

    def derive(self, loop: Loop) -> None:
        """Follow the nodes and their keys."""
        loop.follow(self._nodes, self._take_nodes)
        loop.follow(self._programmed, self._take_keys)

    def lacking(self, name: str, generation: int) -> Sequence[str]:
        """Names of the nodes that do not hold this generation of the object, in their order."""
        holders = self._holders.get(name)
        hold = holders.of.get(generation, set()) if holders else set()
        return () if len(hold) == len(self._counted) else sorted(self._counted.keys() - hold)

    def _take_nodes(self, changes: Changes[NodeKey, Node]) -> None:
        for key in changes.upsert:
            self._count(key.name, self._programmed.rows.get(key.name, {}))
        for key in changes.delete:
            self._count(key.name, {})
            self._counted.pop(key.name, None)

    def _take_keys(self, changes: Changes[str, Mapping[str, int]]) -> None:
        for node, held in changes.upsert.items():
            if node in self._counted:
                self._count(node, held)
        for node in changes.delete:
            if node in self._counted:
                self._count(node, {})

    def _count(self, node: str, held: Mapping[str, int]) -> None:
        before = self._counted.get(node, {})
        self._counted[node] = held
        for name in {name for name, _ in before.items() ^ held.items()}:
            holders = self._holders.setdefault(name, Holders())
            holders.move(node, before.get(name), held.get(name))
            if not holders.of:
                del self._holders[name]
