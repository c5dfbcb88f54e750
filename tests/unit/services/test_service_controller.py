"""Services in the controller: what this cluster contributes, and the rows of the command line."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_network

from mesh.core.model import (
    IP,
    Backend,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    Service,
    ServiceKey,
    ServicePort,
)
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.objects.tables import Objects
from mesh.services import nouns
from mesh.services.cidrs import SERVICE_CIDRS
from mesh.services.controller import ServicesController
from mesh.services.kinds import ENDPOINTS, SERVICES, SLICES, ServiceObject, ServicePortObject

WEB, SERVICE = PodKey("east", "shop", "web-1"), ServiceKey("east", "shop", "web")
LABELS = (("app", "web"),)


class Cluster:
    """One pod behind one global service; ``controller`` derives from its tables."""

    def __init__(self) -> None:
        self.objects = Objects([PODS, HOST_PODS, NODES, SERVICES, SLICES, ENDPOINTS, SERVICE_CIDRS])
        self.entries: Table[PodRef, PodEntry] = Table("pod entry")
        self.remote: Table[ServiceKey, Service] = Table("remote service")
        hosts: Table[IP, None] = Table("address of node")
        hosts.mark_synced()
        self.controller = ServicesController(
            self.objects, self.entries, [ip_network("10.1.0.0/16")], hosts, self.remote
        )
        self.loop = Loop()
        self.controller.derive(self.loop)
        ports = (ServicePortObject("http", "TCP", 80, 8080),)
        where = (IPv4Address("10.97.1.1"),)
        row = ServiceObject("east", "shop", "web", where, ports, LABELS, is_global=True)
        self.objects[SERVICES].upsert({SERVICE: row})
        self.objects[PODS].upsert({WEB: Pod("east", "shop", "web-1", "east-1", LABELS)})
        entry = PodEntry((IPv4Address("10.1.1.1"),), "")
        self.entries.upsert({PodRef("east-1", "shop", "web-1"): entry})

    def sync(self) -> None:
        for table in (*self.objects.tables().values(), self.entries):
            table.mark_synced()
        self.loop.derive_all()


def test_a_pod_that_goes_takes_its_backend_along() -> None:
    """The agent deletes its key; the service stays without backends."""
    it = Cluster()
    it.sync()
    assert [str(b.address) for b in it.controller.service.rows[SERVICE].backends] == ["10.1.1.1"]
    it.entries.delete([PodRef("east-1", "shop", "web-1")])
    it.loop.derive_all()
    assert it.controller.service.rows[SERVICE].backends == ()


def test_nothing_is_said_from_half_of_the_facts() -> None:
    it = Cluster()
    for table in it.objects.tables().values():
        table.mark_synced()
    it.loop.derive_all()
    assert not it.controller.service.synced
    it.sync()
    assert it.controller.service.synced


def test_peers_do_not_count_as_own_and_are_listed() -> None:
    it = Cluster()
    it.sync()
    backend = Backend(IPv4Address("10.2.0.1"), 8080, "http", "TCP", "west")
    ports = (ServicePort("http", "TCP", 80),)
    row = Service("west", "shop", "web", (), ports, is_global=True, backends=(backend,))
    it.remote.upsert({replace(SERVICE, cluster="west"): row})
    it.loop.derive_all()
    assert list(it.controller.service.rows) == [SERVICE]
    rows = it.controller.listings()["service"]()
    assert [(row["cluster"], row["name"]) for row in rows] == [("east", "web"), ("west", "web")]
    assert {tuple(row) for row in rows} == {nouns.SERVICE.columns}
    assert rows[0]["ports"] == [{"name": "http", "protocol": "TCP", "port": 80}]


def test_service_addresses_are_ours() -> None:
    it = Cluster()
    it.sync()
    assert list(it.controller.ours[0].rows) == [ip_network("10.97.1.1/32")]
    it.objects[SERVICES].delete([SERVICE])
    it.loop.derive_all()
    assert not it.controller.ours[0].rows
