"""The agent's derivations while their sources arrive one after the other."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import msgspec

from clustermesh.remote.wire import CONFIGS, cluster_config, node_key, node_value
from clustermesh.store.claims import encode_number, number_key
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import pod_value
from gateway.members import ACCEPTS_S, GatewayKey, GatewayRow
from gateway.policy import POLICIES, EgressPolicy
from mesh.agent import Features
from mesh.config import load_agent
from mesh.core.model import (
    ClaimKey,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodSelector,
    Requirement,
    Selector,
    ServiceKey,
)
from mesh.core.reconcile import Loop
from mesh.nodes.rows import NodeHop
from mesh.nodes.uplink import Facts
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES, PODS
from mesh.objects.tables import Objects
from mesh.pods.links import Device
from mesh.pods.rows import LocalPod
from mesh.services.kinds import SERVICES, ServiceObject, ServicePortObject

OWN = Node("east", "east-1", (IPv4Address("10.99.0.11"), IPv6Address("fd99::11")))
PEER = Node("west", "west-1", (IPv4Address("10.99.0.21"),))
CONFIG = """
cluster: {name: east, id: 1}
node: east-1
manifests: /nowhere
etcd: {endpoints: ["http://127.0.0.1:1"]}
bpffs: /nowhere
cgroup: /nowhere
uplink: uplink
services: {kubeProxy: false}
socket: /nowhere
podNetns: /run/netns/{cluster}-{namespace}_{name}
stateDir: /nowhere
"""
STORED: dict[str, Any] = {
    "name": "east",
    "id": 1,
    "podCIDRs": ["10.1.0.0_16_24"],
    "locators": [],
    "blockSize": 256,
    "blocksPerNode": 4,
}


class NoKernel:
    """Stands for the kernel, which derivations do not ask."""


def entry(key: str, value: bytes) -> Entry:
    return Entry(key, value, 1, 1, 0)


def started(tmp_path: Path, *, store: bool = True) -> tuple[Features, Loop]:
    path = tmp_path / "agent.yaml"
    path.write_text(CONFIG)
    objects = Objects(KINDS.nouns)
    for table in objects.tables().values():
        table.mark_synced()
    objects[NODES].replace({NodeKey("east", "east-1"): OWN})
    tables = Features(
        load_agent(path), Facts(7, 1500, IPv4Address("10.99.0.11"), "uplink"), objects, NoKernel()
    )
    tables.store.remote.expect(())
    tables.hosts.private.mark_synced()
    loop = Loop()
    tables.derive(loop)
    if store:
        config = entry("meshgate/v1/east/config", msgspec.json.encode(STORED))
        tables.store.own.take(Batch(1, [config], listed=True))
        tables.store.own.synced()
    return tables, loop


def settle(loop: Loop) -> None:
    for _ in range(5):
        loop.derive_all()


def test_a_restarted_agent_removes_no_node_before_it_has_asked_for_its_next_hop(
    tmp_path: Path,
) -> None:
    tables, loop = started(tmp_path)
    settle(loop)
    tables.nodes.next_hops.mark_synced()  # a look-up round that knew no other node yet
    published = [
        entry(f"{CONFIGS}west", cluster_config(2)),
        entry(node_key("west", "west-1"), node_value(PEER, 2)),
    ]
    tables.store.remote.take(Batch(2, published, listed=True))
    settle(loop)
    assert tables.store.remote.complete.synced
    assert tables.nodes.tunnel_endpoints() == [IPv4Address("10.99.0.21")]
    assert not tables.nodes.hop.synced
    tables.nodes.next_hops.upsert({IPv4Address("10.99.0.21"): IPv4Address("10.99.0.21")})
    settle(loop)
    assert tables.nodes.hop.synced
    assert list(tables.nodes.hop.rows) == [], "nobody knows on which port it takes the overlay"
    tables.store.remote.ports.upsert({"west": 8473})
    settle(loop)
    hop = IPv4Address("10.99.0.21")
    assert tables.nodes.hop.rows == {hop: NodeHop(hop, 2, port=8473)}
    assert list(tables.nodes.ports.rows) == [8473]


def test_a_node_without_a_route_does_not_hold_up_the_others(tmp_path: Path) -> None:
    tables, loop = started(tmp_path)
    settle(loop)
    tables.nodes.next_hops.mark_synced()
    published = [
        entry(f"{CONFIGS}west", cluster_config(2)),
        entry(node_key("west", "west-1"), node_value(PEER, 2)),
    ]
    tables.store.remote.take(Batch(2, published, listed=True))
    tables.nodes.next_hops.upsert({IPv4Address("10.99.0.21"): None})
    settle(loop)
    assert tables.nodes.hop.synced
    assert not tables.nodes.hop.rows


def test_a_pod_that_gets_no_address_is_a_finding(tmp_path: Path) -> None:
    tables, loop = started(tmp_path)
    pod = Pod("east", "shop", "web-1", "east-1")
    tables.objects[PODS].replace({PodKey("east", "shop", "web-1"): pod})
    settle(loop)
    assert [(f.code, f.object) for f in tables.findings()] == [("D604", "Pod/shop/web-1")]
    claim = Entry(
        "meshgate/v1/east/podcidr/10.1.0.0_16_24/number/0", b'{"owner": "east-1"}', 3, 3, 0
    )
    tables.store.own.take(Batch(3, [claim]))
    settle(loop)
    assert list(tables.findings()) == []
    assert tables.pods.local_pod.rows[PodKey("east", "shop", "web-1")].addresses == (
        IPv4Address("10.1.0.2"),
    )


def test_a_node_without_its_object_is_a_finding(tmp_path: Path) -> None:
    tables, loop = started(tmp_path)
    tables.objects[NODES].replace({})
    settle(loop)
    assert [f.code for f in tables.findings()] == ["D603"]


WEB = PodKey("east", "shop", "web-1")
ADDRESS = IPv4Address("10.1.0.2")
ROW = LocalPod(
    7, 65537, "0a:58:0a:01:00:02", "0e:58:0a:01:00:02", (("egress_class", 0), ("vrf", 0))
)
POLICY = EgressPolicy(
    "erp",
    (PodSelector(None, Selector((Requirement("app", "In", ("web",)),))),),
    (ip_network("192.0.2.0/24"),),
    (),
    (IPv4Address("198.51.100.10"),),
    Selector(),
)


def held(tmp_path: Path) -> tuple[Features, Loop]:
    """A restarted agent that finds a wired pod and its row, and no store."""
    tables, loop = started(tmp_path, store=False)
    tables.pods.held = {WEB: (ADDRESS,)}
    tables.pods.take_held({ADDRESS: ROW})
    tables.objects[PODS].replace({WEB: Pod("east", "shop", "web-1", "east-1", (("app", "web"),))})
    return tables, loop


def test_a_policy_that_came_while_the_agent_was_dead_needs_no_store(tmp_path: Path) -> None:
    tables, loop = held(tmp_path)
    tables.objects[POLICIES].replace({"erp": POLICY})
    settle(loop)
    row = tables.pods.pod.rows[ADDRESS]
    ((name, number), _) = row.marks
    assert name == "egress_class"
    assert number
    assert row == replace(ROW, marks=row.marks)
    assert number in {key.egress_class for key in tables.egress.egress.rows}
    assert not tables.pods.pod.synced


def test_a_policy_that_went_while_the_agent_was_dead_needs_no_store(tmp_path: Path) -> None:
    tables, loop = held(tmp_path)
    tables.pods.take_held({ADDRESS: replace(ROW, marks=(("egress_class", 99),))})
    settle(loop)
    assert tables.pods.pod.rows == {ADDRESS: ROW}


def test_a_pod_whose_labels_changed_keeps_its_identity_until_the_new_one_is_claimed(
    tmp_path: Path,
) -> None:
    tables, loop = started(tmp_path)
    tables.pods.held = {WEB: (ADDRESS,)}
    tables.pods.take_held({ADDRESS: ROW})
    tables.objects[PODS].replace({WEB: Pod("east", "shop", "web-1", "east-1", (("app", "web"),))})
    claim = Entry(
        "meshgate/v1/east/podcidr/10.1.0.0_16_24/number/0", b'{"owner": "east-1"}', 3, 3, 0
    )
    tables.store.own.take(Batch(3, [claim]))
    tables.pods.devices.replace({WEB: Device(7, ROW.mac, ROW.host_mac, (ADDRESS,))})
    settle(loop)
    assert tables.pods.pod.synced
    assert tables.pods.pod.rows == {ADDRESS: ROW}
    # Another pod of this name.
    tables.pods.devices.replace({WEB: Device(8, ROW.mac, ROW.host_mac, (ADDRESS,))})
    settle(loop)
    assert tables.pods.pod.rows == {}


CLAIM = Entry("meshgate/v1/east/podcidr/10.1.0.0_16_24/number/0", b'{"owner": "east-1"}', 3, 3, 0)
CANARY = "meshgate/v1/east/pod/east-1/synced"


def wired(tmp_path: Path) -> tuple[Features, Loop]:
    """An agent with one pod, which the kernel has."""
    tables, loop = started(tmp_path)
    tables.pods.held = {WEB: (ADDRESS,)}
    tables.objects[PODS].replace({WEB: Pod("east", "shop", "web-1", "east-1", (("app", "web"),))})
    tables.store.own.take(Batch(3, [CLAIM]))
    settle(loop)
    return tables, loop


def test_an_agent_says_when_all_of_its_pods_are_in_the_store(tmp_path: Path) -> None:
    """A reader keeps what a replaced store lacks until then (``clustermesh/store/follow.py``)."""
    tables, loop = wired(tmp_path)
    assert not tables.pods.entry.rows
    tables.pods.devices.upsert({WEB: Device(7, ROW.mac, ROW.host_mac, (ADDRESS,))})
    settle(loop)
    assert CANARY not in tables.pods.entry.rows
    tables.pods.devices.mark_synced()
    settle(loop)
    web = "meshgate/v1/east/pod/east-1/shop/web-1"
    assert set(tables.pods.entry.rows) == {web, CANARY}
    tables.store.own.take(Batch(4, [entry(CANARY, tables.pods.entry.rows[CANARY])]))
    assert not tables.store.own.findings


def test_a_key_of_ours_that_we_have_not_written_is_noticed(tmp_path: Path) -> None:
    """A new leader gives a replaced store back what it knew, also pods that have gone."""
    tables, loop = wired(tmp_path)
    tables.pods.devices.replace({WEB: Device(7, ROW.mac, ROW.host_mac, (ADDRESS,))})
    settle(loop)
    web, gone = (f"meshgate/v1/east/pod/east-1/shop/{name}" for name in ("web-1", "gone"))
    value = tables.pods.entry.rows[web]
    assert not tables.contradicts(Batch(5, [entry(web, value)]))
    assert not tables.contradicts(Batch(5, [entry(web.replace("east-1", "east-2"), b"{}")]))
    assert not tables.contradicts(Batch(5, (), [gone]))
    assert tables.contradicts(Batch(5, [entry(gone, value)]))
    assert tables.contradicts(Batch(5, [entry(web, b"{}")]))
    assert tables.contradicts(Batch(5, (), [web]))


def test_a_backend_is_where_the_pod_is_not_where_it_was(tmp_path: Path) -> None:
    """Its last node may be dead and never remove its key."""
    tables, loop = started(tmp_path)
    pod = Pod("east", "shop", "web-1", "east-2", (("app", "web"),))
    tables.objects[PODS].replace({WEB: pod})
    ports = (ServicePortObject("http", "TCP", 80, 8080),)
    key, where = ServiceKey("east", "shop", "web"), (IPv4Address("10.97.1.1"),)
    service = ServiceObject("east", "shop", "web", where, ports, pod.labels)
    tables.objects[SERVICES].replace({key: service})
    for number in (2, 3):
        other = NodeKey("east", f"east-{number}")
        tables.objects[NODES].upsert({other: replace(OWN, name=other.name)})
    entries = [
        entry(
            number_key("east", ClaimKey("podcidr", STORED["podCIDRs"][0], n)), encode_number(name)
        )
        for n, name in ((2, "east-2"), (3, "east-3"))
    ]
    entries += [
        entry(f"meshgate/v1/east/pod/{node}/shop/web-1", pod_value(PodEntry((address,), "x")))
        for node, address in (
            ("east-2", IPv4Address("10.1.2.2")),
            ("east-3", IPv4Address("10.1.3.3")),
        )
    ]
    tables.store.own.take(Batch(4, entries))
    tables.store.remote.take(Batch(4, (), listed=True))
    settle(loop)
    assert [str(row.address) for row in tables.services.backend.rows.values()] == ["10.1.2.2"]


def test_a_restarted_agent_keeps_the_next_hop_of_a_node_whose_route_is_away(tmp_path: Path) -> None:
    """The uplink is down for a moment; the row is right again as soon as it is up."""
    tables, loop = started(tmp_path)
    there, hop = IPv4Address("10.99.0.21"), IPv4Address("10.99.0.1")
    gone = IPv4Address("10.99.0.66")
    tables.nodes.take_recovered({there: NodeHop(hop, 2), gone: NodeHop(hop, 2)})  # what the map has
    settle(loop)
    tables.nodes.next_hops.mark_synced()
    published = [
        entry(f"{CONFIGS}west", cluster_config(2)),
        entry(node_key("west", "west-1"), node_value(PEER, 2)),
    ]
    tables.store.remote.take(Batch(2, published, listed=True))
    tables.nodes.next_hops.upsert({there: None})
    settle(loop)
    assert tables.nodes.hop.synced
    assert tables.nodes.hop.rows == {there: NodeHop(hop, 2)}


def test_a_claim_that_cannot_be_read_unwires_no_pod_of_a_restarted_agent(tmp_path: Path) -> None:
    tables, loop = started(tmp_path)
    tables.pods.held = {WEB: (ADDRESS,)}
    tables.objects[PODS].replace({WEB: Pod("east", "shop", "web-1", "east-1", (("app", "web"),))})
    tables.store.own.take(Batch(3, [entry(CLAIM.key, b"{")]))
    settle(loop)
    assert tables.pods.local_pod.synced
    assert tables.pods.local_pod.rows[WEB].addresses == (ADDRESS,)


def test_a_gateway_that_has_left_is_believed_for_two_minutes(tmp_path: Path) -> None:
    tables, _ = started(tmp_path)
    egress = tables.egress
    address, first, second = (IPv4Address(f"192.0.2.{number}") for number in (1, 2, 3))
    egress.rest_gateways({address: (first,)}, 1000)
    egress.rest_gateways({address: (second,)}, 1010)
    sending, left = GatewayRow(sends=True, accepts=True), GatewayRow(sends=False, accepts=True)
    members = {GatewayKey(address, first): left, GatewayKey(address, second): sending}
    assert egress.gateway.rows == members
    assert egress.egress_address.rows == {address: (second,)}
    egress.rest_gateways(egress.egress_address.rows, 1010 + ACCEPTS_S)
    assert egress.gateway.rows == {GatewayKey(address, second): sending}
