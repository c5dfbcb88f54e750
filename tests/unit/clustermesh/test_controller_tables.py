"""The controller's derivations without etcd: batches and objects in, keys out."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec

from clustermesh import publish
from clustermesh.findings import CONTRADICTION
from clustermesh.remote import wire
from clustermesh.store.claims import encode_number
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import pod_key, pod_value
from mesh.config import Cluster, ControllerConfig, Etcd, Pools
from mesh.controller import Features
from mesh.core.feature import Want
from mesh.core.model import Node, NodeKey, Pod, PodEntry, PodKey, PodRef, ServiceKey
from mesh.core.reconcile import Loop
from mesh.identity.labels import identity_labels, namespace_of
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES, PODS
from mesh.objects.tables import Objects
from mesh.pools.settings import Pool
from mesh.services.kinds import SERVICES, ServiceObject, ServicePortObject

CONFIG = ControllerConfig(
    cluster=Cluster(name="east", id=1),
    instance="east-a",
    manifests=Path("manifests"),
    etcd=Etcd(endpoints=("http://127.0.0.1:1",)),
    pools=Pools(pod_cidrs=(Pool(cidr=ip_network("10.1.0.0/16"), node_prefix=24),)),
    state_dir=Path("state"),
    socket=Path("socket"),
)
POOL = "10.1.0.0_16_24"
NODE = Node("east", "east-1", (ip_address("10.99.0.11"),))
WEB = Pod("east", "shop", "web-1", "east-1", (("app", "web"),))
LABELS = identity_labels(WEB, namespace_of(WEB, {}))
REF = PodRef("east-1", "shop", "web-1")
PREFIX = "meshgate/v1/east/"


class Bench:
    """Tables and loop of one controller, and how the world speaks to it."""

    def __init__(self) -> None:
        self.objects = Objects(KINDS.nouns)
        self.tables = Features(CONFIG, self.objects)
        self.loop = Loop()
        self.tables.derive(self.loop)
        self.revision = 1

    def manifests(self) -> None:
        self.objects[NODES].upsert({NodeKey("east", "east-1"): NODE})
        self.objects[PODS].upsert({PodKey("east", "shop", "web-1"): WEB})
        key = ServiceKey("east", "shop", "web")
        ports = (ServicePortObject("http", "TCP", 80, 8080),)
        app = (("app", "web"),)
        service = ServiceObject("east", "shop", "web", (), ports, app, is_global=True)
        self.objects[SERVICES].upsert({key: service})
        for table in self.objects.tables().values():
            table.mark_synced()
        self.loop.derive_all()

    def own(self, keys: dict[str, bytes], deletes: tuple[str, ...] = ()) -> None:
        self.tables.own.take(self._batch(keys, deletes))
        self.tables.own.synced()
        self.loop.derive_all()

    def mesh(self, keys: dict[str, bytes], deletes: tuple[str, ...] = ()) -> None:
        self.tables.take(self._batch(keys, deletes, listed=True))
        self.loop.derive_all()

    def published(self, prefix: str) -> set[str]:
        return set(self.tables.publish.published[prefix].rows)

    def findings(self) -> list[tuple[str, str]]:
        return sorted((finding.code, finding.object) for finding in self.tables.findings())

    def _batch(
        self, keys: dict[str, bytes], deletes: tuple[str, ...], *, listed: bool = False
    ) -> Batch:
        self.revision += 1
        at = self.revision
        puts = [Entry(key, value, at, at, 0) for key, value in keys.items()]
        return Batch(at, puts, deletes, listed)


def number(noun: str, pool: str, at: int, owner: str) -> dict[str, bytes]:
    return {f"{PREFIX}{noun}/{pool}/number/{at}": encode_number(owner)}


def everything() -> dict[str, bytes]:
    """What the store holds once all claims are made and the agent has spoken."""
    entry = PodEntry((ip_address("10.1.0.5"),), LABELS)
    stored = {"name": "east", "id": 1, **Features(CONFIG, Objects(KINDS.nouns)).agreed}
    return {
        f"{PREFIX}config": msgspec.json.encode(stored),
        **number("podcidr", POOL, 0, "east-1"),
        **number("identity", "labels", 65537, LABELS),
        pod_key("east", REF): pod_value(entry),
    }


def complete() -> Bench:
    it = Bench()
    it.manifests()
    it.mesh({})
    it.own(everything())
    return it


def test_everything_is_published_when_everything_is_known() -> None:
    """Keys of all prefixes, the config, then canaries."""
    it = complete()
    assert it.published(wire.NODES) == {wire.node_key("east", "east-1")}
    assert it.published(wire.IDENTITIES) == {wire.identity_key("east", 65537)}
    assert it.published(wire.ADDRESSES) == {wire.address_key("east", ip_address("10.1.0.5"))}
    assert it.published(wire.SERVICES) == {wire.service_key("east", "shop", "web")}
    assert set(it.tables.publish.config_key.rows) == {wire.config_key("east")}
    assert it.tables.publish.overlay.rows == {wire.overlay_key("east"): b'{"port":8472}'}
    assert len(it.tables.publish.canaries.rows) + 1 == len(publish.PREFIXES)
    assert it.findings() == []


def test_nothing_is_published_from_half_of_the_facts() -> None:
    """Without the store, without manifests, without the peers: no table is complete (D6)."""
    steps = {
        "manifests": Bench.manifests,
        "mesh": lambda it: it.mesh({}),
        "own": lambda it: it.own(everything()),
    }
    for missing in steps:
        it = Bench()
        for name, step in steps.items():
            if name != missing:
                step(it)
        assert not it.tables.publish.canaries.rows, missing
        assert not it.tables.publish.complete or missing == "mesh", missing
        assert not it.tables.publish.published[wire.NODES].rows, missing


def test_canaries_wait_for_claims() -> None:
    """A node without its pod CIDR is not complete, unless the pool has none for it."""
    it = Bench()
    it.manifests()
    it.mesh({})
    claims = everything()
    del claims[f"{PREFIX}podcidr/{POOL}/number/0"]
    it.own(claims)
    assert not it.tables.publish.canaries.rows
    want = Want("podcidr", POOL, "east-1")
    it.tables.wants.refused.upsert({want: "the pool is full"})
    it.loop.derive_all()
    assert it.tables.publish.canaries.rows
    assert it.findings() == [("M145", f"{PREFIX}podcidr/{POOL}/owner/east-1")]
    it.tables.wants.codes[want] = CONTRADICTION
    assert it.findings() == [("M155", f"{PREFIX}podcidr/{POOL}/owner/east-1")]


def test_a_pod_that_goes_takes_its_address_and_backend_along() -> None:
    """The agent deletes its key; the service stays without backends."""
    it = complete()
    value = it.tables.publish.published[wire.SERVICES].rows[wire.service_key("east", "shop", "web")]
    it.own({}, (pod_key("east", REF),))
    assert it.published(wire.ADDRESSES) == set()
    assert it.tables.services.service.rows[ServiceKey("east", "shop", "web")].backends == ()
    assert it.tables.publish.published[wire.SERVICES].rows != {
        wire.service_key("east", "shop", "web"): value
    }


def test_unreadable_keys_are_findings_and_change_nothing() -> None:
    """A pod's key, a claim and the config that somebody damaged."""
    it = complete()
    before = it.published(wire.ADDRESSES)
    bad = [pod_key("east", REF), f"{PREFIX}podcidr/{POOL}/number/7", f"{PREFIX}config"]
    odd = f"{PREFIX}pod/east-1/shop/web\udcff"
    it.own(dict.fromkeys((*bad, odd), b"{"))
    assert it.published(wire.ADDRESSES) == before
    assert {key for _, key in it.findings()} == {*bad, wire.plain(odd)}
    it.own(everything(), (odd,))
    assert [key for _, key in it.findings()] == bad[1:2]


def test_a_prefix_published_before_ours_is_not_published() -> None:
    """West has our first subnet; we hold the node back and say so, until west lets go."""
    it = Bench()
    it.manifests()
    west = wire.node_key("west", "west-1")
    row = Node("west", "west-1", (), (ip_network("10.1.0.0/24"),))
    it.mesh({wire.config_key("west"): wire.cluster_config(2), west: wire.node_value(row, 2)})
    it.own(everything())
    assert it.published(wire.NODES) == set()
    codes = [code for code, _ in it.findings()]
    assert codes == ["M129", "M148", "M154"]
    it.mesh({}, (west,))
    assert it.published(wire.NODES) == {wire.node_key("east", "east-1")}
    assert it.findings() == []


def test_subnets_in_use_elsewhere_are_not_offered() -> None:
    """The allocator is told which numbers are left."""
    it = Bench()
    row = Node("west", "west-1", (), (ip_network("10.1.0.0/23"),))
    it.mesh({wire.node_key("west", "west-1"): wire.node_value(row, 2)})
    numbers = it.tables.wants.candidates(Want("podcidr", POOL, "east-1"))
    assert list(numbers)[:2] == [2, 3]


def test_rows_have_the_columns_that_others_script_against() -> None:
    """Of each noun that the controller serves."""
    it = complete()
    rows = {noun: list(listed()[0]) for noun, listed in it.tables.listings().items() if listed()}
    assert rows["node"] == ["cluster", "name", "addresses", "podCIDRs", "locator"]
    assert rows["identity"] == ["cluster", "id", "labels"]
    assert rows["service"] == [
        "cluster", "namespace", "name", "addresses", "ports", "global", "backends",
    ]  # fmt: skip
    assert rows["cluster"][:2] == ["cluster", "id"]
