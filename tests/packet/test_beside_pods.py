"""Beside the reference plugin ``bridge``, on real devices: installed under traffic, and taken away.

::

    pod web, pod client ── bridge cni0 ── host (uplink dpwup) ── far

The agent's own parts find the pods and stand on their devices; programs and rows are those of node
a of ``nodes.py``. What leaves by the uplink is caught behind it.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from bpf import links, netns
from mesh.core.model import LinkKey, PodKey
from mesh.core.model import Pod as PodObject
from mesh.core.table import Table
from mesh.kernel import Kernel
from mesh.pods.beside import FoundPods, Inside, Insides, found_pods, ordered
from mesh.pods.links import Device
from mesh.pods.netns import inodes
from tests.packet.conftest import made_namespaces
from tests.packet.nodes import LEGACY, PLANS, Node, pinned_in, zoned
from tests.packet.packets import TCP, UDP, Overlay, Packet

PLUGINS = Path("/usr/lib/cni")
SUBNETS = {4: "10.244.7.0/24", 6: "fd44:7::/64"}
GATEWAY_MAC = "02:00:00:00:00:99"
NODE_ADDRESSES = {4: "10.99.0.11", 6: "fd99::11"}
PORT = 8473

pytestmark = pytest.mark.skipif(
    not (PLUGINS / "bridge").exists(), reason="no CNI plugin bridge (containernetworking-plugins)"
)


def ip(space: Path, *words: str) -> str:
    command = ["ip", "-n", space.name, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sysctl(space: Path, *settings: str) -> None:
    subprocess.run(["nsenter", f"--net={space}", "sysctl", "-qw", *settings], check=True)


@dataclass
class Connected:
    """A pod as the plugin has connected it."""

    netns: Path
    addresses: dict[int, str]


class Host:
    """A host with a bridge, an uplink, and two pods."""

    def __init__(self, make: Callable[[], Path], state: Path) -> None:
        self.space, self.state = make(), state
        self.far = make()
        ip(self.space, "link", "add", "dpwup", "type", "veth", "peer", "name", "eth0",
           "netns", self.far.name)  # fmt: skip
        ip(self.far, "link", "set", "eth0", "address", GATEWAY_MAC, "up")
        ip(self.space, "link", "set", "dpwup", "up")
        sysctl(self.space, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
               "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.dpwup.rp_filter=0")  # fmt: skip
        routers = {4: "10.99.0.1", 6: "fd99::1"}
        peers = {4: ("10.99.0.13", "10.99.0.12", "10.99.0.21"), 6: ()}
        for family, own in NODE_ADDRESSES.items():
            bits = {4: "24", 6: "64"}[family]
            nodad = ["nodad"] if family == 6 else []
            ip(self.space, "addr", "add", f"{own}/{bits}", "dev", "dpwup", *nodad)
            for near in (routers[family], *peers[family]):
                ip(self.space, "neigh", "add", near, "lladdr", GATEWAY_MAC, "dev", "dpwup")
            ip(self.space, f"-{family}", "route", "add", "default", "via", routers[family])
        self.pods = {name: self._connect(make()) for name in ("web", "client")}

    def _connect(self, pod: Path) -> Connected:
        network = {
            "cniVersion": "1.0.0", "name": self.space.name, "type": "bridge", "bridge": "cni0",
            "isGateway": True,
            "ipam": {
                "type": "host-local", "dataDir": str(self.state),
                "ranges": [[{"subnet": subnet}] for subnet in SUBNETS.values()],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }  # fmt: skip
        words = {
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": pod.name, "CNI_NETNS": str(pod),
            "CNI_IFNAME": "eth0", "CNI_PATH": str(PLUGINS),
        }  # fmt: skip
        command = ["nsenter", f"--net={self.space}", str(PLUGINS / "bridge")]
        said = subprocess.run(
            command, input=json.dumps(network), capture_output=True, text=True, check=False,
            env={**os.environ, **words},
        )  # fmt: skip
        assert said.returncode == 0, said.stdout + said.stderr
        found = [ip_interface(one["address"]).ip for one in json.loads(said.stdout)["ips"]]
        return Connected(pod, {one.version: str(one) for one in found})

    def state_of_all(self) -> list[str]:
        """Links, addresses, routes and neighbours' settings of the host and of the pods."""
        spaces = [self.space, *(pod.netns for pod in self.pods.values())]
        words = (("link",), ("addr",), ("-4", "route"), ("-6", "route"))
        return [ip(space, *one) for space in spaces for one in words]

    def socket(self, pod: str, family: int, kind: socket.SocketKind) -> socket.socket:
        af = socket.AF_INET if family == 4 else socket.AF_INET6
        with netns.enter(self.pods[pod].netns):
            made = socket.socket(af, kind)
        made.settimeout(5)
        return made


class Attach:
    """The programs of a node on the devices of pods, as ``Datapath`` puts them there."""

    def __init__(self, node: Node, space: Path) -> None:
        self._node, self._space = node, space

    def both_ends(self, name: str, device: str, space: Path, inside: str) -> None:
        for there, where, program in (
            (self._space, device, "mg_from_pod"), (space, inside, "mg_to_pod"),
        ):  # fmt: skip
            pin = self._node.directory / f"{name}_{program}"
            with netns.enter(there):
                fd = self._node.programs[program]
                links.tcx(fd, where, pin, ingress=True, first=True)

    def detach(self, name: str) -> None:
        for program in ("mg_from_pod", "mg_to_pod"):
            links.detach(self._node.directory / f"{name}_{program}")


class Beside(Node):
    """Node a beside the plugin: its pods are the host's two, ``client`` with a policy."""

    def _ifindex(self, device: str) -> int:
        return super()._ifindex("dpwup") if device != "dpwup" else super()._ifindex(device)

    def _rows_of_pods(self) -> None:
        """They come with the devices."""


@dataclass
class Installed:
    """The host with our programs."""

    host: Host
    node: Beside
    devices: Table[LinkKey, Device]
    target: FoundPods

    def rows(self, covered: str = "client") -> None:
        """Rows of the pods, as the agent writes them; and who they are to the mesh."""
        for key, device in self.devices.rows.items():
            mac = bytes.fromhex(device.mac.replace(":", ""))
            row = {"ifindex": device.ifindex, "identity": 65536 + 7, "mac": list(mac)}
            row["egress_class"] = int(key.name == covered)
            for address in device.addresses:
                self.node.maps["mg_pod_addr"].update_one(zoned(str(address)), row)
                who = {"identity": 65536 + 7, "node": int(ip_address("10.99.0.11")), "kind": 1}
                self.node.maps["mg_address"].update_one(zoned(str(address)), who | {"cluster": 1})


def objects(host: Host) -> dict[PodKey, PodObject]:
    """The pods' objects, with the addresses of their status."""
    rows = {}
    for name, pod in host.pods.items():
        addresses = tuple(ip_address(one) for one in pod.addresses.values())
        row = PodObject("east", "shop", name, "east-1", addresses=addresses)
        rows[PodKey("east", "shop", name)] = row
    return rows


async def _find(host: Host) -> Table[str, Inside]:
    """What the agent sees in the namespaces of this machine that are the host's pods."""
    namespaces: Table[str, int] = Table("netns")
    inside: Table[str, Inside] = Table("inside")
    all_, mine = inodes(Path("/run/netns")), {str(pod.netns) for pod in host.pods.values()}
    namespaces.replace({path: inode for path, inode in all_.items() if path in mine})
    await Insides(namespaces, inside).look()
    return inside


@contextmanager
def installed(host: Host, directory: Path) -> Iterator[Installed]:
    """Our programs on the uplink and on the pods, until the end."""
    node = Beside(PLANS["a"], host.space, directory, beside=1, overlay_port=PORT)
    devices: Table[LinkKey, Device] = Table("device")

    async def attach() -> FoundPods:
        inside = (await _find(host)).rows
        async with Kernel.open_in(str(host.space)) as kernel:
            target = FoundPods(kernel, Attach(node, host.space), devices)
            found = {}
            for key, pod in objects(host).items():
                at = ordered(pod.addresses)
                there = {path: row for path, row in inside.items() if row.addresses == at}
                found |= found_pods(at, {key: pod}, there)
            assert len(found) == len(host.pods)
            assert await target.upsert(found) == {}
            return target

    try:
        target = asyncio.run(attach())
        with netns.enter(host.space):
            for program, ingress in (("mg_from_uplink", True), ("mg_to_uplink", False)):
                pin = directory / program
                links.tcx(node.programs[program], "dpwup", pin, ingress=ingress, first=True)
        yield Installed(host, node, devices, target)
        asyncio.run(target.delete(list(devices.rows)))
    finally:
        for pin in ("mg_from_uplink", "mg_to_uplink"):
            links.detach(directory / pin)
        node.close()


@pytest.fixture
def host(namespaces: Callable[[], Path], tmp_path: Path, bpffs: Path) -> Host:
    assert bpffs
    return Host(namespaces, tmp_path / "cni")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, bpffs: Path) -> Iterator[Installed]:
    """A host with our programs, for the tests that do not take them away."""
    assert bpffs
    with (
        made_namespaces() as make,
        pinned_in(f"dpw-{os.getpid()}-standing") as directory,
        installed(Host(make, tmp_path_factory.mktemp("cni")), directory) as it,
    ):
        yield it


@pytest.fixture
def ours(standing: Installed) -> Installed:
    standing.node.reset()
    standing.rows()
    return standing


class Talk(threading.Thread):
    """A TCP connection from ``client`` to ``web`` that echoes until it is ended."""

    def __init__(self, host: Host, family: int) -> None:
        super().__init__()
        self.count, self.error = 0, ""
        self._end = threading.Event()
        self._server = host.socket("web", family, socket.SOCK_STREAM)
        self._server.bind((host.pods["web"].addresses[family], 7000))
        self._server.listen()
        self._client = host.socket("client", family, socket.SOCK_STREAM)
        self._client.connect((host.pods["web"].addresses[family], 7000))
        self._other, _ = self._server.accept()
        self._other.settimeout(5)

    def run(self) -> None:
        try:
            while not self._end.is_set():
                self._client.sendall(b"question")
                assert self._other.recv(8) == b"question"
                self._other.sendall(b"answered")
                assert self._client.recv(8) == b"answered"
                self.count += 1
        except (OSError, AssertionError) as error:
            self.error = repr(error)

    def end(self) -> int:
        """How many round trips there were."""
        self._end.set()
        self.join(20)
        for one in (self._client, self._other, self._server):
            one.close()
        assert not self.error, self.error
        return self.count


def behind(host: Host) -> socket.socket:
    """Everything that comes out of the uplink."""
    with netns.enter(host.far):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    tap.bind(("eth0", 3))
    return tap


def caught(tap: socket.socket, fits: Callable[[Packet], bool], seconds: float = 3) -> list[bytes]:
    """Frames until one fits, and the one; empty when none does in time."""
    while select.select([tap], [], [], seconds)[0]:
        wire = tap.recv(4000)
        try:
            packet = Packet.read(wire)
        except ValueError:
            continue
        if fits(packet):
            return [wire]
    return []


def test_installed_and_taken_away_under_traffic_it_changes_and_loses_nothing(
    host: Host, family: int
) -> None:
    before, talk = host.state_of_all(), Talk(host, family)
    talk.start()
    lost = retransmitted(host)
    with pinned_in(f"dpw-{os.getpid()}-bridge") as directory:
        for _ in range(3):
            with installed(host, directory) as it:
                it.rows()
                counted = talk.count
                while talk.count < counted + 200 and not talk.error:
                    pass
                assert it.node.drop_counts().sum() == it.node.counts.sum()
                assert [it.node.count(f"mg_ct_v{family}"), list(it.node.ring.drain())] == [0, []]
    assert talk.end() > 600
    assert retransmitted(host) == lost
    assert lasting(host.state_of_all()) == lasting(before)


def lasting(states: list[str]) -> list[str]:
    """Without life times of addresses, and whether the kernel still looks for duplicates."""
    return [
        "\n".join(
            line.replace(" tentative", "").rstrip()
            for line in state.splitlines()
            if "valid_lft" not in line
        )
        for state in states
    ]


def retransmitted(host: Host) -> int:
    found = 0
    for pod in host.pods.values():
        command = ["nsenter", f"--net={pod.netns}", "nstat", "-asz", "TcpRetransSegs"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found += int(text.split("TcpRetransSegs")[1].split()[0])
    return found


def test_covered_traffic_leaves_translated_and_the_rest_by_the_bridge(
    ours: Installed, family: int
) -> None:
    host, elsewhere = ours.host, {4: "203.0.113.5", 6: "2001:db8:5::5"}[family]
    with closing(behind(host)) as tap:
        with closing(host.socket("client", family, socket.SOCK_DGRAM)) as made:
            made.sendto(b"covered", (LEGACY[family], 53))
            (wire,) = caught(tap, lambda p: isinstance(p.l4, UDP) and p.l4.destination == 8472)
            inner = Overlay.read(wire).inner
            assert (inner.destination, inner.payload) == (LEGACY[family], b"covered")
            assert inner.source in ("198.51.100.10", "2001:db8:100::10")
            made.sendto(b"plain", (elsewhere, 53))
            (wire,) = caught(tap, lambda p: p.destination == elsewhere)
            assert Packet.read(wire).source == host.pods["client"].addresses[family]
        with closing(host.socket("web", family, socket.SOCK_DGRAM)) as made:
            made.sendto(b"uncovered", (LEGACY[family], 53))
            (wire,) = caught(tap, lambda p: p.destination == LEGACY[family])
            assert Packet.read(wire).source == host.pods["web"].addresses[family]


def test_the_answer_comes_into_the_pod_past_the_bridge(ours: Installed, family: int) -> None:
    """By the overlay, and by redirect: the program behind eth0 knows that it is ours."""
    host = ours.host
    with (
        closing(behind(host)) as tap,
        closing(host.socket("client", family, socket.SOCK_DGRAM)) as made,
    ):
        made.sendto(b"question", (LEGACY[family], 53))
        (wire,) = caught(tap, lambda p: isinstance(p.l4, UDP) and p.l4.destination == 8472)
        sent = Overlay.read(wire)
        assert isinstance(sent.inner.l4, UDP)
        back = sent.inner.reply(UDP(53, sent.inner.l4.source), b"answer")
        frame = Overlay("10.99.0.13", "10.99.0.11", 2, back, to=PORT).wire()
        tap.send(mac_of(host) + frame[6:])
        assert made.recvfrom(100)[0] == b"answer"


def mac_of(host: Host) -> bytes:
    said = json.loads(ip(host.space, "-j", "link", "show", "dpwup"))
    return bytes.fromhex(said[0]["address"].replace(":", ""))


def test_a_connection_that_was_open_is_reset_in_the_pod(ours: Installed, family: int) -> None:
    """The far end is reset by the bridge's way out, with whatever address that has."""
    host = ours.host
    client = host.pods["client"].addresses[family]
    ours.rows(covered="")
    with (
        closing(behind(host)) as tap,
        closing(host.socket("client", family, socket.SOCK_STREAM)) as made,
    ):
        made.settimeout(0)
        made.connect_ex((LEGACY[family], 443))
        (wire,) = caught(tap, lambda p: p.destination == LEGACY[family])
        syn = Packet.read(wire)
        assert isinstance(syn.l4, TCP)
        answer = syn.reply(TCP(443, syn.l4.source, "SA", 5000, syn.l4.sequence + 1))
        tap.send(mac_of(host) + answer.wire()[6:])
        made.settimeout(5)
        assert select.select([], [made], [], 5)[1], "it is open"
        ours.rows()
        made.sendall(b"goes on")
        (wire,) = caught(tap, lambda p: isinstance(p.l4, TCP) and p.l4.flags == "R")
        reset = Packet.read(wire)
        assert (reset.source, reset.destination) == (client, LEGACY[family])
        with pytest.raises(ConnectionResetError):
            made.recv(10)


def test_a_pod_keeps_its_mtu_and_hears_what_is_too_big(ours: Installed, family: int) -> None:
    """The other CNI has given it 1500 bytes; the overlay has room for 1450."""
    level = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}[family]
    discover, mtu = {4: (10, 14), 6: (23, 24)}[family]  # IP_MTU_DISCOVER, IP_MTU
    with closing(ours.host.socket("client", family, socket.SOCK_DGRAM)) as made:
        made.setsockopt(level, discover, 2)  # IP_PMTUDISC_DO
        made.connect((LEGACY[family], 53))
        assert made.getsockopt(level, mtu) == 1500
        made.send(bytes(1440))
        with pytest.raises(OSError, match="Message too long"):
            made.recv(10)
        assert made.getsockopt(level, mtu) == 1450
