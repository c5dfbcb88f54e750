"""Which pods and addresses get the connections of a service, and what other clusters are told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from mesh.core.model import IP, Backend, Node, NodeKey, Pod, PodEntry, PodKey, PodRef, Service
from mesh.core.reconcile import Loop
from mesh.core.strict import parse_yaml
from mesh.core.table import Table
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.objects.schema import Parsed, Place, head
from mesh.objects.tables import Objects
from mesh.services.backends import merged_services
from mesh.services.controller import ServicesController
from mesh.services.findings import NOT_PUBLISHED
from mesh.services.kinds import SERVICES, SLICES
from tests.unit.services.test_services import WEB, backend, foreign, ips

#: A pod that is ready, one that is not, and one that was deleted, ready and not.
READY, UNREADY, LEAVING, DYING = (True, False), (False, False), (True, True), (False, True)


def document(text: str) -> Parsed:
    [found] = parse_yaml(text)
    named = head(found)
    return KINDS.parse(named, Place("east", "m.yaml", KINDS.key_of(named)), found)


class East:
    """A cluster with one service ``web``; its controller derives."""

    def __init__(
        self,
        spec: str = "selector: {app: web}",
        annotations: str = "a: b",
        *,
        beside: bool = False,
    ) -> None:
        self.objects = Objects(KINDS.nouns)
        self.entries: Table[PodRef, PodEntry] = Table("pod entry")
        self.hosts: Table[IP, None] = Table("address of node")
        self.hosts.mark_synced()
        self.controller = ServicesController(
            self.objects,
            self.entries,
            [ip_network("10.1.0.0/16"), ip_network("fd01::/48")],
            self.hosts,
            beside=beside,
        )
        self.loop = Loop()
        self.controller.derive(self.loop)
        self.entries.mark_synced()
        for table in self.objects.tables().values():
            table.mark_synced()
        self.service(spec, annotations)

    def service(self, spec: str, annotations: str = "a: b") -> None:
        self.put(
            f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop, annotations: {{{annotations}}}}}
spec: {{clusterIP: 10.97.1.10, ports: [{{name: http, port: 80, targetPort: 8080}}], {spec}}}
"""
        )

    def put(self, text: str) -> None:
        parsed = document(text)
        self.objects.tables()[parsed.noun].upsert({parsed.key: parsed.row})

    def pod(
        self, number: int, state: tuple[bool, bool] = READY, addresses: tuple[IP, ...] = ()
    ) -> None:
        key = PodKey("east", "shop", f"web-{number}")
        serving, terminating = state
        row = Pod("east", "shop", key.name, "east-1", (("app", "web"),))
        row = replace(row, serving=serving, terminating=terminating)
        self.objects[PODS].upsert({key: row})
        entry = PodEntry(addresses or ips(f"10.1.0.{number}"), "")
        self.entries.upsert({PodRef("east-1", "shop", key.name): entry})

    def slice(self, name: str, *endpoints: str, family: str = "IPv4", port: str = "http") -> None:
        self.put(
            f"""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
endpoints: [{", ".join(endpoints)}]
ports: [{{name: {port}, port: 8080}}]
"""
        )

    @property
    def row(self) -> Service:
        self.loop.derive_all()
        return self.controller.service.rows[WEB]

    @property
    def backends(self) -> list[str]:
        return [str(one.address) for one in self.row.backends]


def endpoint(address: str, conditions: str = "") -> str:
    return f'{{addresses: ["{address}"], conditions: {{{conditions}}}}}'


LAST_RESORT = "ready: false, serving: true, terminating: true"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((READY, UNREADY, LEAVING, DYING), [1]),
        ((UNREADY, UNREADY, LEAVING, DYING), [3]),
        ((UNREADY, LEAVING, LEAVING, READY), [4]),
        ((UNREADY, UNREADY, DYING, DYING), []),
    ],
)
def test_pods_that_are_ready_get_connections(
    states: tuple[tuple[bool, bool], ...], expected: list[int]
) -> None:
    """While none is, those that serve while they terminate (KEP-1669)."""
    east = East()
    for number, state in enumerate(states, 1):
        east.pod(number, state)
    assert east.backends == [f"10.1.0.{number}" for number in expected]


def test_a_pod_that_becomes_ready_takes_over_from_those_that_terminate() -> None:
    east = East()
    east.pod(1, LEAVING)
    east.pod(2, UNREADY)
    assert east.backends == ["10.1.0.1"]
    east.pod(2, READY)
    assert east.backends == ["10.1.0.2"]
    east.pod(2, UNREADY)
    assert east.backends == ["10.1.0.1"]


def test_each_family_has_its_own_last_resort() -> None:
    """A ready pod without an IPv6 address leaves IPv6 to a pod that terminates."""
    east = East()
    east.pod(1, READY, ips("10.1.0.1"))
    east.pod(2, LEAVING, ips("10.1.0.2", "fd01::2"))
    assert east.backends == ["10.1.0.1", "fd01::2"]


def test_a_service_may_ask_for_pods_that_are_not_ready() -> None:
    east = East("selector: {app: web}, publishNotReadyAddresses: true")
    for number, state in enumerate((READY, UNREADY, LEAVING, DYING), 1):
        east.pod(number, state)
    assert east.backends == [f"10.1.0.{number}" for number in (1, 2, 3, 4)]


def test_slices_decide_for_a_service_that_has_some() -> None:
    east = East()
    east.pod(1)
    assert east.backends == ["10.1.0.1"]
    east.slice("a", endpoint("10.1.0.7"))
    assert east.backends == ["10.1.0.7"]
    east.slice("a")
    assert east.backends == [], "a slice without endpoints says that there are none"
    key = next(iter(east.objects[SLICES].rows))
    east.objects[SLICES].delete([key])
    assert east.backends == ["10.1.0.1"]


def test_endpoints_of_slices_that_serve_while_they_terminate_are_the_last_resort() -> None:
    east = East("type: ClusterIP")
    dying = endpoint("10.1.1.3", "ready: false, serving: false, terminating: true")
    east.slice("a", endpoint("10.1.0.3", LAST_RESORT), dying)
    assert east.backends == ["10.1.0.3"]
    east.slice("b", endpoint("10.1.0.4"))
    assert east.backends == ["10.1.0.4"]
    east.slice("b", endpoint("10.1.0.4"), port="other")
    assert east.backends == ["10.1.0.3"], "no endpoint of this port is ready"


def test_an_address_in_two_slices_is_ready_when_one_says_so() -> None:
    east = East("type: ClusterIP")
    east.slice("a", endpoint("10.1.0.3", LAST_RESORT), endpoint("10.1.0.4", LAST_RESORT))
    east.slice("b", endpoint("10.1.0.3"))
    assert east.backends == ["10.1.0.3"]


ENDPOINTS = """
apiVersion: v1
kind: Endpoints
metadata: {name: web, namespace: shop}
subsets:
- {addresses: [{ip: 192.0.2.10}], ports: [{name: http, port: 7007}]}
- {addresses: [{ip: 192.0.2.11}], ports: [{name: http, port: 7008}, {name: other, port: 1}]}
"""


def test_endpoints_are_read_for_a_service_without_selector_and_slices() -> None:
    """Each subset has its own ports. A folder has nobody who would make slices of them."""
    east = East("type: ClusterIP")
    east.put(ENDPOINTS)
    assert [(str(one.address), one.port) for one in east.row.backends] == [
        ("192.0.2.10", 7007),
        ("192.0.2.11", 7008),
    ]
    east.slice("a", endpoint("10.1.0.3"))
    assert east.backends == ["10.1.0.3"]
    east = East("selector: {app: web}")
    east.put(ENDPOINTS)
    assert east.backends == [], "with a selector Kubernetes writes the slices itself"


def test_a_pod_in_its_nodes_network_has_the_nodes_addresses() -> None:
    """Those that the kubelet wrote, else the node's first one of each family."""
    east = East()
    key = PodKey("east", "shop", "hn")
    row = Pod("east", "shop", "hn", "east-2", (("app", "web"),))
    east.objects[HOST_PODS].upsert({key: row})
    assert east.backends == []
    addresses = ips("10.99.0.12", "192.0.2.12", "fd99::12")
    node = Node("east", "east-2", addresses)
    east.objects[NODES].upsert({NodeKey("east", "east-2"): node})
    assert east.backends == ["10.99.0.12", "fd99::12"]
    east.objects[HOST_PODS].upsert({key: replace(row, addresses=ips("192.0.2.12"))})
    assert east.backends == ["192.0.2.12"]
    east.objects[HOST_PODS].upsert({key: replace(row, serving=False)})
    assert east.backends == []
    east.objects[HOST_PODS].upsert({key: replace(row, terminating=True)})
    assert east.backends == ["10.99.0.12", "fd99::12"]


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        ("", ["10.1.0.1", "10.2.0.1", "fd02::1"]),
        ("local", ["10.1.0.1", "fd02::1"]),
        ("remote", ["10.2.0.1", "fd02::1"]),
    ],
)
def test_the_affinity_of_a_global_service_prefers_a_side(
    affinity: str, expected: list[str]
) -> None:
    """For each family while the side has any; without own backends the other side serves."""
    own = Service("east", "shop", "web", ips("10.97.1.10"), (), is_global=True, affinity=affinity)
    own = replace(own, backends=(backend("10.1.0.1"),))
    remote = foreign("west", "10.2.0.1", "fd02::1")
    key = replace(WEB, cluster="west")
    rows = merged_services(("shop", "web"), {WEB: own}, {key: remote})
    assert [str(one.address) for one in rows[WEB].backends] == expected
    alone = merged_services(("shop", "web"), {WEB: own}, {})
    assert alone[WEB].backends == own.backends


GLOBAL = "service.cilium.io/global: 'true'"


def test_other_clusters_get_the_backends_that_they_accept() -> None:
    """Each one by itself: those that are neither pod nor node are left out, and named."""
    east = East("type: ClusterIP", GLOBAL)
    east.slice("a", endpoint("10.1.0.3"), endpoint("192.0.2.10"), endpoint("10.99.0.12"))
    assert east.backends == ["10.1.0.3", "10.99.0.12", "192.0.2.10"]
    [row] = east.controller.published.rows.values()
    assert row.backends == (Backend(ip_address("10.1.0.3"), 8080, "http", "TCP", "east"),)
    [finding] = east.controller.findings()
    assert (finding.code, finding.object) == (NOT_PUBLISHED, "Service/shop/web")
    assert finding.text.startswith("2 backends (10.99.0.12, 192.0.2.10) neither pod nor node")
    east.hosts.upsert({ip_address("10.99.0.12"): None})
    east.loop.derive_all()
    [row] = east.controller.published.rows.values()
    assert {str(one.address) for one in row.backends} == {"10.1.0.3", "10.99.0.12"}
    [finding] = east.controller.findings()
    assert finding.text.startswith("1 backend (192.0.2.10) neither")
    east.slice("a", endpoint("10.1.0.3"))
    assert east.backends == ["10.1.0.3"]
    assert not list(east.controller.findings())


def test_beside_another_cni_a_backend_is_where_a_pod_says_it_is() -> None:
    """No network of pods is known; an address that no pod has is left out as ever."""
    east = East("type: ClusterIP", GLOBAL, beside=True)
    east.slice("a", endpoint("10.244.1.3"), endpoint("10.244.1.9"))
    assert east.backends == ["10.244.1.3", "10.244.1.9"]
    [row] = east.controller.published.rows.values()
    assert row.backends == ()
    east.pod(3, addresses=ips("10.244.1.3"))
    east.loop.derive_all()
    [row] = east.controller.published.rows.values()
    assert [str(one.address) for one in row.backends] == ["10.244.1.3"]
    [finding] = east.controller.findings()
    assert finding.text.startswith("1 backend (10.244.1.9) neither")


def test_a_service_of_this_cluster_alone_is_not_published() -> None:
    east = East("type: ClusterIP", f"{GLOBAL}, service.cilium.io/shared: 'false'")
    east.slice("a", endpoint("192.0.2.10"))
    assert east.backends == ["192.0.2.10"]
    assert not east.controller.published.rows
    assert not list(east.controller.findings())
    east.objects[SERVICES].delete([WEB])
    east.loop.derive_all()
    assert not east.controller.service.rows
