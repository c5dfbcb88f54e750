"""A fake of kubelet and container runtime: pods from manifests, as namespaces with one process.

One process for all nodes of the lab. It reads the folders of manifests with the same reader as the
agents. For every Pod with ``nodeName`` it makes the network namespace and the cgroup, waits until
the agent has wired ``eth0``, and runs the pod's command in both. A pod with ``hostNetwork`` has
only a cgroup, and runs in its node's namespace. A pod whose manifest is gone is killed and removed.
A file that cannot be read keeps the pods that it held. Started by ``lab up``; what it made stands
in ``kubelet.json`` for ``lab down``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec

from mesh.core.files import replace_file, rotate
from mesh.core.model import Finding, PodKey
from mesh.core.strict import convert
from mesh.lab import bridge, enter, network, places, processes
from mesh.lab.places import Lab, Place
from mesh.lab.topology import Cluster, NodeHost, load
from mesh.objects.manifests import Manifests
from mesh.objects.schema import Kind, Kinds, Loose, Parsed
from mesh.objects.schema import Place as Document
from mesh.objects.tables import ObjectNoun

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
    host_network: bool = False

    @property
    def full_name(self) -> str:
        """``cluster/namespace/name``."""
        return f"{self.cluster}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that exists."""

    place: Place
    process: subprocess.Popen[bytes]


class _Container(Loose, frozen=True):
    command: Annotated[Sequence[str | int | float], msgspec.Meta(min_length=1)]


class _Spec(Loose, frozen=True):
    containers: Annotated[tuple[_Container, ...], msgspec.Meta(min_length=1)]
    node_name: str | None = None
    host_network: bool | None = None


class _Status(Loose, frozen=True):
    phase: str | None = None


class _Pod(Loose, frozen=True):
    spec: _Spec
    status: _Status | None = None


SPECS: ObjectNoun[PodKey, PodSpec] = ObjectNoun("pod to run")


def _pod(place: Document, document: object) -> Parsed:
    """The pod that is to run; none of those that no node has, and of those that have ended."""
    pod, at = convert(document, _Pod), place.key
    key = PodKey(place.cluster, at.namespace, at.name)
    spec, phase = pod.spec, pod.status.phase if pod.status else None
    if not spec.node_name or phase in ("Succeeded", "Failed"):
        return Parsed(SPECS.name, key, None)
    command = tuple(map(str, spec.containers[0].command))
    row = PodSpec(
        place.cluster, at.namespace, at.name, spec.node_name, command, bool(spec.host_network)
    )
    return Parsed(SPECS.name, key, row)


KINDS = Kinds([Kind("v1", "Pod", SPECS, _pod, namespaced=True)])


class FakeKubelet:
    """Makes the pods that exist equal to the manifests; ``beside`` are nodes of another CNI."""

    def __init__(
        self, lab: Lab, beside: Mapping[str, tuple[Cluster, NodeHost]] | None = None
    ) -> None:
        self.lab = lab
        self.pods: dict[PodSpec, Pod] = {}
        self._folders: dict[str, Manifests] = {}  # by cluster
        self._said: dict[str, Finding] = {}
        self._beside = beside or {}

    def round(self) -> None:
        """Read what changed, remove, make."""
        wanted = self.wanted()
        for pod in [pod for pod in self.pods if pod not in wanted]:
            self._remove(pod)
        for pod in sorted(wanted - set(self.pods), key=lambda each: (each.cluster, each.name)):
            self._make(pod)

    def wanted(self) -> set[PodSpec]:
        """The pods of all folders, after a look at each."""
        for path in sorted((self.lab.run / "manifests").glob("*/")):
            if path.name not in self._folders:
                self._folders[path.name] = Manifests(path, path.name, kinds=KINDS)
        for folder in self._folders.values():
            folder.scan(whole=False)
        self._say()
        return {pod for one in self._folders.values() for pod in one.objects[SPECS].rows.values()}

    def _say(self) -> None:
        """Print what is wrong with the manifests, once."""
        found = {
            f"{cluster} {key}": one
            for cluster, folder in self._folders.items()
            for key, one in folder.objects.findings.rows.items()
        }
        for key, one in found.items():
            if self._said.get(key) != one:
                print(f"{one.object}: {one.field}: {one.text}", flush=True)
        self._said = found

    def _make(self, pod: PodSpec) -> None:
        place = self.lab.pod(pod.cluster, pod.namespace, pod.name, pod.node)
        command = list(pod.command)
        if pod.host_network:
            place = Place(self.lab.host(pod.node).netns, place.cgroup)
        else:
            network.add_pod(place, _SYSCTLS)
            self._connect(pod, place)
            command = ["/bin/sh", "-c", _WAIT_FOR_ETH0, "pod", *command]
        place.cgroup.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            enter.argv(place, command), stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.pods[pod] = Pod(place, process)
        self._record()
        print(f"made {pod.full_name}", flush=True)

    def _connect(self, pod: PodSpec, place: Place) -> None:
        """Beside another CNI: let that connect the pod, and report its addresses."""
        if found := self._beside.get(pod.node):
            addresses = bridge.connect(self.lab, *found, place)
            manifest = self.lab.manifests(pod.cluster) / f"pod-{pod.name}.yaml"
            bridge.report(manifest, addresses)

    def _remove(self, spec: PodSpec) -> None:
        pod = self.pods.pop(spec)
        processes.kill_tree(pod.place.cgroup)
        pod.process.wait()
        if not spec.host_network:
            if found := self._beside.get(spec.node):
                bridge.disconnect(self.lab, *found, pod.place)
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


def _nodes_beside(lab: Lab) -> dict[str, tuple[Cluster, NodeHost]]:
    """The nodes of clusters whose pods another CNI connects, ready for that."""
    found = {
        node.name: (cluster, node)
        for cluster, node in load(lab.topology).nodes
        if cluster.mode == "beside"
    }
    for cluster, node in found.values():
        bridge.prepare(lab, cluster, node)
    return found


def runs(place: Place) -> bool:
    """Whether a pod has its addresses and runs its command."""
    try:
        pids = (place.cgroup / "cgroup.procs").read_text().split()
        lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    except OSError:
        return False
    return bool(lines) and not any(_WAIT_FOR_ETH0 in line for line in lines)


def main() -> None:
    """Work until SIGTERM; pods stay, ``lab down`` removes them."""
    stopped = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, end)
    lab = places.current()
    kubelet = FakeKubelet(lab, _nodes_beside(lab))
    while not stopped:
        kubelet.round()
        for log in kubelet.lab.run.glob("*/*.log"):
            with suppress(OSError):
                rotate(log)
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()
