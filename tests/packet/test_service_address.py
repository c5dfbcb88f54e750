"""A pod's packets to the address of a service: no socket sends any, so nobody is there."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mesh.core.address import encode_address
from tests.packet.nodes import LEGACY, OK, REDIRECT, SHOT, Node
from tests.packet.packets import TCP, UDP, Echo, Error, Packet

Nodes = dict[str, Node]
Content = TCP | UDP | Echo

SERVICE = {4: "10.97.1.10", 6: "fd97:1::10"}
ASKED = [TCP(40000, 81, "S"), UDP(40000, 80, b"x"), Echo(7)]


def serve(node: Node, address: str) -> None:
    node.maps["mg_service_ip"].update_one(encode_address(ip_address(address)), 1)


@pytest.mark.parametrize("content", ASKED, ids=["port", "protocol", "ping"])
def test_a_pod_hears_that_the_service_has_no_such_port(
    nodes: Nodes, family: int, content: Content
) -> None:
    a, web = nodes["a"], nodes["a"].plan.pods["web"]
    packet = Packet(web[family], SERVICE[family], content)
    assert a.from_pod("web", packet).verdict == OK  # before there is the service
    a.clear(f"mg_ct_v{family}")
    serve(a, SERVICE[family])
    got = a.from_pod("web", packet)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_SERVICE": 1})
    error = got.packet
    assert (error.source, error.destination) == (SERVICE[family], web[family])
    assert isinstance(error.l4, Error)


def test_a_covered_pod_hears_it_too(nodes: Nodes, family: int) -> None:
    """No egress address is spent on it."""
    a, client = nodes["a"], nodes["a"].plan.pods["client"]
    serve(a, LEGACY[family])
    got = a.from_pod("client", Packet(client[family], LEGACY[family], TCP(40000, 81, "S")))
    assert got.dropped == {"NO_SERVICE": 1}
    assert got.verdict in (REDIRECT, SHOT)
