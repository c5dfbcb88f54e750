"""How long a counter has stood, and what becomes of the cluster's keys; no etcd, no clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import cast

import pytest

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client, Denied, EtcdError, KeyList, Unavailable
from clustermesh.remote import wire
from clustermesh.remote.counters import LOOKS, Counters
from clustermesh.store.counter import Standing
from clustermesh.store.follow import Batch, Entry, entry_of
from mesh.core.table import Table

LIMIT_S = 100
NODE = wire.node_key("west", "west-1")
CONFIG, LEADER = wire.config_key("west"), wire.leader_key("west")


class Clock:
    """Time that passes when it is told."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_counter_stands_for_as_long_as_it_was_read_so() -> None:
    clock = Clock()
    standing = Standing(clock)
    stood = []
    for seconds, value in ((0, 1), (2, 1), (2, 1), (1, 2), (2, 2)):
        clock.now += seconds
        stood.append(standing.read(value, 2))
    assert stood == [0, 2, 4, 0, 2]


def test_a_reader_that_slept_counts_one_pace() -> None:
    """SIGSTOP, a suspended machine: who else has slept cannot be known."""
    clock = Clock()
    standing = Standing(clock)
    standing.read(1, 2)
    clock.now += 3600
    assert standing.read(1, 2) == 2


def test_what_could_not_be_read_begins_anew() -> None:
    clock = Clock()
    standing = Standing(clock)
    standing.read(1, 2)
    clock.now += 2
    assert standing.read(1, 2) == 2
    standing.lose()
    clock.now += 2
    assert standing.read(1, 2) == 0
    clock.now += 1
    assert standing.read(1, 2) == 1


class Store:
    """Keys with revisions, in place of a client; ``error`` is raised by each call."""

    def __init__(self) -> None:
        self.kvs: dict[str, pb.KeyValue] = {}
        self.revision = 0
        self.alarm: Sequence[str] = ()
        self.error: EtcdError | None = None
        self.lists = 0

    def put(self, key: str, value: bytes = b"") -> Entry:
        self.revision += 1
        self.kvs[key] = pb.KeyValue(
            key=key.encode(), value=value, create_revision=1, mod_revision=self.revision
        )
        return entry_of(self.kvs[key])

    async def txn(
        self, _: object, success: Iterable[pb.RequestOp], *, repeat: bool
    ) -> pb.TxnResponse:
        assert repeat
        self._fail()
        keys = [op.request_range.key.decode() for op in success]
        found = [pb.RangeResponse(kvs=[self.kvs[k]] if k in self.kvs else []) for k in keys]
        return pb.TxnResponse(responses=[pb.ResponseOp(response_range=one) for one in found])

    async def alarms(self) -> Sequence[str]:
        return self.alarm

    async def get(self, key: str) -> pb.KeyValue | None:
        self._fail()
        return self.kvs.get(key)

    async def list(self, prefix: str) -> KeyList:
        self._fail()
        self.lists += 1
        return KeyList(
            self.revision, [kv for key, kv in self.kvs.items() if key.startswith(prefix)]
        )

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Mesh:
    """One reader of a store that has west; looks are ``LIMIT_S / LOOKS`` apart."""

    def __init__(self, limit_s: int = LIMIT_S) -> None:
        self.clock = Clock()
        self.store = Store()
        self.rows: dict[str, bytes] = {}
        self.told: set[str] = set()
        self.ports: Table[str, int] = Table("port")
        self.counters = Counters(
            cast("Client", self.store),
            "east",
            self.take,
            lambda: self.told,
            1,
            self.clock,
            self.ports,
        )
        config = wire.cluster_config(2, limit_s)
        self.put(CONFIG, config)
        self.put(wire.config_key("east"), config)
        self.put(NODE, b"1")
        self.store.put(LEADER)

    def take(self, batch: Batch) -> None:
        self.rows |= {entry.key: entry.value for entry in batch.puts}
        for key in batch.deletes:
            self.rows.pop(key, None)

    def put(self, key: str, value: bytes) -> None:
        """Put a key, which the watch tells."""
        self.told.add(key)
        self.counters.take(Batch(1, [self.store.put(key, value)]))

    def delete(self, key: str) -> None:
        self.told.discard(key)
        del self.store.kvs[key]
        self.counters.take(Batch(1, (), [key]))

    def look(self, times: int = 1) -> None:
        """So many looks in their pace; what they raise is lost, as in ``run``."""

        async def looks() -> None:
            for _ in range(times):
                self.clock.now += LIMIT_S / LOOKS
                try:
                    await self.counters.look()
                except EtcdError:
                    continue

        asyncio.run(looks())

    @property
    def has_west(self) -> bool:
        return NODE in self.rows


ENOUGH = LOOKS + 3  # the first look learns the pace


def test_a_counter_that_stands_ends_its_cluster_and_one_that_moves_does_not() -> None:
    mesh = Mesh()
    for _ in range(3):
        mesh.look(LOOKS - 1)
        mesh.store.put(LEADER)
    assert mesh.has_west
    mesh.look(ENOUGH)
    assert not mesh.has_west
    assert set(mesh.rows) == {wire.config_key("east")}, "our own cluster is never judged"
    assert [one.code for one in mesh.counters.findings()] == ["M188"]


@pytest.mark.parametrize("what", ["gone", "no promise", "unreadable"])
def test_who_says_that_it_has_no_counter_is_not_judged(what: str) -> None:
    """Cilium; a controller of an earlier version took over; a key that is not in this store."""
    mesh = Mesh()
    mesh.look(5)
    if what == "gone":
        del mesh.store.kvs[CONFIG]
    else:
        mesh.store.put(CONFIG, wire.cluster_config(2) if what == "no promise" else b"{")
    mesh.look(3 * ENOUGH)
    assert mesh.has_west


def test_a_leader_key_that_goes_stands() -> None:
    """Its lease has ended; the leases of the other keys may be kept alive all the same."""
    mesh = Mesh()
    mesh.look(2)
    del mesh.store.kvs[LEADER]
    mesh.look(ENOUGH)
    assert not mesh.has_west


def test_nothing_counts_while_etcd_is_away_or_takes_no_writes() -> None:
    mesh = Mesh()
    for _ in range(3):
        mesh.look(LOOKS - 2)
        mesh.store.error = Unavailable("away", sent=True)
        mesh.look(ENOUGH)
        mesh.store.error = None
        mesh.look(LOOKS - 2)
        mesh.store.alarm = ["alarm:NOSPACE"]
        mesh.look(ENOUGH)
        mesh.store.alarm = []
    assert mesh.has_west


def test_what_a_withheld_cluster_puts_is_told_when_it_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it is read once more; a read that fails leaves it out, for another try."""
    mesh = Mesh()
    mesh.look(ENOUGH)
    other = wire.node_key("west", "west-2")
    mesh.put(other, b"2")
    mesh.look(3)
    assert not mesh.has_west
    assert other not in mesh.rows
    assert mesh.store.lists == 0
    mesh.store.put(LEADER)

    async def fails(_: str) -> KeyList:
        raise Unavailable("away", sent=True)

    with monkeypatch.context() as patched:
        patched.setattr(mesh.store, "list", fails)
        mesh.look()
    assert not mesh.has_west
    mesh.look()
    assert (mesh.rows[NODE], mesh.rows[other]) == (b"1", b"2")
    assert list(mesh.counters.findings()) == []
    mesh.look(ENOUGH)
    assert not mesh.has_west, "it is judged as before"


def test_events_of_a_cluster_that_comes_back_win_over_what_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watch has told of a newer put, and of a deletion, before the list is handed on."""
    mesh = Mesh()
    other = wire.node_key("west", "west-2")
    mesh.put(other, b"2")
    mesh.look(ENOUGH)
    mesh.store.put(LEADER)
    read = mesh.store.list

    async def then_events(prefix: str) -> KeyList:
        listing = await read(prefix)
        if prefix == f"{wire.NODES}west/":
            mesh.put(NODE, b"newer")
            mesh.delete(other)
        return listing

    with monkeypatch.context() as patched:
        patched.setattr(mesh.store, "list", then_events)
        mesh.look()
    assert mesh.rows[NODE] == b"newer"
    assert other not in mesh.rows


def test_a_cluster_that_goes_while_it_is_withheld_comes_as_any_other() -> None:
    """Its leases have ended at last: what is put later counts at once."""
    mesh = Mesh()
    mesh.look(ENOUGH)
    for key in (NODE, CONFIG):
        mesh.delete(key)
    assert list(mesh.counters.findings()) == []
    mesh.put(CONFIG, wire.cluster_config(2, LIMIT_S))
    mesh.put(NODE, b"3")
    assert mesh.has_west


def test_a_cluster_of_an_odd_name_is_not_asked_for() -> None:
    mesh = Mesh()
    mesh.put(f"{wire.CONFIGS}../leader", wire.cluster_config(3, 1))
    odd = Entry(f"{wire.CONFIGS}a\udcff", wire.cluster_config(3, 1), 1, 1, 0)
    mesh.counters.take(Batch(1, [odd]))
    mesh.look()
    assert mesh.has_west


def test_a_short_promise_of_a_peer_makes_nobody_ask_more_often() -> None:
    """Each reader would pay for it."""
    store = Store()
    counters = Counters(cast("Client", store), "east", lambda _: None, list)
    counters.take(Batch(1, [store.put(CONFIG, wire.cluster_config(2, 1))]))
    asyncio.run(counters.look())
    assert counters.wait_s == 2


def test_who_may_not_read_counters_says_so() -> None:
    store = Store()
    store.error = Denied("Txn: permission denied")
    counters = Counters(cast("Client", store), "east", lambda _: None, list, 0)
    counters.take(Batch(1, [store.put(CONFIG, wire.cluster_config(2, 1))]))

    async def run() -> None:
        task = asyncio.create_task(counters.run())
        while not list(counters.findings()):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert [one.code for one in counters.findings()] == ["M189"]


OVERLAY = wire.overlay_key("west")


def test_the_look_reads_the_port_of_each_clusters_overlay() -> None:
    """A cluster that publishes none has that of everybody; one that has gone has none."""
    mesh = Mesh()
    mesh.look()
    assert mesh.ports.rows == {"west": 8472}
    mesh.store.put(OVERLAY, b'{"port":8473}')
    mesh.look()
    assert mesh.ports.rows == {"west": 8473}
    for bad in (b'{"port":0}', b'{"port":65536}', b"no json", b"{}"):
        mesh.store.put(OVERLAY, bad)
        mesh.look()
        assert mesh.ports.rows == {"west": 8472}
    mesh.delete(CONFIG)
    assert mesh.ports.rows == {}


def test_a_new_cluster_is_looked_at_at_once() -> None:
    """The usual pause is an hour here."""
    mesh = Mesh()
    mesh.store.put(OVERLAY, b'{"port":8473}')
    mesh.counters.wait_s = 3600

    async def run() -> None:
        task = asyncio.create_task(mesh.counters.run())
        async with asyncio.timeout(5):
            while not mesh.ports.rows:
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert mesh.ports.rows == {"west": 8473}


def test_who_may_not_read_ports_takes_that_of_everybody_but_keeps_what_is_known() -> None:
    mesh = Mesh()
    mesh.store.put(OVERLAY, b'{"port":8473}')
    mesh.look()
    mesh.put(wire.config_key("north"), wire.cluster_config(3, LIMIT_S))
    mesh.store.error = Denied("Txn: permission denied")

    async def run() -> None:
        task = asyncio.create_task(mesh.counters.run())
        async with asyncio.timeout(5):
            while "north" not in mesh.ports.rows:
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert mesh.ports.rows == {"west": 8473, "north": 8472}
