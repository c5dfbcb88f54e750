"""A node that is drained before it is left: what its agent is asked, and what it answers.

Whoever runs around the agent writes ``drain.json`` into the agent's folder: until when connections
may go on. The agent writes ``drained.json``: how many of them are left. Both name the request, and
outlive the agent.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mesh.core.files import replace_file
from mesh.core.table import Table

ASKED, ANSWERED = "drain.json", "drained.json"


class Stage(StrEnum):
    """How far a node is left: no connection is new, then none is left."""

    STAYS = "stays"
    DRAINS = "drains"
    ENDS = "ends"


class Leaving:
    """The stage of this node; ``table`` changes with it."""

    def __init__(self) -> None:
        self.table: Table[str, Stage] = Table("stage of leaving")
        self.table.upsert({"": Stage.STAYS})
        self.table.mark_synced()

    @property
    def stage(self) -> Stage:
        """How far the node is left."""
        return self.table.rows[""]

    @stage.setter
    def stage(self, stage: Stage) -> None:
        if stage != self.stage:
            self.table.upsert({"": stage})


@dataclass(frozen=True, slots=True)
class Drain:
    """Connections that are translated may go on until this time (Unix, in seconds)."""

    id: str
    until: float


@dataclass(frozen=True, slots=True)
class Drained:
    """How far the drain ``id`` is: connections that are left; ``done``: the agent may end."""

    id: str
    left: int
    done: bool


def ask(folder: Path, drain: Drain | None) -> None:
    """Ask the agent of this folder; None: not any more. Raises OSError."""
    if drain is None:
        (folder / ASKED).unlink(missing_ok=True)
    else:
        replace_file(folder / ASKED, json.dumps(asdict(drain)))


def asked(folder: Path) -> Drain | None:
    """What is asked now; a file that cannot be read asks for nothing."""
    row = _row(folder / ASKED)
    try:
        return Drain(str(row["id"]), float(row["until"]))
    except (LookupError, TypeError, ValueError):
        return None


def answer(folder: Path, said: Drained | None) -> None:
    """Say how far it is; None: nothing is asked. Raises OSError."""
    if said is None:
        (folder / ANSWERED).unlink(missing_ok=True)
    else:
        replace_file(folder / ANSWERED, json.dumps(asdict(said)))


def answered(folder: Path) -> Drained | None:
    """What the agent has said last."""
    row = _row(folder / ANSWERED)
    try:
        return Drained(str(row["id"]), int(row["left"]), bool(row["done"]))
    except (LookupError, TypeError, ValueError):
        return None


def _row(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
