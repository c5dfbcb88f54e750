"""What agent, controller and speaker have in common: start, signals, exit status, health."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bpf.libbpf import LoadError
from bpf.migrate import RefusedError
from bpf.object import DriftError
from bpf.realtime import RealtimeKernelError
from mesh.config import ConfigError
from mesh.core import steps
from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.core.steps import Steps

log = logging.getLogger(__name__)

C = TypeVar("C")
Life = Callable[[C, Steps], Coroutine[Any, Any, None]]

#: Objects between collections: with 65,536 addresses a full one stops the process for 0.1 s.
COLLECT = (100_000, 50, 1000)
#: Seconds until the objects that are there count as there for good: no collection looks at them.
FREEZE_S = 60.0
#: Derivations that a process names in its status.
_SHOWN = 8
#: What says that a process cannot do its work here.
_CANNOT = (OSError, LoadError, DriftError, RefusedError, RealtimeKernelError)


def main(path: Path, load: Callable[[Path], C], life: Life[C]) -> int:
    """Live until SIGTERM or SIGINT. Exit status: 0 stopped, 1 cannot serve, 2 configuration."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = load(path)
    except ConfigError as error:
        log.error("event=bad_configuration error=%s", error)  # noqa: TRY400 - the text says it all
        return 2
    status = 0
    gc.set_threshold(*COLLECT)
    measured = Steps()
    try:
        steps.run(_until_signal(life(config, measured)), measured)
    except* _CANNOT:
        log.exception("event=cannot_serve")
        status = 1
    return status


async def _until_signal(life: Coroutine[Any, Any, None]) -> None:
    living = asyncio.ensure_future(life)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(living.cancel, f"signal {number}"))
    loop.call_later(FREEZE_S, gc.freeze)
    with suppress(asyncio.CancelledError):
        await living


def busy(measured: Steps, loop: Loop) -> Mapping[str, object]:
    """How long the event loop was busy, and with which derivations, for ``status -o json``."""
    return {**measured.row(), "dearest": loop.costs()[:_SHOWN]}


class Since:
    """Dates findings: one that is still there keeps the time at which it was first seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], float] = {}

    def dated(self, found: Iterable[Finding]) -> list[Finding]:
        """The same findings, each once, with ``since``."""
        now, seen = time.time(), dict[tuple[str, str, str], float]()
        dated = []
        for finding in dict.fromkeys(found):
            key = (finding.code, finding.object, finding.field)
            seen[key] = finding.since or self._seen.get(key, now)
            dated.append(replace(finding, since=seen[key]))
        self._seen = seen
        return dated
