"""ExaBGP and its relay as processes: found, started, never stopped.

Files in the run directory: ``exabgp.conf``, ``exabgp.log``, ``exabgp.pid`` (locked by ExaBGP while
it lives), ``relay.pid``, ``relay.ctl``, ``applied.json`` (``applied.py``), ``lock`` (held by the
speaker). The lock on a pid file is what says that the process lives: it ends with the process
whatever kills it, and a pid that the kernel gave to another process cannot be mistaken for it.
The relay's socket is no ``.sock``: those are process sockets, which the CLI asks.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from pathlib import Path

from bgp.exabgp.launcher import RUNNING, lock
from mesh.core.files import replace_file

_HERE = Path(__file__).parent
#: What ExaBGP imports from. The folder bgp must not be on its path: bgp/exabgp hides the library.
_ROOT = _HERE.parents[1]


class Engine:
    """The ExaBGP of one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.config = run_dir / "exabgp.conf"
        self.socket = run_dir / "relay.ctl"
        self.log = run_dir / "exabgp.log"
        self.applied = run_dir / "applied.json"
        self._lock: int | None = None

    def own(self) -> None:
        """Make this process the only speaker of the directory; raises BlockingIOError."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.run_dir / "lock")
        if self._lock is None:
            raise BlockingIOError(f"another speaker owns {self.run_dir}")

    def disown(self) -> None:
        """Let the next speaker in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def relay_command(self) -> list[str]:
        """What ExaBGP starts: isolated, so that nothing in the environment can break it."""
        script, pid = str(_HERE / "relay.py"), str(self.run_dir / "relay.pid")
        return [sys.executable, "-I", "-S", "-u", script, str(self.socket), pid]

    def pid(self) -> int | None:
        """The pid of the running ExaBGP."""
        return locked_pid(self.run_dir / "exabgp.pid")

    def relay_pid(self) -> int | None:
        """The pid of its relay; None while ExaBGP does not run."""
        return _number(self.run_dir / "relay.pid") if self.pid() else None

    def write_config(self, text: str) -> None:
        """Replace the configuration file as a whole; ExaBGP reads it at start and on reload."""
        replace_file(self.config, text)

    async def start(self) -> None:
        """Start ExaBGP unless it runs; raises OSError when it cannot be started.

        Its own session and no child of ours: whatever ends the speaker does not reach it.
        """
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.log.open("ab") as log:
            launcher = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bgp.exabgp.launcher", str(self.run_dir)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        status = await launcher.wait()
        if status not in (0, RUNNING):
            raise OSError(f"ExaBGP cannot be started (status {status}), see {self.log}")

    def last_words(self) -> str:
        """The last line of ExaBGP's log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def locked_pid(path: Path) -> int | None:
    """The number in a pid file whose lock is held; None when its process has ended."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _number(path)
    finally:
        os.close(file)
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
