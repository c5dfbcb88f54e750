"""A pod's address row appears when its three facts are there, whatever their order."""

import itertools
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import Any

import numpy as np
import pytest

from mesh.core.address import ADDRESS, packed
from mesh.core.model import Node, NodeKey, PodRef
from mesh.core.table import Changes, ColumnChanges, ColumnTable
from mesh.identity.addresses import (
    KIND_NODE,
    KIND_POD,
    KIND_ROUTER,
    VALUE,
    AddressValue,
    OwnPods,
    first_asked,
    node_addresses,
    take_remote,
    write_columns,
)
from tests.fixtures.counted import Said

A = ip_address("10.1.0.2")
REF = PodRef("n1", "shop", "a")
LABELS = "k8s:app=web;"


def table() -> ColumnTable:
    return ColumnTable("address", ADDRESS, VALUE)


def known(rows: dict[str, Any]) -> Changes[str, Any]:
    return Changes(rows, frozenset())


def row(rows: ColumnTable, address: str) -> tuple[int, ...] | None:
    got = rows.get(packed(ip_address(address)))
    return None if got is None else got.tolist()


def joined() -> tuple[Said, OwnPods, ColumnTable]:
    """Rows of the pods that count, of one node, whose endpoint is known."""
    said, rows = Said(), table()
    said.has("n1", "10.1.0.0/24")
    said.claim(65537, LABELS)
    said.claim(65538, "k8s:app=db;")
    own = OwnPods(said.counted, rows, 1)
    said.counted.then = own.pods
    own.endpoints(known({"n1": IPv4Address("10.99.0.11")}))
    return said, own, rows


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_facts_may_come_in_any_order(order: tuple[int, ...]) -> None:
    said, rows = Said(), table()
    said.claim(65537, LABELS)
    own = OwnPods(said.counted, rows, 1)
    said.counted.then = own.pods
    facts: list[Callable[[], None]] = [
        lambda: said.say(REF, str(A), labels=LABELS),
        lambda: said.confirm(REF, 65537),
        lambda: said.has("n1", "10.1.0.0/24"),
        lambda: own.endpoints(known({"n1": IPv4Address("10.99.0.11")})),
    ]
    for step in order:
        assert len(rows) == 0
        facts[step]()
        said.settle()
    assert row(rows, "10.1.0.2") == (65537, int(IPv4Address("10.99.0.11")), 1, 1, 0)


def test_an_address_that_moved_to_another_pod_survives_the_first_ones_end() -> None:
    said, _, rows = joined()
    other = PodRef("n1", "shop", "b")
    said.confirm(REF, 65537)
    said.confirm(other, 65538)
    said.say(REF, str(A), labels=LABELS)
    said.settle()
    said.say(other, str(A), labels="k8s:app=db;")
    said.settle()
    said.entries.delete([REF])
    said.settle()
    got = row(rows, "10.1.0.2")
    assert got is not None
    assert got[0] == 65538


def test_a_pod_that_changed_its_address_leaves_no_row_behind() -> None:
    said, _, rows = joined()
    said.confirm(REF, 65537)
    said.say(REF, str(A), labels=LABELS)
    said.settle()
    said.say(REF, "10.1.0.3", labels=LABELS)
    said.settle()
    assert row(rows, "10.1.0.2") is None
    assert row(rows, "10.1.0.3") is not None


def test_a_node_without_an_endpoint_is_gone_with_its_pods() -> None:
    said, own, rows = joined()
    said.confirm(REF, 65537)
    said.say(REF, str(A), labels=LABELS)
    said.settle()
    own.endpoints(Changes({}, frozenset(["n1"])))
    assert len(rows) == 0
    own.endpoints(known({"n1": IPv4Address("10.99.0.12")}))
    assert row(rows, "10.1.0.2") == (65537, int(IPv4Address("10.99.0.12")), 1, 1, 0)


def test_this_node_is_host_and_others_are_remote_nodes() -> None:
    rows = table()
    own = NodeKey("east", "n1")
    known = {
        own: (Node("east", "n1", (ip_address("10.99.0.11"),)), 1),
        NodeKey("west", "n1"): (Node("west", "n1", (ip_address("10.99.0.21"),)), 2),
    }
    asked = {}
    for key, (node, cluster) in known.items():
        asked |= node_addresses(key, node, cluster, own)
    written = {}
    for address, _ in asked:
        written |= first_asked(address, {k: v for k, v in asked.items() if k[0] == address})
    write_columns(rows, Changes(written, frozenset()))
    assert row(rows, "10.99.0.11") == (1, int(IPv4Address("10.99.0.11")), 2, 1, 0)
    assert row(rows, "10.99.0.21") == (6, int(IPv4Address("10.99.0.21")), 2, 2, 0)
    write_columns(rows, Changes({}, frozenset(written)))
    assert len(rows) == 0


ROUTER = ip_address("10.2.1.1")


def test_a_router_is_a_hosts_address_behind_the_tunnel() -> None:
    key = NodeKey("west", "w1")
    node = Node("west", "w1", (ip_address("10.99.0.21"),), routers=(ROUTER,))
    found = node_addresses(key, node, 2, NodeKey("east", "e1"))
    endpoint = int(IPv4Address("10.99.0.21"))
    assert found == {
        (packed(ip_address("10.99.0.21")), key): (6, endpoint, KIND_NODE, 2, 0),
        (packed(ROUTER), key): (6, endpoint, KIND_ROUTER, 2, 0),
    }


def test_each_writer_takes_away_its_own_kind_of_row() -> None:
    """An address that was a router's may be a pod's when the node's row goes, and vice versa."""
    rows, endpoint = table(), int(IPv4Address("10.99.0.21"))
    at, router, pod = (
        packed(ROUTER),
        (6, endpoint, KIND_ROUTER, 2, 0),
        (9, endpoint, KIND_POD, 2, 0),
    )
    keys = np.frombuffer(at, ADDRESS)
    node_gone: Changes[bytes, AddressValue] = Changes({}, frozenset([at]))
    key_gone = ColumnChanges(keys[:0], np.zeros(0, VALUE), keys)

    write_columns(rows, Changes({at: router}, frozenset()))
    take_remote(rows, ColumnChanges(keys, np.array([router], VALUE), keys[:0]))
    take_remote(rows, key_gone)
    assert row(rows, str(ROUTER)) == router
    take_remote(rows, ColumnChanges(keys, np.array([pod], VALUE), keys[:0]))
    write_columns(rows, node_gone)
    assert row(rows, str(ROUTER)) == pod
    take_remote(rows, key_gone)
    assert row(rows, str(ROUTER)) is None
    write_columns(rows, Changes({at: router}, frozenset()))
    write_columns(rows, node_gone)
    assert row(rows, str(ROUTER)) is None
