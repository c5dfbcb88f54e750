"""What a publisher that was started anew has left behind, against a model of publishers."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.leftovers import Leftovers
from clustermesh.remote.tables import RemoteTables
from clustermesh.store.follow import Batch, Entry
from mesh.core.model import Address, Node, PodKey

CANARY = wire.canary_key("west", wire.ADDRESSES)


class Store:
    """Revisions and keys with leases."""

    def __init__(self) -> None:
        self.revision = 0
        self.rows: dict[str, Entry] = {}

    def put(self, key: str, lease: int, value: bytes = b"") -> Entry:
        self.revision += 1
        before = self.rows.get(key)
        created = before.created if before else self.revision
        self.rows[key] = Entry(key, value, created, self.revision, lease)
        return self.rows[key]


class Publisher:
    """Puts what is there, then the canary; at most three keys on a lease."""

    leases = iter(range(100, 100_000))

    def __init__(self, store: Store) -> None:
        self.store = store
        self.where: dict[str, int] = {}

    def lease(self, key: str) -> int:
        if key not in self.where:
            used = list(self.where.values())
            room = [lease for lease in dict.fromkeys(used) if used.count(lease) < 3]
            self.where[key] = room[0] if room else next(self.leases)
        return self.where[key]

    def put(self, key: str) -> Entry:
        return self.store.put(key, self.lease(key))

    def delete(self, key: str) -> None:
        self.where.pop(key, None)
        self.store.rows.pop(key, None)


class Reader:
    """What a reader holds true."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.leftovers = Leftovers(lambda *_: list(self.keys))

    def take(self, puts: list[Entry], deletes: tuple[str, ...] = ()) -> None:
        alive, gone = self.leftovers.take(puts, deletes)
        self.keys |= {entry.key for entry in alive if entry.key != CANARY}
        self.keys -= {*deletes, *gone}


@pytest.mark.parametrize("seed", range(60))
def test_nothing_that_lives_is_dropped_and_what_was_left_behind_goes(seed: int) -> None:
    """Random lives of publishers, read by one that sees all and by one that lists now and then."""
    chance, store = random.Random(seed), Store()
    names = [wire.address_key("west", IPv4Address(f"10.2.0.{n}")) for n in range(12)]
    there, reader, lister = set[str](), Reader(), Reader()
    publisher, complete = Publisher(store), False
    for _ in range(400):
        step = chance.random()
        if step < 0.08:  # started anew; what is there may change before it looks
            publisher, complete = Publisher(store), False
            there ^= set(chance.sample(names, 2))
        elif step < 0.2:
            store.rows = dict(store.rows)
            lister.leftovers.begin_list()
            found = sorted(store.rows.values())
            lister.take(found, tuple(lister.keys - store.rows.keys()))
        elif not complete:
            for name in sorted(there):
                entry = publisher.put(name)
                reader.take([entry])
                lister.take([entry])
            batch = [publisher.put(CANARY)]
            reader.take(batch)
            lister.take(batch)
            complete = True
            assert reader.keys >= there
        else:
            name = chance.choice(names)
            if name in there:
                there.discard(name)
                publisher.delete(name)
                reader.take([], (name,))
                lister.take([], (name,))
            else:
                there.add(name)
                entry = publisher.put(name)
                reader.take([entry])
                lister.take([entry])
        if complete:
            assert there <= reader.keys, "a key that lives was dropped"
            assert there <= lister.keys, "a key that lives was dropped by a reader that lists"


def address(number: int, lease: int, revision: int) -> Entry:
    row = Address(ip_address(f"10.2.0.{number}"), 2 << 16 | 7, "west", IPv4Address("10.99.0.21"))
    value = wire.address_value(row, PodKey("west", "shop", "web"), "")
    return Entry(wire.address_key("west", row.address), value, 5, revision, lease)


def test_a_restarted_kvstoremesh_takes_its_leftovers_away() -> None:
    """B10: the pod that was deleted meanwhile goes with the canary, not 15 min later."""
    seen: set[bytes] = set()

    def changed(changes: object) -> None:
        seen.update(changes.keys.tolist())  # type: ignore[attr-defined]
        seen.difference_update(changes.deleted.tolist())  # type: ignore[attr-defined]

    it = RemoteTables(OwnFacts("east", 1), changed)
    it.update_own(OwnFacts("east", 1))
    node = Node("west", "w1", (ip_address("10.99.0.21"),), (ip_network("10.2.0.0/16"),))
    first = [
        Entry(wire.config_key("west"), wire.cluster_config(2), 1, 1, 7),
        Entry(wire.node_key("west", "w1"), wire.node_value(node, 2), 2, 2, 7),
        address(1, 7, 5), address(2, 7, 6), Entry(CANARY, b"", 7, 7, 7),
    ]  # fmt: skip
    it.take(Batch(7, first, page=True))
    it.take(Batch(7, (), listed=True))
    assert len(seen) == 2
    it.take(Batch(20, [address(1, 9, 20)]))
    assert len(seen) == 2
    it.take(Batch(21, [Entry(CANARY, b"", 7, 21, 9)]))
    assert len(seen) == 1
    it.take(Batch(22, (), [address(2, 7, 6).key]))  # with its lease
    assert len(seen) == 1


def test_a_canary_that_comes_back_after_its_lease_ended_takes_nothing_away() -> None:
    """The publisher lost one of its leases, and has put what hung on it again."""
    reader = Reader()
    reader.take([address(1, 7, 5), address(2, 8, 6), Entry(CANARY, b"", 7, 7, 8)])
    reader.take([], (address(2, 8, 6).key, CANARY))
    reader.take([address(2, 9, 20), Entry(CANARY, b"", 21, 21, 9)])
    assert reader.keys == {address(1, 0, 0).key, address(2, 0, 0).key}
