"""Sessions and routes as targets of the loop; ``session.py`` has what they talk to."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from bgp.desired import Peering
from bgp.exabgp.commands import announcements, withdrawals
from bgp.route import PeerKey, Route, RouteKey

if TYPE_CHECKING:
    from bgp.exabgp.session import Session


#: Routes that are written down in one piece, in 10 ms.
REMEMBERED = 4000


class ConfigRefused(OSError):
    """ExaBGP does not take a configuration, and goes on with the one before, or does not start."""


class RemoteTables:
    """Target: sessions by router address, in ExaBGP's configuration."""

    name = "sessions of ExaBGP"

    def __init__(self, session: Session) -> None:
        self._session = session

    async def read(self) -> Mapping[PeerKey, Peering]:
        """The sessions that ExaBGP has, or will start with; none while that is not certain."""
        memory = self._session.memory
        return dict(memory.peerings) if memory.settled else {}

    async def upsert(self, rows: Mapping[PeerKey, Peering]) -> Mapping[PeerKey, Exception]:
        """Add or change sessions; the others do not notice, nor does a refused one stop others."""
        session, errors = self._session, dict[PeerKey, Exception]()
        try:
            await session.configure({**session.memory.peerings, **rows})
        except ConfigRefused as error:
            if len(rows) == 1:
                return dict.fromkeys(rows, error)
            for peer, row in rows.items():
                errors |= await self.upsert({peer: row})
        return errors

    async def delete(self, keys: Collection[PeerKey]) -> Mapping[PeerKey, Exception]:
        """Withdraw everything from the sessions, then end them.

        A session whose router has yet to hear of a withdrawal stays: when it ended, the router
        would keep the route (graceful restart).
        """
        memory = self._session.memory
        refused = await self._session.routes.delete([k for k in memory.routes if k.peer in keys])
        errors: dict[PeerKey, Exception] = {key.peer: error for key, error in refused.items()}
        left = {
            peer: row for peer, row in memory.peerings.items() if peer not in keys or peer in errors
        }
        if len(left) < len(memory.peerings):
            await self._session.configure(left)
        return errors


#: A command and the routes that it is about.
Command = tuple[str, list[RouteKey]]


class Routes:
    """Target: routes by session and prefix, in ExaBGP's adj-rib-out."""

    name = "routes of ExaBGP"

    def __init__(self, session: Session) -> None:
        self._session = session

    async def read(self) -> Mapping[RouteKey, Route]:
        """What ExaBGP announces, by its own account."""
        routes = await self._session.announced()
        self._session.memory.replace(routes)
        return routes

    async def upsert(self, rows: Mapping[RouteKey, Route]) -> Mapping[RouteKey, Exception]:
        """Announce routes, or replace their attributes."""
        wrong: dict[RouteKey, Exception] = {}
        refused = await self._tell(announcements(rows, self._session.asns(), wrong))
        for key in refused:  # one of a command's routes makes ExaBGP refuse all of them
            again = announcements({key: rows[key]}, self._session.asns(), wrong)
            wrong |= dict.fromkeys(await self._tell(again), self._why())
        await self._remember({key: row for key, row in rows.items() if key not in wrong})
        return wrong

    async def delete(self, keys: Collection[RouteKey]) -> Mapping[RouteKey, Exception]:
        """Withdraw prefixes."""
        routes = self._session.memory.routes
        known = {key: routes[key] for key in keys if key in routes}
        errors: dict[RouteKey, Exception] = {}
        for key in await self._tell(withdrawals(known)):  # as in upsert
            again = withdrawals({key: known[key]})
            errors |= dict.fromkeys(await self._tell(again), self._why())
        await self._remember(dict.fromkeys(key for key in keys if key not in errors))
        return errors

    async def _remember(self, rows: Mapping[RouteKey, Route | None]) -> None:
        """Write down what was said, in pieces; None: it was withdrawn."""
        left = iter(rows.items())
        while some := list(islice(left, REMEMBERED)):
            said = {key: row for key, row in some if row is not None}
            self._session.memory.remember(said, [key for key, row in some if row is None])
            await asyncio.sleep(0)

    def _why(self) -> Exception:
        return OSError(f"ExaBGP refuses the route; {self._session.engine.log} says why")

    async def _tell(self, commands: Iterable[Command]) -> list[RouteKey]:
        """Say the commands; the routes of those that ExaBGP refuses."""
        said: dict[str, list[RouteKey]] = {}

        def lines() -> Iterator[str]:
            for line, keys in commands:
                said[line] = keys
                yield line

        channel = await self._session.channel()
        return [key for line in await channel.tell(lines()) for key in said[line]]
