"""A node of the bed of real Kubernetes, with `sleep` in place of kubelet and containerd.

::

    east-cp east-1 east-2 etcd ── router ── firewall ── legacy
            (process 1, two services)

What the node itself does needs no Go toolchain: file systems of its own, services that are started
again, a power cut, a reboot, and nothing left afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from mesh.lab import neighbours, network, places, processes
from mesh.lab.kube import bringup, cgroups, configs, init, machine, node, topology
from mesh.lab.kube.init import Service
from mesh.lab.places import MOUNTS, NETNS, OWN, Lab, LabError

SHAPE = topology.load(places.KUBE_TOPOLOGY)
CLUSTER = SHAPE.clusters[0]
NODE = CLUSTER.nodes[1]
SERVICES = (
    Service("once", ("sh", "-c", "echo done >>once.txt"), once=True),
    Service("kubelet", ("sleep", "1000")),
    Service("containerd", ("sh", "-c", "sleep 2000 & sleep 1001")),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The fabric and one node that runs."""
    run = tmp_path_factory.mktemp("kube")
    os.environ["TEST_KUBE_NODE"] = f"n{os.getpid() % 1_000_000}"
    found = places.current(("TEST_KUBE_NODE", ""), ("TEST_KUBE_RUN", str(run / "bed")))
    found.run.mkdir()
    names = tuple(found.host(name).netns for name in network.hosts(SHAPE))
    processes.update(found, lambda _: processes.State(netns=names))
    machine.keep(found)
    try:
        for host in (OWN, *network.hosts(SHAPE)):
            found.host(host).cgroup.mkdir(parents=True)
        network.build(found, SHAPE)
        node.prepare(found, CLUSTER, NODE, (), {})
        plan_file = found.host_run(NODE.name) / "plan.json"
        plan = replace(init.read(plan_file.read_text()), services=SERVICES)
        plan_file.write_text(json.dumps(asdict(plan)))
        node.start(found, SHAPE, NODE)
        yield found
    finally:
        bringup.down(found)


def on(lab: Lab, *command: str) -> str:
    """What a command prints on the node."""
    argv = node.argv(lab, NODE.name, command)
    return subprocess.run(argv, text=True, capture_output=True, check=True).stdout


def services(lab: Lab) -> dict[str, int]:
    """The node's services, once both run."""
    assert processes.wait_until(lambda: len(node.service_pids(lab, NODE.name)) == 2, 10)
    return node.service_pids(lab, NODE.name)


def named(lab: Lab, words: str) -> set[int]:
    """The processes of the node with this command line."""
    found = set()
    for pid in (lab.host(NODE.name).cgroup / "cgroup.procs").read_text().split():
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        found |= {int(pid)} if line == words else set()
    return found


def test_a_node_has_file_systems_and_addresses_of_its_own(lab: Lab) -> None:
    assert on(lab, "hostname").strip() == NODE.name
    assert on(lab, "stat", "-f", "-c", "%T", "/run", "/sys/fs/bpf").split() == ["tmpfs", "bpf_fs"]
    assert "mesh.lab.kube.init" in on(lab, "cat", "/proc/1/cmdline")
    on(lab, "touch", "/etc/cni/net.d/mine")
    assert (lab.host_run(NODE.name) / "etc-cni/net.d/mine").exists()
    assert not Path("/etc/cni/net.d/mine").exists()
    for tree in cgroups.trees(MOUNTS.read_text()):
        on(lab, "test", "-d", f"{tree}{cgroups.root(lab, NODE.name)}")
    devices = json.loads(on(lab, "ip", "-j", "address", "show", "uplink"))
    found = {one["local"] for one in devices[0]["addr_info"]}
    assert {str(address) for address in NODE.addresses} <= found
    assert on(lab, "ls", "/sys/class/net").split() == ["lo", "uplink"]


def test_a_service_that_ends_is_started_again(lab: Lab) -> None:
    before = services(lab)
    os.kill(before["kubelet"], signal.SIGKILL)
    gone = (None, before["kubelet"])

    def is_new() -> bool:
        return node.service_pids(lab, NODE.name).get("kubelet") not in gone

    assert processes.wait_until(is_new, 10)
    assert services(lab)["containerd"] == before["containerd"]


def test_a_service_that_was_stopped_stays_so_until_it_is_started(lab: Lab) -> None:
    services(lab)
    node.stop_service(lab, NODE.name, "kubelet")
    assert set(node.service_pids(lab, NODE.name)) == {"containerd"}
    with pytest.raises(LabError, match="does not run"):
        node.stop_service(lab, NODE.name, "kubelet")
    node.start_service(lab, NODE.name, "kubelet")
    assert set(services(lab)) == {"kubelet", "containerd"}
    with pytest.raises(LabError, match="was not stopped"):
        node.start_service(lab, NODE.name, "kubelet")


def test_a_dead_node_is_dead_as_a_whole_and_its_reboot_makes_its_network_anew(lab: Lab) -> None:
    before = services(lab)
    assert named(lab, "sleep 2000")
    namespace = (NETNS / lab.host(NODE.name).netns).stat().st_ino
    on(lab, "ip", "link", "add", "left", "type", "bridge")
    on(lab, "touch", "/run/left", "/var/lib/cni/kept")
    trees = cgroups.trees(MOUNTS.read_text())
    groups = [Path(f"{tree}{cgroups.root(lab, NODE.name)}/kubepods/pod1") for tree in trees]
    for group in groups:
        group.mkdir(parents=True)
    os.kill(node.pid(lab, NODE.name), signal.SIGKILL)
    assert processes.wait_until(lambda: node.pid(lab, NODE.name) == 0, 10)
    assert processes.wait_until(lambda: not named(lab, "sleep 2000"), 10)
    assert all(processes.born(pid) is None for pid in before.values())
    with pytest.raises(LabError, match="does not run"):
        node.argv(lab, NODE.name, ["true"])
    node.start(lab, SHAPE, NODE)
    assert not set(services(lab).values()) & set(before.values())
    assert (NETNS / lab.host(NODE.name).netns).stat().st_ino != namespace
    assert on(lab, "ls", "/sys/class/net").split() == ["lo", "uplink"]
    assert "left" not in on(lab, "ls", "/run").split()
    on(lab, "test", "-e", "/var/lib/cni/kept")
    assert not [group for group in groups if group.parent.exists()]
    on(lab, "ping", "-c", "1", "-W", "2", str(SHAPE.router.addresses[0]))
    assert (lab.host_run(NODE.name) / "once.txt").read_text() == "done\n"
    with pytest.raises(LabError, match="runs already"):
        node.start(lab, SHAPE, NODE)


def test_a_port_of_this_machine_leads_into_the_fabric(lab: Lab, tmp_path: Path) -> None:
    """An echo server on the router stands for an API server, then refuses as a dead one does."""
    server = ("python3", "-m", "http.server", "6443", "--bind", str(SHAPE.router.addresses[0]))
    file = tmp_path / "port"
    target = (str(SHAPE.router.addresses[0]), "6443", str(file))
    module = ("-m", "mesh.lab.kube.forward", str(lab.host(NODE.name).netns_path))
    neighbours.spawn(lab, "router", "http", server)
    neighbours.spawn(lab, OWN, "forward", (sys.executable, *module, *target))
    assert processes.wait_until(file.exists, 10)

    def status() -> int:
        connection = HTTPConnection("127.0.0.1", int(file.read_text()), timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()

    assert processes.wait_until(lambda: status() == 200, 10)
    processes.stop(lab, "router/http")
    assert status() == 0


def test_nothing_is_left_of_a_bed_that_is_down(lab: Lab) -> None:
    """The last test of the file: what `down` of the fixture would do."""
    kept = json.loads((lab.run / "machine.json").read_text())
    own = set(named(lab, "sleep 1000") | named(lab, "sleep 2000"))
    assert own
    bringup.down(lab)
    assert not [path for path in NETNS.iterdir() if path.name.startswith(f"{lab.name}-")]
    assert not [tree for tree in cgroups.trees(MOUNTS.read_text()) if (tree / lab.name).exists()]
    assert lab.name not in MOUNTS.read_text()
    assert not lab.run.exists()
    assert all(processes.born(pid) is None for pid in own)
    assert not [folder for folder in kept["folders"] if Path(folder).exists()]
    for name, value in kept["sysctls"].items():
        assert Path("/proc/sys", name.replace(".", "/")).read_text().strip() == value
    assert set(configs.FOLDERS.values()) >= {"/etc/cni", "/var/lib/kubelet"}
