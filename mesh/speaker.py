"""The speaker: announces what this node has to its routers.

Walk: objects and claims -> ``own_prefixes`` and ``bgp/desired.py`` (which sessions, which
routes) -> tables -> ``bgp/exabgp/session.py`` -> ExaBGP. ExaBGP outlives this process; see there.

Rule 1: a source that is away changes no announcement: tables are replaced only while all their
        sources are synced, else rows are only added: those that no missing fact can make wrong.
Rule 2: without the own Node object nothing is derived, and nothing changes.
Rule 3: End-of-RIB is released only when every source has synced and everything is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bgp import desired
from bgp import findings as codes
from bgp.desired import Peering, RouteKey
from bgp.exabgp.engine import Engine
from bgp.exabgp.lines import FAMILIES
from bgp.exabgp.session import Session
from bgp.peer import PEERS, BGPPeer, Route
from clustermesh.ending import ending
from clustermesh.etcd.client import Client
from clustermesh.store import claims as records
from clustermesh.store.follow import Batch
from clustermesh.store.own import API_SERVER
from clustermesh.store.view import StoreView
from gateway.policy import POLICIES
from gateway.speaker import EgressSpeaker
from mesh import process, sources
from mesh.config import SpeakerConfig, load_speaker
from mesh.core.feature import SpeakerFeature
from mesh.core.model import IP, Claim, ClaimKey, Finding, Node, NodeKey
from mesh.core.noun import Row
from mesh.core.reconcile import Loop
from mesh.core.steps import Steps
from mesh.core.table import Source, Table
from mesh.health.mistakes import Mistakes
from mesh.identity.selectors import matches
from mesh.k8s import watches
from mesh.nodes.speaker import PodCIDRsSpeaker
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES
from mesh.observe.tables import Server
from srv6.speaker import LocatorsSpeaker

#: What a speaker reads of an API server.
READS = (NODES, PEERS, POLICIES)
#: Pause after End-of-RIB could not be said.
RETRY_S = 1.0


def unmatched(peers: Iterable[BGPPeer], nodes: Iterable[Node]) -> list[Finding]:
    """BGPPeers that select no node of the cluster."""
    labels = [dict(node.labels) for node in nodes]
    text = "it selects no node, so nobody peers with the router"
    return [
        Finding(
            codes.NO_NODE,
            peer.origin or f"BGPPeer/{peer.name}",
            "spec.nodeSelector",
            text,
            (f"peer/{peer.address}",),
        )
        for peer in peers
        if not any(matches(peer.nodes, one) for one in labels)
    ]


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
            partial(watches.of_nouns, nouns=READS),
            kinds=KINDS, accepted=lambda: self.api_servers.rows,
        )  # fmt: skip
        self.objects = self.sources.objects
        #: Claims by noun, of the nouns that features have asked for.
        self.claims: dict[str, Table[ClaimKey, Claim]] = {}
        #: What this node announces, by feature.
        self.features: tuple[SpeakerFeature, ...] = (
            PodCIDRsSpeaker(self._claims_of),
            LocatorsSpeaker(self._claims_of),
            EgressSpeaker(self.objects),
        )
        self.peerings: Table[IP, Peering] = Table("peering")
        self.routes: Table[RouteKey, Route] = Table("route")
        self.client = Client(config.etcd.address)
        own = f"meshgate/v1/{self.node.cluster}/"
        #: What is read of the store, and which method takes it.
        self.prefixes: dict[str, Callable[[Batch], None]] = {
            **{f"{own}{noun}/": self.take for noun in self.claims},
            f"{own}{API_SERVER}": self._take_api_servers,
        }
        self.view = StoreView(self.client, f"{own}synced", self.prefixes, on_synced=self._on_synced)
        self.engine = Engine(config.run_dir, config.bgp_user)
        self.session = Session(self.engine, config.router_id)
        self.loop = Loop()
        self.of_peerings = self.loop.apply(self.peerings, self.session.peers)
        self.of_routes = self.loop.apply(self.routes, self.session.routes, after=[self.of_peerings])
        self._findings: dict[str, list[Finding]] = {}  # by the derivation that found them
        self._unreadable: dict[str, str] = {}
        self.mistakes = Mistakes(self.node.name, "speaker", self.loop)
        self._since = process.Since(self._found, file=config.run_dir / process.SINCE)
        self._owing = asyncio.Event()
        self._derivations()

    def _derivations(self) -> None:
        objects = self.objects
        self.loop.derive([], self.derive_peerings, [objects[NODES], objects[PEERS]])
        for feature in self.features:
            feature.derive(self.loop)
        sources: list[Source] = [objects[NODES], *self._inputs(), self.peerings]
        self.loop.derive([], self.derive_routes, sources)
        self.session.lost = self._lost
        self.routes.listen(self._owing.set)

    def _inputs(self) -> list[Source]:
        return [source for feature in self.features for source in feature.inputs]

    # Sources

    def _claims_of(self, noun: str) -> Table[ClaimKey, Claim]:
        return self.claims.setdefault(noun, Table(f"claim {noun}"))

    def take(self, batch: Batch) -> None:
        """Take in what the store says about claims."""
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

    def _on_synced(self) -> None:
        for table in self.claims.values():
            table.mark_synced()

    # Derivations

    def derive_peerings(self) -> None:
        """Sessions of this node, from the BGPPeers that select it."""
        nodes, peers = self.objects[NODES], self.objects[PEERS]
        findings = self._findings["peering"] = unmatched(peers.rows.values(), nodes.rows.values())
        node = nodes.rows.get(self.node)
        if node is None or not self._has_router_id(node):
            return
        labels = dict(node.labels)
        chosen = [peer for peer in peers.rows.values() if matches(peer.nodes, labels)]
        rows, wrong = desired.peerings(node, chosen)
        findings += wrong
        synced = nodes.synced and peers.synced
        if not synced:  # a peer that is not known yet may have the address
            last = self.session.memory.peerings
            rows = {address: row for address, row in rows.items() if last.get(address) == row}
        self.peerings.write(rows, complete=synced)

    def _has_router_id(self, node: Node) -> bool:
        """Without one in the configuration it is the node's address of now, until the end."""
        if self.session.router_id is None:
            found = (one for one in node.addresses if isinstance(one, IPv4Address))
            self.session.router_id = next(found, None)
        return self.session.router_id is not None

    def derive_routes(self) -> None:
        """Routes of this node on each of its sessions."""
        nodes = self.objects[NODES]
        node = nodes.rows.get(self.node)
        if node is None:
            self._findings["route"] = []
            if nodes.synced:  # the object has gone: others go on announcing what they have
                self.routes.replace({})
            return
        own = {feature.kind: list(feature.prefixes(node)) for feature in self.features}
        rows, findings = desired.routes(node, self.peerings.rows.values(), own)
        synced = all(source.synced for source in (nodes, *self._inputs(), self.peerings))
        self._findings["route"] = findings if synced else []
        self.routes.write(rows, complete=synced)

    # End-of-RIB

    def _lost(self) -> None:
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

    # What others see

    def peer_rows(self) -> list[Row]:
        """``meshgate peer list``."""
        rows = []
        for peering in self.peerings.rows.values():
            state = self.session.state(peering)
            rows.append(
                {
                    "node": self.node.name,
                    "address": peering.address,
                    "asn": peering.asn,
                    "state": state.state,
                    "reason": state.reason,
                }
            )
        return rows

    def route_rows(self) -> list[Row]:
        """``meshgate route list``: what is desired, and whether ExaBGP has it."""
        announced = self.session.memory.routes
        return [
            {
                "node": self.node.name,
                "peer": key.peer,
                "prefix": key.prefix,
                "nextHop": route.next_hop,
                "announced": announced.get(key) == route,
            }
            for key, route in self.routes.rows.items()
        ]

    def findings(self) -> list[process.Dated]:
        """Everything that is wrong now, each since when."""
        return self._since.dated()

    def _found(self) -> Iterator[Finding]:
        yield from self.mistakes.of("objects", self.sources.findings)
        about = (f"node/{self.node.name}",)
        for findings in self._findings.values():
            yield from findings
        for feature in self.features:
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
        yield from self.mistakes.findings()

    def _exabgp_findings(self) -> Iterator[Finding]:
        place, node = f"{self.node.name}/exabgp", f"node/{self.node.name}"
        if not self.engine.is_as_wanted:
            text = f"ExaBGP (pid {self.engine.pid()}) runs as user {self.engine.listener}"
            yield Finding(codes.FORMER_EXABGP, place, "", text, (node,))
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
        for peering in self.peerings.rows.values():
            state = self.session.state(peering)
            name = peering.origin or f"BGPPeer/{peering.name}"
            where = f"session of {self.node.name} with {peering.address}"
            about = (node, f"peer/{peering.address}")
            if state.state != "established":
                text = f"{where} is {state.state}: {state.reason or 'no answer yet'}"
                field = f"spec.address {self.node.name}"
                yield Finding(codes.SESSION_DOWN, name, field, text, about)
                continue
            for family in self._unsent(peering, state.families):
                text = f"{where}: the router does not take {family}, whose routes are not sent"
                field = f"{family} {self.node.name}"
                yield Finding(codes.FAMILY_REFUSED, name, field, text, about)
        for key, error in self.of_routes.report.errors.items():
            text = f"cannot be announced: {error}"
            yield Finding(codes.NOT_ANNOUNCED, f"{self.node.name}/route {key}", "", text, (node,))

    def _unsent(self, peering: Peering, families: tuple[str, ...]) -> list[str]:
        wanted = {
            f"ipv{key.prefix.version} unicast"
            for key in self.routes.rows
            if key.peer == peering.address
        }
        return [family for family in FAMILIES if family in wanted.difference(families)]

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

    async def run(self) -> None:
        """Speak until cancelled; raises OSError when another speaker owns the run directory."""
        self.engine.own()
        nouns = {"peer": self.peer_rows, "route": self.route_rows}
        try:
            async with (
                Server(self.config.socket, nouns, self.status),
                asyncio.TaskGroup() as group,
            ):
                jobs: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                    **self.sources.jobs(),
                    "follow the store": self.view.run,
                    "session": self.session.run,
                    "log of ExaBGP": self.session.keep_log,
                    "end-of-rib": self.release,
                    "loop": self.loop.run,
                    "date findings": self._since.run,
                }
                for name, job in jobs.items():
                    group.create_task(self.mistakes.keep(name, job), name=name)
        finally:
            await self.client.aclose()
            self.engine.disown()


def main(path: Path) -> int:
    """Be the speaker until SIGTERM or SIGINT; ExaBGP and its sessions stay."""
    return process.main(path, load_speaker, lambda config, steps: Speaker(config, steps).run())
