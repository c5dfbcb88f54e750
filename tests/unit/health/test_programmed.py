"""A node tells the generations that stand in its targets; the controller knows who lacks one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Self

from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import Own, programmed_key, programmed_of, programmed_value
from mesh.core.model import Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.health.programmed import HeldObjects, Programmed
from mesh.objects.kinds import KINDS
from mesh.objects.sources import Sources
from mesh.objects.tables import Objects

KEY = programmed_key("east", "n1")


class FakeSource:
    """A source whose objects have generations."""

    absent_at = 0.0

    def __init__(self) -> None:
        self.objects = Objects(KINDS.nouns)
        self.generations: dict[str, int] = {}

    async def run(self) -> None:
        """Nothing comes by itself."""

    def place(self, *_: object) -> str:
        return ""

    def findings(self) -> Iterable[object]:
        return ()

    def write_back(self, *_: object) -> None:
        """Nobody writes."""


class FakeTarget:
    """Keeps rows, and fails while it is told to."""

    name = "fake"

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.fails = False

    async def read(self) -> Mapping[str, bytes]:
        return dict(self.rows)

    async def upsert(self, rows: Mapping[str, bytes]) -> Mapping[str, Exception]:
        if self.fails:
            raise OSError("is away")
        self.rows.update(rows)
        return {}

    async def delete(self, keys: Iterable[str]) -> Mapping[str, Exception]:
        for key in keys:
            self.rows.pop(key, None)
        return {}


class Rig:
    """A node with one map and the store."""

    def __init__(self) -> None:
        self.loop, self.source = Loop(), FakeSource()
        self.made: Table[str, bytes] = Table("rows of a map")
        self.map, self.store = FakeTarget(), FakeTarget()
        self.loop.apply(self.made, self.map)  # type: ignore[arg-type]
        self.made.mark_synced()
        sources = Sources({"API server": self.source}, KINDS, "")  # type: ignore[arg-type,dict-item]
        self.programmed = Programmed(partial(programmed_of, "east", "n1"), sources, self.loop)
        self.programmed.apply(self.store)  # type: ignore[arg-type]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.loop.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def stored(self, held: Mapping[str, int]) -> None:
        """Wait until the store has exactly this."""
        wanted = {KEY: programmed_value(held)} if held else {}
        async with asyncio.timeout(5):
            while self.store.rows != wanted:
                await asyncio.sleep(0.01)


def test_a_generation_is_told_when_its_rows_stand() -> None:
    async def test() -> None:
        async with Rig() as rig:
            rig.source.generations["EgressPolicy/web"] = 3
            await rig.programmed.look()
            assert not rig.programmed.told.synced, "not all objects were listed"
            rig.source.objects.findings.mark_synced()
            await rig.programmed.look()
            await rig.stored({"EgressPolicy/web": 3})
            rig.map.fails = True
            rig.source.generations["EgressPolicy/web"] = 4
            rig.made.upsert({"web": b"4"})
            look = asyncio.create_task(rig.programmed.look())
            await asyncio.sleep(0.3)
            assert not look.done()
            await rig.stored({"EgressPolicy/web": 3})
            rig.map.fails = False
            await asyncio.wait_for(look, 5)
            assert rig.map.rows == {"web": b"4"}
            await rig.stored({"EgressPolicy/web": 4})

    asyncio.run(test())


def test_a_restart_takes_nothing_back_and_a_node_without_objects_has_no_key() -> None:
    async def test() -> None:
        rig = Rig()
        rig.store.rows[KEY] = programmed_value({"EgressPolicy/web": 3})
        async with rig:
            await asyncio.sleep(0.1)
            await rig.stored({"EgressPolicy/web": 3})
            rig.source.objects.findings.mark_synced()
            await rig.programmed.look()
            await rig.stored({})

    asyncio.run(test())


class Controller:
    """The controller's side: nodes, and keys of their agents."""

    def __init__(self) -> None:
        self.nodes: Table[NodeKey, Node] = Table("node")
        self.own = Own("east")
        self.loop = Loop()
        self.held = HeldObjects(self.nodes, self.own.programmed)
        self.held.derive(self.loop)
        self.nodes.mark_synced()
        self.own.synced()

    def node(self, *names: str) -> None:
        rows = {
            NodeKey("east", name): Node("east", name, (ip_address("10.0.0.1"),)) for name in names
        }
        self.nodes.upsert(rows)
        self.loop.derive_all()

    def says(self, node: str, **held: int) -> None:
        entry = Entry(programmed_key("east", node), programmed_value(held), 1, 1, 0)
        self.own.take(Batch(1, (entry,)))
        self.loop.derive_all()

    def gone(self, node: str) -> None:
        self.own.take(Batch(1, (), frozenset({programmed_key("east", node)})))
        self.loop.derive_all()


def test_the_nodes_that_lack_a_generation_are_named() -> None:
    one = Controller()
    assert list(one.held.lacking("web", 1)) == []
    one.node("n1", "n2", "n3")
    assert list(one.held.lacking("web", 2)) == ["n1", "n2", "n3"]
    one.says("n1", web=2)
    one.says("n2", web=1, other=7)
    assert list(one.held.lacking("web", 2)) == ["n2", "n3"]
    assert list(one.held.lacking("other", 7)) == ["n1", "n3"]
    one.says("n2", web=2)
    one.says("n3", web=2)
    assert list(one.held.lacking("web", 2)) == []
    assert list(one.held.lacking("other", 7)) == ["n1", "n2", "n3"]
    one.gone("n3")
    assert list(one.held.lacking("web", 2)) == ["n3"]
    one.nodes.delete([NodeKey("east", "n3")])
    one.loop.derive_all()
    assert list(one.held.lacking("web", 2)) == []


def test_a_key_counts_once_its_node_is_there() -> None:
    one = Controller()
    one.node("n1")
    one.says("n1", web=2)
    one.says("n2", web=1)
    assert list(one.held.lacking("web", 2)) == []
    one.node("n2")
    assert list(one.held.lacking("web", 2)) == ["n2"]
    one.says("n2", web=2)
    assert list(one.held.lacking("web", 2)) == []


def test_an_unreadable_key_is_a_finding() -> None:
    one = Controller()
    one.own.take(Batch(1, (Entry(programmed_key("east", "n1"), b"{", 1, 1, 0),)))
    assert [found.field for found in one.own.findings.values()] == ["value"]
