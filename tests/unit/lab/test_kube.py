"""The pure parts of the bed: topology, credentials, configurations, plans, images, builds."""

import io
import json
import os
import tarfile
from dataclasses import asdict
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from clustermesh.certs import names_of, validity_of
from mesh.lab import fabric, network, places
from mesh.lab.kube import builds, cgroups, configs, credentials, init, node, oci, topology
from mesh.lab.kube.init import Plan, Service
from mesh.lab.places import Lab, LabError

SHAPE = topology.load(places.KUBE_TOPOLOGY)
CLUSTER = SHAPE.clusters[0]
CONTROL, WORKER = CLUSTER.nodes[:2]
PATHS = configs.Paths(Path("/bed/n"), Path("/bed/secrets"), "/mgk/n")


def changed(tmp_path: Path, *pairs: tuple[str, str]) -> Path:
    text = places.KUBE_TOPOLOGY.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "changed.yaml"
    path.write_text(text)
    return path


def test_the_hosts_are_the_nodes_and_those_of_every_lab() -> None:
    assert network.hosts(SHAPE) == ["east-cp", "east-1", "east-2", *fabric.FIXED_HOSTS]
    assert CLUSTER.control_plane.name == "east-cp"
    assert (str(CLUSTER.api_service), str(CLUSTER.dns)) == ("10.96.0.1", "10.96.0.10")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("cni: bridge", "cni: flannel", "clusters[0].cni"),
        ("proxy: nftables", "proxy: ipvs", "clusters[0].proxy"),
        (", controlPlane: true", "", "clusters[0].nodes: one node needs `controlPlane: true`"),
        ("name: east-1", "name: east-12345678901", "nodes[1].name: east-12345678901 has more than"),
        ("10.244.0.0/16", "10.244.0.0/23", "podCIDRs[0]: 10.244.0.0/23 has no /24 for each node"),
        ('[10.96.0.0/16, "fd96::/108"]', "[10.96.0.0/16]", "services: need the families"),
        ("172.30.0.12", "172.31.0.12", "host east-1.addresses: 172.31.0.12 is outside"),
        ("name: east-2", "name: etcd", "etcd is used twice"),
    ],
)
def test_a_wrong_topology_names_its_field(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(fabric.TopologyError) as caught:
        topology.load(changed(tmp_path, (old, new)))
    assert words in str(caught.value)


def test_credentials_serve_every_name_and_are_kept(tmp_path: Path) -> None:
    lab = Lab("unit", tmp_path, tmp_path / "cgroup")
    credentials.write(lab, CLUSTER)
    place = credentials.folder(lab, CLUSTER)
    served = names_of((place / "apiserver.crt").read_bytes())
    wanted = {"172.30.0.11", "fd30::11", "10.96.0.1", "fd96::1", "127.0.0.1", "kubernetes.default"}
    assert wanted <= set(served)
    client = validity_of((place / "kube-apiserver-kubelet-client.crt").read_bytes())
    assert client.name == "'kube-apiserver-kubelet-client'"
    rows = [line.split(",") for line in (place / "tokens.csv").read_text().splitlines()]
    by_user = {row[1]: row for row in rows}
    assert by_user["system:node:east-1"][3] == '"system:nodes"'
    assert len({row[0] for row in rows}) == len(rows) == 8
    found = yaml.safe_load(credentials.kubeconfig(lab, CLUSTER, "east-1").read_text())
    assert found["users"][0]["user"]["token"] == by_user["system:node:east-1"][0]
    assert found["clusters"][0]["cluster"]["server"] == "https://172.30.0.11:6443"
    before = (place / "tokens.csv").read_text()
    credentials.write(lab, CLUSTER)
    assert (place / "tokens.csv").read_text() == before


def test_only_the_control_plane_runs_the_api_server_before_its_kubelet() -> None:
    names = [service.name for service in configs.services(CLUSTER, CONTROL, PATHS, ())]
    assert names == [
        *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
        *("containerd", "kubelet", "kube-proxy"),
    ]
    archives = [Path("/kept/pause-1.tar")]
    worker = configs.services(CLUSTER, WORKER, PATHS, archives)
    assert [one.name for one in worker] == ["containerd", "import-pause-1", "kubelet", "kube-proxy"]
    assert [one.name for one in worker if one.once] == ["import-pause-1"]
    kubelet = worker[2].argv
    assert kubelet[kubelet.index("--node-ip") + 1] == "172.30.0.12,fd30::12"


def test_a_cluster_without_proxy_or_second_family_runs_none(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        ("proxy: nftables", "proxy: none"),
        ('podCIDRs: [10.244.0.0/16, "fd24::/48"]', "podCIDRs: [10.244.0.0/16]"),
        ('services: [10.96.0.0/16, "fd96::/108"]', "services: [10.96.0.0/16]"),
    )
    cluster = topology.load(path).clusters[0]
    found = configs.services(cluster, cluster.nodes[1], PATHS, ())
    assert [one.name for one in found] == ["containerd", "kubelet"]
    assert "172.30.0.12" in found[1].argv
    assert "proxy.yaml" not in configs.files(cluster, cluster.nodes[1], PATHS)


def test_taints_of_the_topology_stand_from_the_start(tmp_path: Path) -> None:
    text = "proxy: nftables\n    taints: ['meshgate.io/agent-not-ready=:NoSchedule']"
    cluster = topology.load(changed(tmp_path, ("proxy: nftables", text))).clusters[0]
    own = {"key": "meshgate.io/agent-not-ready", "value": "", "effect": "NoSchedule"}
    control = {"key": "node-role.kubernetes.io/control-plane", "value": "", "effect": "NoSchedule"}
    texts = [configs.files(cluster, node, PATHS)["kubelet.yaml"] for node in cluster.nodes]
    kubelets = [yaml.safe_load(text) for text in texts]
    assert [one["registerWithTaints"] for one in kubelets] == [[own, control], [own], [own]]
    assert {one["cgroupRoot"] for one in kubelets} == {"/mgk/n"}


def test_the_bridge_of_a_node_has_its_own_pod_cidrs_and_others_a_route() -> None:
    cidrs = [ip_network("10.244.1.0/24"), ip_network("fd24:0:0:1::/64")]
    tree = json.loads(configs.bridge_conflist(cidrs, 1500))
    ranges = tree["plugins"][0]["ipam"]["ranges"]
    assert ranges == [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd24:0:0:1::/64"}]]
    assert [plugin["type"] for plugin in tree["plugins"]] == ["bridge", "portmap"]
    assert configs.pod_routes(cidrs, WORKER) == [
        "route replace 10.244.1.0/24 via 172.30.0.12",
        "route replace fd24:0:0:1::/64 via fd30::12",
    ]


def test_a_plan_is_read_as_it_was_written() -> None:
    binds = (("/bed/n/cni", "/var/lib/cni"),)
    plan = Plan("n", "/bed/n", binds, (Service("a", ("b", "c"), once=True),), "/bin")
    assert init.read(json.dumps(asdict(plan))) == plan


def test_the_root_of_a_node_is_shared_after_everything_is_mounted() -> None:
    commands = init.mounts(Path("/bed/n"), [("/bed/n/cni", "/var/lib/cni")])
    assert commands[-1] == ["mount", "--make-rshared", "/"]
    targets = [command[-1] for command in commands]
    assert targets.index("/sys") < targets.index("/sys/fs/cgroup") < targets.index("/sys/fs/bpf")
    assert targets.index("/run") < targets.index("/var/lib/cni")


def test_a_folder_below_run_is_made_where_a_bind_leads() -> None:
    """/run of a node is empty until then, and its cgroup2 tree is seen there."""
    (bind,) = (
        one
        for one in init.mounts(Path("/bed/n"), [("/cg/n", "/run/cgroup2")])
        if one[-1] == "/run/cgroup2"
    )
    assert bind[:3] == ["mount", "--mkdir", "--bind"]


def test_a_service_is_found_by_its_number_in_the_node() -> None:
    """Without a pid namespace between, both numbers are the same."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        found = init.outer_pids(os.getpid(), {"sleeper": child, "ended": 1})
    finally:
        os.close(writer)
        os.waitpid(child, 0)
    assert found == {"sleeper": child}


def test_equal_trees_make_equal_images(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    files: dict[str, oci.Entry] = {"/bin/sh": program, "/bin/ls": oci.Link("sh"), "/etc/x": "y\n"}
    image = oci.Image(("registry.test/a:1", "b:2"), files | {"/tmp": None}, ("/bin/sh",))  # noqa: S108
    found = oci.archive(image)
    assert found == oci.archive(image)
    with tarfile.open(fileobj=io.BytesIO(found)) as tar:
        read = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    index = json.loads(read["index.json"])
    names = [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]]
    assert names == ["registry.test/a:1", "b:2"]
    blob = index["manifests"][0]["digest"].replace(":", "/")
    manifest = json.loads(read[f"blobs/{blob}"])
    layer = read["blobs/" + manifest["layers"][0]["digest"].replace(":", "/")]
    assert len(layer) == manifest["layers"][0]["size"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getnames() == ["bin", "bin/ls", "bin/sh", "etc", "etc/x", "tmp"]
        assert tar.getmember("bin/ls").linkname == "sh"


def test_the_groups_of_both_versions_are_trees() -> None:
    text = "cgroup /c/cpu cgroup rw,cpu 0 0\ntmpfs /c tmpfs rw 0 0\ncgroup2 /c/two cgroup2 rw 0 0\n"
    assert cgroups.trees(text) == [Path("/c/cpu"), Path("/c/two")]


def test_every_program_is_pinned_and_built_by_one_module() -> None:
    names = [name for module in builds.ALL for name in module.packages]
    assert len(names) == len(set(names))
    for module in builds.ALL:
        assert module.version().startswith("v")
        assert (module.directory / "go.sum").exists()


def test_programs_of_a_module_are_built_by_one_command() -> None:
    (command,) = builds.commands(builds.CONTAINERD, ["containerd", "ctr"], Path("/fresh"))
    module = builds.CONTAINERD.pinned
    assert command[:2] == ["go", "build"]
    assert command[-2:] == [f"{module}/cmd/containerd", f"{module}/cmd/ctr"]
    assert f"Version={builds.CONTAINERD.version()[1:]}" in command[4]
    (test,) = builds.commands(builds.SUITE, ["e2e.test"], Path("/fresh"))
    assert test[:3] == ["go", "test", "-c"]
    major, minor = builds.SUITE.version()[1:].split(".")[:2]
    assert f".gitMajor={major} " in test[6]  # without the minor one the API server panics
    assert f".gitMinor={minor} " in test[6]


def test_a_module_that_is_not_required_is_an_error() -> None:
    text = "module a\n\nrequire (\n\tb.c/d v1.2.3\n\tb.c/e v0.1.0 // indirect\n)\n"
    assert builds.pinned_version(text, "b.c/d") == "v1.2.3"
    assert builds.pinned_version(text, "b.c/e") == "v0.1.0"
    with pytest.raises(LabError, match=r"does not require b\.c/f"):
        builds.pinned_version(text, "b.c/f")


def test_the_beds_of_the_suites_are_topologies() -> None:
    beds = Path(__file__).parents[2] / "e2e" / "beds"
    shapes = [topology.load(path) for path in sorted(beds.glob("*.yaml"))]
    found = {cluster.cni for shape in (*shapes, SHAPE) for cluster in shape.clusters}
    assert found == {"none", "bridge", "kube-router"}


def test_kube_router_fills_in_a_conflist_that_is_there(tmp_path: Path) -> None:
    path = changed(tmp_path, ("cni: bridge", "cni: kube-router"))
    cluster = topology.load(path).clusters[0]
    service = configs.services(cluster, cluster.nodes[1], PATHS, ())[-1]
    assert service.name == "kube-router"
    settings = [word for word in service.argv if word.startswith("KUBE_ROUTER_CNI_CONF_FILE=")]
    assert settings == ["KUBE_ROUTER_CNI_CONF_FILE=/etc/cni/net.d/10-kuberouter.conflist"]
    lab = Lab("unit", tmp_path / "bed", tmp_path / "cgroup")
    node.prepare(lab, cluster, cluster.nodes[1], (), {})
    written = lab.host_run("east-1") / "etc-cni" / "net.d" / "10-kuberouter.conflist"
    assert json.loads(written.read_text())["plugins"][0]["ipam"] == {"type": "host-local"}
