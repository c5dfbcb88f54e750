"""The lab's processes: started detached, recorded, listed, stopped. Nothing is restarted by itself.

A process is recorded with the tick at which it started, so that a number that the kernel has given
to somebody else is never taken for ours. A killed process that its parent has not collected yet is
dead. ExaBGP and the relay are the speaker's children; it leaves their numbers in files.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bgp.exabgp.engine import Engine
from mesh.core.files import open_private, replace_file
from mesh.lab import enter
from mesh.lab.places import Lab, LabError, Place

#: What ``lab ps`` shows. The lab's own helpers (legacy server, fake kubelet, firewallSync) are not
#: the product.
ROLES = (
    *("agent", "controller", "controller2", "speaker", "feed", "etcd"),
    *("zebra", "bgpd", "bfdd", "bird", "fake_pe"),
)
CHILDREN = ("exabgp", "relay")
STOP_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """One recorded process; ``pid`` 0 means it was never started."""

    host: str
    role: str
    argv: tuple[str, ...]
    log: str
    pid: int = 0
    born: int = 0
    started: float = 0.0

    @property
    def name(self) -> str:
        """What ``lab start`` and ``lab stop`` call it."""
        return f"{self.host}/{self.role}"


@dataclass(frozen=True, slots=True)
class State:
    """What ``lab up`` has made, for ``lab down``."""

    complete: bool = False
    netns: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    processes: Mapping[str, Process] = field(default_factory=dict)


def read(lab: Lab) -> State | None:
    """The recorded state, or None when there is none (or none that can be read)."""
    try:
        tree = json.loads(lab.state.read_text())
        processes = {
            name: Process(**{**each, "argv": tuple(each["argv"])})
            for name, each in tree["processes"].items()
        }
        return State(tree["complete"], tuple(tree["netns"]), tuple(tree["mounts"]), processes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def update(lab: Lab, change: Callable[[State], State]) -> None:
    """Apply ``change`` to the recorded state, one writer at a time."""
    with _locked(lab):
        state = change(read(lab) or State())
        replace_file(lab.state, json.dumps(asdict(state), indent=1))


def record(lab: Lab, process: Process) -> None:
    """Write one process into the state."""
    update(lab, lambda s: replace(s, processes={**s.processes, process.name: process}))


def spawn(lab: Lab, process: Process, place: Place) -> Process:
    """Start ``process`` in ``place`` in a session of its own, and record it."""
    directory = Path(process.log).parent
    directory.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_private(Path(process.log)), "ab") as log:
        child = subprocess.Popen(
            enter.argv(place, process.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=environment(),
            start_new_session=True,
        )
    running = replace(process, pid=child.pid, born=born(child.pid) or 0, started=time.time())
    record(lab, running)
    return running


def take_down(lab: Lab, down: Callable[..., None], *, force: bool) -> Iterator[str]:
    """Call ``down`` when something of the lab is recorded, or by its name alone; what to print."""
    if read(lab) is None and not force:
        yield f"no lab {lab.name} is recorded in {lab.run}; `--force` goes by name"
        return
    down(lab, force=force)
    yield f"lab {lab.name} is down"


def start(lab: Lab, name: str) -> Process:
    """Start a recorded process again, with its recorded arguments.

    Raises:
        LabError: nothing of that name is recorded, or it runs.

    """
    process = _recorded(lab, name)
    if is_alive(process):
        raise LabError(f"{name} runs already (pid {process.pid})")
    return spawn(lab, process, lab.host(process.host))


def stop(lab: Lab, name: str) -> None:
    """End a process with SIGTERM and wait for its end.

    Raises:
        LabError: nothing of that name is recorded, it does not run, or it does not end.

    """
    process = _recorded(lab, name)
    if not is_alive(process):
        raise LabError(f"{name} does not run")
    os.kill(process.pid, signal.SIGTERM)
    if not wait_until(lambda: not is_alive(process), STOP_WAIT_S):
        raise LabError(f"{name} (pid {process.pid}) still runs {STOP_WAIT_S:.0f} s after SIGTERM")


def alive(lab: Lab) -> list[Process]:
    """All processes of the lab that run, the speakers' children included."""
    state = read(lab) or State()
    found = [process for process in state.processes.values() if is_alive(process)]
    return [*found, *_children(lab, state)]


def shown(lab: Lab) -> list[dict[str, object]]:
    """The rows of ``lab ps``."""
    rows = [each for each in alive(lab) if each.role in ROLES + CHILDREN]
    rows.sort(key=lambda each: (each.host, each.role))
    return [
        {"host": each.host, "role": each.role, "pid": each.pid, "log": each.log} for each in rows
    ]


def is_alive(process: Process) -> bool:
    """Whether that very process runs."""
    return process.pid > 0 and born(process.pid) == process.born


def born(pid: int) -> int | None:
    """The tick at which ``pid`` started; None when nothing of that number runs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Whether ``condition`` came true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def kill(process: Process) -> None:
    """Kill one process; that it is gone already is no error."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def kill_tree(cgroup: Path) -> None:
    """Kill everything in a cgroup and below it, and wait for the end."""
    if not cgroup.is_dir():
        return
    (cgroup / "cgroup.kill").write_text("1")
    wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(), 5)


def remove_tree(cgroup: Path) -> None:
    """Remove a cgroup and those below it; nothing runs there any more."""
    for directory in sorted(cgroup.glob("**/"), reverse=True):
        directory.rmdir()


def _recorded(lab: Lab, name: str) -> Process:
    state = read(lab)
    if state is None:
        raise LabError(f"no lab {lab.name} is up: `meshgate lab up`")
    if name in state.processes:
        return state.processes[name]
    for child in _children(lab, state):
        if child.name == name:
            return child
    raise LabError(f"{name}: unknown; known: {', '.join(sorted(state.processes))}")


def _children(lab: Lab, state: State) -> Iterator[Process]:
    """ExaBGP and relay of every speaker, as their files say."""
    for speaker in state.processes.values():
        if speaker.role != "speaker":
            continue
        engine = Engine(speaker_directory(lab, speaker.host))
        for role, pid in zip(CHILDREN, (engine.pid(), engine.relay_pid()), strict=True):
            if pid is not None and (tick := born(pid)) is not None:
                yield Process(speaker.host, role, (), str(engine.log), pid, tick)


def speaker_directory(lab: Lab, host: str) -> Path:
    """A speaker's ``runDir``."""
    return lab.host_run(host) / "bgp"


def environment() -> dict[str, str]:
    """What children get: the project stands on their module path."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


@contextmanager
def _locked(lab: Lab) -> Iterator[None]:
    lab.run.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_private(lab.run / "lock"), "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
