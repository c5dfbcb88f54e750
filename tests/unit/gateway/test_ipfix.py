"""Events about port blocks: octets that a collector decodes by their templates (RFC 7011)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from gateway import blocks
from gateway.ipfix.controller import IPFIXController
from gateway.ipfix.messages import (
    DATAGRAM,
    BlockEvent,
    NatEvent,
    data_sets,
    message,
    record,
    template_set,
)
from gateway.ipfix.settings import IPFIXSettings
from mesh.core.model import Claim, ClaimKey, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects
from tests.fixtures.rooms import FakeStore

NODE = IPv4Address("10.99.0.11")
FOUR, SIX = ip_address("198.51.100.10"), ip_address("2001:db8:100::10")
EVENT = BlockEvent(1.5, NatEvent.ALLOCATED, NODE, "east/east-1", FOUR, 1024, 1279)


@dataclass
class Collector:
    """A collecting process: it knows no more of a record than its template says."""

    templates: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    records: list[dict[int, bytes]] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    domains: set[int] = field(default_factory=set)

    def take(self, data: bytes) -> bytes:
        """Decode whole messages; what is left of the octets."""
        while len(data) >= 16:
            version, length, _, sequence, domain = struct.unpack_from("!HHIII", data)
            assert version == 10
            if len(data) < length:
                break
            self.sequences.append(sequence)
            self.domains.add(domain)
            self._sets(data[16:length])
            data = data[length:]
        return data

    def _sets(self, data: bytes) -> None:
        while data:
            number, length = struct.unpack_from("!HH", data)
            body, data = data[4:length], data[length:]
            if number == 2:
                self._templates(body)
            else:
                self._records(self.templates[number], body)

    def _templates(self, body: bytes) -> None:
        while body:
            number, count = struct.unpack_from("!HH", body)
            words = struct.unpack_from(f"!{2 * count}H", body, 4)
            self.templates[number] = list(zip(words[::2], words[1::2], strict=True))
            body = body[4 + 4 * count :]

    def _records(self, template: list[tuple[int, int]], body: bytes) -> None:
        while body:
            found = {}
            for element, size in template:
                length = size
                if size == 0xFFFF:
                    length, body = body[0], body[1:]
                found[element], body = body[:length], body[length:]
            self.records.append(found)

    @property
    def blocks(self) -> list[tuple[int, str, str, int, int]]:
        """Event, user, address, first and last port."""
        return [
            (
                one[230][0],
                one[371].decode(),
                str(ip_address(one.get(225) or one[282])),
                int.from_bytes(one[361]),
                int.from_bytes(one[362]),
            )
            for one in self.records
        ]


def test_a_record_is_golden() -> None:
    assert record(EVENT).hex(" ") == (
        "00 00 00 00 00 00 05 dc 10 0a 63 00 0b 0b 65 61 73 74 2f 65 61 73 74 2d 31 "
        "c6 33 64 0a 04 00 04 ff"
    )


def test_a_collector_decodes_both_families_by_their_templates() -> None:
    other = BlockEvent(2.0, NatEvent.GIVEN_BACK, NODE, "east/east-1", SIX, 1280, 1535)
    sets = list(data_sets([EVENT, EVENT, other], DATAGRAM))
    assert [count for _, count in sets] == [2, 1]
    collector = Collector()
    assert collector.take(message([template_set(), *(one for one, _ in sets)], 7, 0, 3)) == b""
    assert collector.blocks == [
        (16, "east/east-1", str(FOUR), 1024, 1279),
        (16, "east/east-1", str(FOUR), 1024, 1279),
        (17, "east/east-1", str(SIX), 1280, 1535),
    ]
    assert collector.records[0][8] == NODE.packed
    assert collector.domains == {3}


def test_no_datagram_is_longer_than_it_may_be() -> None:
    templates = template_set()
    sets = list(data_sets([EVENT] * 1000, DATAGRAM - len(templates)))
    assert sum(count for _, count in sets) == 1000
    assert all(len(message([templates, one], 0, 0, 0)) <= DATAGRAM for one, _ in sets)


# The exporter, against a collector on real sockets


class Story:
    """A controller's feature with claims that the test makes."""

    def __init__(self, port: int, transport: str) -> None:
        objects, self.store, self.loop = Objects(KINDS.nouns), FakeStore(), Loop()
        settings = IPFIXSettings(collector=f"127.0.0.1:{port}", transport=transport)  # type: ignore[arg-type]
        self.room = IPFIXController("east", settings, 256, objects, self.store)
        self.room.leads = lambda: self.leads
        self.leads = True
        for number in (1, 2):
            node = Node("east", f"east-{number}", (IPv4Address(f"10.99.0.1{number}"),))
            objects[NODES].upsert({NodeKey("east", node.name): node})
        self.held = self.store.claims_of(blocks.NOUN).held
        self.room.derive(self.loop)
        self.held.mark_synced()

    def claim(self, number: int, owner: str, address: str = str(FOUR)) -> None:
        key = ClaimKey(blocks.NOUN, address, number)
        self.held.upsert({key: Claim(blocks.NOUN, address, number, f"{owner}/0", 1)})

    def release(self, number: int) -> None:
        self.held.delete([ClaimKey(blocks.NOUN, str(FOUR), number)])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        (task,) = self.room.tasks()
        jobs = [asyncio.ensure_future(task()), asyncio.ensure_future(self.loop.run())]
        try:
            yield
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.02)


class Listening:
    """A collector over TCP that may be away."""

    def __init__(self) -> None:
        self.seen: list[Collector] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.server: Any = None
        self.port = self.ended = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.append(collector := Collector())
        self.writers.append(writer)
        rest = b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                rest = collector.take(rest + data)
        self.ended += 1

    async def stop(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
        await self.server.wait_closed()


def test_a_collector_is_told_what_is_held_and_then_each_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.ipfix.controller.LOOK_S", 0.02)
    monkeypatch.setattr("gateway.ipfix.controller.AGAIN_S", 0.1)

    async def run() -> None:
        listening = Listening()
        await listening.start()
        story = Story(listening.port, "tcp")
        story.claim(0, "east-1")
        story.claim(1, "east-2", str(SIX))
        async with story.running():
            await until(lambda: listening.seen and len(listening.seen[0].records) == 2)
            story.claim(0, "east-2")  # changes hands
            await until(lambda: len(listening.seen[0].records) == 4)
            story.release(0)
            await until(lambda: len(listening.seen[0].records) == 5)
            assert [row[:3] for row in listening.seen[0].blocks] == [
                (16, "east/east-1", str(FOUR)),
                (16, "east/east-2", str(SIX)),
                (17, "east/east-1", str(FOUR)),
                (16, "east/east-2", str(FOUR)),
                (17, "east/east-2", str(FOUR)),
            ]
            assert listening.seen[0].sequences[-1] == 4
            await listening.stop()
            await until(lambda: list(story.room.findings()))
            (found,) = story.room.findings()
            assert (found.code, found.field) == ("E380", "ipfix.collector")
            story.claim(5, "east-1")
            await listening.start()
            await until(lambda: len(listening.seen) == 2 and len(listening.seen[1].records) == 2)
            assert {row[3] for row in listening.seen[1].blocks} == {1280, 2304}
            await until(lambda: not list(story.room.findings()))
            story.leads = False
            await until(lambda: listening.ended == 2)
        await listening.stop()

    asyncio.run(run())


def test_datagrams_have_their_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ipfix.controller.LOOK_S", 0.02)

    class Taking(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.seen: list[Collector] = []

        def datagram_received(self, data: bytes, _: object) -> None:
            self.seen.append(one := Collector())  # it knows nothing of those before
            assert one.take(data) == b""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        transport, taking = await loop.create_datagram_endpoint(Taking, local_addr=("127.0.0.1", 0))
        story = Story(transport.get_extra_info("sockname")[1], "udp")
        for number in range(100):
            story.claim(number, "east-1")
        async with story.running():
            await until(lambda: sum(len(one.records) for one in taking.seen) == 100)
            story.release(7)
            await until(lambda: sum(len(one.records) for one in taking.seen) == 101)
        assert taking.seen[-1].blocks == [(17, "east/east-1", str(FOUR), 2816, 3071)]
        transport.close()

    asyncio.run(run())
