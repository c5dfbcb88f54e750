"""The chart: every value has its rule, no process may do more than it must, files are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from bpf.privileges import User
from deploy.image.system import USERS
from mesh import feed
from mesh.config import (
    AgentConfig,
    ControllerConfig,
    FeedConfig,
    SpeakerConfig,
    load_agent,
    load_controller,
    load_feed,
    load_speaker,
)
from mesh.install import chart
from mesh.install.chart import FOLDER, ChartError, Rendered
from mesh.k8s import watches
from mesh.lab.confined import CAPABILITIES
from mesh.objects.kinds import KINDS
from mesh.speaker import READS

FILES = sorted(path.name for path in FOLDER.glob("values-*.yaml"))
KINDS_OF: Mapping[str, type[msgspec.Struct]] = {
    "agent": AgentConfig,
    "controller": ControllerConfig,
    "speaker": SpeakerConfig,
    "feed": FeedConfig,
}
LOADED = {
    "agent": load_agent,
    "controller": load_controller,
    "speaker": load_speaker,
    "feed": load_feed,
}
#: A wrong value for each field; the field is named.
WRONG = [
    ("cluster.name=East", "cluster.name"), ("cluster.name=", "cluster.name"),
    (f"cluster.name={'a' * 33}", "cluster.name"), ("cluster.id=0", "cluster.id"),
    ("cluster.id=256", "cluster.id"), ("cluster.id=x", "cluster.id"), ("mode=both", "mode"),
    ("image.repository=", "image.repository"), ("image.pullPolicy=Sometimes", "image.pullPolicy"),
    ("image.pullSecrets={a}", "image.pullSecrets"), ("kubernetes.host=10.0.0.1", "kubernetes.host"),
    ("overlayPort=70000", "overlayPort"), ("uplink=eth 0", "uplink"), ("hosts=vxlan", "hosts"),
    ("pools.podCIDRs={10.0.0.0/8}", "pools.podCIDRs"), ("pools.locators=x", "pools.locators"),
    ("masquerade.mode=yes", "masquerade.mode"), ("masquerade.ports=61000", "masquerade.ports"),
    ("masquerade.nonMasqueradeCIDRs={x}", "masquerade.nonMasqueradeCIDRs"),
    ("services.kubeProxy=maybe", "services.kubeProxy"), ("bgp.table=254", "bgp.table"),
    ("bgp.table=4294967296", "bgp.table"), ("datapath.xdp=maybe", "datapath.xdp"),
    ("srv6.domain={10.0.0.0/8}", "srv6.domain"),
    ("egress.blockSize=100", "egress.blockSize"),
    ("egress.blocksPerNode=33", "egress.blocksPerNode"), ("cni.confDir=etc", "cni.confDir"),
    ("cni.binDir=", "cni.binDir"), ("agentNotReadyTaint=x", "agentNotReadyTaint"),
    ("host.cgroupRoot=x", "host.cgroupRoot"), ("host.bpffs=1", "host.bpffs"),
    ("host.netns=", "host.netns"), ("host.stateDir=..", "host.stateDir"),
    ("host.runDir=run", "host.runDir"), ("agent.nodeSelector=x", "agent.nodeSelector"),
    ("agent.resources.request=1", "agent.resources.request"),
    ("agent.priorityClassName=High", "agent.priorityClassName"),
    ("agent.maxUnavailable=many", "agent.maxUnavailable"),
    ("agent.maxUnavailable=0", "agent.maxUnavailable"), ("agent.limits={x}", "agent.limits"),
    ("speaker.enabled=perhaps", "speaker.enabled"), ("speaker.image=7", "speaker.image"),
    ("speaker.nodeSelector.a=1", "speaker.nodeSelector"),
    ("feed.enabled=1", "feed.enabled"), ("feed.port=0", "feed.port"),
    ("feed.secret=", "feed.secret"), ("feed.clientCA=a/b", "feed.clientCA"),
    ("feed.firewalls={x}", "feed.firewalls"), ("feed.nodeSelector.a=1", "feed.nodeSelector"),
    ("controller.replicas=4", "controller.replicas"),
    ("controller.leaseSeconds=1", "controller.leaseSeconds"),
    ("controller.issuerPort=0", "controller.issuerPort"), ("etcd.enabled=1", "etcd.enabled"),
    ("etcd.port=0", "etcd.port"), ("etcd.peerPort=99999", "etcd.peerPort"),
    ("etcd.storageClassName=1", "etcd.storageClassName"),
    ("etcd.storageSize=big", "etcd.storageSize"), ("etcd.quotaBytes=-1", "etcd.quotaBytes"),
    ("etcd.external.endpoints={10.0.0.1:2379}", "etcd.external.endpoints"),
    ("etcd.external.secret=1", "etcd.external.secret"), ("certificateHours=0", "certificateHours"),
    ("clusterName=x", "clusterName"), ("agent.tolerations=x", "agent.tolerations"),
    ("etcd.enabled=false", "etcd.external"),
]  # fmt: skip


@cache
def rendered(file: str = "values-whole.yaml", *settings: str) -> Rendered:
    """With everything that is off by default."""
    return chart.render(chart.values_of([FOLDER / file], ["feed.enabled=true", *settings]))


def everything(found: Rendered) -> list[Any]:
    return [*found.objects, *(one for hooks in found.hooks.values() for one in hooks)]


def pods(found: Rendered) -> Iterator[tuple[str, Any]]:
    for one in everything(found):
        if one["kind"] in ("DaemonSet", "Deployment", "StatefulSet", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def containers(pod: Any) -> list[Any]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def rules(found: Rendered) -> Iterator[tuple[str, Any]]:
    for one in everything(found):
        for rule in one.get("rules", ()):
            yield one["metadata"]["name"], rule


def leaves(schema: Any, path: str = "") -> Iterator[str]:
    """Paths of the values that are no objects of fixed fields."""
    if "properties" not in schema or schema["type"] != "object":
        yield path
        return
    for name, inner in schema["properties"].items():
        yield from leaves(inner, f"{path}.{name}" if path else name)


def test_only_the_name_of_the_cluster_has_no_default() -> None:
    with pytest.raises(ChartError) as raised:
        chart.render(chart.values_of((), ()))
    assert str(raised.value) == "cluster.name: expected 1 to 32 of a-z, 0-9 and dash"
    assert chart.render(chart.values_of((), ["cluster.name=east"])).objects


def test_there_are_at_most_eighty_values_and_each_has_its_rule() -> None:
    values = chart.values_of((), ())
    schema = json.loads((FOLDER / "values.schema.json").read_text())
    ruled = set(leaves(schema)) - {"global"}
    given = set(keys(values, ruled))
    assert given <= ruled
    assert len(given) <= 80
    # Parts of resources that have no default.
    assert {one for one in ruled - given if "resources" not in one} == set()


def keys(values: Any, ends: set[str], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        place = f"{path}.{name}" if path else name
        inner = isinstance(value, dict) and place not in ends
        yield from keys(value, ends, place) if inner else [place]


@pytest.mark.parametrize(("setting", "field"), WRONG)
def test_a_wrong_value_is_refused_by_its_name(setting: str, field: str) -> None:
    with pytest.raises(ChartError) as raised:
        rendered("values-whole.yaml", setting)
    assert str(raised.value).startswith(field)


def test_a_typo_says_which_value_was_meant() -> None:
    with pytest.raises(ChartError, match=r"there is no such value; did you mean podCIDRs\?"):
        rendered("values-whole.yaml", "pools.podCidrs={}")


@pytest.mark.parametrize("file", FILES)
def test_no_rule_has_a_star_and_secrets_are_named(file: str) -> None:
    found = rendered(file, "agentNotReadyTaint=true")
    for name, rule in rules(found):
        assert "*" not in json.dumps(rule), name
        if "secrets" in rule["resources"]:
            assert rule.get("resourceNames"), name
        assert not {"pods/exec", "nodes/proxy", "serviceaccounts/token"} & set(rule["resources"])


def test_an_agent_reads_what_it_makes_rows_of_and_writes_nothing_but_its_node_and_report() -> None:
    found = list(rules(rendered("values-whole.yaml", "agentNotReadyTaint=true")))
    mine = [rule for name, rule in found if name == "meshgate-agent"]
    writes = {
        (*rule["resources"], *rule.get("resourceNames", ()), verb)
        for rule in mine
        for verb in rule["verbs"]
        if verb not in ("list", "watch")
    }
    assert writes == {("nodes", "patch"), ("configmaps", "meshgate-uninstalled", "patch")}
    without = list(rules(rendered()))
    assert not any("patch" in rule["verbs"] and "nodes" in rule["resources"] for _, rule in without)


READ = {
    "meshgate-agent": watches.of_agent(KINDS, "n1"),
    "meshgate-controller": watches.of_controller(KINDS),
    "meshgate-feed": watches.of_nouns(KINDS, feed.READS),
    "meshgate-speaker": watches.of_nouns(KINDS, READS),  # the Secret has a rule with its name
}


@pytest.mark.parametrize("account", READ)
def test_an_account_reads_what_its_process_reads_and_nothing_else(account: str) -> None:
    allowed = {
        f"{resource}.{group}".rstrip(".")
        for name, rule in rules(rendered())
        if name == account and "resourceNames" not in rule and "watch" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert allowed == {one.resource for one in READ[account]}


@pytest.mark.parametrize("file", FILES)
def test_only_the_init_container_of_the_agent_is_privileged(file: str) -> None:
    privileged = set()
    for name, pod in pods(rendered(file)):
        assert pod["hostNetwork"]
        assert pod["tolerations"] == [{"operator": "Exists"}]
        for one in containers(pod):
            context = one["securityContext"]
            assert context["readOnlyRootFilesystem"], one["name"]
            if context.get("privileged"):
                privileged.add((name, one["name"]))
                continue
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
    assert privileged == {("meshgate-agent", "prepare")}


@pytest.mark.parametrize("file", FILES)
def test_a_name_in_a_pod_stands_once_and_each_mount_has_its_volume(file: str) -> None:
    """The API server refuses a pod with two volumes, containers or mounts of one name."""
    for name, pod in pods(rendered(file)):
        volumes = [one["name"] for one in pod.get("volumes", ())]
        names = [one["name"] for one in containers(pod)]
        assert sorted(set(volumes)) == sorted(volumes), name
        assert sorted(set(names)) == sorted(names), name
        for one in containers(pod):
            mounts = one.get("volumeMounts", ())
            places = [mount["mountPath"] for mount in mounts]
            assert sorted(set(places)) == sorted(places), name
            assert {mount["name"] for mount in mounts} <= set(volumes), name


def test_agent_and_speaker_meet_in_one_kernel_table() -> None:
    found = rendered(
        "values-whole.yaml", "bgp.table=4200", "datapath.xdp=auto", "srv6.domain={2001:db8::/48}"
    )
    agent, speaker = (configuration(found, name) for name in ("agent", "speaker"))
    assert agent["bgp"] == speaker["bgp"] == {"table": 4200}
    assert agent["datapath"] == {"xdp": "auto"}
    assert agent["srv6"] == {"domain": ["2001:db8::/48"]}


def test_a_process_has_the_capabilities_of_its_unit() -> None:
    for name, pod in pods(rendered()):
        role = name.removeprefix("meshgate-")
        for one in containers(pod):
            if one["name"] == role and role in CAPABILITIES:
                added = one["securityContext"]["capabilities"].get("add", ())
                assert tuple(f"CAP_{right}" for right in added) == CAPABILITIES[role]


def test_pods_without_root_have_the_users_of_the_image() -> None:
    found = dict(pods(rendered()))
    user = USERS["meshgate-controller"]
    for name in ("meshgate-controller", "meshgate-feed", "meshgate-install", "meshgate-uninstall"):
        assert found[name]["securityContext"]["runAsUser"] == user


@pytest.mark.parametrize("file", FILES)
def test_an_upgrade_of_the_chart_alone_leaves_speakers_alone(file: str, tmp_path: Path) -> None:
    """With an image of its own the template is the same, whatever version the chart has."""
    other = tmp_path / "meshgate"
    other.mkdir()
    for path in FOLDER.iterdir():
        (other / path.name).symlink_to(path)
    (other / "Chart.yaml").unlink()
    text = (FOLDER / "Chart.yaml").read_text()
    (other / "Chart.yaml").write_text(text.replace("0.1.0", "0.2.0"))
    settings = ["speaker.image=meshgate:0.1.0"]
    values = chart.values_of([FOLDER / file], settings)
    before = chart.render(values)
    after = chart.render(values, folder=other)
    assert dict(pods(before))["meshgate-speaker"] == dict(pods(after))["meshgate-speaker"]
    assert dict(pods(before))["meshgate-agent"] != dict(pods(after))["meshgate-agent"]


def test_no_pod_needs_the_dns_or_a_service_address_of_the_cluster() -> None:
    found = rendered("values-whole.yaml", "kubernetes.host=https://192.0.2.1:6443")
    for _, pod in pods(found):
        assert pod["dnsPolicy"] == "Default"
    for name in ("agent", "controller", "speaker", "feed"):
        file = configuration(found, name)
        assert file["kubernetes"]["host"] == "https://192.0.2.1:6443"
    for name, pod in pods(found):
        calls = [str(one.get("command")) + str(one.get("args")) for one in containers(pod)]
        for one in calls:
            if "'meshgate', 'controller'" in one or "'meshgate'" not in one or "prepare" in one:
                continue  # these read their file, or ask no API server
            assert "--kubernetes-host=https://192.0.2.1:6443" in one, name


def configuration(found: Rendered, role: str) -> Any:
    for one in everything(found):
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == f"meshgate-{role}":
            return yaml.safe_load(one["data"][f"{role}.yaml"])
    raise AssertionError(role)


@pytest.mark.parametrize("role", ["agent", "controller", "speaker", "feed"])
@pytest.mark.parametrize("file", FILES)
def test_the_configuration_of_the_chart_is_read(
    file: str, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHGATE_NODE", "n1")
    monkeypatch.setenv("MESHGATE_INSTANCE", "n1")
    monkeypatch.setenv("MESHGATE_ETCD", "https://192.0.2.1:32379,https://192.0.2.2:32379")
    monkeypatch.setattr(User, "find", lambda _: User(65533, 65533))
    pools = ["pools.podCIDRs={}", "egress.blockSize=64"]
    found = configuration(rendered(file, *pools), role)
    for name in ("ca", "cert", "key"):
        assert Path(found["etcd"][name]).is_absolute()
        (tmp_path / name).touch()
        found["etcd"][name] = str(tmp_path / name)
    path = tmp_path / f"{role}.yaml"
    path.write_text(yaml.safe_dump(found))
    read: Any = LOADED[role](path)
    assert read.etcd.endpoints == ("https://192.0.2.1:32379", "https://192.0.2.2:32379")
    assert getattr(read, "node", "n1") == "n1"
    if role in ("agent", "controller"):
        assert read.egress.block_size == 64


@pytest.mark.parametrize(
    ("file", "mode", "port"),
    [("values-whole.yaml", "whole", 8472), ("values-beside.yaml", "beside", 8473)],
)
def test_the_overlay_has_the_port_of_its_mode(file: str, mode: str, port: int) -> None:
    found = configuration(rendered(file), "agent")
    assert (found["mode"], found["overlayPort"]) == (mode, port)
    assert ("masquerade" in found) == (mode == "whole")
    assert configuration(rendered(file, "overlayPort=9000"), "agent")["overlayPort"] == 9000


def test_values_of_the_user_come_over_those_of_the_chart(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("cluster: {name: a, id: 7}\nagent: {nodeSelector: {x: y}}\n")
    second.write_text("cluster: {name: b}\nagent: {resources: null}\n")
    values: Any = chart.values_of([first, second], ["egress.blocksPerNode=2", "uplink=eth1"])
    assert values["cluster"] == {"name": "b", "id": 7}
    assert values["agent"]["nodeSelector"] == {"x": "y"}
    assert "resources" not in values["agent"]
    assert (values["egress"]["blocksPerNode"], values["uplink"]) == (2, "eth1")


def test_objects_are_applied_before_what_needs_them() -> None:
    kinds = [str(one["kind"]) for one in rendered().objects]
    assert kinds.index("ServiceAccount") < kinds.index("ClusterRole") < kinds.index("DaemonSet")
    hooks = [str(one["kind"]) for one in rendered().hooks["pre-install"]]
    assert hooks[-1] == "Job"
    assert hooks.index("Role") < hooks.index("Job")
