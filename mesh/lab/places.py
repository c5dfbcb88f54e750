"""Where everything of one lab lies: namespaces, cgroups, bpffs, run directory.

``MESHGATE_LAB`` (default ``mg``) names the lab, ``MESHGATE_RUN`` (default ``/run/meshgate``) is its
run directory; two labs with different values share nothing. A lab's name has no hyphen, so that
``<lab>-`` is a prefix of this lab's namespaces only.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

BPFFS = Path("/sys/fs/bpf")
NETNS = Path("/run/netns")
MOUNTS = Path("/proc/mounts")
#: Who runs what needs no root. No user database hands out these numbers, so none need be made.
USERS = {"exabgp": 1_900_000_001, "controller": 1_900_000_002, "feed": 1_900_000_003}
#: What ``lab up`` builds by default.
TOPOLOGY = Path(__file__).with_name("topology.yaml")
#: What ``lab kube up`` builds by default.
KUBE_TOPOLOGY = Path(__file__).parent / "kube" / "topology.yaml"
#: In place of a host, for what belongs to none.
OWN = "lab"


class LabError(Exception):
    """The lab cannot do what was asked; the text says why and what to do."""

    #: The exit status of the command.
    status = 1


@dataclass(frozen=True, slots=True)
class Place:
    """A host or a pod: what a process must enter to run there."""

    netns: str
    cgroup: Path

    @property
    def netns_path(self) -> Path:
        """The file that setns opens; without a name it is the machine's own namespace."""
        return NETNS / self.netns if self.netns else Path("/proc/self/ns/net")


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab on this machine."""

    name: str
    run: Path
    cgroups: Path

    @property
    def state(self) -> Path:
        """What was built and started, for ``lab down``."""
        return self.run / "lab.json"

    @property
    def topology(self) -> Path:
        """The topology as it was at ``lab up``."""
        return self.run / "topology.yaml"

    @property
    def kubelet_state(self) -> Path:
        """The pods that the fake kubelet has made."""
        return self.run / "kubelet.json"

    @property
    def cgroup(self) -> Path:
        """The directory of the whole lab."""
        return self.cgroups / self.name

    def host(self, name: str) -> Place:
        """A host by name; ``OWN`` is where the lab's own helpers run."""
        if name == OWN:
            return Place("", self.cgroup / name)
        return Place(f"{self.name}-{name}", self.cgroup / name)

    def pod(self, cluster: str, namespace: str, name: str, node: str) -> Place:
        """A pod on ``node``."""
        return Place(
            f"{self.name}-{cluster}_{namespace}_{name}",
            self.cgroup / node / f"pod-{namespace}-{name}",
        )

    def find(self, name: str) -> Place:
        """The host ``name`` or the pod ``cluster/namespace/name``; it must exist.

        Raises:
            LabError: there is no such host or pod.

        """
        place = self.pods().get(name) if "/" in name else self.host(name)
        if place and place.netns_path.exists() and place.cgroup.is_dir():
            return place
        raise LabError(f"{name}: no such host or pod in lab {self.name}; see `meshgate lab show`")

    def pods(self) -> dict[str, Place]:
        """The pods that the fake kubelet has made, by ``cluster/namespace/name``."""
        try:
            rows = json.loads(self.kubelet_state.read_text())
            return {row["pod"]: Place(row["netns"], Path(row["cgroup"])) for row in rows}
        except (OSError, ValueError, LookupError, TypeError):
            return {}

    def manifests(self, cluster: str) -> Path:
        """The folder of a cluster's objects."""
        return self.run / "manifests" / cluster

    def bpffs(self, host: str) -> Path:
        """Where a node's links and maps are pinned."""
        return BPFFS / self.name / host

    def host_run(self, host: str) -> Path:
        """Sockets, configuration files and logs of a host's processes."""
        return self.run / host


def current(
    name: tuple[str, str] = ("MESHGATE_LAB", "mg"),
    run: tuple[str, str] = ("MESHGATE_RUN", "/run/meshgate"),
) -> Lab:
    """The lab that the environment names; each argument is a variable and its default.

    Raises:
        LabError: we are not root, its name cannot be used, or no cgroup2 tree is mounted.

    """
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes network namespaces")
    given = os.environ.get(*name)
    if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", given):
        raise LabError(f"{name[0]}={given}: use 1 to 8 small letters and digits")
    return Lab(given, Path(os.environ.get(*run)), _cgroup2_mount())


def is_mounted(directory: Path, kind: str) -> bool:
    """Whether a file system of ``kind`` is mounted at ``directory``."""
    return (str(directory), kind) in {(fields[1], fields[2]) for fields in _mounts()}


def _cgroup2_mount() -> Path:
    for fields in _mounts():
        if fields[2] == "cgroup2":
            return Path(fields[1])
    raise LabError("no cgroup2 tree is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`")


def _mounts() -> list[list[str]]:
    return [line.split() for line in MOUNTS.read_text().splitlines()]
