"""The door to RTNETLINK on a kernel of its own: one thing asked, events, and what overflows."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from bpf import netns
from mesh.core.model import Network, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.kernel import Kernel
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
from mesh.nodes.findings import OVERLAY_RESTORED
from mesh.nodes.next_hops import GROUPS, NextHops
from mesh.nodes.overlay import OverlayDevice
from mesh.nodes.routed import HostRoutes
from mesh.nodes.uplink import FILE, MovedError, Uplink
from mesh.pods.links import Device, PodLink, PodLinks, device_name

NEAR, FAR, FARTHER = map(IPv4Address, ("10.99.0.11", "10.99.1.11", "10.99.2.11"))
GATEWAY, OTHER = map(IPv4Address, ("10.99.0.1", "10.99.0.2"))


class Attached:
    """Programs of pods: none here."""

    def pod(self, device: str) -> None:
        """It is attached."""

    def forget(self, device: str) -> None:
        """It is gone."""


class Host:
    """A namespace: device left has 10.99.0.9/24, and routes lead to 10.99.1.0/24."""

    def __init__(self, namespace: Path) -> None:
        self.namespace = namespace
        self.ip("addr add 10.99.0.9/24 dev left", "route add 10.99.1.0/24 via 10.99.0.1")

    def ip(self, *lines: str) -> None:
        """Commands of ip, in one process."""
        command = ["ip", "-n", self.namespace.name, "-batch", "-"]
        subprocess.run(command, input="\n".join(lines), text=True, check=True)

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[Kernel]:
        async with Kernel.open_in(str(self.namespace)) as kernel:
            yield kernel


@pytest.fixture
def host(namespace: Path) -> Host:
    return Host(namespace)


def play(host: Host, story: Callable[[Kernel], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), host.kernel() as kernel:
            await story(kernel)

    asyncio.run(run())


async def soon(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not fact():
            await asyncio.sleep(0.01)


def test_one_device_is_one_answer(host: Host) -> None:
    async def story(kernel: Kernel) -> None:
        links = await kernel.links()
        for name in ("lo", "left", "right"):
            assert await kernel.link(name) == await kernel.find(name) == links[name]
        assert await kernel.find("absent") is None
        with pytest.raises(OSError, match="absent") as raised:
            await kernel.link("absent")
        assert raised.value.errno == errno.ENODEV
        await kernel.delete_link("absent")

    play(host, story)


def test_addresses_of_the_host_are_those_of_global_scope(host: Host) -> None:
    host.ip("addr add 10.98.0.9/24 dev right", "addr add 10.97.0.9/24 dev left scope link")

    async def story(kernel: Kernel) -> None:
        left = await kernel.link("left")
        right = await kernel.link("right")
        assert await kernel.host_addresses() == {
            left.ifindex: [IPv4Address("10.99.0.9")], right.ifindex: [IPv4Address("10.98.0.9")],
        }  # fmt: skip

    play(host, story)


def test_next_hops_are_gateways_and_neighbours_on_the_link(host: Host) -> None:
    async def story(kernel: Kernel) -> None:
        found = await kernel.next_hops([NEAR, FAR, FARTHER])
        assert found[NEAR] == NEAR
        assert found[FAR] == GATEWAY
        assert isinstance(error := found[FARTHER], OSError)
        assert error.errno == errno.ENETUNREACH
        assert await kernel.next_hops([]) == {}

    play(host, story)


def test_a_native_route_is_more_specific_than_the_default_and_leads_out_of_the_device(
    host: Host,
) -> None:
    """Our own routes out of another device, longer ones too, hide none."""
    host.ip(
        "route add default via 10.99.0.1",
        "route add 10.1.0.0/16 via 10.99.0.1",
        "route add 10.1.1.0/24 dev right",
        "route add 10.2.1.0/24 dev right",
    )
    with netns.enter(host.namespace):
        for device in ("left", "right"):
            Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("0")
    host.ip(
        "addr add fd99::9/64 dev left nodad",
        "route add default via fd99::1 dev left",
        "route add fd01::/48 via fd99::1",
        "route add fd01:0:0:1::/64 dev right",
        "route add fd02:0:0:1::/64 dev right",
    )
    there = ["10.1.0.0/24", "10.1.1.0/24", "fd01::/64", "fd01:0:0:1::/64"]
    away = ["10.2.1.0/24", "10.3.0.0/24", "fd02:0:0:1::/64", "fd03::/64"]
    prefixes = [ip_network(text) for text in (*there, *away)]

    async def story(kernel: Kernel) -> None:
        left = (await kernel.link("left")).ifindex
        found = await kernel.natively_routed(prefixes, left)
        assert found == {each: str(each) in there for each in prefixes}

    play(host, story)


def test_routes_in_private_space_are_read_and_followed(host: Host) -> None:
    """No default route, none out of a device of ours, none in public space, none of our own."""
    with netns.enter(host.namespace):
        Path("/proc/sys/net/ipv6/conf/left/disable_ipv6").write_text("0")
    host.ip(
        "route add default via 10.99.0.1",
        "route add 198.51.100.0/24 via 10.99.0.1",
        "route add unreachable 10.7.0.0/16",
        "route add 10.8.0.0/16 via 10.99.0.1 table 99",
        "link add mg_x type veth peer name mg_y",
        "link set mg_x up",
        "route add 10.9.0.0/16 dev mg_x",
        "addr add fd99::9/64 dev left nodad",
        "route add fd88::/48 via fd99::1",
        "route add fd89::/48 via fd99::1 proto 77",
    )
    there = {"10.99.0.0/24", "10.99.1.0/24", "10.7.0.0/16", "10.8.0.0/16", "fd99::/64", "fd88::/48"}

    async def story(kernel: Kernel) -> None:
        table: Table[int, frozenset[Network]] = Table("routes")
        seen = HostRoutes(kernel, table)

        def found() -> set[str]:
            return {str(prefix) for prefixes in table.rows.values() for prefix in prefixes}

        task = asyncio.create_task(seen.run())
        await soon(lambda: table.synced)
        assert found() == there
        host.ip("route add 10.66.0.0/16 via 10.99.0.1", "route del fd88::/48")
        await soon(lambda: found() == there - {"fd88::/48"} | {"10.66.0.0/16"})
        host.ip("link set left down")
        await soon(lambda: found() == {"10.7.0.0/16"})
        task.cancel()

    play(host, story)


def test_routes_into_the_overlay_are_the_last_and_are_read_back(host: Host) -> None:
    v4, v6 = ip_network("10.1.1.0/24"), ip_network("fd01:0:0:1::/64")
    with netns.enter(host.namespace):
        for device in ("left", "right"):
            Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("0")
    host.ip("addr add fd99::9/64 dev left nodad", "route add 10.2.0.0/24 dev right")
    sources = {v4: ip_address("10.99.0.9"), v6: ip_address("fd99::9")}

    async def story(kernel: Kernel) -> None:
        right = (await kernel.link("right")).ifindex
        await kernel.add_overlay_gateways(right)
        for prefix, source in sources.items():
            await kernel.add_overlay_route(right, prefix, source, 1450)
            await kernel.add_overlay_route(right, prefix, source, 1400)
        wanted = {prefix: (source, 1400) for prefix, source in sources.items()}
        assert await kernel.overlay_routes(right) == wanted
        assert await kernel.host_routes() == {}
        host.ip("route add 10.1.1.0/24 via 10.99.0.1")
        hops = await kernel.next_hops([IPv4Address("10.1.1.7")])
        assert hops == {IPv4Address("10.1.1.7"): GATEWAY}
        for prefix in sources:
            await kernel.delete_overlay_route(right, prefix)
            await kernel.delete_overlay_route(right, prefix)
        assert await kernel.overlay_routes(right) == {}

    play(host, story)


def test_the_mtu_of_a_route_is_the_one_that_it_was_given(host: Host) -> None:
    host.ip("route replace 10.99.1.0/24 via 10.99.0.1 mtu 1400",
            "route add 10.99.1.12 via 10.99.0.1 mtu lock 1300")  # fmt: skip

    async def story(kernel: Kernel) -> None:
        locked = IPv4Address("10.99.1.12")
        found = await kernel.route_mtus([NEAR, FAR, locked, FARTHER])
        assert found == {NEAR: 0, FAR: 1400, locked: 1300, FARTHER: 0}
        table: Table[IPv4Address, None] = Table("node")
        table.replace({FAR: None})
        mtus: Table[IPv4Address, int] = Table("MTU of route")
        hops: Table[IPv4Address, IPv4Address | None] = Table("next hop")
        asking = NextHops(kernel, table, lambda: list(table.rows), hops, mtus, "mgp")
        task = asyncio.create_task(asking.run())
        await soon(lambda: mtus.rows == {FAR: 1400})
        host.ip("route replace 10.99.1.0/24 via 10.99.0.1 mtu 1350")
        await soon(lambda: mtus.rows == {FAR: 1350})
        host.ip("route replace 10.99.1.0/24 via 10.99.0.1")
        await soon(lambda: mtus.rows == {})
        host.ip("route replace 10.99.1.0/24 via 10.99.0.1 mtu 1350")
        await soon(lambda: mtus.rows == {FAR: 1350})
        table.replace({})
        await soon(lambda: mtus.rows == {})
        task.cancel()

    play(host, story)


def test_each_of_many_addresses_gets_its_own_answer(host: Host) -> None:
    many = [IPv4Address("10.99.0.10") + n for n in range(200)]

    async def story(kernel: Kernel) -> None:
        assert await kernel.next_hops(many) == {address: address for address in many}

    play(host, story)


def test_a_route_that_refuses_is_an_error_and_so_is_an_ipv6_neighbour(host: Host) -> None:
    with netns.enter(host.namespace):
        Path("/proc/sys/net/ipv6/conf/left/disable_ipv6").write_text("0")
    host.ip(
        "route add prohibit 10.99.2.0/24",
        "route add unreachable 10.99.3.0/24",
        "route add 10.99.4.0/24 via inet6 fe80::1 dev left",
    )

    async def story(kernel: Kernel) -> None:
        asked = [IPv4Address(f"10.99.{net}.11") for net in (2, 3, 4)]
        found = await kernel.next_hops(asked)
        codes = [getattr(found[address], "errno", None) for address in asked]
        assert codes == [errno.EACCES, errno.EHOSTUNREACH, errno.EAFNOSUPPORT]

    play(host, story)


async def until(events: AsyncIterator[Event], last: Event) -> list[Event]:
    """Events up to ``last``."""
    found = []
    async for event in events:
        found.append(event)
        if event == last:
            break
    return found


END = RouteEvent(IPv4Network("192.0.2.1/32"))


def test_events_say_what_changed(host: Host) -> None:
    async def story(kernel: Kernel) -> None:
        left = (await kernel.link("left")).ifindex
        async with aclosing(kernel.events(*GROUPS)) as events:
            assert await anext(events) == Lost()
            host.ip(
                "route add default via 10.99.0.1",
                "route add 10.99.2.0/24 via 10.99.0.1 table 100",
                "route del 10.99.1.0/24",
                "rule add from 10.99.0.0/24 table 100",
                "addr del 10.99.0.9/24 dev left",
                "route add 2001:db8::/32 dev lo",
                "nexthop add id 7 dev left",
                "link set left mtu 1400",
                "link set left down",
                "neigh add 10.99.0.1 dev right nud stale lladdr 02:00:00:00:00:01",
                "neigh replace 10.99.0.1 dev right nud failed",
                "route add unreachable 192.0.2.1",
            )
            found = await until(events, END)
        prefixes = {str(event.prefix) for event in found if isinstance(event, RouteEvent)}
        assert {"0.0.0.0/0", "10.99.2.0/24", "10.99.1.0/24", "192.0.2.1/32"} <= prefixes
        assert AddressEvent(left) in found
        assert found.count(RuleEvent()) >= 2
        assert NeighbourEvent(GATEWAY) in found
        devices = [e for e in found if isinstance(e, LinkEvent) and e.name == "left"]
        assert devices[-1].mtu == 1400
        assert not devices[-1].up
        assert Lost() not in found

    play(host, story)


def test_an_overflow_is_said_once_after_the_gap_and_later_events_arrive(host: Host) -> None:
    """Linux says ENOBUFS at the first lost event; it loses more until the socket is empty."""
    many = [f"route add unreachable 10.{n >> 8}.{n & 255}.0/24" for n in range(300)]

    async def story(kernel: Kernel) -> None:
        async with aclosing(kernel.events(Group.ROUTE, buffer=1)) as events:
            assert await anext(events) == Lost()
            host.ip(*many)
            gap = await until(events, Lost())
            assert len(gap) < len(many)
            host.ip("route add unreachable 192.0.2.1")
            assert await until(events, END) == [END]

    play(host, story)


def test_a_full_look_follows_an_overflow(host: Host) -> None:
    many = [f"route add unreachable 10.{n >> 8}.{n & 255}.0/24" for n in range(300)]
    moves = [f"route {how} via 10.99.0.2" for how in ("add 10.99.2.0/24", "replace 10.99.1.0/24")]

    class Narrow:
        """The kernel with room for one event."""

        def __init__(self, kernel: Kernel) -> None:
            self.next_hops, self.route_mtus = kernel.next_hops, kernel.route_mtus
            self.kernel = kernel
            self.lost = 0

        async def events(self, *groups: Group) -> AsyncIterator[Event]:
            async with aclosing(self.kernel.events(*groups, buffer=1)) as events:
                async for event in events:
                    self.lost += event == Lost()
                    yield event

    async def story(kernel: Kernel) -> None:
        narrow = Narrow(kernel)
        async with watched(narrow, NEAR, FAR, FARTHER) as hops:
            await soon(lambda: hops.rows == {NEAR: NEAR, FAR: GATEWAY, FARTHER: None})
            host.ip(*many, *moves, *(line.replace("add", "del") for line in many))
            await soon(lambda: hops.rows == {NEAR: NEAR, FAR: OTHER, FARTHER: OTHER})
            assert narrow.lost > 1

    play(host, story)


@asynccontextmanager
async def watched(
    kernel: Any, *nodes: IPv4Address
) -> AsyncIterator[Table[IPv4Address, IPv4Address | None]]:
    """The table of next hops of some nodes, kept."""
    table: Table[IPv4Address, None] = Table("node")
    table.replace(dict.fromkeys(nodes))
    hops: Table[IPv4Address, IPv4Address | None] = Table("next hop")
    mtus: Table[IPv4Address, int] = Table("MTU of route")
    task = asyncio.create_task(NextHops(kernel, table, lambda: nodes, hops, mtus, "mgp").run())
    await soon(lambda: hops.synced)
    yield hops
    task.cancel()


def test_next_hops_follow_routes_addresses_rules_and_devices(host: Host) -> None:
    async def story(kernel: Kernel) -> None:
        async with watched(kernel, FAR) as hops:
            assert hops.rows[FAR] == GATEWAY
            host.ip("route replace 10.99.1.0/24 via 10.99.0.2")
            await soon(lambda: hops.rows[FAR] == OTHER)
            host.ip("route add 10.99.1.11/32 dev left")
            await soon(lambda: hops.rows[FAR] == FAR)
            host.ip("route del 10.99.1.11/32", "route add 10.99.1.0/24 via 10.99.0.3 table 100",
                    "rule add to 10.99.1.0/24 table 100")  # fmt: skip
            await soon(lambda: hops.rows[FAR] == IPv4Address("10.99.0.3"))
            host.ip("rule del to 10.99.1.0/24 table 100")
            await soon(lambda: hops.rows[FAR] == OTHER)
            host.ip("addr add 10.98.0.9/24 dev right",
                    "route add 10.99.1.0/24 via 10.98.0.1 metric 100",
                    "link set left down")  # fmt: skip
            await soon(lambda: hops.rows[FAR] == IPv4Address("10.98.0.1"))

    play(host, story)


def test_a_route_that_goes_with_its_device_keeps_its_next_hop_until_another_comes(
    host: Host,
) -> None:
    async def story(kernel: Kernel) -> None:
        async with watched(kernel, FAR) as hops:
            host.ip("link set left down")
            await asyncio.sleep(0.2)
            assert hops.rows[FAR] == GATEWAY
            host.ip("link set left up", "route add 10.99.1.0/24 via 10.99.0.2")
            await soon(lambda: hops.rows[FAR] == OTHER)

    play(host, story)


def test_the_uplink_is_compared_when_something_happens_to_it(host: Host, tmp_path: Path) -> None:
    async def story(kernel: Kernel) -> None:
        uplink = Uplink(kernel, "left", tmp_path / FILE)

        def fields() -> list[str]:
            return [finding.field for finding in uplink.findings("east-1")]

        task = asyncio.create_task(uplink.run(await uplink.facts(), rest_s=600))
        host.ip("link set left mtu 1400")
        await soon(lambda: fields() == ["mtu"])
        host.ip("addr del 10.99.0.9/24 dev left")
        await soon(lambda: fields() == [""])
        host.ip("addr add 10.99.0.8/24 dev left")
        await soon(lambda: fields() == ["mtu", "endpoint"])
        host.ip("addr del 10.99.0.8/24 dev left", "link set left mtu 1500",
                "addr add 10.99.0.9/24 dev left")  # fmt: skip
        await soon(lambda: fields() == [])
        host.ip("link del left")
        await soon(lambda: fields() == [""])
        host.ip("link add left type veth peer name right", "link set left up",
                "addr add 10.99.0.9/24 dev left")  # fmt: skip
        await soon(lambda: fields() == ["ifindex"])
        task.cancel()

    play(host, story)


def test_a_change_of_the_uplink_ends_the_watch(host: Host, tmp_path: Path) -> None:
    async def story(kernel: Kernel) -> None:
        uplink = Uplink(kernel, "left", tmp_path / FILE)
        before = await uplink.facts()
        task = asyncio.create_task(uplink.run(before, settle_s=0.1, rest_s=0.1))
        host.ip("link set left mtu 1400")
        await asyncio.wait([task], timeout=5)
        assert isinstance(group := task.exception(), ExceptionGroup)
        assert group.subgroup(MovedError)
        assert await uplink.facts() == replace(before, mtu=1400)

    play(host, story)


def has_ipv6(space: Path, address: str) -> bool:
    """Whether a device of the namespace has the address; Linux takes it where the MTU is small."""
    with netns.enter(space):
        held = Path("/proc/thread-self/net/if_inet6").read_text()
    return IPv6Address(address).packed.hex() in held


def test_a_wired_pod_gets_another_mtu_at_both_ends_and_keeps_its_connection(
    host: Host, namespaces: Callable[[], Path]
) -> None:
    class Attach:
        def pod(self, device: str) -> None:
            assert device == name

        def forget(self, device: str) -> None:
            raise AssertionError(device)

    space, key = namespaces(), PodKey("east", "shop", "web")
    name, address = device_name(key), IPv4Address("10.1.0.2")
    link = PodLink(str(space), 1, name, (address, IPv6Address("fd01::2")), 1450)

    async def story(kernel: Kernel) -> None:
        def wired() -> PodLinks:
            return PodLinks(kernel, Attach(), Table("device"))

        assert await wired().upsert({key: link}) == {}
        made = await kernel.link(name)
        with netns.enter(space):
            server = socket.create_server((str(address), 80))
        with server, socket.create_connection((str(address), 80), 5) as client:
            answer, _ = server.accept()
            for mtu in (1350, 1280, 1450):
                new = wired()  # of the next agent
                assert (await new.read())[key].mtu != mtu
                assert await new.upsert({key: replace(link, mtu=mtu)}) == {}
                assert await kernel.link(name) == replace(made, mtu=mtu, up=True, alias=ANY)
                async with Kernel.open_in(str(space)) as inside:
                    assert (await inside.link("eth0")).mtu == mtu
                assert has_ipv6(space, "fd01::2")
                client.send(b"x" * 4000)
                with answer.makefile("rb") as arrived:
                    assert len(arrived.read(4000)) == 4000
            answer.close()

    with netns.enter(host.namespace):
        play(host, story)


@pytest.mark.parametrize("name", ["web", "w" * 152, "w" * 253])
def test_a_pod_is_read_back_whatever_its_name(
    host: Host, namespaces: Callable[[], Path], name: str
) -> None:
    """An alias has 255 bytes; the longest names of Kubernetes do not fit."""
    space, key = namespaces(), PodKey("c" * 32, "n" * 63 if len(name) > 200 else "shop", name)
    addresses = IPv4Address("10.1.0.2"), IPv6Address("fd01::2")
    link = PodLink(str(space), 1, device_name(key), addresses, 1450)

    async def story(kernel: Kernel) -> None:
        assert await PodLinks(kernel, Attached(), Table("device")).upsert({key: link}) == {}
        again = PodLinks(kernel, Attached(), Table("device"))
        assert await again.held() == {key: addresses}
        assert list(await again.read()) == [key]
        assert await again.upsert({key: link}) == {}
        assert await again.delete([key]) == {}
        assert await again.held() == {}

    with netns.enter(host.namespace):
        play(host, story)


def test_pins_go_with_a_device_that_was_gone_before_its_row(
    host: Host, namespaces: Callable[[], Path]
) -> None:
    """The kubelet takes the namespace away, and a full look sees it before the pod's row goes."""
    space, key = namespaces(), PodKey("east", "shop", "web")
    link = PodLink(str(space), 1, device_name(key), (IPv4Address("10.1.0.2"),), 1450)
    forgotten: list[str] = []

    class Attach(Attached):
        def forget(self, device: str) -> None:
            forgotten.append(device)

    async def story(kernel: Kernel) -> None:
        links = PodLinks(kernel, Attach(), Table("device"))
        assert await links.upsert({key: link}) == {}
        assert list(await links.read()) == [key]
        assert forgotten == []
        host.ip(f"link del {link.device}")
        assert await links.read() == {}
        assert forgotten == [link.device]

    with netns.enter(host.namespace):
        play(host, story)


def test_a_route_to_a_pod_that_is_deleted_is_restored(
    host: Host, namespaces: Callable[[], Path]
) -> None:
    """Also when it went while no agent ran, and when the device was set down."""
    space, key = namespaces(), PodKey("east", "shop", "web")
    addresses = IPv4Address("10.1.0.2"), IPv6Address("fd01::2")
    link = PodLink(str(space), 1, device_name(key), addresses, 1450)
    desired: Table[PodKey, PodLink] = Table("link")
    desired.replace({key: link})

    async def story(kernel: Kernel) -> None:
        def routes() -> set[str]:
            found = set()
            for family in "-4", "-6":
                command = ["ip", family, "-n", host.namespace.name, "route", "show", "proto", "77"]
                listed = subprocess.run(command, capture_output=True, text=True, check=True)
                found |= {line.split()[0] for line in listed.stdout.splitlines()}
            return found

        loop, links = Loop(), PodLinks(kernel, Attached(), Table("device"))
        applied = loop.apply(desired, links)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop.run())]
            await applied.settled()
            assert routes() == {"10.1.0.2", "fd01::2"}
            host.ip("route del 10.1.0.2 proto 77")
            tasks.append(group.create_task(links.watch(applied.recheck)))
            await soon(lambda: routes() == {"10.1.0.2", "fd01::2"})
            host.ip("route del fd01::2 proto 77")
            await soon(lambda: routes() == {"10.1.0.2", "fd01::2"})
            host.ip(f"link set {link.device} down")
            await soon(lambda: routes() == {"10.1.0.2", "fd01::2"})
            for task in tasks:
                task.cancel()

    with netns.enter(host.namespace):
        play(host, story)


def test_a_device_that_is_down_and_not_wanted_any_more_goes(
    host: Host, namespaces: Callable[[], Path]
) -> None:
    """Its sandbox was deleted before a full look found it down."""
    space, key = namespaces(), PodKey("east", "shop", "web")
    link = PodLink(str(space), 1, device_name(key), (IPv4Address("10.1.0.2"),), 1450)
    desired: Table[PodKey, PodLink] = Table("link")
    desired.replace({key: link})
    devices: Table[PodKey, Device] = Table("device")

    async def story(kernel: Kernel) -> None:
        loop, links = Loop(), PodLinks(kernel, Attached(), devices)
        applied = loop.apply(desired, links)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(loop.run())
            await applied.settled()
            host.ip(f"link set {link.device} down")
            desired.delete([key])
            applied.recheck()
            await soon(lambda: not devices.rows)
            assert await kernel.find(link.device) is None
            task.cancel()

    with netns.enter(host.namespace):
        play(host, story)


def test_the_overlays_device_is_restored_and_named(host: Host) -> None:
    async def story(kernel: Kernel) -> None:
        overlay, again = OverlayDevice(kernel, "mgv", 8472), asyncio.Event()
        await overlay.make()
        task = asyncio.create_task(overlay.run(again.set))
        await asyncio.sleep(0)
        assert list(overlay.findings("east-1")) == []
        host.ip("link set mgv down")
        await again.wait()
        assert (await kernel.link("mgv")).up
        (found,) = overlay.findings("east-1")
        assert (found.code, found.object) == (OVERLAY_RESTORED, "east-1/mgv")
        host.ip("link del mgv")
        with pytest.raises(MovedError):
            await task
        assert "deleted" in next(overlay.findings("east-1")).text
        await overlay.make()
        assert (await kernel.link("mgv")).up

    with netns.enter(host.namespace):
        play(host, story)


def test_the_overlays_device_on_another_port_is_made_anew(host: Host) -> None:
    """The kernel changes no device's port; one that is right stays, with its routes."""

    async def story(kernel: Kernel) -> None:
        made = await OverlayDevice(kernel, "mgv", 8472).make()
        again = await OverlayDevice(kernel, "mgv", 8472).make()
        assert (again.ifindex, again.port) == (made.ifindex, 8472)
        moved = await OverlayDevice(kernel, "mgv", 8473).make()
        assert (moved.port, moved.ifindex == made.ifindex) == (8473, False)
        assert (await kernel.link("mgv")).up

    with netns.enter(host.namespace):
        play(host, story)


def test_a_pods_addresses_and_the_other_end_of_its_veth_are_read(
    host: Host, namespaces: Callable[[], Path]
) -> None:
    """Of both families, those of the link left out; another device has no other end.

    Nor has a veth whose ends are in one namespace: its numbers may be those of the host's devices.
    """
    space = namespaces()

    async def story(kernel: Kernel) -> None:
        host.ip("link add pod0 type veth peer name pod1")
        for name in ("pod0", "pod1"):
            assert (await kernel.link(name)).other == (await kernel.links())[name].other == 0
        host.ip(f"link set pod1 netns {space.name}")
        host.ip("link set pod0 up")
        host.ip("addr add 10.244.1.7/24 dev pod0")
        host.ip("addr add fd44::7/64 dev pod0 nodad")
        one = await kernel.link("pod0")
        async with Kernel.open_in(str(space)) as inside:
            other = await inside.link("pod1")
            assert (await inside.links())["pod1"] == other
        assert (await kernel.links())["pod0"] == one
        assert (one.other, other.other) == (other.ifindex, one.ifindex)
        assert (await kernel.link("lo")).other == 0
        assert await kernel.addresses(one.ifindex) == (
            ip_address("10.244.1.7"), ip_address("fd44::7"),
        )  # fmt: skip

    with netns.enter(host.namespace):
        play(host, story)


def test_events_stay_in_the_namespace_in_which_the_door_was_opened(host: Host) -> None:
    async def story() -> None:
        async with Kernel.open() as kernel, aclosing(kernel.events(Group.ROUTE)) as events:
            assert await anext(events) == Lost()
            host.ip("route add unreachable 192.0.2.1")
            assert await anext(events) == END

    with netns.enter(host.namespace):
        asyncio.run(asyncio.wait_for(story(), 5))
