"""An agent says nothing of fields that a kube-proxy, portmap or another CNI serves on its node."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import pytest

from mesh.agent import Agent, Features
from mesh.config import load_agent, load_controller, load_speaker
from mesh.controller import Controller
from mesh.kernel import Kernel
from mesh.nodes.uplink import Facts
from mesh.speaker import Speaker

COMMON = """
cluster: {name: east, id: 1}
manifests: PLACE/manifests
etcd: {endpoints: ["http://127.0.0.1:1"]}
socket: PLACE/socket
"""
AGENT = """
node: east-1
bpffs: PLACE
cgroup: PLACE
uplink: uplink
podNetns: PLACE/netns/{cluster}-{namespace}_{name}
stateDir: PLACE
"""
CONTROLLER = """
instance: a
stateDir: PLACE
pools: {podCIDRs: [{cidr: 10.1.0.0/16, nodePrefix: 24}]}
"""
SPEAKER = """
node: east-1
runDir: PLACE/bgp
exabgpUser: "1900000001"
"""
FOLDER = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: east-1, containers: [{name: web, ports: [{containerPort: 80, hostPort: 8080}]}]}
"""
PROXIED, MAPPED = {"spec.type", "spec.ports[].nodePort"}, {"spec.containers[].ports[].hostPort"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    file = tmp_path / "manifests" / "all.yaml"
    file.parent.mkdir()
    file.write_text(FOLDER)
    os.utime(file, (1.5, 1.5))  # it has rested
    return tmp_path


def config(place: Path, text: str) -> Path:
    path = place / "config.yaml"
    path.write_text((COMMON + text).replace("PLACE", str(place)))
    return path


async def unsupported(one: Agent | Controller | Speaker, count: int) -> set[str]:
    """Fields of findings M106, once the folder has been read."""
    jobs = [asyncio.create_task(job()) for job in one.sources.jobs().values()]
    async with asyncio.timeout(5):
        while len(one.sources.objects.findings.rows) < count:
            await asyncio.sleep(0)
    for job in jobs:
        job.cancel()
    return {finding.field for finding in one.findings() if finding.code == "M106"}


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("services: {kubeProxy: false}", PROXIED | MAPPED),
        ("services: {kubeProxy: true}", MAPPED),
        ("services: {kubeProxy: auto}", MAPPED),  # until the first look
        ("mode: beside", set()),
    ],
)
def test_an_agent_knows_what_its_node_has(place: Path, more: str, found: set[str]) -> None:
    async def run() -> set[str]:
        it = Agent(load_agent(config(place, AGENT + more)), cast("Kernel", None))
        it.features = Features(
            it.config, Facts(7, 1500, IPv4Address("10.99.0.11")), it.objects, it.kernel
        )
        try:
            return await unsupported(it, 3)
        finally:
            await it.features.store.client.aclose()

    assert asyncio.run(run()) == found


def test_who_knows_of_no_node_leaves_it_to_the_agents(place: Path) -> None:
    async def run() -> set[str]:
        leader = Controller(load_controller(config(place, CONTROLLER)))
        speaker = Speaker(load_speaker(config(place, SPEAKER)))
        try:
            return await unsupported(leader, 3) | await unsupported(speaker, 3)
        finally:
            await leader.client.aclose()
            await speaker.client.aclose()

    assert asyncio.run(run()) == set()
