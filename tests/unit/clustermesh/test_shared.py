"""A published noun is one object in a list: nothing else has to know it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from clustermesh.remote import wire
from clustermesh.remote.checks import OUTSIDE, RemoteCluster
from clustermesh.remote.holdings import NotAccepted, OwnFacts
from clustermesh.remote.importer import Imports
from clustermesh.remote.shared import SHARED, Shared
from clustermesh.remote.tables import RemoteTables
from clustermesh.store.follow import Batch, Entry
from mesh.core.model import Node
from mesh.core.table import ColumnChanges

EXPORTS = "cilium/cache/serviceexports/v1/"


@dataclass(frozen=True)
class Export:
    cluster: str
    name: str
    address: str


def judge(peer: RemoteCluster, name: str, said: str) -> tuple[Export, tuple[str, ...]]:
    node = peer.node_of(int(ip_address(said)) | 0xFFFF << 32)
    if node is None:
        raise NotAccepted(OUTSIDE, "address", f"{said} is nowhere")
    return Export(peer.name, name, said), (node,)


EXPORT: Shared[str, str, Export] = Shared(
    "service export",
    EXPORTS,
    lambda _, value: value.decode(),
    judge,
    lambda row: row.name,
    limit=2,
    rests_on_nodes=True,
)
NODE = wire.node_key("west", "n1")


def ignore(_: ColumnChanges) -> None:
    """There is no map here."""


def tables() -> RemoteTables:
    it = RemoteTables(OwnFacts("east", 1), ignore, nouns=(*SHARED, EXPORT))
    it.update_own(OwnFacts("east", 1))
    return it


def keys() -> dict[str, bytes]:
    node = Node("west", "n1", (ip_address("10.99.0.21"),), (ip_network("10.2.1.0/24"),))
    return {
        f"{EXPORTS}west/shop/web": b"10.2.1.5",
        NODE: wire.node_value(node, 2),
        wire.config_key("west"): wire.cluster_config(2),
    }


def batch(puts: dict[str, bytes], deletes: tuple[str, ...] = (), **kind: bool) -> Batch:
    return Batch(5, [Entry(key, value, 5, 5, 0) for key, value in puts.items()], deletes, **kind)


def test_one_more_noun_is_read_judged_and_served_by_being_in_the_list() -> None:
    it = tables()
    it.take(batch(keys(), listed=True))
    table = it.tables[EXPORT]
    assert table.rows == {"shop/web": Export("west", "shop/web", "10.2.1.5")}
    assert table.synced
    it.take(batch({}, (NODE,)))
    assert table.rows == {}
    assert it.findings[f"{EXPORTS}west/shop/web"].code == OUTSIDE
    it.take(batch({NODE: keys()[NODE]}))
    assert list(table.rows) == ["shop/web"]


def test_its_limit_is_its_own() -> None:
    it = tables()
    more = {f"{EXPORTS}west/shop/s{number}": b"10.2.1.5" for number in range(4)}
    it.take(batch(more | {key: keys()[key] for key in list(keys())[1:]}))
    assert len(it.tables[EXPORT].rows) == 2
    assert "more than 2 keys: 2 further" in it.findings[f"{EXPORTS}west/"].text


def test_keys_of_a_noun_that_is_not_in_the_list_are_nobodys() -> None:
    it = Imports(OwnFacts("east", 1))
    it.apply({f"{EXPORTS}north/shop/web": b"10.2.1.5"})
    assert it.importers == {}


def test_pages_before_our_own_facts_are_kept_as_keys_and_judged_after_them() -> None:
    """What an agent hears from peers before it knows what is its own."""
    it = RemoteTables(OwnFacts("east", 1), ignore)
    it.take(batch(keys(), page=True))
    it.take(batch({}, listed=True))
    assert (it.nodes.rows, it.complete.synced) == ({}, False)
    it.update_own(OwnFacts("east", 1, (ip_network("10.2.0.0/16"),)))
    assert (it.nodes.rows, it.complete.synced) == ({}, True)
    assert [finding.code for finding in it.findings.values()] == ["M129"]
    it.update_own(OwnFacts("east", 1))
    assert len(it.nodes.rows) == 1
