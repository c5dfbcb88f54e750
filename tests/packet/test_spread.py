"""A pod that is led to another address: what is open keeps its own, what is new takes the next."""

from dataclasses import replace
from ipaddress import IPv4Address

import numpy as np

from tests.packet.nodes import COVERED, EGRESS, LEGACY, PLANS, Node, addr, addr_value
from tests.packet.packets import UDP, Packet

NEXT = {4: "198.51.100.20", 6: "2001:db8:100::20"}
CLASS = 77


def further_address(node: Node, family: int) -> None:
    """One more address, with a gateway and a block of this node, and the class that leads there."""
    gateway = {"count": 1, "node": [int(IPv4Address(PLANS["g"].endpoint)), *[0] * 15]}
    node.maps["mg_egress_addr"].update_one(addr(NEXT[family]), gateway)
    row = {"count": 1, "number": np.array([3, *[0] * 31])}
    node.maps["mg_own_block"].update_one(addr(NEXT[family]), row)
    own = int(IPv4Address(node.plan.endpoint))
    key = {"address": addr_value(NEXT[family]), "number": 3}
    node.maps["mg_block"].update_one(key, {"node": own, "epoch": 1})
    node.egress(COVERED[family], 1, NEXT[family], pod_class=CLASS)


def source(node: Node, family: int, port: int) -> str:
    """The address with which a datagram from this port of the pod leaves."""
    packet = Packet(node.plan.pods["client"][family], LEGACY[family], UDP(port, 5353))
    got = node.from_pod("client", packet)
    assert got.dropped == {}
    return got.overlay.inner.source


def test_live_connections_keep_their_address(nodes: dict[str, Node], family: int) -> None:
    a = nodes["a"]
    further_address(a, family)
    assert source(a, family, 5000) == EGRESS[family]
    a.pod(replace(a.plan.pods["client"], egress=CLASS))
    assert source(a, family, 5001) == NEXT[family]
    assert source(a, family, 5000) == EGRESS[family]
    assert source(a, family, 5001) == NEXT[family]
