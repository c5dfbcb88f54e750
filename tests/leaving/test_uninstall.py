"""The last level on a bed: Meshgate goes by its own command, and leaves nothing on any node.

It takes the bed that is up, with Meshgate as ``mesh/lab/kube/installed.py`` installs it, and the
pods that other tests have left there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mesh.lab import places, processes
from mesh.lab.kube import bringup, cli, configs, credentials, installed, node
from mesh.lab.kube.topology import Cluster, Topology
from mesh.lab.places import Lab
from mesh.netlink import LEARNED, PROTOCOL

LAB = places.current(cli.NAME, cli.RUN)
#: Commands of a node, each with what its output must not have after an uninstall.
TRACES = {
    "ip -o link": ("mgp", "mg_vxlan", "mgv"),
    f"ip -4 route show table all proto {PROTOCOL}": ("",),
    f"ip -6 route show table all proto {PROTOCOL}": ("",),
    f"ip -4 route show table all proto {LEARNED}": ("",),
    f"ip -6 route show table all proto {LEARNED}": ("",),
    "ip -4 rule show": (f"proto {PROTOCOL}", f"proto {LEARNED}"),
    "ip -6 rule show": (f"proto {PROTOCOL}", f"proto {LEARNED}"),
    "bpftool -j net": ("mg_",),
    "find /sys/fs/bpf -mindepth 1 -name meshgate*": ("",),
    f"bpftool cgroup show {configs.CGROUP}": ("mg_",),
    "find /etc/cni/net.d -name *meshgate*": ("",),
    "find /opt/cni/bin -name meshgate*": ("",),
    "find /run/meshgate -mindepth 1": ("",),
    "find /var/lib/meshgate -mindepth 1": ("",),
}


@pytest.fixture(scope="module")
def shape() -> Topology:
    return cli.current(LAB)


@pytest.fixture(scope="module")
def cluster(shape: Topology) -> Cluster:
    return shape.clusters[0]


def on_node(name: str, command: str) -> str:
    done = subprocess.run(
        node.argv(LAB, name, command.split()), capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def traces(cluster: Cluster) -> Iterator[str]:
    """What is left on the nodes, each with the command that shows it."""
    for each in cluster.nodes:
        for command, words in TRACES.items():
            said = on_node(each.name, command)
            if said and any(word in said for word in words):
                yield f"{each.name}: {command}: {said}"


def sysctls(cluster: Cluster) -> dict[tuple[str, str], str]:
    """The sysctls that agents have noted, with the values of before, by node and name."""
    found: dict[tuple[str, str], str] = {}
    for each in cluster.nodes:
        notes = json.loads(on_node(each.name, "cat /var/lib/meshgate/agent/host.json"))["notes"]
        found |= {(each.name, name): note["was"] for name, note in notes.items()}
    return found


def meshgate(verb: str, *options: str, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """A command of Meshgate as an administrator of the cluster types it."""
    config = installed.kubeconfig(LAB, cluster)
    command = [sys.executable, "-m", "mesh.cli", verb, f"--kubeconfig={config}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_verify_finds_nothing_in_the_way(cluster: Cluster, tmp_path: Path) -> None:
    """Asked on a node of the bed, with the place of its own group of the cgroup2 tree."""
    wanted = tmp_path / "agent.yaml"
    wanted.write_text(f"mode: {installed.mode(cluster)}\ncgroup: {configs.CGROUP}\n")
    config = credentials.kubeconfig(LAB, cluster)
    words = ["verify", f"--kubeconfig={config}", f"--config={wanted}", "-o", "json"]
    command = [sys.executable, "-m", "mesh.cli", *words]
    done = subprocess.run(
        node.argv(LAB, cluster.nodes[-1].name, command),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    names = {row["name"] for row in rows}
    assert {"kernel", "tcx", "cgroup2", "CNI", "ports", "API server", "clock", "RBAC"} <= names
    assert [row for row in rows if row["verdict"] == "bad"] == []
    assert done.returncode == 0


def test_an_uninstall_is_refused_while_pods_have_links(cluster: Cluster) -> None:
    """Of whole; nothing has changed after it, and the text names the option."""
    if installed.mode(cluster) == "beside":
        return
    before = sysctls(cluster)
    done = meshgate("uninstall", cluster=cluster)
    assert done.returncode == 1
    assert "--evict" in done.stderr
    assert sysctls(cluster) == before
    assert list(traces(cluster))


def test_an_uninstall_leaves_nothing(cluster: Cluster) -> None:
    former = sysctls(cluster)
    option = "--evict" if installed.mode(cluster) == "whole" else "--drain=5s"
    done = meshgate("uninstall", option, cluster=cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(traces(cluster)) == []
    now = {key: on_node(key[0], f"cat /proc/sys/{key[1]}") for key in former}
    assert now == former
    for one in bringup.nodes(LAB, cluster):
        assert not [t for t in one["spec"].get("taints", ()) if t["key"].startswith("meshgate.io/")]
    left = partial(_objects, LAB, cluster)
    assert processes.wait_until(lambda: not left(), 60, pause=1), left()
    policies = bringup.kubectl(LAB, cluster, "get", "egresspolicy", "-o", "name").split()
    assert policies == ["egresspolicy.meshgate.io/legacy"]


def test_what_was_uninstalled_is_installed_again(shape: Topology, cluster: Cluster) -> None:
    installed.install(LAB, shape, cluster)
    done = meshgate("uninstall", "--crds", *_option(cluster), cluster=cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(traces(cluster)) == []
    definitions = bringup.kubectl(LAB, cluster, "get", "crd", "-o", "name")
    assert "meshgate.io" not in definitions


def _option(cluster: Cluster) -> tuple[str, ...]:
    return ("--evict",) if installed.mode(cluster) == "whole" else ()


def _objects(lab: Lab, cluster: Cluster) -> list[str]:
    """Objects of the chart that are still there."""
    kinds = "daemonset,deployment,statefulset,configmap,secret,pod,service,serviceaccount"
    words = ("get", kinds, "-n", installed.NAMESPACE, "-o", "name")
    lines = bringup.kubectl(lab, cluster, *words).split()
    rights = bringup.kubectl(lab, cluster, "get", "clusterrole,clusterrolebinding", "-o", "name")
    return [line for line in (*lines, *rights.split()) if "meshgate" in Path(line).name]
