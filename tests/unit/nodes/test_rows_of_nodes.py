"""Rows of ``mg_node``: what the agent says of a node, and what it leaves to the datapath."""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np

from mesh.core.model import Node, NodeKey
from mesh.nodes.maps import decode_node, encode_node
from mesh.nodes.rows import NodeHop, node_hop

ENDPOINT, ROUTER = IPv4Address("10.99.0.21"), IPv4Address("10.99.0.1")
NODES = {NodeKey("west", "west-1"): Node("west", "west-1", (ENDPOINT,))}
PORTS = {"west": 8472}
FIELDS = ("next_hop", "cluster", "flags", "route_mtu", "mtu", "port")
VALUE = np.dtype([(name, "u4") for name in FIELDS])


def test_the_mtu_of_the_route_stands_in_the_row() -> None:
    for mtu, said in ((1400, 1400), (None, 0)):
        rows = node_hop(ENDPOINT, NODES, {"west": 2}, ROUTER, None, 1, mtu, (), PORTS)
        assert rows == {ENDPOINT: NodeHop(ROUTER, 2, 1, said)}


def test_what_the_datapath_writes_is_no_difference() -> None:
    row = NodeHop(ROUTER, 2, 1, 1400)
    key, value = encode_node(ENDPOINT, row)
    assert set(value) == {"next_hop", "cluster", "flags", "route_mtu", "port"}
    written = np.zeros((), VALUE)
    for name, number in value.items():
        written[name] = number
    written["mtu"] = 1380
    assert decode_node(key, written) == (ENDPOINT, row)


def test_hosts_of_a_cluster_reach_ours_by_its_contract_alone() -> None:
    """What the last agent wrote of that does not count; the other flags stay."""
    for hosts, flags in (({"west": True}, 5), ({}, 1), ({"north": True}, 1)):
        for before in (1, 5):
            rows = node_hop(ENDPOINT, NODES, {"west": 2}, ROUTER, None, before, None, hosts, PORTS)
            assert rows == {ENDPOINT: NodeHop(ROUTER, 2, flags)}


def test_a_node_has_the_port_that_its_cluster_publishes() -> None:
    """Until it is known, the one of before; with neither it has no row: a stranger may listen."""
    former = NodeHop(ROUTER, 2, port=9000)
    for ports, recovered, port in (
        ({"west": 8473}, None, 8473),
        ({"west": 8473}, former, 8473),
        ({"north": 8474}, former, 9000),
    ):
        rows = node_hop(ENDPOINT, NODES, {"west": 2}, ROUTER, recovered, None, None, (), ports)
        assert rows == {ENDPOINT: NodeHop(ROUTER, 2, port=port)}
    assert node_hop(ENDPOINT, NODES, {"west": 2}, ROUTER, None, None, None, (), {"north": 1}) == {}


def test_a_row_of_a_version_without_ports_has_the_one_of_everybody() -> None:
    written = np.zeros((), VALUE)
    written["next_hop"], written["cluster"] = int(ROUTER), 2
    assert decode_node(int(ENDPOINT), written) == (ENDPOINT, NodeHop(ROUTER, 2, port=8472))
