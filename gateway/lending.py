"""Runs of ports on a node: their log goes into the store, and the node says which blocks it uses.

    mg_lent (the log)         -> meshgate/v1/<cluster>/lent/<node>/…  (``history.py``)
    mg_block_runs, own blocks -> meshgate/v1/<cluster>/demand/<node>
    resting blocks, mg_own_block, mg_block_runs -> which of them the node has let go

BPF lends, and writes the log (``bpf/include/run.h``). What the store has taken is cut off there, so
nothing is lost when this process ends. While the store does not answer the log grows; when it is
full nothing more is lent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

import msgspec

from gateway import maps as entries
from gateway.blocks import (
    OWN_BLOCKS,
    address_of_pool,
    blocks_in_use,
    coded,
    let_go_name,
    node_of_owner,
)
from gateway.findings import HISTORY_COARSE, HISTORY_NOT_KEPT, LOG_FILLS
from gateway.history import LentTo, RunEvent, Writing, day_of, lent_prefix
from gateway.settings import EgressSettings
from gateway.spread import Lent, crowded_blocks
from mesh.core.address import decode_address, packed
from mesh.core.feature import AgentFeature, Maps
from mesh.core.model import IP, Claim, ClaimKey, Finding, NodeKey, Pod, Usage
from mesh.core.reconcile import Loop, Target
from mesh.core.table import Changes, Table
from mesh.core.ticks import tick

#: Seconds between looks at the log, between writes, and between looks at blocks without a change.
POLL_S, WRITE_S, LOOK_S = 0.1, 1.0, 10.0
#: Where nothing was lent for a while, and between the looks then: a node at rest has a spare block.
CALM_S, CALM_POLL_S = 5.0, 0.4
#: Seconds that a block is in use after it last was: ports rest, and blocks are not passed around.
IDLE_S = 120.0
#: Seconds between looks whether the store has lost what this node said.
CHECK_S = 30.0
#: Blocks of a node that uses none: one, and a spare one.
NEW_BLOCKS = 2
#: Lines of the log that are taken at once.
LINES = 2048
#: Pods that an address has had and that are remembered: lines of the log may be older.
REMEMBERED = 4
#: Lines of the log, from which on it is a finding that they are not taken.
MANY = 8192
#: Below the cluster's prefix.
DEMAND = "demand/"


class Keys(Protocol):
    """The store, as far as it is needed here; raises OSError."""

    async def put(self, key: str, value: bytes) -> int:
        """Write one key."""

    async def list(self, prefix: str) -> Any:
        """``kvs``: all keys of a prefix."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log; ``at_ns`` is CLOCK_MONOTONIC."""

    address: IP
    run: int
    pod: IP
    at_ns: int
    lent: bool


class Names:
    """Which pod has, or had, an address of this node."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._pods: dict[IP, list[tuple[int, LentTo]]] = {}

    def take(self, changes: Changes[Any, Pod]) -> None:
        """Pods that have come; one that has gone is remembered until another has its address."""
        now = self._clock_ns()
        for pod in changes.upsert.values():
            for address in pod.addresses:
                holder = LentTo(pod.namespace, pod.name, str(address))
                known = self._pods.setdefault(address, [])
                if not known or known[-1][1] != holder:
                    known.append((now, holder))
                    del known[:-REMEMBERED]

    def of(self, address: IP, at_ns: int) -> LentTo:
        """The pod that had the address at a time."""
        known = self._pods.get(address, [])
        there = [holder for since, holder in known if since <= at_ns]
        if there:
            return there[-1]
        return known[0][1] if known else LentTo("", "", str(address))


class Log:
    """The log's maps."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        kinds, self._ends = maps.enum("lent_kind"), maps.enum("lent_end")
        self._lent = kinds["LENT"]
        self.size = maps.enum("run_limit")["LENT_ENTRIES"]
        self._tail: Target[Any, Any] = maps.rows(
            "mg_lent", lambda key, line: (key, {"line": line}), entries.decode_end
        )
        self._runs: Target[Any, Any] = maps.rows("mg_run", entries.no_run, entries.decode_run)

    def head(self) -> int:
        """Number of the next line."""
        return self._end("LENT_HEAD")

    def ends(self) -> tuple[int, int]:
        """Numbers of the next line, and of the first one that is not cut off."""
        return self._end("LENT_HEAD"), self._end("LENT_TAIL")

    def _end(self, name: str) -> int:
        row = self._maps.lookup("mg_lent", self._ends[name])
        return int(row["line"])

    def lines(self, first: int, last: int) -> Sequence[Line]:
        """Lines that are whole; one that is being written ends them."""
        found = []
        for number in range(first, last):
            row = self._maps.lookup("mg_lent", number % self.size)
            if int(row["line"]) != number + 1:
                break
            lent = int(row["kind"]) == self._lent
            address, pod = decode_address(row["address"]), decode_address(row["pod"])
            found.append(Line(address, int(row["run"]), pod, int(row["at"]), lent))
        return found

    async def cut(self, first: int) -> None:
        """Lines before this one are in the store. Raises OSError."""
        failed = await self._tail.upsert({self._ends["LENT_TAIL"]: first})
        for error in failed.values():
            raise OSError(str(error))

    async def open_runs(self) -> Sequence[Line]:
        """What is lent now."""
        rows = await self._runs.read()
        return [
            Line(address, run, row.pod, row.since_ns, lent=True)
            for (address, run), row in rows.items()
            if not row.returned
        ]

    def is_used(self, address: IP, block: int) -> bool:
        """Whether the datapath lends from the block, or a run of it is lent or rests."""
        row = self._maps.lookup("mg_own_block", packed(address))
        lends = row is not None and block in row["number"][: int(row["count"])]
        return lends or self.taken(address, block)

    def taken(self, address: IP, block: int) -> bool:
        """Whether a run of the block is lent or rests."""
        row = self._maps.lookup("mg_block_runs", entries.block_key(address, block))
        return row is not None and bool(row["taken"])


class LetGo:
    """Blocks of this node that rest, and that nothing here uses any more, with their epochs.

    Two looks in a row find such a block neither among those that the datapath lends from nor with a
    run that is lent or rests: a program that had seen it before has ended by then.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._resting: dict[ClaimKey, int] = {}
        self._before: Mapping[str, int] = {}
        #: Epochs by the block's name.
        self.told: Mapping[str, int] = {}

    def take(self, changes: Changes[ClaimKey, Claim]) -> None:
        """Blocks that rest now, or no longer."""
        for key in changes.delete:
            self._resting.pop(key, None)
        for key, claim in changes.upsert.items():
            if node_of_owner(claim.owner) == self._node:
                self._resting[key] = claim.epoch
            else:
                self._resting.pop(key, None)

    def look(self, is_used: Callable[[IP, int], bool]) -> None:
        """``is_used``: whether the datapath lends from a block, or has lent."""
        now = {
            let_go_name(key): epoch
            for key, epoch in self._resting.items()
            if (address := address_of_pool(key.pool)) and not is_used(address, coded(key))
        }
        before, self._before = self._before, now
        self.told = {name: epoch for name, epoch in now.items() if before.get(name) == epoch}


class LendingAgent(AgentFeature):
    """``pods`` are those of this node with their addresses, ``own_block`` its blocks in order.

    ``resting`` are the released blocks of the cluster.
    """

    def __init__(
        self,
        own: NodeKey,
        settings: EgressSettings,
        pods: Table[Any, Pod],
        own_block: Table[IP, tuple[int, ...]],
        resting: Table[ClaimKey, Claim],
        store: Keys,
        lent: Lent | None = None,
    ) -> None:
        self._own, self._settings, self._store = own, settings, store
        self._pods, self._own_block, self._resting = pods, own_block, resting
        self.let_go = LetGo(own.name)
        self.names, self._lent = Names(), lent or Lent()
        self._prefix = lent_prefix(own.cluster, own.name)
        self._demand_key = f"meshgate/v1/{own.cluster}/{DEMAND}{own.name}"
        self._log: Log | None = None
        self._writing: Writing | None = None
        self._taken = 0  # lines that ``_writing`` has, counted as the log does
        self._day, self._wrote, self._looked = "", 0.0, 0.0
        self._demand = Demand(crowded_blocks(settings.blocks_per_node))
        self._told: Mapping[str, int] | None = None
        self._told_at, self._checked = 0.0, time.monotonic()
        self._moved = time.monotonic()
        self._behind = 0
        self._problem = ""

    def derive(self, loop: Loop) -> None:
        loop.follow(self._pods, self.names.take)
        loop.follow(self._resting, self.let_go.take)

    def apply(self, loop: Loop, maps: Maps) -> None:  # noqa: ARG002 - it has no table
        self._log = Log(maps)

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._run,)

    async def _run(self) -> None:
        """Take the log into the store, and say how many blocks are in use, for ever."""
        log = self._log
        while log:
            try:
                if self._pods.synced and self._own_block.synced:
                    await self._round(log)
                self._problem = ""
            except OSError as error:
                self._problem = str(error)
                await asyncio.sleep(WRITE_S)
            calm = time.monotonic() - self._moved > CALM_S
            await tick(CALM_POLL_S if calm else POLL_S)

    async def _round(self, log: Log) -> None:
        if time.monotonic() - self._wrote < WRITE_S and log.head() == self._taken:
            return
        head, tail = log.ends()
        self._behind = head - tail
        writing = self._writing or await self._begin(log, tail)
        now = time.time()
        if self._day != day_of(now):
            self._roll(writing, now)
        if time.monotonic() - self._checked >= CHECK_S:
            await self._check(writing, now)
        news = head > self._taken
        if news:
            self._moved = time.monotonic()
            self._take(writing, log, min(head, self._taken + LINES))
        if time.monotonic() - self._wrote >= WRITE_S:
            self.let_go.look(log.is_used)
            await self._write(writing, log, now)
        if news or time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            used = blocks_in_use(self._own_block.rows, log.taken)
            self._demand.look(used, time.monotonic())
        await self._tell()

    async def _begin(self, log: Log, tail: int) -> Writing:
        """What a former process left: what is lent, and how much this day has had."""
        day = day_of(time.time())
        found = await self._store.list(f"{self._prefix}{day}/")
        # A process that follows a killed one within a second would else overwrite its parts.
        writing = Writing(self._settings.block_size, time.time_ns() >> 12)
        writing.sizes[day] = sum(len(kv.key) + len(kv.value) for kv in found.kvs)
        lines = await log.open_runs()
        for line in lines:
            event = self._event(line)
            writing.opened[event.address, event.run] = event
        self._lent.begin((line.address, line.run, line.pod) for line in lines)
        self._told = await self._said()
        self._writing, self._taken = writing, tail
        return writing

    async def _said(self) -> Mapping[str, int] | None:
        """What the node said last; else what a version before held is in use until it is known."""
        said = await self._stored_demand()
        if said is None:
            counts = {ip: len(numbers) for ip, numbers in self._own_block.rows.items()}
            self._demand.used = {ip: n if n > NEW_BLOCKS else 1 for ip, n in counts.items()}
            return None
        told = msgspec.json.decode(said, type=dict[str, int])
        self._demand.used = {ip_address(text): count for text, count in told.items()}
        return told

    async def _stored_demand(self) -> bytes | None:
        found = await self._store.list(self._demand_key)
        keys = (kv for kv in found.kvs if kv.key.decode() == self._demand_key)
        return next((kv.value for kv in keys), None)

    async def _check(self, writing: Writing, now: float) -> None:
        """A store that has lost what the node said gets it anew, and what is lent now."""
        self._checked = time.monotonic()
        if self._told is not None and await self._stored_demand() is None:
            self._told = None
            writing.begin_anew()
            self._roll(writing, now)

    def _roll(self, writing: Writing, now: float) -> None:
        """Each day knows what is lent since before."""
        self._day = day_of(now)
        for address in {address for address, _ in writing.opened}:
            writing.begin_day(address, self._day)

    def _take(self, writing: Writing, log: Log, last: int) -> None:
        lines = log.lines(self._taken, last)
        for line in lines:
            writing.take(self._event(line))
        self._lent.take((line.address, line.run, line.pod, line.lent) for line in lines)
        self._taken += len(lines)

    def _event(self, line: Line) -> RunEvent:
        at = time.time() - (time.monotonic_ns() - line.at_ns) / 1e9
        holder = self.names.of(line.pod, line.at_ns)
        return RunEvent(line.address, line.run, at, holder, line.lent)

    async def _write(self, writing: Writing, log: Log, now: float) -> None:
        """What has changed, then the log is cut. Raises OSError."""
        values = writing.changed()
        self._wrote = time.monotonic()
        for place, value in values.items():
            await self._store.put(f"{self._prefix}{place}", value)
        writing.written(values, now)
        if log.ends()[1] != self._taken:
            await log.cut(self._taken)

    async def _tell(self) -> None:
        """The blocks in use, when they have changed, once a second at most. Raises OSError."""
        if time.monotonic() - self._told_at < WRITE_S:
            return
        used = {str(address): count for address, count in self._demand.used.items()}
        if used == self._told:
            return
        await self._store.put(self._demand_key, msgspec.json.encode(used))
        self._told, self._told_at = used, time.monotonic()

    def usage(self) -> Iterable[Usage]:
        if self._log:
            yield Usage("lines of the log of ports", self._own.name, self._behind, self._log.size)

    def findings(self) -> Iterable[Finding]:
        place, about = f"Node/{self._own.name}", (f"node/{self._own.name}",)
        if self._problem:
            yield Finding(HISTORY_NOT_KEPT, place, "lent", self._problem, about)
        if self._behind >= MANY:
            text = f"{self._behind} lendings are not in the store yet"
            yield Finding(LOG_FILLS, place, "lent", text, about)
        if self._writing and self._writing.is_coarse(time.time()):
            text = "this day's history has had its bytes: whois names all pods of a block"
            yield Finding(HISTORY_COARSE, place, "lent", text, about)


class Demand:
    """How many blocks of each address a node uses; fewer only after a while.

    A node that has begun to use its spare block may need many at once: it asks for twice as many as
    it uses by then, but for ``crowded`` only when it uses as many.
    """

    def __init__(self, crowded: int = OWN_BLOCKS) -> None:
        self._crowded = crowded
        self.used: dict[IP, int] = {}
        self._lower: dict[IP, tuple[int, float]] = {}

    def look(self, used: Mapping[IP, int], time_s: float) -> None:
        """What is in use now."""
        for address in {*used, *self.used}:
            self._look_at(address, used.get(address, 0), time_s)

    def _asked(self, used: int) -> int:
        if used < self._crowded:
            return used if used == 1 else max(used, min(2 * used, self._crowded - 1))
        return 2 * used

    def _look_at(self, address: IP, now: int, time_s: float) -> None:
        before = self.used.get(address, 0)
        if now > before:
            now = self._asked(now)
        if now >= before:
            self._lower.pop(address, None)
        else:
            most, since = self._lower.get(address, (now, time_s))
            self._lower[address] = (max(most, now), since)
            if time_s - since < IDLE_S:
                return
            now = self._lower.pop(address)[0]
        if now:
            self.used[address] = now
        else:
            self.used.pop(address, None)
