"""A fake of kubelet and container runtime: pods from manifests, as namespaces with one process.

One process for all nodes of the lab. It watches the manifests; for every Pod with ``nodeName`` it
makes the network namespace and the cgroup, waits until the agent has wired ``eth0``, and runs the
pod's command in both. A pod whose manifest is gone is killed and removed. A file that cannot be
read keeps the pods that it held. Started by ``lab up``; what it made stands
in ``kubelet.json`` for ``lab down``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from mesh.core.files import replace_file
from mesh.lab import enter, network, places, processes
from mesh.lab.places import Lab, Place

PERIOD_S = 0.2

#: The pod waits for its addresses itself, then becomes its command.
_WAIT_FOR_ETH0 = (
    "until ip -4 -o addr show dev eth0 2>/dev/null | grep -q inet"
    " && ip -6 -o addr show dev eth0 scope global 2>/dev/null | grep -q inet6;"
    ' do sleep 0.2; done; exec "$@"'
)
_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.all.disable_ipv6": 0,
    "net.ipv6.conf.default.disable_ipv6": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.accept_ra": 0,
    "net.core.somaxconn": 4096,
}


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What a Pod manifest says to a kubelet."""

    cluster: str
    namespace: str
    name: str
    node: str
    command: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """``cluster/namespace/name``."""
        return f"{self.cluster}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that exists."""

    place: Place
    process: subprocess.Popen[bytes]


class FakeKubelet:
    """Makes the pods that exist equal to the manifests."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pods: dict[PodSpec, Pod] = {}
        self._files: dict[Path, tuple[tuple[int, int], tuple[PodSpec, ...]]] = {}

    def round(self) -> None:
        """Read what changed, remove, make."""
        wanted = {pod for path in self._paths() for pod in self.pods_of(path)}
        for pod in [pod for pod in self.pods if pod not in wanted]:
            self._remove(pod)
        for pod in sorted(wanted - set(self.pods), key=lambda each: (each.cluster, each.name)):
            self._make(pod)

    def _paths(self) -> list[Path]:
        found = sorted((self.lab.run / "manifests").glob("*/*.yaml"))
        for path in set(self._files) - set(found):
            del self._files[path]
        return found

    def pods_of(self, path: Path) -> tuple[PodSpec, ...]:
        """The pods of one file; those it had when it cannot be read."""
        seen, known = self._files.get(path, ((0, 0), ()))
        try:
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_size)
            if mark == seen:
                return known
            self._files[path] = (mark, known)
            known = tuple(pods_in(path.read_text(), path.parent.name))
            self._files[path] = (mark, known)
        except (OSError, ValueError, yaml.YAMLError) as error:
            print(f"{path}: kept as it was: {error}", flush=True)
        return known

    def _make(self, pod: PodSpec) -> None:
        place = self.lab.pod(pod.cluster, pod.namespace, pod.name, pod.node)
        network.add_pod(place, _SYSCTLS)
        place.cgroup.mkdir(parents=True, exist_ok=True)
        waiting = ["/bin/sh", "-c", _WAIT_FOR_ETH0, "pod", *pod.command]
        process = subprocess.Popen(
            enter.argv(place, waiting), stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.pods[pod] = Pod(place, process)
        self._record()
        print(f"made {pod.full_name}", flush=True)

    def _remove(self, spec: PodSpec) -> None:
        pod = self.pods.pop(spec)
        processes.kill_tree(pod.place.cgroup)
        pod.process.wait()
        network.remove([pod.place.netns])
        processes.remove_tree(pod.place.cgroup)
        self._record()
        print(f"removed {spec.full_name}", flush=True)

    def _record(self) -> None:
        rows = [
            {"pod": spec.full_name, "netns": pod.place.netns, "cgroup": str(pod.place.cgroup)}
            for spec, pod in self.pods.items()
        ]
        replace_file(self.lab.kubelet_state, json.dumps(rows))


def runs(place: Place) -> bool:
    """Whether a pod has its addresses and runs its command."""
    try:
        pids = (place.cgroup / "cgroup.procs").read_text().split()
        lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    except OSError:
        return False
    return bool(lines) and not any(_WAIT_FOR_ETH0 in line for line in lines)


def pods_in(text: str, cluster: str) -> Iterator[PodSpec]:
    """The Pods with a node among the documents of ``text``.

    Raises:
        ValueError: a Pod lacks its name or its command.

    """
    for document in yaml.safe_load_all(text):
        if isinstance(document, dict) and document.get("kind") == "Pod":
            pod = _pod(document, cluster)
            if pod.node:
                yield pod


def _pod(document: dict[str, Any], cluster: str) -> PodSpec:
    try:
        metadata, spec = document["metadata"], document["spec"]
        command = tuple(map(str, spec["containers"][0]["command"]))
        namespace = metadata.get("namespace", "default")
        return PodSpec(cluster, namespace, metadata["name"], spec.get("nodeName", ""), command)
    except (KeyError, IndexError, TypeError) as error:
        text = f"a Pod needs metadata.name and spec.containers[0].command: {error}"
        raise ValueError(text) from error


def main() -> None:
    """Work until SIGTERM; pods stay, ``lab down`` removes them."""
    stopped = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, end)
    kubelet = FakeKubelet(places.current())
    while not stopped:
        kubelet.round()
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()
