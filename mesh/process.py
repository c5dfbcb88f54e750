"""What agent, controller and speaker have in common: start, signals, exit status, health."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bpf.libbpf import LoadError
from bpf.migrate import RefusedError
from bpf.object import DriftError
from bpf.realtime import RealtimeKernelError
from mesh.config import ConfigError
from mesh.core import steps
from mesh.core.files import UnsafeError, in_words, private_folder, replace_file
from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.core.steps import Steps
from mesh.core.ticks import tick
from mesh.objects.sources import Job, Sources

log = logging.getLogger(__name__)


class Private(Protocol):
    """A configuration that says which folders are the process's alone."""

    @property
    def private(self) -> Iterable[Path]: ...


C = TypeVar("C", bound=Private)
Life = Callable[[C, Steps], Coroutine[Any, Any, None]]

#: Objects between collections: with 65,536 addresses a full one stops the process for 0.1 s, one of
#: 50,000 new objects for 5 ms.
COLLECT = (50_000, 100, 1000)
#: Seconds between looks at what is wrong, and how many times its own length a look rests.
LOOK_S, RESTS = 2.0, 100
#: Seconds for which a finding may be away and still be the same one: a client that tries again
#: shows no error during the attempt, and pauses between attempts are at most 5 s.
KEEP_S = 10.0
#: Seconds after its start in which a process finds again what was wrong before.
STARTING_S = 60.0
#: The file with it, in the directory that outlives the process.
SINCE = "findings.json"
_Same = tuple[str, str, str, tuple[str, ...]]
_KEYS = ("code", "object", "field", "about", "since")
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
    os.umask(0o077)  # sockets and whatever a library writes are ours alone, too
    try:
        for folder in config.private:
            private_folder(folder)
    except UnsafeError as error:
        log.error("event=unsafe_folder error=%s", in_words(error))  # noqa: TRY400 - says it all
        return 1
    except OSError as error:  # no room, or a disk that is away: a finding of the writers
        log.warning("event=no_folder error=%s", in_words(error))
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


def begin_anew() -> None:
    """What the process was made of may go, and what it is made of next is left alone as before."""
    gc.unfreeze()
    gc.collect()
    asyncio.get_running_loop().call_later(FREEZE_S, gc.freeze)


def jobs(sources: Sources, loop: Loop, since: Since) -> dict[str, Job]:
    """What each process does as long as it lives, by name."""
    return {**sources.jobs(), "derive and apply": loop.run, "date findings": since.run}


def busy(measured: Steps, loop: Loop) -> Mapping[str, object]:
    """How long the event loop was busy, and with which derivations, for ``status -o json``."""
    return {**measured.row(), "dearest": loop.costs()[:_SHOWN]}


@dataclass(frozen=True, slots=True)
class Dated(Finding):
    """A finding, and since when it holds: Unix time in seconds."""

    since: float = 0.0


class Since:
    """The one place that knows since when a finding holds: since it was first seen here.

    A finding is the same as long as code, object, field and ``about`` are; its text may change.
    ``found`` makes everything that is wrong now. ``monotonic`` and ``unix`` are clocks. What was
    wrong stands in ``file``, so that a finding is as old after a restart of the process as before.
    """

    def __init__(
        self,
        found: Callable[[], Iterable[Finding]],
        monotonic: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
        *,
        file: Path | None = None,
    ) -> None:
        self._found, self._monotonic, self._unix = found, monotonic, unix
        self._file = file
        self._seen: dict[_Same, tuple[float, float]] = {}  # first (Unix), last (monotonic)
        self._written: dict[_Same, float] = {}
        self._load()

    def dated(self) -> list[Dated]:
        """Everything that is wrong now, each once."""
        now, unix, found = self._monotonic(), self._unix(), dict.fromkeys(self._found())
        former = self._seen
        self._seen = {same: at for same, at in former.items() if at[1] >= now - KEEP_S}
        return [self._date(one, former.get(_same(one), (unix, now))[0], now) for one in found]

    def _date(self, one: Finding, first: float, now: float) -> Dated:
        self._seen[_same(one)] = first, now
        place, field, text = map(_tellable, (one.object, one.field, one.text))
        return Dated(one.code, place, field, text, tuple(map(_tellable, one.about)), first)

    def _load(self) -> None:
        """What was wrong before the restart may be found again until all has been read."""
        if self._file is None:
            return
        last = self._monotonic() + STARTING_S
        with suppress(OSError, ValueError, KeyError, TypeError):
            for row in json.loads(self._file.read_text()):
                same = row["code"], row["object"], row["field"], tuple(row["about"])
                self._seen[same] = float(row["since"]), last

    def save(self) -> None:
        """Write down since when what holds, when that has changed."""
        now = {same: at[0] for same, at in self._seen.items()}
        if self._file is None or now == self._written:
            return
        rows = [dict(zip(_KEYS, (*same, since), strict=True)) for same, since in now.items()]
        with suppress(OSError):  # a full disk is a finding of others; here an age is lost
            replace_file(self._file, json.dumps(rows))
            self._written = now

    async def run(self) -> None:
        """Look for ever, so that a finding is dated before somebody asks."""
        while True:
            began = self._monotonic()
            try:
                self.dated()
                self.save()
            except Exception:  # a health report that cannot be made ends no process
                log.exception("event=findings_failed")
            await tick(max(LOOK_S, RESTS * (self._monotonic() - began)))


def _tellable(text: str) -> str:
    """The text as JSON can have it: the name of a file or a key need not be UTF-8."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _same(finding: Finding) -> _Same:
    return finding.code, finding.object, finding.field, finding.about
