"""The programs on real devices: what redirects, GSO, fragmentation and MTU really do."""

import errno
import os
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress

import pytest

from tests.lab.wire import Wire, at, inside, make_socket
from tests.packet.nodes import EGRESS, LEGACY

UDP_SEGMENT, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO, PMTUDISC_DONT = 103, 10, 23, 2, 0
MEGABYTES = 64


def transfer(wire: Wire, client: str, server: str, family: int) -> tuple[str, float]:
    """Send megabytes, get as many back; the peer's address as the server saw it, and Gbit/s."""
    block, seen = bytes(1 << 20), []

    def serve() -> None:
        connection, peer = listener.accept()
        seen.append(peer[0])
        with closing(connection):
            connection.settimeout(20)
            for _ in range(MEGABYTES):
                receive(connection)
            for _ in range(MEGABYTES):
                connection.sendall(block)

    def receive(connection: socket.socket) -> None:
        left = len(block)
        while left:
            left -= len(connection.recv(min(left, 1 << 18))) or pytest.fail("closed early")

    with (
        closing(wire.listen(server, family, 8080)) as listener,
        closing(make_socket(client, family, socket.SOCK_STREAM)) as sender,
    ):
        thread = threading.Thread(target=serve)
        thread.start()
        sender.settimeout(20)
        sender.connect((wire.address(server, family), 8080))
        started = time.monotonic()
        for _ in range(MEGABYTES):
            sender.sendall(block)
        for _ in range(MEGABYTES):
            receive(sender)
        took = time.monotonic() - started
        thread.join()
    return seen[0], 2 * MEGABYTES * 8 / 1024 / took


PATHS = [
    ("one node", "a-web", "a-client"),
    ("two nodes", "a-web", "g-web"),
    ("egress", "a-client", "l"),
    ("egress on the gateway", "g-client", "l"),
]
paths = pytest.mark.parametrize(
    ("client", "server"), [p[1:] for p in PATHS], ids=[p[0] for p in PATHS]
)


@paths
def test_tcp_with_gso_carries_megabytes_both_ways(
    wire: Wire, family: int, client: str, server: str
) -> None:
    errors = [wire.counter(space, "TcpInCsumErrors") for space in (client, server)]
    seen, rate = transfer(wire, client, server, family)
    assert rate > 1, "segments are cut on the way"
    assert seen == (EGRESS[family] if server == "l" else wire.address(client, family))
    assert [wire.counter(space, "TcpInCsumErrors") for space in (client, server)] == errors
    for node in wire.nodes.values():
        assert not (node.drop_counts() - node.counts).any()


@paths
def test_udp_gso_delivers_every_datagram(wire: Wire, family: int, client: str, server: str) -> None:
    with (
        closing(wire.udp(server, family, 9000)) as receiver,
        closing(wire.udp(client, family)) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        for number in range(10):
            data = b"".join(bytes([number * 10 + i]) * 1200 for i in range(10))
            sender.sendto(data, (wire.address(server, family), 9000))
        got, peer = [], ("", 0)
        for _ in range(100):
            data, peer, *_ = receiver.recvfrom(2000)
            assert len(data) == 1200
            got.append(data[0])
        assert sorted(got) == list(range(100))
        receiver.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        receiver.sendto(bytes(12000), peer[:2])
        assert [len(sender.recv(2000)) for _ in range(10)] == [1200] * 10


@paths
@pytest.mark.parametrize("size", [1422, 1472, 4000, 60000])
def test_datagrams_of_any_size_arrive_and_are_answered(
    wire: Wire, family: int, client: str, server: str, size: int
) -> None:
    """By fragments of the sender, and of the kernel's VXLAN device where the tunnel is narrower."""
    with (
        closing(wire.udp(server, family, 9000)) as receiver,
        closing(wire.udp(client, family)) as sender,
    ):
        for made in (sender, receiver):
            option = (socket.IPPROTO_IP, IP_MTU_DISCOVER)
            if family == 6:
                option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)
            made.setsockopt(*option, PMTUDISC_DONT)
        sender.sendto(b"q" * size, (wire.address(server, family), 9000))
        data, peer, *_ = receiver.recvfrom(65536)
        assert data == b"q" * size
        deadline = time.monotonic() + 5
        receiver.sendto(b"a" * size, peer[:2])
        sender.settimeout(0.5)
        while True:  # IPv6 learns the tunnel's MTU by losing a datagram
            try:
                assert sender.recv(65536) == b"a" * size
                break
            except TimeoutError:
                assert family == 6
                assert time.monotonic() < deadline
                receiver.sendto(b"a" * size, peer[:2])


def test_legacy_that_forbids_fragments_learns_the_tunnels_mtu(wire: Wire, family: int) -> None:
    with (
        closing(wire.udp("l", family, 9000)) as receiver,
        closing(wire.udp("a-client", family)) as sender,
    ):
        sender.sendto(b"q", (LEGACY[family], 9000))
        _, peer, *_ = receiver.recvfrom(2000)
        level, name = (socket.IPPROTO_IP, IP_MTU_DISCOVER)
        if family == 6:
            level, name = socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER
        receiver.setsockopt(level, name, PMTUDISC_DO)
        receiver.connect(peer[:2])
        mtu = (socket.IPPROTO_IP, 14) if family == 4 else (socket.IPPROTO_IPV6, 24)
        deadline = time.monotonic() + 5
        size = 1472 if family == 4 else 1452
        while receiver.getsockopt(*mtu) != 1450:
            assert time.monotonic() < deadline
            with suppress(OSError):  # EMSGSIZE
                receiver.send(bytes(size))
        receiver.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # what the last error left
        receiver.send(bytes(size - 50))
        assert len(sender.recv(2000)) == size - 50


@pytest.mark.parametrize("client", ["a-client", "g-client"])
@pytest.mark.usefixtures("wire")
def test_ping_and_port_unreachable_come_back(family: int, client: str) -> None:
    command = ["nsenter", f"--net={at(client)}", "ping", "-c1", "-W2", "-s", "3000", LEGACY[family]]
    subprocess.run(command, check=True, capture_output=True)
    with closing(make_socket(client, family, socket.SOCK_DGRAM)) as sender:
        sender.connect((LEGACY[family], 9))
        sender.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(10)


def test_a_full_node_refuses_by_icmp_and_keeps_what_it_has(wire: Wire, family: int) -> None:
    """Within about a second: while connect sends its SYN, the kernel takes no ICMP error."""
    wire.nodes["a"].own_blocks(family, 3)
    target = (LEGACY[family], 8080)
    with closing(wire.listen("l", family, 8080)) as listener:
        held = []
        for _ in range(256):
            made = make_socket("a-client", family, socket.SOCK_STREAM)
            made.connect(target)
            held.append((made, listener.accept()[0]))
        with closing(make_socket("a-client", family, socket.SOCK_STREAM)) as refused:
            refused.settimeout(3)
            with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)):
                refused.connect(target)
        for ours, theirs in held:
            ours.sendall(b"x")
            assert theirs.recv(1) == b"x"
            ours.close()
            theirs.close()


def test_two_thousand_connections_one_after_the_other(wire: Wire, family: int) -> None:
    target = (LEGACY[family], 8080)
    with closing(wire.listen("l", family, 8080)) as listener:
        for _ in range(2000):
            with closing(make_socket("a-client", family, socket.SOCK_STREAM)) as made:
                made.connect(target)
                peer, _ = listener.accept()
                made.close()
                peer.close()


@pytest.mark.parametrize("length", [14, 15, 20, 33, 34, 40, 53])
def test_frames_of_a_pod_that_are_too_short_are_dropped(wire: Wire, length: int) -> None:
    node = wire.nodes["a"]

    def send(kind: int) -> None:
        with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
            raw.bind(("eth0", kind))
            head = bytes.fromhex("0a0000000002") + bytes.fromhex("0a0000000001")
            first = b"\x45" if kind == 0x0800 else b"\x60"
            raw.send((head + kind.to_bytes(2, "big") + first + bytes(100))[:length])

    for kind in (0x0800, 0x86DD):
        before = node.drop_counts().sum()
        inside("a-web", lambda kind=kind: send(kind))
        deadline = time.monotonic() + 5
        while node.drop_counts().sum() == before and length > 14:
            assert time.monotonic() < deadline
