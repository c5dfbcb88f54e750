"""The controller of a cluster: claims, publishing and imports. One of several leads.

Walk: manifests and etcd -> ``mesh/controller_tables.py`` (what is wanted and published; every
instance computes it) -> ``mesh/leading.py`` (the leader writes it). Losing the process loses
nothing: what is published lives on its leases, claims stay for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from clustermesh.etcd.client import Client, EtcdAddress
from clustermesh.remote.tables import PREFIX as MESH
from clustermesh.store.follow import Batch, Follow
from mesh import process
from mesh.config import ControllerConfig, load_controller
from mesh.controller_rows import Row, nouns
from mesh.controller_tables import ControllerTables
from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.leading import Leading
from mesh.objects.manifests import Manifests
from mesh.observe.tables import Server
from mesh.process import Since

NO_ETCD = "M151"


class Controller:
    """One instance: sources, tables, and its candidacy."""

    def __init__(self, config: ControllerConfig) -> None:
        self.config = config
        etcd, cluster = config.etcd, config.cluster.name
        self.client = Client(EtcdAddress(etcd.endpoints, etcd.ca, etcd.cert, etcd.key))
        self.manifests = Manifests(config.manifests, cluster, config.state_dir)
        self.tables = ControllerTables(config, self.manifests.objects)
        self.leading = Leading(config, self.client, self.tables)
        subtree = self.tables.subtree
        self.own = Follow(self.client, subtree.prefix, self._take, on_synced=subtree.synced)
        self.mesh = Follow(self.client, MESH, self.tables.take)
        self.loop = Loop()
        self.tables.wire(self.loop)
        self._settled = False
        self._since = Since()

    def _take(self, batch: Batch) -> None:
        """Our own subtree: for the tables, and for the allocator while we stand by."""
        self.tables.subtree.take(batch)
        self.leading.allocator.observe(batch)

    async def run(self) -> None:
        """Be a controller until cancelled; the leadership is given up, what is published stays."""
        try:
            async with (
                Server(self.config.socket, nouns(self.tables), self.status),
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self.manifests.run(), name="manifests")
                group.create_task(self.own.run(), name="follow own")
                group.create_task(self.mesh.run(), name="follow mesh")
                group.create_task(self.loop.run(), name="derive")
                group.create_task(self.leading.run(), name="lead")
                group.create_task(self.leading.pods.run(), name="snapshot of pods")
                group.create_task(self.leading.allocator.keep(), name="snapshot of claims")
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
            "findings": self.findings(),
        }

    def _is_ready(self) -> bool:
        """A leader is once everything has been published, a standby when it knows everything."""
        if not self.leading.leader.leads:
            self._settled = False
            return self.tables.complete
        applied = self.leading.applied
        self._settled |= bool(applied) and all(one.current for one in applied)
        return self._settled

    def findings(self) -> list[Finding]:
        """Everything that is wrong now, each since when."""
        return self._since.dated(self._found())

    def _found(self) -> Iterable[Finding]:
        yield from self.tables.findings()
        yield from self.leading.findings()
        stays = "what is programmed and published stays as it is"
        if self.client.problem:
            place = f"etcd {self.client.endpoint.text}"
            yield Finding(NO_ETCD, place, "", f"{self.client.problem}; {stays}")
            return
        for follow in (self.own, self.mesh):
            if follow.problem:
                yield Finding(NO_ETCD, f"etcd {follow.prefix}", "", f"{follow.problem}; {stays}")


def main(path: Path) -> int:
    """Be the controller until SIGTERM or SIGINT; what is published stays for its lease."""
    return process.main(path, load_controller, lambda config: Controller(config).run())
