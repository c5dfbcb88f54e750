"""Beside another CNI: a chained ADD returns when the agent has found the pod and covers it.

The other CNI is the test: it makes a veth into each sandbox, and gives addresses. All else is real
(``runtime.py``). The status of the pods' objects has no address, as long as no container runs.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.runtime import Node, Said, running, wait

OTHERS = {"cniVersion": "1.0.0", "name": "kube", "plugins": [{"type": "other"}]}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp("chained"), "beside") as made:
        yield made


def ip(space: Path, *words: str) -> None:
    subprocess.run(["ip", "-n", space.name, *words], check=True)


def connected(node: Node, number: int) -> tuple[Path, str, dict[str, Any]]:
    """A sandbox as the other CNI leaves it; its host end, and the result."""
    space, device = node.sandbox(), f"cali{number}"
    addresses = [f"10.244.1.{number}/24", f"fd44::{number}/64"]
    end = ("peer", "name", "eth0", "netns", space.name)
    ip(node.space, "link", "add", device, "type", "veth", *end)
    for one in addresses:
        ip(space, "addr", "add", one, "dev", "eth0", *(["nodad"] if ":" in one else []))
    ip(space, "link", "set", "eth0", "up")
    ip(node.space, "link", "set", device, "up")
    result = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": device}, {"name": "eth0", "sandbox": str(space)}],
        "ips": [{"address": one, "interface": 1} for one in addresses],
    }
    return space, device, result


def call(node: Node, command: str, space: Path, pod: str, result: dict[str, Any]) -> Said:
    config = node.config("1.0.0", name="kube", prevResult=result)
    return node.call(command, space, f"c-{pod}", pod=pod, config=config)


def ifindex(node: Node, device: str) -> int:
    return int(node.ip(node.space, "link", "show", "dev", device)[0]["ifindex"])


@pytest.mark.parametrize(("number", "app"), [(5, "client"), (6, "web")])
def test_an_add_returns_when_the_pods_rows_are_there(node: Node, number: int, app: str) -> None:
    space, device, result = connected(node, number)
    node.pod(f"pod-{number}", app)
    said = call(node, "ADD", space, f"pod-{number}", result)
    assert said.status == 0, f"{said.text}\n{node.log('agent')}"
    assert said.row == result
    rows = node.rows()
    for address in (f"10.244.1.{number}", f"fd44::{number}"):
        assert rows[address]["ifindex"] == ifindex(node, device)
        assert bool(rows[address]["egress_class"]) == (app == "client"), "its policy covers it"
    assert f"pod-{number}" in node.entries()
    assert node.devices() == {}, "no device is ours"
    assert call(node, "CHECK", space, f"pod-{number}", result).status == 0, (
        "no default route needed"
    )
    ip(space, "addr", "del", f"10.244.1.{number}/24", "dev", "eth0")
    said = call(node, "CHECK", space, f"pod-{number}", result)
    assert (said.code, f"address 10.244.1.{number}" in said.text) == (101, True)
    assert call(node, "DEL", space, f"pod-{number}", result).status == 0
    wait(lambda: f"10.244.1.{number}" not in node.rows(), 10, "the rows have gone")
    assert node.ip(node.space, "link", "show", "dev", device), "the other CNI takes it away"


def test_addresses_that_come_after_the_namespace_are_seen(node: Node) -> None:
    """The agent has looked into the namespace before the other CNI was there."""
    space = node.sandbox()
    node.pod("late", "client")
    wait(lambda: node.call("STATUS").status == 0, 10, "ready")
    subprocess.run(["sleep", "1"], check=True)
    ip(node.space, "link", "add", "cali9", "type", "veth", "peer", "name", "eth0",
       "netns", space.name)  # fmt: skip
    ip(space, "addr", "add", "10.244.1.9/32", "dev", "eth0")
    result = {
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": str(space)}],
        "ips": [{"address": "10.244.1.9/32", "interface": 0}],
    }  # fmt: skip
    said = call(node, "ADD", space, "late", result)
    assert said.status == 0, f"{said.text}\n{node.log('agent')}"
    assert node.rows()["10.244.1.9"]["egress_class"]
    assert call(node, "DEL", space, "late", result).status == 0


def test_an_add_names_what_is_missing_when_no_device_of_the_host_leads_to_the_pod(
    node: Node,
) -> None:
    space = node.sandbox()
    node.pod("inner", "client")
    ip(space, "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    ip(space, "addr", "add", "10.244.1.10/32", "dev", "eth0")
    result = {
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": str(space)}],
        "ips": [{"address": "10.244.1.10/32", "interface": 0}],
    }  # fmt: skip
    said = call(node, "ADD", space, "inner", result)
    assert said.code == 11
    assert "lacks this: its device" in said.text
    assert "10.244.1.10" not in node.rows()


def test_our_list_is_the_others_with_our_plugin(node: Node) -> None:
    (node.conf_dir / "10-kube.conflist").write_text(json.dumps(OTHERS))
    ours = node.conf_dir / "00-meshgate.conflist"
    wait(ours.exists, 5, "the list")
    found = json.loads(ours.read_text())
    assert found["name"] == "kube"
    assert [one["type"] for one in found["plugins"]] == ["other", "meshgate-cni"]
