"""The reference client of CNI (libcni) on a node whose network is the agent's of the chart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from conftest import NAMESPACE, Bed

from mesh.lab import processes
from mesh.lab.kube import images, node
from tests.tools.cnitool.build import cnitool

POD, SPACE = "tooled", "tooled"


class Tool:
    """cnitool on a node, with the list and the plugins that its runtime reads."""

    def __init__(self, bed: Bed, name: str) -> None:
        self.bed, self.node, self.program = bed, name, str(cnitool())

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command on the node."""
        return subprocess.run(
            node.argv(self.bed.lab, self.node, command),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def __call__(self, verb: str) -> subprocess.CompletedProcess[str]:
        settings = (
            "CNI_PATH=/opt/cni/bin",
            "NETCONFPATH=/etc/cni/net.d",
            f"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={POD}",
        )
        # As containerd names network namespaces.
        return self.run("env", *settings, self.program, verb, "meshgate", f"/var/run/netns/{SPACE}")

    def devices(self) -> set[str]:
        """The node's devices by name."""
        return {one["ifname"] for one in json.loads(self.run("ip", "-j", "link").stdout)}


@pytest.fixture(scope="module")
def tool(bed: Bed) -> Iterator[Tool]:
    """On the last node, where no kubelet makes a sandbox of the pod beside ours."""
    name = bed.cluster.nodes[-1].name
    found = Tool(bed, name)
    node.stop_service(bed.lab, name, "kubelet")
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD},
        "spec": {
            "nodeName": name,
            "containers": [{"name": "none", "image": images.PAUSE}],
        },
    }
    try:
        bed.kubectl("-n", NAMESPACE, "create", "-f", "-", given=json.dumps(document))
        assert found.run("ip", "netns", "add", SPACE).returncode == 0
        yield found
    finally:
        found("del")
        found.run("ip", "netns", "del", SPACE)
        bed.kubectl("-n", NAMESPACE, "delete", "pod", POD, "--force", "--grace-period=0")
        node.start_service(bed.lab, name, "kubelet")
        _make_pods_anew(bed, name)


def _make_pods_anew(bed: Bed, name: str) -> None:
    """Cnitool's GC names no attachment, so it has taken the network of every pod of the node."""
    pods = bed.get("pods", "-A", f"--field-selector=spec.nodeName={name}")["items"]
    for pod in pods:
        if not pod["spec"].get("hostNetwork"):
            where = ("-n", pod["metadata"]["namespace"])
            bed.kubectl(*where, "delete", "pod", pod["metadata"]["name"], "--grace-period=1")
    dns = ("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
    bed.kubectl(*dns)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def test_a_pod_is_added_checked_and_deleted(tool: Tool) -> None:
    assert tool("status").returncode == 0
    added = tool("add")
    assert added.returncode == 0, _said(added)
    result = json.loads(added.stdout)
    families = {":" in one["address"] for one in result["ips"]}
    assert len(families) == len(result["ips"]) == len(tool.bed.cluster.pod_cidrs)
    assert result["interfaces"][0]["name"] in tool.devices()
    checked = tool("check")
    assert checked.returncode == 0, _said(checked)
    tool.run("ip", "-n", SPACE, "addr", "flush", "dev", "eth0")
    assert "is not as ADD has made it" in _said(tool("check"))
    assert tool("del").returncode == 0
    assert tool("del").returncode == 0
    assert result["interfaces"][0]["name"] not in tool.devices()


def test_gc_takes_what_the_runtime_does_not_know_any_more(tool: Tool) -> None:
    added = tool("add")
    assert added.returncode == 0, _said(added)
    device = json.loads(added.stdout)["interfaces"][0]["name"]
    collected = tool("gc")
    assert collected.returncode == 0, _said(collected)
    assert processes.wait_until(lambda: device not in tool.devices(), 10)
