"""An agent that starts beside a replaced store: nothing waits for a cluster that is not in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

from clustermesh import publish
from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.store.follow import Batch, Entry
from mesh.core.model import Backend, Node, Service, ServiceKey, ServicePort
from mesh.services.backends import ServiceAddress
from mesh.services.kinds import (
    SERVICES,
    SLICES,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
    ServicePortObject,
)
from tests.unit.services.room import FakeMaps, Room

OWN = OwnFacts("east", 1, (ip_network("10.1.0.0/16"),))
GLOBAL, LOCAL = "10.97.1.1", "10.97.1.2"
IDS = {"west": 2, "north": 3}


def own(name: str, address: str, *hosts: str, is_global: bool) -> tuple[object, object]:
    ports = (ServicePortObject("http", "TCP", 80, 8080),)
    row = ServiceObject("east", "shop", name, (IPv4Address(address),), ports, is_global=is_global)
    part = EndpointSlice(
        "east", "shop", name, name, tuple(map(IPv4Address, hosts)),
        (ServicePort("http", "TCP", 8080),),
    )  # fmt: skip
    key = ServiceKey("east", "shop", name)
    return (key, row), (EndpointSliceKey("east", "shop", name), part)


def put(room: Room, name: str, address: str, *hosts: str, is_global: bool) -> None:
    service, part = own(name, address, *hosts, is_global=is_global)
    room.objects[SERVICES].upsert(dict([service]))  # type: ignore[list-item]
    room.objects[SLICES].upsert(dict([part]))  # type: ignore[list-item]


def peer(cluster: str, *hosts: str, canary: bool = True) -> list[Entry]:
    """What a cluster publishes: a node, the service with its backends, the canaries."""
    number = IDS[cluster]
    node = Node(
        cluster, f"{cluster}-1", (ip_address(f"10.99.0.{number}1"),),
        (ip_network(f"10.{number}.0.0/16"),),
    )  # fmt: skip
    backends = tuple(Backend(ip_address(h), 8080, "http", "TCP", cluster) for h in hosts)
    row = Service(cluster, "shop", "web", (), (), is_global=True, backends=backends)
    keys = {
        **publish.config(cluster, number),
        wire.node_key(cluster, node.name): wire.node_value(node, number),
        wire.service_key(cluster, "shop", "web"): wire.service_value(row, number),
        **(publish.canaries(cluster, "now") if canary else {}),
    }
    return [Entry(key, value, 5, 5, 7) for key, value in keys.items()]


def backends(maps: FakeMaps) -> Mapping[str, set[str]]:
    """Backends by service address, as the datapath finds them."""
    found = {}
    for ask, row in maps.services.rows.items():
        assert isinstance(ask, ServiceAddress)
        slots = range(row.first, row.first + row.count)
        found[str(ask.address)] = {str(maps.backends.rows[at].address) for at in slots}
    return found


def sync_own(room: Room) -> None:
    for source in (*room.objects.tables().values(), room.entries):
        source.mark_synced()


async def former() -> FakeMaps:
    """The maps of an agent that knew west and north."""
    maps, room = FakeMaps(), Room(synced=False)
    await room.connect(maps)
    put(room, "web", GLOBAL, "10.1.0.1", is_global=True)
    put(room, "db", LOCAL, "10.1.0.9", is_global=False)
    sync_own(room)
    room.peers.update_own(OWN)
    entries = [*peer("west", "10.2.0.1", "10.2.0.2"), *peer("north", "10.3.0.1")]
    room.peers.take(Batch(5, entries, listed=True))
    await room.rounds()
    assert backends(maps) == {
        GLOBAL: {"10.1.0.1", "10.2.0.1", "10.2.0.2", "10.3.0.1"}, LOCAL: {"10.1.0.9"},
    }  # fmt: skip
    return maps


async def started(maps: FakeMaps) -> Room:
    """The next agent, beside an empty store: it awaits both."""
    room = Room(synced=False)
    await room.connect(maps)
    room.peers.expect(["west", "north"])
    put(room, "web", GLOBAL, "10.1.0.1", is_global=True)
    put(room, "db", LOCAL, "10.1.0.9", is_global=False)
    sync_own(room)
    room.peers.update_own(OWN)
    room.peers.take(Batch(2, (), listed=True))
    await room.rounds()
    return room


def test_own_services_go_on_while_a_peer_is_awaited() -> None:
    async def run() -> None:
        maps = await former()
        room = await started(maps)
        assert set(room.peers.awaited.rows) == {"west", "north"}
        peers = {"10.2.0.1", "10.2.0.2", "10.3.0.1"}
        assert backends(maps) == {GLOBAL: {"10.1.0.1", *peers}, LOCAL: {"10.1.0.9"}}
        put(room, "db", LOCAL, "10.1.0.8", is_global=False)
        put(room, "new", "10.97.1.3", "10.1.0.7", is_global=False)
        put(room, "web", GLOBAL, "10.1.0.2", "10.1.0.3", is_global=True)
        await room.rounds()
        assert backends(maps) == {
            GLOBAL: {"10.1.0.2", "10.1.0.3", *peers}, LOCAL: {"10.1.0.8"},
            "10.97.1.3": {"10.1.0.7"},
        }  # fmt: skip
        room.objects[SERVICES].delete([ServiceKey("east", "shop", "db")])
        await room.rounds()
        assert LOCAL not in backends(maps)

    asyncio.run(run())


def test_what_an_awaited_peer_had_stays_until_its_canary_is_back() -> None:
    """A peer that is back decides about its own backends; the other one's stay."""

    async def run() -> None:
        maps = await former()
        room = await started(maps)
        half = [entry for entry in peer("west", canary=False) if "services" not in entry.key]
        room.peers.take(Batch(3, half))
        await room.rounds()
        assert backends(maps)[GLOBAL] == {"10.1.0.1", "10.2.0.1", "10.2.0.2", "10.3.0.1"}
        room.peers.take(Batch(4, peer("west", "10.2.0.2", "10.2.0.5")))
        await room.rounds()
        assert set(room.peers.awaited.rows) == {"north"}
        assert backends(maps)[GLOBAL] == {"10.1.0.1", "10.2.0.2", "10.2.0.5", "10.3.0.1"}
        room.peers.forget(["north"])
        await room.rounds()
        assert (room.peers.awaited.rows, room.peers.complete.synced) == ({}, True)
        assert backends(maps)[GLOBAL] == {"10.1.0.1", "10.2.0.2", "10.2.0.5"}

    asyncio.run(run())


def test_a_service_that_is_no_longer_global_holds_nothing() -> None:
    async def run() -> None:
        maps = await former()
        room = await started(maps)
        [(key, row)] = [one for one in room.objects[SERVICES].rows.items() if one[0].name == "web"]
        room.objects[SERVICES].upsert({key: replace(row, is_global=False)})
        await room.rounds()
        assert backends(maps)[GLOBAL] == {"10.1.0.1"}

    asyncio.run(run())
