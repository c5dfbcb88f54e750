"""The task that takes in what ExaBGP reports: UPDATEs both ways, sessions that come and go.

Everything waits in one queue, in the order in which it came, and is done in slices with the event
loop free in between. Routes of a running session are asked for again (ROUTE-REFRESH, RFC 2918) when
this speaker has not heard them itself, or has not taken in all of them; at most once a minute.

A router that sends faster than we take in costs us its UPDATEs, not our memory: beyond
``MOST_BYTES`` they are dropped, and the router is asked again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from bgp.desired import Peering
from bgp.ribs.incoming import CONFIRM_S, Part, RibIn
from bgp.ribs.kept import Kept
from bgp.ribs.outgoing import RibOut
from bgp.route import Family, PeerKey
from bgp.wire import opening
from bgp.wire.opening import Opening
from bgp.wire.rows import Update
from bgp.wire.update import decode
from mesh.core.model import IP
from mesh.core.received import ReceivedKey

#: Bytes of UPDATEs that wait at most.
MOST_BYTES = 32 << 20
#: Seconds of work between two turns of the event loop.
SLICE_S = 0.005
#: Seconds between two questions for the same routes.
PATIENCE_S = 60.0

_Work = Callable[[], Iterator[None]]


class Listener:
    """``session_of`` gives the session of a router, ``ask`` asks it for a family's routes."""

    def __init__(
        self,
        incoming: RibIn,
        outgoing: RibOut,
        kept: Kept,
        session_of: Callable[[IP], Peering | None],
        ask: Callable[[IP, Family], Awaitable[object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.incoming, self.outgoing, self._kept = incoming, outgoing, kept
        #: Seconds between two questions for the same routes.
        self.patience_s = PATIENCE_S
        #: UPDATEs that were dropped because too many waited, and when the last one was.
        self.dropped, self.dropped_at = 0, 0.0
        self._session_of, self._ask, self._clock = session_of, ask, clock
        self._queue: deque[tuple[_Work, int]] = deque()
        self._bytes = 0
        self._wake, self._asking = asyncio.Event(), asyncio.Event()
        self._up: dict[IP, tuple[Family, ...]] = {}  # sessions that stand
        self._notified: set[IP] = set()  # a NOTIFICATION ends their session
        self._asked: dict[Part, float] = {}
        self._late: float | None = None  # until when sessions may complete the table
        self._configured: set[PeerKey] = set()  # a range is here, and its members are not
        self._heard: set[IP] = set()  # sessions of which everything was heard

    def now(self) -> float:
        """The time by the clock of the tables."""
        return self._clock()

    # What ExaBGP says, on its channel: nothing is done here

    def heard(self, peer: IP, received: bool, body: bytes) -> None:  # noqa: FBT001 - Session's
        """An UPDATE of the router, or one that it was sent."""
        if self._bytes + len(body) > MOST_BYTES:
            self.dropped, self.dropped_at = self.dropped + 1, self._clock()
            if received:
                self.incoming.wanting |= {(peer, family) for family in self._up.get(peer, ())}
            return
        take = self._hear_in if received else self._hear_out
        self._add(partial(take, peer, body), len(body))

    def opened(self, peer: IP, body: bytes) -> None:
        """The router's OPEN."""
        self._add(partial(self._open, peer, body))

    def notified(self, peer: IP) -> None:
        """A NOTIFICATION, in either direction: the session ends without graceful restart."""
        self._add(partial(self._notify, peer))

    def up(self, peer: IP, families: Collection[Family]) -> None:
        """The session stands with these families."""
        self._add(partial(self._come, peer, tuple(families)))

    def down(self, peer: IP, *, hard: bool = False) -> None:
        """The session has ended; ``hard``: its routes are good for nothing from now on."""
        self._add(partial(self._go, peer, hard=hard))

    def refreshing(self, peer: IP, family: Family, *, ends: bool) -> None:
        """The router begins or ends to send a family anew (RFC 7313)."""
        self._add(partial(self._refresh, (peer, family), ends=ends))

    def ended(self) -> None:
        """ExaBGP has ended: no session stands."""
        self._add(self._end)

    def began(self) -> None:
        """A new channel is open; what happened before it was not heard."""
        self._add(self._begin_anew)

    def attached(
        self, up: Mapping[IP, Collection[Family]], announced: Container[ReceivedKey]
    ) -> None:
        """All sessions that stand, and what ExaBGP has for them, as a new channel tells it."""
        self._add(partial(self._attach, {p: tuple(f) for p, f in up.items()}, announced))

    def configured(self, peers: Iterable[PeerKey]) -> None:
        """The sessions of these routers, and of the members of these ranges, may be others."""
        self._add(partial(self._adapt, list(peers)))

    # The tasks

    async def run(self) -> None:
        """Take in until cancelled."""
        found = await self._kept.load()
        until = await self._do(self.incoming.load(found["in"]), self._clock() + SLICE_S)
        await self._do(self.outgoing.load(found["out"]), until)
        self._kept.begin()
        while True:
            await self._turn()
            timeout = self._pause()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    async def ask(self) -> None:
        """Ask routers for what has to come again, until cancelled."""
        while True:
            for part in list(self.incoming.wanting):
                now = self._clock()
                if now - self._asked.get(part, -math.inf) < self.patience_s:
                    continue
                said = self.opening(part[0])
                if part[1] not in self._up.get(part[0], ()) or (said and not said.refresh):
                    self.incoming.wanting.discard(part)
                else:
                    await self._ask_now(part, now)
            self._asking.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience_s / 10):
                    await self._asking.wait()

    async def _ask_now(self, part: Part, now: float) -> None:
        self._asked[part] = now
        self._add(partial(self._begin, part))  # before the answer, which the router may begin
        try:
            await self._ask(*part)
        except OSError:  # the router does not know that it should send anything
            self._add(partial(self._not_asked, part))

    async def _turn(self) -> None:
        """Do what waits."""
        self._wake.clear()
        until = self._clock() + SLICE_S
        while self._queue:
            work, size = self._queue.popleft()
            self._bytes -= size
            until = await self._do(work(), until)
        await self._do(self.incoming.expire(self._clock()), until)
        self._judge_complete()
        if self.incoming.wanting:
            self._asking.set()

    async def _do(self, steps: Iterator[None], until: float) -> float:
        """The time at which the slice ends."""
        for _ in steps:
            if self._clock() >= until:
                await asyncio.sleep(0)
                until = self._clock() + SLICE_S
        if self._clock() >= until:
            await asyncio.sleep(0)
            until = self._clock() + SLICE_S
        return until

    def _pause(self) -> float | None:
        times = [at for at in (self.incoming.next_at, self._late) if at is not None]
        return max(0.0, min(times) - self._clock()) if times else None

    def _add(self, work: _Work, size: int = 0) -> None:
        self._queue.append((work, size))
        self._bytes += size
        self._wake.set()

    # What is done, one after the other

    def _hear_in(self, peer: IP, body: bytes) -> Iterator[None]:
        session = self._session_of(peer)
        if session is None:
            return
        update = self._decode(peer, session, body)
        if update.end_of_rib is not None:
            self.incoming.end_of_rib((peer, update.end_of_rib), self._clock())
        else:
            self.incoming.hear(peer, session, update, self._clock())
        yield from ()

    def _hear_out(self, peer: IP, body: bytes) -> Iterator[None]:
        session = self._session_of(peer)
        if session is not None:
            self.outgoing.hear(peer, self._decode(peer, session, body))
        yield from ()

    def _decode(self, peer: IP, session: Peering, body: bytes) -> Update:
        said = self.opening(peer)
        asn4 = said is None or said.asn4
        return decode(body, asn4=asn4, external=session.asn != session.local_asn)

    def opening(self, peer: IP) -> Opening | None:
        """The last OPEN of a router."""
        body = self._kept.openings.get(peer)
        return None if body is None else opening.decode(body)

    def _open(self, peer: IP, body: bytes) -> Iterator[None]:
        self._kept.open(peer, body)
        yield from ()

    def _notify(self, peer: IP) -> Iterator[None]:
        self._notified.add(peer)
        yield from ()

    def _come(self, peer: IP, families: tuple[Family, ...]) -> Iterator[None]:
        self._up[peer] = families
        self._heard.add(peer)
        self._notified.discard(peer)
        for family in families:
            self._asked.pop((peer, family), None)
        yield from self.outgoing.forget(peer)
        yield from self.incoming.up(peer, families, self.opening(peer), self._clock())

    def _go(self, peer: IP, *, hard: bool) -> Iterator[None]:
        stood, notified = self._up.pop(peer, None), peer in self._notified
        self._notified.discard(peer)
        yield from self.outgoing.forget(peer)
        if stood is None and not hard:
            return  # one more attempt that failed, also when a NOTIFICATION has refused it
        hard = hard or notified
        said = self.opening(peer)
        keep_s = said.restart_s or 0 if said and not hard else 0
        families = said.restart_families if said else ()
        yield from self.incoming.down(peer, keep_s, families, self._clock())

    def _refresh(self, part: Part, *, ends: bool) -> Iterator[None]:
        if ends:
            yield from self.incoming.end(part)
        else:
            self.incoming.begin(part, self._clock())

    def _begin(self, part: Part) -> Iterator[None]:
        self.incoming.begin(part, self._clock(), asked=True)
        yield from ()

    def _not_asked(self, part: Part) -> Iterator[None]:
        self.incoming.unbegin(part)
        yield from ()

    def _end(self) -> Iterator[None]:
        yield from self._lose(self.incoming.peers | self.outgoing.peers | set(self._up))
        self._up.clear()
        self._notified.clear()

    def _lose(self, peers: Collection[IP]) -> Iterator[None]:
        """ExaBGP no longer has these sessions: we restart, not the routers (RFC 4724 4.1)."""
        for peer in peers:
            yield from self.outgoing.forget(peer)
            if self.incoming.of(peer).gone_at is None:
                session = self._session_of(peer)
                keep_s = session.graceful_restart_s if session else 0
                yield from self.incoming.down(
                    peer, keep_s, tuple(Family), self._clock(), by_us=True
                )

    def _begin_anew(self) -> Iterator[None]:
        self._heard.clear()
        yield from ()

    def _attach(
        self, up: Mapping[IP, tuple[Family, ...]], announced: Container[ReceivedKey]
    ) -> Iterator[None]:
        """Rows of sessions that stand have to be asked for; those of the others are stale."""
        gone = (self.incoming.peers | self.outgoing.peers | set(self._up)) - set(up)
        self._up, self._late = dict(up), self._clock() + CONFIRM_S
        self._notified.clear()
        yield from self._lose(gone)
        for peer in set(up) - self._heard:
            yield from self._resume(peer, up[peer], announced)

    def _resume(
        self, peer: IP, families: tuple[Family, ...], announced: Container[ReceivedKey]
    ) -> Iterator[None]:
        """A session stands of which not everything was heard."""
        session = self._session_of(peer)
        if session is not None and session.address == peer:
            yield from self.outgoing.forget(peer, announced)
        self.incoming.of(peer).gone_at = None
        for part in [(peer, family) for family in families]:
            self._asked.pop(part, None)
            self.incoming.wanting.add(part)

    def _adapt(self, peers: list[PeerKey]) -> Iterator[None]:
        self._configured = set(peers)
        for peer in self.incoming.peers | set(self._kept.openings):
            session = self._session_of(peer)
            if session is None:
                self._kept.open(peer, None)
                yield from self.outgoing.forget(peer)
                yield from self.incoming.forget(peer)
            else:
                yield from self.incoming.adapt(peer, session)
        if not peers:
            self.incoming.table.mark_synced()

    def _judge_complete(self) -> None:
        """The table is synced once every session has said what it has, or had time for it.

        Nobody knows which members a range has, so with a range that time passes.
        """
        if self._late is None:
            return
        waiting = {part[0] for part in self.incoming.wanting}
        done = all(
            peer in self._up and peer not in waiting and self.incoming.is_confirmed(peer)
            for peer in self._configured
        )
        if done or self._clock() >= self._late:
            self._late = None
            self.incoming.table.mark_synced()
