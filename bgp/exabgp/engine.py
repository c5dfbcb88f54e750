"""ExaBGP and its relay as processes: found, started, never stopped.

Files in the run directory, which is the speaker's alone: ``exabgp.log``, ``exabgp.pid`` (locked by
ExaBGP while it lives), ``applied.json`` (``applied.py``), ``lock`` (held by the speaker). Below it
``exabgp/`` is ExaBGP's folder, which its user may read: ``exabgp.conf``, ``relay.py``. In
``exabgp/relay/``, the only place to which that user may write, the relay has ``relay.ctl`` and
``relay.pid``; the speaker takes nothing there for certain. The lock on the pid file is what says
that the process lives: it ends with the process whatever kills it, and a pid that the kernel gave
to another process cannot be mistaken for it. The relay's socket is no ``.sock``: those are process
sockets, which the CLI asks.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sys
from pathlib import Path

from bgp.exabgp.launcher import RUNNING, SETTINGS, lock
from bpf.privileges import User
from mesh.core.files import open_private, private_folder, read_foreign, replace_file, rotate

_HERE = Path(__file__).parent
#: Everything that ExaBGP and its relay find in their environment.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "EXABGP_ENVFILE": os.devnull,
    **{f"exabgp.{name}": value for name, value in SETTINGS.items()},
}


#: In the command line of an ExaBGP that was started before it had a folder of its own.
_FORMER = "bgp.exabgp.patches"
_UID = re.compile(r"^Uid:\s+(\d+)", re.MULTILINE)


class Engine:
    """The ExaBGP of one run directory, as ``user``; None: as the user that we are."""

    def __init__(self, run_dir: Path, user: User | None = None) -> None:
        self.run_dir = run_dir
        self.user = user
        self.folder = run_dir / "exabgp"
        self.log = run_dir / "exabgp.log"
        self.applied = run_dir / "applied.json"
        self._lock: int | None = None

    def own(self) -> None:
        """Make this process the only speaker of the directory; raises BlockingIOError."""
        private_folder(self.run_dir)
        self._lock = lock(self.run_dir / "lock")
        if self._lock is None:
            raise BlockingIOError(f"another speaker owns {self.run_dir}")

    def disown(self) -> None:
        """Let the next speaker in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def is_former(self) -> bool:
        """Whether the ExaBGP that runs is of a version that gave it no folder and no user."""
        pid = self.pid()
        return pid is not None and _FORMER in _of_process(pid, "cmdline")

    @property
    def config(self) -> Path:
        """The configuration that the ExaBGP that runs reads."""
        return (self.run_dir if self.is_former else self.folder) / "exabgp.conf"

    @property
    def socket(self) -> Path:
        """Where its relay listens."""
        return self._of_relay / "relay.ctl"

    @property
    def listener(self) -> int:
        """The user of the ExaBGP that runs; whoever else listens there is not its relay."""
        pid = self.pid()
        found = _UID.search(_of_process(pid, "status")) if pid else None
        return int(found[1]) if found else self._uid

    @property
    def _uid(self) -> int:
        return self.user.uid if self.user else os.geteuid()

    @property
    def is_as_wanted(self) -> bool:
        """Whether the ExaBGP that runs has the user that it should have."""
        return self.listener == self._uid

    @property
    def _of_relay(self) -> Path:
        return self.run_dir if self.is_former else self.folder / "relay"

    @property
    def relay_command(self) -> list[str]:
        """What ExaBGP starts: isolated, so that nothing in the environment can break it.

        Its words are the same wherever the folder is, and lead through no folder above it.
        """
        if self.is_former:
            paths = [str(_HERE / "relay.py"), *map(str, (self.socket, self.run_dir / "relay.pid"))]
        else:
            paths = ["/proc/self/cwd/relay.py", "relay/relay.ctl", "relay/relay.pid"]
        return [os.path.realpath(sys.executable), "-I", "-S", "-u", *paths]

    def pid(self) -> int | None:
        """The pid of the running ExaBGP."""
        return locked_pid(self.run_dir / "exabgp.pid")

    def relay_pid(self) -> int | None:
        """The pid of its relay, as that says; None while ExaBGP does not run."""
        return _number(self._of_relay / "relay.pid") if self.pid() else None

    def write_config(self, text: str) -> None:
        """Replace the configuration file as a whole; ExaBGP reads it at start and on reload."""
        self._make_folders()
        replace_file(self.config, text, mode=0o644)

    def read_config(self) -> str:
        """The configuration file as it is; empty: there is none."""
        try:
            return self.config.read_text()
        except OSError:
            return ""

    async def start(self) -> None:
        """Start ExaBGP unless it runs; raises OSError when it cannot be started.

        Its own session and no child of ours: whatever ends the speaker does not reach it.
        """
        self._make_folders()
        replace_file(self.folder / "relay.py", (_HERE / "relay.py").read_bytes(), mode=0o644)
        user = f"{self.user.uid}:{self.user.gid}" if self.user else ""
        log = open_private(self.log)
        try:
            launcher = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(_HERE / "launcher.py"), str(self.run_dir), user),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        finally:
            os.close(log)
        status = await launcher.wait()
        if status not in (0, RUNNING):
            raise OSError(f"ExaBGP cannot be started (status {status}), see {self.log}")

    def _make_folders(self) -> None:
        """ExaBGP's user reads the one and writes to the other; nobody else sees either."""
        if self.pid():
            return  # they are its own; another user of it comes with the next one
        private_folder(self.run_dir)
        uid, gid = (self.user.uid, self.user.gid) if self.user else (-1, -1)
        relay = self.folder / "relay"
        if not self.folder.is_dir():
            self.folder.mkdir()
            self.folder.chmod(0o750)
        os.chown(self.folder, -1, gid)
        if not relay.is_dir():
            relay.mkdir()
            relay.chmod(0o2750)  # what the relay makes is for our group to use
        os.chown(relay, uid, -1)

    def rotate(self) -> None:
        """Begin the log anew when it is long; raises OSError."""
        rotate(self.log)

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


def _of_process(pid: int, name: str) -> str:
    """What the kernel says about a process; empty when it has just ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(read_foreign(path))
    except (OSError, ValueError):
        return None
