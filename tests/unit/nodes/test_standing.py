"""A node whose object has gone stands for two minutes, and longer for nothing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from time import monotonic

from mesh.core.model import Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.nodes.standing import STANDS_S, StandingNodes
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

ONE = Node("east", "east-1", (IPv4Address("10.99.0.11"),))
TWO = Node("east", "east-2", (IPv4Address("10.99.0.12"),))
MOVED = replace(TWO, addresses=(IPv4Address("10.99.0.13"),))


class Story:
    """Node objects, and a time that the test moves."""

    def __init__(self) -> None:
        self.time = float(int(monotonic()))  # sums of whole seconds are exact
        self.objects = Objects(KINDS.nouns)
        self.standing = StandingNodes(self.objects)
        self.loop = Loop()
        self.standing.derive(self.loop)

    def objects_are(self, *nodes: Node) -> None:
        table = self.objects[NODES]
        revision = table.revision
        table.replace({NodeKey(one.cluster, one.name): one for one in nodes})
        changes = table.changes(revision)
        assert changes is not None
        self.standing.take(changes, self.time)

    def later(self, seconds: float) -> list[Node]:
        self.time += seconds
        self.standing.settle(self.time)
        return sorted(self.standing.table.rows.values(), key=lambda node: node.name)


def test_a_deleted_node_stands_for_two_minutes() -> None:
    story = Story()
    story.objects_are(ONE, TWO)
    story.objects_are(ONE)
    assert story.later(STANDS_S - 1) == [ONE, TWO]
    assert story.later(1) == [ONE]


def test_a_node_that_comes_back_changes_nothing() -> None:
    """Neither its row nor when it goes next time."""
    story = Story()
    story.objects_are(ONE, TWO)
    story.objects_are(ONE)
    story.later(STANDS_S - 1)
    before = story.standing.table.revision
    story.objects_are(ONE, TWO)
    assert story.standing.table.revision == before
    assert story.later(STANDS_S) == [ONE, TWO]
    story.objects_are(ONE)
    assert story.later(STANDS_S - 1) == [ONE, TWO]


def test_the_table_is_synced_with_the_objects() -> None:
    """Nothing is missing before everything was read."""
    story = Story()
    story.objects[NODES].upsert({NodeKey("east", "east-1"): ONE})
    story.loop.derive_all()
    assert not story.standing.table.synced
    story.objects[NODES].mark_synced()
    story.loop.derive_all()
    assert story.standing.table.synced
    assert story.later(0) == [ONE]


def test_a_node_that_comes_back_as_another_one_is_that() -> None:
    story = Story()
    story.objects_are(ONE, TWO)
    story.objects_are(ONE)
    story.objects_are(ONE, MOVED)
    assert story.later(0) == [ONE, MOVED]
