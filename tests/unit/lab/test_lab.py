"""The lab's files: a strict topology, manifests and configurations that their readers take."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgp.peer import PEERS
from clustermesh.issued import files_of
from gateway.policy import POLICIES
from mesh import config
from mesh.lab import (
    bridge,
    fabric,
    fake_kubelet,
    network,
    places,
    probe,
    processes,
    settings,
    topology,
)
from mesh.lab.places import Lab
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES, PODS
from mesh.objects.manifests import Manifests, Objects
from mesh.services.kinds import SERVICES

WHOLE = topology.load(places.TOPOLOGY)
assert WHOLE.pe
#: Without the tenants' pods, which test_lab_edge.py is about.
SHAPE = replace(WHOLE, pe=replace(WHOLE.pe, vrfs=False))
#: The lines of the first cluster's gateways.
GATEWAYS = "\n".join(
    line for line in places.TOPOLOGY.read_text().splitlines() if "east" in line and "role" in line
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab("unit", tmp_path, tmp_path / "cgroup")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = places.TOPOLOGY.read_text()
    assert old in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_hosts_are_those_that_others_script_against() -> None:
    nodes = ["east-1", "east-2", "east-3", "west-1", "west-2", "west-3"]
    fixed = [*nodes, "router", "firewall", "legacy", "etcd"]
    assert network.hosts(SHAPE) == [*fixed, "pe", "pe-blue", "pe-green", "blue", "green"]
    names = [f"{cluster.name}/{name}" for cluster, _, name in SHAPE.pod_names]
    assert names[:4] == ["east/web-1", "east/client-1", "east/web-2", "east/client-2"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("leaseSeconds", "leaseSecond", "leaseSecond: unknown field"),
        ("asn: 65000", "asn: x", "router.asn"),
        ("10.99.0.12", "10.98.0.12", "host east-2.addresses: 10.98.0.12 is outside 10.99.0.0/24"),
        ("name: west-1", "name: east-1", "east-1 is used twice"),
        ("id: 2", "id: 1", "clusters[…].id: 1 is used twice"),
        (f"{GATEWAYS}\n", "", "clusters[0].nodes: none has the label role"),
        ("10.1.0.0/16", "10.1.0.1/16", "clusters[0].podCIDRs[0].cidr"),
    ],
)
def test_a_wrong_topology_names_its_field(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(fabric.TopologyError) as caught:
        topology.load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_manifests_are_taken_without_a_finding(lab: Lab) -> None:
    settings.write_manifests(lab, SHAPE)
    manifests = Manifests(lab.manifests("east"), "east", interval_s=0.01, kinds=KINDS)
    objects = asyncio.run(_read(manifests))
    assert not objects.findings.rows
    assert {key.name for key in objects[PODS].rows} == set(SHOWN)
    assert {key.name for key in objects[NODES].rows} == {"east-1", "east-2", "east-3"}
    assert (
        len(objects[SERVICES].rows) == len(objects[POLICIES].rows) == len(objects[PEERS].rows) == 1
    )


async def _read(manifests: Manifests) -> Objects:
    task = asyncio.create_task(manifests.run())
    async with asyncio.timeout(5):
        while not manifests.objects[PODS].synced:
            await asyncio.sleep(0.01)
    task.cancel()
    return manifests.objects


def test_the_configurations_are_taken(lab: Lab) -> None:
    pki = settings.pki_directory(lab)
    pki.mkdir()
    for name in ["ca", *(user.cn for user in settings.etcd_users(SHAPE))]:
        files = files_of(pki, name)
        files.cert.touch()
        files.key.touch()
    east = SHAPE.clusters[0]
    controllers = settings.controller_configs(lab, SHAPE, east)
    first, second = (config.load_controller(path) for path in controllers.values())
    assert first.instance != second.instance
    assert first.pools == second.pools
    nodes = settings.node_configs(lab, SHAPE, east, east.nodes[1])
    assert config.load_agent(nodes["agent"]).node == "east-2"
    assert str(config.load_speaker(nodes["speaker"]).router_id) == "10.99.0.12"


class Pods:
    """The kubelet of a lab whose manifests were written long ago."""

    def __init__(self, lab: Lab) -> None:
        settings.write_manifests(lab, SHAPE)
        self.folder = lab.manifests("east")
        self.kubelet = fake_kubelet.FakeKubelet(lab)

    def names(self, cluster: str = "east") -> list[str]:
        """Names of the pods that are to run, after two looks at files that rest."""
        for path in self.folder.parent.rglob("*.*"):
            os.utime(path, (1, 1))
        self.kubelet.wanted()
        return sorted(pod.name for pod in self.kubelet.wanted() if pod.cluster == cluster)


SHOWN = ["client-1", "client-2", "client-3", "web-1", "web-2", "web-3"]
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "more", "namespace": "shop"},
    "spec": {"nodeName": "east-1", "containers": [{"command": ["sleep", 5]}]},
}


def test_the_kubelet_keeps_the_pods_of_a_file_that_broke(lab: Lab) -> None:
    pods = Pods(lab)
    assert pods.names() == SHOWN
    (pods.folder / "pod-web-1.yaml").write_text("kind: [")
    assert pods.names() == SHOWN
    (pods.folder / "pod-web-1.yaml").unlink()
    assert pods.names() == [name for name in SHOWN if name != "web-1"]


@pytest.mark.parametrize("kind", ["List", "PodList"])
def test_the_kubelet_reads_lists_json_and_subfolders_as_the_agents_do(lab: Lab, kind: str) -> None:
    pods = Pods(lab)
    (pods.folder / "sub").mkdir()
    item = dict(POD) if kind == "List" else {k: POD[k] for k in ("metadata", "spec")}
    document = {"apiVersion": "v1", "kind": kind, "items": [item]}
    (pods.folder / "sub/more.json").write_text("\ufeff" + json.dumps(document))
    assert pods.names() == sorted([*SHOWN, "more"])


def test_the_kubelet_runs_no_pod_that_has_no_node_or_has_ended(lab: Lab) -> None:
    pods = Pods(lab)
    path = pods.folder / "more.json"
    path.write_text(json.dumps(POD | {"spec": {"containers": [{"command": ["sleep"]}]}}))
    assert pods.names() == SHOWN
    path.write_text(json.dumps(POD | {"status": {"phase": "Failed"}}))
    assert pods.names() == SHOWN
    path.write_text(json.dumps(POD))
    assert pods.names() == sorted([*SHOWN, "more"])


def test_a_number_that_the_kernel_reused_is_not_ours() -> None:
    mine = processes.Process("h", "agent", (), "", pid=1, born=processes.born(1) or 0)
    assert processes.is_alive(mine)
    assert not processes.is_alive(dataclasses.replace(mine, born=mine.born + 1))


@pytest.mark.parametrize(("bins", "longest"), [([1, 1], 0), ([0, 0, 1, 0], 2), ([], 0)])
def test_the_longest_stand_still_is_counted_in_seconds(bins: list[int], longest: int) -> None:
    assert probe.longest_zero(bins) == longest


def test_exec_loads_nothing_that_it_does_not_need() -> None:
    """Tests and scripts call it hundreds of times: 0.05 s instead of 0.4 s."""
    code = "import sys\nfrom mesh import cli\ncli.main(['lab', 'exec', 'nowhere', 'true'])\n"
    code += "print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nowhere: no such host or pod" in said.stderr
    assert not {"numpy", "grpc", "cryptography", "msgspec", "yaml"} & {*said.stdout.split()}


def test_a_cluster_beside_has_pods_by_the_plugin(lab: Lab) -> None:
    """Every reader takes what is written, and each node has networks of its own."""
    shape = topology.load(places.TOPOLOGY.with_name("topology-beside.yaml"))
    east, west = shape.clusters
    assert (east.mode, west.mode) == ("beside", "whole")
    networks = [net for node in east.nodes for net in bridge.subnets(east, node)]
    assert len(set(networks)) == 4
    settings.write_manifests(lab, shape)
    folder = Manifests(lab.manifests("east"), "east", interval_s=0.01, kinds=KINDS)
    objects = asyncio.run(_read(folder))
    assert not objects.findings.rows
    given = {net for node in objects[NODES].rows.values() for net in node.given}
    assert given == set(networks)


def test_a_pods_addresses_are_written_into_its_status(lab: Lab) -> None:
    settings.write_manifests(lab, SHAPE)
    addresses = ip_address("10.244.16.2"), ip_address("fd44::2")
    bridge.report(lab.manifests("east") / "pod-web-1.yaml", addresses)
    folder = Manifests(lab.manifests("east"), "east", interval_s=0.01, kinds=KINDS)
    objects = asyncio.run(_read(folder))
    reported = {key.name: pod.reported for key, pod in objects[PODS].rows.items()}
    assert reported["web-1"] == addresses
    assert reported["web-2"] == ()
