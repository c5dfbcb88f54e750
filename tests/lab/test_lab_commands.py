"""The lab's commands, as others script against them."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import yaml
from running import Lab, wait

CONTROLLERS = ("controller", "controller2")
HOSTS = {
    *("east-1", "east-2", "east-3", "west-1", "west-2", "west-3"),
    *("router", "firewall", "legacy", "etcd"),
    *("pe", "pe-blue", "pe-green", "blue", "green"),
}


def test_show_names_hosts_users_manifests_and_the_legacy_server(lab: Lab) -> None:
    shown = lab.shown
    assert set(shown) == {
        "hosts", "etcd", "manifests", "egress", "legacy", "vtySocketDir", "tenants", "feed",
    }  # fmt: skip
    assert set(shown["hosts"]) == HOSTS
    assert set(shown["hosts"]["east-1"]) == {"netns", "bpffs", "cgroup", "addresses"}
    nodes = [(c, f"{c}-{n}") for c in ("east", "west") for n in (1, 2, 3)]
    assert set(shown["etcd"]["users"]) == {
        *(f"{c}:{role}:{node}" for c, node in nodes for role in ("node", "speaker")),
        *(f"{c}:controller:{c}-1-{one}" for c in ("east", "west") for one in CONTROLLERS),
        "east:feed:east-1-feed",
        "root",
    }
    assert shown["feed"]["url"] == "https://10.99.0.11:8443/feeds/"
    assert {"ca", "user", "password", "groups", "firewallSync"} <= set(shown["feed"])
    assert all(Path(directory).is_dir() for directory in shown["manifests"].values())
    assert set(shown["legacy"]) == {"addresses", "further", "tcp", "udp", "closed", "log"}
    assert {row["gateway"] for row in shown["egress"]} == {"east-2", "west-2"}


def test_show_lists_the_pods_for_people(lab: Lab) -> None:
    """By the names that ``exec`` takes."""
    pods = yaml.safe_load(lab.run("lab", "show").stdout)["pods"]
    assert {
        f"{c}/shop/{app}-{n}"
        for c in ("east", "west")
        for app in ("web", "client")
        for n in (1, 2, 3)
    } == set(pods)


def test_every_process_is_listed_once(lab: Lab) -> None:
    names = set(lab.processes())
    nodes = {host for host in HOSTS if host[:4] in ("east", "west")}
    wanted = {f"{n}/{role}" for n in nodes for role in ("agent", "speaker", "exabgp", "relay")}
    wanted |= {"east-1/controller", "west-1/controller", "east-1/feed"}
    wanted |= {"etcd/etcd", "router/zebra", "router/bgpd", "router/bfdd"}
    wanted |= {"pe/zebra", "pe/bgpd", "pe/fake_pe"}
    assert names == wanted


def test_exec_passes_input_output_and_status(lab: Lab) -> None:
    answer = lab.run("lab", "exec", "east-1", "sh", "-c", "cat; echo bad >&2; exit 7", text="word")
    assert (answer.stdout, answer.stderr, answer.returncode) == ("word", "bad\n", 7)


def test_exec_passes_signals(lab: Lab) -> None:
    child = lab.start("east-1", "sleep", "60")
    wait(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", 5, "sleep runs")
    child.send_signal(signal.SIGTERM)
    assert child.wait(5) == -signal.SIGTERM


def test_exec_runs_in_the_namespace_and_cgroup_of_a_pod(lab: Lab) -> None:
    links = json.loads(lab.output("east/shop/client-1", "ip", "-j", "link"))
    assert {link["ifname"] for link in links} == {"lo", "eth0"}
    cgroup = lab.output("east/shop/client-1", "cat", "/proc/self/cgroup")
    assert f"/{lab.environment['MESHGATE_LAB']}/east-1/pod-shop-client-1" in cgroup


def test_an_unknown_host_is_named(lab: Lab) -> None:
    answer = lab.run("lab", "exec", "north-1", "true")
    assert answer.returncode == 1
    assert "north-1: no such host or pod" in answer.stderr


def test_a_second_up_finds_the_first(lab: Lab) -> None:
    topology = Path(lab.environment["MESHGATE_RUN"]) / "topology.yaml"
    answer = lab.run("lab", "up", "--file", topology)
    assert answer.returncode == 0, answer.stdout
    assert "is up already" in answer.stdout


def test_a_process_is_stopped_and_started_again(lab: Lab) -> None:
    before = lab.processes()["west-2/agent"]
    assert lab.run("lab", "stop", "west-2/agent").returncode == 0
    assert "west-2/agent" not in lab.processes()
    assert "does not run" in lab.run("lab", "stop", "west-2/agent").stderr
    assert lab.run("lab", "start", "west-2/agent").returncode == 0
    assert lab.processes()["west-2/agent"] != before
    wait(lab.healthy, 20, "healthy again")


def test_a_second_controller_can_be_started_and_is_a_standby(lab: Lab) -> None:
    assert lab.run("lab", "start", "east-1/controller2").returncode == 0
    try:
        wait(lambda: "east-1/controller2" in lab.processes(), 5, "it runs")
        time.sleep(1)  # time to do harm
        wait(lab.healthy, 20, "still healthy")
    finally:
        lab.run("lab", "stop", "east-1/controller2")


def test_a_manifest_makes_a_pod_and_its_end_removes_it(lab: Lab) -> None:
    directory = Path(lab.shown["manifests"]["west"])
    text = (directory / "pod-web-1.yaml").read_text()
    (directory / "pod-late-1.yaml").write_text(text.replace("name: web-1", "name: late-1"))
    namespace = Path(f"/run/netns/{lab.environment['MESHGATE_LAB']}-west_shop_late-1")
    wait(lambda: any(row["name"] == "late-1" and row["addresses"] for row in lab.table("pod")), 10,
         "the pod has addresses")  # fmt: skip
    address = lab.pod("west/shop/late-1")["addresses"][0]
    curl = ("curl", "-s", "-m", "2", f"http://{address}:8080/")
    wait(lambda: "web-1" in lab.exec("east/shop/client-1", *curl).stdout, 10, "it answers")
    (directory / "pod-late-1.yaml").unlink()
    wait(lambda: not namespace.exists(), 10, "its namespace is gone")
    wait(lambda: all(row["name"] != "late-1" for row in lab.table("pod")), 10, "its row is gone")
