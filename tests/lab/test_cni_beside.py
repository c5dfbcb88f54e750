"""Beside another CNI: the plugin takes the addresses of ``prevResult`` and hands it on as it came.

The room of pods is a fake here: the datapath beside another CNI has tests of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.cni.agent import CNIAgent
from mesh.cni.attachments import Attachments
from mesh.cni.frames import Frame
from mesh.cni.settings import CNISettings
from mesh.core.model import Connection, Pod, PodKey, Sandbox
from mesh.core.passes import Gate
from mesh.core.table import Table

WEB = PodKey("west", "shop", "web")


class FakeConnected:
    """Connects every attachment at once, with the addresses that it was given."""

    unready = ""

    def __init__(self, attachments: Attachments) -> None:
        self.attachments = attachments

    def listen(self, _: Callable[[], None]) -> None:
        """Nothing changes later."""

    def lacks(self, _: Sandbox) -> str:
        return ""

    def connection(self, key: Sandbox) -> Connection | None:
        return Connection("", "", "", 0, self.attachments.table.rows[key].addresses)

    def stands(self, _: Sandbox) -> bool:
        return False


@pytest.fixture
def space() -> Iterator[Path]:
    """What another CNI has made: a sandbox with ``eth0``."""
    path = Path("/run/netns") / f"mgb{os.getpid()}"
    subprocess.run(["ip", "netns", "add", path.name], check=True)
    link = ["link", "add", "eth0", "type", "veth", "peer", "name", "other"]
    try:
        for words in (link, ["addr", "add", "10.244.1.5/24", "dev", "eth0"]):
            subprocess.run(["ip", "-n", path.name, *words], check=True)
        yield path
    finally:
        subprocess.run(["ip", "netns", "del", path.name], check=True)


def add(agent: CNIAgent, space: Path, previous: Any, container: str = "c1") -> dict[str, Any]:
    environment = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_NETNS": str(space),
        "CNI_IFNAME": "eth0", "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
    }  # fmt: skip
    config = {"cniVersion": "1.0.0", "name": "kube", "type": "meshgate-cni"}
    if previous is not None:
        config["prevResult"] = previous
    frame = Frame(environment, json.dumps(config).encode())

    async def ask() -> bytes:
        agent.begin(Gate())
        return (await agent.answer(frame)).text

    return dict(json.loads(asyncio.run(ask())))


def test_the_result_of_the_other_is_handed_on_and_its_addresses_are_kept(
    tmp_path: Path, space: Path
) -> None:
    attachments = Attachments(tmp_path)
    attachments.load()
    pods: Table[PodKey, Pod] = Table("object")
    pods.upsert({WEB: Pod("west", "shop", "web", "west-1")})
    settings = CNISettings(socket=tmp_path / "s", conf_dir=tmp_path, bin_dir=tmp_path)
    connected = FakeConnected(attachments)
    agent = CNIAgent("west", settings, attachments, pods, connected, beside=True, add_s=0.2)
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": str(space), "x": 1}],
        "ips": [
            {"address": "10.244.1.5/24", "gateway": "10.244.1.1", "interface": 1},
            {"address": "10.9.9.9/24", "interface": 0},
        ],
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    assert add(agent, space, previous) == previous
    assert add(agent, space, previous) == previous
    row = next(iter(attachments.table.rows.values()))
    assert list(map(str, row.addresses)) == ["10.244.1.5"]
    for wrong in (None, {}, {**previous, "ips": [{"address": "10.244.1.x/24"}]}):
        said = add(agent, space, wrong, container="c2")
        assert said["code"] == 7, said
        assert "prevResult" in said["msg"]
