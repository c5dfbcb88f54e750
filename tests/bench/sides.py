"""An agent and a controller as wholes, fed as their sources feed them.

Real: the features, the event loop's derivations, the targets and, for the agent, the maps (in a
directory of the bench's own). In memory: what the controller writes into etcd, and what the agent
says to netlink and writes into etcd.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path
from typing import Any

from clustermesh.contract import CONTRACTS
from clustermesh.remote.tables import RemoteTables
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import Own
from gateway.policy import POLICIES
from mesh import agent, controller
from mesh.config import load_agent, load_controller
from mesh.core.model import Pod
from mesh.core.reconcile import Loop
from mesh.nodes.rows import Native
from mesh.nodes.uplink import Facts
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NAMESPACES, NODES, PODS
from mesh.objects.tables import Objects
from mesh.pods.links import Device
from mesh.services.kinds import SERVICES, SLICES
from tests.bench import world
from tests.bench.maps import BenchMaps, NoKernel, NoLinks, NoTarget
from tests.bench.quiet import Quiet
from tests.bench.world import Size

#: Keys of one page of a list, as ``clustermesh/etcd/client.py`` asks for them.
PAGE = 1000
#: Objects of one page of a list of the API server.
OBJECTS_PAGE = 500
_NETNS = "/run/netns/{cluster}-{namespace}_{name}"
_COMMON = """\
cluster: {name: east, id: 1}
manifests: /nowhere
etcd: {endpoints: ["http://127.0.0.1:1"]}
socket: /nowhere
stateDir: STATE
"""
AGENT = f"""\
{_COMMON}
node: {world.node_name(world.OWN)}
bpffs: /nowhere
cgroup: /nowhere
uplink: uplink
services: {{kubeProxy: false}}
podNetns: {_NETNS}
"""
CONTROLLER = f"""\
{_COMMON}
instance: a
pools:
  podCIDRs:
  - {{cidr: 10.0.0.0/8, nodePrefix: 24}}
  - {{cidr: "fd10::/32", nodePrefix: 64}}
"""
#: Looks at whether everything has arrived, with a pause of a few ms between.
_LOOKS, _LOOK_S = 200, 0.005


class Side:
    """What agent and controller have in common; ``folder``: objects are those of a folder."""

    #: Whether the process's source tells it about the pods of all nodes.
    sees_all = True

    def __init__(self, size: Size, quiet: Quiet, objects: Objects, loop: Loop) -> None:
        self.size, self.objects, self.loop = size, objects, loop
        self.quiet = quiet
        self.revision = 10
        self.cpu_s = 0.0  # of everything but the generator

    @property
    def _own(self) -> Own:
        raise NotImplementedError

    @property
    def _remote(self) -> RemoteTables:
        raise NotImplementedError

    def own(self, puts: Iterable[Entry], deletes: Iterable[str] = ()) -> None:
        """What the watch of the own subtree brings."""
        self.revision += 1
        self._own.take(Batch(self.revision, list(puts), list(deletes)))

    def mesh(self, puts: Iterable[Entry], deletes: Iterable[str] = ()) -> None:
        """What the watch of other clusters' keys brings."""
        self.revision += 1
        self._remote.take(Batch(self.revision, list(puts), list(deletes)))

    def put_pod(self, row: Pod) -> None:
        """The object, when the source shows it."""
        if self.sees_all or row.node == world.node_name(world.OWN):
            self.objects[PODS].upsert({world.key_of(row): row})

    def drop_pod(self, row: Pod) -> None:
        self.objects[PODS].delete([world.key_of(row)])

    @property
    def has_slices(self) -> bool:
        """Whether slices say which pods are behind services."""
        raise NotImplementedError

    # Life

    async def settle(self) -> float:
        """Until everything is derived and has arrived; CPU seconds of the looks themselves."""
        looks = 0.0
        for _ in range(_LOOKS):
            await self.quiet.idle()
            begin = time.thread_time()
            arrived = all(one.arrived or not one.table.synced for one in self.loop.applied)
            looks += time.thread_time() - begin
            if arrived:
                break
            await asyncio.sleep(_LOOK_S)  # a thread works, or a row is tried again later
        return looks

    async def timed(self, take: Any) -> float:
        """CPU seconds of ``take`` and all that follows, without those of the bench itself."""
        self.quiet.steps.begin()  # what came before is the generator's
        begin = time.thread_time()
        take()
        looks = await self.settle()
        took = time.thread_time() - begin - looks
        self.cpu_s += took
        return took

    async def feed(self, name: str, found: Mapping[str, float] | dict[str, float]) -> None:
        """Nothing more; the sides add their own."""

    async def start(self, peers: int) -> dict[str, float]:
        """Everything from nothing, as sources bring it; CPU seconds by source."""
        task = asyncio.create_task(self.loop.run())
        self._task = task
        found = {"objects": await self._objects(), "own subtree": 0.0, "peers": 0.0}
        found["own subtree"] += await self._listed(
            world.own_subtree(self.size, self._without), self._own
        )
        for p in range(peers):
            keys = world.peer_keys(p, self.size.peer_addresses)
            found["peers"] += await self._paged(keys, self._remote)
        found["peers"] += await self.timed(lambda: self._end(self._remote))
        return found

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    #: The node whose agent's keys are not in the store yet.
    _without: int | None = None

    async def _objects(self) -> float:
        took = 0.0
        for noun, rows in self._object_rows():
            while page := dict(islice(rows, OBJECTS_PAGE)):
                took += await self.timed(lambda: self.objects[noun].upsert(page))  # noqa: B023
        for table in (*self.objects.tables().values(), self.objects.findings):
            table.mark_synced()
        return took + await self.timed(lambda: None)

    def _object_rows(self) -> Iterator[tuple[Any, Iterator[tuple[Any, Any]]]]:
        size = self.size
        yield NODES, ((world.node_key(n), world.node(size, n)) for n in range(size.nodes))
        spaces = (world.namespace(n) for n in range(size.namespaces))
        yield NAMESPACES, ((row.name, row) for row in spaces)
        policies = (world.policy(size, p) for p in range(size.policies))
        yield POLICIES, ((row.name, row) for row in policies)
        yield CONTRACTS, ((row.name, row) for row in map(world.contract, range(world.PEERS)))
        selects = not self.has_slices
        yield (
            SERVICES,
            (
                (world.service_key(size, s), world.service(size, s, selects=selects))
                for s in range(size.services)
            ),
        )
        if self.has_slices:
            yield SLICES, (row for s in range(size.services) for row in world.slices(size, s))
        yield PODS, ((world.key_of(row), row) for row in self._pods())

    def _pods(self) -> Iterator[Pod]:
        numbers = range(self.size.pods)
        mine = (n for n in numbers if self.sees_all or world.node_of(self.size, n) == world.OWN)
        return (world.pod(self.size, n) for n in mine)

    async def _paged(self, entries: Iterator[Entry], into: Any) -> float:
        took = 0.0
        while page := list(islice(entries, PAGE)):
            self.revision += 1
            batch = Batch(self.revision, page, page=True)
            took += await self.timed(lambda: into.take(batch))  # noqa: B023
        return took

    async def _listed(self, entries: Iterator[Entry], into: Any) -> float:
        took = await self._paged(entries, into)
        return took + await self.timed(lambda: self._end(into))

    def _end(self, into: Any) -> None:
        self.revision += 1
        into.take(Batch(self.revision, listed=True))
        if into is self._own:
            self._own.synced()


class AgentSide(Side):
    """The agent of one node.

    ``folder``: it sees the pods of all nodes, and services select them. Otherwise an API server
    feeds it: with the pods of its own node, and slices that name all backends.
    """

    _without = world.OWN

    def __init__(self, size: Size, quiet: Quiet, maps: BenchMaps, *, folder: bool = False) -> None:
        self.sees_all = folder
        objects = Objects(KINDS.nouns)
        self._dir = tempfile.TemporaryDirectory()
        path = _written(self._dir, AGENT)
        facts = Facts(7, 1500, world.endpoint(world.OWN))
        self.features = agent.Features(load_agent(path), facts, objects, NoKernel())
        super().__init__(size, quiet, objects, Loop())
        self._maps = maps
        self._wired = 100
        self._back: dict[str, bytes] = {}  # keys that have come back

    @property
    def _own(self) -> Own:
        return self.features.store.own

    @property
    def _remote(self) -> RemoteTables:
        return self.features.store.remote

    @property
    def has_slices(self) -> bool:
        return not self.sees_all

    async def prepare(self) -> None:
        """As ``Agent.start``, but for the kernel."""
        features, maps = self.features, self._maps
        features.store.remote.expect(())
        for one in features.all:
            one.settings()
            await one.recover(maps)
        features.derive(self.loop)
        features.pods.devices.mark_synced()
        features.hosts.private.mark_synced()
        features.pods.apply_links(self.loop, NoLinks(self._wire), NoTarget())
        for one in features.all:
            one.apply(self.loop, maps)

    def _wire(self, links: Mapping[Any, Any]) -> None:
        """As the kernel: each pod that is to be wired has a device."""
        devices = {}
        for key, link in links.items():
            self._wired += 1
            mac = f"0a:58:00:00:{self._wired >> 8 & 255:02x}:{self._wired & 255:02x}"
            devices[key] = Device(self._wired, mac, f"0e{mac[2:]}", link.addresses)
        self.features.pods.devices.upsert(devices)

    async def start(self, peers: int) -> dict[str, float]:
        found = await super().start(peers)
        found["next hops"] = await self.timed(self.hops)
        found["own pods"] = 0.0
        for step in self.pods_wired():
            found["own pods"] += await self.timed(step)
        return found

    def hops(self) -> None:
        """As ``NextHops`` and ``NativeRoutes``: the kernel knows every route, none is native."""
        nodes, hop = self.features.nodes, IPv4Address("192.0.2.1")
        nodes.next_hops.upsert(dict.fromkeys(nodes.tunnel_endpoints(), hop))
        nodes.next_hops.mark_synced()
        hosts = self.features.hosts
        hosts.native.upsert(dict.fromkeys(hosts.behind.rows, Native.NO))
        hosts.native.mark_synced()

    def pods_wired(self) -> Iterator[Callable[[], None]]:
        """Pods of this node get network namespaces, and the store shows the keys of all."""
        pods = self.features.pods
        keys = [key for key in pods.local_pod.rows if key not in pods.link.rows]
        paths = [_NETNS.format(cluster=k.cluster, namespace=k.namespace, name=k.name) for k in keys]

        def wire() -> None:
            pods.namespaces.upsert(dict.fromkeys(paths, 1))
            pods.namespaces.mark_synced()

        yield wire
        rows = pods.entry.rows
        news = {key: value for key, value in rows.items() if self._back.get(key) != value}
        self._back.update(news)
        entries = [world.entry(key, value) for key, value in news.items()]
        yield lambda: self.own(entries)


class ControllerSide(Side):
    """A controller that leads; it sees all pods, as a folder or an API server shows them."""

    def __init__(self, size: Size, quiet: Quiet, *, slices: bool = True) -> None:
        objects = Objects(KINDS.nouns)
        self._dir = tempfile.TemporaryDirectory()
        config = load_controller(_written(self._dir, CONTROLLER))
        self.features = controller.Features(config, objects)
        self._slices = slices
        super().__init__(size, quiet, objects, Loop())

    @property
    def _own(self) -> Own:
        return self.features.own

    @property
    def _remote(self) -> Any:
        return self.features  # which gives batches to ``remote`` and to ``foreign``

    @property
    def has_slices(self) -> bool:
        return self._slices

    async def prepare(self) -> None:
        """As ``Controller.__init__`` and ``Leading``, without a store."""
        features, publish = self.features, self.features.publish
        features.derive(self.loop)
        self.loop.apply(features.wants.wanted, NoTarget())
        for table in (
            publish.config_key,
            *publish.published.values(),
            publish.confirmed,
            publish.canaries,
            publish.later,
        ):
            self.loop.apply(table, NoTarget())

    def hops(self) -> None:
        """A controller asks no kernel."""


def _written(directory: tempfile.TemporaryDirectory[str], text: str) -> Path:
    path = Path(directory.name) / "config.yaml"
    path.write_text(text.replace("STATE", directory.name))
    return path
