"""The BGP sessions of a node as targets: a table of sessions and a table of routes.

Walk: ``run`` finds the ExaBGP of the run directory or starts one, connects to its relay, fills a
fresh one from memory, and says ``lost`` to the loop, which reads, compares and sends the
difference. ``peers`` writes the configuration, ``routes`` says the routes. Rules:

- The speaker is the only one that starts ExaBGP again, and stops nothing: sessions outlive it.
- A session that is removed gets its withdrawals first: under graceful restart the router keeps
  the routes of a session that just ends.
- End-of-RIB is owed to each session that comes up, and released by the speaker once the sources
  have synced and the loop has arrived (``release``): earlier, the router would drop what a source
  has yet to confirm. Without it the router keeps stale routes until its own timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, ip_address

from bgp.desired import Peering
from bgp.exabgp.applied import Memory
from bgp.exabgp.channel import Channel, CommandRefused
from bgp.exabgp.commands import (
    BFD_DOWN,
    LEVEL,
    NEIGHBORS,
    OPENS,
    RELOAD,
    ROUTES,
    ROUTES_JSON,
    announcements,
    end_of_rib,
    route_refresh,
    teardown,
)
from bgp.exabgp.config import config_text
from bgp.exabgp.engine import Engine
from bgp.exabgp.lines import OPEN, UPDATE, Heard, Neighbor, OddLine, SessionEvent, dumped_neighbors
from bgp.exabgp.said import dumped_route, routes
from bgp.exabgp.states import State, States
from bgp.exabgp.targets import ConfigRefused, RemoteTables, Routes
from bgp.route import Family, PeerKey, Route, RouteKey
from mesh.core.files import in_words
from mesh.core.model import IP

log = logging.getLogger(__name__)

#: Changes of ExaBGP that this speaker relies on (``bulk.LEVEL`` of the one that runs).
WANTED_LEVEL = 2
#: Pauses between attempts to reach or start ExaBGP: first, and longest.
BACKOFF_S = (0.05, 5.0)
#: How long a running ExaBGP may be without a relay (it starts another) before it is reported.
RELAY_S = 5.0
#: Seconds between looks at the length of ExaBGP's log.
LOG_S = 60.0


class StartRefused(OSError):
    """ExaBGP ends as soon as it has read its configuration."""


class Session:
    """All sessions of one node, behind one ExaBGP."""

    def __init__(self, engine: Engine, router_id: IPv4Address | None) -> None:
        self.engine = engine
        #: None: it must be set before there is a peering.
        self.router_id = router_id
        self.memory = Memory(engine.applied)
        self.peers = RemoteTables(self)
        self.routes = Routes(self)
        self.log_problem = ""  # why its log grows on, in words
        self.problem = ""  # why ExaBGP cannot be reached, in words
        self.lost: Callable[[], None] = lambda: None
        #: Takes each UPDATE: the router, whether it was received (or sent), the message's body.
        self.heard: Callable[[IP, bool, bytes], None] = lambda _peer, _received, _body: None
        #: Takes each ROUTE-REFRESH of a router: "query", "begin" or "end" (RFC 7313).
        self.refreshed: Callable[[IP, Family, str], None] = lambda _peer, _family, _said: None
        #: Takes each OPEN of a router.
        self.opened: Callable[[IP, bytes], None] = lambda _peer, _body: None
        #: Takes what else happens to a session, after its state has changed.
        self.told: Callable[[SessionEvent], None] = lambda _event: None
        #: ExaBGP has ended, and with it all sessions.
        self.ended: Callable[[], None] = lambda: None
        #: A channel is open: from now on everything is heard.
        self.began: Callable[[], None] = lambda: None
        #: A conversation begins: UPDATEs before it were not heard.
        self.deaf: Callable[[], None] = lambda: None
        #: Sessions are others in what ExaBGP need not know.
        self.adapted: Callable[[], None] = lambda: None
        self.level = WANTED_LEVEL  # of the ExaBGP that runs
        self.states = States(self.memory)
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._refused = asyncio.Event()  # ExaBGP ends at once, with the sessions of memory
        self._channel: Channel | None = None
        if self.memory.peerings or engine.pid() is not None:
            self._wanted.set()

    def state(self, peering: Peering) -> State:
        """The session as it is now."""
        state = self.states.of(peering)
        if self._channel is None or state is None:
            return State("down", self.problem or "ExaBGP is starting", time.time())
        return state

    @property
    def former(self) -> bool:
        """Whether the ExaBGP that runs lacks changes that this speaker relies on."""
        return self.level < WANTED_LEVEL

    def asns(self) -> dict[PeerKey, int]:
        """Our own AS on each session."""
        return {key: one.local_asn for key, one in self.memory.peerings.items()}

    async def announced(self) -> dict[RouteKey, Route]:
        """Every route that ExaBGP holds for its sessions; one that is odd counts as not there."""
        return await self._announced(await self.channel())

    async def ask_again(self, peer: IP, family: Family) -> None:
        """Ask a router for all its routes of a family (RFC 2918); raises OSError."""
        await (await self.channel()).ask(route_refresh(peer, family))

    async def end_failed(self, peer: IP) -> None:
        """End a session whose way BFD has found down; ExaBGP dials again. Raises OSError."""
        await (await self.channel()).tell([teardown(peer, BFD_DOWN)])

    @property
    def owed(self) -> set[IP]:
        """Sessions that are up, and without End-of-RIB."""
        return self.states.owed

    async def run(self) -> None:
        """Keep a channel to ExaBGP, for ever."""
        pause = BACKOFF_S[0]
        while True:
            began = time.monotonic()
            try:
                await self._once()
            except OSError as error:
                self.problem = in_words(error)
                log.warning("ExaBGP cannot be used: error=%s", error)
                if isinstance(error, StartRefused):
                    self._refused.set()
            long = time.monotonic() - began > BACKOFF_S[1]
            pause = BACKOFF_S[0] if long else min(2 * pause, BACKOFF_S[1])
            await asyncio.sleep(pause)

    async def keep_log(self) -> None:
        """Begin ExaBGP's log anew whenever it is long, for ever."""
        while True:
            try:
                self.engine.rotate()
                self.log_problem = ""
            except OSError as error:
                self.log_problem = f"{self.engine.log} cannot be begun anew: {in_words(error)}"
            await asyncio.sleep(LOG_S)

    async def channel(self) -> Channel:
        """The channel, once it is there and ExaBGP has what memory has."""
        while self._channel is None:
            await self._ready.wait()
        return self._channel

    async def release(self) -> None:
        """End-of-RIB to every session that is owed it; the caller knows that all is said."""
        channel = await self.channel()
        unheard = {peer for peer in self.owed if not self.states.families(peer)}
        if unheard:  # we came between the events "negotiated" and "up"
            for neighbor in await self._established(channel):
                if neighbor.peer in unheard:
                    self.states.up(neighbor.peer, neighbor.families)
        for peer in sorted(self.owed, key=str):
            families = self.states.families(peer)
            if not await channel.tell([end_of_rib(peer, family) for family in families]):
                self.owed.discard(peer)

    async def configure(self, peerings: Mapping[PeerKey, Peering]) -> None:
        """Make these the sessions; raises ConfigRefused when ExaBGP does, which has the old."""
        if not self._wanted.is_set() or self._refused.is_set():
            await self._begin(peerings)
            return
        channel = await self.channel()
        if self.memory.settled and self._config(peerings) == self.engine.read_config():
            self.memory.save(peerings=peerings)  # what is announced, or accepted, is not ExaBGP's
            self.adapted()
            return
        last, settled = self.memory.peerings, self.memory.settled
        self.memory.save(peerings=peerings, settled=False)
        try:
            await self._reload(channel)
        except CommandRefused as error:
            self.memory.save(peerings=last, settled=settled)
            self._write_config()
            log.warning("ExaBGP refuses its configuration: said=%s", self.engine.last_words())
            raise ConfigRefused(
                "ExaBGP refuses its configuration and goes on with the former one; "
                f"{self.engine.log} says why"
            ) from error
        self.states.expect(peerings)
        self.lost()

    async def _begin(self, peerings: Mapping[PeerKey, Peering]) -> None:
        """Let an ExaBGP start with these sessions; raises ConfigRefused when it ends at once."""
        last = self.memory.peerings if self._wanted.is_set() else {}
        self._refused.clear()
        self.memory.save(peerings=peerings)
        self._wanted.set()
        waits = [asyncio.ensure_future(one) for one in (self.channel(), self._refused.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        if not self._refused.is_set():
            return
        self.memory.save(peerings=last)
        if not last:
            self._wanted.clear()
            self._refused.clear()
        raise ConfigRefused(
            f"ExaBGP ends at once with this session; {self.engine.log} says why: "
            f"{self.engine.last_words()}"
        )

    async def _reload(self, channel: Channel) -> None:
        """Let ExaBGP have the sessions that memory has."""
        self._write_config()
        await channel.ask(RELOAD)
        self.memory.save(settled=True)

    async def _once(self) -> None:
        await self._wanted.wait()
        if self.engine.pid() is None:
            self.ended()
            self._write_config()
            await self.engine.start()
            self.memory.save(filled=0, settled=True)  # a new one may have the pid of the last
        channel = await self._connect()
        self.began()
        listening = asyncio.create_task(channel.listen())
        try:
            await self._attach(channel)
            await listening
            self.problem = "the relay has ended"
        finally:
            self._channel = None
            self._ready.clear()
            channel.close()
            await listening

    async def _connect(self) -> Channel:
        engine, end = self.engine, time.monotonic() + RELAY_S
        while True:
            try:
                return await Channel.open(
                    engine.socket, self._on_event, self.states.note_odd, user=engine.listener
                )
            except OSError as error:
                if self.engine.pid() is None:
                    log.warning("ExaBGP ends at once: said=%s", self.engine.last_words())
                    text = f"ExaBGP ends at once; {self.engine.log} says why"
                    raise StartRefused(text) from error
                if time.monotonic() > end:
                    text = f"ExaBGP (pid {self.engine.pid()}) has no relay at {self.engine.socket}"
                    raise OSError(text) from error
            await asyncio.sleep(BACKOFF_S[0])

    async def _attach(self, channel: Channel) -> None:
        await channel.attach()
        self.level = await self._level(channel)
        if not self.memory.settled:  # a speaker was killed while ExaBGP reloaded
            with suppress(CommandRefused):
                await self._reload(channel)
        self.states.forget()
        self.states.expect(self.memory.peerings)
        await self._fill(channel)
        for neighbor in await self._established(channel):
            self.states.up(neighbor.peer, neighbor.families)
        self.memory.replace(await self._announced(channel))
        await self._hear_opens(channel)
        self._channel = channel
        self.problem = ""
        self._refused.clear()
        self._ready.set()
        self.deaf()
        self.lost()

    async def _hear_opens(self, channel: Channel) -> None:
        """The OPENs of sessions that stood before we came."""
        with suppress(CommandRefused):  # a former ExaBGP does not have them
            for line in await channel.ask(OPENS):
                peer, _, octets = line.partition(" ")
                with suppress(ValueError):
                    self.opened(ip_address(peer), bytes.fromhex(octets))

    async def _established(self, channel: Channel) -> list[Neighbor]:
        """The sessions that are up, by ExaBGP's own account."""
        found: list[Neighbor] = []
        for line in await channel.ask(NEIGHBORS):
            try:
                found += dumped_neighbors(line, self.states.note_odd)
            except OddLine as error:
                channel.close()
                raise ConnectionError(f"ExaBGP's sessions cannot be read: {error}") from error
        return [neighbor for neighbor in found if neighbor.established]

    async def _fill(self, channel: Channel) -> None:
        """Say what memory has to an ExaBGP that nobody, or a killed speaker, has filled."""
        pid = self.engine.pid()
        if pid is None or pid == self.memory.filled:
            return
        known = {k: route for k, route in self.memory.routes.items() if k.peer in self.asns()}
        await channel.tell(line for line, _ in announcements(known, self.asns(), {}))
        self.memory.save(filled=pid)

    def _write_config(self) -> None:
        self.engine.write_config(self._config(self.memory.peerings))

    def _config(self, peerings: Mapping[PeerKey, Peering]) -> str:
        if self.router_id is None:
            raise OSError("there is no router ID yet")
        rows, relay = peerings.values(), self.engine.relay_command
        return config_text(rows, self.router_id, relay, former=self.former)

    async def _level(self, channel: Channel) -> int:
        """How many of our changes the ExaBGP has that runs; a former speaker may have begun it."""
        try:
            (answer,) = await channel.ask(LEVEL)
            return int(answer)
        except (CommandRefused, ValueError):
            return 0

    async def _announced(self, channel: Channel) -> dict[RouteKey, Route]:
        found: dict[RouteKey, Route] = {}
        for line in await channel.ask(ROUTES_JSON if self.former else ROUTES):
            try:
                found |= [dumped_route(line)] if self.former else routes(line)
            except OddLine as error:
                self.states.note_odd(error)
            await asyncio.sleep(0)  # a line has up to 500 routes
        return {key: row for key, row in found.items() if key.peer in self.memory.peerings}

    def _on_event(self, event: SessionEvent | Heard) -> None:
        if isinstance(event, Heard):
            self._on_message(event)
            return
        self.states.hear(event)
        self.told(event)
        if event.state == "up":
            self.lost()

    def _on_message(self, heard: Heard) -> None:
        if heard.kind == UPDATE:
            self.heard(heard.peer, heard.received, heard.body)
        elif heard.received and heard.kind == OPEN:
            self.opened(heard.peer, heard.body)
        elif heard.received and (said := heard.refresh()):
            self.refreshed(heard.peer, *said)
