"""Versions of the project in places of their own, and agents that change from one to another."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from outside import NATS, PROTOCOLS
from running import Lab, wait

from bpf.maps import Map
from mesh.lab import processes
from mesh.lab.places import NETNS
from mesh.lab.places import Lab as LabPlaces
from mesh.lab.processes import Process
from tests.packet.builds import ADDED, FORMER, WIDER

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bpf", "mesh", "gateway", "srv6", "bgp", "clustermesh")
#: Seconds until an agent has started, its migration included.
START_S = 40


@dataclass(frozen=True)
class Version:
    """A tree and the Python that runs it. The former one needs no other ``podNetns``."""

    root: Path
    python: Path
    is_former: bool = False

    @property
    def meshgate(self) -> list[str]:
        """The command; ``-m`` looks in the working directory first."""
        return [*self.python_here, "-m", "mesh.cli"]

    @property
    def python_here(self) -> list[str]:
        """Python that finds this version's modules, and no other's."""
        return ["env", "-C", str(self.root), f"PYTHONPATH={self.root}", str(self.python)]

    @property
    def objects(self) -> Path:
        """Its object files."""
        return self.root / "bpf/obj"


def former(directory: Path) -> Version:
    """The former commit, installed with an environment of its own."""
    git = ["git", "-C", str(ROOT), "archive", FORMER]
    archive = subprocess.run(git, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-xC", str(directory)], check=True, input=archive)
    environment = {**os.environ, "VENV": str(directory / ".venv")}
    environment.pop("PYTHONPATH", None)
    subprocess.run([str(directory / "deploy/install.sh")], check=True, env=environment)
    made = Version(directory, directory / ".venv/bin/python", is_former=True)
    subprocess.run([*made.python_here, "-m", "bpf.build"], check=True)
    return made


def wider(directory: Path) -> Version:
    """Today's tree with a field more in ``struct connection`` and wider tuples."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, directory / package, ignore=shutil.ignore_patterns("obj", "__pycache__")
        )
    for name, old, new in WIDER:
        path = directory / "bpf/include" / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name}: {old}"
        path.write_text(text.replace(old, new))
    rows = ", ".join(f"Added({each.map!r}, {each.fields!r})" for each in ADDED)
    path = directory / "mesh/datapath/layouts.py"
    path.write_text(
        f"{path.read_text()}\nfrom bpf.migrate import Added\n\nDECLARED = (*DECLARED, {rows})\n"
    )
    made = Version(directory, Path(sys.executable))
    subprocess.run([*made.python_here, "-m", "bpf.build"], check=True)
    assert (made.objects / "pod.o").exists()
    return made


def places_of(lab: Lab) -> LabPlaces:
    """Where the lab's hosts and pods are."""
    run = Path(lab.environment["MESHGATE_RUN"])
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    cgroups = next(Path(fields[1]) for fields in mounts if fields[2] == "cgroup2")
    return LabPlaces(lab.environment["MESHGATE_LAB"], run, cgroups)


def second_names(lab: LabPlaces) -> None:
    """Names for the former lab's pods as today's ``podNetns`` has them: with an underscore."""
    for pod, place in lab.pods().items():
        cluster, namespace, name = pod.split("/")
        second = NETNS / f"{lab.name}-{cluster}_{namespace}_{name}"
        second.touch()
        subprocess.run(["mount", "--bind", str(NETNS / place.netns), str(second)], check=True)


class Agents:
    """The lab's agents, which change versions."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._places = places_of(lab)

    def log(self, host: str) -> str:
        """What the agents of a host have said so far."""
        return (self._places.host_run(host) / "agent.log").read_text(errors="replace")

    def modules(self, host: str) -> str:
        """The environment of a host's agent: which modules it has loaded."""
        return Path(f"/proc/{self._recorded(host).pid}/environ").read_text()

    def bpffs(self, host: str) -> Path:
        """Where a host's pins are."""
        return self._places.bpffs(host)

    def datagrams(self, host: str) -> int:
        """Mappings of datagrams on a host: those of the family that has more."""
        found = 0
        for name in NATS:
            with Map.open_pinned(self.bpffs(host) / name) as map_:
                found = max(found, int((map_.dump()[0]["protocol"] == PROTOCOLS["udp"]).sum()))
        return found

    def stop(self, host: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a host's agent."""
        process = self._recorded(host)
        os.kill(process.pid, number)
        with self._showing(host):
            wait(lambda: not processes.is_alive(process), 10, f"{process.name} ended")

    def launch(self, host: str, version: Version) -> Process:
        """Start an agent and do not wait."""
        recorded = self._recorded(host)
        argv = (*version.meshgate, "agent", "--config", self._config(host, version))
        fresh = Process(recorded.host, recorded.role, argv, recorded.log)
        return processes.spawn(self._places, fresh, self._places.host(host))

    def start(self, host: str, version: Version) -> None:
        """Start an agent and wait until it serves."""
        before = self.log(host).count("event=started")
        process = self.launch(host, version)

        def started() -> bool:
            assert processes.is_alive(process), self.log(host)[-3000:]
            return self.log(host).count("event=started") > before

        with self._showing(host):
            wait(started, START_S, f"{host} has started")

    def replace(self, host: str, version: Version) -> None:
        """Another version instead of the one that runs."""
        self.stop(host)
        self.start(host, version)

    def back(self, host: str, current: Version, version: Version) -> None:
        """As ``replace``, to a version that knows nothing of migrations."""
        self.stop(host)
        config = self._config(host, current)
        command = [*current.meshgate, "agent", "--config", config, "--datapath", version.objects]
        answer = self.lab.exec(host, *command)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        self.start(host, version)

    def kill_at(self, host: str, version: Version, step: str) -> None:
        """Start an agent and ``kill -9`` it as soon as it says that it does ``step``."""
        before = len(self.log(host))
        process = self.launch(host, version)
        end = time.monotonic() + START_S
        while f"step={step} " not in self.log(host)[before:]:
            assert time.monotonic() < end, self.log(host)[before:]
            if not processes.is_alive(process) or "event=started" in self.log(host)[before:]:
                break
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        wait(lambda: not processes.is_alive(process), 10, f"{process.name} ended")

    @contextmanager
    def _showing(self, host: str) -> Iterator[None]:
        """A failure shows what the agent has said, since its log goes with the lab."""
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(host)[-6000:]}") from None

    def _config(self, host: str, version: Version) -> str:
        """The configuration of a host's agent: what an operator changes before the update."""
        config = self._places.host_run(host) / "agent.yaml"
        if version.is_former:
            return str(config)
        changed = config.with_name("agent-of-today.yaml")
        text = config.read_text()
        assert "{cluster}-{namespace}-{name}" in text
        changed.write_text(
            text.replace("{cluster}-{namespace}-{name}", "{cluster}_{namespace}_{name}")
        )
        return str(changed)

    def _recorded(self, host: str) -> Process:
        state = processes.read(self._places)
        assert state
        return state.processes[f"{host}/agent"]
