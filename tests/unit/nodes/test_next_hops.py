"""Next hops by event: the endpoints that an event concerns, and when the kernel is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from errno import ENETUNREACH
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from mesh.core.table import Table
from mesh.netlink import (
    AddressEvent,
    Event,
    Group,
    LinkEvent,
    Lost,
    NeighbourEvent,
    RouteEvent,
    RuleEvent,
)
from mesh.nodes import next_hops
from mesh.nodes.next_hops import EVENTS, NextHops, concerned, new_rows

A, B, C = (IPv4Address(f"10.99.{net}.11") for net in (0, 1, 2))
ROUTER = IPv4Address("10.99.0.1")
HOPS = {A: A, B: ROUTER, C: ROUTER}
UPLINK = LinkEvent(2, "uplink", 1500, 0, up=True, carrier=True, gone=False)
DOWN = replace(UPLINK, carrier=False)
POD = LinkEvent(9, "mgp0123456789a", 1450, 0, up=True, carrier=True, gone=False)


def route(text: str) -> RouteEvent:
    return RouteEvent(IPv4Network(text))


@pytest.mark.parametrize(
    ("event", "endpoints"),
    [
        (route("10.99.1.0/24"), {B}),
        (route("10.99.1.11/32"), {B}),
        (route("10.99.0.0/23"), {A, B}),
        (route("10.99.1.12/32"), set()),
        (route("10.1.0.0/16"), set()),
        (route("0.0.0.0/0"), {A, B, C}),
        (NeighbourEvent(ROUTER), {B, C}),
        (NeighbourEvent(A), {A}),
        (NeighbourEvent(IPv4Address("10.99.0.2")), set()),
        (UPLINK, {A, B, C}),
        (AddressEvent(2), {A, B, C}),
        (RuleEvent(), {A, B, C}),
        (Lost(), {A, B, C}),
    ],
    ids=str,
)
def test_an_event_concerns(event: Event, endpoints: set[IPv4Address]) -> None:
    assert concerned([event], [A, B, C], HOPS) == endpoints


def test_events_concern_what_each_of_them_concerns() -> None:
    assert concerned([], [A, B, C], HOPS) == set()
    assert concerned([route("10.99.0.0/24"), NeighbourEvent(ROUTER)], [A, B, C], HOPS) == {A, B, C}
    assert concerned([route("10.99.1.0/24"), route("10.99.2.0/24")], [A, B, C], HOPS) == {B, C}


def test_an_endpoint_that_has_no_row_yet_is_found_by_its_route() -> None:
    assert concerned([route("10.99.1.0/24")], [A, B], {}) == {B}
    assert concerned([NeighbourEvent(ROUTER)], [A, B], {}) == set()


def test_answers_are_new_rows_and_a_route_that_is_away_keeps_the_next_hop_it_had() -> None:
    away = OSError(ENETUNREACH, "no route")
    assert new_rows({A: away, B: away, C: C}, {A: A, C: ROUTER}) == {B: None, C: C}
    assert new_rows({A: away, B: away, C: C}, {A: A, B: None, C: C}) == {}


class FakeKernel:
    """Routes that a test writes; events that a test sends."""

    def __init__(self) -> None:
        self.routes = {A: A, B: ROUTER, C: ROUTER}
        self.mtus: dict[IPv4Address, int] = {}
        self.asked: list[set[IPv4Address]] = []
        self.silent: set[IPv4Address] = set()
        self.broken = False
        self.said: asyncio.Queue[Event] = asyncio.Queue()
        self.during: Callable[[], object] = lambda: None

    async def events(self, *groups: Group) -> AsyncIterator[Event]:
        assert Group.ROUTE in groups
        yield Lost()
        while True:
            yield await self.said.get()

    async def next_hops(
        self, addresses: Collection[IPv4Address]
    ) -> dict[IPv4Address, IPv4Address | OSError]:
        if self.broken:
            raise OSError("no socket")
        self.asked.append(set(addresses))
        away = OSError(ENETUNREACH, "no route")
        answers = {a: self.routes.get(a, away) for a in addresses if a not in self.silent}
        self.during()
        return answers

    async def route_mtus(self, addresses: Collection[IPv4Address]) -> dict[IPv4Address, int]:
        return {a: self.mtus.get(a, 0) for a in addresses if a not in self.silent}


class Watched:
    """A watcher over a fake kernel, with the tables around it."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.node: Table[IPv4Address, None] = Table("node")
        self.hops: Table[IPv4Address, IPv4Address | None] = Table("next hop")
        self.mtus: Table[IPv4Address, int] = Table("MTU of route")
        self.watcher = NextHops(
            self.kernel, self.node, lambda: list(self.node.rows), self.hops, self.mtus, "mgp"
        )

    async def asked(self, *events: Event) -> list[set[IPv4Address]]:
        """What is asked because of events."""
        del self.kernel.asked[:]
        for event in events:
            self.kernel.said.put_nowait(event)
        await rest()
        return self.kernel.asked


async def rest() -> None:
    """Until nothing is left to do, in simulated time."""
    await asyncio.sleep(60)


class Instant(asyncio.SelectorEventLoop):
    """Time goes on at once to the next thing to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        due = [handle.when() for handle in scheduled if not handle.cancelled()]
        if due and not self._ready:  # type: ignore[attr-defined]
            self._now = max(self._now, min(due))
        super()._run_once()  # type: ignore[misc]


@asynccontextmanager
async def watched(*nodes: IPv4Address) -> AsyncIterator[Watched]:
    it = Watched()
    it.node.replace(dict.fromkeys(nodes))
    task = asyncio.create_task(it.watcher.run())
    await rest()
    yield it
    task.cancel()


def play(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Instant) as runner:
        runner.run(story)


def test_new_nodes_are_asked_once() -> None:
    async def story() -> None:
        async with watched(A, B) as it:
            assert it.kernel.asked == [{A, B}]
            assert it.hops.rows == {A: A, B: ROUTER}
            assert it.hops.synced
            it.node.upsert({C: None})
            assert await it.asked() == [{C}]
            assert it.hops.rows[C] == ROUTER
            assert await it.asked() == []

    play(story())


def test_nothing_is_asked_before_the_nodes_are_known_and_nothing_is_synced() -> None:
    async def story() -> None:
        it = Watched()
        it.node.upsert({A: None})
        task = asyncio.create_task(it.watcher.run())
        await rest()
        assert not it.kernel.asked
        assert not it.hops.synced
        it.node.mark_synced()
        await rest()
        assert it.hops.rows == {A: A}
        assert it.hops.synced
        task.cancel()

    play(story())


def test_many_events_are_one_look() -> None:
    async def story() -> None:
        async with watched(A, B, C) as it:
            pods = [route(f"10.1.{n >> 8}.{n & 255}/32") for n in range(EVENTS // 2)]
            assert await it.asked(*pods) == []
            assert await it.asked(route("10.99.1.0/24"), *pods, route("10.99.2.0/24")) == [{B, C}]

    play(story())


def test_more_events_than_are_told_apart_are_a_full_look() -> None:
    async def story() -> None:
        async with watched(A, B, C) as it:
            many = [route(f"10.1.{n >> 8}.{n & 255}/32") for n in range(2 * EVENTS)]
            assert await it.asked(*many) == [{A, B, C}]

    play(story())


def test_lost_events_are_a_full_look_and_remove_nothing() -> None:
    async def story() -> None:
        async with watched(A, B, C) as it:
            del it.kernel.routes[A]
            it.kernel.routes[B] = B
            assert await it.asked(Lost()) == [{A, B, C}]
            assert it.hops.rows == {A: A, B: B, C: ROUTER}

    play(story())


def test_a_route_that_comes_back_is_asked_again_by_its_event() -> None:
    async def story() -> None:
        async with watched(A, B) as it:
            del it.kernel.routes[B]
            assert await it.asked(route("10.99.1.0/24")) == [{B}]
            assert it.hops.rows[B] == ROUTER
            it.kernel.routes[B] = A
            assert await it.asked(route("10.99.1.0/24")) == [{B}]
            assert it.hops.rows[B] == A

    play(story())


def test_a_node_without_a_route_is_a_finding_until_the_route_is_back() -> None:
    """It keeps the next hop that it had (D13), and that is said."""

    async def story() -> None:
        async with watched(A, B) as it:
            assert list(it.watcher.findings("east-1")) == []
            del it.kernel.routes[B]
            await it.asked(route("10.99.1.0/24"))
            (one,) = it.watcher.findings("east-1")
            assert (one.code, one.object, one.about) == ("D633", "east-1/agent", ("node/east-1",))
            assert f"{B} (no route)" in one.text
            it.kernel.routes[B] = A
            await it.asked(route("10.99.1.0/24"))
            assert list(it.watcher.findings("east-1")) == []

    play(story())


def test_a_node_that_has_gone_is_no_finding() -> None:
    async def story() -> None:
        async with watched(A, B) as it:
            del it.kernel.routes[B]
            await it.asked(route("10.99.1.0/24"))
            it.node.delete([B])
            await rest()
            assert list(it.watcher.findings("east-1")) == []

    play(story())


def test_an_event_during_a_look_is_a_look_of_its_own() -> None:
    async def story() -> None:
        async with watched(A) as it:

            def once() -> None:
                it.kernel.during = lambda: None
                it.kernel.routes[B] = B
                it.kernel.said.put_nowait(route("10.99.1.0/24"))

            it.kernel.during = once
            it.node.upsert({B: None})
            assert await it.asked() == [{B}, {B}]
            assert it.hops.rows[B] == B

    play(story())


def test_a_gateway_that_fails_during_a_look_concerns_what_that_look_finds() -> None:
    async def story() -> None:
        async with watched(A) as it:

            def once() -> None:
                it.kernel.during = lambda: None
                it.kernel.said.put_nowait(NeighbourEvent(ROUTER))

            it.kernel.during = once
            it.node.upsert({B: None})
            assert await it.asked() == [{B}, {B}]

    play(story())


def test_a_device_concerns_nobody_until_it_changes() -> None:
    async def story() -> None:
        async with watched(A, B) as it:
            assert await it.asked(UPLINK) == [{A, B}]
            assert await it.asked(UPLINK, UPLINK) == []
            down = LinkEvent(2, "uplink", 1500, 0, up=True, carrier=False, gone=False)
            assert await it.asked(down) == [{A, B}]
            assert await it.asked(
                LinkEvent(2, "uplink", 1500, 0, up=False, carrier=False, gone=True)
            )
            assert await it.asked(UPLINK) == [{A, B}]
            await it.asked(Lost())
            assert await it.asked(UPLINK) == [{A, B}], "it may have been down meanwhile"

    play(story())


def test_a_pods_device_concerns_no_node() -> None:
    async def story() -> None:
        async with watched(A, B) as it:
            assert await it.asked(POD, replace(POD, carrier=False), replace(POD, gone=True)) == []

    play(story())


def test_a_look_that_fails_is_made_again_and_nothing_is_synced_before() -> None:
    async def story() -> None:
        it = Watched()
        it.node.replace({A: None, B: None})
        it.kernel.broken = True
        task = asyncio.create_task(it.watcher.run())
        await rest()
        assert not it.hops.synced
        it.kernel.broken, it.kernel.silent = False, {B}
        await rest()
        assert it.hops.rows == {A: A}
        assert not it.hops.synced
        assert it.kernel.asked[-1] == {B}
        it.kernel.silent = set()
        await rest()
        assert it.hops.rows == {A: A, B: ROUTER}
        assert it.hops.synced
        task.cancel()

    play(story())


def test_a_node_that_has_gone_takes_its_row_along_and_is_asked_when_it_comes_back() -> None:
    async def story() -> None:
        async with watched(A, B) as it:
            it.node.delete([B])
            assert await it.asked() == []
            assert it.hops.rows == {A: A}
            it.node.upsert({B: None})
            assert await it.asked() == [{B}]

    play(story())


def test_everything_is_asked_now_and_then_also_when_events_never_end() -> None:
    async def story() -> None:
        async with watched(A, B) as it:
            del it.kernel.asked[:]
            for _ in range(int(next_hops.FULL_INTERVAL_S / 10)):
                it.kernel.said.put_nowait(route("10.99.1.0/24"))
                await asyncio.sleep(10)
            assert it.kernel.asked.count({A, B}) == 1
            del it.kernel.asked[:]
            await asyncio.sleep(next_hops.FULL_INTERVAL_S)
            assert it.kernel.asked == [{A, B}]

    play(story())
