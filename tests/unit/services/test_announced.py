"""Addresses of services that a node announces: forms, readiness, traffic policies, kube-proxy."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from typing import Any

from bgp.peer import Advertise
from bgp.route import Family
from bgp.routes import routes_of
from mesh.core.feature import Offer
from mesh.core.model import Network, Node, PodEntry, PodRef, Requirement, Selector
from mesh.core.reconcile import Loop
from mesh.core.strict import parse_yaml
from mesh.core.table import Table
from mesh.objects.kinds import KINDS
from mesh.objects.schema import Place, head
from mesh.objects.tables import Objects
from mesh.services.kinds import ADVERTISED
from mesh.services.proxy import Proxy
from mesh.services.settings import ServicesSettings
from mesh.services.speaker import ServicesSpeaker

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {tier: edge}}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.10, "fd96::10"]
  externalIPs: [203.0.113.9, no address]
  ports: [{port: 80}]
  selector: {app: web}
  POLICY: POLICY
status:
  loadBalancer: {ingress: [{ip: 198.51.100.7}, {ip: 198.51.100.8, ipMode: Proxy}, {hostname: a.b}]}
"""
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.2.5], conditions: {ready: true}}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {nodeName: east-2}
status: {conditions: [{type: Ready, status: "True"}]}
"""
HERE = Node("east", "east-2", (ip_address("10.99.0.12"),))
ELSEWHERE = Node("east", "east-3", (ip_address("10.99.0.13"),))
CIDRS = {"east-2": [ip_network("10.1.2.0/24")], "east-3": [ip_network("10.1.3.0/24")]}
OUTSIDE = [("LoadBalancer", "198.51.100.7/32"), ("External", "203.0.113.9/32")]
V4 = [OUTSIDE[0], ("ClusterIP", "10.96.0.10/32"), OUTSIDE[1]]


class World:
    """Objects, and the speaker's part of the room."""

    def __init__(self, *texts: str, owned: bool = True, place: str = "") -> None:
        self.objects, self.loop = Objects(KINDS.nouns), Loop()
        self.pods: Table[PodRef, PodEntry] = Table("pods")
        self.pods.replace({})

        async def look() -> str:
            return place

        proxy = Proxy(ServicesSettings(kube_proxy=owned or "auto"), look)
        asyncio.run(proxy.look())
        self.room = ServicesSpeaker(self.objects, self.pods, self._networks, proxy, lambda: True)
        self.room.derive(self.loop)
        for text in texts:
            self.put(text)
        for table in self.objects.tables().values():
            table.mark_synced()

    def _networks(self, node: Node) -> list[Network]:
        return CIDRS[node.name]

    def put(self, text: str) -> None:
        (document,) = parse_yaml(text)
        said = head(document)
        parsed = KINDS.parse(said, Place("east", "", KINDS.key_of(said)), document)
        self.objects.tables()[parsed.noun].upsert({parsed.key: parsed.row})

    def offers(self, node: Node = HERE) -> list[Offer]:
        self.loop.derive_all()
        return list(self.room.offers(node))

    def shown(self, node: Node = HERE) -> list[tuple[str, str]]:
        return [(one.form, str(one.prefix)) for one in self.offers(node)]


def service(policy: str = "externalTrafficPolicy", value: str = "Cluster") -> str:
    return SERVICE.replace("POLICY: POLICY", f"{policy}: {value}")


def test_every_form_of_a_family_that_has_a_ready_backend() -> None:
    world = World(service(), SLICE)
    assert world.shown() == world.shown(ELSEWHERE) == V4
    first = world.offers()[0]
    assert first.object == "service/shop/web"
    assert dict(first.labels) == {
        "tier": "edge",
        "io.kubernetes.service.name": "web",
        "io.kubernetes.service.namespace": "shop",
    }


def test_it_is_withdrawn_when_no_backend_is_ready_and_comes_back() -> None:
    world = World(service(), SLICE)
    world.put(SLICE.replace("ready: true", "ready: false"))
    assert world.shown() == []
    world.put(SLICE.replace("ready: true", "ready: false, serving: true, terminating: true"))
    assert world.shown() == V4
    world.put(SLICE.replace("endpoints: [{addresses: [10.1.2.5], conditions: {ready: true}}]", ""))
    assert world.shown() == []


def test_a_further_backend_changes_nothing_unless_its_place_counts() -> None:
    more = SLICE.replace("endpoints: [", "endpoints: [{addresses: [10.1.3.5]}, ")
    world = World(service(), SLICE)
    world.offers()
    before = world.room.announced.revision
    world.put(more)
    world.offers()
    assert world.room.announced.revision == before
    local = World(service(value="Local"), SLICE)
    assert local.shown(ELSEWHERE) == [V4[1]]
    local.put(more)
    assert local.shown(ELSEWHERE) == V4


def test_a_policy_local_is_announced_where_a_backend_is() -> None:
    world = World(service(value="Local"), SLICE)
    assert world.shown() == V4
    assert world.shown(ELSEWHERE) == [V4[1]]
    assert [one.exact for one in world.offers()] == [True, False, True]
    inside = World(service("internalTrafficPolicy", "Local"), SLICE)
    assert inside.shown(ELSEWHERE) == OUTSIDE


def test_a_backend_is_here_by_the_entry_of_its_pod_and_by_the_nodes_address() -> None:
    world = World(service(value="Local"), SLICE.replace("10.1.2.5", "10.7.7.7"))
    assert world.shown() == [V4[1]]
    entry = PodEntry((ip_address("10.7.7.7"),), "")
    world.pods.upsert({PodRef("east-2", "shop", "web-1"): entry})
    assert world.shown() == V4
    assert World(service(value="Local"), SLICE.replace("10.1.2.5", "10.99.0.12")).shown() == V4


def test_without_slices_the_pods_of_the_selector_count() -> None:
    both = [V4[0], V4[1], ("ClusterIP", "fd96::10/128"), V4[2]]
    world = World(service(value="Local"), POD)
    assert world.shown() == both
    assert world.shown(ELSEWHERE) == both[1:3]
    world.put(POD.replace('"True"', '"False"'))
    assert world.shown() == world.shown(ELSEWHERE) == []


def test_without_a_kube_proxy_nothing_is_announced_and_a_finding_says_why() -> None:
    world = World(service(), SLICE, owned=False)
    assert world.shown() == []
    assert [one.code for one in world.room.findings()] == ["B268"]
    there = World(service(), SLICE, owned=False, place="port 10256")
    assert there.shown() == V4
    assert list(there.room.findings()) == []


def chosen(*entries: Advertise, **spec: Any) -> list[str]:
    own = {ADVERTISED: World(service(**spec), SLICE).offers(ELSEWHERE)}
    families = (Family.IPV4, Family.IPV6)
    hops = {4: ip_address("10.99.0.13"), 6: None}
    made = routes_of(entries, families, own, hops, ip_address("10.99.0.1"))
    return [str(prefix) for prefix, _ in made.rows]


def test_an_advertisement_chooses_forms_labels_and_lengths() -> None:
    outside = [prefix for _, prefix in OUTSIDE]
    assert chosen(Advertise(ADVERTISED)) == outside
    assert chosen(Advertise(ADVERTISED, addresses=("ClusterIP",))) == ["10.96.0.10/32"]
    core = Selector((Requirement("tier", "In", ("core",)),))
    assert chosen(Advertise(ADVERTISED, core)) == []
    by_name = Selector((Requirement("io.kubernetes.service.name", "In", ("web",)),))
    assert chosen(Advertise(ADVERTISED, by_name)) == outside
    assert chosen(Advertise(ADVERTISED, lengths=(24, None))) == [
        "198.51.100.0/24",
        "203.0.113.0/24",
    ]
    assert chosen(Advertise(ADVERTISED, families=(Family.IPV6,))) == []


def test_a_policy_local_is_not_aggregated_by_length() -> None:
    own = {ADVERTISED: World(service(value="Local"), SLICE).offers()}
    hops = {4: ip_address("10.99.0.12"), 6: None}
    made = routes_of(
        [Advertise(ADVERTISED, lengths=(24, None))], [Family.IPV4], own, hops, ip_address("::1")
    )
    assert [str(prefix) for prefix, _ in made.rows] == ["198.51.100.7/32", "203.0.113.9/32"]
