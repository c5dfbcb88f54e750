"""SRv6 with the kernel's seg6 at the other end, and with ours at both: sockets over live devices.

    pod (p0) -- (a0) node a (a1) -- (b1) node b (b0) -- (x0) far end

Node a is ours: its pod is in a VRF. Node b is the kernel's: seg6 towards the SIDs of node a, with
an SRH or without, and End.DX4 and End.DX6 of its own; or it is ours, too. Nobody has told the pod
of the outer headers: it learns from ICMP errors what fits. The far end is told by its route where
the kernel encapsulates: that one sends its errors to itself.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bpf import netns
from bpf.build import build
from mesh.lab.places import Lab
from tests.bench import network as net_
from tests.bench.network import FAR_POD, LOCATORS, MACS, NODE_A, POD, WORLD_SIDE, Network
from tests.bench.ours import Node, nodes
from tests.packet.conftest import cgroup_mount, unique
from tests.packet.packets import UDP, Packet

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = 7000
BULK = 2 << 20
UDP_SEGMENT = 103  # linux/udp.h
SOL_UDP = 17
ETH_P_ALL, PACKET_OUTGOING = 3, 4
SEGMENT, SEGMENTS, BURSTS = 1200, 25, 4
WAIT_S = 10


def far_end(net: Network, mtu: str) -> None:
    """Addresses and routes of the pod and of the far end; ``mtu`` ends the latter's."""
    net_.sockets(net)
    for v, bits in ((4, 32), (6, 128)):
        flag = "nodad" if v == 6 else ""
        net.ip("x", f"addr add {FAR_POD[v]}/{bits} dev x0 {flag}")
        net.ip("x", f"route replace {POD[v]}/{bits} via {WORLD_SIDE[v]} src {FAR_POD[v]} {mtu}")
        net.ip("b", f"neigh replace {FAR_POD[v]} lladdr {MACS['x0']} dev b0")


@contextmanager
def two_nodes(
    tmp_path: Path, other: str, *, xdp: bool = False
) -> Iterator[tuple[Network, dict[str, Node]]]:
    """``other`` says what node b is: a mode of kernel seg6, or "ours"."""
    build()
    name = unique()
    lab = Lab(name, tmp_path, cgroup_mount() / name)
    letters = "ab" if other == "ours" else "a"
    try:
        with net_.network(lab) as net:
            far_end(net, "" if other == "ours" else "mtu 1400")
            net.ip("b", f"route add {LOCATORS['a']} via {NODE_A[6]}")
            if other != "ours":
                net_.seg6_in(net)
                net_.seg6_out(net, "b", other)
            with nodes(net, letters, xdp=xdp) as made:
                for node in made.values():
                    node.tenant()
                    node.vrf_routes()
                    node.sids()
                yield net, made
    finally:
        if lab.bpffs("a").parent.exists():
            lab.bpffs("a").parent.rmdir()
        for path in sorted(lab.cgroup.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        if lab.cgroup.exists():
            lab.cgroup.rmdir()


@pytest.fixture(params=["encap", "encap.red", "ours"])
def way(
    request: pytest.FixtureRequest, tmp_path: Path, bpffs: Path
) -> Iterator[tuple[Network, dict[str, Node]]]:
    assert bpffs
    with two_nodes(tmp_path, request.param) as made:
        yield made


def opened(net: Network, letter: str, family: int, kind: socket.SocketKind) -> socket.socket:
    with netns.enter(net.space(letter)):
        made = socket.socket(FAMILIES[family], kind)
    made.settimeout(WAIT_S)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


ENDS = {"p": POD, "x": FAR_POD}


def udp_answered(net: Network, family: int) -> None:
    with (
        opened(net, "x", family, socket.SOCK_DGRAM) as server,
        opened(net, "p", family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((FAR_POD[family], PORT))
        client.bind((POD[family], 0))
        client.sendto(b"question", (FAR_POD[family], PORT))
        text, sender = server.recvfrom(100)
        assert (text, sender[0]) == (b"question", POD[family])
        server.sendto(b"answer", sender)
        assert client.recv(100) == b"answer"


def tcp_carried(net: Network, family: int, sender: str) -> None:
    """``sender`` sends a stream that arrives whole."""
    receiver = "x" if sender == "p" else "p"
    content = os.urandom(BULK)
    got = bytearray()
    with opened(net, receiver, family, socket.SOCK_STREAM) as server:
        server.bind((ENDS[receiver][family], PORT))
        server.listen()

        def take() -> None:
            connection, _ = server.accept()
            connection.settimeout(WAIT_S)
            with connection:
                while part := connection.recv(1 << 20):
                    got.extend(part)

        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        with opened(net, sender, family, socket.SOCK_STREAM) as client:
            client.bind((ENDS[sender][family], 0))
            client.connect((ENDS[receiver][family], PORT))
            client.sendall(content)
        taker.join(WAIT_S)
    assert bytes(got) == content


def gso_carried(net: Network, family: int, sender: str) -> None:
    """Every datagram of every UDP aggregate arrives as it was."""
    receiver = "x" if sender == "p" else "p"
    with (
        opened(net, receiver, family, socket.SOCK_DGRAM) as server,
        opened(net, sender, family, socket.SOCK_DGRAM) as client,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.bind((ENDS[receiver][family], PORT))
        client.bind((ENDS[sender][family], 0))
        client.setsockopt(SOL_UDP, UDP_SEGMENT, SEGMENT)
        for burst in range(BURSTS):
            parts = [bytes([burst, one]) * (SEGMENT // 2) for one in range(SEGMENTS)]
            client.sendto(b"".join(parts), (ENDS[receiver][family], PORT))
            assert [server.recv(4096) for _ in parts] == parts


def dropped(node: Node) -> npt.NDArray[np.int64]:
    """Packets by drop reason. A pod's kernel reports its groups before the pod has a row."""
    _, values = node.datapath.map("mg_drop").dump_percpu()
    counts: npt.NDArray[np.int64] = values["packets"].sum(axis=1).astype(np.int64)
    return counts


def test_what_is_sent_arrives_both_ways(way: tuple[Network, dict[str, Node]]) -> None:
    net, made = way
    before = {letter: dropped(node) for letter, node in made.items()}
    for family in FAMILIES:
        udp_answered(net, family)
        for sender in "px":
            tcp_carried(net, family, sender)
            gso_carried(net, family, sender)
    for letter, node in made.items():
        lost = dropped(node) - before[letter]
        told = node.datapath.enum("drop_reason")["DROP_FRAGMENTATION_NEEDED"]
        assert {int(i) for i in lost.nonzero()[0]} <= {told}


def seen(tap: socket.socket) -> list[bytes]:
    """Frames that have come in behind XDP and are the far end's answers."""
    found = []
    tap.settimeout(0)
    while True:
        try:
            frame, sender = tap.recvfrom(2048)
        except BlockingIOError:
            return found
        if sender[2] != PACKET_OUTGOING and frame.endswith(b"answer"):
            found.append(frame)


def test_with_xdp_on_the_uplink_the_same_arrives(tmp_path: Path, bpffs: Path) -> None:
    """The answers of the far end are opened in the driver, and their VRF goes with them."""
    assert bpffs
    with two_nodes(tmp_path, "encap", xdp=True) as (net, made):
        before = dropped(made["a"])
        with netns.enter(net.space("a")):
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        with tap:
            tap.bind(("a1", ETH_P_ALL))
            for family in FAMILIES:
                udp_answered(net, family)
            heads = [Packet.read(frame) for frame in seen(tap)]
        assert [head.source for head in heads] == [FAR_POD[family] for family in FAMILIES]
        assert {type(head.l4) for head in heads} == {UDP}
        assert (dropped(made["a"]) - before).sum() == 0
