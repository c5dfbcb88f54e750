"""Sockets in any namespace of the lab, taps on its devices, and packets built and read by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise
from pathlib import Path

from running import Lab, wait

from bpf import netns

FAMILIES = (socket.AF_INET, socket.AF_INET6)
VXLAN_PORT = 8472
SO_RCVBUFFORCE = 33
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
IP = IPv4Address | IPv6Address


def namespace(lab: Lab, place: str) -> Path:
    """Of a host, or of a pod ``cluster/namespace/name``."""
    return Path("/run/netns") / f"{lab.environment['MESHGATE_LAB']}-{place.replace('/', '_')}"


@contextmanager
def opened(
    lab: Lab, place: str, family: int, kind: int, protocol: int = 0
) -> Iterator[socket.socket]:
    """A socket in a namespace."""
    with netns.enter(namespace(lab, place)):
        made = socket.socket(family, kind, protocol)
    made.settimeout(2)
    with made:
        yield made


@dataclass(frozen=True)
class Packet:
    """A packet that a tap saw; ``sender`` and ``vni`` are those of its tunnel, or None."""

    source: IP
    destination: IP
    protocol: int
    payload: bytes
    sender: IP | None = None
    vni: int | None = None


class Tap:
    """Every frame that passes a namespace's devices."""

    def __init__(self, lab: Lab, place: str, device: str = "") -> None:
        with netns.enter(namespace(lab, place)):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
            if device:
                self._socket.bind((device, ETH_P_ALL))
        self._socket.settimeout(0)

    def packets(self) -> list[Packet]:
        """What has come since the last call."""
        found = []
        while True:
            try:
                packet = _packet(self._socket.recv(70000))
            except BlockingIOError:
                return found
            if packet:
                found.append(packet)


@contextmanager
def taps(lab: Lab, *places: str, device: str = "") -> Iterator[dict[str, Tap]]:
    """A tap per place."""
    made = {place: Tap(lab, place, device) for place in places}
    try:
        yield made
    finally:
        for tap in made.values():
            tap._socket.close()  # noqa: SLF001  # its own maker


def _packet(frame: bytes) -> Packet | None:
    kind, head = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == ETH_P_IP:
        body = head[(head[0] & 15) * 4 :]
        found = Packet(ip_address(head[12:16]), ip_address(head[16:20]), head[9], body)
    elif kind == ETH_P_IPV6:
        found = Packet(ip_address(head[8:24]), ip_address(head[24:40]), head[6], head[40:])
    else:
        return None
    body = found.payload
    if kind != ETH_P_IP or found.protocol != 17 or body[2:4] != VXLAN_PORT.to_bytes(2, "big"):
        return found
    inner = _packet(body[16:])
    vni = int.from_bytes(body[12:15], "big")
    return inner and Packet(
        inner.source, inner.destination, inner.protocol, inner.payload, found.source, vni
    )


def udp(source: str, destination: str, source_port: int, port: int, data: bytes) -> bytes:
    """A whole IP packet."""
    ends = ip_address(source).packed + ip_address(destination).packed
    body = struct.pack("!4H", source_port, port, 8 + len(data), 0) + data
    pseudo = ends + struct.pack("!II", len(body), 17)
    body = body[:6] + struct.pack("!H", _check(pseudo + body) or 0xFFFF) + body[8:]
    if len(ends) == 32:
        return struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + ends + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 17, 0) + ends
    return head[:10] + struct.pack("!H", _check(head)) + head[12:] + body


def _check(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def send_from_pod(lab: Lab, pod: str, packet: bytes) -> None:
    """A packet out of the pod's device, whatever its source is; IPv4's neighbour takes both."""
    with netns.enter(namespace(lab, pod)):
        links = Path("/proc/thread-self/net/arp").read_text().split()
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind(("eth0", 0))
    gateway = next(word for word in links if word.count(":") == 5)
    kind = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
    with raw:
        mac = raw.getsockname()[4]
        raw.send(bytes.fromhex(gateway.replace(":", "")) + mac + kind.to_bytes(2, "big") + packet)


def send_overlay(lab: Lab, host: str, endpoint: str, vni: int, inner: bytes) -> None:
    """A VXLAN packet from a host's own address, past its programs, as root of the host can send it.

    ``mg_to_uplink`` lets no socket of a node send one.
    """
    kind = ETH_P_IP if inner[0] >> 4 == 4 else ETH_P_IPV6
    head = struct.pack("!II", 0x08000000, vni << 8) + b"\2" * 12 + kind.to_bytes(2, "big")
    told = dict(pairwise(lab.output(host, "ip", "-4", "route", "get", endpoint).split()))
    mac = _neighbour(lab, host, told.get("via", endpoint))
    packet = udp(told["src"], endpoint, 0x8000 | vni & 0x7FFF, VXLAN_PORT, head + inner)
    with opened(lab, host, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        raw.bind((told["dev"], 0))
        raw.send(mac + raw.getsockname()[4] + ETH_P_IP.to_bytes(2, "big") + packet)


def _neighbour(lab: Lab, host: str, address: str) -> bytes:
    """MAC address of a host's neighbour, resolved by a packet to the discard port."""

    def found() -> list[bytes]:
        lines = lab.output(host, "ip", "-4", "neigh", "show", address).splitlines()
        words = [line.split() for line in lines if "lladdr" in line]
        return [bytes.fromhex(w[w.index("lladdr") + 1].replace(":", "")) for w in words]

    if not found():
        with opened(lab, host, socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.sendto(b"", (address, 9))
        wait(lambda: bool(found()), 5, f"{host} knows its neighbour {address}")
    return found()[0]
