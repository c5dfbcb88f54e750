"""A kernel's VXLAN device as the sender: each VNI and source of D45, right and forged.

Namespace s has the addresses of nodes w (cluster 2) and b (cluster 1) and a device of its kernel in
collect-metadata mode; the mark of a socket chooses VNI and outer source.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest

from tests.lab.wire import PREFIX, Wire, batch, make_socket
from tests.packet.nodes import LEGACY, PLANS, Node, zoned

UDP_SEGMENT = 103
#: Lets a socket send from any address: IP_TRANSPARENT, IPV6_TRANSPARENT.
TRANSPARENT = {4: (socket.SOL_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
A, B, W = "10.99.0.11", "10.99.0.12", "10.99.0.21"
POD, POD_B = PLANS["w"].pods["web"], PLANS["b"].pods["web"]
#: Of node w: its host, a router and a pod; then those of others.
SOURCES = {
    "host": {4: W, 6: "fd99::21"},
    "router": {4: "10.2.0.115", 6: "fd02::1243"},
    "pod": POD.addresses,
    "pod of another node": {4: "10.2.1.7", 6: "fd02:0:0:1::7"},
    "pod of ours": POD_B.addresses,
    "the receiver": {4: A, 6: "fd99::11"},
    "legacy": LEGACY,
}
RESERVED, NOBODYS = (4, 5, 6, 7, 8, *range(100, 116)), (0, 1, 3, 9, 10, 11, 99, 116, 255)
THIRD = 3 << 16 | 5
VNIS = (2, *RESERVED, *NOBODYS, POD.identity, POD_B.identity, THIRD)
PORT = 9666
SPACE = f"{PREFIX}-s"


def mark(sender: str, vni: int) -> int:
    return (1 if sender == W else 2) << 8 | VNIS.index(vni) + 1


@contextmanager
def sender() -> Iterator[None]:
    """Namespace s, wired to the bridge."""
    subprocess.run(["ip", "netns", "add", SPACE], check=True)
    try:
        web = PLANS["a"].pods["web"]
        ways = [
            f"{six}route add default dev vx table {mark(node, vni)} encap ip id {vni} "
            f"src {node} dst {A} ttl 64\n"
            f"{six}rule add pref 100 fwmark {mark(node, vni)} lookup {mark(node, vni)}"
            for six in ("", "-6 ")
            for node in (W, B)
            for vni in VNIS
        ]
        batch(
            "s",
            f"""
            link set lo up
            link add out type veth peer name s netns {PREFIX}-r
            link set out up
            addr add {W}/24 dev out
            addr add {B}/24 dev out
            link add vx type vxlan external dstport 8472 nolearning
            link set vx up
            rule add to 10.99.0.0/24 lookup main pref 10
            neigh add {web[4]} lladdr 02:02:02:02:02:02 dev vx
            -6 neigh add {web[6]} lladdr 02:02:02:02:02:02 dev vx
            """
            + "\n".join(ways),
        )
        batch("r", "link set dev s master br0\nlink set dev s up")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


@pytest.fixture(scope="module")
def lab(two_nodes: Wire) -> Iterator[Wire]:
    for node in two_nodes.nodes.values():
        node.reset()
    with sender():
        yield two_nodes


class Receiver:
    """Pod web of node a."""

    def __init__(self, node: Node, socket_: socket.socket, family: int) -> None:
        self.node, self.socket, self.family = node, socket_, family
        self.events: list[Any] = []

    def event(self, name: str) -> list[int]:
        """A field of the events about the last packet."""
        return [int(event[name]) for event in self.events]

    def got(self, source: str, vni: int, node: str = W, size: int = 0) -> str | tuple[str, ...]:
        """Whom a packet came from, or the reasons of the drops."""
        address = SOURCES[source][self.family]
        before = self.node.drop_counts()
        self.node.ring.drain()
        with closing(make_socket("s", self.family, socket.SOCK_DGRAM)) as out:
            out.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark(node, vni))
            out.setsockopt(*TRANSPARENT[self.family], 1)
            out.bind((address, 0))
            if size:
                out.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
            out.sendto(bytes(size) or b"x", (PLANS["a"].pods["web"][self.family], PORT))
        try:
            for _ in range(max(size // 1000, 1)):
                came = self.socket.recvfrom(2000)[1][0]
            self.events = list(self.node.ring.drain())
        except TimeoutError:
            self.events = list(self.node.ring.drain())
            counts = self.node.drop_counts() - before
            return tuple(
                self.node.reasons[i].removeprefix("DROP_") for i, n in enumerate(counts) if n
            )
        return "itself" if came == address else str(came)


@pytest.fixture
def receiver(lab: Wire, family: int) -> Iterator[Receiver]:
    node = lab.nodes["a"]
    node.reset()
    for name, kind, endpoint, identity in (
        ("router", 3, W, 6),
        ("pod of another node", 1, "10.99.0.22", 2 << 16 | 77),
    ):
        row = {"identity": identity, "node": int(IPv4Address(endpoint)), "kind": kind, "cluster": 2}
        for text in SOURCES[name].values():
            node.maps["mg_address"].update_one(zoned(text), row)
    with closing(lab.udp("a-web", family, PORT)) as made:
        made.settimeout(0.05)
        yield Receiver(node, made, family)


def test_what_a_peers_node_may_say_arrives(receiver: Receiver) -> None:
    """With the identity that is ours, not the wire's: its pod's row, remote node, or world."""
    receiver.socket.settimeout(5)
    for source in ("host", "router", "pod"):
        for vni in (2, *RESERVED, *([POD.identity] if source == "pod" else [])):
            assert receiver.got(source, vni) == "itself", (source, vni)
            ours = POD.identity if source == "pod" else 2 if vni == 2 else 6
            assert receiver.event("source_identity") == [ours], (source, vni)


def test_identities_of_nobody_and_of_a_third_cluster_are_dropped(receiver: Receiver) -> None:
    for source in ("host", "router", "pod"):
        for vni in NOBODYS:
            assert receiver.got(source, vni) == ("INVALID_IDENTITY",), (source, vni)
            assert receiver.event("sender") == [int(IPv4Address(W))], (source, vni)
        assert receiver.got(source, THIRD) == ("INVALID_CLUSTER_ID",), source


def test_sources_that_are_not_the_senders_are_dropped(receiver: Receiver) -> None:
    for source in ("pod of another node", "pod of ours", "the receiver", "legacy"):
        for vni in (6, 4, POD.identity):
            assert receiver.got(source, vni) == ("INVALID_SOURCE_IP",), (source, vni)
            assert receiver.event("sender") == [int(IPv4Address(W))], (source, vni)
    assert receiver.got("legacy", 2) == ("NOT_FROM_GATEWAY",)


def test_a_node_of_our_cluster_says_no_reserved_identity_but_its_own(receiver: Receiver) -> None:
    assert receiver.got("pod of ours", POD_B.identity, B) == "itself"
    for vni in (2, *(one for one in RESERVED if one != 6), *NOBODYS):
        assert receiver.got("pod of ours", vni, B) == ("INVALID_IDENTITY",), vni
    assert receiver.got("pod of ours", 6, B) == ("INVALID_SOURCE_IP",)
    assert receiver.got("pod", POD.identity, B) == ("INVALID_SOURCE_IP",)


def test_what_the_kernel_opens_is_judged_alike(receiver: Receiver) -> None:
    """UDP that the sender has merged goes up to the device, and through mg_from_vxlan."""
    receiver.socket.settimeout(5)
    assert receiver.got("host", 6, size=4000) == "itself"
    assert receiver.got("pod", POD.identity, size=4000) == "itself"
    receiver.socket.settimeout(0.1)
    assert receiver.got("host", 3, size=4000) == ("INVALID_IDENTITY",)
    assert receiver.got("pod of ours", 6, size=4000) == ("INVALID_SOURCE_IP",)
