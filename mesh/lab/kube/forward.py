"""A port of this machine's loopback that leads to an API server in the fabric.

Usage: ``python -m mesh.lab.kube.forward NETNS ADDRESS PORT FILE``; the number of the loopback's
port goes into FILE. So kubectl, Helm and browsers of this machine reach a cluster whose network
exists in namespaces only.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from pathlib import Path

from bpf import netns
from mesh.core.files import replace_file
from mesh.core.strict import parse_address

_CHUNK = 1 << 16


class Forward:
    """Connections that are carried from here into a network namespace."""

    def __init__(self, namespace: Path, address: str, port: int) -> None:
        self._namespace = namespace
        self._target = (address, port)
        self._family = socket.AF_INET if parse_address(address).version == 4 else socket.AF_INET6

    async def listen(self) -> asyncio.Server:
        """A server on a free port of the loopback."""
        return await asyncio.start_server(self._carry, "127.0.0.1", 0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; it ends when either side ends it."""
        try:
            far_reader, far_writer = await asyncio.open_connection(sock=await self._connected())
        except OSError:
            writer.close()  # an API server that is down refuses, too
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(reader, far_writer))
            both.create_task(_pump(far_reader, writer))

    async def _connected(self) -> socket.socket:
        with netns.enter(self._namespace):
            made = socket.socket(self._family, socket.SOCK_STREAM)
        made.setblocking(False)  # noqa: FBT003 - the library's signature
        try:
            await asyncio.get_running_loop().sock_connect(made, self._target)
        except OSError:
            made.close()
            raise
        return made


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end; the other side then hears of the end."""
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


async def run(forward: Forward, file: Path) -> None:
    """Carry connections for ever."""
    server = await forward.listen()
    replace_file(file, str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(Forward(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])), Path(sys.argv[4])))
