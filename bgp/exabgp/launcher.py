"""Detaches and becomes ExaBGP: ``python -I launcher.py RUNDIR [UID:GID]``.

It locks ``exabgp.pid`` for the life of ExaBGP (so there is never a second one in a run directory,
and a pid file whose lock is free is stale), forks, and ends. The child reads all of ExaBGP's code,
goes into ExaBGP's folder, becomes the user with one capability at most, and then ExaBGP
(``bgp.exabgp.patches``). So code and folder may lie where that user can reach nothing. The caller
starts it in a session of its own, with a fixed environment. Status 3 means that an ExaBGP is
running.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

RUNNING = 3

#: Settings of ExaBGP, as its environment wants them.
SETTINGS = {
    "daemon.user": "root",  # looked at by root only, which it never is
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
#: What a session needs that waits for its router on port 179; children of ExaBGP do not get it.
LISTENS = ("CAP_NET_BIND_SERVICE",)
#: An absolute name of the folder in which ExaBGP is, whatever leads to it.
CONFIG = Path("/proc/self/cwd/exabgp.conf")


def lock(path: Path) -> int | None:
    """The locked file, to be kept open; None when another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
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


def main(run_dir: Path, user: str = "") -> int:
    """Lock, detach, and become ExaBGP."""
    file = lock(run_dir / "exabgp.pid")
    if file is None:
        return RUNNING
    child = os.fork()
    if not child:
        return become_exabgp(run_dir / "exabgp", user)
    os.ftruncate(file, 0)
    os.pwrite(file, f"{child}\n".encode(), 0)  # before we end: then the caller may read it
    return 0


def become_exabgp(folder: Path, user: str) -> int:
    """Be ExaBGP; pid and lock are kept, and its children do not get the lock."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from bgp.exabgp import patches  # noqa: PLC0415 (the child's alone, once it can be found)
    from bpf.privileges import User, confine, permitted  # noqa: PLC0415

    patches.read_all()
    os.chdir(folder)
    uid, _, gid = user.partition(":")
    confine(permitted(LISTENS), User(int(uid), int(gid)) if user else None)
    return patches.main(str(CONFIG))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
