"""The reference client of CNI (libcni) reads our list and runs our plugin, as a runtime does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.runtime import Node, running, wait
from tests.tools.cnitool.build import cnitool

#: libcni keeps results below /var/lib/cni; ours are kept apart from the machine's.
_APART = 'mkdir -p /var/lib/cni && mount --bind "$1" /var/lib/cni && shift && exec "$@"'


class Tool:
    """cnitool on the list that the agent has written."""

    def __init__(self, node: Node, cache: Path) -> None:
        self.node, self.cache, self.program = node, cache, cnitool()

    def __call__(self, verb: str, space: Path, pod: str = "") -> subprocess.CompletedProcess[str]:
        settings = {
            "CNI_PATH": str(self.node.bin_dir),
            "NETCONFPATH": str(self.node.conf_dir),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod or 'none'}",
        }
        command = ["unshare", "--mount", "sh", "-ec", _APART, "sh", str(self.cache)]
        return subprocess.run(
            [*command, str(self.program), verb, "meshgate", str(space)],
            env={"PATH": os.environ["PATH"], **settings},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    with running(tmp_path_factory.mktemp("node")) as node:
        wait((node.conf_dir / "05-meshgate.conflist").exists, 10, "the list is written")
        yield Tool(node, tmp_path_factory.mktemp("cache"))


def test_every_command_by_the_list_that_the_agent_has_written(tool: Tool) -> None:
    node = tool.node
    node.pod("tooled")
    space = node.sandbox()
    assert tool("status", space).returncode == 0
    added = tool("add", space, "tooled")
    assert added.returncode == 0, added.stdout + added.stderr
    result = json.loads(added.stdout)
    assert result["cniVersion"] == "1.1.0"
    assert {one["address"] for one in result["ips"]} == node.addresses(space)
    assert tool("check", space, "tooled").returncode == 0
    again = tool("add", space, "tooled")
    assert json.loads(again.stdout)["ips"] == result["ips"]
    subprocess.run(["ip", "-n", space.name, "addr", "flush", "dev", "eth0"], check=True)
    checked = tool("check", space, "tooled")
    assert checked.returncode != 0
    assert "is not as ADD has made it" in checked.stdout + checked.stderr
    for _ in range(2):
        assert tool("del", space, "tooled").returncode == 0
    assert result["interfaces"][0]["name"] not in node.devices()
    refused = tool("check", space, "tooled")
    assert refused.returncode != 0


def test_gc_of_an_empty_set_deletes_by_del_alone(tool: Tool) -> None:
    """The tool sends no list, and a DEL for each result that it has kept."""
    node = tool.node
    kept, other = node.sandbox(), node.sandbox()
    for name in ("by-tool", "by-other"):
        node.pod(name)
    assert tool("add", kept, "by-tool").returncode == 0
    assert node.call("ADD", other, "c-other", pod="by-other").status == 0
    assert tool("gc", kept).returncode == 0
    assert not node.addresses(kept)
    assert node.addresses(other)
    node.call("DEL", other, "c-other")


def test_an_agent_that_is_away_is_told_by_status(tool: Tool) -> None:
    node = tool.node
    space = node.sandbox()
    node.kill("agent")
    away = tool("status", space)
    assert away.returncode != 0
    assert "does not answer" in away.stdout + away.stderr
    node.start("agent")
    wait(node.ready, 30, lambda: node.log("agent"))
    assert tool("status", space).returncode == 0
