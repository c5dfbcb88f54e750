"""Random histories of a small cluster, and all tables of a process as they are after them.

``World`` holds what the sources say now: objects, keys of our own subtree, keys of other clusters.
An event changes it and tells a ``Reader``. A fresh reader that is told everything at once must end
with the same tables; what is declared history stands in the tests.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Protocol

import msgspec

from clustermesh.remote import wire
from clustermesh.store.claims import encode_number, number_key
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import pod_key, pod_value
from gateway.policy import POLICIES, EgressPolicy
from mesh.core.model import (
    Address,
    Backend,
    ClaimKey,
    ContainerPort,
    Namespace,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    PodSelector,
    Requirement,
    Selector,
    Service,
    ServiceKey,
    ServicePort,
)
from mesh.core.reconcile import Loop
from mesh.core.table import ColumnTable, Source, Table, column_names
from mesh.identity.labels import identity_labels, namespace_of
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NAMESPACES, NODES, PODS
from mesh.objects.tables import Objects
from mesh.services.kinds import (
    SERVICES,
    SLICES,
    EndpointSlice,
    EndpointSliceKey,
    ServiceObject,
    ServicePortObject,
)

NODE_NAMES = ("east-1", "east-2", "east-3")
SPACES = ("blog", "shop")
PEERS = {"north": 2, "west": 3}
POOL = "10.1.0.0_16_24"
STORED = {
    "name": "east", "id": 1, "podCIDRs": [POOL], "locators": [],
    "blockSize": 256, "blocksPerNode": 4,
}  # fmt: skip
LABELS = (("app", "db"), ("app", "web"), ("tier", "back"), ("tier", "front"))


class Reader(Protocol):
    """A process's features as the sources see them."""

    objects: Objects

    def own(self, batch: Batch) -> None:
        """A batch of our own subtree."""

    def mesh(self, batch: Batch) -> None:
        """A batch of other clusters' keys."""

    def own_synced(self) -> None:
        """The first list of our own subtree is complete."""


def entry(key: str, value: bytes, revision: int = 1) -> Entry:
    return Entry(key, value, revision, revision, 0)


def node(n: int, labels: Mapping[str, str]) -> Node:
    addresses = (IPv4Address(f"10.99.0.{11 + n}"), IPv6Address(f"fd99::{11 + n}"))
    return Node("east", NODE_NAMES[n], addresses, labels=tuple(sorted(labels.items())))


class World:
    """``reader`` is told of every event; ``chance`` makes them."""

    def __init__(self, seed: int, reader: Reader) -> None:
        self.chance = random.Random(seed)
        self.reader = reader
        self.objects = Objects(KINDS.nouns)
        self.own_keys: dict[str, Entry] = {}
        self.mesh_keys: dict[str, Entry] = {}
        self.synced: dict[str, None] = {}
        self.revision = 1
        self.ids = dict(PEERS)
        self.own([entry("meshgate/v1/east/config", msgspec.json.encode(STORED))])
        self.events: list[Callable[[], None]] = [
            self.pod, self.pod, self.no_pod, self.pod_labels, self.namespace, self.node,
            self.no_node, self.node_labels, self.policy, self.policy, self.no_policy, self.slice,
            self.no_slice, self.service, self.no_service, self.identity, self.identity, self.cidr,
            self.block, self.release, self.pod_key, self.pod_key, self.no_pod_key, self.peer,
            self.peer_node, self.peer_addresses, self.peer_addresses, self.peer_service,
            self.peer_leaves, self.cluster_id, self.relist,
        ]  # fmt: skip

    def step(self) -> None:
        """One event."""
        self.chance.choice(self.events)()

    # What fresh readers are told

    def tell(self, reader: Reader) -> None:
        """Everything at once."""
        for noun, table in self.objects.tables().items():
            reader.objects.tables()[noun].upsert(table.rows)
        reader.own(Batch(self.revision, list(self.own_keys.values())))
        reader.mesh(Batch(self.revision, list(self.mesh_keys.values()), (), self._is("mesh")))
        for name in self.synced:
            self._tell_synced(reader, name)

    def _is(self, name: str) -> bool:
        return name in self.synced

    def sync(self, name: str) -> None:
        """The first list of a source is in: a noun of objects, ``own`` or ``mesh``."""
        if name not in self.synced:
            self.synced[name] = None
            if name == "mesh":
                self.reader.mesh(Batch(self.revision, (), (), listed=True))
            self._tell_synced(self.reader, name)

    def _tell_synced(self, reader: Reader, name: str) -> None:
        if name == "own":
            reader.own_synced()
        elif name in reader.objects.tables():
            reader.objects.tables()[name].mark_synced()

    @property
    def sources(self) -> list[str]:
        """Names for ``sync``."""
        return ["own", "mesh", *self.objects.tables()]

    # Telling

    def put(self, noun: Any, rows: Mapping[Any, Any]) -> None:
        self.objects[noun].upsert(rows)
        self.reader.objects[noun].upsert(rows)

    def drop(self, noun: Any, keys: Iterable[Any]) -> None:
        gone = list(keys)
        self.objects[noun].delete(gone)
        self.reader.objects[noun].delete(gone)

    def own(self, puts: Iterable[Entry], deletes: Iterable[str] = ()) -> None:
        self.reader.own(self._batch(self.own_keys, list(puts), list(deletes)))

    def mesh(self, puts: Iterable[Entry], deletes: Iterable[str] = ()) -> None:
        self.reader.mesh(self._batch(self.mesh_keys, list(puts), list(deletes)))

    def _batch(self, keys: dict[str, Entry], puts: list[Entry], deletes: list[str]) -> Batch:
        self.revision += 1
        gone = [key for key in deletes if keys.pop(key, None)]
        keys.update({one.key: one for one in puts})
        return Batch(self.revision, puts, gone)

    # Objects

    def some_labels(self) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(dict(self.chance.sample(LABELS, self.chance.randrange(3))).items()))

    def a_pod(self) -> PodKey:
        return PodKey("east", self.chance.choice(SPACES), f"pod-{self.chance.randrange(6)}")

    def pod(self) -> None:
        key = self.a_pod()
        ports = (ContainerPort("named", "TCP", 8080),)
        host, labels = self.chance.choice((*NODE_NAMES, "")), self.some_labels()
        row = Pod("east", key.namespace, key.name, host, labels, (), ports=ports)
        self.put(PODS, {key: row})

    def no_pod(self) -> None:
        self.drop(PODS, [self.a_pod()])

    def pod_labels(self) -> None:
        key = self.a_pod()
        if row := self.objects[PODS].rows.get(key):
            self.put(PODS, {key: replace(row, labels=self.some_labels())})

    def namespace(self) -> None:
        name = self.chance.choice(SPACES)
        labels = (("kubernetes.io/metadata.name", name), *self.some_labels())
        self.put(NAMESPACES, {name: Namespace("east", name, labels)})

    def node(self) -> None:
        n = self.chance.randrange(len(NODE_NAMES))
        labels = {"gw": "a"} if self.chance.random() < 0.5 else {}
        self.put(NODES, {NodeKey("east", NODE_NAMES[n]): node(n, labels)})

    def no_node(self) -> None:
        self.drop(NODES, [NodeKey("east", self.chance.choice(NODE_NAMES))])

    def node_labels(self) -> None:
        """The gateway moves."""
        n = self.chance.randrange(len(NODE_NAMES))
        labels = {"gw": self.chance.choice("ab"), "zone": self.chance.choice("xy")}
        key = NodeKey("east", NODE_NAMES[n])
        if key in self.objects[NODES].rows:
            self.put(NODES, {key: node(n, labels)})

    def policy(self) -> None:
        p = self.chance.randrange(4)
        (key, value), kind = self.chance.choice(LABELS), self.chance.random()
        rule = Requirement(key, "In", (value,))
        if kind < 0.3:
            rule = Requirement(key, "NotIn", (value,))
        hosts = Selector((Requirement("zone", "In", ("x",)),)) if kind > 0.8 else None
        space = Requirement("kubernetes.io/metadata.name", "In", (self.chance.choice(SPACES),))
        spaces = Selector((space,)) if self.chance.random() < 0.4 else None
        row = EgressPolicy(
            f"policy-{p}",
            (PodSelector(spaces, Selector((rule,)), hosts),),
            (ip_network(f"192.0.{self.chance.randrange(3)}.0/24"),),
            (ip_network("192.0.2.128/25"),) if kind < 0.5 else (),
            (IPv4Address(f"198.51.100.{self.chance.randrange(3)}"),),
            Selector((Requirement("gw", "In", (self.chance.choice("ab"),)),)),
            origin=f"policy-{p}.yaml",
            created=self.chance.choice(("", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")),
        )
        self.put(POLICIES, {row.name: row})

    def no_policy(self) -> None:
        self.drop(POLICIES, [f"policy-{self.chance.randrange(4)}"])

    def a_service(self) -> ServiceKey:
        return ServiceKey("east", self.chance.choice(SPACES), self.chance.choice(("db", "web")))

    def service(self) -> None:
        key, chance = self.a_service(), self.chance
        target = chance.choice((8080, "named"))
        row = ServiceObject(
            key.cluster, key.namespace, key.name,
            (IPv4Address(f"10.97.0.{chance.randrange(3)}"),),
            (ServicePortObject("http", "TCP", 80, target),),
            chance.choice((None, self.some_labels() or None)), is_global=chance.random() < 0.6,
        )  # fmt: skip
        self.put(SERVICES, {key: row})

    def no_service(self) -> None:
        self.drop(SERVICES, [self.a_service()])

    def slice(self) -> None:
        key = self.a_service()
        at = EndpointSliceKey("east", key.namespace, f"part-{self.chance.randrange(3)}")
        some = tuple(IPv4Address(0x0A01FF00 + n) for n in range(self.chance.randrange(3)))
        ports = (ServicePort("http", "TCP", 8080),)
        self.put(SLICES, {at: EndpointSlice("east", at.namespace, at.name, key.name, some, ports)})

    def no_slice(self) -> None:
        space, part = self.chance.choice(SPACES), self.chance.randrange(3)
        self.drop(SLICES, [EndpointSliceKey("east", space, f"part-{part}")])

    # Our own subtree

    def texts(self) -> list[str]:
        """Label texts that pods have now or have written."""
        spaces = self.objects[NAMESPACES].rows
        pods = self.objects[PODS].rows.values()
        return sorted({identity_labels(pod, namespace_of(pod, spaces)) for pod in pods})

    def claim(self, noun: str, pool: str, number: int, owner: str) -> None:
        key = number_key("east", ClaimKey(noun, pool, number))
        self.own([entry(key, encode_number(owner), self.revision)])

    def identity(self) -> None:
        """Numbers are never given back; each text gets one."""
        held = {
            msgspec.json.decode(e.value)["owner"]
            for k, e in self.own_keys.items()
            if "/identity/" in k
        }
        free = [text for text in self.texts() if text not in held]
        if free:
            self.claim("identity", "labels", (1 << 16) + 1 + len(held), self.chance.choice(free))

    def cidr(self) -> None:
        n = self.chance.randrange(len(NODE_NAMES))
        self.claim("podcidr", POOL, n, NODE_NAMES[n])

    def block(self) -> None:
        address, host = self.chance.randrange(3), self.chance.choice(NODE_NAMES)
        number = self.chance.randrange(4)
        self.claim("block", f"198.51.100.{address}", number, f"{host}/{number}")

    def release(self) -> None:
        """A block rests, or its key goes."""
        keys = [key for key in self.own_keys if "/block/" in key]
        if not keys:
            return
        key = self.chance.choice(keys)
        owner = msgspec.json.decode(self.own_keys[key].value)["owner"]
        if self.chance.random() < 0.5:
            self.own([entry(key, encode_number(owner, released=7), self.revision)])
        else:
            self.own([], [key])

    def pod_key(self) -> None:
        """The agent of a pod's node writes; each address belongs to one node and name."""
        key = self.a_pod()
        row = self.objects[PODS].rows.get(key)
        if row is None or not row.node:
            return
        n = NODE_NAMES.index(row.node)
        place = SPACES.index(key.namespace) * 16 + int(key.name[-1]) + 16
        labels = identity_labels(row, namespace_of(row, self.objects[NAMESPACES].rows))
        value = pod_value(PodEntry((IPv4Address(0x0A010000 + (n << 8) + place),), labels))
        self.own([entry(pod_key("east", PodRef(row.node, key.namespace, key.name)), value)])

    def no_pod_key(self) -> None:
        keys = [key for key in self.own_keys if "/pod/" in key]
        if keys:
            self.own([], [self.chance.choice(keys)])

    # Other clusters

    def a_peer(self) -> str:
        return self.chance.choice(sorted(self.ids))

    def _peer_node(self, name: str, n: int) -> Node:
        at = PEERS[name]
        addresses = (IPv4Address(f"10.9{at}.0.{n + 1}"),)
        return Node(name, f"{name}-{n}", addresses, (ip_network(f"10.{at}.{n}.0/24"),))

    def peer(self) -> None:
        """The cluster's config, which it must have first."""
        name = self.a_peer()
        if wire.config_key(name) not in self.mesh_keys:
            key = wire.config_key(name)
            self.mesh([entry(key, wire.cluster_config(self.ids[name]), self.revision)])

    def peer_node(self) -> None:
        name, n = self.a_peer(), self.chance.randrange(2)
        key = wire.node_key(name, f"{name}-{n}")
        if self.chance.random() < 0.2:
            self.mesh([], [key])
        else:
            value = wire.node_value(self._peer_node(name, n), self.ids[name])
            self.mesh([entry(key, value, self.revision)])

    def peer_addresses(self) -> None:
        """A batch of addresses, some of which go."""
        name, puts, gone = self.a_peer(), list[Entry](), list[str]()
        for host in self.chance.sample(range(8), 4):
            n = host % 2
            address = IPv4Address(f"10.{PEERS[name]}.{n}.{host + 2}")
            key = wire.address_key(name, address)
            if self.chance.random() < 0.3:
                gone.append(key)
                continue
            number = (self.ids[name] << 16) + 256 + self.chance.randrange(3)
            row = Address(address, number, name, self._peer_node(name, n).addresses[0])  # type: ignore[arg-type]
            puts.append(entry(key, wire.address_value(row, PodKey(name, "shop", "x"), "")))
        self.mesh(puts, gone)

    def peer_service(self) -> None:
        name, mine = self.a_peer(), self.a_service()
        key = wire.service_key(name, mine.namespace, mine.name)
        if self.chance.random() < 0.3:
            self.mesh([], [key])
            return
        backend = Backend(IPv4Address(f"10.{PEERS[name]}.0.2"), 8080, "http", "TCP", name)
        row = Service(
            name, mine.namespace, mine.name, (IPv4Address(f"10.98.{PEERS[name]}.1"),),
            (ServicePort("http", "TCP", 80),), is_global=True, is_shared=True, backends=(backend,),
        )  # fmt: skip
        self.mesh([entry(key, wire.service_value(row, self.ids[name]))])

    def peer_leaves(self) -> None:
        name = self.a_peer()
        if self.chance.random() < 0.3:
            self.mesh([], self._keys_of(name))

    def cluster_id(self) -> None:
        """A cluster leaves, and its name comes back with another id."""
        name = self.a_peer()
        self.mesh([], self._keys_of(name))
        self.ids[name] = PEERS[name] + 2 * self.chance.randrange(2)

    def relist(self) -> None:
        """The connection was lost: a list in pages, which lacks some keys and has new values."""
        if not self._is("mesh"):
            return
        keys = sorted(self.mesh_keys)
        gone = [key for key in keys if wire.ADDRESSES in key and self.chance.random() < 0.1]
        for key in gone:
            del self.mesh_keys[key]
        puts, half = list(self.mesh_keys.values()), len(self.mesh_keys) // 2
        self.revision += 1
        for part in (puts[:half], puts[half:]):
            self.reader.mesh(Batch(self.revision, part, page=True))
        self.reader.mesh(Batch(self.revision, (), gone, listed=True))

    def _keys_of(self, name: str) -> list[str]:
        return [key for key in self.mesh_keys if wire.cluster_of(key) == name]


# --- All tables of a process ------------------------------------------------------------------


class Compared(Reader, Protocol):
    """A reader whose tables are compared with those of a fresh one."""

    loop: Loop

    def kernel(self) -> None:
        """What the kernel has answers; a process that asks none of it has nothing to do."""

    def compare(self, world: World) -> None:
        """Against a reader that is told everything at once."""


def settled(loop: Loop) -> None:
    """Derive until nothing changes."""
    for _ in range(6):
        loop.derive_all()


def after_each_event(seed: int, live: Compared, events: int) -> None:
    """Compare after each event; the kernel answers after half of them."""
    world = World(seed, live)
    for name in world.sources:
        world.sync(name)
    for _ in range(events):
        world.step()
        settled(live.loop)
        if world.chance.random() < 0.5:
            live.kernel()
            settled(live.loop)
        live.compare(world)


def while_sources_sync_late(seed: int, live: Compared, events: int, every: int) -> None:
    """Compare after each event; sources become complete one after the other, every few events."""
    world = World(100 + seed, live)
    late = list(world.sources)
    world.chance.shuffle(late)
    for number in range(events):
        world.step()
        if number % every == every - 1 and late:
            world.sync(late.pop())
        settled(live.loop)
        if number % 10 == 9:
            live.kernel()
            settled(live.loop)
        live.compare(world)


def slicing() -> Loop:
    """A loop of which each piece of work is a slice."""
    ticks = itertools.count()
    return Loop(clock=lambda: float(next(ticks)))


async def between_slices(seed: int, live: Compared, events: int) -> None:
    """Events come between slices, and after some of them everything is compared."""
    world = World(200 + seed, live)
    for name in world.sources:
        world.sync(name)
    task = asyncio.create_task(live.loop.run())
    try:
        for _ in range(events // 4):
            for _ in range(world.chance.randrange(1, 8)):
                world.chance.choice((world.step, world.step, world.relist))()
                for _ in range(world.chance.randrange(6)):
                    await asyncio.sleep(0)
            await live.loop.gate.look(lambda: live.compare(world))
            live.kernel()
            await live.loop.gate.look(lambda: live.compare(world))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def tables(root: object) -> dict[str, Source]:
    """Every table that a process's features hold, by the path on which it was found."""
    found: dict[str, Source] = {}
    seen: set[int] = set()
    todo: list[tuple[str, object]] = [("", root)]
    while todo:
        path, one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Table | ColumnTable):
            found[path] = one
        else:
            todo += [(f"{path}.{name}", part) for name, part in _parts(one)]
    return found


def _parts(one: object) -> Iterator[tuple[str, object]]:
    if isinstance(one, dict | Mapping) and len(one) < 100:
        yield from ((str(name), part) for name, part in one.items())
    elif isinstance(one, tuple | list) and len(one) < 100:
        yield from ((str(at), part) for at, part in enumerate(one))
    elif type(one).__module__.split(".")[0] in ("mesh", "gateway", "clustermesh", "srv6"):
        yield from vars(one).items() if hasattr(one, "__dict__") else ()


def rows(source: Source) -> dict[Any, Any]:
    """The rows of a table of either kind."""
    if isinstance(source, ColumnTable):
        keys, values = source.rows()
        return dict(zip(column_names(keys), values.tolist(), strict=True))
    if isinstance(source, Table):
        return dict(source.rows)
    return {}
