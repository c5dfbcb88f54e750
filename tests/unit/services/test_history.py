"""After every event of a random history the rows are those that whole tables give."""

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from mesh.core.model import (
    IP,
    Backend,
    ContainerPort,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    Service,
    ServiceKey,
    ServicePort,
)
from mesh.core.table import Table
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.services.backends import ServiceAddress
from mesh.services.controller import ServicesController
from mesh.services.findings import ADDRESS_CONFLICT
from mesh.services.kinds import (
    ENDPOINTS,
    SERVICES,
    SLICES,
    Endpoints,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
    ServicePortObject,
)
from tests.unit.services.room import Room
from tests.unit.services.whole import merged, own_services, translations

EVENTS = 150
NAMES = ("db", "pay", "web", "zoo")
SPACES = ("blog", "shop")
LABELS = (("app", "db"), ("app", "web"), ("canary", "true"), ("tier", "back"), ("tier", "front"))
PORTS = (("http", "TCP", 80), ("alt", "TCP", 81), ("dns", "UDP", 53), ("", "TCP", 80))


class World:
    """Few names, so that events meet."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.room = Room()
        self.room.agent.derive(self.room.loop)
        nowhere: Table[IP, None] = Table("address of node")
        nowhere.mark_synced()
        self.controller = ServicesController(self.room.objects, self.room.entries, (), nowhere)
        self.controller.derive(self.room.loop)
        self.events = [
            self.pod, self.pod, self.no_pod, self.labels, self.entry, self.no_entry,
            self.service, self.service, self.no_service, self.part, self.no_part, self.no_part,
            self.endpoints, self.no_endpoints, self.condition, self.host_pod, self.no_host_pod,
            self.machine,
            self.remote, self.no_remote,
        ]  # fmt: skip

    def step(self) -> None:
        """One to three events at once."""
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            self.chance.choice(self.events)()
        self.room.settle()

    def address(self) -> IP:
        number = self.chance.randrange(8)
        return self.chance.choice((IPv4Address(0x0A010000 + number), IPv6Address(number + 1)))

    def addresses(self, most: int) -> tuple[IP, ...]:
        return tuple(self.address() for _ in range(self.chance.randrange(most + 1)))

    def some_labels(self) -> tuple[tuple[str, str], ...]:
        chosen = dict(self.chance.sample(LABELS, self.chance.randrange(4)))
        return tuple(sorted(chosen.items()))

    def ports(self) -> tuple[ServicePort, ...]:
        chosen = self.chance.sample(PORTS, self.chance.randrange(1, 3))
        return tuple(ServicePort(*port) for port in chosen)

    def key(self) -> PodKey:
        return PodKey("east", self.chance.choice(SPACES), f"pod-{self.chance.randrange(6)}")

    def node(self) -> str:
        return f"east-{self.chance.randrange(2)}"

    def pod(self) -> None:
        key = self.key()
        ports = (ContainerPort("named", "TCP", self.chance.choice((8080, 9090))),)
        row = Pod("east", key.namespace, key.name, self.node(), self.some_labels(), (), ports=ports)
        self.room.objects[PODS].upsert({key: row})

    def no_pod(self) -> None:
        self.room.objects[PODS].delete([self.key()])

    def labels(self) -> None:
        key = self.key()
        if pod := self.room.objects[PODS].rows.get(key):
            self.room.objects[PODS].upsert({key: replace(pod, labels=self.some_labels())})

    def entry(self) -> None:
        key = self.key()
        row = PodEntry(self.addresses(2), "")
        self.room.entries.upsert({PodRef(self.node(), key.namespace, key.name): row})

    def no_entry(self) -> None:
        key = self.key()
        self.room.entries.delete([PodRef(self.node(), key.namespace, key.name)])

    def service_key(self, cluster: str = "east") -> ServiceKey:
        return ServiceKey(cluster, self.chance.choice(SPACES), self.chance.choice(NAMES))

    def service(self) -> None:
        key = self.service_key()
        ports = tuple(
            ServicePortObject(*port, self.chance.choice((8080, "named", "absent")))
            for port in self.chance.sample(PORTS, self.chance.randrange(1, 4))
        )
        row = ServiceObject(
            key.cluster,
            key.namespace,
            key.name,
            self.addresses(3),
            ports,
            self.chance.choice((None, self.some_labels() or None)),
            is_global=self.chance.random() < 0.6,
            is_shared=self.chance.random() < 0.8,
            affinity=self.chance.choice(("", "", "local", "remote")),
            with_unready=self.chance.random() < 0.2,
        )
        self.room.objects[SERVICES].upsert({key: row})

    def no_service(self) -> None:
        self.room.objects[SERVICES].delete([self.service_key()])

    def part_key(self) -> EndpointSliceKey:
        number = self.chance.randrange(4)
        return EndpointSliceKey("east", self.chance.choice(SPACES), f"part-{number}")

    def part(self) -> None:
        key, name = self.part_key(), self.chance.choice(NAMES)
        row = EndpointSlice(
            key.cluster, key.namespace, key.name, name, self.addresses(3), self.ports(),
            leaving=self.addresses(2),
        )  # fmt: skip
        self.room.objects[SLICES].upsert({key: row})

    def no_part(self) -> None:
        self.room.objects[SLICES].delete([self.part_key()])

    def endpoints(self) -> None:
        key = self.service_key()
        slices = tuple(
            EndpointSlice("east", key.namespace, key.name, key.name, self.addresses(2), ports)
            for ports in [self.ports() for _ in range(self.chance.randrange(3))]
        )
        row = Endpoints(key.cluster, key.namespace, key.name, slices)
        self.room.objects[ENDPOINTS].upsert({key: row})

    def no_endpoints(self) -> None:
        self.room.objects[ENDPOINTS].delete([self.service_key()])

    def condition(self) -> None:
        """A pod becomes ready, is not any more, or is deleted and goes on for a while."""
        key, noun = self.key(), self.chance.choice((PODS, HOST_PODS))
        serving, terminating = self.chance.random() < 0.6, self.chance.random() < 0.4
        if pod := self.room.objects[noun].rows.get(key):
            row = replace(pod, serving=serving, terminating=terminating)
            self.room.objects[noun].upsert({key: row})

    def host_pod(self) -> None:
        key, written = self.key(), self.chance.choice(((), self.addresses(2)))
        row = Pod("east", key.namespace, key.name, self.node(), self.some_labels(), written)
        self.room.objects[PODS].delete([key])
        self.room.objects[HOST_PODS].upsert({key: row})

    def no_host_pod(self) -> None:
        self.room.objects[HOST_PODS].delete([self.key()])

    def machine(self) -> None:
        name = self.node()
        row = Node("east", name, self.addresses(3))
        self.room.objects[NODES].upsert({NodeKey("east", name): row})

    def remote(self) -> None:
        key = self.service_key(self.chance.choice(("north", "west")))
        ports = self.ports()
        found = {
            Backend(self.address(), 8080, port.name, port.protocol, key.cluster) for port in ports
        }
        row = Service(
            key.cluster,
            key.namespace,
            key.name,
            self.addresses(1),
            ports,
            self.chance.random() < 0.8,
            self.chance.random() < 0.8,
            tuple(sorted(found, key=str)),
        )
        self.room.remote.upsert({key: row})

    def no_remote(self) -> None:
        self.room.remote.delete([self.service_key(self.chance.choice(("north", "west")))])

    def node_addresses(self, name: str) -> tuple[IP, ...]:
        """The first address of each family."""
        row = self.room.objects[NODES].rows.get(NodeKey("east", name))
        of_family = {a.version: a for a in reversed(row.addresses if row else ())}
        return tuple(of_family.values())

    def check(self) -> None:
        """Everything against the functions that look at whole tables."""
        objects, room, agent = self.room.objects, self.room, self.room.agent
        pods = {
            key: replace(pod, addresses=entry.addresses)
            for key, pod in objects[PODS].rows.items()
            if (entry := room.entries.rows.get(PodRef(pod.node, key.namespace, key.name)))
        }
        for key, pod in objects[HOST_PODS].rows.items():
            if key not in objects[PODS].rows:
                pods[key] = replace(pod, addresses=pod.addresses or self.node_addresses(pod.node))
        own = own_services(
            objects[SERVICES].rows, pods, objects[SLICES].rows, objects[ENDPOINTS].rows
        )
        services = merged(own, room.remote.rows.values())
        rows, conflicts = translations(services)
        assert self.controller.service.rows == own
        assert agent.service.rows == {**services, **room.remote.rows}
        assert room.translations() == rows
        found = [f for f in agent.findings() if f.code == ADDRESS_CONFLICT]
        assert sorted(f.object for f in found) == sorted(map(_object, conflicts))
        addresses = {a for row in objects[SERVICES].rows.values() for a in row.addresses}
        for facts in (*agent.ours, *self.controller.ours):
            assert facts.rows.keys() == {ip_network(address) for address in addresses}


def _object(conflict: tuple[ServiceKey, ServiceAddress, ServiceKey]) -> str:
    return f"Service/{conflict[0].namespace}/{conflict[0].name}"


@pytest.mark.parametrize("seed", range(12))
def test_every_history_gives_what_whole_tables_give(seed: int) -> None:
    world = World(seed)
    for _ in range(EVENTS):
        world.step()
        world.check()
