"""Connected UDP sockets whose backend is gone end, in every network namespace of the node.

A backend is *lost* when no service leads to it any more: it may only be not ready, or drain, and
its sockets go on. It is *gone* when nobody in the mesh has its address either. Then nobody would
ever answer, so the socket's owner gets ECONNABORTED and asks the service again
(``bpf/include/ends.h``). Sockets that are not connected get another backend by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from socket import IPPROTO_UDP
from typing import Any

from bpf import iterate, netns
from mesh.core.address import decode_address, encode_address, packed
from mesh.core.feature import AgentFeature, Entry, Maps
from mesh.core.reconcile import Loop, Target
from mesh.core.table import Changes, ColumnTable, Table
from mesh.services.backends import BackendAddress

log = logging.getLogger(__name__)

GONE_MAP = "mg_gone"
PROGRAM = "mg_end_udp"
#: Seconds from a change to the look at sockets: changes come in bursts, and by then the maps give
#: the backend to nobody.
PAUSE_S = 1.0


class Lost:
    """Backends to which no service leads; ``alive`` says whether somebody may still answer."""

    def __init__(self, alive: Callable[[BackendAddress], bool]) -> None:
        self._alive = alive
        self._lost: dict[BackendAddress, None] = {}

    def take(self, used: Collection[BackendAddress], unused: Iterable[BackendAddress]) -> None:
        """Take in a change."""
        self._lost.update(dict.fromkeys(unused))
        for backend in used:
            self._lost.pop(backend, None)

    def take_gone(self) -> list[BackendAddress]:
        """Those that are gone, once."""
        gone = [backend for backend in self._lost if not self._alive(backend)]
        for backend in gone:
            del self._lost[backend]
        return gone


class SocketsAgent(AgentFeature):
    """``used`` are the UDP backends of services, ``namespaces`` are paths of pods' namespaces.

    ``address`` has every address of the mesh.
    """

    def __init__(
        self,
        used: Table[BackendAddress, bool],
        address: ColumnTable,
        namespaces: Table[str, int],
    ) -> None:
        self._used, self._address, self._namespaces = used, address, namespaces
        self._lost = Lost(self._alive)
        self._changed = asyncio.Event()
        self._gone: Target[BackendAddress, int] | None = None
        self._program = -1

    def derive(self, loop: Loop) -> None:
        loop.follow(self._used, self._take)
        self._address.listen(self._changed.set)

    async def recover(self, maps: Maps) -> None:
        self._gone = maps.rows(GONE_MAP, encode_gone, decode_gone)
        self._program = maps.program(PROGRAM)
        self._lost.take((), self._used.rows)  # what the last process knew may have gone since

    def _alive(self, backend: BackendAddress) -> bool:
        known = self._address.get(packed(backend.address)) is not None
        return known or backend in self._used.rows

    def _take(self, changes: Changes[BackendAddress, bool]) -> None:
        self._lost.take(changes.upsert, changes.delete)
        self._changed.set()

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._end_for_ever,)

    async def _end_for_ever(self) -> None:
        """End sockets after each change that lets a backend go."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(PAUSE_S)
            self._changed.clear()
            await self.look()

    async def look(self) -> None:
        """End the sockets of backends that are gone."""
        if self._used.synced and self._address.synced:
            await self.end(self._lost.take_gone())

    async def end(self, backends: Collection[BackendAddress]) -> None:
        """End the sockets of these backends."""
        if not backends or self._gone is None:
            return
        await self._gone.upsert(dict.fromkeys(backends, 1))
        places = [Path(path) for path in self._namespaces.rows]
        await asyncio.to_thread(end_sockets, self._program, places)
        await self._gone.delete(backends)


def end_sockets(program: int, namespaces: Iterable[Path]) -> None:
    """Run the iterator in this namespace and in ``namespaces``; one that has gone has no socket."""
    link = iterate.link(program)
    try:
        iterate.run(link)
        for path in namespaces:
            with suppress(FileNotFoundError), netns.enter(path):
                iterate.run(link)
    except OSError as error:
        log.warning("event=no_sockets_ended reason=%s", error)
    finally:
        os.close(link)


def encode_gone(backend: BackendAddress, row: int) -> Entry:
    """Entry of ``mg_gone``."""
    address = encode_address(backend.address)
    key = {"address": address, "port": backend.port, "protocol": int(IPPROTO_UDP)}
    return key, row


def decode_gone(key: Any, value: Any) -> tuple[BackendAddress, int]:
    """Inverse of ``encode_gone``."""
    return BackendAddress(decode_address(key["address"]), int(key["port"])), int(value)
