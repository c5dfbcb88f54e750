"""Real nodes: pods reach each other, and live through what happens to nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from conftest import NAMESPACE, PORT, Bed

from mesh.lab import processes
from mesh.lab.kube import bringup, node

#: Issue 10, acceptance 4: from the kubelet's readiness to the pods' answers.
SERVES_WITHIN_S = 30


def url(address: str) -> str:
    return f"http://[{address}]:{PORT}/" if ":" in address else f"http://{address}:{PORT}/"


def ready(bed: Bed, name: str) -> bool:
    """Whether the API server holds the node for Ready."""
    return bringup.is_ready(bed.get("node", name))


def test_pods_reach_each_other_in_each_family(bed: Bed, pods: list[str]) -> None:
    """On one node and across nodes; each page names its server."""
    families = len(bed.cluster.pod_cidrs)
    for client in pods:
        for server in pods:
            addresses = bed.addresses(server)
            assert len(addresses) == families
            assert [bed.fetch(client, url(one)) for one in addresses] == [server] * families


def test_a_service_is_answered_by_name(bed: Bed, pods: list[str]) -> None:
    ports = ("--port=80", f"--target-port={PORT}")
    bed.kubectl("-n", NAMESPACE, "expose", "pod", pods[0], "--name=web", *ports)
    name = f"http://web.{NAMESPACE}.svc.cluster.local/"
    assert processes.wait_until(lambda: bed.fetch(pods[-1], name) == pods[0], 30, pause=0.3)


def test_logs_come_through_the_api_server(bed: Bed, pods: list[str]) -> None:
    assert bed.kubectl("-n", NAMESPACE, "logs", pods[-1]).strip() == "started"


def test_the_api_server_reaches_a_pod(bed: Bed, pods: list[str]) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pods[-1]}:{PORT}/proxy/"
    assert bed.kubectl("get", "--raw", path).strip() == pods[-1]


def test_pods_run_on_while_kubelet_and_containerd_are_away(bed: Bed, pods: list[str]) -> None:
    name = bed.cluster.nodes[-1].name
    (address, *_) = bed.addresses(pods[-1])
    for service in ("kubelet", "containerd"):
        node.stop_service(bed.lab, name, service)
        try:
            assert bed.fetch(pods[0], url(address)) == pods[-1]
        finally:
            node.start_service(bed.lab, name, service)
    assert processes.wait_until(lambda: bed.fetch(pods[0], url(address)) == pods[-1], 20)
    restarts = bed.get("-n", NAMESPACE, "pod", pods[-1])["status"]["containerStatuses"][0]
    assert restarts["restartCount"] == 0


def test_a_node_that_lost_power_serves_its_pods_after_its_reboot(bed: Bed, pods: list[str]) -> None:
    name = bed.cluster.nodes[-1].name
    os.kill(node.pid(bed.lab, name), signal.SIGKILL)
    assert processes.wait_until(lambda: not node.is_up(bed.lab, name), 10)
    (address, *_) = bed.addresses(pods[-1])
    assert not bed.fetch(pods[0], url(address))
    (each,) = (one for one in bed.cluster.nodes if one.name == name)
    node.start(bed.lab, bed.shape, each)
    kubelet = processes.wait_until(lambda: "kubelet" in node.service_pids(bed.lab, name), 30)
    assert kubelet
    assert processes.wait_until(lambda: _healthy(bed, name), 60, pause=0.3)
    begin = time.monotonic()

    def answers() -> bool:
        found = [bed.fetch(pods[0], url(one)) for one in bed.addresses(pods[-1])]
        return found == [pods[-1]] * len(bed.cluster.pod_cidrs)

    assert processes.wait_until(answers, SERVES_WITHIN_S, pause=0.5)
    assert time.monotonic() - begin < SERVES_WITHIN_S
    assert ready(bed, name)


def _healthy(bed: Bed, name: str) -> bool:
    """Whether the kubelet itself says so."""
    argv = node.argv(bed.lab, name, ["curl", "-s", "-m", "2", "http://127.0.0.1:10248/healthz"])
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout == "ok"
