"""The node agent: one list of features, and the life of the process.

Walk: ``Agent.start`` asks the kernel, loads or adopts the datapath, then each feature reads back
what the last agent wrote, adds its derivations and connects its tables with maps. The datapath
runs on when this process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from bgp.agent import RoutersAgent
from bgp.bfd.agent import BFDAgent
from bgp.cilium.peers import Peers
from bgp.learned.agent import LearnedAgent
from bpf.migrate import Declared
from bpf.object import mount_bpffs
from clustermesh.agent import RemoteAgent
from clustermesh.connection import AgentStore
from clustermesh.contract import CONTRACTS
from clustermesh.remote.holdings import OwnFacts
from clustermesh.store.follow import Batch
from clustermesh.store.own import programmed_of
from gateway.agent import EgressAgent
from gateway.blocks import NOUN as BLOCK
from gateway.claims import OWNER
from gateway.declared import DeclaredAgent
from gateway.directing import DirectAgent
from gateway.health import GatewayHealth
from gateway.in_vrf import InVRFs
from gateway.leaks import LeakAgent
from gateway.lending import LendingAgent
from gateway.speaking import Layer2Agent, Segment
from mesh import process, sources
from mesh.cni.agent import CNIAgent
from mesh.cni.attachments import Attachments
from mesh.config import AgentConfig, load_agent
from mesh.core.feature import AgentFeature
from mesh.core.groups import By
from mesh.core.model import IP, Finding, NodeKey, Usage
from mesh.core.reconcile import Applied, Loop
from mesh.core.steps import Steps
from mesh.core.table import Table
from mesh.datapath.findings import FULL, NOT_WRITTEN
from mesh.datapath.gathering import Gathering
from mesh.datapath.hooks import VXLAN_DEVICE
from mesh.datapath.layouts import DECLARED
from mesh.datapath.maps import PinnedMaps
from mesh.datapath.programs import Datapath
from mesh.datapath.sweep import sweep
from mesh.datapath.translated import translated
from mesh.datapath.xdp import UplinkXDP
from mesh.draining import Draining
from mesh.health.agent import Health, map_usages
from mesh.health.mistakes import Mistakes, Task, named
from mesh.health.programmed import Programmed
from mesh.host import restore as host_restore
from mesh.host.agent import FILE, Host
from mesh.host.grace import Grace
from mesh.identity import labels
from mesh.identity.addresses import take_remote, tunnel_endpoint
from mesh.identity.agent import IdentityAgent, address_table
from mesh.k8s import watches
from mesh.kernel import Kernel
from mesh.masquerade.agent import MasqueradeAgent
from mesh.netlink import LEARNED
from mesh.nodes.agent import NodesAgent
from mesh.nodes.discard import DiscardAgent
from mesh.nodes.echo import EchoAgent
from mesh.nodes.hosts import Devices, HostsAgent
from mesh.nodes.next_hops import NextHops
from mesh.nodes.overlay import OverlayDevice
from mesh.nodes.pod_cidrs import ADVERTISED
from mesh.nodes.uplink import FILE as ENDPOINT
from mesh.nodes.uplink import Facts, MovedError, Uplink
from mesh.objects.fields import FieldServer
from mesh.objects.kinds import CILIUM_WORDS, KINDS
from mesh.objects.kubernetes import NAMESPACES, NODES
from mesh.objects.schema import Kinds
from mesh.objects.tables import Objects
from mesh.observe.events import Names
from mesh.observe.hubble import Observer
from mesh.observe.node import NodeEvents
from mesh.observe.relays import Listener, NodeNotices
from mesh.observe.tables import Server
from mesh.pods.agent import PodsAgent, Wiring
from mesh.pods.beside import FOLDER, FoundPods
from mesh.pods.links import DEVICE_PREFIX, PodLinks
from mesh.pods.local import LocalPods
from mesh.pods.netns import Namespaces
from mesh.process import SINCE, Since
from mesh.route_table import remove_all
from mesh.services.agent import ServicesAgent
from mesh.services.ends import SocketsAgent
from mesh.services.proxy import Proxy
from srv6.agent import LocatorsAgent
from srv6.vrf.agent import VRFAgent
from srv6.vrf.domain import Domain
from srv6.vrf.links import VRFLinksAgent

log = logging.getLogger(__name__)

#: What a host may tell the world about drops, per second, reason and CPU.
DROP_EVENTS = 50
#: What one sender may tell in 8.6 s, and how many of these events may be drops: with the history of
#: ``observe.events.KEPT`` events, a pod alone needs four and a half minutes to fill it.
EVENT_SHARE, DROP_SHARE = 512, 128
ICMP_ERRORS = 1000

#: What Python puts before the words of an OSError.
_NUMBER = re.compile(r"^\[Errno \d+\] ")

#: Makes further features of a node from the tables of those that are there.
More = Callable[["Features"], Iterable[AgentFeature]]


def _no_more(_: Features) -> Iterable[AgentFeature]:
    return ()


class Features:
    """The features of a node. Each gets the tables that it reads, and stands below their makers.

    ``more`` makes further features from the tables of these.
    """

    def __init__(
        self,
        config: AgentConfig,
        facts: Facts,
        objects: Objects,
        kernel: Kernel,
        more: More = _no_more,
    ) -> None:
        me, id_ = NodeKey(config.cluster.name, config.node), config.cluster.id
        beside = config.mode == "beside"
        self.objects = objects
        #: What the rooms below read as BGPPeers.
        self.peers = Peers(objects, CILIUM_WORDS)
        address = address_table()
        self.store = AgentStore(
            config.etcd.address,
            OwnFacts(me.cluster, id_),
            me.name,
            config.state_dir / "peers.json",
            partial(take_remote, address),
        )
        own, remote = self.store.own, self.store.remote
        self.locators = LocatorsAgent(me, own)
        self.nodes = NodesAgent(
            me, facts.device, facts, objects, own, remote, self.locators.locator, config.port,
            beside=beside,
        )  # fmt: skip
        node = self.nodes.node
        self.hosts = HostsAgent(
            me, Devices(facts.device, VXLAN_DEVICE, facts.pod_mtu), kernel,
            node, remote, self.nodes.flags,
            native=beside or config.hosts == "native",
        )  # fmt: skip
        self.echoes = EchoAgent(
            me, id_, VXLAN_DEVICE, config.port, node, self.nodes.hop, address
        )  # fmt: skip
        self.identity = IdentityAgent(me, id_, address, objects, own, remote, node)
        self.services = ServicesAgent(
            me.cluster, objects, self.identity.counted.table, remote,
            Proxy(config.services, beside=beside),
        )  # fmt: skip
        self.attachments = Attachments(config.state_dir)
        attached = self.attachments.table
        if config.cni is None:
            attached.mark_synced()
        self.local = LocalPods(me.name, objects, attached)
        self.egress = EgressAgent(
            me,
            facts.endpoint,
            config.egress,
            config.state_dir,
            objects,
            self.local.table,
            own,
            self.nodes.standing.table,
            self.identity.learned,
        )
        self.health = GatewayHealth(
            me, facts.endpoint, VXLAN_DEVICE, self.egress.egress_address, node
        )
        self.egress.judged = self.health.columns
        self.direct = DirectAgent(
            me, facts.endpoint, config.egress.block_size, self.egress.coverage.policies,
            self.egress.egress_address, self.egress.own_block, node, self.health.down,
        )  # fmt: skip
        self.layer2 = Layer2Agent(
            me,
            Segment(facts.device, facts.ifindex, VXLAN_DEVICE, facts.endpoint),
            kernel,
            self.egress.coverage.addressed.pools.table,
            self.egress.gateway,
            self.egress.coverage.gateways.of_address,
            own.claims_of(OWNER),
            self.store.beat,
        )
        attracting = (
            (self.locators, self.egress) if beside else (self.locators, self.nodes, self.egress)
        )
        parts = [table for one in attracting for table in one.announced]
        routers = RoutersAgent(objects, me, ADVERTISED, parts)
        bfd = BFDAgent(objects, me, kernel)
        self.masquerade = MasqueradeAgent(
            me, config.masquerading, self.nodes.standing.table, node, routers.announcing
        )  # fmt: skip
        domain = Domain(me, node, remote, self.locators, routers.trusted, config.srv6.domain)
        self.vrfs = VRFAgent(
            me, config.state_dir, objects, self.local.table, own, self.identity.counted.table,
            node, self.locators, domain,
        )  # fmt: skip
        features: list[AgentFeature] = [
            self.locators, self.nodes, self.hosts, self.echoes, self.identity, self.services,
            self.local, self.egress, self.health, self.direct, self.layer2, routers, bfd,
            self.masquerade, LearnedAgent(config.bgp), self.vrfs,
        ]  # fmt: skip
        features += more(self)
        self.pods = PodsAgent(
            me,
            Wiring(
                config.pod_netns,
                facts.pod_mtu,
                beside,
                self.vrfs.further,
                self.vrfs.vrf_of_pod,
                awaits_namespaces=config.kubernetes is not None,
            ),
            objects,
            self.local.table,
            node,
            self.identity.number,
            [mark for one in features for mark in one.marks],
            self.store.keys,
            attached,
        )
        features.append(self.pods)
        self.egress.wired = self.pods.local_pod
        self.lending = LendingAgent(
            me, config.egress, self.pods.local_pod, self.egress.own_block,
            own.claims_of(BLOCK).resting, self.store.client, self.egress.lent,
        )  # fmt: skip
        features += [
            self.lending,
            DeclaredAgent(self.pods.local_pod, self.services.own_service),
            InVRFs(
                objects, self.egress.coverage.covered, self.vrfs.vrf_of_pod,
                self.vrfs.destinations_of,
            ),
            LeakAgent(me.name, self.identity.pod_of),
        ]  # fmt: skip
        names = [mark.name for one in features for mark in one.marks]
        features.append(VRFLinksAgent(self.vrfs, self.pods.devices, self.pods.pod, names))
        self.cni = config.cni and CNIAgent(
            me.cluster,
            config.cni,
            self.attachments,
            self.local.table,
            self.pods.connections,
            [one.lacks for one in features],
            beside=beside,
        )
        features += [self.cni] if self.cni else []
        features.append(SocketsAgent(self.services.uses, address, self.pods.namespaces))
        # Pod CIDRs beside another CNI are its own affair.
        mine = [one for one in features if not (beside and one is self.nodes)]
        announced = [table for one in mine for table in one.announced]
        features.append(DiscardAgent(kernel, announced))
        contracts = objects[CONTRACTS]
        features.append(RemoteAgent(remote, contracts, config.etcd.address, features))
        self.all = tuple(features)
        self.store.check(self.contradicts)

    def derive(self, loop: Loop) -> None:
        """Derivations, each below its inputs."""
        self.peers.derive(loop)
        for feature in self.all:
            feature.derive(loop)

    def findings(self) -> Iterable[Finding]:
        """What is wrong in the view of the features."""
        yield from self.store.findings()
        for feature in self.all:
            yield from feature.findings()

    def ports(self) -> Mapping[IP, int]:
        """How many ports of each address are this node's own."""
        return {**self.masquerade.ports(), **self.egress.ports()}

    def contradicts(self, batch: Batch) -> bool:
        """Whether the store has something else about pods of this node than we have written."""
        puts = {entry.key: entry.value for entry in batch.puts}
        return self.pods.contradicted(puts, batch.deletes, self.store.keys.prefix)


class Agent:
    """One node; ``more`` are features beside the product's, ``kinds`` and ``programs`` with them.

    ``programs`` is the folder of the BPF objects.
    """

    def __init__(
        self,
        config: AgentConfig,
        kernel: Kernel,
        more: More = _no_more,
        *,
        steps: Steps | None = None,
        kinds: Kinds = KINDS,
        programs: Path | None = None,
        overlay: OverlayDevice | None = None,
    ) -> None:
        self.config = config
        self._steps = steps or Steps()
        self.kernel = kernel
        self.overlay = overlay or OverlayDevice(kernel, VXLAN_DEVICE, config.port)
        self.loop = Loop()
        sizes = {size.map: size.entries for size in config.limits}
        self._beside = config.mode == "beside"
        self.datapath = Datapath(config.bpffs, programs, sizes, beside=self._beside)
        self.xdp = UplinkXDP(config.datapath, config.node, self.datapath)
        self.gathering = Gathering(config.node, kernel, config.bpffs / "gather")
        self.sources = sources.of(
            config, config.cluster.name, config.state_dir,
            partial(watches.of_agent, node=config.node),
            kinds=kinds, accepted=self._api_servers,
        )  # fmt: skip
        self.objects = self.sources.objects
        self._more = more
        self.namespaces = Namespaces(f"{FOLDER}/*" if self._beside else config.pod_netns)
        nodes = self.objects[NODES]
        file = config.state_dir / ENDPOINT
        self.uplink = Uplink(kernel, config.uplink, file, self._endpoint_of_object, nodes)
        self.listeners: Sequence[Listener] = ()
        #: What is watched once the datapath stands.
        self._watched: Sequence[Callable[[], Iterable[Finding]]] = ()
        self.host = Host(
            config.node, config.state_dir, kernel, config.uplink,
            "" if self._beside else DEVICE_PREFIX, config.port,
        )  # fmt: skip
        self._grace = Grace(config.state_dir)
        self.started = time.monotonic()
        self.mistakes = Mistakes(config.node, "agent", self.loop)
        self._since = Since(self.findings, file=config.state_dir / SINCE)
        held = partial(programmed_of, config.cluster.name, config.node)
        self.programmed = Programmed(
            held, self.sources, self.loop, lambda: self.features.lending.let_go.told
        )

    async def start(self) -> None:
        """Everything that is done once; then ``run``."""
        settings = await self._prepare()
        pods, all_ = self.features.pods, self.features.all
        self.xdp.begin(self.facts.device, partial(self._begin, settings))
        kind = FoundPods if self._beside else PodLinks
        links = kind(self.kernel, self.datapath, pods.devices, self._grace.short)
        pods.held = await links.held()
        maps = PinnedMaps(self.datapath)
        for feature in all_:
            await feature.recover(maps)
        self.features.derive(self.loop)
        self.entries = pods.apply_links(self.loop, links, self.features.store.entries())
        self._report(self.features.store)
        for feature in all_:
            feature.apply(self.loop, maps)
            feature.apply_routes(self.loop)
        if self.features.cni:
            self.features.cni.begin(self.loop.gate)
        self.programmed.apply(self.features.store.programmed())
        self.draining = Draining(
            self.config.state_dir,
            self.features.egress.leaving,
            partial(translated, self.datapath),
        )
        self._observe()

    def _begin(self, settings: Mapping[str, object], reads_notes: bool) -> None:  # noqa: FBT001
        """Load, adopt or migrate the datapath, and attach it."""
        self.datapath.start({**settings, "xdp": int(reads_notes)}, self._layouts())
        self.datapath.attach(self.facts.device, self.config.cgroup)

    def _overlay_restored(self) -> None:
        """Routes out of the overlay's device have gone."""
        self.features.hosts.recheck()
        if not self._beside:
            self.gathering.again(self.overlay.ifindex)

    def _report(self, store: AgentStore) -> None:
        """What the store is told of this node."""
        said: Table[str, bytes] = Table("draining egress addresses")
        self.loop.group(said, store.report, By(self.features.egress.reports.table))
        self.loop.apply(said, store.reports())

    def close(self) -> None:
        """Give descriptors back; everything stays pinned and attached."""
        self.datapath.close()

    def _api_servers(self) -> Container[str]:
        """UIDs of API servers that an operator has accepted."""
        return self.features.store.own.api_servers.rows

    def _endpoint_of_object(self) -> IPv4Address | None:
        """Where the Node object says that tunnels to this node end; None: not known yet."""
        me = NodeKey(self.config.cluster.name, self.config.node)
        node = self.objects[NODES].rows.get(me)
        return tunnel_endpoint(node) if node else None

    async def become(self, objects: Path) -> None:
        """Make the pinned datapath that of another version, whose agent is to follow."""
        settings = await self._prepare()
        Datapath(self.config.bpffs, objects, beside=self._beside).become(settings, self._layouts())
        await self.features.store.client.aclose()

    async def _prepare(self) -> dict[str, object]:
        """The features, on the facts of the kernel; the configuration of the datapath."""
        self.facts, settings = await self._facts()
        self.features = Features(self.config, self.facts, self.objects, self.kernel, self._more)
        for feature in self.features.all:
            settings.update(feature.settings())
        return settings

    def _layouts(self) -> Declared:
        """What the former layouts' names cannot tell."""
        rooms = [one for feature in self.features.all for one in feature.layouts]
        return (*DECLARED, *rooms)

    async def _facts(self) -> tuple[Facts, dict[str, object]]:
        """What the kernel has, and the datapath's configuration from it."""
        mount_bpffs()
        facts = await self.uplink.facts()
        vxlan = await self.overlay.make()
        devices = facts.device, VXLAN_DEVICE
        self._grace.settle()
        self.host.uplink = facts.device
        masquerade = self.config.masquerading
        reserved = masquerade.range if masquerade and masquerade.mode != "off" else range(0)
        self.host.prepare(devices, await self.host.default_routes(), reserved)
        settings: dict[str, object] = {
            "node": int(facts.endpoint),
            "uplink": facts.ifindex,
            "vxlan": vxlan.ifindex,
            "cluster": self.config.cluster.id,
            "cluster_shift": labels.CLUSTER_SHIFT,
            "uplink_mtu": facts.mtu,
            "overlay_port": self.config.port,
            "xdp": int(self.datapath.has_xdp),
            "beside": int(self._beside),
            "gathers": int(not self._beside and await self.gathering.make(vxlan.ifindex)),
            "drop_events": DROP_EVENTS,
            "event_share": EVENT_SHARE,
            "drop_share": DROP_SHARE,
            "icmp_errors": ICMP_ERRORS,
        }
        return facts, settings

    def _observe(self) -> None:
        nodes = self.features.nodes
        self.hops = NextHops(
            self.kernel, nodes.node, nodes.tunnel_endpoints, nodes.next_hops, nodes.mtus,
            DEVICE_PREFIX,
        )  # fmt: skip
        cluster, node = self.config.cluster.name, self.config.node
        identity, namespaces = self.features.identity, self.objects[NAMESPACES]
        services = self.features.services
        names = Names(identity.labels_of, identity.pod_of, identity.cluster_of, services.service_of)
        self.events = NodeEvents(cluster, node, self.datapath, names, self.features.pods.by_device)
        self.health = Health(
            node,
            self.datapath,
            self.events.flows.texts,
            self.features.ports,
            self.usage,
            self.features.egress.in_use,
        )
        self._watched = (
            self.health.findings,
            partial(self.hops.findings, node),
            partial(self.draining.findings, node),
        )
        observer = Observer(
            self.events.flows,
            lambda: [(cluster, name) for name in namespaces.rows],
            str(self.facts.endpoint),
        )
        nouns = {**self.events.listings(), **self.host.listings()}
        for feature in self.features.all:
            nouns.update(feature.listings())
        self.server = Server(self.config.socket, nouns, self.status, observer)
        self.listeners = self._listeners(observer)

    def _listeners(self, observer: Observer) -> Sequence[Listener]:
        """What a Hubble relay connects to, if the configuration has it."""
        settings, nodes = self.config.hubble, self.features.nodes.node
        if settings is None:
            return ()
        known = NodeNotices(nodes, settings.port)
        self.loop.derive([], known.update, [nodes], name="nodes for Hubble relays")
        return (Listener(settings, self.config.node, [observer, known]),)

    async def run(self) -> None:
        """Serve and reconcile until cancelled."""
        pods, store = self.features.pods, self.features.store
        jobs: dict[str, Task] = {
            **process.jobs(self.sources, self.loop, self._since),
            "follow the store": partial(store.run, self.entries),
            "namespaces": partial(
                self.namespaces.run, pods.namespaces, attached=self.features.attachments.table
            ),
            "next hops": self.hops.run,
            "sweep": partial(sweep, self.datapath),
            "health": self.health.run,
            "programmed objects": self.programmed.run,
            "drain": self.draining.run,
            "events": self.events.run,
            "host": self.host.run,
            **{f"listener {number}": one.run for number, one in enumerate(self.listeners)},
        }
        jobs |= named(task for feature in self.features.all for task in feature.tasks())
        self.events.start()
        try:
            async with self.server, asyncio.TaskGroup() as group:
                uplink = partial(self.uplink.run, self.facts)
                group.create_task(self.mistakes.keep("the uplink", uplink, MovedError))
                overlay = partial(self.overlay.run, self._overlay_restored)
                group.create_task(self.mistakes.keep("the overlay's device", overlay, MovedError))
                for name, job in jobs.items():
                    group.create_task(self.mistakes.keep(name, job), name=name)
        finally:
            self.events.stop()
            await store.client.aclose()

    def status(self) -> dict[str, object]:
        """What the agent knows of its own health."""
        return {
            "role": "agent",
            "host": self.config.node,
            "cluster": self.config.cluster.name,
            "ready": self.features.identity.address.synced and self.features.pods.pod.synced,
            "adopted": self.datapath.adopted,
            "loop": process.busy(self._steps, self.loop),
            "findings": self._since.dated(),
            **self.health.status(),
            **self.events.status(),
        }

    def usage(self) -> Iterable[Usage]:
        """What has an end: maps of rows, and what features say."""
        yield from map_usages(self.config.node, self.loop.applied)
        for feature in self.features.all:
            yield from feature.usage()

    def findings(self) -> Iterable[Finding]:
        """Everything that is wrong now."""
        parts: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
            ("objects", self._of_objects),
            ("the store", self.features.store.findings),
            *((type(one).__name__, one.findings) for one in self.features.all),
            ("the uplink", partial(self.uplink.findings, self.config.node)),
            ("XDP", self.xdp.findings),
            ("fragments", self.gathering.findings),
            ("the overlay's device", partial(self.overlay.findings, self.config.node)),
            ("namespaces", self.namespaces.findings),
            *((f"listener {number}", one.findings) for number, one in enumerate(self.listeners)),
            ("the host", self.host.findings),
            *((f"what is watched {number}", one) for number, one in enumerate(self._watched)),
        ]
        for name, found in parts:
            yield from self.mistakes.of(name, found)
        for applied in self.loop.applied:
            yield from failures(self.config.node, applied)
        yield from self.mistakes.findings()

    def _of_objects(self) -> Iterable[Finding]:
        """What is wrong with objects, but for fields that others serve on this node."""
        beside = tuple(FieldServer) if self._beside else ()
        served = {*beside, *(name for one in self.features.all for name in one.served())}
        return self.sources.findings(served)


def failures(node: str, applied: Applied) -> Iterable[Finding]:
    """What a target of the node could not write, and what it has no room for."""
    report, about = applied.report, (f"node/{node}",)
    for key, text in report.errors.items():
        words = _NUMBER.sub("", text)
        yield Finding(NOT_WRITTEN, f"{node}/{report.table}", key, words, about)
    if report.full and report.full.meaning:  # without, the feature has a finding of its own
        yield Finding(FULL, f"{node}/{report.full.map}", "max_entries", str(report.full), about)


async def _live(config: AgentConfig, steps: Steps) -> None:
    """One agent after another, each on the uplink as it is, in one process."""
    async with Kernel.open() as kernel:
        overlay = OverlayDevice(kernel, VXLAN_DEVICE, config.port)
        while True:
            await _live_once(config, kernel, steps, overlay)
            process.begin_anew()


async def _live_once(
    config: AgentConfig, kernel: Kernel, steps: Steps, overlay: OverlayDevice
) -> None:
    """One agent, until it is cancelled or its uplink or the overlay's device has changed."""
    agent = Agent(config, kernel, steps=steps, overlay=overlay)
    try:
        await agent.start()
        log.info(
            "event=started node=%s adopted=%s seconds=%.2f",
            config.node, agent.datapath.adopted, time.monotonic() - agent.started,
        )  # fmt: skip
        await agent.run()
    except* MovedError:
        for finding in agent.uplink.findings(config.node):
            log.warning("event=uplink_changed what=%s now=%s", finding.field, finding.text)
    finally:
        agent.close()


async def _become(config: AgentConfig, _: Steps, *, objects: Path) -> None:
    async with Kernel.open() as kernel:
        await Agent(config, kernel).become(objects)
    log.info("event=became node=%s objects=%s", config.node, objects)


def restore(path: Path) -> Iterator[str]:
    """Undo what the agent of this configuration has set on its host; what is done, line by line.

    Raises ConfigError, and OSError when something is left.
    """
    config = load_agent(path)
    yield from restore_host(config.socket, config.bpffs, config.state_dir)


def restore_host(socket: Path, bpffs: Path, state: Path) -> Iterator[str]:
    """The same by the places of an agent. Raises OSError when it runs, or something is left."""
    if host_restore.answers(socket):
        raise OSError(f"the agent at {socket} runs: stop it first")
    yield from host_restore.unpinned(bpffs)
    yield from asyncio.run(_remove_devices())
    routes, rules = asyncio.run(remove_all())
    yield f"routes proto {LEARNED}: {routes} learned ones removed, and {rules} rules"
    Grace(state).settle()
    yield from host_restore.restored(state / FILE)


async def _remove_devices() -> list[str]:
    async with Kernel.open() as kernel:
        return await host_restore.removed(kernel, DEVICE_PREFIX, [VXLAN_DEVICE])


def main(path: Path, objects: Path | None = None) -> int:
    """Be the agent until SIGTERM or SIGINT; the datapath stays.

    With ``objects``: only make the datapath that is pinned fit those object files, and end.
    """
    life = _live if objects is None else partial(_become, objects=objects)
    return process.main(path, load_agent, life)
