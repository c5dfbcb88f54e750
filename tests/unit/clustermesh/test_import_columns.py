"""Addresses in columns: random histories end as if everything had come at once, in any pieces."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from clustermesh.remote import wire
from clustermesh.remote.changes import Draft, ImportChanges
from clustermesh.remote.holdings import Ledger, OwnFacts
from clustermesh.remote.importer import Importer, Imports, Limits
from clustermesh.remote.shared import ADDRESS
from clustermesh.remote.texts import Texts
from mesh.core.model import Address, Backend, Node, PodKey, Service

OWN = OwnFacts("east", 1, (ip_network("10.1.0.0/16"),), frozenset({ip_address("10.99.0.11")}))
CONFIG = wire.config_key("west")
#: What may stand behind an address instead of a good value.
ODD: tuple[dict[str, Any], ...] = (
    {"ID": 1}, {"ID": 5}, {"ID": -3}, {"ID": 1 << 40}, {"ID": 3 << 16 | 7},
    {"HostIP": ""}, {"HostIP": "nowhere"}, {"HostIP": "10.99.0.99"}, {"HostIP": "x" * 900},
    {"IP": "10.2.0.99"}, {"Metadata": "m" * (65 << 10)}, {"ID": "text"},
)  # fmt: skip


def node(number: int, cidrs: int = 2) -> bytes:
    """Node n of west: one or two prefixes and a router address in the first."""
    prefixes = (ip_network(f"10.2.{number}.0/24"), ip_network(f"fd02:0:0:{number}::/64"))
    row = Node("west", f"n{number}", (IPv4Address(f"10.99.0.2{number}"),), prefixes[:cidrs])
    value = json.loads(wire.node_value(row, 2))
    value["IPAddresses"].append({"Type": "CiliumInternalIP", "IP": f"10.2.{number}.1"})
    return json.dumps(value).encode()


def address(chance: random.Random) -> tuple[str, bytes]:
    """An address with a good value or an odd one; also prefixes and other spellings."""
    n, m = chance.randrange(5), chance.randrange(6)
    text = chance.choice([f"10.2.{n}.{m}", f"10.2.{n}.{m}", f"fd02:0:0:{n}::{m + 1:x}"])
    host = IPv4Address(f"10.99.0.2{n if chance.random() < 0.8 else chance.randrange(5)}")
    row = Address(ip_address(text), 2 << 16 | m + 1, "west", host)
    value = wire.address_value(row, PodKey("west", "shop", f"web-{m}"), "")
    fate = chance.random()
    if fate < 0.05:
        return wire.ADDRESSES + f"west/10.2.{n}.0/2{m}", value
    if fate < 0.1:
        name = chance.choice([f"10.2.{n}.0/28", f"10.2.{n}.0/20", f"FD02:0:0:{n}::1", "10.2.0"])
        parts = name.split("/")
        mask = {"Mask": "////8A=="} if len(parts) > 1 else {}
        return f"{wire.ADDRESSES}west/{name}", edited(value, IP=parts[0], **mask)
    if fate < 0.3:
        value = edited(value, **chance.choice(ODD))
    elif fate < 0.33:
        value = b"{"
    return wire.address_key("west", row.address), value


def edited(value: bytes, **fields: object) -> bytes:
    return json.dumps(json.loads(value) | fields).encode()


def service(chance: random.Random) -> tuple[str, bytes]:
    n, m = chance.randrange(5), chance.randrange(6)
    backend = Backend(ip_address(f"10.2.{n}.{m}"), 80, "http", "TCP", "west")
    row = Service("west", "shop", f"s{m}", (), (), backends=(backend,))
    return wire.service_key("west", "shop", f"s{m}"), wire.service_value(row, 2)


def step(chance: random.Random, keys: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[str]]:
    """Puts and deletes of one batch."""
    puts: dict[str, bytes] = {}
    for _ in range(chance.randrange(1, 9)):
        fate = chance.random()
        if fate < 0.1:
            n = chance.randrange(5)
            puts[wire.node_key("west", f"n{n}")] = node(n, chance.choice((1, 2, 2)))
        elif fate < 0.2:
            puts |= [service(chance)]
        elif fate < 0.22:
            puts[CONFIG] = wire.cluster_config(2)
        else:
            puts |= [address(chance)]
    there = sorted(keys.keys() - {CONFIG})
    count = min(len(there), chance.choice((0, 0, 1, 3)))
    return puts, [key for key in chance.sample(there, count) if key not in puts]


def rows(it: Importer) -> dict[str, dict[Any, Any]]:
    columns = it.addresses
    return {
        "node": it.nodes,
        "service": it.services,
        "identity": it.identities,
        "address": dict(zip(columns.keys.tolist(), columns.values.tolist(), strict=True)),
    }


def findings(it: Importer) -> dict[str, tuple[str, str, str]]:
    return {key: (f.code, f.field, f.text) for key, f in it.findings.items()}


class Mirror:
    """Addresses as a table that is fed with the changes only."""

    def __init__(self) -> None:
        self.addresses: dict[bytes, Any] = {}

    def take(self, changes: ImportChanges) -> None:
        columns = changes.addresses
        for key in columns.deleted.tolist():
            del self.addresses[key]
        self.addresses.update(zip(columns.keys.tolist(), columns.values.tolist(), strict=True))


def importer(limits: Limits | None = None) -> Importer:
    return Importer("west", Ledger(OWN), limits or Limits(findings=10_000))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_history_ends_as_if_everything_had_come_at_once(seed: int) -> None:
    """Findings are equal, and so are the rows but for those that a refused key may keep."""
    chance, it, keys, mirror = random.Random(seed), importer(), {}, Mirror()
    for _ in range(250):
        puts, deletes = step(chance, keys)
        mirror.take(it.apply(puts, deletes))
        keys |= puts
        for key in deletes:
            del keys[key]
        assert mirror.addresses == rows(it)["address"]
    fresh = importer()
    fresh.apply(dict(sorted(keys.items())))
    assert findings(fresh).keys() == findings(it).keys()
    told = findings(it).items() ^ findings(fresh).items()
    # A wrong identity is wrong wherever the address lies, so its finding is not made again.
    assert {code for _, (code, _, _) in told} <= {"M125", "M127"}
    mine, theirs = rows(it), rows(fresh)
    for noun, expected in theirs.items():
        assert expected.items() <= mine[noun].items(), noun
    kept = len(mine["address"]) - len(theirs["address"])
    assert 0 <= kept <= len(findings(it))


@pytest.mark.parametrize("seed", range(12))
def test_pages_give_what_a_whole_list_gives(seed: int) -> None:
    """However a list is cut, who was first is the same: several clusters want one prefix."""
    chance = random.Random(seed)
    listing: dict[str, bytes] = {}
    for number, cluster in enumerate(("north", "south", "west"), 2):
        names = chance.sample(range(5), 3)
        for name in names:
            value = json.loads(node(name)) | {"Cluster": cluster, "ClusterID": number}
            listing[wire.node_key(cluster, f"n{name}")] = json.dumps(value).encode()
        listing[wire.config_key(cluster)] = wire.cluster_config(number)
    for _ in range(60):
        listing |= [address(chance)]
    listing = dict(sorted(listing.items()))
    whole, cut = Imports(OWN), Imports(OWN)
    whole.apply(listing)
    rest = list(listing.items())
    while rest:
        size = chance.randrange(1, 12)
        page, rest = rest[:size], rest[size:]
        cut.note(dict(page))
    cut.apply({})
    assert list(cut.importers) == list(whole.importers)
    for name, it in whole.importers.items():
        assert rows(cut.importers[name]) == rows(it)
        assert findings(cut.importers[name]) == findings(it)


def test_a_key_without_room_comes_in_when_the_list_says_that_others_have_gone() -> None:
    """A peer at its limit, listed again: gone keys make room, the rest is counted once."""
    limits = Limits({ADDRESS: 3})
    it, host = importer(limits), {wire.node_key("west", "n1"): node(1)}

    def pairs(*numbers: int) -> dict[str, bytes]:
        addresses = [ip_address(f"10.2.1.{number}") for number in numbers]
        return {
            wire.address_key("west", a): wire.address_value(
                Address(a, 2 << 16 | 9, "west", IPv4Address("10.99.0.21")), PodKey("", "", ""), ""
            )
            for a in addresses
        }

    it.apply({CONFIG: wire.cluster_config(2), **host, **pairs(10, 11, 12)})
    for number in range(13, 33):
        it.note(pairs(number))
    it.settle(draft := Draft(), {}, list(pairs(10, 11)))
    assert len(draft.changes().addresses.keys) == 2
    assert {IPv4Address(key[12:]) for key in it.addresses.keys.tolist()} == {
        IPv4Address(f"10.2.1.{number}") for number in (12, 13, 14)
    }
    place = f"{wire.ADDRESSES}west/"
    assert it.findings[place].text == "more than 3 keys: 18 further ones are not read"


def test_a_row_of_columns_takes_little_memory() -> None:
    """The four dictionaries of before took 670 bytes for an address."""
    count = 20_000
    host = Node("west", "n1", (IPv4Address("10.99.0.21"),), (ip_network("10.2.0.0/16"),))
    listing = {}
    for number in range(count):
        row = Address(
            IPv4Address("10.2.0.1") + number, 2 << 16 | 9, "west", IPv4Address("10.99.0.21")
        )
        listing[wire.address_key("west", row.address)] = wire.address_value(
            row, PodKey("west", "shop", "web"), ""
        )
    it = importer()
    it.apply(
        {CONFIG: wire.cluster_config(2), wire.node_key("west", "n1"): wire.node_value(host, 2)}
    )
    tracemalloc.start()
    it.note(listing)
    it.apply({})
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(it.addresses.keys) == count
    assert used / count < 150


def test_our_own_facts_judge_the_columns_anew() -> None:
    it = Imports(OWN)
    it.apply({CONFIG: wire.cluster_config(2), wire.node_key("west", "n1"): node(1)})
    key = wire.address_key("west", ip_address("10.2.1.5"))
    row = Address(ip_address("10.2.1.5"), 2 << 16 | 9, "west", IPv4Address("10.99.0.21"))
    it.apply({key: wire.address_value(row, PodKey("", "", ""), "")})
    ours = replace(OWN, networks=(*OWN.networks, ip_network("10.2.1.0/24")))
    assert len(it.update_own(ours).addresses.deleted) == 1
    assert len(it.update_own(OWN).addresses.keys) == 1


def test_texts_of_a_column_are_replaced_for_ever() -> None:
    """What is replaced does not stay in memory."""
    texts = Texts()
    for row in range(100):
        texts.append(f"shop/web-{row}")
    for turn in range(1000):
        texts[turn % 100] = f"shop/other-{turn}"
    texts[5] = "x" * 70_000
    assert [texts[row] for row in (0, 5, 99)] == ["shop/other-900", "", "shop/other-999"]
    assert texts.size < 8192
