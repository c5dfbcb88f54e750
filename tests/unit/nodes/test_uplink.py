"""The uplink: what it was when the datapath was loaded, and what has changed since."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mesh.core.table import Table
from mesh.kernel import DefaultRoute, Link
from mesh.netlink import AddressEvent, Event, Group, LinkEvent, Lost
from mesh.nodes.uplink import (
    FILE,
    Facts,
    MovedError,
    Uplink,
    changes,
    concerned,
    device_of,
    endpoint_of,
)
from tests.unit.nodes.test_next_hops import Instant

FACTS = Facts(7, 1500, IPv4Address("10.99.0.11"), "uplink")


def link(ifindex: int, name: str) -> LinkEvent:
    return LinkEvent(ifindex, name, 1500, 0, up=True, carrier=True, gone=False)


def test_what_differs_is_said_in_words() -> None:
    assert changes(FACTS, FACTS) == {}
    now = replace(FACTS, mtu=1400, endpoint=IPv4Address("10.99.0.12"))
    assert changes(FACTS, now) == {
        "mtu": "1400, 1500 at the start",
        "endpoint": "10.99.0.12, 10.99.0.11 at the start",
    }


def test_a_pod_may_send_what_fits_into_the_overlay_and_always_what_ipv6_needs() -> None:
    assert FACTS.pod_mtu == 1450
    assert replace(FACTS, mtu=1300).pod_mtu == 1280


@pytest.mark.parametrize(
    "event",
    [
        link(7, "uplink"), link(8, "uplink"), link(7, "renamed"), AddressEvent(7), AddressEvent(1),
        Lost(),
    ],
    ids=str,
)  # fmt: skip
def test_an_event_is_about_the_uplink(event: Event) -> None:
    assert concerned(event, "uplink", 7)


@pytest.mark.parametrize("event", [link(8, "other"), link(1, "lo")], ids=str)
def test_an_event_is_about_another_device(event: Event) -> None:
    assert not concerned(event, "uplink", 7)


A, B, LO, DOCKER = map(IPv4Address, ("10.99.0.11", "10.99.0.12", "10.0.0.1", "172.17.0.1"))
HAVE = {1: [LO], 7: [A, B], 9: [DOCKER]}


def test_the_endpoint_is_the_one_that_the_object_says_on_whatever_device_it_is() -> None:
    for said in (A, B, LO, DOCKER):
        assert endpoint_of([said, None], 7, HAVE) == said


def test_without_an_object_it_is_the_former_one_then_the_uplinks_first() -> None:
    other = IPv4Address("10.99.0.99")
    assert endpoint_of([None, B], 7, HAVE) == B
    assert endpoint_of([other, LO], 7, HAVE) == LO
    assert endpoint_of([other, other], 7, HAVE) == A
    assert endpoint_of([None, None], 7, {1: [LO], 9: [DOCKER]}) == LO
    assert endpoint_of([A, A], 7, {}) is None


OTHER = Link("eth9", 9, 9000, "", up=True, alias="")


class FakeKernel:
    """A host with an uplink of index 7."""

    def __init__(self) -> None:
        self.uplink: Link | None = Link("uplink", 7, 1500, "", up=True, alias="")
        self.have = dict(HAVE)
        self.default: DefaultRoute | None = DefaultRoute(OTHER.ifindex, "192.0.2.1")
        self.said: asyncio.Queue[Event] = asyncio.Queue()

    async def events(self, *groups: Group) -> AsyncIterator[Event]:
        assert {Group.LINK, Group.ADDRESS} <= set(groups)
        yield Lost()
        while True:
            yield await self.said.get()

    async def link(self, name: str) -> Link:
        if self.uplink is None:
            raise OSError(errno.ENODEV, f"no network device {name}")
        return self.uplink

    async def links(self) -> dict[str, Link]:
        return {one.name: one for one in (self.uplink, OTHER) if one}

    async def default_route(self, version: int) -> DefaultRoute | None:
        assert version == 4
        return self.default

    async def host_addresses(self) -> dict[int, list[IPv4Address]]:
        return self.have

    def mtu(self, mtu: int) -> None:
        self.uplink = Link("uplink", 7, mtu, "", up=True, alias="")
        self.said.put_nowait(link(7, "uplink"))


class World:
    """An agent's view of its uplink; ``object`` is what the Node object says."""

    def __init__(self, directory: Path, name: str = "uplink") -> None:
        self.name = name
        self.kernel, self.directory = FakeKernel(), directory
        self.object: Table[str, IPv4Address] = Table("object")
        self.begin()

    def begin(self) -> None:
        """A new agent, which has not read the object."""
        self.object.replace({})
        self.uplink = Uplink(
            self.kernel, self.name, self.directory / FILE, lambda: self.object.rows.get("me"),
            self.object,
        )  # fmt: skip

    def found(self) -> list[str]:
        return [finding.field for finding in self.uplink.findings("east-1")]

    async def moved(self) -> float:
        """Seconds until the agent begins anew."""
        began = asyncio.get_running_loop().time()
        with pytest.RaisesGroup(MovedError):
            await self.uplink.run(self.before, settle_s=2, rest_s=10)
        return asyncio.get_running_loop().time() - began

    async def start(self) -> asyncio.Task[float]:
        self.before = await self.uplink.facts()
        task = asyncio.create_task(self.moved())
        await asyncio.sleep(1)
        return task


def play(story: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=Instant) as runner:
        runner.run(story)


def test_a_change_that_stands_is_followed(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        task = await world.start()
        await asyncio.sleep(60)
        assert not task.done()
        world.kernel.mtu(1400)
        await asyncio.sleep(1)
        assert (world.found(), task.done()) == (["mtu"], False)
        assert await task == pytest.approx(63)
        assert (await world.uplink.facts()).mtu == 1400

    play(story())


def test_an_uplink_that_comes_and_goes_is_no_reason_to_begin_anew(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        task = await world.start()
        here = world.kernel.uplink
        for mtu in (1400, 1500) * 20:
            await asyncio.sleep(1)
            world.kernel.mtu(mtu)
        await asyncio.sleep(60)
        assert (world.found(), task.done()) == ([], False)
        world.kernel.uplink = None
        world.kernel.said.put_nowait(Lost())
        await asyncio.sleep(60)
        assert (world.found(), task.done()) == ([""], False)
        world.kernel.uplink = here
        await asyncio.sleep(60)
        assert (world.found(), task.done()) == ([], False)
        task.cancel()

    play(story())


def test_an_agent_that_has_just_begun_rests(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        task = await world.start()
        world.kernel.mtu(1400)
        assert await task == pytest.approx(10)

    play(story())


def test_the_objects_address_is_followed_and_outlives_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        task = await world.start()
        assert world.before.endpoint == A
        world.object.upsert({"me": LO})
        await asyncio.sleep(1)
        assert world.found() == ["endpoint"]
        assert await task == pytest.approx(10)
        world.begin()
        task = await world.start()
        assert world.before.endpoint == LO
        world.object.upsert({"me": LO})
        await asyncio.sleep(60)
        assert (world.found(), task.done()) == ([], False)
        world.object.upsert({"me": IPv4Address("10.99.0.99")})  # no address of this host
        await asyncio.sleep(60)
        assert (world.found(), task.done()) == ([], False)
        world.kernel.have = {7: [A, B]}
        world.kernel.said.put_nowait(AddressEvent(1))
        await asyncio.sleep(60)
        assert task.done()
        assert (await world.uplink.facts()).endpoint == A

    play(story())


def test_a_file_that_cannot_be_read_is_no_endpoint(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"\xff\n")

    async def story() -> None:
        world = World(tmp_path)
        assert (await world.uplink.facts()).endpoint == A

    play(story())


def test_the_uplink_is_the_device_that_has_the_objects_address() -> None:
    assert device_of([B, A], HAVE, 9) == 7
    assert device_of([DOCKER, A], HAVE, 7) == 9
    assert device_of([None, A], HAVE, 9) == 7
    assert device_of([None, None], HAVE, 9) == 9
    assert device_of([LO, A], HAVE, 9) == 9  # a fabric that routes to the loopback device
    assert device_of([IPv4Address("10.99.0.99"), None], HAVE, None) is None


def test_the_object_says_which_device_is_the_uplink(tmp_path: Path) -> None:
    """Until it is known, that of the default route; then the agent begins anew, once."""

    async def story() -> None:
        world = World(tmp_path, "auto")
        task = await world.start()
        assert (world.before.device, world.before.endpoint, world.before.mtu) == (
            "eth9", DOCKER, 9000,
        )  # fmt: skip
        world.object.upsert({"me": A})
        await asyncio.sleep(1)
        assert set(world.found()) == {"ifindex", "mtu", "endpoint", "device"}
        assert await task == pytest.approx(10)
        world.begin()
        task = await world.start()  # the address is kept in a file
        assert world.before == FACTS
        world.object.upsert({"me": A})
        await asyncio.sleep(60)
        assert (world.found(), task.done()) == ([], False)
        task.cancel()

    play(story())


def test_without_a_device_the_agent_says_what_to_do(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, "auto")
        world.kernel.default = None
        with pytest.raises(OSError, match="name the device in the configuration"):
            await world.uplink.facts()

    play(story())
