"""Clusters are judged side by side: what one of them costs is its own affair."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from clustermesh.remote import lanes, wire
from clustermesh.remote.changes import Draft
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.importer import Imports, Limits
from clustermesh.remote.lanes import Lanes, Pace
from clustermesh.remote.shared import ADDRESS, NODE, Shared
from clustermesh.remote.tables import RemoteTables
from clustermesh.store.follow import Batch, Entry
from mesh.core.model import Address, Node, NodeKey, PodKey
from mesh.core.reconcile import Loop
from mesh.identity.addresses import take_remote
from mesh.identity.agent import address_table

OWN = OwnFacts("east", 1)
WEST = Node("west", "w1", (IPv4Address("10.99.0.21"),), (ip_network("10.2.0.0/16"),))
NORTH = Node("north", "n1", (IPv4Address("10.99.0.31"),), (ip_network("10.3.0.0/16"),))
IDS = {"west": 2, "north": 3}


def node(row: Node) -> dict[str, bytes]:
    return {wire.node_key(row.cluster, row.name): wire.node_value(row, IDS[row.cluster])}


def configs() -> dict[str, bytes]:
    return {wire.config_key(name): wire.cluster_config(number) for name, number in IDS.items()}


def pods(row: Node, count: int, first: int = 1) -> dict[str, bytes]:
    start, cluster = int(row.pod_cidrs[0].network_address) + first, row.cluster
    host = row.addresses[0]
    assert isinstance(host, IPv4Address)
    found = {}
    for number in range(count):
        address = IPv4Address(start + number)
        said = Address(address, IDS[cluster] << 16 | 5, cluster, host)
        value = wire.address_value(said, PodKey(cluster, "shop", f"p{number}"), "k8s:a=b;")
        found[wire.address_key(cluster, address)] = value
    return found


@contextmanager
def judged_by(noun: Shared[Any, Any, Any], judge: Any) -> Iterator[None]:
    """The noun, a frozen object that many modules know, judges otherwise for a while."""
    before = noun.judge
    object.__setattr__(noun, "judge", judge)
    try:
        yield
    finally:
        object.__setattr__(noun, "judge", before)


def test_only_what_rests_on_the_part_that_changed_is_judged_again() -> None:
    """A node may have several pod CIDRs and addresses; most changes concern few addresses."""
    judged: list[str] = []
    judge = ADDRESS.judge

    def counting(remote: Any, name: str, value: Any) -> Any:
        judged.append(name)
        return judge(remote, name, value)

    it = Imports(OWN)
    two = replace(WEST, pod_cidrs=(*WEST.pod_cidrs, ip_network("10.4.0.0/16")))
    second = replace(two, pod_cidrs=two.pod_cidrs[1:])
    it.apply(configs() | node(two) | pods(WEST, 50) | pods(second, 3))

    def again(value: bytes) -> int:
        judged.clear()
        it.apply({wire.node_key("west", "w1"): value})
        return len(judged)

    def of(row: Node) -> bytes:
        return wire.node_value(row, 2)

    more = (*WEST.addresses, IPv6Address("fd99::21"), IPv4Address("10.99.0.22"))
    with judged_by(ADDRESS, counting):
        assert again(of(replace(two, labels=(("a", "b"),)))) == 0
        assert again(of(replace(two, addresses=more))) == 0  # none has one of these as its host
        assert again(of(replace(two, addresses=more[:2]))) == 0
        assert again(of(WEST)) == 3  # those of the pod CIDR that has gone
        assert again(of(replace(WEST, addresses=more[::-1]))) == 53  # tunnels end elsewhere
        again(of(WEST))
        wired = wire.decode(wire.WireNode, of(WEST))
        assert again(wire.encode(with_router(wired, "10.2.0.7"))) == 1 + 3
        assert "10.2.0.7" in judged  # it has become the node's own; three wait for a pod CIDR


def with_router(wired: wire.WireNode, router: str) -> wire.WireNode:
    addresses = [*(wired.ip_addresses or ()), wire.WireAddress("CiliumInternalIP", router)]
    fields = {name: getattr(wired, name) for name in wired.__struct_fields__}
    return wire.WireNode(**fields | {"ip_addresses": addresses})


class Clock:
    """Wall and CPU time of a test: each look at the CPU clock costs a millisecond."""

    def __init__(self) -> None:
        self.now = self.used = 0.0

    def wall(self) -> float:
        return self.now

    def cpu(self) -> float:
        self.used += 0.001
        return self.used


def written(log: list[str]) -> lanes.Write:
    def write(cluster: str, _: Draft) -> Iterator[None]:
        log.append(cluster)
        yield

    return write


def side_by_side(clock: Clock, log: list[str]) -> tuple[Imports, Lanes]:
    imports = Imports(OWN)
    imports.apply(configs() | node(WEST) | node(NORTH) | pods(WEST, 2000))
    return imports, Lanes(imports, written(log), clock.cpu, clock.wall)


def test_a_small_change_does_not_wait_for_a_large_one() -> None:
    clock, log = Clock(), list[str]()
    imports, it = side_by_side(clock, log)
    imports.tell(node(replace(WEST, addresses=(IPv4Address("10.99.0.29"),))))
    steps = it.steps(rests=False)
    next(steps)
    imports.tell(node(replace(NORTH, labels=(("a", "b"),))))
    for _ in range(6):
        next(steps)
    assert log == ["north"]
    for _ in steps:
        pass
    assert log == ["north", "west"]


def test_a_pass_ends_although_more_is_to_be_judged() -> None:
    clock, log = Clock(), list[str]()
    imports, it = side_by_side(clock, log)
    imports.tell(node(replace(WEST, addresses=(IPv4Address("10.99.0.29"),))))
    assert len(list(it.steps(rests=True))) < 10
    assert (log, it.wait_s) == ([], 0.0)
    while it.wait_s is not None:
        list(it.steps(rests=True))
    assert log == ["west"]


def test_a_cluster_that_has_used_up_its_savings_waits_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "SAVED_S", 0.5)
    clock, log = Clock(), list[str]()
    imports, it = side_by_side(clock, log)
    there_and_back = [replace(WEST, addresses=(IPv4Address(f"10.99.0.{n}"),)) for n in (28, 29)]
    turn = 0
    while not it.findings():
        turn += 1
        imports.tell(node(there_and_back[turn % 2]))
        list(it.steps(rests=False))
    assert {str(one.code) for one in it.findings().values()} == {"M174"}
    assert "west" in imports.waiting or it.wait_s
    log.clear()
    for number in range(20):
        imports.tell(node(replace(NORTH, labels=(("n", str(number)),))))
        list(it.steps(rests=False))
    assert log == ["north"] * 20
    wait_s = it.wait_s
    assert wait_s
    clock.now += wait_s + 1
    list(it.steps(rests=False))
    assert "west" in log
    clock.now += 1000
    for _ in range(3):
        list(it.steps(rests=False))
    assert it.findings() == {}
    assert imports.importers["west"].nodes[NodeKey("west", "w1")] == there_and_back[turn % 2]


def test_what_is_told_while_a_run_goes_on_is_judged_once_by_its_last_value() -> None:
    clock, log = Clock(), list[str]()
    imports, it = side_by_side(clock, log)
    imports.tell(node(replace(WEST, addresses=(IPv4Address("10.99.0.29"),))))
    steps = it.steps(rests=False)
    next(steps)
    for number in range(100):
        imports.tell(node(replace(WEST, addresses=(IPv4Address(f"10.99.1.{number}"),))))
    for _ in steps:
        pass
    assert log == ["west", "west"]
    [row] = imports.importers["west"].nodes.values()
    assert row.addresses == (IPv4Address("10.99.1.99"),)


def test_savings_come_back_with_time() -> None:
    clock = Clock()
    it = Pace(clock.wall)
    it.charge(lanes.SAVED_S + 1, int(lanes.SAVED_RUNS))
    assert it.wait_s(begins=False) == pytest.approx(1 / lanes.SHARE)
    clock.now += 1 / lanes.SHARE
    assert it.wait_s(begins=False) == pytest.approx(0)
    assert it.wait_s(begins=True) == 0
    assert not it.is_full
    clock.now += 1000
    assert it.is_full


def test_a_mistake_in_one_cluster_costs_that_cluster() -> None:
    clock, log = Clock(), list[str]()
    imports, _ = side_by_side(clock, log)

    def write(cluster: str, draft: Draft) -> Iterator[None]:
        if cluster == "west":
            raise LookupError("oh")
        yield from written(log)(cluster, draft)

    it = Lanes(imports, write, clock.cpu, clock.wall)
    for row in (WEST, NORTH):
        imports.tell(node(replace(row, labels=(("a", "b"),))))
    list(it.steps(rests=False))
    assert log == ["north"]
    assert [(str(f.code), f.about) for f in it.findings().values()] == [("M172", ("cluster/west",))]


def test_a_value_that_meets_a_mistake_is_refused_and_the_row_of_before_stays() -> None:
    it = Imports(OWN)
    it.apply(configs() | node(WEST))
    judge = NODE.judge

    def broken(remote: Any, name: str, value: Any) -> Any:
        if value.labels == {"a": "b"}:
            raise IndexError(name)
        return judge(remote, name, value)

    with judged_by(NODE, broken):
        changes = it.apply(node(replace(WEST, labels=(("a", "b"),))))
        assert not changes.rows
        assert [str(one.code) for one in it.findings.values()] == ["M172"]
        it.apply(node(replace(WEST, labels=(("a", "c"),))))
        assert not it.findings


def refused_service(number: int, size: int, backend: str = "172.31.0.1") -> dict[str, bytes]:
    service = wire.WireService(
        "west", "shop", f"s{number}",
        backends={backend: {"": wire.WirePort("TCP", 80)}},
        cluster_id=2,
    )  # fmt: skip
    return {wire.service_key("west", "shop", f"s{number}"): wire.encode(service).ljust(size)}


def test_of_refused_values_so_many_bytes_are_kept_and_no_more() -> None:
    """Those that are kept are judged again when a node comes, the others when they are written."""
    it = Imports(OWN, Limits(refused_bytes=5000, bytes=50_000))
    it.apply(configs() | node(WEST))
    for number in range(20):
        it.apply(refused_service(number, 1000))
    codes = [str(one.code) for one in it.findings.values()]
    assert (codes.count("M131"), codes.count("M175")) == (5, 15)
    cidrs = (*WEST.pod_cidrs, ip_network("172.31.0.0/24"))
    it.apply(node(replace(WEST, pod_cidrs=cidrs)))
    assert len(it.importers["west"].services) == 5
    for number in range(20):
        it.apply(refused_service(number, 1001))
    assert len(it.importers["west"].services) == 20
    assert not it.findings


def test_of_all_values_so_many_bytes_are_kept_and_room_comes_back() -> None:
    it = Imports(OWN, Limits(bytes=10_000))
    it.apply(configs() | node(WEST))
    keys = [refused_service(number, 1000, "10.2.0.5") for number in range(20)]
    for key in keys:
        it.apply(key)
    accepted = len(it.importers["west"].services)
    assert 5 < accepted < 10
    assert {str(one.code) for one in it.findings.values()} == {"M175"}
    it.apply({}, [name for key in keys for name in key])
    for key in keys[:5]:
        it.apply(key)
    assert len(it.importers["west"].services) == 5
    assert not it.findings


def test_long_keys_and_texts_take_no_memory() -> None:
    it = Imports(OWN)
    it.apply(configs() | node(WEST))
    names = [f"{number}{'x' * 100_000}" for number in range(20)]
    it.apply({f"{wire.SERVICES}west/shop/{name}": b"{}" for name in names})
    assert {str(one.code) for one in it.findings.values()} == {"M134"}
    host = '{"IP": "10.2.0.%d", "HostIP": "%s", "ID": 131077}'
    other = '{"IP": "%s", "ID": 131077}'
    tracemalloc.start()
    for number in range(1, 101):
        key = wire.address_key("west", IPv4Address(f"10.2.0.{number}"))
        value = other % ("y" * 60_000) if number % 2 else host % (number, "z" * 60_000)
        it.apply({key: value.encode()})
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1 << 20
    assert len(it.findings) == 1 + 100


def anything(chance: random.Random) -> tuple[dict[str, bytes], list[str]]:
    """Puts and deletes of two clusters, whose nodes claim the same few prefixes and addresses."""
    puts: dict[str, bytes] = {}
    deletes: list[str] = []
    for _ in range(chance.randrange(1, 5)):
        cluster = chance.choice(list(IDS))
        name = f"x{chance.randrange(3)}"
        cidrs = tuple(ip_network(f"10.{chance.choice((2, 3, 4))}.0.0/16") for _ in range(1))
        host = IPv4Address(f"10.99.0.{chance.randrange(21, 24)}")
        row = Node(cluster, name, (host,), cidrs)
        if chance.random() < 0.6:
            address = pods(row, 1, chance.randrange(1, 5))
            deletes += [*address] if chance.random() < 0.3 else []
            puts |= {} if deletes and deletes[-1] in address else address
        elif chance.random() < 0.3:
            deletes.append(wire.node_key(cluster, name))
        else:
            puts |= node(row)
    return {key: value for key, value in puts.items() if key not in deletes}, deletes


class Live:
    """The tables of other clusters in a loop, with the table of addresses."""

    def __init__(self) -> None:
        self.table, self.loop = address_table(), Loop()
        self.remote = RemoteTables(OWN, partial(take_remote, self.table))
        self.remote.rest_between_pieces(self.loop)
        self.remote.update_own(OWN)

    def take(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), **kind: bool) -> None:
        entries = [Entry(key, value, 5, 5, 0) for key, value in puts.items()]
        self.remote.take(Batch(5, entries, deletes, **kind))

    async def rest(self) -> None:
        await asyncio.sleep(0.002)
        while self.remote.is_behind or not self.loop.gate.open:
            await asyncio.sleep(0.001)

    def check(self) -> None:
        """The tables are what the firewall accepts, also of addresses that have moved."""
        importers = self.remote.imports.importers.values()
        nodes = {key: row for one in importers for key, row in one.nodes.items()}
        assert dict(self.remote.nodes.rows) == nodes
        expected = [one.addresses for one in importers]
        found = rows_of(*self.table.rows())
        assert found == {k: v for c in expected for k, v in rows_of(c.keys, c.values).items()}


def rows_of(keys: Any, values: Any) -> dict[bytes, bytes]:
    return {k.tobytes(): v.tobytes() for k, v in zip(keys, values, strict=True)}


@pytest.mark.parametrize("seed", range(6))
def test_rows_are_right_whatever_is_told_between_two_pieces(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clustermesh.remote.importer._JUDGED", 1)
    monkeypatch.setattr(lanes, "SAVED_RUNS", 1e9)

    async def run() -> None:
        chance, it = random.Random(seed), Live()
        running = asyncio.ensure_future(it.loop.run())
        it.take(configs(), listed=True)
        for number in range(100):
            it.take(*anything(chance))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            if number % 10 == 9:
                await it.rest()
                it.check()
        running.cancel()

    asyncio.run(run())


def test_an_address_that_another_cluster_has_by_now_is_not_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pod CIDR passes from west to north while west's addresses are being judged."""
    monkeypatch.setattr("clustermesh.remote.importer._JUDGED", 1)
    moved = replace(WEST, pod_cidrs=(ip_network("10.4.0.0/16"),))
    taker = replace(NORTH, pod_cidrs=WEST.pod_cidrs)

    async def run() -> None:
        it = Live()
        it.take(configs() | node(WEST) | pods(WEST, 300), listed=True)
        it.loop.derive_all()
        it.check()
        running = asyncio.ensure_future(it.loop.run())
        it.take(node(moved))
        steps = it.remote.steps()
        next(steps)
        it.take(node(taker) | pods(taker, 20))
        for _ in steps:
            pass
        await it.rest()
        it.check()
        assert len(it.table) == 20
        running.cancel()

    asyncio.run(run())
