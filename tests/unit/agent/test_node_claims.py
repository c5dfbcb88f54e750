"""What one node's certificate can write changes no row of others: in an agent and a controller."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clustermesh.remote import wire
from clustermesh.store.claims import encode_number, number_key
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import pod_key, pod_value
from mesh import agent, controller
from mesh.config import load_agent, load_controller
from mesh.core.address import packed
from mesh.core.model import (
    IP,
    ClaimKey,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
)
from mesh.core.reconcile import Loop
from mesh.identity.labels import identity_labels, namespace_of
from mesh.nodes.uplink import Facts
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES, PODS
from mesh.objects.tables import Objects

COMMON = """
cluster: {name: east, id: 1}
manifests: /nowhere
etcd: {endpoints: ["http://127.0.0.1:1"]}
socket: /nowhere
stateDir: /nowhere
"""
AGENT = f"""{COMMON}
node: east-2
bpffs: /nowhere
cgroup: /nowhere
uplink: uplink
services: {{kubeProxy: false}}
podNetns: /run/netns/{{cluster}}-{{namespace}}_{{name}}
"""
CONTROLLER = f"""{COMMON}
instance: a
pools:
  podCIDRs:
  - {{cidr: 10.1.0.0/16, nodePrefix: 24}}
  - {{cidr: "fd01::/48", nodePrefix: 64}}
"""
POOLS = ("10.1.0.0_16_24", "fd01::_48_64")
STORED = {"name": "east", "id": 1, "podCIDRs": POOLS, "locators": []}
WEB, ADMIN = (
    Pod("east", "shop", n, f"east-{i}", (("app", n),)) for i, n in ((2, "web"), (1, "db"))
)
TEXT = {pod.name: identity_labels(pod, namespace_of(pod, {})) for pod in (WEB, ADMIN)}
NUMBER = {"web": 65537, "db": 65538}


def entry(key: str, value: bytes) -> Entry:
    return Entry(key, value, 1, 1, 0)


def said(pod: str, node: str, *addresses: str, labels: str = "") -> Entry:
    """An entry as the node's certificate lets anybody write it."""
    row = PodEntry(tuple(map(ip_address, addresses)), labels or TEXT.get(pod, "k8s:app=x;"))
    return entry(pod_key("east", PodRef(node, "shop", pod)), pod_value(row))


class Process:
    """The features of an agent or a controller of a cluster with two nodes and two pods."""

    def __init__(self, features: Any, objects: Objects, own: Any) -> None:
        self.features, self._own, self.loop = features, own, Loop()
        for table in objects.tables().values():
            table.mark_synced()
        for n in (1, 2):
            key = NodeKey("east", f"east-{n}")
            addresses = (ip_address(f"10.99.0.{n}"), ip_address(f"fd99::{n}"))
            objects[NODES].upsert({key: Node("east", key.name, addresses)})
        objects[PODS].replace({PodKey("east", "shop", pod.name): pod for pod in (WEB, ADMIN)})
        features.derive(self.loop)
        claims = [
            entry(number_key("east", ClaimKey("podcidr", pool, n)), encode_number(f"east-{n}"))
            for n in (1, 2)
            for pool in POOLS
        ]
        claims += [
            entry(number_key("east", ClaimKey("identity", "labels", n)), encode_number(TEXT[name]))
            for name, n in NUMBER.items()
        ]
        claims.append(entry("meshgate/v1/east/config", msgspec.json.encode(STORED)))
        for pod in (WEB, ADMIN):
            key = f"meshgate/v1/east/confirmed/{pod.node}/shop/{pod.name}"
            claims.append(entry(key, msgspec.json.encode({"identity": NUMBER[pod.name]})))
        claims.append(entry("meshgate/v1/east/confirmed/synced", b"{}"))
        self.take(*claims)
        own.take(Batch(2, listed=True))
        own.synced()
        self.settle()

    def take(self, *puts: Entry, deletes: tuple[str, ...] = ()) -> None:
        self._own.take(Batch(1, list(puts), list(deletes)))
        self.settle()

    def settle(self) -> None:
        for _ in range(5):
            self.loop.derive_all()

    def identity(self, address: IP) -> int | None:
        """The identity that an address has here."""
        raise NotImplementedError


class AgentProcess(Process):
    def __init__(self, place: Path) -> None:
        path = place / "agent.yaml"
        path.write_text(AGENT)
        objects = Objects(KINDS.nouns)
        facts: Any = Facts(7, 1500, ip_address("10.99.0.2"), "uplink")
        kernel: Any = None
        features = agent.Features(load_agent(path), facts, objects, kernel)
        features.store.remote.expect(())
        super().__init__(features, objects, features.store.own)

    def identity(self, address: IP) -> int | None:
        row = self.features.identity.address.get(packed(address))
        return None if row is None else int(row["identity"])


class ControllerProcess(Process):
    def __init__(self, place: Path) -> None:
        path = place / "controller.yaml"
        path.write_text(CONTROLLER)
        objects = Objects(KINDS.nouns)
        features = controller.Features(load_controller(path), objects)
        features.foreign.take(Batch(1, listed=True))
        super().__init__(features, objects, features.own)

    def identity(self, address: IP) -> int | None:
        rows = self.features.publish.published[wire.ADDRESSES].rows
        value = rows.get(wire.address_key("east", address))
        return None if value is None else int(msgspec.json.decode(value)["ID"])


@pytest.fixture(params=[AgentProcess, ControllerProcess])
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Process:
    make: Callable[[Path], Process] = request.param
    return make(tmp_path)


FAMILIES = pytest.mark.parametrize(
    ("theirs", "mine", "legacy", "far"),
    [
        ("10.1.2.5", "10.1.1.5", "192.0.2.10", "8.8.8.8"),
        ("fd01:0:0:2::5", "fd01:0:0:1::5", "2001:db8:2::10", "2001:4860:4860::8888"),
    ],
    ids=["IPv4", "IPv6"],
)


@FAMILIES
def test_one_put_redirects_nothing_and_its_end_takes_nothing_away(
    process: Process, theirs: str, mine: str, legacy: str, far: str
) -> None:
    """Seen: it redirected web-2, a legacy host and a host of the world; then web-2 had no row."""
    process.take(said("web", "east-2", theirs))
    assert process.identity(ip_address(theirs)) == NUMBER["web"]
    thief = said("db", "east-1", mine, theirs, legacy, far)
    process.take(thief)
    now = {text: process.identity(ip_address(text)) for text in (theirs, mine, legacy, far)}
    assert now == {theirs: NUMBER["web"], mine: NUMBER["db"], legacy: None, far: None}
    process.take(deletes=(thief.key,))
    assert process.identity(ip_address(theirs)) == NUMBER["web"]
    assert process.identity(ip_address(mine)) is None


@FAMILIES
def test_labels_that_no_controller_has_given_the_pod_are_no_identity(
    process: Process, theirs: str, mine: str, legacy: str, far: str
) -> None:
    """A node says that its pod, or one that there is not, is another one."""
    process.take(said("db", "east-1", mine, labels=TEXT["web"]))
    assert process.identity(ip_address(mine)) == NUMBER["db"]
    invented = str(ip_address(mine) + 1)
    process.take(said("admin", "east-1", invented, labels=TEXT["web"]))
    assert process.identity(ip_address(invented)) is None
    assert {process.identity(ip_address(text)) for text in (theirs, legacy, far)} == {None}


def test_a_pod_that_moved_is_where_its_object_says(process: Process) -> None:
    """The node where it was goes on saying that it has it."""
    process.take(said("web", "east-1", "10.1.1.9"), said("web", "east-2", "10.1.2.5"))
    assert process.identity(ip_address("10.1.1.9")) is None
    assert process.identity(ip_address("10.1.2.5")) == NUMBER["web"]
