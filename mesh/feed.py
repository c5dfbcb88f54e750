"""The feed of a cluster: lists of egress addresses for firewalls.

Walk: objects and etcd -> ``gateway/feed/serving.py`` (which group lists what, what addresses wait
for) -> etcd. A firewall's request -> ``gateway/feed/https.py`` -> ``gateway/feed/answers.py``.

Losing the process loses nothing: firewalls keep their lists, addresses stay as they are in etcd.
An address that waits for firewalls goes on waiting. A new process serves 503 until it has read
everything, and then the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from clustermesh.certs import signature
from clustermesh.ending import ending
from clustermesh.etcd.client import Client, EtcdError
from clustermesh.findings import CANNOT_WRITE, OWN_UNREADABLE, STORE_AWAY
from clustermesh.remote.wire import parse_ip, plain
from clustermesh.store.follow import Batch
from clustermesh.store.keys import PersistentTarget
from clustermesh.store.own import API_SERVER, LISTED, SAID, Own, listed_of, listed_value
from clustermesh.store.view import StoreView
from gateway.feed import keys
from gateway.feed.findings import UNUSABLE
from gateway.feed.https import Door
from gateway.feed.inputs import FeedInputs
from gateway.feed.serving import MEMORY, Feed
from gateway.policy import POLICIES
from gateway.pool import POOLS
from mesh import process, sources
from mesh.config import FeedConfig, load_feed
from mesh.core.findings import STORE
from mesh.core.groups import By
from mesh.core.model import IP, Finding, Listed
from mesh.core.noun import Row
from mesh.core.reconcile import Loop
from mesh.core.steps import Steps
from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.health.mistakes import Mistakes, Task, named
from mesh.k8s import watches
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES
from mesh.observe.tables import Server

#: What a feed reads of an API server.
READS = (NODES, POLICIES, POOLS)
#: Seconds between looks at requests of operators that are done.
LOOK_S = 0.5


class FeedProcess:
    """One feed: sources, tables, and the door for firewalls."""

    def __init__(self, config: FeedConfig, steps: Steps | None = None) -> None:
        self.config, self._steps = config, steps or Steps()
        cluster = config.cluster.name
        self.client = Client(config.etcd.address)
        self.api_servers: Table[str, None] = Table("accepted API server")
        self.sources = sources.of(
            config, cluster, config.state_dir, partial(watches.of_nouns, nouns=READS),
            kinds=KINDS, accepted=lambda: self.api_servers.rows,
        )  # fmt: skip
        #: Claims of addresses, and what agents say of them.
        self.own = Own(cluster, confirmed=False)
        inputs = FeedInputs(cluster, self.sources.objects, self.own)
        self.feed = Feed(
            cluster, config.instance, config.firewalls, inputs, config.state_dir / MEMORY,
            self._sign,
        )  # fmt: skip
        self.loop = Loop()
        self.feed.derive(self.loop)
        self.keys: Table[str, bytes] = Table("feed")
        self.loop.group(self.keys, self._key, By(self.feed.keys), By(self.feed.listed))
        self.prefix = keys.prefix(cluster)
        owned = [f"{self.prefix}{one}" for one in (keys.GROUP, keys.FETCHED, keys.ADDRESS)]
        self.applied = self.loop.apply(self.keys, PersistentTarget(self.client, owned))
        own = f"meshgate/v1/{cluster}/"
        self._listed = f"{own}{LISTED}"
        self.view = StoreView(
            self.client,
            f"{own}synced",
            {
                self.prefix: self._take,
                f"{own}{API_SERVER}": self._take_api_servers,
                f"{own}{SAID}": self.own.take,
                **{f"{own}{noun}/": self.own.take for noun in self.own.claims},
            },
            on_synced=self._on_synced,
        )
        self.view.on_replaced = self.applied.recheck
        self.door = Door(config.listen, config.tls, self.feed.answer, self.feed.sent)
        self._unreadable: dict[str, str] = {}
        self.mistakes = Mistakes(config.instance, "feed", self.loop)
        self._since = process.Since(self._found, file=config.state_dir / process.SINCE)

    # Sources

    def _take(self, batch: Batch) -> None:
        """Take in what the store says of lists, fetches and requests of operators."""
        puts = {entry.key.removeprefix(self.prefix): entry.value for entry in batch.puts}
        deletes = [key.removeprefix(self.prefix) for key in batch.deletes]
        wrong = self.feed.take(puts, deletes)
        for entry in batch.puts:
            self._unreadable.pop(entry.key, None)
            if entry.key.startswith(self._listed):
                try:
                    address = parse_ip(entry.key.removeprefix(self._listed), "address")
                    self.feed.take_listed({address: listed_of(entry.value)})
                except ValueError as error:
                    wrong[entry.key.removeprefix(self.prefix)] = str(error)
        self._unreadable |= {f"{self.prefix}{name}": text for name, text in wrong.items()}

    def _take_api_servers(self, batch: Batch) -> None:
        prefix = f"meshgate/v1/{self.config.cluster.name}/{API_SERVER}"
        self.api_servers.delete([key.removeprefix(prefix) for key in batch.deletes])
        self.api_servers.upsert({entry.key.removeprefix(prefix): None for entry in batch.puts})

    def _on_synced(self) -> None:
        self.own.synced()
        for table in self.feed.sources:
            table.mark_synced()

    def _key(self, name: str | IP, value: bytes | None, row: Listed | None) -> dict[str, bytes]:
        """A key of the feed by its name, or the one of an address."""
        if isinstance(name, str):
            return {f"{self.prefix}{name}": value} if value is not None else {}
        return {f"{self._listed}{name}": listed_value(row)} if row else {}

    def _sign(self, data: bytes) -> bytes:
        return signature(self.config.tls.key.read_bytes(), data)

    async def _take_away(self) -> None:
        """Requests of operators that are done and written go."""
        while True:
            await tick(LOOK_S)
            if not (self.feed.ready and self.applied.current):
                continue
            for name in self.feed.done:
                with suppress(EtcdError):
                    await self.client.delete(f"{self.prefix}{name}")

    # What others see

    def findings(self) -> list[process.Dated]:
        """Everything that is wrong now, each since when."""
        return self._since.dated()

    def _found(self) -> Iterator[Finding]:
        yield from self.mistakes.of("objects", self.sources.findings)
        yield from self.mistakes.of("the feed", self.feed.findings)
        place = f"{self.config.instance}/feed"
        if self.door.problem:
            yield Finding(UNUSABLE, place, *self.door.problem)
        yield from self.own.findings.values()
        for key, text in self._unreadable.items():
            yield Finding(OWN_UNREADABLE, plain(key), "value", plain(text))
        yield from self.mistakes.of("the watch", self.view.findings)
        yield from self.mistakes.of("the certificate", partial(ending, self.client))
        for key, text in self.applied.report.errors.items():
            yield Finding(CANNOT_WRITE, "etcd feed", plain(str(key)), plain(str(text)))
        problem = self.client.problem or self.view.problem
        if problem:
            text = f"{problem}; lists and addresses stay as they are"
            yield Finding(STORE_AWAY, f"etcd {self.client.endpoint.text}", "", text, (STORE,))
        yield from self.mistakes.findings()

    def status(self) -> Row:
        """The process's own view."""
        return {
            "role": "feed",
            "host": self.config.instance,
            "cluster": self.config.cluster.name,
            "ready": self.feed.ready and self.applied.current and self.door.problem is None,
            "groups": len(self.feed.groups.rows),
            "loop": process.busy(self._steps, self.loop),
            "findings": self.findings(),
        }

    # Life

    async def run(self) -> None:
        """Serve until cancelled; firewalls keep the lists that they have."""
        try:
            async with (
                Server(self.config.socket, self.feed.listings(), self.status),
                asyncio.TaskGroup() as group,
            ):
                jobs: dict[str, Task] = {
                    **process.jobs(self.sources, self.loop, self._since),
                    "follow the store": self.view.run,
                    "serve firewalls": self.door.run,
                    "requests of operators": self._take_away,
                    **named(self.feed.tasks()),
                }
                for name, job in jobs.items():
                    group.create_task(self.mistakes.keep(name, job), name=name)
        finally:
            await self.client.aclose()


def main(path: Path) -> int:
    """Be the feed until SIGTERM or SIGINT."""
    return process.main(path, load_feed, lambda config, steps: FeedProcess(config, steps).run())
