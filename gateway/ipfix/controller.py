"""The leader tells a collector which node holds which port block.

Claims of blocks are the source. A collector that was away, or that another leader spoke to, gets
all blocks that are held now, then each change. Nothing waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address

from gateway import blocks
from gateway.ipfix.findings import COLLECTOR_AWAY
from gateway.ipfix.messages import (
    DATAGRAM,
    STREAM,
    BlockEvent,
    NatEvent,
    data_sets,
    message,
    template_set,
)
from gateway.ipfix.settings import IPFIXSettings
from mesh.core.feature import ControllerFeature
from mesh.core.files import in_words
from mesh.core.model import Claim, ClaimKey, Finding, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Changes, Table
from mesh.identity.addresses import tunnel_endpoint
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

#: Seconds between looks, between tries of a collector that is away, and for one try.
LOOK_S, AGAIN_S, CONNECT_S = 0.5, 5.0, 5.0
#: Seconds after which UDP repeats what a collector may have missed (RFC 7011 8.1).
REPEAT_S = 600.0
#: Events that wait; with more of them everything is told anew.
_WAITING = 65_536


class IPFIXController(ControllerFeature):
    """``settings`` None: nobody is told. ``leads`` says whether this controller is to tell."""

    def __init__(
        self,
        cluster: str,
        settings: IPFIXSettings | None,
        block_size: int,
        objects: Objects,
        store: OwnStore,
    ) -> None:
        self.leads: Callable[[], bool] = lambda: False
        #: Why the collector is not told, in words.
        self.problem = ""
        self._cluster, self._settings, self._block_size = cluster, settings, block_size
        self._nodes: Table[NodeKey, Node] = objects[NODES]
        self._held = store.claims_of(blocks.NOUN).held
        self._told: dict[ClaimKey, Claim] = {}
        self._waiting: list[BlockEvent] = []
        self._writer: _Stream | _Datagrams | None = None

    def derive(self, loop: Loop) -> None:
        if self._settings:
            loop.follow(self._held, self._changed)

    def tasks(self) -> Iterable[Callable[[], Coroutine[object, object, None]]]:
        return (self._run,) if self._settings else ()

    def findings(self) -> Iterable[Finding]:
        if self.problem and self._settings:
            place = f"Collector/{self._settings.collector}"
            yield Finding(COLLECTOR_AWAY, place, "ipfix.collector", self.problem)

    def _changed(self, changes: Changes[ClaimKey, Claim]) -> None:
        if self._writer is None:
            return  # it is told of everything once it is there
        self._waiting += self._events(changes.upsert, changes.delete)
        if len(self._waiting) > _WAITING:
            self._forget()

    def _events(
        self, upsert: Mapping[ClaimKey, Claim], delete: Iterable[ClaimKey]
    ) -> Iterator[BlockEvent]:
        """What has changed against what was told; a block that changes hands was given back."""
        now = time.time()
        for key in (*delete, *upsert):
            former, claim = self._told.pop(key, None), upsert.get(key)
            if former and (claim is None or former.owner != claim.owner):
                yield from self._event(now, NatEvent.GIVEN_BACK, former)
            if claim and (former is None or former.owner != claim.owner):
                yield from self._event(now, NatEvent.ALLOCATED, claim)
            if claim:
                self._told[key] = claim

    def _event(self, at: float, what: NatEvent, claim: Claim) -> Iterator[BlockEvent]:
        if not blocks.is_block(claim, self._block_size):
            return
        name = blocks.node_of_owner(claim.owner)
        node = self._nodes.rows.get(NodeKey(self._cluster, name))
        endpoint = (tunnel_endpoint(node) if node else None) or IPv4Address(0)
        block = blocks.block_of_claim(claim, self._cluster, self._block_size)
        user = f"{self._cluster}/{name}"
        yield BlockEvent(at, what, endpoint, user, block.address, block.first, block.last)

    async def _run(self) -> None:
        """Tell for ever."""
        while True:
            pause = LOOK_S
            try:
                await self._look()
            except (OSError, TimeoutError) as error:
                self.problem = in_words(error) if isinstance(error, OSError) else "no answer"
                self._forget()
                pause = AGAIN_S
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        if not self.leads() or not self._held.synced:
            self.problem = ""
            self._forget()
            return
        if self._writer is None:
            await self._begin()
        assert self._writer is not None  # noqa: S101 - ``_begin`` raises or makes it
        events, self._waiting = self._waiting, []
        await self._writer.tell(events)
        self.problem = ""
        if self._writer.is_stale:
            self._forget()

    async def _begin(self) -> None:
        """Everything that is held now, to somebody who knows nothing. Raises OSError."""
        assert self._settings  # noqa: S101 - there is no task without
        (host, port), domain = self._settings.place, self._settings.domain
        kind = _Stream if self._settings.transport == "tcp" else _Datagrams
        async with asyncio.timeout(CONNECT_S):
            self._writer = await kind.open(host, int(port), domain)
        self._told = {}
        self._waiting = list(self._events(dict(self._held.rows), ()))

    def _forget(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._waiting, self._told = None, [], {}


class _Stream:
    """A collector over TCP."""

    is_stale = False

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, domain: int
    ) -> None:
        self._reader, self._writer, self._domain = reader, writer, domain
        self._sequence, self._begun = 0, False

    @classmethod
    async def open(cls, host: str, port: int, domain: int) -> _Stream:
        return cls(*await asyncio.open_connection(host, port), domain)

    async def tell(self, events: list[BlockEvent]) -> None:
        if self._reader.at_eof() or self._writer.is_closing():
            raise ConnectionResetError(0, "the collector has ended the connection")
        now = int(time.time())
        if not self._begun:
            self._writer.write(message([template_set()], now, 0, self._domain))
            self._begun = True
        for data, count in data_sets(events, STREAM):
            self._writer.write(message([data], now, self._sequence, self._domain))
            self._sequence += count
        async with asyncio.timeout(CONNECT_S):
            await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    """A collector over UDP: templates go with each message, and everything again after a time."""

    def __init__(self, domain: int) -> None:
        self._domain, self._sequence, self._began = domain, 0, time.monotonic()
        self.transport: asyncio.DatagramTransport | None = None
        self._error: OSError | None = None

    @classmethod
    async def open(cls, host: str, port: int, domain: int) -> _Datagrams:
        loop = asyncio.get_running_loop()
        transport, made = await loop.create_datagram_endpoint(
            lambda: cls(domain), remote_addr=(host, port)
        )
        made.transport = transport
        return made

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self._error = exc

    @property
    def is_stale(self) -> bool:
        """Whether it is time to tell everything again."""
        return time.monotonic() - self._began > REPEAT_S

    async def tell(self, events: list[BlockEvent]) -> None:
        if self._error is not None:
            raise self._error
        templates, now = template_set(), int(time.time())
        for data, count in data_sets(events, DATAGRAM - len(templates)):
            made = message([templates, data], now, self._sequence, self._domain)
            if self.transport:
                self.transport.sendto(made)
            self._sequence += count
            await asyncio.sleep(0)

    def close(self) -> None:
        with suppress(RuntimeError):
            if self.transport:
                self.transport.close()
