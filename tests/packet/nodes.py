"""Nodes made of loaded programs: each has its own maps and rows, packets are handed around by hand.

    a (10.99.0.11)  pods web 10.1.0.7, client 10.1.0.8 (covered by class 1)
    b (10.99.0.12)  pods web 10.1.1.7, client 10.1.1.8 (covered)
    g (10.99.0.13)  pods web 10.1.2.7, client 10.1.2.8 (covered); gateway of the egress addresses
    w (10.99.0.21)  of cluster 2: pod web 10.2.0.7
    legacy          192.0.2.10, behind the router 10.99.0.1; egress address 198.51.100.10

The same in IPv6. All nodes share one network namespace, which only answers FIB look-ups.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bpf import netns
from bpf.maps import Map, possible_cpus
from bpf.object import Object
from bpf.ring import Ring
from bpf.sys import Command, attr, bpf
from bpf.testrun import Result, call, run
from tests.packet.packets import Overlay, Packet

OK, SHOT, REDIRECT = 0, 2, 7
BLOCK_SIZE = 256
LIMITS = (
    "opening", "established", "closed", "datagram", "echo", "plain_closed", "plain_datagram",
    "plain_opening",
)  # fmt: skip
#: Per-CPU memory of one program's run; what an earlier one left there must not matter.
SLOT = "mg_slot"
SLOTS = (SLOT, "mg_scratch")
TABLES = ("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6", "mg_frag", "mg_pod_used")
#: ``enum lent_end``.
HEAD, TAIL = 32768, 32769
OBJECTS = Path(__file__).parents[2] / "bpf" / "obj"
#: A quarter of the source's entries: four nodes are loaded and emptied for each module of tests.
SMALLER = dict.fromkeys(("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6"), 65_536)
SMALLER |= dict.fromkeys(("mg_vrf_host", "mg_vrf_bgp_host"), 1024)
SMALLER |= dict.fromkeys(("mg_vrf_via", "mg_vrf_bgp_via", "mg_srv6_path"), 1024)


def addr(text: str) -> bytes:
    """``struct addr``: IPv4 as ::ffff:a.b.c.d."""
    ip = ip_address(text)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


def addr_value(text: str) -> dict[str, Any]:
    return {"w": np.frombuffer(addr(text), ">u4")}


def zoned(text: str, zone: int = 0) -> dict[str, Any]:
    """``struct zoned_addr``."""
    return addr_value(text) | {"zone": zone}


def text_of(value: Any) -> str:
    """The address in a ``struct addr`` value."""
    raw = np.asarray(value["w"]).tobytes()
    return str(ip_address(raw[12:]) if raw.startswith(bytes(10) + b"\xff\xff") else ip_address(raw))


@dataclass(frozen=True)
class Pod:
    device: str
    identity: int
    addresses: dict[int, str]  # by family
    egress: int = 0
    mac: bytes = bytes.fromhex("0a0000000001")

    def __getitem__(self, family: int) -> str:
        return self.addresses[family]


@dataclass(frozen=True)
class Plan:
    """One node of the picture above."""

    name: str
    endpoint: str
    cluster: int
    number: int  # third part of the pod CIDR
    pods: dict[str, Pod] = field(default_factory=dict)


def _plan(name: str, endpoint: str, cluster: int, number: int) -> Plan:
    def pod(device: str, last: int, egress: int) -> Pod:
        v6 = str(ip_address(f"fd0{cluster}:0:0:{number}::{last}"))
        addresses = {4: f"10.{cluster}.{number}.{last}", 6: v6}
        return Pod(device, cluster << 16 | number << 8 | last, addresses, egress)

    return Plan(
        name, endpoint, cluster, number, {"web": pod("dpw0", 7, 0), "client": pod("dpw1", 8, 1)}
    )


PLANS = {
    plan.name: plan
    for plan in (
        _plan("a", "10.99.0.11", 1, 0),
        _plan("b", "10.99.0.12", 1, 1),
        _plan("g", "10.99.0.13", 1, 2),
        _plan("w", "10.99.0.21", 2, 0),
    )
}
LEGACY = {4: "192.0.2.10", 6: "2001:db8:2::10"}
ROUTER = {4: "10.99.0.1", 6: "fd99::1"}
EGRESS = {4: "198.51.100.10", 6: "2001:db8:100::10"}
COVERED = {4: "192.0.2.0/24", 6: "2001:db8:2::/48"}
EXCLUDED = {4: "192.0.2.128/25", 6: "2001:db8:2:8000::/49"}
BLOCKS = {"a": (3, 9), "b": (5,), "g": (7,)}  # block numbers of each node


@dataclass
class Got:
    """What a program made of a packet."""

    verdict: int
    wire: bytes
    dropped: dict[str, int]
    events: list[Mapping[str, Any]]
    mark: int = 0

    @property
    def packet(self) -> Packet:
        return Packet.read(self.wire)

    @property
    def overlay(self) -> Overlay:
        return Overlay.read(self.wire)


class Node:
    """A node's programs on maps of their own."""

    #: Entries of maps that are to have others than usual here.
    entries: ClassVar[Mapping[str, int]] = {}
    #: Where its programs were built.
    built: Path = OBJECTS

    def __init__(self, plan: Plan, space: Path, directory: Path, **config: object) -> None:
        self.plan, self.space, self.directory = plan, space, directory
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, int] = {}
        self.slots: list[Spoiled] = []
        self.devices: dict[str, int] = {}
        for device in ("dpw0", "dpw1", "dpwup"):
            self.devices[device] = self._ifindex(device)
        self.objects = [self._load(name, config) for name in ("pod", "uplink", "sweep")]
        btf = self.objects[0].btf
        self.reasons = {number: name for name, number in btf.enum("drop_reason").items()}
        self.ring = Ring(self.maps["mg_event"], btf.struct("event"))
        self.late = Ring(self.maps["mg_icmp"], btf.struct("icmp_late"))
        self.reset()

    def _load(self, name: str, config: Mapping[str, object]) -> Object:
        opened = Object.open(self.built / f"{name}.o")
        opened.set_config("cfg", self.settings | config)
        self.share(opened)
        opened.load()
        self.maps.update(opened.maps)
        self.slots += [Spoiled(opened.maps[slot]) for slot in SLOTS if slot in opened.maps]
        self.programs.update(opened.programs)
        return opened

    def share(self, opened: Object) -> None:
        """Let an object that is not loaded yet use the maps of the node."""
        for map_, entries in {**SMALLER, **self.entries}.items():
            if map_ in opened.specs:
                opened.set_max_entries(map_, entries)
        opened.pin(self.directory)

    @property
    def settings(self) -> dict[str, object]:
        """Fields of ``struct config``."""
        return {
            "node": int(IPv4Address(self.plan.endpoint)),
            "uplink": self.devices["dpwup"],
            "vxlan": self.devices["dpwup"],
            "cluster": self.plan.cluster,
            "cluster_shift": 16,
            "uplink_mtu": 1500,
            "block_size": BLOCK_SIZE,
            "drop_events": 1000,
            "event_share": 1 << 30,
            "drop_share": 1 << 30,
            "icmp_errors": 1000,
            "masquerade": 1,  # whose rows say what is
            "permutation_key": 0x1234567890ABCDEF,
        }

    def _ifindex(self, device: str) -> int:
        with netns.enter(self.space):
            return socket.if_nametoindex(device)

    def close(self) -> None:
        self.ring.close()
        self.late.close()
        for opened in self.objects:
            opened.close()

    def reset(self) -> None:
        """Rows as in the picture, no connection, no event pending."""
        for name in (*TABLES, "mg_address", "mg_node", "mg_pod_addr", "mg_egress_addr", "mg_block"):
            self.clear(name)
        for name in (
            "mg_own_block",
            "mg_block_size",
            "mg_egress",
            "mg_addr_cidr",
            "mg_gateway",
            "mg_gw_live",
            "mg_direct",
            "mg_direct_echo",
            "mg_layer2",
            "mg_layer2_seen",
            "mg_ended",
            "mg_known",
            "mg_egress_pods",
            "mg_run",
            "mg_block_runs",
            "mg_pod_runs",
            "mg_bind",
            "mg_service_ip",
            "mg_masquerade",
            "mg_unmasked",
            "mg_learned",
            "mg_egress_label",
            "mg_declared",
            *(name for name in self.maps if name.startswith(("mg_vrf", "mg_sid", "mg_srv6"))),
        ):
            self.clear(name)
        for end in (HEAD, TAIL):
            self.maps["mg_lent"].update_one(end, {"line": 0})
        for table in range(self.maps["mg_used"].max_entries):
            self.maps["mg_used"].update_one(table, {"held": 0})
        self.rows_of_nodes()
        self._rows_of_pods()
        self.rows_of_egress()
        self.ring.drain()
        self.late.drain()
        self.counts = self.drop_counts()

    def clear(self, name: str) -> None:
        keys, _ = self.maps[name].dump()
        if len(keys):
            self.maps[name].delete(keys)

    def rows_of_nodes(self) -> None:
        for other in PLANS.values():
            endpoint = int(IPv4Address(other.endpoint))
            for text in (other.endpoint, f"fd99::{other.endpoint.rpartition('.')[2]}"):
                row = {"identity": 6, "node": endpoint, "kind": 2, "cluster": other.cluster}
                self.maps["mg_address"].update_one(zoned(text), row)
            for pod in other.pods.values():
                row = {"identity": pod.identity, "node": endpoint, "kind": 1}
                for text in pod.addresses.values():
                    row |= {"cluster": other.cluster}
                    self.maps["mg_address"].update_one(zoned(text), row)
            for cidr in (
                f"10.{other.cluster}.{other.number}.0/24",
                f"fd0{other.cluster}:0:0:{other.number}::/64",
            ):
                self.cidr("mg_addr_cidr", cidr, {"node": endpoint, "cluster": other.cluster})
            if other is not self.plan:
                row = {"next_hop": endpoint, "cluster": other.cluster}
                self.maps["mg_node"].update_one(IPv4Address(other.endpoint).packed, row)

    def _rows_of_pods(self) -> None:
        for pod in self.plan.pods.values():
            self.pod(pod)

    def pod(self, pod: Pod, zone: int = 0) -> None:
        row = {"ifindex": self.devices[pod.device], "identity": pod.identity}
        row |= {"egress_class": pod.egress, "mac": np.frombuffer(pod.mac, "u1")}
        for text in pod.addresses.values():
            self.maps["mg_vrf_pod" if zone else "mg_pod_addr"].update_one(zoned(text, zone), row)
        self.maps["mg_device"].update_one(row["ifindex"], {"mac": row["mac"]})

    def rows_of_egress(self) -> None:
        for family in (4, 6):
            self.egress(COVERED[family], 1, EGRESS[family])
            self.egress(EXCLUDED[family], 2)
            self.gateways(family, "g")
            for owner, numbers in BLOCKS.items():
                for number in numbers:
                    self.block(family, number, owner)
            self.own_blocks(family, *BLOCKS.get(self.plan.name, ()))

    def egress(
        self,
        cidr: str,
        action: int,
        address: str | None = None,
        pod_class: int = 1,
        **quota: int,
    ) -> None:
        network = ip_network(cidr)
        value: dict[str, object] = {"action": action, "family": network.version, **quota}
        if address:
            value["address"] = addr_value(address)
        self.cidr("mg_egress", cidr, value, pod_class)

    def cidr(
        self, name: str, cidr: str, value: Mapping[str, object], pod_class: int | None = None
    ) -> None:
        network = ip_network(cidr)
        prefix = network.prefixlen + (96 if network.version == 4 else 0)
        key: dict[str, object] = {"addr": addr_value(str(network.network_address))}
        if pod_class is None:
            key["bits"] = 32 + prefix
        else:
            key |= {"egress_class": pod_class, "prefix": 32 + prefix}
        self.maps[name].update_one(key, value)

    def gateways(self, family: int, *names: str) -> None:
        """The gateways of the egress address, and nobody else ever was one."""
        nodes = [int(IPv4Address(PLANS[name].endpoint)) for name in names]
        row = {"count": len(nodes), "node": [*nodes, *[0] * (16 - len(nodes))]}
        self.maps["mg_egress_addr"].update_one(addr(EGRESS[family]), row)
        for name in PLANS:
            self.gateway(family, name, sends=name in names, accepts=name in names)

    def ended(self, family: int, *names: str) -> None:
        """No policy names the egress address any more; these were its gateways."""
        address = addr(EGRESS[family])
        nodes = [int(IPv4Address(PLANS[name].endpoint)) for name in names]
        row = {"count": len(nodes), "node": [*nodes, *[0] * (16 - len(nodes))]}
        self.maps["mg_ended"].update_one(address, row)
        self.maps["mg_egress_addr"].delete_one(address)

    def gateway(self, family: int, name: str, *, sends: bool, accepts: bool) -> None:
        node = int(IPv4Address(PLANS[name].endpoint))
        key = {"address": addr_value(EGRESS[family]), "node": node}
        self.maps["mg_gateway"].update_one(key, {"sends": sends, "accepts": accepts})

    def block(self, family: int, number: int, owner: str) -> None:
        key = {"address": addr_value(EGRESS[family]), "number": number}
        row = {"node": int(IPv4Address(PLANS[owner].endpoint)), "epoch": 1}
        self.maps["mg_block"].update_one(key, row)

    def own_blocks(self, family: int, *numbers: int) -> None:
        row = {"count": len(numbers), "number": np.array([*numbers, *[0] * (32 - len(numbers))])}
        self.maps["mg_own_block"].update_one(addr(EGRESS[family]), row)

    def declare(self, pod: str, port: int) -> None:
        """The pod's object says that it takes datagrams on this port."""
        for text in self.plan.pods[pod].addresses.values():
            key = {"pod": addr_value(text), "port": port, "protocol": 17}
            self.maps["mg_declared"].update_one(key, {"translated": 0})

    def masquerade(
        self,
        family: int,
        address: str | None = None,
        ports: range = range(61000, 65536),
        *,
        opens: bool = True,
    ) -> None:
        """Pods show the world this address, by default the node's own."""
        own = {4: self.plan.endpoint, 6: f"fd99::{self.plan.endpoint.rpartition('.')[2]}"}
        row = {"address": addr_value(address or own[family]), "first": ports.start}
        row |= {"ports": len(ports), "opens": opens}
        self.maps["mg_masquerade"].update_one(family, row)

    # Packets

    def from_pod(self, pod: str, packet: Packet | bytes, **ctx: object) -> Got:
        device = self.plan.pods[pod].device
        return self.run("mg_from_pod", packet, ifindex=self.devices[device], **ctx)

    def to_pod(self, pod: str, packet: Packet | bytes, **ctx: object) -> Got:
        device = self.plan.pods[pod].device
        return self.run("mg_to_pod", packet, ifindex=self.devices[device], **ctx)

    def from_uplink(self, packet: Packet | Overlay | bytes, **ctx: object) -> Got:
        return self.run("mg_from_uplink", packet, ifindex=self.devices["dpwup"], **ctx)

    def to_uplink(self, packet: Packet | bytes, **ctx: object) -> Got:
        return self.run("mg_to_uplink", packet, ifindex=self.devices["dpwup"], **ctx)

    def leaks(self) -> dict[str, Any]:
        """What the detector has counted: packets of all CPUs, and the last one."""
        values = self.maps["mg_leak"].dump_percpu()[1].reshape(-1)
        last = values[int(values["seen"].argmax())]
        return {name: last[name] for name in ("pod", "source", "destination")} | {
            "packets": int(values["packets"].sum())
        }

    def clear_leaks(self) -> None:
        self.maps["mg_leak"].update_one(0, {"packets": 0})

    @staticmethod
    def second() -> int:
        """Now, as the datapath counts seconds."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 30

    def run(self, program: str, packet: Packet | Overlay | bytes, **ctx: object) -> Got:
        wire = packet if isinstance(packet, bytes) else packet.wire()
        return self.watch(lambda: run(self.programs[program], wire, ctx=ctx))

    def watch(self, once: Callable[[], Result]) -> Got:
        """What one run of a program made of its packet."""
        before = self.counts
        self.spoil_slots()
        result = once()
        after = self.counts = self.drop_counts()
        grown = after - before
        dropped = {
            self.reasons[int(i)].removeprefix("DROP_"): int(grown[i]) for i in np.flatnonzero(grown)
        }
        out = result.ctx_out  # a frame of XDP has no mark
        mark = int(out["mark"]) if out.dtype.names and "mark" in out.dtype.names else 0
        return Got(result.verdict, result.packet_out, dropped, list(self.ring.drain()), mark)

    def spoil_slots(self) -> None:
        """Ones in every bit of every slot on every CPU."""
        for slot in self.slots:
            slot.write()

    def forget(self, address: str, zone: int = 0) -> int:
        """Entries of an address in its zone, deleted."""
        argument = np.zeros((), self.objects[2].btf.struct("forget"))
        argument["address"]["w"] = np.frombuffer(addr(address), ">u4")
        argument["zone"] = zone
        return int(call(self.programs["mg_forget"], argument)["forgotten"])

    def sweep(self, **limits: int) -> tuple[int, int]:
        """Entries kept and expired; a limit that is not given never passes."""
        argument = np.zeros((), self.objects[2].btf.struct("sweep"))
        for name in LIMITS:
            argument[name] = 1 << 30
        for name, seconds in limits.items():
            argument[name] = seconds
        result = call(self.programs["mg_sweep"], argument)
        return int(result["kept"]), int(result["expired"])

    def age(self, seconds: int) -> None:
        """Every connection's last packet was that much earlier."""
        for name in ("mg_ct_v4", "mg_ct_v6"):
            keys, values = self.maps[name].dump()
            if len(keys):
                values["seen"] -= np.uint32(seconds)
                self.maps[name].update(keys, values)

    def quiet(self, seconds: float) -> None:
        """Every packet of a datagram connection was that much earlier."""
        for name in ("mg_nat_v4", "mg_nat_v6"):
            keys, values = self.maps[name].dump()
            shots = values["quiet"] != 0
            values["first"] -= np.uint64(seconds * 1e9)
            values["quiet"][shots] -= np.uint64(seconds * 1e9)
            if len(keys):
                self.maps[name].update(keys, values)

    def rest(self, seconds: float) -> None:
        """Every one-shot's last packet was that long ago, in the order of before."""
        for name in ("mg_nat_v4", "mg_nat_v6"):
            keys, values = self.maps[name].dump()
            shots = values["quiet"] != 0
            words = values["quiet"][shots]
            order = np.argsort(np.argsort(words)).astype(np.uint64)
            since = np.uint64(time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(seconds * 1e9))
            values["quiet"][shots] = (words >> np.uint64(62) << np.uint64(62)) + since + order
            if len(keys):
                self.maps[name].update(keys, values)

    def pods_of_egress(self, family: int, pods: int) -> None:
        """So many pods of this node leave by the egress address."""
        self.maps["mg_egress_pods"].update_one(addr(EGRESS[family]), np.uint32(pods).tobytes())

    def lent(self) -> list[tuple[str, str, int]]:
        """The log of runs: what happened (LENT, LENT_RETURNED), to which pod, with which run."""
        kinds = {number: name for name, number in self.objects[0].btf.enum("lent_kind").items()}
        head = self.maps["mg_lent"].lookup(HEAD)
        assert head is not None
        found = []
        for line in range(int(head["line"])):
            row = self.maps["mg_lent"].lookup(line)
            assert row is not None
            assert row["line"] == line + 1
            pod = IPv6Address(row["pod"]["w"].tobytes())
            found.append((kinds[int(row["kind"])], str(pod.ipv4_mapped or pod), int(row["run"])))
        return found

    def drop_counts(self) -> Any:
        _, values = self.maps["mg_drop"].dump_percpu()
        return values["packets"].sum(axis=1).astype(int)

    def count(self, name: str) -> int:
        return len(self.maps[name].dump()[0])


class Spoiled:
    """A per-CPU map with a one in every bit, by one system call that is prepared once."""

    def __init__(self, slot: Map) -> None:
        entries = slot.max_entries
        step = -(-slot.value.itemsize // 8) * 8
        self._keys = np.arange(entries, dtype=np.uint32)
        self._ones = np.full((entries, possible_cpus(), step), 0xFF, np.uint8)
        places = self._keys.ctypes.data, self._ones.ctypes.data
        self._request = attr("QQQQIIQQ", 0, 0, *places, entries, slot.fd, 0, 0, size=56)

    def write(self) -> None:
        """Write all entries."""
        bpf(Command.MAP_UPDATE_BATCH, self._request)


def ip(space: str, *words: str) -> None:
    subprocess.run(
        ["ip", *(("-n", space) if space else ()), *words], check=True, capture_output=True
    )


@contextmanager
def pinned_in(name: str) -> Iterator[Path]:
    """A directory of bpffs; it and what is pinned in it are gone afterwards."""
    directory = Path("/sys/fs/bpf") / name
    directory.mkdir()
    try:
        yield directory
    finally:
        unpinned(directory)


def unpinned(directory: Path) -> None:
    """Remove a directory of bpffs with what is pinned in it and below."""
    for path in directory.iterdir():
        unpinned(path) if path.is_dir() else path.unlink()
    directory.rmdir()


@contextmanager
def namespace() -> Iterator[Path]:
    """A namespace with pod devices, an uplink, and routes to the world by the router."""
    name = f"dpw-{os.getpid()}"
    ip("", "netns", "add", name)
    try:
        ip(name, "link", "set", "lo", "up")
        for device in ("dpw0", "dpw1", "dpwup"):
            ip(name, "link", "add", device, "type", "veth", "peer", "name", f"{device}p")
            ip(name, "link", "set", device, "up")
            ip(name, "link", "set", f"{device}p", "up")
        ip(name, "addr", "add", "10.99.0.13/24", "dev", "dpwup")
        ip(name, "-6", "addr", "add", "fd99::13/64", "dev", "dpwup", "nodad")
        ip(name, "route", "add", "default", "via", ROUTER[4])
        ip(name, "-6", "route", "add", "default", "via", ROUTER[6])
        for far, version in (("192.0.2.77", 4), ("2001:db8:2::77", 6)):
            ip(
                name,
                f"-{version}",
                "route",
                "add",
                far,
                "via",
                ROUTER[version],
                "mtu",
                "lock",
                "1300",
            )
        for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            subprocess.run(
                ["nsenter", f"--net=/run/netns/{name}", "sysctl", "-qw", f"net.{key}=1"], check=True
            )
        yield Path("/run/netns") / name
    finally:
        ip("", "netns", "del", name)
