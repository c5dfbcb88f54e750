"""Other clusters as tables: nothing is judged before our own facts are known."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

from clustermesh.remote import wire
from clustermesh.remote.holdings import OwnFacts
from clustermesh.remote.tables import RemoteTables
from clustermesh.remote.vanished import Vanished
from clustermesh.store.follow import Batch, Entry
from mesh.core.model import Address, Node, NodeKey, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Changes, ColumnChanges

OWN = OwnFacts("east", 1, (ip_network("10.1.0.0/16"),))
BAD, GOOD = NodeKey("west", "bad"), NodeKey("west", "good")


def batch() -> Batch:
    rows = {
        BAD: Node("west", "bad", (ip_address("10.99.0.21"),), (ip_network("10.1.0.0/24"),)),
        GOOD: Node("west", "good", (ip_address("10.99.0.22"),), (ip_network("10.2.0.0/24"),)),
    }
    keys = {wire.node_key("west", key.name): wire.node_value(n, 2) for key, n in rows.items()}
    keys[wire.config_key("west")] = wire.cluster_config(2)
    return Batch(5, [Entry(key, value, 5, 5, 0) for key, value in keys.items()], (), listed=True)


def peers() -> RemoteTables:
    def ignore(_: ColumnChanges) -> None:
        """There is no map here."""

    return RemoteTables(OwnFacts("east", 1), ignore)


def test_a_peer_cannot_take_what_we_have_not_learned_to_be_ours() -> None:
    """After a restart the peer's keys may arrive before our own: they wait."""
    it = peers()
    it.take(batch())
    assert (it.nodes.rows, it.findings, it.complete.synced) == ({}, {}, False)
    it.update_own(OWN)
    assert set(it.nodes.rows) == {GOOD}
    assert set(it.findings) == {wire.node_key("west", "bad")}
    assert it.complete.synced


def test_later_batches_are_judged_at_once() -> None:
    """Once our facts are known nothing waits."""
    it = peers()
    it.update_own(OWN)
    it.take(batch())
    assert set(it.nodes.rows) == {GOOD}


def test_a_pod_of_another_cluster_has_the_name_in_its_key() -> None:
    """For flows. A name decides nothing, so an odd one is left out and the address is accepted."""
    node = IPv4Address("10.99.0.22")
    names = {"10.2.0.5": "web-1", "10.2.0.6": "not a name", "10.9.0.7": "outside"}
    it = peers()
    it.update_own(OWN)
    it.take(batch())
    rows = {
        wire.address_key("west", address): wire.address_value(
            Address(ip_address(address), 2 << 16 | 5, "west", node),
            PodKey("west", "shop", name),
            "k8s:app=web;",
        )
        for address, name in names.items()
    }
    it.take(Batch(6, [Entry(key, value, 6, 6, 0) for key, value in rows.items()]))
    known = {address: it.pod_of(ip_address(address)) for address in names}
    assert known == {
        "10.2.0.5": PodKey("west", "shop", "web-1"),
        "10.2.0.6": None,
        "10.9.0.7": None,  # its address is refused
    }
    assert set(it.findings) == {
        wire.node_key("west", "bad"),
        wire.address_key("west", "10.9.0.7"),
    }
    it.take(Batch(7, (), [wire.address_key("west", "10.2.0.5")]))
    assert it.pod_of(ip_address("10.2.0.5")) is None


def test_expected_clusters_hold_completeness_back() -> None:
    """A cluster known from before must say that it is complete in this store."""
    it = peers()
    it.expect(["west", "north", "east"])
    it.update_own(OWN)
    it.take(batch())
    canaries = [wire.canary_key(name, wire.ADDRESSES) for name in ("west", "north")]
    it.take(Batch(6, [Entry(canaries[0], b"now", 6, 6, 0)]))
    assert not it.complete.synced
    it.take(Batch(7, [Entry(canaries[1], b"now", 7, 7, 0)]))
    assert it.complete.synced


def test_a_cluster_that_vanishes_is_a_finding_until_it_is_back() -> None:
    """Its lease ends, and all of its keys with it: nothing else would say so."""
    it, loop, vanished = peers(), Loop(), Vanished("east")
    loop.follow(it.ids, vanished.take)
    it.update_own(OWN)
    came = batch()

    def said() -> list[str]:
        loop.derive_all()
        return [one.object for one in vanished.findings()]

    it.take(came)
    assert said() == []
    it.take(Batch(6, (), [entry.key for entry in came.puts]))
    assert said() == ["Cluster/west"]
    it.take(came)
    assert said() == []


def test_a_cluster_that_an_operator_gives_up_is_no_finding() -> None:
    vanished = Vanished("east")
    vanished.take(Changes({}, frozenset({"west", "east"})))
    assert [one.object for one in vanished.findings()] == ["Cluster/west"]
    vanished.forget(["west"])
    assert list(vanished.findings()) == []
