"""The room of services over real maps: rows arrive as entries, and a restart moves no slot."""

import asyncio
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from bpf.btf import Btf
from bpf.build import HERE, build
from bpf.maps import Map, RowTarget
from bpf.object import Object
from mesh.core.feature import Maps
from mesh.core.model import ServiceKey, ServicePort
from mesh.services.backends import Owner
from mesh.services.kinds import (
    SERVICES,
    SLICES,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
    ServicePortObject,
)
from mesh.services.maps import (
    ADDRESS_MAP,
    BACKEND_MAP,
    SERVICE_MAP,
    address_map,
    backend_map,
    service_map,
)
from tests.unit.services.room import Room

V4, V6 = IPv4Address("10.97.1.10"), IPv6Address("fd97:1::10")
KEY = ServiceKey("east", "shop", "web")
#: Entries of a map that is too small.
ROOM = 16
PORTS = (("http", "TCP", 80), ("dns", "UDP", 53))


class PinnedMaps(Maps):
    """Maps that ``sock.o`` has pinned."""

    def __init__(self, pins: Path, btf: Btf) -> None:
        self._btf = btf
        names = (SERVICE_MAP, BACKEND_MAP, ADDRESS_MAP)
        self.maps = {name: Map.open_pinned(pins / name) for name in names}

    def rows(self, name: str, encode: Any, decode: Any) -> RowTarget[Any, Any]:
        return RowTarget(self.maps[name], encode, decode)

    def capacity(self, name: str) -> int:
        return self.maps[name].max_entries

    def enum(self, name: str) -> Mapping[str, int]:
        return self._btf.enum(name)

    def close(self) -> None:
        for one in self.maps.values():
            one.close()


def loaded(pins: Path, **entries: int) -> Iterator[PinnedMaps]:
    build()
    with Object.open(HERE / "obj" / "sock.o") as opened:
        for name, number in entries.items():
            opened.set_max_entries(name, number)
        opened.pin(pins)
        opened.load()
        made = PinnedMaps(pins, opened.btf)
    yield made
    made.close()


@pytest.fixture
def maps(pins: Path) -> Iterator[PinnedMaps]:
    yield from loaded(pins)


@pytest.fixture(params=[SERVICE_MAP, BACKEND_MAP])
def small(pins: Path, request: pytest.FixtureRequest) -> Iterator[PinnedMaps]:
    """Maps of which one has room for half of what is wanted."""
    yield from loaded(pins, **{request.param: ROOM})


def part(name: str, *addresses: Any) -> dict[EndpointSliceKey, EndpointSlice]:
    ports = tuple(ServicePort(port, protocol, 8000 + number) for port, protocol, number in PORTS)
    row = EndpointSlice("east", "shop", name, "web", addresses, ports)
    return {EndpointSliceKey("east", "shop", name): row}


async def dump(maps: PinnedMaps) -> tuple[Any, Any]:
    return await service_map(maps).read(), await backend_map(maps).read()


async def started(maps: PinnedMaps) -> Room:
    room = Room()
    ports = tuple(ServicePortObject(*port, port[2]) for port in PORTS)
    service = ServiceObject("east", "shop", "web", (V4, V6), ports)
    room.objects[SERVICES].upsert({KEY: service})
    room.objects[SLICES].upsert(part("a", IPv4Address("10.1.0.1"), IPv4Address("10.1.0.2")))
    room.objects[SLICES].upsert(part("b", IPv6Address("fd01::1")))
    await room.connect(maps)
    return room


def test_owners_of_addresses_are_read_as_they_were_written(maps: PinnedMaps) -> None:
    rows = {V4: Owner.PROXIED, V6: Owner.OURS}

    async def story() -> None:
        target = address_map(maps)
        assert not await target.upsert(rows)
        assert await target.read() == rows

    asyncio.run(story())


def test_entries_are_what_the_tables_say_and_survive_a_restart(maps: PinnedMaps) -> None:
    async def story() -> None:
        room = await started(maps)
        await room.rounds()
        services, backends = await dump(maps)
        assert services == room.agent.service_slots.rows
        assert backends == room.agent.backend.rows
        assert sorted(row.count for row in services.values()) == [1, 1, 2, 2]
        again = await started(maps)
        await again.rounds()
        assert await dump(maps) == (services, backends)

    asyncio.run(story())


def test_replaced_backends_leave_the_map(maps: PinnedMaps) -> None:
    async def story() -> None:
        room = await started(maps)
        await room.rounds()
        for host in range(20):
            room.objects[SLICES].upsert(part("a", IPv4Address(0x0A020000 + host)))
            await room.rounds()
        services, backends = await dump(maps)
        assert len(backends) == 4
        assert services == room.agent.service_slots.rows

    asyncio.run(story())


def service(number: int) -> tuple[ServiceKey, ServiceObject]:
    ports = (ServicePortObject("http", "TCP", 80, 80),)
    name = f"web-{number}"
    address = IPv4Address(f"10.97.2.{number}")
    return ServiceKey("east", "shop", name), ServiceObject("east", "shop", name, (address,), ports)


def test_a_service_without_room_is_named_and_no_other_waits(small: PinnedMaps) -> None:
    """Every entry that there is leads to a backend of its own service."""

    async def fill() -> Room:
        room = Room()
        for number in range(2 * ROOM):
            key, row = service(number)
            room.objects[SERVICES].upsert({key: row})
            http = (ServicePort("http", "TCP", 8000 + number),)
            backends = EndpointSlice(
                "east", "shop", key.name, key.name, (IPv4Address("10.1.0.9"),), http
            )
            room.objects[SLICES].upsert({EndpointSliceKey("east", "shop", key.name): backends})
        await room.connect(small)
        await room.rounds()
        return room

    room = asyncio.run(fill())
    services, slots = asyncio.run(dump(small))
    lead = {ask.address: slots[row.first].port for ask, row in services.items() if row.count}
    assert lead == {address: 8000 + int(str(address).rpartition(".")[2]) for address in lead}
    assert len(lead) == ROOM
    found = list(room.agent.findings())
    code = "M163" if small.capacity(SERVICE_MAP) == ROOM else "M162"
    assert [finding.code for finding in found] == [code]
    assert f"room for {ROOM}" in found[0].text
    assert not any(one.report.errors for one in room.loop.applied)
