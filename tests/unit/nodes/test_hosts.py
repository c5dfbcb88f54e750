"""Which pod CIDRs the overlay leads to, for hosts and for pods; and what the kernel is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from ipaddress import IPv4Address, ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.core.model import Network, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Source, Table
from mesh.kernel import Link
from mesh.netlink import Event, Group, LinkEvent, Lost, RouteEvent
from mesh.nodes import rows
from mesh.nodes.findings import STRICT_FILTER
from mesh.nodes.hosts import Devices, HostsAgent
from mesh.nodes.native import NativeRoutes, concerned, order
from mesh.nodes.rows import NATIVE_LABEL, Behind, HostFlag, Native, OverlayRoute

ME, OTHER, PEER = NodeKey("east", "e1"), NodeKey("east", "e2"), NodeKey("west", "w1")
V4, V6 = ip_network("10.1.1.0/24"), ip_network("fd01:0:0:1::/64")
ENDPOINT = IPv4Address("10.99.0.12")
NO_KERNEL: Any = None
NO_REMOTE: Any = None


def node(key: NodeKey, *cidrs: Network, native: bool = False) -> Node:
    labels = (NATIVE_LABEL,) if native else ()
    return Node(key.cluster, key.name, (ENDPOINT,), cidrs, labels=labels)


def behind(key: NodeKey, *, label: bool = False, native: bool = False) -> dict[Network, Behind]:
    return rows.behind(key, node(key, V4, V6, native=label), 1, own=ME, native=native)


def test_a_pod_cidr_is_asked_about_unless_a_fabric_is_said_to_know_it() -> None:
    """The configuration speaks for our cluster, a node's label for the node."""
    ours, theirs = Behind(ENDPOINT, own=True), Behind(ENDPOINT, own=False)
    assert behind(OTHER) == {V4: ours, V6: ours}
    assert behind(PEER) == behind(PEER, native=True) == {V4: theirs, V6: theirs}
    assert behind(OTHER, native=True) == behind(OTHER, label=True) == {}
    assert behind(PEER, label=True) == behind(ME) == {}
    assert rows.behind(PEER, node(PEER, V4), None, own=ME, native=False) == {}


def test_the_overlay_is_the_way_only_after_the_kernel_has_said_no() -> None:
    one = Behind(ENDPOINT, own=True)
    assert rows.by_overlay(V4, one, Native.NO) == {V4: one}
    for said in (None, Native.YES):
        assert rows.by_overlay(V4, one, said) == {}
    assert rows.by_overlay(V4, None, Native.NO) == {}


def test_a_route_has_the_hosts_first_address_of_its_family() -> None:
    addresses = tuple(map(ip_address, ("10.99.0.11", "203.0.113.1", "fd99::11")))
    me, one = Node("east", "e1", addresses), Behind(ENDPOINT, own=True)
    assert rows.overlay_route(V4, one, me, mtu=1450) == {V4: OverlayRoute(addresses[0], 1450)}
    assert rows.overlay_route(V6, one, me, mtu=1450) == {V6: OverlayRoute(addresses[2], 1450)}
    without = Node("east", "e1", addresses[:2])
    assert rows.overlay_route(V6, one, without, mtu=1450) == {}
    assert rows.overlay_route(V4, one, None, mtu=1450) == {}


def test_the_flags_of_a_node_are_those_of_its_families() -> None:
    one = Behind(ENDPOINT, own=True)
    assert rows.host_flags(ENDPOINT, {V4: one}) == {ENDPOINT: HostFlag.OVERLAY_V4}
    both = HostFlag.OVERLAY_V4 | HostFlag.OVERLAY_V6
    assert rows.host_flags(ENDPOINT, {V4: one, V6: one}) == {ENDPOINT: both}
    assert rows.host_flags(ENDPOINT, {}) == {}


@pytest.mark.parametrize(
    ("of_all", "of_uplink", "found"), [("0", "1", 1), ("1", "0", 1), ("1", "2", 0), ("0", "0", 0)]
)
def test_a_strict_filter_is_a_finding_where_answers_come_in_by_the_uplink(
    of_all: str, of_uplink: str, found: int
) -> None:
    values = {"net/ipv4/conf/all/rp_filter": of_all, "net/ipv4/conf/eth0/rp_filter": of_uplink}
    node, flags = Table[NodeKey, Node]("node"), Table[IPv4Address, int]("flags")
    agent = HostsAgent(
        ME, Devices("eth0", "mg_vxlan", 1450), NO_KERNEL, node, NO_REMOTE, flags,
        native=False, sysctl=values.__getitem__,
    )  # fmt: skip
    agent.overlay.upsert({V6: Behind(ENDPOINT, own=False), V4: Behind(ENDPOINT, own=True)})
    assert not list(agent.findings())
    agent.overlay.upsert({V4: Behind(ENDPOINT, own=False)})
    assert [finding.code for finding in agent.findings()] == [STRICT_FILTER] * found


def test_nothing_goes_before_the_kernel_was_asked_about_all_and_our_own_need_not_wait() -> None:
    """A peer is awaited: routes and flags of our own nodes come, those of before stay."""
    complete = Source("complete")
    remote: Any = SimpleNamespace(ids=Table("id"), hosts=Table("hosts"), complete=complete)
    remote.ids.replace({"east": 1, "west": 2})
    remote.hosts.mark_synced()
    nodes, flags = Table[NodeKey, Node]("node"), Table[IPv4Address, int]("flags")
    former = IPv4Address("10.99.0.99")
    flags.replace({former: 3})
    agent = HostsAgent(
        ME, Devices("eth0", "mg_vxlan", 1450), NO_KERNEL, nodes, remote, flags, native=False
    )
    loop = Loop()
    agent.derive(loop)
    me = Node("east", "e1", (IPv4Address("10.99.0.11"),))
    nodes.replace({ME: me, OTHER: node(OTHER, V4)})
    loop.derive_all()
    agent.native.upsert({V4: Native.NO})
    loop.derive_all()
    assert agent.routes.rows == {V4: OverlayRoute(IPv4Address("10.99.0.11"), 1450)}
    assert (dict(flags.rows), agent.routes.synced) == ({former: 3, ENDPOINT: 1}, False)
    remote.complete.mark_synced()
    agent.native.mark_synced()
    loop.derive_all()
    assert (dict(flags.rows), agent.routes.synced) == ({ENDPOINT: 1}, True)
    agent.native.upsert({V4: Native.YES})
    loop.derive_all()
    assert (dict(flags.rows), dict(agent.routes.rows)) == ({}, {})


PREFIXES = sorted(
    map(ip_network, ("10.1.0.0/24", "10.1.1.0/24", "10.2.0.0/24", "fd01::/64", "fd01:0:0:1::/64")),
    key=order,
)


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("0.0.0.0/0", PREFIXES[:3]),
        ("10.1.0.0/16", PREFIXES[:2]),
        ("10.1.1.0/24", PREFIXES[1:2]),
        ("10.1.1.128/25", []),
        ("10.3.0.0/16", []),
        ("::/0", PREFIXES[3:]),
        ("fd01::/48", PREFIXES[3:]),
    ],
)
def test_a_route_concerns_the_prefixes_that_begin_in_it(prefix: str, found: list[Network]) -> None:
    assert concerned([RouteEvent(ip_network(prefix))], PREFIXES) == set(found)


def test_other_events_concern_all() -> None:
    link = LinkEvent(2, "uplink", 1500, 0, up=True, carrier=True, gone=False)
    assert concerned([Lost()], PREFIXES) == concerned([link], PREFIXES) == set(PREFIXES)
    assert concerned([], PREFIXES) == set()


class FakeKernel:
    """Devices with the prefixes that they have native routes to."""

    def __init__(self) -> None:
        self.routes: dict[str, set[Network]] = {"uplink": set(), "wg0": set()}
        self.asked: list[tuple[int, set[Network]]] = []
        self.said: asyncio.Queue[Event] = asyncio.Queue()
        self.silent: set[Network] = set()

    async def events(self, *groups: Group) -> AsyncIterator[Event]:
        assert {Group.ROUTE, Group.ROUTE_V6, Group.LINK} <= set(groups)
        yield Lost()
        while True:
            yield await self.said.get()

    async def links(self) -> dict[str, Link]:
        names = ["lo", "mg_vxlan", "mgp1", "down0", *self.routes]
        return {
            name: Link(name, number, 1500, "", name != "down0", "")
            for number, name in enumerate(names, 1)
        }

    async def natively_routed(
        self, prefixes: Collection[Network], ifindex: int
    ) -> dict[Network, bool]:
        self.asked.append((ifindex, set(prefixes)))
        name = list(await self.links())[ifindex - 1]
        return {each: each in self.routes[name] for each in prefixes if each not in self.silent}


async def until(fact: object) -> None:
    async with asyncio.timeout(5):
        while not fact():  # type: ignore[operator]
            await asyncio.sleep(0)


def test_every_device_that_is_not_ours_is_asked_and_events_ask_again() -> None:
    kernel, behind, native = FakeKernel(), Table[Network, Behind]("b"), Table[Network, Native]("n")
    kernel.routes["wg0"] = {V6}

    async def story() -> None:
        watcher = asyncio.create_task(NativeRoutes(kernel, behind, native).run())
        behind.replace(dict.fromkeys((V4, V6), Behind(ENDPOINT, own=True)))
        await until(lambda: native.synced)
        assert native.rows == {V4: Native.NO, V6: Native.YES}
        assert kernel.asked == [(5, {V4, V6}), (6, {V4, V6})]
        kernel.routes["uplink"] = {V4}
        kernel.said.put_nowait(RouteEvent(ip_network("10.1.0.0/16")))
        await until(lambda: native.rows[V4] is Native.YES)
        assert kernel.asked[2:] == [(5, {V4})]
        behind.delete([V6])
        await until(lambda: V6 not in native.rows)
        watcher.cancel()

    asyncio.run(story())


def test_what_the_kernel_does_not_answer_is_not_known() -> None:
    kernel, behind, native = FakeKernel(), Table[Network, Behind]("b"), Table[Network, Native]("n")
    kernel.silent = {V4}
    behind.replace({V4: Behind(ENDPOINT, own=True)})
    answers = asyncio.run(NativeRoutes(kernel, behind, native).ask([V4]))
    assert answers == {}
