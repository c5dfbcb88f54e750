"""Files that cannot be written, folders that cannot be read: findings, and nothing else changes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import pytest

from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.remote.known import KnownClusters
from clustermesh.store import allocator as claims
from clustermesh.store import leading
from clustermesh.store.allocator import Allocator
from clustermesh.store.claims import encode_number
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.leader import Deposed, Fence
from clustermesh.store.leading import PodSnapshot
from clustermesh.store.own import Own
from gateway.agent import permutation_key
from mesh.agent import Agent, Features
from mesh.config import load_agent
from mesh.core.model import PodEntry, PodRef
from mesh.kernel import Kernel
from mesh.nodes.uplink import Facts

AGENT = """
cluster: {{name: east, id: 1}}
node: east-1
manifests: {place}
etcd: {{endpoints: ["http://127.0.0.1:1"]}}
bpffs: {place}
cgroup: {place}
uplink: uplink
services: {{kubeProxy: false}}
socket: {place}/socket
podNetns: {place}/netns/{{cluster}}-{{namespace}}_{{name}}
stateDir: {place}
"""


class Standby:
    """Somebody else leads."""

    def current(self) -> Fence:
        raise Deposed("stands by")


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A folder that nobody can make: a file has its name."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "folder"


async def soon(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not fact():
            await asyncio.sleep(0)


def allocator(path: Path) -> Allocator:
    return Allocator(Client(EtcdAddress(("127.0.0.1:1",))), "east", ("identity",), Standby(), path)


def test_claims_that_cannot_be_written_down_stop_no_controller(tmp_path: Path) -> None:
    it = allocator(tmp_path / "folder" / "claims.json")
    (tmp_path / "folder").write_text("")
    asyncio.run(it.save())
    assert os.strerror(errno.EEXIST) in it.problem


def test_a_standby_writes_down_what_its_leader_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the one that a replaced store gets its numbers back from."""
    monkeypatch.setattr(claims, "SNAPSHOT_S", 0)
    path = tmp_path / "claims.json"

    async def run() -> None:
        it = allocator(path)
        keeping = asyncio.create_task(it.keep())
        key = "meshgate/v1/east/identity/labels/number/65537"
        it.observe(Batch(7, [Entry(key, encode_number("k8s:app=web;"), 7, 7, 0)], listed=True))
        await soon(path.exists)
        keeping.cancel()
        await asyncio.wait({keeping})
        assert allocator(path).claims == it.claims

    asyncio.run(run())


def test_pods_that_cannot_be_written_down_stop_no_controller(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leading, "SNAPSHOT_S", 0)
    own = Own("east")
    own.pods.replace({PodRef("east-1", "shop", "web-1"): PodEntry((), "x")})

    async def run() -> None:
        snapshot = PodSnapshot(nowhere / "pods.json", "east", own)
        running = asyncio.create_task(snapshot.run())
        await soon(lambda: snapshot.problem)
        nowhere.parent.unlink()
        await soon(lambda: not snapshot.problem)
        assert (nowhere / "pods.json").exists()
        running.cancel()

    asyncio.run(run())


def test_peers_that_cannot_be_written_down_stop_no_agent(nowhere: Path) -> None:
    known = KnownClusters(nowhere / "peers.json")
    known.write("one", ["west"])
    assert os.strerror(errno.ENOTDIR) in known.problem
    nowhere.parent.unlink()
    known.write("one", ["west"])
    assert known.problem == ""
    assert KnownClusters(nowhere / "peers.json").clusters == ("west",)


def test_a_folder_of_namespaces_that_cannot_be_read_unwires_no_pod(tmp_path: Path) -> None:
    folder, path = tmp_path / "netns", tmp_path / "agent.yaml"
    path.write_text(AGENT.format(place=tmp_path))

    async def run() -> None:
        it = Agent(load_agent(path), cast("Kernel", None))
        facts = Facts(7, 1500, IPv4Address("10.99.0.11"))
        it.features = Features(it.config, facts, it.objects, it.kernel)
        namespaces = it.features.pods.namespaces
        watching = asyncio.create_task(it.namespaces.run(namespaces, 0.001))
        await soon(lambda: namespaces.synced)
        folder.mkdir()
        (folder / "east-shop-web-1").write_text("")
        await soon(lambda: namespaces.rows)
        folder.rename(tmp_path / "away")
        folder.write_text("")
        await soon(lambda: "D606" in {finding.code for finding in it.findings()})
        assert set(namespaces.rows) == {str(folder / "east-shop-web-1")}
        watching.cancel()
        await it.features.store.client.aclose()

    asyncio.run(run())


def test_an_empty_key_file_is_replaced(tmp_path: Path) -> None:
    """After a power cut; the agent would otherwise never start again."""
    path = tmp_path / "state" / "permutation-key"
    key = permutation_key(path)
    assert permutation_key(path) == key
    path.write_text("")
    assert permutation_key(path) == permutation_key(path)
