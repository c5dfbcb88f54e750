"""What a pod may tell its host about neighbours: itself, and a question for its gateway."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from tests.packet.nodes import LEGACY, OK, PLANS, SHOT, Got, Node
from tests.packet.packets import ARP, UDP, Error, Other, Packet

Nodes = dict[str, Node]

POD = PLANS["a"].pods["client"]
OTHER = PLANS["a"].pods["web"]
GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
#: RFC 4291 2.5.1, of the pod's MAC address.
LINK_LOCAL = "fe80::800:ff:fe00:1"
NOBODY = str(ip_address(0))
STRANGER = {4: "10.66.0.1", 6: "fd66::1"}
HOST = {4: "10.99.0.11", 6: "fd99::11"}
REQUEST, ANSWER = 1, 2
QUERY, ROUTERS, ADVERTISED, ASKED, TOLD, REDIRECTED = 130, 133, 134, 135, 136, 137


def arp(operation: int, sender: str, target: str, lengths: tuple[int, int] = (6, 4)) -> bytes:
    head = b"\xff" * 6 + POD.mac + ARP.to_bytes(2, "big")
    head += struct.pack("!HHBBH", 1, 0x0800, *lengths, operation)
    return head + POD.mac + ip_address(sender).packed + bytes(6) + ip_address(target).packed


def ndp(kind: int, source: str, target: str, destination: str = "ff02::1") -> Packet:
    body = struct.pack("!BBHI", kind, 0, 0, 0) + ip_address(target).packed + b"\1\1" + POD.mac
    return Packet(source, destination, Other(58), body, ttl=255)


def told(node: Node, packet: Packet | bytes) -> Got:
    return node.from_pod("client", packet)


PASSES: list[tuple[str, Packet | bytes]] = [
    ("asks for its gateway", arp(REQUEST, POD[4], GATEWAY[4])),
    ("probes its address, RFC 5227", arp(REQUEST, NOBODY, POD[4])),
    ("announces its address", arp(REQUEST, POD[4], POD[4])),
    ("answers its host", arp(ANSWER, POD[4], HOST[4])),
    ("solicits its gateway", ndp(ASKED, POD[6], GATEWAY[6], "ff02::1:ff00:1")),
    ("solicits it by its link-local address", ndp(ASKED, LINK_LOCAL, GATEWAY[6])),
    ("probes its gateway", ndp(ASKED, LINK_LOCAL, GATEWAY[6], GATEWAY[6])),
    ("looks for duplicates", ndp(ASKED, "::", POD[6])),
    ("looks for duplicates of the other one", ndp(ASKED, "::", LINK_LOCAL)),
    ("advertises its address", ndp(TOLD, POD[6], POD[6], GATEWAY[6])),
    ("advertises the other one", ndp(TOLD, LINK_LOCAL, LINK_LOCAL)),
    ("asks for routers", ndp(ROUTERS, LINK_LOCAL, "::", "ff02::2")),
    ("asks for routers without a name", ndp(ROUTERS, "::", "::", "ff02::2")),
]


@pytest.mark.parametrize("packet", [p[1] for p in PASSES], ids=[p[0] for p in PASSES])
def test_what_a_pod_needs_passes_uncounted(nodes: Nodes, packet: Packet | bytes) -> None:
    got = told(nodes["a"], packet)
    assert (got.verdict, got.dropped, got.events) == (OK, {}, [])


CLAIMS: list[tuple[str, Packet | bytes]] = [
    ("asks as somebody else", arp(REQUEST, STRANGER[4], GATEWAY[4])),
    ("asks as another pod", arp(REQUEST, OTHER[4], GATEWAY[4])),
    ("asks as its gateway", arp(REQUEST, GATEWAY[4], GATEWAY[4])),
    ("asks for an address of the host", arp(REQUEST, POD[4], HOST[4])),
    ("probes another pod's address", arp(REQUEST, NOBODY, OTHER[4])),
    ("answers for the host", arp(ANSWER, HOST[4], POD[4])),
    ("answers as nobody", arp(ANSWER, NOBODY, POD[4])),
    ("asks in reverse", arp(3, POD[4], POD[4])),
    ("has other lengths", arp(REQUEST, POD[4], GATEWAY[4], (8, 4))),
    ("is cut short", arp(REQUEST, POD[4], GATEWAY[4])[:30]),
    ("solicits as somebody else", ndp(ASKED, STRANGER[6], GATEWAY[6])),
    ("solicits as another pod", ndp(ASKED, OTHER[6], GATEWAY[6])),
    ("solicits by an invented link-local address", ndp(ASKED, "fe80::7", GATEWAY[6])),
    ("solicits as its gateway", ndp(ASKED, GATEWAY[6], GATEWAY[6])),
    ("solicits an address of the host", ndp(ASKED, POD[6], HOST[6])),
    ("looks for duplicates of others", ndp(ASKED, "::", OTHER[6])),
    ("advertises another pod's address", ndp(TOLD, POD[6], OTHER[6])),
    ("advertises its gateway", ndp(TOLD, LINK_LOCAL, GATEWAY[6])),
    ("advertises the host's address to it", ndp(TOLD, POD[6], HOST[6], HOST[6])),
    ("advertises without a name", ndp(TOLD, "::", POD[6])),
    ("asks for routers as somebody else", ndp(ROUTERS, "fe80::7", "::", "ff02::2")),
]


@pytest.mark.parametrize("packet", [p[1] for p in CLAIMS], ids=[p[0] for p in CLAIMS])
def test_what_it_claims_of_others_is_dropped(nodes: Nodes, packet: Packet | bytes) -> None:
    got = told(nodes["a"], packet)
    assert (got.verdict, got.dropped) == (SHOT, {"NEIGHBOUR_CLAIM": 1})


@pytest.mark.parametrize("kind", [ADVERTISED, REDIRECTED, QUERY])
@pytest.mark.parametrize("source", [LINK_LOCAL, GATEWAY[6], POD[6]])
@pytest.mark.parametrize("destination", ["ff02::1", HOST[6], OTHER[6]])
def test_a_pod_is_no_router(nodes: Nodes, kind: int, source: str, destination: str) -> None:
    assert told(nodes["a"], ndp(kind, source, POD[6], destination)).dropped == {"ROUTER_TALK": 1}


@pytest.mark.parametrize("kind", [5, 9], ids=["redirect", "router advertisement"])
@pytest.mark.parametrize("destination", [HOST[4], OTHER[4], LEGACY[4], "224.0.0.1"])
def test_nor_in_ipv4(nodes: Nodes, kind: int, destination: str) -> None:
    quoted = Packet(destination, POD[4], UDP(1, 2)).ip()
    packet = Packet(POD[4], destination, Error(kind, 0, quoted))
    assert told(nodes["a"], packet).dropped == {"ROUTER_TALK": 1}


@pytest.mark.parametrize("kind", [131, 132, 143])
@pytest.mark.parametrize("source", [LINK_LOCAL, "fe80::7", "::", POD[6]])
def test_reports_of_multicast_groups_are_no_drops(nodes: Nodes, kind: int, source: str) -> None:
    """Nor does the host hear of them: ``tests/lab/test_neighbours_of_host.py``."""
    got = told(nodes["a"], ndp(kind, source, "::", "ff02::16"))
    assert (got.verdict, got.dropped, got.events) == (OK, {}, [])


@pytest.mark.parametrize("packet", [p[1] for p in PASSES], ids=[p[0] for p in PASSES])
def test_a_pod_whose_device_is_new_waits(nodes: Nodes, packet: Packet | bytes) -> None:
    node = nodes["a"]
    node.maps["mg_device"].delete_one(node.devices[POD.device])
    assert told(node, packet).dropped == {"ENDPOINT_NOT_READY": 1}


def test_arp_of_the_uplink_is_the_hosts(nodes: Nodes) -> None:
    packet = arp(REQUEST, STRANGER[4], GATEWAY[4])
    got = nodes["a"].from_uplink(packet)
    assert (got.verdict, got.dropped) == (OK, {})
