"""Detaches and becomes ExaBGP: ``python -m bgp.exabgp.launcher RUNDIR``.

It locks ``exabgp.pid`` for the life of ExaBGP (so there is never a second one in a run directory,
and a pid file whose lock is free is stale), forks, and ends; the child becomes
``bgp.exabgp.patches``. The caller starts it in a session of its own. Status 3 means that an ExaBGP
is running.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

RUNNING = 3

#: Settings of ExaBGP, as its environment wants them.
SETTINGS = {
    "daemon.user": "root",  # the default drops to nobody
    "daemon.drop": "false",
    "api.cli": "false",
    "api.ack": "true",
    "api.respawn": "true",
    "api.show-routes-format": "v2",
    "api.chunk": "100",
    "tcp.bind": "",  # dials only
    "log.level": "WARNING",
    "log.destination": "stdout",
}


def lock(path: Path) -> int | None:
    """The locked file, to be kept open; None when another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(file)
                return None
            time.sleep(0.02)  # a reader tests the lock by taking it for a moment
        else:
            return file


def main(run_dir: Path) -> int:
    """Lock, detach, and become ExaBGP."""
    file = lock(run_dir / "exabgp.pid")
    if file is None:
        return RUNNING
    child = os.fork()
    if not child:
        become_exabgp(file, run_dir / "exabgp.conf")
    os.ftruncate(file, 0)
    os.pwrite(file, f"{child}\n".encode(), 0)  # before we end: then the caller may read it
    return 0


def become_exabgp(pid_file: int, config: Path) -> NoReturn:
    """Replace this process; pid and lock stay."""
    fcntl.fcntl(pid_file, fcntl.F_SETFD, 0)  # kept by ExaBGP, which closes it for the relay
    settings = {f"exabgp.{name}": value for name, value in SETTINGS.items()}
    command = [sys.executable, "-m", "bgp.exabgp.patches", str(config)]
    os.execve(sys.executable, command, {**os.environ, **settings})  # noqa: S606 - our own program


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
