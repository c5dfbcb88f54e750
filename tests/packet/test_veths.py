"""Hosts whose uplinks are veths: a packet keeps, behind the tunnel, what its sender noted of it.

::

    client ── a ══ g ── far    (g is a gone pod's node and the gateway; no agent, real devices)
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from bpf import links, netns
from bpf.build import build
from bpf.object import mount_bpffs
from mesh.datapath.late_errors import LateErrors, summed
from tests.packet.conftest import unique
from tests.packet.nodes import EGRESS, LEGACY, PLANS, Node, pinned_in
from tests.packet.packets import UDP, VXLAN, Packet, broken_checksums

CLIENT = PLANS["a"].pods["client"]
POD_MAC, HOST_MAC = "0a:00:00:00:00:01", "0a:00:00:00:00:02"
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
#: What it is called towards the far end.
GATEWAY = {4: "10.99.0.13", 6: "2001:db8:2::1"}
GONE = {4: "10.1.2.99", 6: "fd01:0:0:2::99"}
PORT = 7400
PODS = 1  # enum known
# Options of sockets that the module does not name, by family.
TTL, RECVERR = {4: 2, 6: 16}, {4: 11, 6: 25}
MTU_DISCOVER, MTU, DO = {4: 10, 6: 23}, {4: 14, 6: 24}, 2
ERROR_SIZE = struct.calcsize("=I4B2I")  # struct sock_extended_err
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17

#: A device that sums checksums itself is handed packets whose sum is half made.
SUMS = pytest.mark.parametrize("sums", [1, 0], ids=["sums", "sums nothing"])


class Wire:
    """The picture above."""

    def __init__(self, spaces: dict[str, Path]) -> None:
        self.spaces = spaces
        self.nodes: dict[str, Node] = {}

    def batch(self, space: str, lines: str) -> None:
        """Lines of ``ip -batch`` there."""
        text = "\n".join(line.strip() for line in lines.splitlines())
        subprocess.run(
            ["ip", "-n", self.spaces[space].name, "-batch", "-"], input=text, text=True, check=True
        )

    def socket(self, space: str, family: int, kind: socket.SocketKind) -> socket.socket:
        with netns.enter(self.spaces[space]):
            made = socket.socket(AF[family], kind)
        made.settimeout(5)
        return made

    def sums(self, node: str, on: int) -> None:
        """Whether the node's uplink sums checksums itself: 1 or 0."""
        with self.socket(node, 4, socket.SOCK_DGRAM) as made:
            request = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, on))
            name = struct.pack("16sP", b"dpwup", ctypes.addressof(request)).ljust(40, b"\0")
            fcntl.ioctl(made, SIOCETHTOOL, name)

    def dropped(self, node: str) -> int:
        """Packets that the node has dropped since its last reset."""
        made = self.nodes[node]
        return int(sum(made.drop_counts() - made.counts))

    def forget(self) -> None:
        """The client's kernel no longer knows the MTU of any path."""
        for family in AF:
            command = ["ip", f"-{family}", "-n", self.spaces["client"].name, "route", "flush"]
            subprocess.run([*command, "cache"], check=True, stderr=subprocess.DEVNULL)

    @contextmanager
    def route(self, family: int, *words: str) -> Iterator[None]:
        """A route of the gateway's to the far end."""
        metric = ["metric", "1"] if family == 6 else []
        command = ["ip", f"-{family}", "-n", self.spaces["g"].name, "route"]
        subprocess.run([*command, "add", *words, *metric], check=True)
        try:
            yield
        finally:
            subprocess.run([*command, "del", *words, *metric], check=True)


def _devices(wire: Wire) -> None:
    names = {name: path.name for name, path in wire.spaces.items()}
    wire.batch(
        "a",
        f"""
        link add dpwup type veth peer name dpwup netns {names["g"]}
        link add dpw1 address {HOST_MAC} type veth peer name eth0 netns {names["client"]}
        link add dpw0 type veth peer name dpw0p
        link set dpw1 up
        """,
    )
    wire.batch(
        "g",
        f"""
        link add dpwout type veth peer name eth0 netns {names["far"]}
        link add dpw0 type veth peer name dpw0p
        link add dpw1 type veth peer name dpw1p
        link set dpwout up
        addr add 192.0.2.1/24 dev dpwout
        addr add 2001:db8:2::1/64 dev dpwout nodad
        """,
    )
    for name in ("a", "g"):
        last = PLANS[name].endpoint.rpartition(".")[2]
        wire.batch(
            name,
            f"""
            link set dpwup up
            addr add 10.99.0.{last}/24 dev dpwup
            addr add fd99::{last}/64 dev dpwup nodad
            link add mg_vxlan type vxlan external dstport 8472 nolearning
            link set mg_vxlan up
            """,
        )
        settings = ("ipv4.ip_forward=1", "ipv4.conf.all.rp_filter=0", "ipv6.conf.all.forwarding=1")
        with netns.enter(wire.spaces[name]):
            subprocess.run(["sysctl", "-qw", *(f"net.{one}" for one in settings)], check=True)
    wire.batch(
        "client",
        f"""
        link set eth0 address {POD_MAC} mtu 1450 up
        addr add {CLIENT[4]}/32 dev eth0
        addr add {CLIENT[6]}/128 dev eth0 nodad
        neigh add 169.254.1.1 lladdr {HOST_MAC} dev eth0
        neigh add fe80::1 lladdr {HOST_MAC} dev eth0
        route add 169.254.1.1 dev eth0
        route add default via 169.254.1.1
        route add default via fe80::1 dev eth0
        """,
    )
    wire.batch(
        "far",
        f"""
        link set eth0 up
        addr add {LEGACY[4]}/24 dev eth0
        addr add {LEGACY[6]}/64 dev eth0 nodad
        route add default via 192.0.2.1
        route add default via 2001:db8:2::1
        """,
    )


def _attach(node: Node) -> None:
    where = [("mg_from_uplink", "dpwup", True), ("mg_from_vxlan", "mg_vxlan", True)]
    where += [("mg_from_pod", "dpw1", True), ("mg_to_pod", "dpw1", False)]
    if node.plan.name == "g":
        where.append(("mg_from_uplink", "dpwout", True))
    with netns.enter(node.space):
        for program, device, ingress in where:
            pin = node.directory / f"{program}_{device}"
            links.tcx(node.programs[program], device, pin, ingress=ingress)


@contextmanager
def space(name: str) -> Iterator[Path]:
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Path("/run/netns") / name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture(scope="module")
def made() -> Iterator[Wire]:
    build()
    mount_bpffs()
    with ExitStack() as stack:
        names = ("a", "g", "client", "far")
        made = Wire({name: stack.enter_context(space(f"{unique()}-{name}")) for name in names})
        _devices(made)
        for name in ("a", "g"):
            directory = stack.enter_context(pinned_in(made.spaces[name].name))
            with netns.enter(made.spaces[name]):
                vxlan = socket.if_nametoindex("mg_vxlan")
            node = Node(PLANS[name], made.spaces[name], directory, vxlan=vxlan)
            stack.callback(node.close)
            _attach(node)
            made.nodes[name] = node
        yield made


@pytest.fixture
def wire(made: Wire) -> Wire:
    for node in made.nodes.values():
        node.reset()
    made.nodes["g"].maps["mg_known"].update_one(PODS, 1)
    made.forget()
    return made


def refused(wire: Wire, family: int, address: str) -> int:
    """The error of a connect(); its second SYN is one second after the first."""
    with wire.socket("client", family, socket.SOCK_STREAM) as made:
        made.settimeout(2.5)
        try:
            made.connect((address, PORT))
        except OSError as error:
            return error.errno or errno.ETIMEDOUT
    return 0


@SUMS
def test_a_gone_pod_of_another_node_is_unreachable(wire: Wire, family: int, sums: int) -> None:
    """And the error is repeated when connect() can hear it."""
    wire.sums("g", sums)
    assert refused(wire, family, GONE[family]) == errno.EHOSTUNREACH
    frames = [
        record["frame"].tobytes()[: int(record["length"])]
        for record in wire.nodes["a"].late.drain()
    ]
    assert len(frames) == wire.dropped("g")
    broken = {one for frame in frames for one in broken_checksums(summed(frame))}
    assert broken <= {"embedded protocol 6"}, "which the client's kernel had left to the device"


@pytest.mark.parametrize("kind", ["gone", "no route"])
def test_connect_hears_of_it_at_once(wire: Wire, family: int, kind: str) -> None:
    """Its first SYN is answered while it is sent; the agent's copy passes the pod's program."""
    node = wire.nodes["a"]

    async def one() -> float:
        late = LateErrors(node.late, node.objects[0].btf.enum("packet_mark")["RESET_MARK"])
        late.start()
        begun = time.monotonic()
        await asyncio.to_thread(refused, wire, family, (GONE if kind == "gone" else LEGACY)[family])
        took = time.monotonic() - begun
        late.close()
        return took

    with wire.route(family, "unreachable", LEGACY[family]), netns.enter(node.space):
        assert asyncio.run(one()) < 0.9


@SUMS
def test_without_a_route_at_the_gateway_a_connect_fails(wire: Wire, family: int, sums: int) -> None:
    wire.sums("g", sums)
    with wire.route(family, "unreachable", LEGACY[family]):
        assert refused(wire, family, LEGACY[family]) == errno.ENETUNREACH
    assert len(list(wire.nodes["a"].late.drain())) == wire.dropped("g")


def heard(made: socket.socket, family: int) -> tuple[int, str]:
    """The next error of a datagram socket, and who says so."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        with suppress(BlockingIOError):
            _, noted, _, _ = made.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            error = noted[0][2]
            at = slice(4, 8) if family == 4 else slice(8, 24)
            number = int.from_bytes(error[:4], "little")
            return number, str(ip_address(error[ERROR_SIZE:][at]))
    return 0, ""


@SUMS
@pytest.mark.parametrize("size", [1, 32, 33, 129, 1300])
def test_a_traceroute_shows_the_gateway(wire: Wire, family: int, sums: int, size: int) -> None:
    wire.sums("g", sums)
    with wire.socket("client", family, socket.SOCK_DGRAM) as made:
        made.setsockopt(LEVEL[family], TTL[family], 1)
        made.setsockopt(LEVEL[family], RECVERR[family], 1)
        made.connect((LEGACY[family], 33434))
        made.send(bytes(size))
        made.settimeout(0)
        assert heard(made, family) == (errno.EHOSTUNREACH, GATEWAY[family])


@SUMS
def test_too_big_from_the_gateway_reaches_the_pod(wire: Wire, family: int, sums: int) -> None:
    wire.sums("g", sums)
    hop = {4: "192.0.2.10", 6: "2001:db8:2::10"}[family]
    words = (LEGACY[family], "via", hop, "dev", "dpwout", "onlink", "mtu", "lock", "1300")
    with (
        wire.route(family, *words),
        wire.socket("client", family, socket.SOCK_DGRAM) as made,
    ):
        made.setsockopt(LEVEL[family], MTU_DISCOVER[family], DO)
        made.setsockopt(LEVEL[family], RECVERR[family], 1)
        made.connect((LEGACY[family], 33434))
        made.send(bytes(1310))
        made.settimeout(0)
        assert heard(made, family)[0] == errno.EMSGSIZE
        assert made.getsockopt(LEVEL[family], MTU[family]) == 1300


# The port of the overlay


@contextmanager
def sending(wire: Wire) -> Iterator[None]:
    """Node a with the programs that what it sends itself passes."""
    node = wire.nodes["a"]
    where = (("mg_to_vxlan", "mg_vxlan"), ("mg_to_uplink", "dpwup"))
    with netns.enter(node.space):
        for program, device in where:
            pin = node.directory / program
            links.tcx(node.programs[program], device, pin, ingress=False)
    try:
        yield
    finally:
        for program, _ in where:
            links.detach(node.directory / program)


@pytest.mark.parametrize("mtu", [1500, 1300], ids=["whole", "in fragments"])
def test_the_kernels_device_sends_to_the_port_of_the_node(
    wire: Wire, family: int, mtu: int
) -> None:
    """The device itself sits on the own port, and knows no other."""
    endpoint = int(ip_address("10.99.0.13"))
    row = {"next_hop": endpoint, "cluster": 1, "route_mtu": 1300, "port": 8473}
    wire.nodes["a"].maps["mg_node"].update_one(ip_address("10.99.0.13").packed, row)
    wire.batch("a", f"link set dpwup mtu {mtu}")
    try:
        with (
            sending(wire),
            wire.socket("client", family, socket.SOCK_DGRAM) as made,
            netns.enter(wire.spaces["g"]),
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as tap,
        ):
            tap.bind(("dpwup", 0x0800))
            tap.settimeout(5)
            made.setsockopt(LEVEL[family], MTU_DISCOVER[family], 0)
            made.sendto(bytes(1270 - {4: 28, 6: 48}[family]), (LEGACY[family], 53))
            first = Packet.read(tap.recv(2000))
            assert isinstance(first.l4, UDP)
            assert (first.l4.destination, first.more) == (8473, mtu == 1300)
            assert first.payload[:4] == VXLAN
            if mtu == 1300:
                assert Packet.read(tap.recv(2000)).offset
    finally:
        wire.batch("a", "link set dpwup mtu 1500")
    assert wire.dropped("a") == 0


# Resets


@contextmanager
def connected(wire: Wire, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection through the gateway."""
    with wire.socket("far", family, socket.SOCK_STREAM) as server:
        server.bind((LEGACY[family], PORT))
        server.listen()
        with wire.socket("client", family, socket.SOCK_STREAM) as made:
            made.connect((LEGACY[family], PORT))
            other, peer = server.accept()
            with other:
                assert peer[0] == EGRESS[family]
                yield made, other


def outcome(made: socket.socket) -> int:
    """The error that a reader gets, 0 for none."""
    made.settimeout(2)
    try:
        while made.recv(1 << 16):
            pass
    except OSError as error:
        return error.errno or errno.ETIMEDOUT
    return 0


@SUMS
@pytest.mark.parametrize("size", [1, 14, 100, 20000])
def test_what_the_far_end_says_ends_a_connection_at_both(
    wire: Wire, family: int, sums: int, size: int
) -> None:
    """Its packets have options and payload, and they come through the tunnel."""
    for node in ("a", "g"):
        wire.sums(node, sums)
    with connected(wire, family) as (pod, far):
        for node in wire.nodes.values():
            node.ended(family, "g")
        far.send(bytes(size))
        assert [outcome(pod), outcome(far)] == [errno.ECONNRESET] * 2
