"""Agents of a cluster of the bed, deleted in turn while something else runs."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.lab.kube import bringup
from mesh.lab.kube.installed import NAMESPACE
from mesh.lab.kube.topology import Cluster
from mesh.lab.places import Lab, LabError

#: Between two kills; an agent is back after some seconds.
KILL_EACH_S = 10.0
_AGENTS = ("-n", NAMESPACE)


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
