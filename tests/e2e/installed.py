"""Meshgate on a cluster of the bed, as its chart installs it: ``meshgate install`` with the image.

The nodes take the image from its archive, as they take all others of the bed.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mesh.core.files import replace_file
from mesh.lab import processes
from mesh.lab.kube import bringup, configs, credentials, node
from mesh.lab.kube.topology import Cluster
from mesh.lab.places import Lab, LabError

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "build" / "meshgate-image.tar"
_CHART = ROOT / "deploy" / "helm" / "meshgate"
_TAINT = "meshgate.io/agent-not-ready"
READY_WITHIN_S = 300.0
#: Between two kills; an agent is back after some seconds.
KILL_EACH_S = 10.0
_AGENTS = ("-n", "meshgate-system")
_DNS = ("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s")


def make_image() -> None:
    """Write the image's archive. Raises LabError."""
    _run([sys.executable, "-m", "deploy.image"])


def install(lab: Lab, cluster: Cluster) -> None:
    """Install the chart, and wait until pods may start everywhere and DNS serves.

    Raises:
        LabError: something does not become ready; the text names it.

    """
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_take_image, lab, each.name) for each in cluster.nodes]:
            done.result()
    try:
        label = ("label", "--overwrite", "node", cluster.control_plane.name, "meshgate.io/etcd=")
        bringup.kubectl(lab, cluster, *label)
        config = lab.run / "kubectl" / f"{cluster.name}.kubeconfig"
        config.parent.mkdir(exist_ok=True)
        replace_file(config, credentials.for_this_machine(lab, cluster))
        command = [sys.executable, "-m", "mesh.cli", "install", f"--kubeconfig={config}"]
        _run([*command, *values(cluster)])
        if not processes.wait_until(lambda: not _problem(lab, cluster), READY_WITHIN_S, pause=0.3):
            raise LabError(f"{_problem(lab, cluster)} ({READY_WITHIN_S:.0f} s after the install)")
        bringup.kubectl(lab, cluster, *_DNS)
    except subprocess.CalledProcessError as error:
        raise LabError(f"{cluster.name}: {(error.stderr or error.stdout).strip()}") from error


def values(cluster: Cluster) -> list[str]:
    """The options of ``meshgate install``: a node of the bed is not the whole machine."""
    settings: dict[str, object] = {
        "cluster.name": cluster.name,
        "cluster.id": cluster.id,
        "agentNotReadyTaint": "true",
        "host.cgroupRoot": configs.CGROUP,
    }
    if cluster.proxy == "none":
        settings["kubernetes.host"] = credentials.server(cluster)
    pairs = [f"--set={name}={value}" for name, value in settings.items()]
    return [f"--values={_CHART / 'values-whole.yaml'}", *pairs]


@contextmanager
def agents_killed(lab: Lab, cluster: Cluster) -> Iterator[None]:
    """While the context lasts, the agent's pod of one node after the other is deleted.

    Raises:
        LabError: after the end, when an agent does not come back, or none was deleted.

    """
    ended = threading.Event()
    killed: list[str] = []
    thread = threading.Thread(target=_kill_agents, args=(lab, cluster, ended, killed))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    try:
        bringup.kubectl(lab, cluster, *_AGENTS, "rollout", "status", "daemonset/meshgate-agent")
    except subprocess.CalledProcessError as error:
        raise LabError(f"{cluster.name}: {error.stderr.strip()}") from error
    if not killed:
        raise LabError(f"{cluster.name}: the specs ended before an agent was deleted")
    sys.stdout.write(f"    agents deleted meanwhile: {len(killed)}\n")


def _kill_agents(lab: Lab, cluster: Cluster, ended: threading.Event, killed: list[str]) -> None:
    for each in itertools.cycle(cluster.nodes):
        if ended.wait(KILL_EACH_S):
            return
        which = ("-l", "app.kubernetes.io/component=agent", "--wait=false")
        one = f"--field-selector=spec.nodeName={each.name}"
        bringup.kubectl(lab, cluster, *_AGENTS, "delete", "pod", *which, one)
        killed.append(each.name)


def _take_image(lab: Lab, name: str) -> None:
    _run(node.argv(lab, name, ["ctr", "-n", "k8s.io", "images", "import", str(IMAGE)]))


def _problem(lab: Lab, cluster: Cluster) -> str:
    """What keeps pods from starting; empty when nothing does."""
    for each in bringup.nodes(lab, cluster):
        name = each["metadata"]["name"]
        if not bringup.is_ready(each):
            return f"node {name} is not Ready"
        if any(one["key"] == _TAINT for one in each["spec"].get("taints", ())):
            return f"node {name} has the taint {_TAINT}"
    return ""


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
