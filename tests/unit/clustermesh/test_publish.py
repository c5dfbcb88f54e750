"""What is published is what the other side accepts: rows to keys, and through the firewall."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from clustermesh import publish
from clustermesh.publish import PodAddresses
from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.importer import Imports
from mesh.core.model import Backend, Identity, Node, NodeKey, PodRef, Service, ServiceKey
from mesh.core.table import Changes, Table
from tests.fixtures.counted import Said

LABELS = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;k8s:io.kubernetes.pod.namespace=shop;"
OTHER = LABELS.replace("web", "client")
NODE = Node("east", "east-1", (ip_address("10.99.0.11"),), (ip_network("10.1.0.0/24"),))
WEB = PodRef("east-1", "shop", "web-1")
CLIENT = PodRef("east-1", "shop", "client-1")


def known(rows: dict[str, Any]) -> Changes[str, Any]:
    return Changes(rows, frozenset())


def key_of(service: Service) -> ServiceKey:
    return ServiceKey(service.cluster, service.namespace, service.name)


class Published:
    """The keys of pods of two nodes."""

    def __init__(self, *, endpoint: bool = True) -> None:
        self.said, self.table = Said(), Table[str, bytes]("ip")
        self.said.has("east-1", "10.1.0.0/24", "fd01::/64")
        self.said.has("east-2", "10.1.1.0/24")
        self.said.claim(65543, LABELS)
        self.said.claim(65544, OTHER)
        self.rows = PodAddresses(self.said.counted, self.table, "east")
        self.said.counted.then = self.rows.pods
        if endpoint:
            self.rows.endpoints(known({"east-1": IPv4Address("10.99.0.11")}))

    def say(self, ref: PodRef, *addresses: str, labels: str = LABELS) -> None:
        """An agent and a controller say the same of a pod."""
        self.said.confirm(ref, 65543 if labels == LABELS else 65544)
        self.said.say(ref, *addresses, labels=labels)

    def gone(self, ref: PodRef) -> None:
        self.said.entries.delete([ref])

    def settle(self) -> None:
        self.said.settle()


def who(table: Table[str, bytes]) -> dict[str, tuple[str, int]]:
    found = (json.loads(value) for value in table.rows.values())
    return {row["IP"]: (row["K8sPodName"], row["ID"]) for row in found}


def test_the_other_side_accepts_all_of_it() -> None:
    """A published cluster passes the peer's import firewall without a finding."""
    it = Published()
    it.say(WEB, "10.1.0.5")
    it.settle()
    backend = Backend(ip_address("10.1.0.5"), 8080, "http", "TCP", "east")
    service = Service("east", "shop", "web", (), (), is_global=True, backends=(backend,))
    peer = Imports(OwnFacts("west", 2))
    changes = peer.apply(
        {
            **publish.config("east", 1),
            **publish.node_keys(NodeKey("east", NODE.name), NODE, 1),
            **publish.identity_keys(65543, Identity("east", 65543, LABELS)),
            **publish.service_keys(key_of(service), service, 1),
            **publish.slice_keys(key_of(service), service, 1),
            **it.table.rows,
            **publish.canaries("east", "2026-01-01T00:00:00Z"),
        }
    )
    assert peer.findings == {}
    assert set(changes.identities.upsert) == {65543}
    assert set(changes.services.upsert) == {ServiceKey("east", "shop", "web")}
    assert len(changes.addresses.keys) == 1
    assert peer.importers["east"].canaries == set(publish.PREFIXES)


def test_nodes_without_pod_cidrs_wait() -> None:
    """A node is published when its claims are made."""
    new = Node("east", "new", NODE.addresses)
    assert publish.node_keys(NodeKey("east", "new"), new, 1) == {}


def test_only_global_and_shared_services_leave() -> None:
    """Local services and unshared ones stay at home."""
    local = Service("east", "shop", "a", (), ())
    unshared = Service("east", "shop", "b", (), (), is_global=True, is_shared=False)
    for one in (local, unshared):
        assert publish.service_keys(key_of(one), one, 1) == {}


def test_canaries_name_every_prefix() -> None:
    """One for each kind, with the prefix as it is in a store of one cluster."""
    assert set(publish.canaries("east", "now")) == {
        f"cilium/synced/east/cilium/cache/{kind}/v1"
        for kind in ("nodes", "services", "endpointslices", "identities", "ip")
    }


def test_address_waits_for_identity_and_node() -> None:
    """The facts may come in any order."""
    it = Published(endpoint=False)
    it.said.say(WEB, "10.1.0.5", "fd01::5", labels=LABELS)
    it.settle()
    it.said.confirm(WEB, 65543)
    it.settle()
    assert who(it.table) == {}
    it.rows.endpoints(known({"east-1": IPv4Address("10.99.0.11")}))
    assert who(it.table) == {"10.1.0.5": ("web-1", 65543), "fd01::5": ("web-1", 65543)}


def test_changed_pod_takes_its_old_addresses_away() -> None:
    """Labels change the identity, a new address replaces the old one, a deletion ends it."""
    it = Published()
    it.say(WEB, "10.1.0.5")
    it.settle()
    it.say(WEB, "10.1.0.6", labels=OTHER)
    it.settle()
    assert who(it.table) == {"10.1.0.6": ("web-1", 65544)}
    it.gone(WEB)
    it.settle()
    assert who(it.table) == {}


def test_address_passes_from_pod_to_pod() -> None:
    """The key is never absent in between, and the first one's end does not take it away."""
    it = Published()
    it.say(WEB, "10.1.0.5")
    it.say(CLIENT, "10.1.0.7", labels=OTHER)
    it.gone(CLIENT)
    it.settle()
    revision = it.table.revision
    it.gone(WEB)
    it.say(CLIENT, "10.1.0.5", labels=OTHER)
    it.settle()
    assert who(it.table) == {"10.1.0.5": ("client-1", 65544)}
    assert it.table.revision == revision + 1
    it.say(WEB, "10.1.0.5")
    it.settle()
    it.gone(CLIENT)
    it.settle()
    assert who(it.table) == {"10.1.0.5": ("web-1", 65543)}


def test_moved_endpoint_rewrites_its_pods_only() -> None:
    """A node with another tunnel address."""
    it = Published()
    rows, table = it.rows, it.table
    away = PodRef("east-2", "shop", "web-2")
    rows.endpoints(
        known({"east-1": IPv4Address("10.99.0.11"), "east-2": IPv4Address("10.99.0.12")})
    )
    it.say(WEB, "10.1.0.5")
    it.say(away, "10.1.1.5")
    it.settle()
    before = table.revision
    rows.endpoints(known({"east-2": IPv4Address("10.99.0.19")}))
    changes = table.changes(before)
    assert changes is not None
    assert list(changes.upsert) == [wire.address_key("east", ip_address("10.1.1.5"))]
    rows.endpoints(Changes({}, frozenset({"east-2"})))
    assert set(who(table)) == {"10.1.0.5"}
