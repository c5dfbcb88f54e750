"""The speaker: announces what this node has to its routers.

Walk: objects and claims -> ``bgp/speaker.py`` (which sessions, which routes) -> tables ->
``bgp/exabgp/session.py`` -> ExaBGP. ExaBGP outlives this process; see there.

Rule: End-of-RIB is released only when every source has synced and everything is said.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from bgp import findings as codes
from bgp.bfd import wanted as bfd
from bgp.bfd.findings import UNREAD
from bgp.bfd.liveness import Standing, Watch
from bgp.cilium.peers import Peers
from bgp.cilium.rows import NOUNS as CILIUM
from bgp.desired import Peering
from bgp.exabgp.engine import Engine
from bgp.exabgp.session import Session
from bgp.exabgp.states import State
from bgp.learned.speaker import Inputs, LearnedSpeaker, peering_of
from bgp.nouns import announced_row
from bgp.passwords import KINDS as SECRET_KINDS
from bgp.passwords import ONLY, SECRETS
from bgp.peer import PEERS
from bgp.ribs.listings import Listings
from bgp.ribs.routes import Ribs
from bgp.route import Family, PeerKey, family_of
from bgp.speaker import BGPSpeaker
from clustermesh.accept import accepted_at
from clustermesh.ending import ending
from clustermesh.etcd.client import Client
from clustermesh.store import claims as records
from clustermesh.store.claims import numbers_prefix
from clustermesh.store.follow import Batch
from clustermesh.store.keys import PersistentTarget
from clustermesh.store.own import ACCEPTED_PEER, API_SERVER, Own, PodKeys
from clustermesh.store.view import StoreView
from gateway.policy import POLICIES
from gateway.pool import POOLS
from gateway.speaker import EgressSpeaker
from mesh import process, sources
from mesh.config import SpeakerConfig, load_speaker
from mesh.core.feature import SpeakerFeature
from mesh.core.model import IP, Claim, ClaimKey, Finding, Network, Node, NodeKey
from mesh.core.noun import Row, Rows
from mesh.core.reconcile import Loop
from mesh.core.sources import ClaimTables
from mesh.core.steps import Steps
from mesh.core.table import Table
from mesh.health.mistakes import Mistakes
from mesh.identity.labels import NOUN, POOL
from mesh.identity.numbers import Numbers
from mesh.k8s import watches
from mesh.nodes.speaker import PodCIDRsSpeaker
from mesh.objects.kinds import CILIUM_WORDS, KINDS
from mesh.objects.kubernetes import NODES
from mesh.observe.tables import Server
from mesh.services.cidrs import SERVICE_CIDRS, ServiceNetworks
from mesh.services.kinds import SERVICES, SLICES
from mesh.services.proxy import Proxy
from mesh.services.settings import ServicesSettings
from mesh.services.speaker import ServicesSpeaker
from srv6.locators import VRFS_ADVERTISED
from srv6.speaker import LocatorsSpeaker
from srv6.vrf.kind import VRFS
from srv6.vrf.speaker import VRFInputs, VRFSpeaker

#: What a speaker reads of an API server.
READS = (
    NODES, PEERS, *CILIUM, POLICIES, POOLS, SECRETS, SERVICE_CIDRS, SERVICES, SLICES, VRFS,
)  # fmt: skip
#: Pause after End-of-RIB could not be said.
RETRY_S = 1.0


class Speaker:
    """The tables of one node's speaker and what moves them."""

    def __init__(self, config: SpeakerConfig, steps: Steps | None = None) -> None:
        self.config = config
        self._steps = steps or Steps()
        self.node = NodeKey(config.cluster.name, config.node)
        #: UIDs of API servers that an operator has accepted.
        self.api_servers: Table[str, None] = Table("accepted API server")
        self.sources = sources.of(
            config, config.cluster.name, config.run_dir,
            partial(
                watches.of_nouns, nouns=READS, only={SECRETS: (config.secrets_namespace, ONLY)}
            ),
            kinds=KINDS.with_kinds(SECRET_KINDS), accepted=lambda: self.api_servers.rows,
        )  # fmt: skip
        self.objects = self.sources.objects
        #: What the rooms below read as BGPPeers.
        self.peers = Peers(self.objects, CILIUM_WORDS)
        #: Claims by noun, of the nouns that features have asked for.
        self.claims: dict[str, Table[ClaimKey, Claim]] = {}
        #: What this node announces, by feature.
        self.pods = PodCIDRsSpeaker(self._claims_of)
        self.features: list[SpeakerFeature] = [
            self.pods,
            LocatorsSpeaker(self._claims_of),
            EgressSpeaker(self.objects, self._claims_of),
        ]
        self.engine = Engine(config.run_dir, config.bgp_user)
        self.session = Session(self.engine, config.router_id)
        self.ribs = Ribs(self.session, config.run_dir, self.node.name)
        self._absent_at = -math.inf  # when a list of the store lacked a claim
        self.bgp = BGPSpeaker(
            self.node, self.objects, self.session, self.features, self._absent,
            config.guard_percent, VRFS_ADVERTISED,
        )  # fmt: skip
        self.peerings, self.routes = self.bgp.peerings, self.bgp.routes
        #: Entries of this node's pods.
        self.own = Own(self.node.cluster, confirmed=False)
        #: What BFD says of the ways to routers; features derive from its tables.
        self.bfd = Watch(config.bpffs, lambda: bfd.keys(self.peerings.rows.values()))
        self.vrfs = self._vrfs()
        #: Whether something translates packets from outside, as beside another CNI somebody does.
        self.proxy = Proxy(ServicesSettings(), beside=config.mode == "beside")
        self.features += [self._service_addresses(), self.vrfs]
        self.client = Client(config.etcd.address)
        own = f"meshgate/v1/{self.node.cluster}/"
        #: What is read of the store, and which method takes it.
        self.prefixes: dict[str, Callable[[Batch], None]] = {
            **{f"{own}{noun}/": self.take for noun in self.claims},
            f"{own}{API_SERVER}": self._take_api_servers,
            f"{own}{ACCEPTED_PEER}": self._take_accepted,
            PodKeys(self.node.cluster, self.node.name).prefix: self.own.take,
            numbers_prefix(self.node.cluster, NOUN, POOL): self.take,
        }
        self.numbers = Numbers(self.node.cluster, config.cluster.id, self._claims_of(NOUN))
        self.services = ServiceNetworks(self.objects)
        self.view = StoreView(self.client, f"{own}synced", self.prefixes, on_synced=self._on_synced)
        self.learned = self._learned()
        self.loop = Loop()
        self.of_peerings = self.loop.apply(self.peerings, self.session.peers)
        self.of_routes = self.loop.apply(self.routes, self.session.routes, after=[self.of_peerings])
        self._unreadable: dict[str, str] = {}
        #: Families of the routes of each session, and the revision of the routes.
        self._families: tuple[int, dict[PeerKey, set[Family]]] = (-1, {})
        self.listings = Listings(
            self.node.name,
            self.ribs,
            sessions=self.sessions,
            routes=self.routes.rows,
            errors=lambda: self.of_routes.report.errors,
            offers=self.bgp.offers,
            hops=self.bgp.hops,
            verdict=self.learned.verdict,
            bfd=self.bfd.shown,
        )
        self.mistakes = Mistakes(self.node.name, "speaker", self.loop)
        self._since = process.Since(self._found, file=config.run_dir / process.SINCE)
        self._owing = asyncio.Event()
        self._derivations()

    def _derivations(self) -> None:
        self.peers.derive(self.loop)
        self.bgp.derive(self.loop)
        self.numbers.derive(self.loop)
        self.services.derive(self.loop)
        self.learned.derive(self.loop)
        self.learned.apply(self.loop, PersistentTarget(self.client, [self.learned.told]))
        self.vrfs.apply(self.loop)
        self.session.lost = self._lost
        self.peerings.listen(self._configured)
        self.routes.listen(self._owing.set)

    def _learned(self) -> LearnedSpeaker:
        """The room of learned routes, on the tables of the others."""
        config = self.config
        ours = [table for feature in self.features for table in feature.ours]
        inputs = Inputs(
            self.peerings,
            self.ribs.incoming.table,
            self.numbers.number,
            [*ours, self.services.table],
        )
        led = self.pods.inputs
        pods = self._pods_of if config.mode == "whole" else lambda _: ()
        return LearnedSpeaker(self.node, config.bgp, config.bpffs, self.objects, inputs, pods, led)

    def _service_addresses(self) -> ServicesSpeaker:
        """The room of services, likewise."""
        pods = self.own.pods
        return ServicesSpeaker(self.objects, pods, self._pods_of, self.proxy, self._asks)

    def _asks(self) -> bool:
        """Whether a session advertises addresses of services."""
        return any(
            one.kind == ServicesSpeaker.kind
            for peering in self.peerings.rows.values()
            for one in peering.advertise
        )

    def _vrfs(self) -> VRFSpeaker:
        """The room of VRFs, likewise."""
        inputs = VRFInputs(
            self._tables_of,
            self.own.pods,
            self.ribs.incoming.table,
            self.peerings,
            self._trusts,
            lambda: self.session.router_id,
            self._pods_of,
            self.bgp.carriers,
            self.bfd.number,
        )
        return VRFSpeaker(self.node, self.config.bpffs, self.objects, inputs)

    def _tables_of(self, noun: str) -> ClaimTables:
        """Claims of a noun; a speaker needs none that rest."""
        resting: Table[ClaimKey, Claim] = Table(f"resting claim {noun}")
        resting.mark_synced()
        return ClaimTables(self._claims_of(noun), resting)

    def _trusts(self, router: IP) -> bool:
        peering = peering_of(router, self.peerings.rows)
        return peering is not None and peering.accept_sids

    def _pods_of(self, node: Node) -> list[Network]:
        """Pods of this node, whose packets learned routes lead."""
        return [offer.prefix for offer in self.pods.offers(node)]

    # Sources

    def _claims_of(self, noun: str) -> Table[ClaimKey, Claim]:
        return self.claims.setdefault(noun, Table(f"claim {noun}"))

    def _absent(self) -> float:
        """When a list last lacked what had been there, by the monotonic clock."""
        return max(self._absent_at, self.sources.absent_at())

    def take(self, batch: Batch) -> None:
        """Take in what the store says about claims."""
        if batch.listed and batch.deletes:
            self._absent_at = time.monotonic()
        rows = records.rows(self.node.cluster, self.claims, batch.puts, batch.deletes)
        for noun, table in self.claims.items():
            table.upsert({key: row for key, row in rows.held.items() if key.noun == noun})
            table.delete([key for key in rows.gone if key.noun == noun])
        for entry in batch.puts:
            self._unreadable.pop(entry.key, None)
        self._unreadable |= rows.unreadable

    def _take_api_servers(self, batch: Batch) -> None:
        prefix = f"meshgate/v1/{self.node.cluster}/{API_SERVER}"
        self.api_servers.delete([key.removeprefix(prefix) for key in batch.deletes])
        self.api_servers.upsert({entry.key.removeprefix(prefix): None for entry in batch.puts})

    def _take_accepted(self, batch: Batch) -> None:
        prefix = f"meshgate/v1/{self.node.cluster}/{ACCEPTED_PEER}"
        for entry in batch.puts:
            with suppress(ValueError):  # not by us
                text = entry.key.removeprefix(prefix)
                peer = ip_network(text) if "/" in text else ip_address(text)
                self.bgp.accept(peer, accepted_at(entry.value))

    def _on_synced(self) -> None:
        for table in self.claims.values():
            table.mark_synced()
        self.own.pods.mark_synced()

    def _configured(self) -> None:
        """A node without sessions has no ExaBGP that could say so."""
        if self.peerings.synced and not self.peerings.rows and not self.session.memory.peerings:
            self.ribs.configured()

    # End-of-RIB

    def _lost(self) -> None:
        self.ribs.configured()
        self.of_peerings.recheck()
        self.of_routes.recheck()
        self._owing.set()

    async def release(self) -> None:
        """Say End-of-RIB, whenever it is owed and everything else has been said."""
        while True:
            await self._owing.wait()
            self._owing.clear()
            while not (self.of_peerings.current and self.of_routes.current):
                await self.of_peerings.settled()
                await self.of_routes.settled()
            if self.session.owed:
                await self._release_now()

    async def _release_now(self) -> None:
        with suppress(OSError):
            await self.session.release()
        if self.session.owed:
            asyncio.get_running_loop().call_later(RETRY_S, self._owing.set)

    # BFD

    async def end_failed(self) -> None:
        """End each session whose way has failed, unless it has come up since."""
        while True:
            router = await self.bfd.fallen.get()
            row, peering = self.bfd.liveness.rows.get(router), self.peerings.rows.get(router)
            if row is None or peering is None or row.path != Standing.DOWN:
                continue
            state = self.session.state(peering)
            if state.state == "established" and state.entered <= row.since:
                with suppress(OSError):
                    await self.session.end_failed(router)

    # What others see

    def sessions(self) -> list[tuple[Peering, PeerKey, State]]:
        """Each session with its router; a range to which no router has dialled, as a whole."""
        found: list[tuple[Peering, PeerKey, State]] = []
        for peering in self.peerings.rows.values():
            members = self.session.states.members(peering)
            found += [(peering, router, state) for router, state in members.items()]
            if not members:
                found.append((peering, peering.address, self.session.state(peering)))
        return found

    def route_rows(self) -> Sequence[Row]:
        """``meshgate route list``: what is desired, and whether ExaBGP has it; what is learned."""
        announced = self.session.memory.routes
        own = [(key, route, announced.get(key) == route) for key, route in self.routes.rows.items()]
        vrfs = self.vrfs.names()
        makers: list[Callable[[], Row]] = [
            partial(announced_row, self.node.name, key, route, vrfs, announced=is_there)
            for key, route, is_there in own
        ]
        made = [*makers, *self.learned.rows(), *self.vrfs.rows()]
        return Rows.of(made, lambda make: make())

    def findings(self) -> list[process.Dated]:
        """Everything that is wrong now, each since when."""
        return self._since.dated()

    def _found(self) -> Iterator[Finding]:
        yield from self.mistakes.of("objects", self.sources.findings)
        about = (f"node/{self.node.name}",)
        yield from self.mistakes.of("Cilium's BGP objects", lambda: self.peers.findings)
        for feature in (self.bgp, self.learned, *self.features):
            yield from self.mistakes.of(type(feature).__name__, feature.findings)
        if self.objects[NODES].synced and self.node not in self.objects[NODES].rows:
            text = "this node has no Node object: it announces nothing; its sessions stay"
            yield Finding(codes.NO_OBJECT, f"node/{self.node.name}", "", text, about)
        node = self.objects[NODES].rows.get(self.node)
        if node is not None and self.session.router_id is None:
            text = "no IPv4 InternalIP, and no routerID in the configuration: no session starts"
            yield Finding(codes.NO_ROUTER_ID, f"Node/{node.name}", "status.addresses", text, about)
        for key, text in self._unreadable.items():
            yield Finding(codes.CLAIM_UNREADABLE, key, "", text)
        yield from self.mistakes.of("the watch", self.view.findings)
        if self.view.problem:
            text = f"{self.view.problem}; announcements stay as they are"
            yield Finding(codes.STORE_AWAY, f"etcd {self.client.endpoint.text}", "", text)
        yield from self.mistakes.of("the certificate", partial(ending, self.client, *about))
        yield from self.mistakes.of("ExaBGP", self._exabgp_findings)
        yield from self.mistakes.of("the sessions", self._session_findings)
        if self.bfd.problem:
            place = f"{self.node.name}/speaker"
            yield Finding(UNREAD, place, "bpffs", self.bfd.problem, about)
        yield from self.mistakes.of("routes of routers", self.ribs.findings)
        yield from self.mistakes.findings()

    def _exabgp_findings(self) -> Iterator[Finding]:
        place, node = f"{self.node.name}/exabgp", f"node/{self.node.name}"
        if not self.engine.is_as_wanted:
            text = f"ExaBGP (pid {self.engine.pid()}) runs as user {self.engine.listener}"
            yield Finding(codes.FORMER_EXABGP, place, "", text, (node,))
        if self.session.former:
            text = f"ExaBGP (pid {self.engine.pid()}) runs without the changes of this version"
            yield Finding(codes.FORMER_EXABGP, place, "changes", text, (node,))
        if self.session.log_problem:
            yield Finding(codes.LOG_STAYS, place, "", self.session.log_problem, (node,))
        for peer, odd in self.session.states.odd.items():
            about = (node, f"peer/{peer}") if peer else (node,)
            name = f"session of {self.node.name} with {peer or 'an unknown router'}"
            yield Finding(codes.ODD_LINE, name, "", odd, about)
        if self.session.problem:
            yield Finding(codes.EXABGP_AWAY, place, "", self.session.problem, (node,))
        if self.session.memory.problem:
            yield Finding(codes.NOT_REMEMBERED, place, "", self.session.memory.problem, (node,))

    def _session_findings(self) -> Iterator[Finding]:
        node = f"node/{self.node.name}"
        for peering, router, state in self.sessions():
            where = f"session of {self.node.name} with {router}"
            about = (node, f"peer/{router}")
            if state.state == "listening":
                continue
            if state.state != "established":
                text = f"{where} is {state.state}: {state.reason or 'no answer yet'}"
                field = f"spec.address {self.node.name}"
                if peering.dynamic:
                    field = f"spec.prefix {router} {self.node.name}"
                yield Finding(codes.SESSION_DOWN, *peering.place(field), text, about)
                continue
            for family in self._unsent(peering, state.families):
                text = f"{where}: the router does not take {family}, whose routes are not sent"
                field = f"{family} {self.node.name}"
                yield Finding(codes.FAMILY_REFUSED, *peering.place(field), text, about)
        for key, error in self.of_routes.report.errors.items():
            text = f"cannot be announced: {error}"
            yield Finding(codes.NOT_ANNOUNCED, f"{self.node.name}/route {key}", "", text, (node,))

    def _unsent(self, peering: Peering, families: tuple[Family, ...]) -> list[Family]:
        if self._families[0] != self.routes.revision:
            found: dict[PeerKey, set[Family]] = {}
            for key in self.routes.rows:
                found.setdefault(key.peer, set()).add(family_of(key.prefix, key.rd))
            self._families = (self.routes.revision, found)
        wanted = self._families[1].get(peering.address, set())
        return [family for family in Family if family in wanted.difference(families)]

    def _is_ready(self) -> bool:
        """Everything is said; a node that has no routers to speak to starts no ExaBGP."""
        if self.peerings.synced and not self.peerings.rows and not self.session.memory.peerings:
            return True
        return self.of_routes.current and not self.session.owed

    def status(self) -> Row:
        """The process's own view."""
        return {
            "role": "speaker",
            "host": self.node.name,
            "cluster": self.node.cluster,
            "ready": self._is_ready(),
            "exabgp": self.engine.pid(),
            "relay": self.engine.relay_pid(),
            "routes": len(self.routes.rows),
            "loop": process.busy(self._steps, self.loop),
            "findings": self.findings(),
        }

    # Life

    def _tasks(self) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
        for feature in (self.bgp, self.learned, *self.features):
            yield from feature.tasks()

    async def run(self) -> None:
        """Speak until cancelled; raises OSError when another speaker owns the run directory."""
        self.engine.own()
        nouns = {"route": self.route_rows, **self.listings.all(), **self.vrfs.listings()}
        try:
            async with (
                Server(self.config.socket, nouns, self.status),
                asyncio.TaskGroup() as group,
            ):
                jobs: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                    **process.jobs(self.sources, self.loop, self._since),
                    "follow the store": self.view.run,
                    "session": self.session.run,
                    "log of ExaBGP": self.session.keep_log,
                    "end-of-rib": self.release,
                    "BFD": self.bfd.run,
                    "sessions that BFD finds down": self.end_failed,
                    **self.ribs.jobs(),
                    **{f"task {n}": job for n, job in enumerate(self._tasks())},
                }
                for name, job in jobs.items():
                    group.create_task(self.mistakes.keep(name, job), name=name)
        finally:
            await self.client.aclose()
            self.session.memory.close()
            self.ribs.kept.close()
            self.engine.disown()


def main(path: Path) -> int:
    """Be the speaker until SIGTERM or SIGINT; ExaBGP and its sessions stay."""
    return process.main(path, load_speaker, lambda config, steps: Speaker(config, steps).run())
