"""Process 1 of a node: it gives the node file systems of its own, then keeps its services running.

Usage: ``python -m mesh.lab.kube.init PLAN`` in new mount, pid, uts and ipc namespaces. The file
PLAN is a ``Plan`` in JSON. A service that ends is started again after a second, as its unit would
have it; one with a file ``<name>.stop`` beside the plan is ended and stays so. When this process
is killed the kernel ends everything in the node: that is a power cut.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.core.files import open_private, replace_file

CGROUPS = Path("/sys/fs/cgroup")
#: Seconds between two looks at the services, and before one that has ended is started again.
LOOK_S, AGAIN_S = 0.1, 1.0
#: A step that never succeeds is given up after this many seconds, and the next service starts.
STEP_WITHIN_S = 120.0
#: Folders that /run of a machine has.
_RUN = ("lock", "netns", "containerd")


@dataclass(frozen=True, slots=True)
class Service:
    """A process of the node, or with ``once`` a step before the services that follow."""

    name: str
    argv: tuple[str, ...]
    once: bool = False
    """Repeated until it succeeds, and not done again at the node's next boots."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that process 1 must know."""

    name: str
    folder: str
    """The node's folder: logs, process numbers, the files ``<service>.stop``."""
    binds: tuple[tuple[str, str], ...]
    """Folders of the node and the standard paths where it sees them."""
    services: tuple[Service, ...]
    path: str
    """The variable PATH of the services."""


def read(text: str) -> Plan:
    """A plan from its JSON. Raises ValueError, LookupError, TypeError for other text."""
    tree = json.loads(text)
    return Plan(
        tree["name"],
        tree["folder"],
        tuple((own, seen) for own, seen in tree["binds"]),
        tuple(
            Service(each["name"], tuple(each["argv"]), each["once"]) for each in tree["services"]
        ),
        tree["path"],
    )


def mounts(folder: Path, binds: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The ``mount`` commands of a node, in their order.

    A new sysfs hides the cgroup trees below it, so they are kept aside meanwhile. The root is made
    shared last: kubelet wants that, and made earlier the lazy umount would propagate and take the
    cgroup trees along.
    """
    aside = str(folder / "cgroups")
    return [
        ["mount", "--rbind", str(CGROUPS), aside],
        ["mount", "-t", "proc", "proc", "/proc"],
        ["mount", "-t", "sysfs", "sysfs", "/sys"],
        ["mount", "--rbind", aside, str(CGROUPS)],
        ["umount", "-l", aside],
        ["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
        *(["mount", "--mkdir", "--bind", own, seen] for own, seen in binds),
        ["mount", "--make-rshared", "/"],
    ]


class Node:
    """The node's services."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = Path(plan.folder)
        self._environment = {**os.environ, "PATH": plan.path}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: dict[str, float] = {}
        self._told: set[str] = set()

    def mount(self) -> None:
        """File systems and host name. Raises subprocess.CalledProcessError."""
        (self.folder / "cgroups").mkdir(exist_ok=True)
        for command in mounts(self.folder, self.plan.binds):
            subprocess.run(command, check=True)
        for name in _RUN:
            (Path("/run") / name).mkdir(exist_ok=True)
        socket.sethostname(self.plan.name)
        self._note()

    def run(self) -> None:
        """Start the services in their order, then keep them running for ever."""
        for service in self.plan.services:
            if service.once:
                self._until_done(service)
            else:
                self._start(service)
        while True:
            self._look()
            time.sleep(LOOK_S)

    def _until_done(self, service: Service) -> None:
        done = self.folder / f"{service.name}.done"
        end = time.monotonic() + STEP_WITHIN_S
        while not done.exists() and time.monotonic() < end:
            if self._spawn(service).wait() == 0:
                done.touch()
            else:
                self._look()
                time.sleep(LOOK_S)

    def _look(self) -> None:
        """Collect what has ended, start again what may run, end what may not."""
        for service in self.plan.services:
            if service.once or service.name not in self._ended.keys() | self._running.keys():
                continue
            process = self._running.get(service.name)
            if process is None:
                self._start_again(service)
            elif process.poll() is not None:
                del self._running[service.name]
                self._ended[service.name] = time.monotonic()
                self._note()
            elif self._is_stopped(service) and service.name not in self._told:
                self._told.add(service.name)  # told twice, a Go server ends without tidying up
                process.send_signal(signal.SIGTERM)
        self._collect_orphans()

    def _start_again(self, service: Service) -> None:
        if self._is_stopped(service):
            self._ended[service.name] = 0.0  # once allowed it starts at once
        elif time.monotonic() - self._ended[service.name] >= AGAIN_S:
            self._start(service)

    def _start(self, service: Service) -> None:
        if self._is_stopped(service):
            self._ended[service.name] = 0.0
            return
        self._ended.pop(service.name, None)
        self._told.discard(service.name)
        self._running[service.name] = self._spawn(service)
        self._note()

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        with os.fdopen(open_private(self.folder / f"{service.name}.log"), "ab") as log:
            return subprocess.Popen(
                service.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
            )

    def _is_stopped(self, service: Service) -> bool:
        return (self.folder / f"{service.name}.stop").exists()

    def _note(self) -> None:
        """The services' process numbers in this pid namespace, for ``lab kube show``."""
        numbers = {name: process.pid for name, process in self._running.items()}
        replace_file(self.folder / "services.json", json.dumps(numbers))

    def _collect_orphans(self) -> None:
        """Reap what has lost its parent: shims of containerd, what they leave behind."""
        own = {process.pid for process in self._running.values()}
        for pid in _zombies() - own:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _zombies() -> set[int]:
    return {pid for pid in children(os.getpid()) if _state(pid) == "Z"}


def children(pid: int) -> list[int]:
    """The children of a process; none when it has ended."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def outer_pids(init: int, inner: Mapping[str, int]) -> dict[str, int]:
    """The services' process numbers outside of the node, by name; those that have ended lack."""
    found: dict[str, int] = {}
    names = {number: name for name, number in inner.items()}
    for child in children(init):
        number = _inner_number(Path(f"/proc/{child}/status"))
        if number in names:
            found[names[number]] = child
    return found


def _inner_number(status: Path) -> int:
    """A process's number in the innermost of its pid namespaces; 0 when it has ended."""
    with suppress(OSError, ValueError):
        for line in status.read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def main() -> int:
    """Be process 1 until it is ended."""
    node = Node(read(Path(sys.argv[1]).read_text()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    node.mount()
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
