"""Tests on real clusters: they take the bed that is up (`meshgate lab kube up`, `make e2e`).

::

    east-1 (API server, kubelet) ─┐
    east-2 (kubelet)             ─┴─ router ── firewall ── legacy

The first cluster's pods have a network: ``cni`` is not ``none``, or Meshgate is installed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mesh.lab import places, processes
from mesh.lab.kube import bringup, cli, images
from mesh.lab.kube.topology import Cluster, Topology
from mesh.lab.places import Lab

NAMESPACE = "bed"
PORT = 8080


@dataclass(frozen=True)
class Bed:
    """The bed that is up, and its first cluster."""

    lab: Lab
    shape: Topology
    cluster: Cluster

    def kubectl(self, *arguments: str, given: str = "") -> str:
        return bringup.kubectl(self.lab, self.cluster, *arguments, given=given)

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def run(self, name: str, node: str) -> None:
        """A web server's pod on a node, once it is ready."""
        self.kubectl("-n", NAMESPACE, "apply", "-f", "-", given=json.dumps(_pod(name, node)))
        wait = ("--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        self.kubectl("-n", NAMESPACE, "wait", *wait)

    def addresses(self, name: str) -> list[str]:
        """A pod's addresses; none while its sandbox is made anew."""
        status = self.get("-n", NAMESPACE, "pod", name)["status"]
        return [one["ip"] for one in status.get("podIPs", ())]

    def fetch(self, client: str, url: str) -> str:
        """What a pod gets from a web server; empty when it gets no answer within 2 seconds."""
        command = ("curl", "-s", "-m", "2", url)
        try:
            return self.kubectl("-n", NAMESPACE, "exec", client, "--", *command).strip()
        except subprocess.CalledProcessError:
            return ""


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """The bed, with a namespace of ours."""
    lab = places.current(cli.NAME, cli.RUN)
    shape = cli.current(lab)
    found = Bed(lab, shape, shape.clusters[0])
    found.kubectl("create", "namespace", NAMESPACE)
    has_account = ("-n", NAMESPACE, "get", "serviceaccount", "default")
    assert processes.wait_until(lambda: _succeeds(found, *has_account), 20, pause=0.3)
    yield found
    found.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="session")
def pods(bed: Bed) -> list[str]:
    """A web server on each open node; its page is its own name."""
    names = []
    for node in bed.cluster.nodes:
        if node.is_open:
            names.append(f"web-{node.name}")
            bed.run(names[-1], node.name)
    return names


def _succeeds(bed: Bed, *arguments: str) -> bool:
    try:
        bed.kubectl(*arguments)
    except subprocess.CalledProcessError:
        return False
    return True


def _pod(name: str, node: str) -> dict[str, Any]:
    script = f"hostname >/tmp/index.html; echo started; exec busybox httpd -f -p {PORT} -h /tmp"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "web",
                    "image": images.AGNHOST,
                    "command": ["/bin/sh", "-c", script],
                    "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                }
            ],
        },
    }
