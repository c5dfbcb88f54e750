"""A process socket of a pretended process, served from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mesh.observe.tables import Registered, Server


@contextmanager
def served(
    path: Path,
    nouns: Mapping[str, Sequence[Mapping[str, Any]] | Callable[[], Any]] | None = None,
    status: Mapping[str, Any] | None = None,
    observer: Registered | None = None,
) -> Iterator[asyncio.AbstractEventLoop]:
    """Serve rows (or what a callable gives) until the block ends; yields the server's loop."""
    tables = {
        noun: rows if callable(rows) else (lambda rows=rows: rows)
        for noun, rows in (nouns or {}).items()
    }
    server = Server(path, tables, lambda: status or {}, observer)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
