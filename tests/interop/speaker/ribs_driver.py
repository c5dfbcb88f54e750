"""``driver.py`` with the routes both ways: it says what was received and sent, and what is wrong.

Usage: ``python -m tests.interop.speaker.ribs_driver RUNDIR FILE``.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bgp.ribs.routes import Ribs
from mesh.core.received import Received, ReceivedKey
from mesh.core.steps import Steps, run
from mesh.core.table import Table
from tests.interop.speaker import driver

#: Rows beyond these are counted only: the file is written 50 times a second.
_SHOWN = 300


class RibsDriver(driver.Driver):
    def __init__(self, run_dir: Path, file: Path) -> None:
        super().__init__(run_dir, file)
        self.steps = Steps()
        self.ribs = Ribs(self.session, run_dir, "node")
        self.ribs.listener.patience_s = 3

    def lost(self) -> None:
        super().lost()
        self.ribs.configured()

    def more(self) -> dict[str, Any]:
        ribs = self.ribs
        return {
            "received": _rows(ribs.incoming.table),
            "sent": _rows(ribs.outgoing.table),
            "counts": [len(ribs.incoming.table.rows), len(ribs.outgoing.table.rows)],
            "steps": self.steps.row(),
            "rss_mb": int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024,
            "synced": ribs.incoming.table.synced,
            "echoes": [
                str(key.prefix)
                for peer in ribs.incoming.known
                for key in ribs.incoming.of(peer).echoes
            ],
            "malformed": sum(ribs.incoming.of(peer).faults.count for peer in ribs.incoming.known),
            "findings": [[one.code, one.text] for one in ribs.findings()],
        }

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for job in (super().run, *self.ribs.jobs().values()):
                group.create_task(job())


def _rows(table: Table[ReceivedKey, Received]) -> dict[str, dict[str, Any]]:
    if len(table.rows) > _SHOWN:
        return {}
    return {
        f"{key.peer} {key.rd} {key.prefix}".replace("  ", " "): asdict(row)
        for key, row in table.rows.items()
    }


if __name__ == "__main__":
    it = RibsDriver(Path(sys.argv[1]), Path(sys.argv[2]))
    run(it.run(), it.steps)
