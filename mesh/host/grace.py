"""Grace periods of RCU that end early, while programs are attached to a device or it goes.

The kernel waits for a grace period after each program that comes or goes at tcx (``tcx_entry_sync``
of ``include/net/tcx.h``), and has the lock of all devices meanwhile: a wait takes about 12 ms, and
a pod has two programs. With ``rcu_expedited`` it interrupts the processors instead, and a wait
takes about 0.1 ms; the kernel does so by itself in all other steps that a device's end has.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.core.files import in_words, replace_file

log = logging.getLogger(__name__)

#: Environment: the host's switch, where ``/sys`` is read-only.
_PLACE = "MESHGATE_RCU_EXPEDITED"
_SWITCH = Path("/sys/kernel/rcu_expedited")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
FILE = "rcu"


class Grace:
    """The switch of the host; a value that somebody else has set stays."""

    def __init__(self, state_dir: Path, switch: Path | None = None) -> None:
        self._file = state_dir / FILE
        self._switch = switch or Path(os.environ.get(_PLACE) or _SWITCH)
        self._inside = 0  # sections that are open
        self._turned = False
        self._told = False

    def settle(self) -> None:
        """Take back what an agent has left that was killed within a section."""
        with suppress(OSError):
            if self._file.read_text() == _BOOT.read_text() and _is_on(self._switch):
                self._switch.write_text("0")
        self._file.unlink(missing_ok=True)

    @contextmanager
    def short(self) -> Iterator[None]:
        """A section whose grace periods end early; without the switch they take their time."""
        self._inside += 1
        if self._inside == 1:
            self._turned = self._turn_on()
        try:
            yield
        finally:
            self._inside -= 1
            if self._turned and not self._inside:
                self._turned = False
                with suppress(OSError):
                    self._switch.write_text("0")

    def _turn_on(self) -> bool:
        """Whether it is on by us now."""
        try:
            if _is_on(self._switch):
                return False
            if not self._file.exists():  # first: whatever ends the agent, the next one knows
                replace_file(self._file, _BOOT.read_text())
            self._switch.write_text("1")
        except OSError as error:
            if not self._told:
                log.warning("event=slow_grace_periods reason=%s", in_words(error))
            self._told = True
            return False
        return True


def _is_on(switch: Path) -> bool:
    return switch.read_text().strip() != "0"
