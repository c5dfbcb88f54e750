"""BFD on a node: BGPPeers that select it become sessions of its datapath.

    Node object, BGPPeers with spec.bfd -> session -> mg_bfd

The datapath speaks BFD by itself (``bpf/include/bfd_packet.h``). An agent begins by reading what
stands, so a session keeps its number and discriminator, and arms every timer with the programs of
now. From then on it sends slow packets to routers that wait for them, and gives up sessions that
are no longer wanted once their routers have had the time to hear of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bgp.bfd import maps as entries
from bgp.bfd import shown, slow
from bgp.bfd.layouts import DECLARED
from bgp.bfd.packet import State
from bgp.bfd.rows import Session, SessionKey, drawn, sessions
from bgp.bfd.shown import PATIENCE_S, BFDFacts
from bgp.bfd.wanted import wanted
from bgp.peer import PEERS
from bpf.testrun import call
from mesh.core.feature import AgentFeature, Maps
from mesh.core.model import IP, Finding, NodeKey
from mesh.core.noun import Listing, Row
from mesh.core.reconcile import Loop, Target
from mesh.core.table import Table
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

ARM = "mg_bfd_arm"
#: Seconds from one look to the next, with the jitter of RFC 5880 6.8.7: slow packets go with it.
STEP_S, JITTER = 1.0, 0.25
#: How long a router has to hear of a session's end: some of its slow packets.
ENDING_S = 5.0
#: Seconds between questions whether a router is a neighbour.
DIRECT_S = 30.0


#: What only this host knows: of its installation, or else of its boot.
_SECRETS = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))


def host_secret() -> bytes:
    """The first of ``_SECRETS`` that is there."""
    for file in _SECRETS:
        with suppress(OSError):
            if text := file.read_bytes().strip():
                return text
    return b""


class Kernel(Protocol):
    """The part of ``mesh/kernel.py`` that is needed."""

    async def is_on_link(self, address: IP) -> bool:
        """Whether the address is a neighbour's; raises OSError when no route leads to it."""


class BFDAgent(AgentFeature):
    """The sessions of ``own``; ``session`` is the table of ``mg_bfd``."""

    layouts = DECLARED

    def __init__(
        self,
        objects: Objects,
        own: NodeKey,
        kernel: Kernel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects, self._own, self._kernel, self._clock = objects, own, kernel, clock
        self._draw = partial(drawn, host_secret())
        self.session: Table[SessionKey, Session] = Table("bfd")
        self._standing: Mapping[SessionKey, Session] = {}
        self._left: list[SessionKey] = []
        self._origins: Mapping[SessionKey, str] = {}
        self._began: dict[SessionKey, float] = {}  # when it was wanted or, later, given up
        self._on_link: dict[SessionKey, tuple[bool, float]] = {}  # is it, and when it was asked
        self._seen: Mapping[int, entries.BFDSeen] = {}
        self._refused: dict[int, tuple[int, float]] = {}  # count, and when it grew
        self._maps: Maps | None = None
        self._paths: Target[int, int] | None = None

    async def recover(self, maps: Maps) -> None:
        target = maps.rows(entries.SESSION_MAP, entries.encode_session, entries.decode_session)
        self._standing = dict(await target.read())
        self._maps = maps
        self._paths = maps.rows(entries.PATH_MAP, entries.encode_path, entries.decode_path)
        call(maps.program(ARM), np.zeros((), np.uint64))

    def derive(self, loop: Loop) -> None:
        objects = self._objects
        loop.derive([objects[PEERS], objects[NODES]], self._make, name="BFD sessions")

    def _make(self) -> None:
        """Of all peers, which are few. Without the own Node object nothing changes."""
        node = self._objects[NODES].rows.get(self._own)
        if node is None:
            self.session.write(self._standing, complete=False)
            return
        found = wanted(node, self._objects[PEERS].rows.values())
        rows, self._left = sessions(found.sessions, self._standing, self._draw)
        self._origins = found.origins
        now = self._clock()
        for key, row in rows.items():
            former = self._standing.get(key)
            if former is None or former.ending != row.ending or key not in self._began:
                self._began[key] = now
        self._standing = rows
        self.session.replace(rows)

    def apply(self, loop: Loop, maps: Maps) -> None:
        target = maps.rows(entries.SESSION_MAP, entries.encode_session, entries.decode_session)
        loop.apply(self.session, target, capacity=maps.capacity(entries.SESSION_MAP))

    # What the datapath leaves to us

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._step_for_ever,)

    async def _step_for_ever(self) -> None:
        while True:
            if self._standing:
                await self._step()
            await asyncio.sleep(STEP_S * (1 - JITTER * random.random()))  # noqa: S311 - jitter

    async def _step(self) -> None:
        self._look()
        for key, row in self._standing.items():
            if row.asks and not row.ending and self._state(row) != State.UP:
                slow.send(key, row)
        await self._give_up()
        await self._ask_the_way()

    def _look(self) -> None:
        """What the datapath says of each session now."""
        if self._maps is None:
            return
        now, found = self._clock(), dict[int, entries.BFDSeen]()
        for number in [row.number for row in self._standing.values()]:
            value = self._maps.lookup(entries.STATE_MAP, number)
            if value is None:
                continue
            seen = found[number] = entries.decode_seen(number, value)[1]
            count, grown = self._refused.get(number, (seen.refused, 0.0))
            self._refused[number] = (seen.refused, now if seen.refused > count else grown)
        self._seen = found

    async def _give_up(self) -> None:
        """Remove sessions that have been ending for long enough; their numbers are free then."""
        now = self._clock()
        over = [
            key
            for key, row in self._standing.items()
            if row.ending and now - self._began.get(key, now) > ENDING_S
        ]
        if not over or self._paths is None:
            return
        await self._paths.upsert({self._standing[key].number: entries.UNKNOWN for key in over})
        self._standing = {key: row for key, row in self._standing.items() if key not in over}
        for key in over:
            self._began.pop(key, None)
        self.session.replace(self._standing)

    async def _ask_the_way(self) -> None:
        """Whether routers of one-hop sessions are neighbours."""
        now = self._clock()
        for key in [key for key, row in self._standing.items() if not row.multihop]:
            if now - self._on_link.get(key, (True, -DIRECT_S))[1] < DIRECT_S:
                continue
            try:
                direct = await self._kernel.is_on_link(key.peer)
            except OSError:
                direct = True  # the link is down: no mistake of the object
            self._on_link[key] = direct, now
        self._on_link = {k: one for k, one in self._on_link.items() if k in self._standing}

    # What others see

    def _state(self, row: Session) -> State:
        seen = self._of(row)
        return seen.state if seen else State.DOWN

    def _of(self, row: Session) -> entries.BFDSeen | None:
        """What the datapath says; None when it has heard nothing for this session yet."""
        seen = self._seen.get(row.number)
        return seen if seen and seen.mine == row.discriminator else None

    def _facts(self) -> Iterator[BFDFacts]:
        now = self._clock()
        for key, row in self._standing.items():
            yield BFDFacts(
                node=self._own.name,
                key=key,
                row=row,
                origin=self._origin(key),
                seen=self._of(row),
                refuses=self._refused.get(row.number, (0, 0.0))[1] > now - PATIENCE_S,
                direct=row.multihop or self._on_link.get(key, (True, 0.0))[0],
                waits_s=now - self._began.get(key, now),
            )

    def _origin(self, key: SessionKey) -> str:
        return self._origins.get(key, f"peer/{key.peer}")

    def listings(self) -> Mapping[str, Listing]:
        return {"bfd": self.rows}

    def rows(self) -> list[Row]:
        """``meshgate bfd list``."""
        return [shown.row(one) for one in self._facts()]

    def findings(self) -> Iterator[Finding]:
        for key in self._left:
            yield shown.no_room(self._own.name, key, self._origin(key))
        for one in self._facts():
            if not one.row.ending:
                yield from shown.findings(one)
