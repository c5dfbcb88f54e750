"""A speaker under test in its namespace: driver.py and its ExaBGP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from bgp.exabgp.engine import Engine
from tests.interop.speaker.driver import USER
from tests.interop.speaker.frr_router import NODE, Router, holds, until

ROOT = Path(__file__).parents[3]
PEER = {"address": "10.99.0.1", "local": "10.99.0.11"}


class Node:
    """A speaker under test in its namespace."""

    module = "tests.interop.speaker.driver"

    def __init__(self, directory: Path) -> None:
        self.engine = Engine(directory / "run", USER)
        self.file = directory / "desired.json"
        self.out = Path(f"{self.file}.out")
        self.log = directory / "speaker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.desire()

    def desire(self, *routes: list[Any], peers: Any = (PEER,), synced: bool = True) -> None:
        fresh = self.file.with_suffix(".put")
        fresh.write_text(json.dumps({"peers": peers, "routes": routes, "synced": synced}))
        fresh.replace(self.file)

    def start(self) -> None:
        self.out.unlink(missing_ok=True)
        words = [sys.executable, "-m", self.module]
        words += [str(self.engine.run_dir), str(self.file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", NODE, *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()
        self.process = None

    def said(self) -> dict[str, Any]:
        with suppress(OSError):
            said = json.loads(self.out.read_text())
            if said["seen"] == self.file.stat().st_mtime_ns:
                return dict(said)
        return {}

    def arrived(self) -> bool:
        said = self.said()
        return bool(said.get("arrived")) and not said["owed"]

    def engine_pid(self) -> int:
        return int(until(self.engine.pid, "ExaBGP runs"))

    def engine_kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.engine.pid() is None, "ExaBGP has ended")

    def new_engine_pid(self, old: int) -> int:
        return int(until(lambda: (pid := self.engine.pid()) != old and pid, "another ExaBGP runs"))

    def stop(self, router: Router) -> None:
        """End everything; the router forgets at once, because it ends the session itself."""
        if self.process:
            self.kill()
        pid = self.engine.pid()
        if pid:
            os.kill(pid, signal.SIGSTOP)
        router.vty.ask("clear bgp *")
        until(lambda: holds(router), "the router has forgotten the test's routes")
        if pid:
            os.kill(pid, signal.SIGKILL)
