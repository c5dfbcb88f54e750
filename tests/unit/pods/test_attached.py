"""Pods that a runtime attaches: a connection for each sandbox, one address in the mesh."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from mesh.core.model import Attachment, Node, NodeKey, Pod, PodKey, Sandbox
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NAMESPACES, PODS
from mesh.objects.tables import Objects
from mesh.pods.agent import PodsAgent, Wiring
from mesh.pods.beside import Inside
from mesh.pods.links import Device, alias_of, device_name, other_names_of, parse_alias
from mesh.pods.local import LocalPods
from tests.fixtures.rooms import FakeEntries

NODE, WEB = NodeKey("east", "east-1"), PodKey("east", "shop", "web")
OLD, NEW = (Sandbox("east", "shop", "web", tag) for tag in ("old", "new"))
V4, V6 = ip_network("10.1.0.0/28"), ip_network("fd01::/64")
POD = Pod("east", "shop", "web", "east-1", labels=(("app", "web"),))


def attachment(number: int, interface: str = "eth0") -> Attachment:
    return Attachment(f"c{number}", interface, "meshgate", f"/run/netns/{number}", number, number)


class Pods:
    """The pods of a node whose agent has a runtime, and finds no pod by itself."""

    def __init__(self, pattern: str = "", *, beside: bool = False) -> None:
        self.loop = Loop()
        self.objects = Objects(KINDS.nouns)
        self.attached: Table[Sandbox, Attachment] = Table("attachment")
        self.number: Table[str, int] = Table("number")
        node: Table[NodeKey, Node] = Table("node")
        self.local = LocalPods("east-1", self.objects, self.attached)
        self.pods = PodsAgent(
            NODE, Wiring(pattern, 1450, beside=beside), self.objects, self.local.table, node,
            self.number, (), FakeEntries(), self.attached,
        )  # fmt: skip
        self.local.derive(self.loop)
        self.pods.derive(self.loop)
        node.replace({NODE: Node("east", "east-1", (), () if beside else (V4, V6))})
        tables = (self.objects[NAMESPACES], self.objects[PODS], self.attached, self.number)
        for table in (*tables, self.pods.devices, self.pods.namespaces):
            table.mark_synced()
        self.objects[PODS].upsert({WEB: POD})
        self.loop.derive_all()

    def attach(self, key: Sandbox, row: Attachment) -> None:
        self.attached.upsert({key: row})
        self.loop.derive_all()
        for one, link in self.pods.link.rows.items():
            index = 10 + len(link.netns) + int(link.netns[-1])
            self.pods.devices.upsert({one: Device(index, "m", "h", link.addresses)})
        self.loop.derive_all()
        self.number.upsert(dict.fromkeys(self.pods._labels.rows.values(), 65537))  # noqa: SLF001
        self.loop.derive_all()

    def detach(self, key: Sandbox) -> None:
        self.attached.delete([key])
        self.pods.devices.delete([key])
        self.loop.derive_all()


@pytest.fixture
def it() -> Pods:
    return Pods()


def test_a_pod_that_nobody_has_attached_has_no_address(it: Pods) -> None:
    assert dict(it.pods.local_pod.rows) == {}
    it.attach(OLD, attachment(1))
    link = it.pods.link.rows[OLD]
    assert (link.netns, link.inode, link.inside) == ("/run/netns/1", 1, "eth0")
    assert link.addresses == (ip_address("10.1.0.2"), ip_address("fd01::2"))


def test_two_sandboxes_of_one_pod_share_nothing(it: Pods) -> None:
    it.attach(OLD, attachment(1))
    old = it.pods.link.rows[OLD]
    it.attach(NEW, attachment(2))
    new = it.pods.link.rows[NEW]
    assert it.pods.link.rows[OLD] == old
    assert not set(old.addresses) & set(new.addresses)
    assert old.device != new.device
    assert set(it.pods.pod.rows) == {*old.addresses, *new.addresses}
    it.detach(OLD)
    assert dict(it.pods.link.rows) == {NEW: new}
    assert set(it.pods.pod.rows) == set(new.addresses)


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        (attachment(1), attachment(2), NEW),
        (attachment(2), attachment(1), OLD),
        (attachment(1), attachment(2, "net1"), OLD),
        (attachment(1, "net1"), attachment(2), NEW),
    ],
)
def test_the_mesh_knows_eth0_of_the_newest_sandbox(
    it: Pods, first: Attachment, second: Attachment, counts: Sandbox
) -> None:
    it.attach(OLD, first)
    it.attach(NEW, second)
    wanted = it.pods.devices.rows[counts].addresses
    shown = [row["addresses"] for row in it.pods.listings()["pod"]()]
    assert shown == [list(map(str, wanted))]
    assert len([key for key in it.pods.entry.rows if "web" in key]) == 1


def test_a_pod_without_object_stays_while_it_is_attached(it: Pods) -> None:
    it.attach(OLD, attachment(1))
    rows = dict(it.pods.pod.rows)
    it.objects[PODS].delete([WEB])
    it.loop.derive_all()
    assert dict(it.pods.pod.rows) == rows
    it.detach(OLD)
    assert (dict(it.pods.pod.rows), dict(it.local.table.rows)) == ({}, {})


def test_an_agent_that_starts_later_has_the_labels_of_the_attachment(it: Pods) -> None:
    it.objects[PODS].delete([WEB])
    it.loop.derive_all()
    row = replace(attachment(1), labels=(("app", "gone"),), service_account="builder", uid="7")
    it.attach(OLD, row)
    pod = it.local.table.rows[WEB]
    assert (pod.labels, pod.service_account, pod.uid) == ((("app", "gone"),), "builder", "7")
    assert it.pods.link.rows[OLD].addresses


def test_addresses_of_another_cni_are_kept_and_its_device_is_not_made(it: Pods) -> None:
    given = (ip_address("10.244.1.5"),)
    it.attach(OLD, replace(attachment(1), addresses=given))
    assert it.pods.local_pod.rows[OLD].addresses == given
    assert dict(it.pods.link.rows) == {}
    it.attach(NEW, attachment(2))
    assert it.pods.link.rows[NEW].addresses[0] == ip_address("10.1.0.2")
    assert it.pods.local_pod.rows[OLD].addresses == given


def test_both_ways_a_pod_is_connected_once() -> None:
    """``podNetns`` finds it, until a runtime asks for it."""
    it = Pods("/run/netns/{namespace}_{name}")
    it.pods.namespaces.upsert({"/run/netns/shop_web": 7})
    it.loop.derive_all()
    assert list(it.pods.link.rows) == [WEB]
    it.attach(OLD, attachment(1))
    assert list(it.pods.link.rows) == [OLD]


@pytest.mark.parametrize("name", ["web", "w" * 160, "w" * 253])
def test_an_alias_gives_back_the_sandbox(name: str) -> None:
    key = Sandbox("c" * 32, "shop", name, "0011aabb")
    addresses = ip_address("10.1.0.2"), ip_address("fd01::2")
    found = parse_alias(alias_of(key, addresses), other_names_of(key, addresses))
    assert found == (key, addresses)
    assert device_name(key) != device_name(replace(key, tag="0011aabc"))
    assert device_name(key) != device_name(key.pod)


def test_beside_another_cni_an_add_waits_for_the_rows_of_the_pod() -> None:
    """The pod is found by the addresses of ``prevResult``; its status has none before it runs."""
    it, given = Pods(beside=True), (ip_address("10.244.1.5"),)
    it.pods.inside.mark_synced()
    assert it.pods.connections.unready == "", "a node needs no pod CIDR"
    it.attached.upsert({OLD: replace(attachment(1), addresses=given)})
    it.loop.derive_all()
    assert it.pods.local_pod.rows[WEB].addresses == given
    assert dict(it.pods.found.rows) == {}
    it.pods.inside.upsert({"/run/netns/1": Inside(1, 2, 9, "m", given)})
    it.loop.derive_all()
    assert it.pods.found.rows[WEB].ifindex == 9
    it.pods.devices.upsert({WEB: Device(9, "m", "h", given)})
    it.number.upsert(dict.fromkeys(it.pods._labels.rows.values(), 65537))  # noqa: SLF001
    it.loop.derive_all()
    assert {ip: row.ifindex for ip, row in it.pods.pod.rows.items()} == {given[0]: 9}
    connection = it.pods.connections.connection(OLD)
    assert connection is not None
    assert (connection.device, connection.addresses) == ("", given)
    assert dict(it.pods.link.rows) == {}, "its device is the other CNI's"
