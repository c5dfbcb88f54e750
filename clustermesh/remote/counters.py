"""Clusters whose counter stands are gone, although somebody keeps their keys (ARCHITECTURE.md D68).

What a cluster publishes hangs on leases, and etcd lets any user keep any lease alive. A cluster of
ours says in its config for how long its counter may stand (``wire.ClusterConfig``); the counter is
its leader's key, which only its controllers may write. Every reader looks at the counters of the
clusters that it knows, and judges by its own clock.

``Counters`` stands between the watch and the import firewall. When a counter has stood for too
long, all keys of its cluster are told as deleted, and what the watch says of them is withheld. When
the counter moves, the cluster's keys are read once more. A cluster without a counter (Cilium, or
ours of an earlier version) ends with its leases alone.

The same look reads the UDP port of each cluster's overlay (``wire.overlay_key``), which is seldom
changed. A cluster that is new is looked at without delay: nothing is sent to its nodes before.

Rule 1: nothing counts while it cannot be read, while an alarm keeps everybody from writing, or
        while the cluster's config is not in this store (it was replaced: D8).
Rule 2: the counters are asked for and not watched: every two seconds, each of them would wake each
        reader of the mesh.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from clustermesh.etcd.client import Client, Denied, EtcdError
from clustermesh.etcd.names import is_readable
from clustermesh.etcd.requests import cut, get_op, read_kv
from clustermesh.findings import COUNTER_STANDS, NO_COUNTERS
from clustermesh.remote import wire
from clustermesh.remote.shared import CONFIG, SHARED
from clustermesh.store.counter import Standing
from clustermesh.store.follow import Batch, Entry, entry_of
from mesh.core.model import OVERLAY_PORT, Finding
from mesh.core.table import Table

log = logging.getLogger(__name__)

#: Looks in the shortest time for which a counter may stand, and the seconds between two looks.
LOOKS = 20
SHORTEST_S, LONGEST_S = 2.0, 30.0
#: What is read of each cluster.
_READ = (wire.config_key, wire.leader_key, wire.overlay_key)
#: Clusters of one Txn: three reads each, of the 128 operations that etcd takes.
CLUSTERS_PER_TXN = 40
#: Keys that are handed on in one piece when a cluster comes back.
HANDED_ON = 256


class _Counter(NamedTuple):
    """For how long the counter of a cluster may stand (0: it has none), and the counter.

    ``value`` differs after each put of the leader's key and of the config.
    """

    limit_s: int
    value: tuple[int, int, int, int]


class Counters:
    """Batches of ``cilium/`` on their way to ``on_batch``, without clusters that stand still.

    ``told`` gives the keys of which ``on_batch`` knows.
    """

    def __init__(
        self,
        client: Client,
        own: str,
        on_batch: Callable[[Batch], None],
        told: Callable[[], Iterable[str]],
        shortest_s: float = SHORTEST_S,
        clock: Callable[[], float] = time.monotonic,
        ports: Table[str, int] | None = None,
    ) -> None:
        #: Seconds between two looks.
        self.wait_s = shortest_s
        self._client, self._own = client, own
        self._on_batch, self._told = on_batch, told
        self._shortest_s, self._clock = shortest_s, clock
        self._names: set[str] = set()  # of clusters that have a config key, as the watch says
        self._standing: dict[str, Standing] = {}
        self._still: dict[str, _Counter] = {}  # clusters that are withheld
        self._returning: dict[str, set[str]] = {}  # keys that have changed since they are let in
        self._problem = ""
        self._ports = ports
        self._came = asyncio.Event()  # a cluster whose port nobody has read

    @property
    def still(self) -> Sequence[str]:
        """Clusters that are withheld."""
        return sorted(self._still)

    def take(self, batch: Batch) -> None:
        """Hand on what was listed or has changed, without what is withheld."""
        if self._returning:
            for key in (*batch.deletes, *(entry.key for entry in batch.puts)):
                self._returning.get(wire.split_key(key)[1], set()).add(key)
        self._note_configs(batch)
        if self._still:
            puts = [e for e in batch.puts if wire.split_key(e.key)[1] not in self._still]
            batch = Batch(batch.revision, puts, batch.deletes, batch.listed, batch.page)
        self._on_batch(batch)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            # Readers that were started together are not to ask together.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait_s * random.uniform(0.9, 1)):  # noqa: S311 - no secret
                    await self._came.wait()
            self._came.clear()
            try:
                await self.look()
                self._problem = ""
            except EtcdError as error:
                self._problem = str(error) if isinstance(error, Denied) else ""
                if self._problem:
                    self._note_ports(dict.fromkeys(self._names, OVERLAY_PORT), known=False)

    async def look(self) -> None:
        """Read all counters once, and judge. Raises EtcdError."""
        try:
            counters = await self._read()
            limits = [one.limit_s for one in counters.values() if one.limit_s]
            alarms = await self._client.alarms() if limits else ()
        except EtcdError:
            self._lose()
            raise
        if alarms:  # what stands may be kept from moving
            self._lose()
            limits = []
        for name in self._standing.keys() - counters.keys():
            del self._standing[name]
        back = [name for name, one in counters.items() if self._has_moved(name, one)]
        if limits:
            self._judge(counters)
            shortest_s = min(limits) / LOOKS
            self.wait_s = min(max(shortest_s, self._shortest_s), LONGEST_S)
        for name in back:
            await self._let_in(name)

    def findings(self) -> Iterable[Finding]:
        """Clusters that are withheld, and why counters cannot be read."""
        for name, one in sorted(self._still.items()):
            text = (
                f"{wire.leader_key(name)} has stood for {one.limit_s} s, although the keys of "
                f"cluster {name} are there: nobody of that cluster writes, and somebody keeps its "
                "leases alive; its services, identities and addresses are withdrawn here"
            )
            yield Finding(COUNTER_STANDS, f"Cluster/{name}", "", text, (f"cluster/{name}",))
        if self._problem:
            text = f"{self._problem}: other clusters count as present as long as their leases live"
            yield Finding(NO_COUNTERS, "meshgate/v1/*/leader", "", wire.plain(text))

    # --- Which clusters stand -----------------------------------------------------------------

    def _note_configs(self, batch: Batch) -> None:
        """Which clusters there are; one without a config has gone, and is withheld no more."""
        for key in batch.deletes:
            if key.startswith(wire.CONFIGS):
                name = key.removeprefix(wire.CONFIGS)
                self._names.discard(name)
                self._standing.pop(name, None)
                self._still.pop(name, None)
                if self._ports is not None:
                    self._ports.delete([name])
        for entry in batch.puts:
            name = entry.key.removeprefix(wire.CONFIGS)
            if name not in (entry.key, self._own) and wire.is_cluster_name(name):
                self._names.add(name)
                if self._ports is not None and name not in self._ports.rows:
                    self._came.set()

    def _lose(self) -> None:
        for standing in self._standing.values():
            standing.lose()

    async def _read(self) -> Mapping[str, _Counter]:
        """What each cluster says whose config is in the store."""
        counters: dict[str, _Counter] = {}
        ports: dict[str, int] = {}
        for names in cut(sorted(self._names), CLUSTERS_PER_TXN, len):
            keys = [make(name) for name in names for make in _READ]
            reply = await self._client.txn([], list(map(get_op, keys)), repeat=True)
            kvs = map(read_kv, reply.responses)
            for name, config, leader, overlay in zip(names, kvs, kvs, kvs, strict=True):
                if config is not None:
                    at = (leader.create_revision, leader.mod_revision) if leader else (0, 0)
                    value = config.create_revision, config.mod_revision, *at
                    counters[name] = _Counter(_limit_s(config.value), value)
                    ports[name] = _port(overlay.value) if overlay else OVERLAY_PORT
        self._note_ports(ports)
        return counters

    def _note_ports(self, ports: Mapping[str, int], *, known: bool = True) -> None:
        """The overlay's port of each cluster; where it is only assumed, one that is known stays."""
        if self._ports is not None:
            have = self._ports.rows
            self._ports.upsert({n: port for n, port in ports.items() if known or n not in have})

    def _has_moved(self, name: str, counter: _Counter) -> bool:
        """Whether a cluster that is withheld has written."""
        before = self._still.get(name)
        return before is not None and (not counter.limit_s or counter.value != before.value)

    def _judge(self, counters: Mapping[str, _Counter]) -> None:
        for name, one in counters.items():
            if name not in self._names or name in self._still:
                continue
            if not one.limit_s:
                self._standing.pop(name, None)
                continue
            standing = self._standing.setdefault(name, Standing(self._clock))
            if standing.read(one.value, self.wait_s) >= one.limit_s:
                self._withhold(name, one)

    # --- Out, and in again --------------------------------------------------------------------

    def _withhold(self, name: str, counter: _Counter) -> None:
        log.warning("event=cluster_stands_still cluster=%s seconds=%d", name, counter.limit_s)
        self._still[name] = counter
        self._standing.pop(name, None)
        keys = (key for key in self._told() if wire.split_key(key)[1] == name)
        gone = [key for key in keys if is_readable(key)]
        self._on_batch(Batch(0, (), gone))

    async def _let_in(self, name: str) -> None:
        """Hand on all keys of a cluster as they are now. Raises EtcdError; then it stays out.

        The watch's events of its keys count from before the first read. So a key that has changed
        meanwhile has been told, or will be.
        """
        before = self._still.pop(name, None)
        if before is None:
            return  # it has gone meanwhile
        changed = self._returning[name] = set()
        try:
            entries = await self._entries(name)
            for part in cut(entries, HANDED_ON, lambda entry: len(entry.value)):
                puts = [entry for entry in part if entry.key not in changed]
                self._on_batch(Batch(0, puts))
                await asyncio.sleep(0)
        except EtcdError:
            self._withhold(name, before)
            raise
        finally:
            del self._returning[name]
        log.info("event=cluster_moves_again cluster=%s", name)

    async def _entries(self, name: str) -> Sequence[Entry]:
        """All keys of a cluster, in the order in which it would put them."""
        config = await self._client.get(wire.config_key(name))
        kvs = [config] if config else []
        prefixes = [noun.prefix for noun in SHARED if noun is not CONFIG]
        for prefix in (*prefixes, wire.CANARIES):
            kvs += (await self._client.list(f"{prefix}{name}/")).kvs
        return [entry for entry in map(entry_of, kvs) if is_readable(entry.key)]


def _limit_s(config: bytes) -> int:
    """For how long the counter of a cluster may stand; 0: it has none, or says it badly."""
    try:
        return max(wire.decode(wire.ClusterConfig, config).counter_seconds, 0)
    except wire.WireError:
        return 0


def _port(overlay: bytes) -> int:
    """UDP port of a cluster's overlay; that of everybody where it says it badly."""
    try:
        return wire.decode(wire.Overlay, overlay).port
    except wire.WireError:
        return OVERLAY_PORT
