"""Wrong input of egress: a finding names object and field, and nothing else changes.

What is wrong with credentials of a feed and with a collector is in ``test_feed_answers.py`` and
``test_ipfix.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from clustermesh.store.own import Own
from gateway.controller import EgressController
from gateway.settings import EgressSettings
from mesh.core.reconcile import Loop
from mesh.core.table import Source, Table
from mesh.objects.kinds import KINDS
from mesh.objects.manifests import Manifests

NODE = """
apiVersion: v1
kind: Node
metadata: {name: east-1, labels: {role: gateway}}
status: {addresses: [{type: InternalIP, address: 10.99.0.11}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: east-1}
"""
POOL = """
apiVersion: meshgate.io/v1alpha1
kind: EgressPool
metadata: {name: NAME, creationTimestamp: "CREATED"}
spec: {cidrs: [198.51.100.0/28]MORE}
"""
POLICY = """
apiVersion: meshgate.io/v1alpha1
kind: EgressPolicy
metadata: {name: NAME, creationTimestamp: "CREATED"}
spec:
  selectors: [{podSelector: {matchLabels: {app: client}}}]
  destinationCIDRs: [DESTINATION]
  gateways: {nodeSelector: {matchLabels: {role: ROLE}}}
  MORE
"""
CILIUM = """
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: NAME, creationTimestamp: "CREATED"}
spec:
  selectors: [{podSelector: {matchLabels: {app: client}}}]
  destinationCIDRs: [DESTINATION]
  egressGateway: {nodeSelector: {matchLabels: {role: ROLE}}, MORE}
"""
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def made(text: str, more: str = "", *, name: str = "wrong", **words: str) -> str:
    words = {"DESTINATION": "203.0.113.0/24", "ROLE": "gateway", "CREATED": NEW} | words
    for word, value in {"NAME": name, "MORE": more, **words}.items():
        text = text.replace(word, value)
    return text


GOOD = {
    "node.yaml": NODE,
    "pod.yaml": POD,
    "pool.yaml": made(POOL, name="legacy", CREATED=OLD),
    "good.yaml": made(POLICY, "pool: legacy", name="good", DESTINATION="192.0.2.0/24", CREATED=OLD),
}

#: What is wrong -> the object, and the finding: its code and field.
WRONG: Mapping[str, tuple[str, str, str]] = {
    "interface and egressIP": (
        made(CILIUM, "interface: eth1, egressIP: 198.51.100.9"),
        "M103", "spec.egressGateway",
    ),
    "mixed families": (
        made(CILIUM, "egressIP: 198.51.100.9", DESTINATION="2001:db8:2::/48"),
        "M103", "spec.egressGateway.egressIP",
    ),
    "an address of one family, destinations of both": (
        made(POLICY, "addresses: [198.51.100.9]", DESTINATION="203.0.113.0/24, 2001:db8:2::/48"),
        "E303", "addresses (IPv6)",
    ),
    "unknown gateway": (
        made(POLICY, "addresses: [198.51.100.9]", ROLE="nobody"),
        "E302", "gateways.nodeSelector",
    ),
    "unknown gateway of a Cilium policy": (
        made(CILIUM, "egressIP: 198.51.100.9", ROLE="nobody"),
        "E302", "spec.egressGateway.nodeSelector",
    ),
    "pools that overlap": (made(POOL), "M210", "spec.cidrs[0]"),
    "networks of a pool that overlap": (
        made(POOL, ", 198.51.100.8/29").replace("/28]", "/28").replace("8/29}", "8/29]}"),
        "M103", "spec.cidrs[1]",
    ),
    "an address outside every pool": (
        made(POLICY, "addresses: [203.0.113.77]"), "M211", "spec.addresses[0]",
    ),
    "addresses and a pool": (
        made(POLICY, "addresses: [198.51.100.9]\n  pool: legacy"), "M103", "spec.addresses",
    ),
    "an unknown pool": (made(POLICY, "pool: lost"), "M212", "spec.pool"),
    "a pool of an unknown cluster": (made(POLICY, "pool: mars/legacy"), "M274", "spec.pool"),
    "a grant of an unknown cluster": (
        made(POOL, ", grants: [{cluster: west}, {cluster: mars}]").replace("100.0", "101.0"),
        "M273", "spec.grants[1].cluster",
    ),
    "a grant of the own cluster": (
        made(POOL, ", grants: [{cluster: east}]").replace("100.0", "101.0"),
        "M273", "spec.grants[0].cluster",
    ),
    "a grant that ends at no time": (
        made(POOL, ", grants: [{cluster: west, expires: tomorrow}]"),
        "M103", "spec.grants[0].expires",
    ),
    "a grant that ends at a time without a zone": (
        made(POOL, ', grants: [{cluster: west, expires: "2026-01-31T18:00:00"}]'),
        "M103", "spec.grants[0].expires",
    ),
    "a block size that divides nothing": (made(POOL, ", blockSize: 100"), "M103", "spec.blockSize"),
    "a timer below the RFC": (
        made(POLICY, "pool: legacy\n  timers: {udpSeconds: 60}"), "M103", "spec.timers.udpSeconds",
    ),
    "a timer that is none": (
        made(POLICY, "pool: legacy\n  timers: {udp: 600}"), "M103", "spec.timers.udp",
    ),
    "an address that can be no source": (
        made(POLICY, "addresses: [224.0.0.1]"), "M103", "spec.addresses[0]",
    ),
    "nobody is selected": (
        made(POLICY, "pool: legacy").replace("{podSelector: {matchLabels: {app: client}}}", "{}"),
        "M103", "spec.selectors[0]",
    ),
}  # fmt: skip


class Cluster:
    """The controller of a cluster over a folder of manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in GOOD.items():
            self.write(name, text)
        self.manifests = Manifests(folder, "east", interval_s=0.01, kinds=KINDS)
        self.loop, own = Loop(), Own("east")
        self.heard = Source("clusters heard")
        clusters = Table[str, int]("clusters")
        clusters.replace({"east": 1, "west": 2})
        self.egress = EgressController(
            "east", EgressSettings(), self.manifests.objects, own, clusters, self.heard
        )
        own.synced()
        self.egress.derive(self.loop)
        self.look()

    def write(self, name: str, text: str) -> None:
        """A file that is not being written any more."""
        (self.folder / name).write_text(text)
        os.utime(self.folder / name, (1e9, 1e9))

    def look(self) -> None:
        """Two looks: the first one finds what is gone, the second one is sure of it."""
        self.manifests.scan()
        self.manifests.scan()
        self.loop.derive_all()

    def found(self) -> list[tuple[str, str, str]]:
        """Findings: code, object and field."""
        every = [*self.manifests.objects.findings.rows.values(), *self.egress.findings()]
        return [(str(one.code), one.object, one.field) for one in every]

    def good(self) -> object:
        """All that the good policy has: its row, and what is to be claimed for it."""
        rows = [row for row in self.egress.listings()["egress"]() if row["policy"] == "good"]
        wants = [
            want
            for table in self.egress.wants
            for want in table.rows
            if "good" in want.owner or want.pool.startswith("198.51.100.0")
        ]
        return rows, sorted(map(str, wants))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_before_the_store_was_heard_no_cluster_is_unknown(cluster: Cluster) -> None:
    text, _, _ = WRONG["a pool of an unknown cluster"]
    cluster.write("wrong.yaml", text)
    cluster.look()
    assert "M274" not in {code for code, _, _ in cluster.found()}
    cluster.heard.mark_synced()
    assert "M274" in {code for code, _, _ in cluster.found()}


def test_what_is_good_has_no_finding(cluster: Cluster) -> None:
    assert [one for one in cluster.found() if one[0] != "E303"] == []


@pytest.mark.parametrize("what", WRONG)
def test_a_finding_names_object_and_field_and_nothing_else_changes(
    cluster: Cluster, what: str
) -> None:
    text, code, field = WRONG[what]
    cluster.heard.mark_synced()
    before, known = cluster.good(), cluster.found()
    cluster.write("wrong.yaml", text)
    cluster.look()
    new = [one for one in cluster.found() if one not in known]
    named = [one for one in new if one[0] == code and one[2] == field]
    assert named, new
    assert all("wrong" in one[1] for one in new)
    assert cluster.good() == before
    (cluster.folder / "wrong.yaml").unlink()
    cluster.look()
    assert (cluster.good(), cluster.found()) == (before, known)
