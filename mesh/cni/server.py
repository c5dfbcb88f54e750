"""The socket of the plugin: one connection is one call.

The socket takes its name when it listens already. So a plugin finds the former agent's or this
one's, and nothing in between; one that finds nobody asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from mesh.cni import frames
from mesh.cni.frames import Frame, FrameError, Reply

log = logging.getLogger(__name__)

#: Seconds for the request to arrive; the plugin sends it at once.
READ_S = 5.0
_BACKLOG = 256

Serve = Callable[[Frame], Coroutine[Any, Any, Reply]]


@asynccontextmanager
async def listening(path: Path, serve: Serve) -> AsyncIterator[None]:
    """Serve calls at ``path`` while the context lasts. Raises OSError."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the plugin has gone
            await _one(reader, writer, serve)

    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(connected, fresh, backlog=_BACKLOG)
    try:
        fresh.chmod(0o600)
        fresh.replace(path)
        yield
    finally:
        server.close()


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, serve: Serve) -> None:
    try:
        async with asyncio.timeout(READ_S):
            request = await _read(reader)
    except (FrameError, TimeoutError, asyncio.IncompleteReadError) as error:
        log.warning("event=bad_frame error=%s", error)
    else:
        if reply := await _served(reader, serve(request)):
            writer.write(frames.encode_reply(reply))
            await writer.drain()
    finally:
        writer.close()


async def _served(
    reader: asyncio.StreamReader, serving: Coroutine[Any, Any, Reply]
) -> Reply | None:
    """The reply; None when the plugin has gone: its runtime has given the call up."""
    async with asyncio.TaskGroup() as group:
        reply, end = group.create_task(serving), group.create_task(reader.read(1))
        await asyncio.wait((reply, end), return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if reply.done():
            return reply.result()
        reply.cancel()
    return None


async def _read(reader: asyncio.StreamReader) -> Frame:
    environment, stdin = frames.lengths(await reader.readexactly(frames.HEAD))
    return frames.frame(await reader.readexactly(environment), await reader.readexactly(stdin))
