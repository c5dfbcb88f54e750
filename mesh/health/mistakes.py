"""Mistakes of our own as findings: a part of a process that raises ends nothing but itself.

A process hands its tasks to ``keep`` and asks ``of`` for the findings of its parts. What its
derivations have met stands in its loop (``mesh/core/passes.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.health.findings import MISTAKE

log = logging.getLogger(__name__)

Task = Callable[[], Coroutine[Any, Any, object]]

#: Seconds until a task begins anew: first, and longest. It counts as mended after the longest.
PAUSE_S = (0.5, 30.0)
#: Parts of a derivation that a finding names.
_NAMED = 3


class Mistakes:
    """Those of one process on ``host``."""

    def __init__(self, host: str, role: str, loop: Loop) -> None:
        self._place = f"{host}/{role}"
        self._loop = loop
        self._tasks: dict[str, str] = {}  # tasks that have raised, with the reason
        self._reports: dict[str, str] = {}  # parts that could not give their findings

    async def keep(
        self,
        name: str,
        job: Callable[[], Coroutine[Any, Any, object]],
        ends: type[Exception] | None = None,
    ) -> None:
        """Run a task until it is cancelled, again when it raises, unless that is ``ends``."""
        pause = PAUSE_S[0]
        while True:
            began = time.monotonic()
            try:
                await job()
            except Exception as error:  # becomes a finding with the task's name
                if ends is not None and ExceptionGroup("", [error]).subgroup(ends):
                    raise
                log.exception("event=task_failed name=%s", name)
                self._tasks[name] = _text(error)
            else:
                return
            if time.monotonic() - began > PAUSE_S[1]:
                pause = PAUSE_S[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_S[1])
            asyncio.get_running_loop().call_later(PAUSE_S[1], self._mended, name, self._tasks[name])

    def _mended(self, name: str, text: str) -> None:
        """Nothing has happened for long."""
        if self._tasks.get(name) is text:
            del self._tasks[name]

    def of(self, name: str, found: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
        """The findings of a part; no further ones when it raises."""
        try:
            yield from found()
        except Exception as error:
            if name not in self._reports:
                log.exception("event=findings_failed part=%s", name)
            self._reports[name] = _text(error)
        else:
            self._reports.pop(name, None)

    def findings(self) -> Iterator[Finding]:
        """All mistakes as they are now."""
        for name, failures in self._loop.failures().items():
            parts = [f"{part!r:.200}: {_text(error)}" for part, error in failures.items() if part]
            parts += [_text(error) for part, error in failures.items() if not part]
            more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
            yield self._finding(f"derivation {name}", f"{'; '.join(parts[:_NAMED])}{more}")
        for name, text in self._tasks.items():
            yield self._finding(f"task {name}", text)
        for name, text in self._reports.items():
            yield self._finding(f"findings of {name}", text)

    def _finding(self, field: str, text: str) -> Finding:
        shown = text.encode(errors="backslashreplace").decode()
        return Finding(MISTAKE, self._place, field, shown, (f"node/{self._place.split('/')[0]}",))


def _text(error: BaseException) -> str:
    """The first error of a group stands for it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)


def named(tasks: Iterable[Task]) -> dict[str, Task]:
    """Tasks of features by name: that of their object's class, and a number where it has several.

    Two of one base class have the same method, so the method's name does not tell them apart.
    """
    found: dict[str, Task] = {}
    for task in tasks:
        owner = getattr(task, "__self__", None)
        name = getattr(task, "__qualname__", str(task)) if owner is None else type(owner).__name__
        same = sum(one.partition(" ")[0] == name for one in found)
        found[f"{name} {same + 1}" if same else name] = task
    return found
