"""Services on a node: both maps while sources arrive, agents restart and maps are full."""

import asyncio
import random
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from mesh.core.model import (
    Backend,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    Service,
    ServiceKey,
    ServicePort,
)
from mesh.objects.kubernetes import PODS
from mesh.services.backends import BackendAddress, ServiceAddress
from mesh.services.kinds import (
    SERVICES,
    SLICES,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
    ServicePortObject,
)
from mesh.services.slots import NO_SLOTS, SlotRange
from tests.unit.services.room import FakeMaps, Room


def service(number: int, **fields: object) -> tuple[ServiceKey, ServiceObject]:
    name = f"web-{number}"
    ports = (ServicePortObject("http", "TCP", 80, 8080),)
    row = ServiceObject("east", "shop", name, (IPv4Address(0x0A610100 + number),), ports)
    return ServiceKey("east", "shop", name), replace(row, **fields)


def ask(number: int) -> ServiceAddress:
    return ServiceAddress(IPv4Address(0x0A610100 + number), 80, "TCP")


def part(number: int, *hosts: int) -> tuple[EndpointSliceKey, EndpointSlice]:
    name = f"web-{number}"
    addresses = tuple(IPv4Address(0x0A010000 + host) for host in hosts)
    ports = (ServicePort("http", "TCP", 8080),)
    row = EndpointSlice("east", "shop", name, name, addresses, ports)
    return EndpointSliceKey("east", "shop", name), row


def backend(host: int) -> BackendAddress:
    return BackendAddress(IPv4Address(0x0A010000 + host), 8080)


def pod(node: str = "east-1") -> tuple[PodKey, Pod]:
    row = Pod("east", "shop", "web-1", node, (("app", "web"),), (IPv4Address("10.1.1.1"),))
    return PodKey("east", "shop", "web-1"), row


SOURCES = (
    "object pod", "object service", "object endpoint slice", "pod entry", "remote clusters heard",
)  # fmt: skip


@pytest.mark.parametrize("late", SOURCES)
def test_nothing_is_derived_before_all_sources_are_complete(late: str) -> None:
    """Of peers only the first list of the store is waited for, not what none of them has put."""
    room = Room(synced=False)
    room.agent.derive(room.loop)
    room.objects[SERVICES].upsert(dict([service(1)]))
    room.put_pods(pod())
    [missing] = [one for one in room.sources if one.name == late]
    for source in room.sources:
        if source is not missing:
            source.mark_synced()
    room.settle()
    assert not room.agent.service_slots.synced
    assert not room.agent.service_slots.rows
    missing.mark_synced()
    room.settle()
    assert room.agent.service_slots.synced
    assert room.agent.service_slots.rows == {ask(1): NO_SLOTS}


def test_a_backend_is_where_the_pod_is_not_where_it_was() -> None:
    """Its last node may be dead and never remove its key."""
    room = Room()
    room.agent.derive(room.loop)
    room.objects[SERVICES].upsert(dict([service(1, selector=(("app", "web"),))]))
    room.objects[PODS].upsert(dict([pod("east-2")]))
    for node, address in (("east-2", "10.1.2.2"), ("east-3", "10.1.3.3")):
        entry = PodEntry((IPv4Address(address),), "x")
        room.entries.upsert({PodRef(node, "shop", "web-1"): entry})
    room.settle()
    assert [str(row.address) for row in room.agent.backend.rows.values()] == ["10.1.2.2"]


def test_services_of_peers_are_listed_and_have_no_address_here() -> None:
    room = Room()
    room.agent.derive(room.loop)
    west = (Backend(IPv4Address("10.2.0.1"), 80, "http", "TCP", "west"),)
    port = (ServicePort("http", "TCP", 80),)
    key = ServiceKey("west", "shop", "web-1")
    foreign = Service("west", "shop", "web-1", (), port, is_global=True, backends=west)
    room.remote.upsert({key: replace(foreign, addresses=(IPv4Address("10.97.2.2"),))})
    room.objects[SERVICES].upsert(dict([service(1, is_global=True)]))
    room.settle()
    rows = room.agent.listings()["service"]()
    assert [(row["cluster"], len(row["backends"])) for row in rows] == [("east", 1), ("west", 1)]
    assert list(room.agent.service_slots.rows) == [ask(1)]


def test_slots_are_given_back_when_the_services_entries_have_arrived() -> None:
    async def story() -> None:
        room, maps = Room(), FakeMaps()
        await room.connect(maps)
        room.objects[SERVICES].upsert(dict([service(1)]))
        room.objects[SLICES].upsert(dict([part(1, 1, 2)]))
        await room.rounds()
        room.objects[SLICES].upsert(dict([part(1, 3)]))
        room.settle()
        assert room.agent.backend.rows == dict(enumerate(map(backend, (1, 2, 3))))
        await room.rounds()
        assert maps.services.rows == {ask(1): SlotRange(2, 1)}
        assert maps.backends.rows == {2: backend(3)}

    asyncio.run(story())


def test_no_timer_is_needed_to_give_slots_back() -> None:
    async def story() -> None:
        room, maps = Room(), FakeMaps()
        await room.connect(maps)
        room.objects[SERVICES].upsert(dict([service(1)]))
        running = asyncio.create_task(room.loop.run())
        for host in range(5):
            room.objects[SLICES].upsert(dict([part(1, host, 50 + host)]))
            async with asyncio.timeout(5):
                while set(maps.backends.rows.values()) != {backend(host), backend(50 + host)}:
                    await asyncio.sleep(0)
            assert len(maps.backends.rows) == 2
        running.cancel()

    asyncio.run(story())


def test_a_restart_moves_no_slot() -> None:
    async def story() -> None:
        first, maps = Room(), FakeMaps()
        await first.connect(maps)
        for number in range(4):
            first.objects[SERVICES].upsert(dict([service(number)]))
            first.objects[SLICES].upsert(dict([part(number, number, 9)]))
            await first.rounds()
        first.objects[SERVICES].delete([service(0)[0]])
        first.objects[SLICES].upsert(dict([part(3, 3)]))
        await first.rounds()
        services, backends = dict(maps.services.rows), dict(maps.backends.rows)
        second = Room(synced=False)
        for noun in (SERVICES, SLICES):
            second.objects[noun].upsert(first.objects[noun].rows)
        second.objects[SERVICES].delete([service(1)[0]])
        await second.connect(maps)
        await second.rounds()
        assert (maps.services.rows, maps.backends.rows) == (services, backends)
        second.sync()
        await second.rounds()
        assert maps.services.rows == {k: row for k, row in services.items() if k != ask(1)}
        assert maps.backends.rows.items() <= backends.items()
        assert len(maps.backends.rows) == 3

    asyncio.run(story())


def test_a_full_map_of_backends_is_one_finding_that_names_services() -> None:
    async def story() -> None:
        room, maps = Room(), FakeMaps(backends=4)
        await room.connect(maps)
        for number in range(1, 14):
            room.objects[SERVICES].upsert(dict([service(number)]))
            room.objects[SLICES].upsert(dict([part(number, 10 + number, 30 + number)]))
            await room.rounds()
        found = list(room.agent.findings())
        assert [(f.code, f.object, f.field) for f in found] == [
            ("M162", "map mg_backend_addr", "max_entries")
        ]
        assert found[0].text.startswith("26 backends, room for 4; refused")
        assert "Service/shop/web-3" in found[0].text
        assert found[0].text.endswith("and 3 more")
        assert maps.services.rows[ask(3)] == NO_SLOTS
        room.objects[SERVICES].delete([service(number)[0] for number in range(3, 14)])
        await room.rounds()
        assert list(room.agent.findings()) == []

    asyncio.run(story())


def test_a_full_map_of_services_stops_no_slot_from_being_free() -> None:
    """Churn of the services that are in the map goes on in the same few slots."""

    async def story() -> None:
        room, maps = Room(), FakeMaps(services=2, backends=8)
        await room.connect(maps)
        room.objects[SERVICES].upsert(dict([service(number) for number in (1, 2, 3)]))
        room.objects[SLICES].upsert(dict([part(number, number) for number in (1, 2, 3)]))
        for host in range(20):
            room.objects[SLICES].upsert(dict([part(1, host, 50 + host)]))
            await room.rounds()
        assert len(maps.services.rows) == 2
        assert len(maps.backends.rows) <= 4
        found = list(room.agent.findings())
        assert [(f.code, f.object) for f in found] == [("M163", "map mg_service_addr")]
        assert found[0].text == (
            "3 service addresses, room for 2; not translated: Service/shop/web-3"
        )
        room.objects[SERVICES].delete([service(2)[0]])
        await room.rounds()
        assert set(maps.services.rows) == {ask(1), ask(3)}
        assert list(room.agent.findings()) == []

    asyncio.run(story())


class Clients:
    """At every write of either map, each entry leads to backends that its service has or had."""

    def __init__(self, maps: FakeMaps) -> None:
        self.maps = maps
        self.wanted: dict[ServiceAddress, set[BackendAddress]] = {}
        maps.services.watch = maps.backends.watch = self.look

    def look(self) -> None:
        for name, row in self.maps.services.rows.items():
            for slot in range(row.first, row.first + row.count):
                assert self.maps.backends.rows[slot] in self.wanted[name]


@pytest.mark.parametrize("capacity", [(1000, 1000), (1000, 14), (4, 1000), (4, 14)])
@pytest.mark.parametrize("seed", range(8))
def test_every_order_of_events_keeps_every_entry_right(
    seed: int, capacity: tuple[int, int]
) -> None:
    """Changes, rounds, failures of a whole map and restarts, in maps with and without room."""

    async def story() -> None:
        chance, maps = random.Random(seed), FakeMaps(*capacity)
        clients, room = Clients(maps), Room()
        await room.connect(maps)
        for _ in range(150):
            for number in chance.sample(range(6), chance.randrange(3)):
                hosts = chance.sample(range(8), chance.randrange(5))
                if chance.random() < 0.2:
                    room.objects[SERVICES].delete([service(number)[0]])
                else:
                    room.objects[SERVICES].upsert(dict([service(number)]))
                    room.objects[SLICES].upsert(dict([part(number, *hosts)]))
                    clients.wanted.setdefault(ask(number), set()).update(map(backend, hosts))
            maps.services.away = chance.random() < 0.1
            maps.backends.away = chance.random() < 0.1
            await some_rounds(room)
            if chance.random() < 0.05:
                room = await restarted(room, maps)
        maps.services.away = maps.backends.away = False
        await room.rounds(6)
        assert_right(room, maps)

    asyncio.run(story())


async def some_rounds(room: Room) -> None:
    """As the loop has it: services wait for backends."""
    backends, services, _ = room.applied
    for one in (backends, services):
        if one is services and not backends.arrived:
            return
        try:
            await room.round(one)
            one.full = bool(one.report.errors)
        except OSError:
            one.revision, one.full = -1, True


async def restarted(room: Room, maps: FakeMaps) -> Room:
    """Another process with the same sources, whose maps answer."""
    maps.services.away = maps.backends.away = False
    again = Room()
    for noun in (SERVICES, SLICES):
        again.objects[noun].upsert(room.objects[noun].rows)
    await again.connect(maps)
    again.settle()
    return again


def assert_right(room: Room, maps: FakeMaps) -> None:
    """The maps hold the tables as far as they fit, and nothing else."""
    rows = room.agent.service_slots.rows
    assert maps.services.rows.items() <= rows.items()
    assert len(maps.services.rows) == min(len(rows), maps.services.capacity)
    assert maps.backends.rows == room.agent.backend.rows
    used = {s for row in rows.values() for s in range(row.first, row.first + row.count)}
    assert used == set(maps.backends.rows)
    if maps.backends.capacity == 1000:
        objects = room.objects
        wanted = {
            ask(number): {BackendAddress(address, 8080) for address in addresses}
            for number in range(6)
            if service(number)[0] in objects[SERVICES].rows
            for addresses in [objects[SLICES].rows[part(number)[0]].addresses]
        }
        assert {name: set(got) for name, got in room.translations().items()} == wanted


def test_an_address_is_a_services_as_long_as_one_has_it() -> None:
    """Whatever its port: packets to other ports of it are dropped by name."""
    room, maps = Room(), FakeMaps()
    room.objects[SERVICES].upsert(dict([service(1), service(2)]))

    async def run() -> None:
        await room.connect(maps)
        room.settle()
        assert set(room.agent.address.rows) == {ask(1).address, ask(2).address}
        assert room.agent.service_of(ask(1).address, 80, "TCP") == service(1)[0]
        assert room.agent.service_of(ask(1).address, 81, "TCP") is None
        room.objects[SERVICES].delete([service(1)[0]])
        room.settle()
        assert set(room.agent.address.rows) == {ask(2).address}

    asyncio.run(run())
