"""The controller of a cluster: one list of features, and the life of the process.

One of several controllers leads.
Walk: objects and etcd -> the features (what is wanted and published; every instance computes it)
-> ``clustermesh/store/leading.py`` (the leader writes it). Losing the process loses nothing: what
is published lives on its leases, claims stay for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from bgp.cilium.peers import Peers
from bgp.controller import RoutersController
from bgp.learned.controller import LearnedController
from clustermesh import lent
from clustermesh.contract import CONTRACTS
from clustermesh.controller import Foreign, PublishController, RemoteController, Said
from clustermesh.ending import ending
from clustermesh.etcd.client import Client
from clustermesh.findings import STORE_AWAY
from clustermesh.kept import FILE as CONTRACTS_FILE
from clustermesh.kept import KeptContracts
from clustermesh.remote.counters import Counters
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.tables import PREFIX, RemoteTables
from clustermesh.store.follow import Batch
from clustermesh.store.health import StoreHealth, cut_history
from clustermesh.store.leading import Candidate, Leading, Wants
from clustermesh.store.own import Own
from clustermesh.store.view import StoreView
from gateway.controller import EgressController
from gateway.feed.controller import FeedController
from gateway.ipfix.controller import IPFIXController
from mesh import process, sources
from mesh.config import ControllerConfig, load_controller
from mesh.core.feature import ControllerFeature
from mesh.core.findings import STORE
from mesh.core.model import Finding
from mesh.core.noun import Listing, Row
from mesh.core.reconcile import Loop
from mesh.core.steps import Steps
from mesh.core.table import ColumnChanges
from mesh.health.mistakes import Mistakes, Task, named
from mesh.health.programmed import HeldObjects
from mesh.identity.controller import IdentityController
from mesh.k8s import watches
from mesh.nodes.controller import NodesController
from mesh.objects.kinds import CILIUM_WORDS, KINDS
from mesh.objects.kubernetes import NODES
from mesh.objects.schema import Kinds
from mesh.objects.tables import Objects
from mesh.observe.tables import Server
from mesh.pools.foreign import meet
from mesh.process import SINCE, Dated, Since
from mesh.services.controller import ServicesController
from srv6.controller import LocatorsController
from srv6.locators import VRFS_ADVERTISED
from srv6.vrf.controller import VRFController

#: Makes further features of a controller from the tables of those that are there.
More = Callable[["Features"], Iterable[ControllerFeature]]


def _no_more(_: Features) -> Iterable[ControllerFeature]:
    return ()


class Features:
    """The features of a controller, with the tables in which they meet.

    ``more`` makes further features from the tables of these.
    """

    def __init__(self, config: ControllerConfig, objects: Objects, more: More = _no_more) -> None:
        cluster, id_ = config.cluster.name, config.cluster.id
        self.cluster, self.objects = cluster, objects
        #: What the rooms below read as BGPPeers.
        self.peers = Peers(objects, CILIUM_WORDS)
        self.own = Own(cluster, confirmed=False)
        kept = KeptContracts(config.state_dir / CONTRACTS_FILE)
        self.remote = RemoteTables(OwnFacts(cluster, id_), _ignore, kept=kept)
        cidrs = [pool.cidr for _, pool in config.pools.all]
        self.foreign = Foreign(cluster, cidrs, meet)
        own, remote, foreign = self.own, self.remote, self.foreign.table
        self.locators = LocatorsController(cluster, config.pools.locators, objects, own, foreign)
        self.nodes = NodesController(
            cluster, config.pools, objects, own, remote, self.locators.locator, foreign,
            beside=config.mode == "beside",
        )  # fmt: skip
        pods = [pool.cidr for pool in config.pools.pod_cidrs]
        self.identity = IdentityController(
            cluster, id_, pods, objects, own, remote, self.nodes.node
        )
        counted = self.identity.counted
        self.services = ServicesController(
            objects, counted.table, pods, self.nodes.own_addresses[0], remote.services,
            beside=config.mode == "beside",
        )  # fmt: skip
        self.egress = EgressController(
            cluster, config.egress, objects, own, remote.ids, remote.heard
        )
        self.ipfix = IPFIXController(cluster, config.ipfix, config.egress.block_size, objects, own)
        self.feed = FeedController(self.egress.coverage.policies, own.listed)
        said = Said(id_, config.lease_seconds, config.port, bare=config.mode == "beside")
        self.publish = PublishController(
            said, self.foreign, own, self.nodes.node, self.identity.identity,
            counted, self.identity.confirmed, self.services.published,
        )  # fmt: skip
        routers = RoutersController(objects, VRFS_ADVERTISED)
        self.vrfs = VRFController(
            cluster, config.pools.locators, objects, own,
            self.locators.locator, routers.carriers,
        )  # fmt: skip
        features: list[ControllerFeature] = [
            self.locators, self.nodes, self.identity, self.services, self.egress, self.feed,
            self.ipfix, self.publish, routers, LearnedController(cluster, objects, own.learned),
            self.vrfs,
        ]  # fmt: skip
        features += more(self)
        others = RemoteController(
            cluster, id_, remote, objects[CONTRACTS], config.etcd.address, own.forgotten,
            self.publish, features,
        )  # fmt: skip
        features.append(others)
        self.all = tuple(features)
        self.wants = Wants(features)
        self.agreed = {key: value for one in features for key, value in one.agreed.items()}

    def take(self, batch: Batch) -> None:
        """Take in what all clusters publish."""
        self.remote.take(batch)
        self.foreign.take(batch)

    def listings(self) -> dict[str, Listing]:
        """Rows of the command line by noun."""
        return {noun: rows for one in self.all for noun, rows in one.listings().items()}

    def findings(self) -> Iterable[Finding]:
        """What is wrong in the view of the features."""
        for found in self.reports().values():
            yield from found()

    def reports(self) -> dict[str, Callable[[], Iterable[Finding]]]:
        """The same by the part that says it."""
        return {
            "claims": partial(self.wants.findings, self.cluster),
            "the own subtree": self.own.findings.values,
            **{type(feature).__name__: feature.findings for feature in self.all},
        }

    def derive(self, loop: Loop) -> None:
        """Derivations, each below its inputs."""
        self.peers.derive(loop)
        for feature in self.all:
            feature.derive(loop)
        self.wants.derive(loop)
        self.publish.derive_canaries(loop, self.wants.wanted, self.wants.refused)


class Controller:
    """One instance: sources, features, and its candidacy.

    ``more`` are features beside the product's, ``kinds`` with theirs.
    """

    def __init__(
        self,
        config: ControllerConfig,
        more: More = _no_more,
        *,
        steps: Steps | None = None,
        kinds: Kinds = KINDS,
    ) -> None:
        self.config = config
        self._steps = steps or Steps()
        cluster = config.cluster
        self.client = Client(config.etcd.address)
        self.sources = sources.of(
            config, cluster.name, config.state_dir, watches.of_controller,
            kinds=kinds, accepted=lambda: self.features.own.api_servers.rows,
        )  # fmt: skip
        features = self.features = Features(config, self.sources.objects, more)
        self.loop = Loop()
        features.derive(self.loop)
        self.held = HeldObjects(self.sources.objects[NODES], features.own.programmed)
        self.held.derive(self.loop)
        who = Candidate(
            cluster.name, cluster.id, config.instance, config.lease_seconds, config.state_dir
        )
        self.leading = Leading(
            who, self.client, features.own, features.wants, features.publish, features.agreed,
            self.loop.gate, features.remote.complete_clusters,
        )  # fmt: skip
        self.counters = Counters(
            self.client, cluster.name, features.take, lambda: self.view.told(PREFIX)
        )
        own = features.own
        self.view = StoreView(
            self.client,
            f"{own.prefix}synced",
            {**dict.fromkeys(own.needed_to_control, self._take), PREFIX: self.counters.take},
            on_synced=own.synced,
        )
        features.remote.held = lambda: self.view.held
        self.health = StoreHealth(
            self.client, config.etcd.quota_bytes, lambda: self.leading.leader.leads, self._writers
        )
        features.ipfix.leads = lambda: self.leading.leader.leads
        self._settled = False
        self.mistakes = Mistakes(config.instance, "controller", self.loop)
        self._since = Since(self._found, file=config.state_dir / SINCE)

    def _take(self, batch: Batch) -> None:
        """Our own subtree: for the tables, and for the allocator while we stand by."""
        self.features.own.take(batch)
        self.leading.allocator.observe(batch)

    def _writers(self) -> Iterable[str]:
        """All clusters of which there are keys."""
        return {self.config.cluster.name, *self.features.remote.imports.importers}

    async def run(self) -> None:
        """Be a controller until cancelled; the leadership is given up, what is published stays."""
        try:
            async with (
                Server(self.config.socket, self.features.listings(), self.status),
                asyncio.TaskGroup() as group,
            ):
                jobs: dict[str, Task] = {
                    **process.jobs(self.sources, self.loop, self._since),
                    **self.sources.write_back(
                        self._found, lambda: self.leading.leader.leads, self.held.lacking
                    ),
                    "follow the store": self.view.run,
                    "look at counters": self.counters.run,
                    "look at the store": self.health.run,
                    "lead": self.leading.run,
                    "snapshot of pods": self.leading.pods.run,
                    "snapshot of claims": self.leading.allocator.keep,
                    "history of ports": partial(
                        lent.keep_young,
                        self.client,
                        self.config.cluster.name,
                        lambda: self.leading.leader.leads,
                    ),
                }
                jobs |= named(task for feature in self.features.all for task in feature.tasks())
                for name, job in jobs.items():
                    group.create_task(self.mistakes.keep(name, job), name=name)
        finally:
            await self.client.aclose()

    # --- What others see ----------------------------------------------------------------------

    def status(self) -> Row:
        """The process's own view."""
        leader = self.leading.leader
        return {
            "role": "controller",
            "host": self.config.instance,
            "cluster": self.config.cluster.name,
            "leads": leader.leads,
            "leader": leader.holder,
            "ready": self._is_ready(),
            "loop": process.busy(self._steps, self.loop),
            "findings": self.findings(),
        }

    def _is_ready(self) -> bool:
        """A leader is once everything has been published, a standby when it knows everything."""
        if not self.leading.leader.leads:
            self._settled = False
            return self.features.publish.complete
        applied = self.leading.applied
        self._settled |= bool(applied) and all(one.current for one in applied)
        return self._settled

    def findings(self) -> list[Dated]:
        """Everything that is wrong now, each since when."""
        return self._since.dated()

    def _found(self) -> Iterable[Finding]:
        yield from self.mistakes.of("objects", self.sources.findings)
        for name, found in self.features.reports().items():
            yield from self.mistakes.of(name, found)
        yield from self.mistakes.of("the leadership", self.leading.findings)
        yield from self.mistakes.of("the counters", self.counters.findings)
        yield from self.mistakes.of("the store", self.health.findings)
        yield from self.mistakes.of("the history", partial(cut_history, self.view, self.client))
        yield from self.mistakes.of("the watch", self.view.findings)
        yield from self.mistakes.of("the certificate", partial(ending, self.client))
        yield from self.mistakes.findings()
        stays = "what is programmed and published stays as it is"
        if self.client.problem:
            place = f"etcd {self.client.endpoint.text}"
            yield Finding(STORE_AWAY, place, "", f"{self.client.problem}; {stays}", (STORE,))
            return
        if self.view.problem:
            place = f"etcd {self.client.endpoint.text}"
            yield Finding(STORE_AWAY, place, "", f"{self.view.problem}; {stays}", (STORE,))


def _ignore(_: ColumnChanges) -> None:
    """The controller has no map: it judges addresses only for findings."""


def main(path: Path) -> int:
    """Be the controller until SIGTERM or SIGINT; what is published stays for its lease."""
    return process.main(
        path, load_controller, lambda config, steps: Controller(config, steps=steps).run()
    )
