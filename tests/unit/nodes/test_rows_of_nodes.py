"""Rows of ``mg_node``: what the agent says of a node, and what it leaves to the datapath."""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np

from mesh.core.model import Node, NodeKey
from mesh.nodes.maps import decode_node, encode_node
from mesh.nodes.rows import NodeHop, node_hop

ENDPOINT, ROUTER = IPv4Address("10.99.0.21"), IPv4Address("10.99.0.1")
NODES = {NodeKey("west", "west-1"): Node("west", "west-1", (ENDPOINT,))}
VALUE = np.dtype([(name, "u4") for name in ("next_hop", "cluster", "flags", "route_mtu", "mtu")])


def test_the_mtu_of_the_route_stands_in_the_row() -> None:
    for mtu, said in ((1400, 1400), (None, 0)):
        rows = node_hop(ENDPOINT, NODES, {"west": 2}, ROUTER, None, 1, mtu)
        assert rows == {ENDPOINT: NodeHop(ROUTER, 2, 1, said)}


def test_what_the_datapath_writes_is_no_difference() -> None:
    row = NodeHop(ROUTER, 2, 1, 1400)
    key, value = encode_node(ENDPOINT, row)
    assert set(value) == {"next_hop", "cluster", "flags", "route_mtu"}
    written = np.zeros((), VALUE)
    for name, number in value.items():
        written[name] = number
    written["mtu"] = 1380
    assert decode_node(key, written) == (ENDPOINT, row)


def test_hosts_of_a_cluster_reach_ours_by_its_contract_alone() -> None:
    """What the last agent wrote of that does not count; the other flags stay."""
    for hosts, flags in (({"west": True}, 5), ({}, 1), ({"north": True}, 1)):
        for before in (1, 5):
            rows = node_hop(ENDPOINT, NODES, {"west": 2}, ROUTER, None, before, None, hosts)
            assert rows == {ENDPOINT: NodeHop(ROUTER, 2, flags)}
