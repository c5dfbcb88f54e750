"""Connected sockets whose backend is gone end, in every network namespace of the node.

A backend is *lost* when no service leads to it any more: it may only be not ready, or drain, and
its sockets go on. It is *gone* when the mesh has nobody at its address either. Then no answer can
come, so the socket's owner gets ECONNABORTED and asks the service again (``bpf/include/ends.h``).
UDP sockets that are not connected get another backend by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bpf import iterate, netns
from mesh.core.address import decode_address, encode_address, packed
from mesh.core.feature import AgentFeature, Entry, Maps
from mesh.core.model import IP
from mesh.core.reconcile import Loop, Target
from mesh.core.table import ColumnTable, Table
from mesh.services.backends import BackendAddress
from mesh.services.maps import PROTOCOL_NAMES, PROTOCOLS
from mesh.services.uses import Use, Uses

log = logging.getLogger(__name__)

GONE_MAP = "mg_gone"
#: Iterators over the sockets of each protocol.
PROGRAMS = {"TCP": "mg_end_tcp", "UDP": "mg_end_udp"}
#: Seconds from a change to the look at sockets: changes come in bursts, and by then the maps give
#: the backend to nobody.
PAUSE_S = 1.0
#: A look goes through all sockets of the host once for each network namespace. The pause after it
#: is so many times as long, so looks take at most a tenth of a core.
REST = 9
#: Backends that are looked at in one piece.
_PIECE = 1024


class SocketsAgent(AgentFeature):
    """``uses`` are the backends of services, ``namespaces`` are paths of pods' namespaces.

    ``address`` has every address of the mesh.
    """

    def __init__(self, uses: Uses, address: ColumnTable, namespaces: Table[str, int]) -> None:
        self._uses, self._address, self._namespaces = uses, address, namespaces
        self._changed = asyncio.Event()
        self._gone: Target[Use, int] | None = None
        self._programs: dict[str, int] = {}

    def derive(self, _: Loop) -> None:
        self._uses.listen(self._changed.set)
        self._address.listen(self._changed.set)

    async def recover(self, maps: Maps) -> None:
        self._gone = maps.rows(GONE_MAP, encode_gone, decode_gone)
        self._programs = {protocol: maps.program(name) for protocol, name in PROGRAMS.items()}

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._end_for_ever,)

    async def _end_for_ever(self) -> None:
        """End sockets after each change that lets a backend go."""
        pause = PAUSE_S
        while True:
            await self._changed.wait()
            await asyncio.sleep(pause)
            self._changed.clear()
            begun = time.monotonic()
            await self.look()
            pause = max(PAUSE_S, REST * (time.monotonic() - begun))

    async def look(self) -> None:
        """End the sockets of backends that are gone."""
        if not (self._uses.whole and self._address.synced):
            return
        gone: list[Use] = []
        for _ in range(0, self._uses.lost, _PIECE):
            gone += self._uses.take_gone(self._is_known, _PIECE)
            await asyncio.sleep(0)
        if gone:
            await self.end(gone)

    def _is_known(self, address: IP) -> bool:
        return self._address.get(packed(address)) is not None

    async def end(self, gone: Collection[Use]) -> None:
        """End the sockets of these backends; those for which the map has no room come next."""
        if self._gone is None:
            return
        if without_room := await self._gone.upsert(dict.fromkeys(gone, 1)):
            self._uses.recover(without_room)
            self._changed.set()
        places = [Path(path) for path in self._namespaces.rows]
        for protocol in {protocol for protocol, _ in gone}:
            await asyncio.to_thread(end_sockets, self._programs[protocol], places)
        await self._gone.delete([use for use in gone if use not in without_room])


def end_sockets(program: int, namespaces: Iterable[Path]) -> None:
    """Run an iterator in this namespace and in ``namespaces``; one that has gone has no socket."""
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


def encode_gone(use: Use, row: int) -> Entry:
    """Entry of ``mg_gone``."""
    protocol, backend = use
    address = encode_address(backend.address)
    return {"address": address, "port": backend.port, "protocol": PROTOCOLS[protocol]}, row


def decode_gone(key: Any, value: Any) -> tuple[Use, int]:
    """Inverse of ``encode_gone``."""
    backend = BackendAddress(decode_address(key["address"]), int(key["port"]))
    return (PROTOCOL_NAMES[int(key["protocol"])], backend), int(value)
