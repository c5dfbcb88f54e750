"""Cilium's BGP objects and services, as manifests of a speaker process, and what routers have.

Topology: frr_router.py; three routers: members.py. A table of nftables stands for the kube-proxy.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.speaker.frr_router import NODE, Router, run, until
from tests.interop.speaker.members import Table, dialling
from tests.interop.speaker.test_speaker import Etcd, Node, own_document

pytestmark = pytest.mark.slow

NODE_, RANGE = "10.99.0.11", "10.99.0.0/28"
CHANGES = 200 if os.environ.get("MESHGATE_SOAK") else 30
POD = "10.1.0.0/24"


@pytest.fixture
def etcd(router: Router, tmp_path: Path) -> Iterator[Etcd]:
    assert router.vty
    server = Etcd(tmp_path)
    server.start()
    server.put("podcidr/10.1.0.0_16_24/number/0", {"owner": "east-1", "released": 0})
    server.put("synced", {"store": "test"})
    yield server
    server.stop()


@pytest.fixture
def node(router: Router, etcd: Etcd, tmp_path: Path) -> Iterator[Node]:
    assert etcd.process
    node = Node(tmp_path)
    for name in ("peer", "egress"):
        (node.manifests / f"{name}.yaml").unlink()
    run("ip", "netns", "exec", NODE, "nft", "add table ip kube-proxy")
    run("ip", "netns", "exec", NODE, "nft", "add chain ip kube-proxy services")
    try:
        yield node
    finally:
        node.stop(router)
        run("ip", "netns", "exec", NODE, "nft", "delete table ip kube-proxy")


def cilium(kind: str, name: str, spec: Any, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


def service(name: str, address: str, app: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"type": "LoadBalancer", "clusterIP": "None", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
    }


def backends(name: str, *, ready: bool) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["10.1.0.5"], "conditions": {"ready": ready}}],
    }


def path(router: Router, prefix: str) -> dict[str, Any]:
    paths = router.vty.json(f"show bgp ipv4 unicast {prefix}").get("paths", [])
    return dict(paths[0]) if paths else {}


def communities(router: Router, prefix: str) -> str:
    return str(path(router, prefix).get("community", {}).get("string", ""))


def prefixes(router: Router) -> set[str]:
    return set(router.vty.routes("ipv4 unicast"))


CONFIG = {
    "timers": {"holdTimeSeconds": 9, "keepAliveTimeSeconds": 3},
    "gracefulRestart": {"enabled": True, "restartTimeSeconds": 15},
    "families": [{"afi": "ipv4", "safi": "unicast", "advertisements": {"matchLabels": {"a": "b"}}}],
}
PEER = {
    "name": "tor",
    "peerAddress": "10.99.0.1",
    "peerASN": 65000,
    "peerConfigRef": {"name": "tor"},
}
CLUSTER = {"bgpInstances": [{"name": "rack", "localASN": 65101, "peers": [PEER]}]}
PODS = {
    "advertisementType": "PodCIDR",
    "attributes": {"communities": {"standard": ["65101:99"], "large": ["65101:1:2"]}},
}
SERVICES = {
    "advertisementType": "Service",
    "service": {"addresses": ["LoadBalancerIP"]},
    "selector": {"matchLabels": {"app": "web"}},
    "attributes": {"communities": {"standard": ["65101:7"]}},
}


def test_a_set_of_ciliums_objects_peers_and_announces(node: Node, router: Router) -> None:
    node.write("cluster", cilium("CiliumBGPClusterConfig", "racks", CLUSTER))
    node.write("config", cilium("CiliumBGPPeerConfig", "tor", CONFIG))
    both = {"advertisements": [PODS, SERVICES]}
    node.write("advertisement", cilium("CiliumBGPAdvertisement", "all", both, a="b"))
    for name, address, app in (("web", "198.51.100.7", "web"), ("db", "198.51.100.8", "db")):
        node.write(name, service(name, address, app))
        node.write(f"{name}-1", backends(name, ready=True))
    node.start()
    until(node.ready, "the speaker is ready")
    web = "198.51.100.7/32"
    until(lambda: prefixes(router) == {POD, web}, "FRR has exactly what was selected")
    assert (communities(router, POD), communities(router, web)) == ("65101:99", "65101:7")
    assert path(router, POD)["largeCommunity"]["string"] == "65101:1:2"
    assert node.status()["findings"] == []
    ups = router.vty.peer(NODE_)["connectionsEstablished"]

    node.write("web-1", backends("web", ready=False))
    until(lambda: prefixes(router) == {POD}, "no backend is ready")
    node.write("web-1", backends("web", ready=True))
    node.write("db", service("db", "198.51.100.8", "web"))
    until(lambda: len(prefixes(router)) == 3, "both services are selected")
    more = {**PODS, "attributes": {"communities": {"wellKnown": ["no-export"]}}}
    spec = {"advertisements": [more]}
    node.write("more", cilium("CiliumBGPAdvertisement", "more", spec, a="b"))
    until(lambda: communities(router, POD) == "65101:99 no-export", "communities are united")
    node.write("more", cilium("CiliumBGPAdvertisement", "more", spec, a="c"))
    until(lambda: communities(router, POD) == "65101:99", "no family asks for it")
    until(lambda: "CiliumBGPAdvertisement/more" in node.finding("B265"), "which is a finding")
    assert router.vty.peer(NODE_)["connectionsEstablished"] == ups

    (node.manifests / "config.yaml").unlink()
    until(lambda: prefixes(router) == set(), "a session needs the CiliumBGPPeerConfig")
    until(lambda: "peerConfigRef.name" in node.finding("B260"), "the missing one is a finding")


# --- Random changes -----------------------------------------------------------------------------


@dataclass
class Offered:
    """A service: its label, and whether a backend is ready."""

    app: str
    ready: bool


class Model:
    """Objects, and what routers should have of them: prefix -> attributes."""

    def __init__(self, choice: random.Random) -> None:
        self.choice = choice
        self.services: dict[int, Offered] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.pods = True

    def change(self, node: Node) -> None:
        """Change one object."""
        if self.choice.random() < 0.3:
            self._change_peer(node)
            return
        number = self.choice.randrange(6)
        name, old = f"s{number}", self.services.get(number)
        if old and self.choice.random() < 0.3:
            del self.services[number]
            (node.manifests / f"{name}.yaml").unlink()
            (node.manifests / f"{name}-1.yaml").unlink()
            return
        made = Offered(self.choice.choice("xyz"), self.choice.random() < 0.7)
        self.services[number] = made
        node.write(name, service(name, f"198.51.100.{number}", made.app))
        node.write(f"{name}-1", backends(name, ready=made.ready))

    def _change_peer(self, node: Node) -> None:
        self.pods = self.choice.random() < 0.7
        names = self.choice.sample("xyz", self.choice.randrange(3))
        self.entries = {name: self._attributes() for name in sorted(names)}
        self.write_peer(node)

    def _attributes(self) -> dict[str, Any]:
        some = self.choice.sample(["65101:1", "65101:2", "65101:3"], self.choice.randrange(3))
        return {"standard": sorted(some), "med": self.choice.choice((None, 1, 2))}

    def write_peer(self, node: Node) -> None:
        entries = [
            {
                "type": "services",
                "selector": {"matchLabels": {"app": name}},
                "communities": {"standard": one["standard"]},
                **({} if one["med"] is None else {"med": one["med"]}),
            }
            for name, one in self.entries.items()
        ]
        spec = {
            "nodeSelector": {},
            "prefix": RANGE,
            "asn": 65000,
            "localASN": 65101,
            "families": ["ipv4Unicast"],
            "advertise": ["podCIDRs"] if self.pods else [],
            "advertisements": entries,
            "holdSeconds": 9,
        }
        node.write("peer", own_document("BGPPeer", "router", spec))

    def expected(self) -> Table:
        found: dict[str, tuple[int, tuple[str, ...], tuple[str, ...], int]] = {}
        if self.pods:
            found[POD] = (0, (), (), 1)
        for number, one in self.services.items():
            entry: Mapping[str, Any] | None = self.entries.get(one.app)
            if entry and one.ready:
                attributes = (entry["med"] or 0, tuple(entry["standard"]), (), 1)
                found[f"198.51.100.{number}/32"] = attributes
        return found


def test_random_changes_of_objects_arrive_at_three_routers(
    node: Node, router: Router, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    model = Model(random.Random(seed))
    model.write_peer(node)
    with dialling(router, NODE_, tmp_path) as tables:
        node.start()
        until(node.ready, "the speaker is ready")
        for number in range(CHANGES):
            model.change(node)
            expected = model.expected()
            for name, table in tables.items():
                where = f"change {number} of seed {seed} on {name}: {expected}"
                until(lambda t=table, e=expected: t() == e, where)
