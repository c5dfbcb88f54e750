"""The node agent: wires pods, fills the maps, attaches the programs, serves flows.

Walk: ``Agent.start`` asks the kernel, loads or adopts the datapath, then connects the tables of
``mesh/agent_tables.py`` (what is desired) with targets (where it goes). The datapath runs on when
this process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bpf.maps import MapTarget, RowTarget
from bpf.object import mount_bpffs
from bpf.ring import Ring
from clustermesh.etcd import Client, Endpoint, EtcdError
from clustermesh.peers import PREFIX as PEERS_PREFIX
from clustermesh.peers import all_stand
from clustermesh.store import Batch, Follow
from clustermesh.target import PersistentTarget
from gateway.layouts import DECLARED as EGRESS_LAYOUTS
from mesh import codecs, process
from mesh.addresses import VALUE
from mesh.agent_rows import nouns
from mesh.agent_tables import BLOCK_VALUE, AgentTables, Facts, changes
from mesh.config import AgentConfig, load_agent
from mesh.core.address import ADDRESS
from mesh.core.files import replace_file
from mesh.core.model import Finding, Network
from mesh.core.reconcile import Applied, Errors, Loop
from mesh.datapath.hooks import VXLAN_DEVICE, VXLAN_PORT
from mesh.datapath.layouts import DECLARED as DATAPATH_LAYOUTS
from mesh.datapath.programs import Datapath
from mesh.icmp import LateErrors
from mesh.kernel import Kernel, set_sysctl
from mesh.known import KnownPeers
from mesh.manifests import Manifests
from mesh.observe.flows import Flows, Names
from mesh.observe.hubble import Observer
from mesh.observe.tables import Server
from mesh.pod_rows import PodRows
from mesh.pods import PodLinks
from mesh.process import Since
from mesh.slices import recovered
from mesh.sweep import forget, sweep

log = logging.getLogger(__name__)

#: What the former layouts' names cannot tell.
LAYOUTS = (*DATAPATH_LAYOUTS, *EGRESS_LAYOUTS)
#: What a host may tell the world about drops, per second, reason and CPU.
DROP_EVENTS = 50
ICMP_ERRORS = 1000
#: Seconds between looks for network namespaces of pods.
NETNS_INTERVAL_S = 0.2
#: Seconds between corrections of our pods' keys at least.
REWRITE_INTERVAL_S = 1.0
#: Seconds between looks for next hops, and at the uplink.
NEXT_HOP_INTERVAL_S = 5.0


class Agent:
    """One node."""

    def __init__(self, config: AgentConfig, kernel: Kernel) -> None:
        self.config = config
        self.kernel = kernel
        self.loop = Loop()
        self.datapath = Datapath(config.bpffs, declared=LAYOUTS)
        self.manifests = Manifests(config.manifests, config.cluster.name, config.state_dir)
        etcd = config.etcd
        self.client = Client(Endpoint(etcd.endpoints, etcd.ca, etcd.cert, etcd.key))
        self.known = KnownPeers(config.state_dir / "peers.json")
        self._contradicted = asyncio.Event()
        self._no_namespaces = ""
        self.started = time.monotonic()
        self._since = Since()
        self._uplink_changes: dict[str, str] = {}

    async def start(self) -> None:
        """Everything that is done once; then ``run``."""
        facts, settings = await self._facts()
        self.datapath.start(settings)
        self.tables = AgentTables(self.config, facts, self.manifests.objects)
        self.links = PodLinks(self.kernel, self.datapath, self.tables.devices)
        self.datapath.attach(self.config.uplink, self.config.cgroup)
        self.tables.held = await self.links.held()
        self.pod_rows = self._pod_rows()
        self.tables.pod.upsert(await self.pod_rows.read())
        nodes = self.datapath.map("mg_node")
        self.endpoints = RowTarget(nodes, codecs.encode_node, codecs.decode_node)
        self.tables.endpoint.upsert(await self.endpoints.read())
        await self._recover_services()
        self.follow_store()
        self.tables.wire(self.loop)
        self._targets()
        self._observe()

    async def become(self, objects: Path) -> None:
        """Make the pinned datapath that of another version, whose agent is to follow."""
        _, settings = await self._facts()
        Datapath(self.config.bpffs, objects, LAYOUTS).become(settings)
        await self.client.aclose()

    async def _facts(self) -> tuple[Facts, dict[str, object]]:
        """What the kernel has, and the datapath's configuration from it."""
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            set_sysctl(f"net/{name}", "1")
        mount_bpffs()
        facts = await self._uplink()
        vxlan = await self.kernel.add_vxlan(VXLAN_DEVICE, VXLAN_PORT)
        settings: dict[str, object] = {
            "node": int(facts.endpoint),
            "uplink": facts.ifindex,
            "vxlan": vxlan.ifindex,
            "cluster": self.config.cluster.id,
            "cluster_shift": 16,
            "uplink_mtu": facts.mtu,
            "block_size": self.config.egress.block_size,
            "drop_events": DROP_EVENTS,
            "icmp_errors": ICMP_ERRORS,
            "permutation_key": permutation_key(self.config.state_dir / "permutation-key"),
        }
        return facts, settings

    async def _uplink(self) -> Facts:
        """The uplink as it is now; raises OSError when no tunnel can end there."""
        link = await self.kernel.link(self.config.uplink)
        addresses = await self.kernel.addresses(link.ifindex)
        endpoint = next((a for a in addresses if isinstance(a, IPv4Address)), None)
        if endpoint is None:
            raise OSError(f"{link.name} has no IPv4 address: no tunnel can end here")
        return Facts(link.ifindex, link.mtu, endpoint)

    async def _recover_services(self) -> None:
        """What the maps hold is the last allocation; from empty, slots would change owners."""
        maps = self.datapath.map
        self.services = RowTarget(
            maps("mg_service_addr"), codecs.encode_service, codecs.decode_service
        )
        self.backends = RowTarget(
            maps("mg_backend_addr"), codecs.encode_backend, codecs.decode_backend
        )
        held = recovered(await self.services.read(), await self.backends.read())
        self.tables.allocation = held

    def follow_store(self) -> None:
        """Who follows what in etcd."""
        tables = self.tables
        self.own = Follow(
            self.client, tables.subtree.prefix, self._take_own, on_synced=self._own_synced
        )
        self.peers = Follow(self.client, PEERS_PREFIX, tables.peers.take)
        self.own.on_replaced = self._contradicted.set  # another store has none of our keys
        tables.peers.expect(self.known.clusters)

    def _take_own(self, batch: Batch) -> None:
        """A new leader gives a replaced store back what it knew, also pods that have gone."""
        self.tables.subtree.take(batch)
        if self.tables.contradicted(batch):
            self._contradicted.set()

    def _own_synced(self) -> None:
        """A store that we have seen complete before has told everything about peers."""
        tables = self.tables
        tables.subtree.synced()
        if self.known.store == tables.subtree.store:
            tables.peers.expect(())

    def _targets(self) -> None:
        """Which table goes where, in the order in which rows must arrive."""
        tables, loop, maps, entry = self.tables, self.loop, self.datapath.map, RowTarget
        actions = self.datapath.actions
        loop.apply_columns(tables.address, MapTarget(maps("mg_address"), ADDRESS, VALUE))
        blocks = MapTarget(maps("mg_block"), tables.block.key, BLOCK_VALUE)
        loop.apply_columns(tables.block, blocks)
        loop.apply(tables.endpoint, self.endpoints)
        loop.apply(
            tables.pod_cidr, entry(maps("mg_addr_cidr"), codecs.encode_cidr, codecs.decode_cidr)
        )
        encode = partial(codecs.encode_egress, actions=actions)
        decode = partial(codecs.decode_egress, actions=actions)
        egress = loop.apply(tables.egress, entry(maps("mg_egress"), encode, decode))
        members = entry(maps("mg_gateway"), codecs.encode_member, codecs.decode_member)
        member = loop.apply(tables.gateway, members)
        gateways = entry(maps("mg_egress_addr"), codecs.encode_gateways, codecs.decode_gateways)
        gateway = loop.apply(tables.egress_addr, gateways, after=[member])
        member.delete_after(gateway)  # whoever may be picked is known as one
        own = entry(maps("mg_own_block"), codecs.encode_own_block, codecs.decode_own_block)
        loop.apply(tables.own_block, own)
        backends = loop.apply(tables.backend, self.backends)
        services = loop.apply(tables.service_slice, self.services, after=[backends])
        tables.services_arrived = lambda: services.current
        loop.apply(tables.discard, _DiscardRoutes(self.kernel))
        wired = loop.apply(tables.pod_link, self.links)
        # A covered pod may send once the maps say so: egress rows first, then the pod's; and rows
        # that an older row of a pod refers to go last, or the pod would look uncovered.
        pods = loop.apply(tables.pod, self.pod_rows, after=[egress, gateway])
        egress.delete_after(pods)
        gateway.delete_after(pods)
        prefix = f"{tables.subtree.prefix}pod/{self.config.node}/"
        target = PersistentTarget(self.client, [prefix])
        self.entries = loop.apply(tables.pod_entry, target, after=[wired])

    def _pod_rows(self) -> PodRows:
        rows = RowTarget(self.datapath.map("mg_pod_addr"), codecs.encode_pod, codecs.decode_pod)
        program = self.datapath.program("mg_forget")
        return PodRows(rows, partial(forget, program, self.datapath.forgetting))

    def _observe(self) -> None:
        tables = self.tables
        names = Names(
            labels=lambda identity: tables.labels.get(identity, ""),
            pod=tables.pod_of,
        )
        self.flows = Flows(self.config.cluster.name, self.config.node, self.datapath.reasons, names)
        self.ring = Ring(self.datapath.map("mg_event"), self.datapath.event)
        self.late = LateErrors(Ring(self.datapath.map("mg_icmp"), self.datapath.late))
        observer = Observer(self.flows, tables.namespace_names, str(tables.facts.endpoint))
        self.server = Server(
            self.config.socket, nouns(tables, self.flows, self.datapath), self.status, observer
        )

    async def run(self) -> None:
        """Serve and reconcile until cancelled."""
        asyncio.get_running_loop().add_reader(self.ring.fd, self._drain)
        self._drain()
        self.late.start()
        jobs: tuple[Coroutine[Any, Any, object], ...] = (
            self.manifests.run(), self.own.run(), self.peers.run(), self.loop.run(),
            self.watch_namespaces(), self._watch_next_hops(), self._watch_uplink(),
            self._remember_peers(), self._free_slices(), self.rewrite_entries(),
            self._rest_gateways(),
            sweep(self.datapath.program("mg_sweep"), self.datapath.sweep),
        )  # fmt: skip
        try:
            async with self.server, asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(job)
        finally:
            asyncio.get_running_loop().remove_reader(self.ring.fd)
            self.late.close()
            await self.client.aclose()

    def _drain(self) -> None:
        self.flows.append(self.ring.drain())

    async def watch_namespaces(self) -> None:
        """Look for network namespaces of pods, for ever; a folder that cannot be read has all."""
        folder = Path(self.config.pod_netns).parent
        while True:
            try:
                self.tables.namespaces.replace(inodes(folder))
                self._no_namespaces = ""
            except OSError as error:
                self._no_namespaces = f"{error.strerror}: pods stay wired as they are"
            await asyncio.sleep(NETNS_INTERVAL_S)

    async def rewrite_entries(self) -> None:
        """Put our pods' keys right; paced, since somebody else may do the same."""
        while True:
            await self._contradicted.wait()
            self._contradicted.clear()
            self.entries.recheck()
            await asyncio.sleep(REWRITE_INTERVAL_S)

    async def _watch_next_hops(self) -> None:
        changed = asyncio.Event()
        self.tables.node.listen(changed.set)
        while True:
            changed.clear()
            if self.tables.node.synced:
                await self._look_up_next_hops()
                self.tables.next_hops.mark_synced()
            try:
                async with asyncio.timeout(NEXT_HOP_INTERVAL_S):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _watch_uplink(self) -> None:
        """Note what differs from what the datapath was loaded with."""
        while True:
            await asyncio.sleep(NEXT_HOP_INTERVAL_S)
            try:
                self._uplink_changes = changes(self.tables.facts, await self._uplink())
            except OSError as error:
                self._uplink_changes = {"": str(error)}

    async def _look_up_next_hops(self) -> None:
        """A route that is away for a moment keeps the next hop that it had."""
        hops = self.tables.next_hops
        for address in self.tables.tunnel_endpoints():
            hop = hops.rows.get(address)
            try:
                found = await self.kernel.next_hop(address)
            except OSError as error:
                log.warning("event=no_next_hop node=%s reason=%s", address, error)
            else:
                hop = found if isinstance(found, IPv4Address) else None
            hops.upsert({address: hop})

    async def _remember_peers(self) -> None:
        while True:
            with suppress(EtcdError):
                await self.remember_peers()
            await asyncio.sleep(NEXT_HOP_INTERVAL_S)

    async def remember_peers(self) -> None:
        """Note which peers this store is known to have, for the next start (D8)."""
        peers, subtree = self.tables.peers, self.tables.subtree
        if not (peers.complete.synced and subtree.claims.synced):
            return
        store, clusters = subtree.store, list(peers.clusters)
        known = self.known.has(store, clusters) or await all_stand(self.client, clusters)
        if known and store == subtree.store:
            self.known.write(store, clusters)

    async def _rest_gateways(self) -> None:
        """A gateway that has left is believed no longer than it should be."""
        while True:
            await asyncio.sleep(NEXT_HOP_INTERVAL_S)
            if self.tables.gateway.synced:
                self.tables.rest_gateways(self.tables.egress_addr.rows, time.monotonic())

    async def _free_slices(self) -> None:
        """Slots of replaced backends are free once the services' rows have arrived."""
        while True:
            await asyncio.sleep(NEXT_HOP_INTERVAL_S)
            if self.tables.allocation.resting and self.tables.services_arrived():
                self.tables.derive_services()

    def status(self) -> dict[str, object]:
        """What the agent knows of its own health."""
        return {
            "role": "agent",
            "host": self.config.node,
            "cluster": self.config.cluster.name,
            "ready": self.tables.address.synced and self.tables.pod.synced,
            "adopted": self.datapath.adopted,
            "findings": self._since.dated(self.findings()),
        }

    def findings(self) -> Iterable[Finding]:
        """Everything that is wrong now."""
        tables = self.tables
        yield from tables.objects.findings.rows.values()
        yield from tables.subtree.findings.values()
        yield from tables.peers.findings.values()
        yield from tables.findings()
        for field, text in self._uplink_changes.items():
            said = f"{text}: restart the agent"
            yield Finding("D607", f"{self.config.node}/{self.config.uplink}", field, said)
        problem = self.client.problem or self.own.problem or self.peers.problem
        if problem:
            place = f"etcd {self.client.endpoint.text}"
            yield Finding("M151", place, "", f"{problem}; what is programmed stays as it is")
        if self._no_namespaces:
            yield Finding("D606", str(Path(self.config.pod_netns).parent), "", self._no_namespaces)
        if self.known.problem:
            yield Finding("D605", f"{self.config.node}/peers.json", "", self.known.problem)
        for applied in self.loop.applied:
            yield from _failures(self.config.node, applied)


class _DiscardRoutes:
    """Target: unreachable routes."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def read(self) -> dict[Network, None]:
        return dict.fromkeys(await self._kernel.discard_routes())

    async def upsert(self, rows: Iterable[Network]) -> Errors[Network]:
        return await self._each(self._kernel.add_discard_route, rows)

    async def delete(self, keys: Iterable[Network]) -> Errors[Network]:
        return await self._each(self._kernel.delete_discard_route, keys)

    async def _each(self, act: Any, prefixes: Iterable[Network]) -> Errors[Network]:
        errors: dict[Network, Exception] = {}
        for prefix in prefixes:
            try:
                await act(prefix)
            except OSError as error:
                errors[prefix] = error
        return errors


def _failures(node: str, applied: Applied) -> Iterable[Finding]:
    report = applied.report
    for key, text in report.errors.items():
        yield Finding("D601", f"{node}/{report.table}", key, text, report.since)


def inodes(folder: Path) -> dict[str, int]:
    """Inode by path of the files in a folder, none if there is no folder. Raises OSError."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # gone in between
                found[entry.path] = entry.stat().st_ino
    return found


def permutation_key(path: Path) -> int:
    """A random number that outlives the process: another one would be another generation.

    An unreadable one is replaced.
    """
    with suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    key = secrets.randbits(64)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, f"{key}\n", durable=True)
    return key


async def _live(config: AgentConfig) -> None:
    async with Kernel.open() as kernel:
        agent = Agent(config, kernel)
        await agent.start()
        seconds = time.monotonic() - agent.started
        log.info(
            "event=started node=%s adopted=%s seconds=%.2f",
            config.node, agent.datapath.adopted, seconds,
        )  # fmt: skip
        await agent.run()


async def _become(config: AgentConfig, objects: Path) -> None:
    async with Kernel.open() as kernel:
        await Agent(config, kernel).become(objects)
    log.info("event=became node=%s objects=%s", config.node, objects)


def main(path: Path, objects: Path | None = None) -> int:
    """Be the agent until SIGTERM or SIGINT; the datapath stays.

    With ``objects``: only make the datapath that is pinned fit those object files, and end.
    """
    life = _live if objects is None else partial(_become, objects=objects)
    return process.main(path, load_agent, life)
