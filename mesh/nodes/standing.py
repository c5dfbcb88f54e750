"""Nodes of our cluster, those too whose object has just gone.

A deleted Node object is a fact: nothing is announced for the node and it is no gateway any more.
But routers and nodes learn of it at different times, and pods still run on it. So the datapath
goes on knowing the node for ``STANDS_S``: what it still sends and gets is carried. A Node object
that comes back in that time changes nothing.
"""

from __future__ import annotations

from time import monotonic

from mesh.core.model import Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Changes, Table
from mesh.core.ticks import tick
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

#: Seconds for which a node whose object has gone stands: as long as a released block rests.
STANDS_S = 120.0
#: Seconds between looks at nodes whose object has gone.
LOOK_INTERVAL_S = 5.0


class StandingNodes:
    """``table`` is synced when the objects are."""

    def __init__(self, objects: Objects) -> None:
        self.table: Table[NodeKey, Node] = Table("standing node")
        self._objects = objects
        self._left: dict[NodeKey, float] = {}

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        nodes = self._objects[NODES]
        loop.follow(nodes, lambda changes: self.take(changes, monotonic()))
        loop.derive([nodes], self.table.mark_synced, name="standing nodes")

    def take(self, changes: Changes[NodeKey, Node], time_s: float) -> None:
        """Take in changes of the objects."""
        self.table.upsert(changes.upsert)
        for key in changes.upsert:
            self._left.pop(key, None)
        for key in changes.delete:
            if key in self.table.rows:
                self._left.setdefault(key, time_s)

    def settle(self, time_s: float) -> None:
        """Let go of the nodes that have stood for long enough."""
        gone = [key for key, since in self._left.items() if time_s - since >= STANDS_S]
        self.table.delete(gone)
        for key in gone:
            del self._left[key]

    async def run(self) -> None:
        """Let go of nodes until cancelled."""
        while True:
            await tick(LOOK_INTERVAL_S)
            self.settle(monotonic())
