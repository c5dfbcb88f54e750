"""The overlay port is ours: what others send to it goes nowhere, what we send to it arrives."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address

import pytest
from running import wait
from wiretap import udp

from bpf import netns
from tests.lab.wire import PREFIX, Wire, at, make_socket
from tests.packet.nodes import EGRESS, LEGACY, PLANS, zoned

VXLAN_PORT, PORT = 8472, 9000
A, G = ({4: f"10.99.0.{last}", 6: f"fd99::{last}"} for last in (11, 13))


def inner(source: str, destination: str) -> bytes:
    """A VXLAN packet that says what only a node may say: this packet is from a pod."""
    kind = 0x0800 if ip_address(source).version == 4 else 0x86DD
    vni = PLANS["a"].pods["client"].identity
    head = struct.pack("!II", 0x08000000, vni << 8) + b"\2" * 12 + kind.to_bytes(2, "big")
    return head + udp(source, destination, 5555, PORT, b"forged")


def dropped(wire: Wire, name: str) -> dict[str, int]:
    """Packets by reason since the last reset of the node."""
    node = wire.nodes[name]
    counts = node.drop_counts() - node.counts
    return {node.reasons[n].removeprefix("DROP_"): int(k) for n, k in enumerate(counts) if k}


def nothing_arrives(made: socket.socket) -> None:
    made.settimeout(0.2)
    with pytest.raises(TimeoutError):
        made.recv(2000)


@contextmanager
def nat(space: str, rules: str) -> Iterator[None]:
    """Rules of a table of nftables in a namespace."""
    command = ["nsenter", f"--net={at(space)}", "nft"]
    text = f"add table inet meshgate_test {{ {rules} }}"
    subprocess.run([*command, "-f", "-"], input=text, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run([*command, "delete table inet meshgate_test"], check=True)


MASQUERADE = """
    chain out { type nat hook postrouting priority srcnat; oifname dpwup masquerade; }
"""


def test_a_socket_of_the_host_cannot_be_a_pod(wire: Wire, family: int) -> None:
    """No rights are needed for a UDP socket; the inner packet is of either family.

    Everybody on the link hears a multicast packet, nodes that this one does not know, too.
    """
    forged = inner(wire.pod("a-client", family), wire.pod("g-web", family))
    with (
        closing(wire.udp("g-web", family, PORT)) as receiver,
        closing(make_socket("a", 4, socket.SOCK_DGRAM)) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        for to in (G[4], "224.0.0.1"):
            sender.sendto(forged, (to, VXLAN_PORT))
        nothing_arrives(receiver)
    assert dropped(wire, "a") == {"OVERLAY_PORT": 2}


def test_fragments_of_a_host_are_none_of_ours(wire: Wire) -> None:
    forged = inner(wire.pod("a-client", 4), wire.pod("g-web", 4))
    with (
        closing(wire.udp("g-web", 4, PORT)) as receiver,
        closing(make_socket("a", 4, socket.SOCK_DGRAM)) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragment
        sender.sendto(forged + bytes(2000), (G[4], VXLAN_PORT))
        nothing_arrives(receiver)
    assert dropped(wire, "a") == {"OVERLAY_PORT": 1}


def test_outer_ipv6_packets_are_nobodys(wire: Wire, family: int) -> None:
    """The kernel's device opens them, too; the stack must not get what is in them."""
    forged = inner(wire.pod("a-client", family), G[family])
    with (
        closing(make_socket("g", family, socket.SOCK_DGRAM)) as victim,
        closing(make_socket("r", 6, socket.SOCK_DGRAM)) as stranger,
        closing(make_socket("a", 6, socket.SOCK_DGRAM)) as sender,
    ):
        victim.bind((G[family], PORT))
        stranger.sendto(forged, (G[6], VXLAN_PORT))
        nothing_arrives(victim)
        assert dropped(wire, "g") == {"OVERLAY_PORT": 1}
        sender.sendto(forged, (G[6], VXLAN_PORT))
        sender.sendto(forged + bytes(2000), (G[6], VXLAN_PORT))  # in fragments
        nothing_arrives(victim)
    assert dropped(wire, "a") == {"OVERLAY_PORT": 2}
    assert dropped(wire, "g") == {"OVERLAY_PORT": 1}


def test_a_pod_does_not_reach_the_port_of_any_node(wire: Wire, family: int) -> None:
    forged = inner(wire.pod("a-client", family), wire.pod("g-web", family))
    with (
        nat("a", MASQUERADE),
        closing(wire.udp("g-web", family, PORT)) as receiver,
        closing(make_socket("a-web", family, socket.SOCK_DGRAM)) as sender,
    ):
        for node in (A, G):
            sender.sendto(forged, (node[family], VXLAN_PORT))
        nothing_arrives(receiver)
    assert dropped(wire, "a") == {"OVERLAY_PORT": 2}
    assert dropped(wire, "g") == {}


def test_a_pod_does_not_reach_it_by_a_translation_of_the_host(wire: Wire) -> None:
    """As a NodePort does it: another port becomes ours, then the source the host's."""
    rules = """
        chain in { type nat hook prerouting priority dstnat;
                   ip daddr 10.99.0.13 udp dport 9999 dnat ip to 10.99.0.13:8472; }
    """
    forged = inner(wire.pod("a-client", 4), wire.pod("g-web", 4))
    with (
        nat("a", rules + MASQUERADE),
        closing(wire.udp("g-web", 4, PORT)) as receiver,
        closing(make_socket("a-web", 4, socket.SOCK_DGRAM)) as sender,
    ):
        sender.sendto(forged, (G[4], 9999))
        nothing_arrives(receiver)
    assert dropped(wire, "a") == {"OVERLAY_PORT": 1}


@pytest.mark.parametrize("client", ["a-client", "g-client"])
def test_a_pod_does_not_speak_as_a_node_whose_address_it_leaves_by(
    wire: Wire, family: int, client: str
) -> None:
    """To an address that this node does not know, but others may: egress lets nothing else pass."""
    gateway = wire.nodes["g"]
    row = {"identity": 6, "node": int(ip_address("10.99.0.21")), "kind": 2, "cluster": 2}
    gateway.maps["mg_address"].update_one(zoned(EGRESS[family]), row)
    with (
        closing(wire.udp("l", family, VXLAN_PORT)) as tunnel,
        closing(wire.udp("l", family, PORT)) as other,
        closing(make_socket(client, family, socket.SOCK_DGRAM)) as sender,
    ):
        sender.sendto(b"forged", (LEGACY[family], VXLAN_PORT))
        nothing_arrives(tunnel)
        sender.sendto(b"question", (LEGACY[family], PORT))
        data, peer, *_ = other.recvfrom(2000)
        assert (data, peer[0]) == (b"question", EGRESS[family])
    assert dropped(wire, "g") == {"OVERLAY_PORT": 1}


@pytest.fixture
def side() -> Iterator[socket.socket]:
    """A raw socket behind a device of node g that is not its uplink, as a container's."""
    name, space = f"{PREFIX}-side", at("g").name
    ip("netns", "add", name)
    try:
        ip("-n", space, "link", "add", "side", "type", "veth", "peer", "eth0", "netns", name)
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "addr", "add", "172.17.0.2/24", "dev", "eth0")
        ip("-n", name, "route", "add", "default", "via", "172.17.0.1")
        ip("-n", space, "link", "set", "side", "up")
        ip("-n", space, "addr", "add", "172.17.0.1/24", "dev", "side")
        with netns.enter(at("side")):
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with made:
            yield made
    finally:
        # The kernel takes the devices of a namespace away some time after its name has gone.
        subprocess.run(["ip", "-n", space, "link", "del", "side"], check=False)
        ip("netns", "del", name)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def test_tunnels_end_at_the_uplink_alone(wire: Wire, family: int, side: socket.socket) -> None:
    """A container with CAP_NET_RAW in its own namespace gives itself the address of a node."""
    forged = inner(wire.pod("a-client", family), wire.pod("g-web", family))
    with closing(wire.udp("g-web", family, PORT)) as receiver:
        for to in (G[4], "172.17.0.1"):
            side.sendto(udp(A[4], to, 0x8000, VXLAN_PORT, forged), (to, 0))
        wait(lambda: dropped(wire, "g") == {"OVERLAY_PORT": 2}, 5, "both are dropped")
        nothing_arrives(receiver)


def test_the_fabric_is_seen_to_take_forged_sources(wire: Wire, family: int) -> None:
    forged = inner(wire.pod("a-client", family), wire.pod("g-web", family))
    with netns.enter(at("r")):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with closing(raw), closing(wire.udp("g-web", family, PORT)) as receiver:
        raw.sendto(udp(G[4], G[4], 0x8000, VXLAN_PORT, forged), (G[4], 0))
        nothing_arrives(receiver)
    assert dropped(wire, "g") == {"OWN_SENDER": 1}


def test_ours_arrive_by_hand_and_by_the_kernels_device(wire: Wire, family: int) -> None:
    """A datagram that fits, and one in fragments, which the kernel's device sends."""
    with (
        closing(wire.udp("g-web", family, PORT)) as receiver,
        closing(wire.udp("a-web", family)) as sender,
    ):
        if family == 4:
            sender.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: fragment
        for size in (100, 1400, 8000):
            sender.sendto(bytes(size), (wire.pod("g-web", family), PORT))
            assert len(receiver.recv(9000)) == size
    assert dropped(wire, "a") == {}
