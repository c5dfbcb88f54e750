"""Sysctls are written here, and the value that each had before is kept in a file.

The file is written before the sysctl: whatever ends the agent in between, the former value is
known. What was noted before the host was booted means nothing any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from mesh.core.files import in_words, private_folder, replace_file
from mesh.host.forwarding import Step
from mesh.kernel import writable_sysctl

_BOOT = "kernel/random/boot_id"


class Sysctls(Protocol):
    """Sysctls of the network namespace of the process."""

    def read(self, name: str) -> str | None:
        """The value; None when there is no such sysctl."""

    def write(self, name: str, value: str) -> None:
        """Set it; raises OSError."""


class ProcSys:
    """``/proc/sys`` of the calling thread's network namespace."""

    root = Path("/proc/sys")

    def read(self, name: str) -> str | None:
        try:
            return (self.root / name).read_text().strip()
        except OSError:
            return None

    def write(self, name: str, value: str) -> None:
        writable_sysctl(name).write_text(value or "\n")  # nothing written would change nothing


@dataclass(frozen=True, slots=True)
class Note:
    """A sysctl that we have set: what it was, and what we have written.

    ``passing``: it is to have its former value again as soon as all is written.
    """

    was: str
    set: str
    passing: bool = False


class Ledger:
    """The sysctls that are kept for a later ``restore``; ``path`` is the file."""

    def __init__(self, path: Path, sysctls: Sysctls | None = None) -> None:
        self.path = path
        self.sysctls = sysctls or ProcSys()
        #: Why a sysctl could not be set, in words.
        self.failed: dict[str, str] = {}
        #: What is wanted of each sysctl, set by us or found so.
        self.wanted: dict[str, str] = {}
        self.notes: dict[str, Note] = {}
        #: Default routes that the host had when we came, by family.
        self.routes: dict[str, str] = {}
        self._boot = self.sysctls.read(_BOOT) or ""
        self._load()

    def apply(self, steps: Iterable[Step]) -> None:
        """Write sysctls in this order, unless they have their value; former values are kept.

        Raises OSError when the file cannot be written: then nothing else is, either.
        """
        todo = list(steps)
        self.wanted |= {step.name: step.value for step in todo if not step.passing}
        for step in todo:
            now = self.sysctls.read(step.name)
            if now is None or (now == step.value and not step.passing):
                continue
            was = self.notes[step.name].was if step.name in self.notes else now
            self.notes[step.name] = Note(was, step.value, step.passing)
        self.save()
        for step in todo:
            self._write(step.name, step.value)
        self._forget_passing()

    def settle(self) -> None:
        """Take back what an agent that was killed has left on devices of others.

        A device is a host again before it is told how to treat router advertisements.
        """
        passing = [(name, note) for name, note in self.notes.items() if note.passing]
        for name, note in sorted(passing, key=lambda one: one[0].endswith("accept_ra")):
            self._write(name, note.was)
        self._forget_passing()

    def _forget_passing(self) -> None:
        if any(note.passing for note in self.notes.values()):
            self.notes = {name: note for name, note in self.notes.items() if not note.passing}
            self.save()

    def _write(self, name: str, value: str) -> None:
        self.failed.pop(name, None)
        now = self.sysctls.read(name)
        if now is None:
            self.failed[name] = "there is no such sysctl"
        elif now != value:
            try:
                self.sysctls.write(name, value)
            except OSError as error:
                self.failed[name] = in_words(error)

    def restore(self) -> dict[str, str]:
        """Write former values back, the last one set first; what we did not leave so stays.

        Returns what happened to each sysctl, in words.
        """
        self.settle()
        told: dict[str, str] = {}
        for name, note in reversed(list(self.notes.items())):
            now = self.sysctls.read(name)
            if now is None:
                told[name] = "is gone"
            elif now != note.set:
                told[name] = f"stays {now}: another program has changed it since"
            else:
                self._write(name, note.was)
                told[name] = self.failed.get(name, f"is {note.was} again")
        self.notes = {}
        with suppress(FileNotFoundError):
            self.path.unlink()
        return told

    def _load(self) -> None:
        try:
            said = json.loads(self.path.read_text())
            notes = {name: Note(**row) for name, row in said["notes"].items()}
            routes = {str(family): str(text) for family, text in said["routes"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        if said.get("boot") == self._boot:
            self.notes, self.routes = notes, routes

    def save(self) -> None:
        """Write everything down; raises OSError."""
        notes = {name: asdict(note) for name, note in self.notes.items()}
        said = {"boot": self._boot, "notes": notes, "routes": self.routes}
        private_folder(self.path.parent)
        replace_file(self.path, json.dumps(said, indent=1), durable=True)
