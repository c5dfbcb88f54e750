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
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import IPv4Address

from bgp.desired import Peering, RouteKey
from bgp.exabgp.applied import Memory
from bgp.exabgp.channel import Channel, CommandRefused
from bgp.exabgp.config import config_text
from bgp.exabgp.engine import Engine
from bgp.exabgp.lines import (
    NEIGHBORS,
    RELOAD,
    ROUTES,
    Neighbor,
    OddLine,
    OnOdd,
    SessionEvent,
    announce,
    dumped_neighbors,
    dumped_route,
    end_of_rib,
    withdraw,
)
from bgp.exabgp.states import State, States
from bgp.peer import Route
from mesh.core.files import in_words
from mesh.core.model import IP

log = logging.getLogger(__name__)

#: Pauses between attempts to reach or start ExaBGP: first, and longest.
BACKOFF_S = (0.05, 5.0)
#: How long a running ExaBGP may be without a relay (it starts another) before it is reported.
RELAY_S = 5.0
#: Seconds between looks at the length of ExaBGP's log.
LOG_S = 60.0


class ConfigRefused(OSError):
    """ExaBGP does not take a configuration, and goes on with the one before."""


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
        self.states = States(self.memory)
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
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

    async def configure(self, peerings: Mapping[IP, Peering]) -> None:
        """Make these the sessions; raises ConfigRefused when ExaBGP does, which has the old."""
        if not self._wanted.is_set():
            self.memory.save(peerings=peerings)
            self._wanted.set()
            await self.channel()
            return
        channel = await self.channel()
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

    async def _reload(self, channel: Channel) -> None:
        """Let ExaBGP have the sessions that memory has."""
        self._write_config()
        await channel.ask(RELOAD)
        self.memory.save(settled=True)

    async def _once(self) -> None:
        await self._wanted.wait()
        if self.engine.pid() is None:
            self._write_config()
            await self.engine.start()
            self.memory.save(filled=0, settled=True)  # a new one may have the pid of the last
        channel = await self._connect()
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
                    raise OSError(text) from error
                if time.monotonic() > end:
                    text = f"ExaBGP (pid {self.engine.pid()}) has no relay at {self.engine.socket}"
                    raise OSError(text) from error
            await asyncio.sleep(BACKOFF_S[0])

    async def _attach(self, channel: Channel) -> None:
        await channel.attach()
        if not self.memory.settled:  # a speaker was killed while ExaBGP reloaded
            with suppress(CommandRefused):
                await self._reload(channel)
        self.states.forget()
        self.states.expect(self.memory.peerings)
        await self._fill(channel)
        for neighbor in await self._established(channel):
            self.states.up(neighbor.peer, neighbor.families)
        self.memory.replace(await announced(channel, self.states.note_odd))
        self._channel = channel
        self.problem = ""
        self._ready.set()
        self.lost()

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
        lines = []
        for key, route in self.memory.routes.items():
            if key.peer in self.memory.peerings:
                with suppress(ValueError):  # of a file that another version wrote
                    lines.append(announce(key, route))
        await channel.tell(lines)
        self.memory.save(filled=pid)

    def _write_config(self) -> None:
        if self.router_id is None:
            raise OSError("there is no router ID yet")
        peerings = self.memory.peerings.values()
        text = config_text(peerings, self.router_id, self.engine.relay_command)
        self.engine.write_config(text)

    def _on_event(self, event: SessionEvent) -> None:
        self.states.hear(event)
        if event.state == "up":
            self.lost()


async def announced(channel: Channel, on_odd: OnOdd) -> dict[RouteKey, Route]:
    """Every route that ExaBGP holds for its sessions; one that is odd counts as not there."""
    routes: dict[RouteKey, Route] = {}
    for line in await channel.ask(ROUTES):
        if line.startswith("{"):
            try:
                key, route = dumped_route(line)
            except OddLine as error:
                on_odd(error)
            else:
                routes[key] = route
    return routes


class RemoteTables:
    """Target: sessions by router address, in ExaBGP's configuration."""

    name = "sessions of ExaBGP"

    def __init__(self, session: Session) -> None:
        self._session = session

    async def read(self) -> Mapping[IP, Peering]:
        """The sessions that ExaBGP has, or will start with; none while that is not certain."""
        memory = self._session.memory
        return dict(memory.peerings) if memory.settled else {}

    async def upsert(self, rows: Mapping[IP, Peering]) -> Mapping[IP, Exception]:
        """Add or change sessions; the others do not notice, nor does a refused one stop others."""
        session, errors = self._session, dict[IP, Exception]()
        try:
            await session.configure({**session.memory.peerings, **rows})
        except ConfigRefused as error:
            if len(rows) == 1:
                return dict.fromkeys(rows, error)
            for peer, row in rows.items():
                errors |= await self.upsert({peer: row})
        return errors

    async def delete(self, keys: Collection[IP]) -> Mapping[IP, Exception]:
        """Withdraw everything from the sessions, then end them."""
        memory = self._session.memory
        await self._session.routes.delete([key for key in memory.routes if key.peer in keys])
        left = {peer: row for peer, row in memory.peerings.items() if peer not in keys}
        await self._session.configure(left)
        return {}


class Routes:
    """Target: routes by session and prefix, in ExaBGP's adj-rib-out."""

    name = "routes of ExaBGP"

    def __init__(self, session: Session) -> None:
        self._session = session

    async def read(self) -> Mapping[RouteKey, Route]:
        """What ExaBGP announces, by its own account."""
        states = self._session.states
        routes = await announced(await self._session.channel(), states.note_odd)
        self._session.memory.replace(routes)
        return routes

    async def upsert(self, rows: Mapping[RouteKey, Route]) -> Mapping[RouteKey, Exception]:
        """Announce routes, or replace their next hop."""
        commands, errors = {}, dict[RouteKey, Exception]()
        for key, route in rows.items():
            try:
                commands[announce(key, route)] = key
            except ValueError as error:
                errors[key] = error
        errors |= await self._tell(commands)
        good = {key: route for key, route in rows.items() if key not in errors}
        self._session.memory.remember(good)
        return errors

    async def delete(self, keys: Collection[RouteKey]) -> Mapping[RouteKey, Exception]:
        """Withdraw prefixes."""
        routes = self._session.memory.routes
        commands = {withdraw(key, routes[key].next_hop): key for key in keys if key in routes}
        errors = await self._tell(commands)
        self._session.memory.remember({}, [key for key in keys if key not in errors])
        return errors

    async def _tell(self, commands: Mapping[str, RouteKey]) -> dict[RouteKey, Exception]:
        if not commands:
            return {}
        refused = await (await self._session.channel()).tell(list(commands))
        why = OSError(f"ExaBGP refuses the route; {self._session.engine.log} says why")
        return {commands[line]: why for line in refused}
