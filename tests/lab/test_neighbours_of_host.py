"""The host's neighbours are the host's: a pod's words about others never reach its tables."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

from tests.lab.wire import HOST_MAC, POD_MAC, PREFIX, Wire, at, inside, make_socket
from tests.packet.nodes import PLANS
from tests.packet.packets import Other, Packet
from tests.patience import wait

SENDERS = 5000
POD = PLANS["a"].pods["web"]
GATEWAYS = ("169.254.1.1", "fe80::1")


def ip(space: str, *words: str) -> str:
    command = ["ip", "-n", f"{PREFIX}-{space}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def answering() -> Iterator[None]:
    """The host has the pods' gateways: only then does it note who asks for them."""
    try:
        ip("a", "addr", "add", f"{GATEWAYS[0]}/32", "dev", "lo")  # Linux answers at any device
        ip("a", "addr", "add", f"{GATEWAYS[1]}/64", "dev", POD.device, "nodad")
        yield
    finally:
        ip("a", "addr", "del", f"{GATEWAYS[0]}/32", "dev", "lo")
        ip("a", "addr", "del", f"{GATEWAYS[1]}/64", "dev", POD.device)


def neighbours() -> set[str]:
    """Addresses that the host knows behind the pod's device."""
    text = "".join(ip("a", family, "neigh", "show", "dev", POD.device) for family in ("-4", "-6"))
    return {line.split()[0] for line in text.splitlines()}


def send(frames: list[bytes]) -> None:
    """Out of the pod's device, as a pod with CAP_NET_RAW does; the host takes them at once."""
    raw = inside("a-web", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with closing(raw):
        raw.bind(("eth0", 0))
        for frame in frames:
            raw.send(frame)


def arp(sender: IPv4Address) -> bytes:
    """A request for the gateway."""
    head = b"\xff" * 6 + POD.mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return head + POD.mac + sender.packed + bytes(6) + ip_address(GATEWAYS[0]).packed


def solicit(sender: IPv6Address) -> bytes:
    """A solicitation for the gateway, with the sender's link-layer address."""
    body = struct.pack("!BBHI", 135, 0, 0, 0) + ip_address(GATEWAYS[1]).packed + b"\1\1" + POD.mac
    packet = Packet(str(sender), "ff02::1", Other(58), body, ttl=255, mac=b"\x33\x33\0\0\0\1")
    return packet.but(payload=_summed(packet)).wire()


def _summed(packet: Packet) -> bytes:
    """The payload with its ICMPv6 checksum."""
    ends = ip_address(packet.source).packed + ip_address(packet.destination).packed
    covered = ends + struct.pack("!II", len(packet.payload), 58) + packet.payload
    total = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet.payload[:2] + struct.pack("!H", ~total & 0xFFFF) + packet.payload[4:]


def test_senders_that_a_pod_invents_are_no_neighbours_of_the_host(wire: Wire) -> None:
    with answering():
        before = neighbours()
        frames = []
        for number in range(SENDERS):
            frames.append(arp(IPv4Address(0x0A420000 + number)))
            frames.append(solicit(IPv6Address(0xFE80 << 112 | 7 << 32 | number)))
            frames.append(solicit(IPv6Address(0xFD66 << 112 | number)))
        send(frames)
        assert neighbours() == before
    assert dropped(wire) == {"NEIGHBOUR_CLAIM": 3 * SENDERS}


def dropped(wire: Wire) -> dict[str, int]:
    """Packets of neighbour discovery by reason."""
    node = wire.nodes["a"]
    counts = enumerate(node.drop_counts() - node.counts)
    return {node.reasons[number].removeprefix("DROP_"): int(n) for number, n in counts if n}


def reports(space: str, way: str) -> int:
    """MLDv2 reports that the kernel there has counted; it lists a type once it has seen one."""
    command = ["nsenter", f"--net={at(space)}", "nstat", "-as"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    name = f"Icmp6{way}Type143"
    return int(text[text.index(name) + 1]) if name in text else 0


def test_the_host_hears_no_reports_of_multicast_groups(wire: Wire) -> None:
    """And nothing is counted as a drop: every pod sends them."""
    heard, sent = reports("a", "In"), reports("a-web", "Out")
    index = inside("a-web", lambda: socket.if_nametoindex("eth0"))
    group = ip_address("ff02::7777").packed + struct.pack("=I", index)
    with closing(make_socket("a-web", 6, socket.SOCK_DGRAM)) as member:
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        wait(lambda: reports("a-web", "Out") > sent, 10)
    assert reports("a", "In") == heard
    assert dropped(wire) == {}


def test_a_pod_resolves_its_gateway_and_the_host_the_pod(wire: Wire, family: int) -> None:
    """Without the permanent neighbours that both are given; then the pod probes its gateway."""
    gateway, pod = GATEWAYS[family == 6], POD[family]
    try:
        with answering(), closing(wire.udp("g-web", family, 9000)) as far:
            ip("a-web", "neigh", "del", gateway, "dev", "eth0")
            ip("a", "neigh", "del", pod, "dev", POD.device)
            with closing(wire.udp("a-web", family)) as near:
                near.sendto(b"?", (wire.pod("g-web", family), 9000))
                _, peer, *_ = far.recvfrom(10)
            ip("a-web", "neigh", "change", gateway, "dev", "eth0", "nud", "probe")
            wait(lambda: "REACHABLE" in ip("a-web", "neigh", "show", gateway), 10)
            with closing(make_socket("a", family, socket.SOCK_DGRAM)) as host:
                host.sendto(b"!", (pod, peer[1]))
            wait(lambda: POD.mac.hex(":") in ip("a", "neigh", "show", pod), 10)
    finally:
        ip("a-web", "neigh", "replace", gateway, "lladdr", HOST_MAC, "dev", "eth0")
        ip("a", "neigh", "replace", pod, "lladdr", POD_MAC, "dev", POD.device)
    assert dropped(wire) == {}
