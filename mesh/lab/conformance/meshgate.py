"""Meshgate as a translator: a pod's node and a gateway, two loaded datapaths and an overlay.

The programs are those of the agent, attached as it attaches them; the rows are encoded as it does
it (``gateway/maps.py``); connections expire by ``mg_sweep`` with the agent's limits. There is no
agent and no etcd: the cases are about what packets meet.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np

from bpf import links
from bpf.build import HERE, build
from bpf.gather import gather
from bpf.maps import Map
from bpf.netns import enter
from bpf.object import BPFFS, Object, mount_bpffs
from bpf.testrun import call
from gateway import maps as rows
from gateway.members import GatewayKey, GatewayRow
from gateway.rows import Action, Binding, EgressKey, EgressRow, runs_of_quota
from mesh.core.address import encode_address, encode_prefix
from mesh.datapath.sweep import LIMITS
from mesh.lab.conformance.bed import (
    EGRESS,
    EXCLUDED,
    GATE_MAC,
    HOP,
    HOST_MAC,
    OTHER,
    OTHER_MAC,
    PATH_MTU,
    POD,
    POD_MAC,
    SERVER,
    SERVER_MAC,
    WORLD,
    Bed,
    Namespaces,
    nodad,
    route_to_ends,
    run,
    silence,
    text,
)
from mesh.lab.conformance.ends import End

NODE, GATE = IPv4Address("10.99.0.11"), IPv4Address("10.99.0.12")
GATES = (GATE, IPv4Address("10.99.0.13"))
FABRIC = {
    4: ("10.99.0.11/24", "10.99.0.12/24", "10.99.0.13/24"),
    6: ("fd99::11/64", "fd99::12/64", "fd99::13/64"),
}
POD_CIDR = {4: "10.1.0.0/24", 6: "fd01::/64"}
NODE_MAC = bytes.fromhex("020000000302")
GATE_MACS = (GATE_MAC, bytes.fromhex("020000000303"))
CLASS = 1
BLOCK_SIZE = 256
#: Blocks of the node: as many as it has by default.
BLOCKS = (3, 9, 17, 40)
GATEWAYS = 16
PREFIX_BEFORE = 32
#: Fewer than usual: two datapaths are loaded and gone within seconds.
SMALLER = dict.fromkeys(("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6"), 16_384)
#: What the node remembers of connections.
STATE = (
    "mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6", "mg_bind",
    "mg_run", "mg_pod_runs", "mg_block_runs", "mg_pod_used",
)  # fmt: skip
OBJECTS = ("pod", "uplink", "sweep")
#: Kinds of state by the limits of the sweep.
_LIMITS = {
    "udp": "one_shot",
    "stream": "datagram",
    "echo": "echo",
    "opening": "opening",
    "established": "established",
    "closed": "closed",
}
UNIT_NS = 1 << 30


class Host:
    """A loaded datapath in a namespace, with its maps."""

    def __init__(self, place: Path, endpoint: IPv4Address, pins: Path, stack: ExitStack) -> None:
        self.place, self.endpoint, self._pins = place, endpoint, pins
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, int] = {}
        pins.mkdir()
        stack.callback(shutil.rmtree, pins)
        settings = self._settings(endpoint)
        self._objects = [self._load(name, settings, stack) for name in OBJECTS]

    def _settings(self, endpoint: IPv4Address) -> dict[str, object]:
        return {
            "node": int(endpoint),
            "uplink": self.ifindex("up"),
            "vxlan": self.ifindex("mg_vxlan"),
            "cluster": 1,
            "cluster_shift": 16,
            "uplink_mtu": 1500,
            "block_size": BLOCK_SIZE,
            "icmp_errors": 100_000,
            "gathers": 1,
            "permutation_key": int.from_bytes(os.urandom(8), "big"),
        }

    def _load(self, name: str, settings: Mapping[str, object], stack: ExitStack) -> Object:
        opened = stack.enter_context(Object.open(HERE / "obj" / f"{name}.o"))
        if name != "sweep":
            opened.set_config("cfg", settings)
        for map_, entries in SMALLER.items():
            if map_ in opened.specs:
                opened.set_max_entries(map_, entries)
        opened.pin(self._pins)
        with enter(self.place):
            opened.load()
        self.maps.update(opened.maps)
        self.programs.update(opened.programs)
        return opened

    def ifindex(self, device: str) -> int:
        """The number of a device of the host."""
        with enter(self.place):
            return socket.if_nametoindex(device)

    def attach(self, program: str, device: str, *, ingress: bool = True) -> None:
        """A program before the packets of a device."""
        with enter(self.place):
            pin = self._pins / f"link-{device}-{program}"
            links.tcx(self.programs[program], device, pin, ingress=ingress)

    def gather(self) -> None:
        """Let the kernel gather fragments out of order, as the agent does (``bpf/gather.py``)."""
        mark = str(self.enum("order_mark")["MARK_GATHER"])
        with enter(self.place):
            gather(self._pins)
        for family, via in ((4, "169.254.1.1"), (6, "fe80::1")):
            words = ("ip", f"-{family}", "-n", self.place.name)
            run(*words, "neigh", "add", via, "lladdr", text(HOST_MAC), "dev", "mg_vxlan")
            run(*words, "route", "add", "default", "via", via, "dev", "mg_vxlan", "onlink",
                "table", "7001")  # fmt: skip
            run(*words, "rule", "add", "fwmark", mark, "lookup", "7001")

    def enum(self, name: str) -> Mapping[str, int]:
        """Names and numbers of an enum of the datapath."""
        return self._objects[0].btf.enum(name)

    def drops(self) -> dict[str, int]:
        """Drops so far, by their reason."""
        _, values = self.maps["mg_drop"].dump_percpu()
        packets = values["packets"].sum(axis=1)
        return {
            name: int(packets[number])
            for name, number in self.enum("drop_reason").items()
            if packets[number]
        }

    def sweep(self) -> None:
        """What the agent does every ten seconds."""
        argument = np.zeros((), self._objects[-1].btf.struct("sweep"))
        for name, seconds in LIMITS.items():
            argument[name] = seconds
        call(self.programs["mg_sweep"], argument)

    def forget(self) -> None:
        """No connection, mapping or run is left, nor who uses how many."""
        for name in STATE:
            keys, _ = self.maps[name].dump()
            if len(keys):
                self.maps[name].delete(keys)
        for table in range(self.maps["mg_used"].max_entries):
            self.maps["mg_used"].update_one(table, {"held": 0})

    def older(self, seconds: int) -> None:
        """All connections had their last packet that much earlier."""
        units = -(-seconds * 10**9 // UNIT_NS)
        for name in ("mg_ct_v4", "mg_ct_v6"):
            keys, values = self.maps[name].dump()
            values["seen"] -= np.uint32(units)
            values["opened"] -= np.uint32(units)
            values["touched"] += np.uint16(1 << 12)
            if len(keys):
                self.maps[name].update(keys, values)
        for name in ("mg_nat_v4", "mg_nat_v6"):
            keys, values = self.maps[name].dump()
            values["first"] -= np.uint64(units * UNIT_NS)
            if len(keys):
                self.maps[name].update(keys, values)
        keys, values = self.maps["mg_bind"].dump()
        values["used"][values["used"] != 0] -= np.uint64(units * UNIT_NS)
        if len(keys):
            self.maps["mg_bind"].update(keys, values)


class Meshgate(Bed):
    """A pod's node, and one gateway or two; the server's packets come to the first one."""

    _numbers = itertools.count()

    def __init__(self, stack: ExitStack, gateways: int = 1) -> None:
        self.name = "endpoint-dependent"
        build()
        mount_bpffs()
        spaces = Namespaces(stack)
        names = ("pod", "other", "node", "wire", "server")
        pod, other, node, wire, server = (spaces.make(name) for name in names)
        gates = [spaces.make(f"gate{number}") for number in range(gateways)]
        self.places = {"pod": pod, "server": server}
        spaces.link((pod, "eth0", POD_MAC), (node, "p1", HOST_MAC))
        spaces.link((other, "eth0", OTHER_MAC), (node, "p2", HOST_MAC))
        spaces.link((node, "up", NODE_MAC), (wire, "node", bytes.fromhex("020000000401")))
        spaces.link((server, "eth0", SERVER_MAC), (wire, "server", bytes.fromhex("020000000403")))
        for place, mac in zip(gates, GATE_MACS, strict=False):
            far = mac[:-2] + bytes([9, mac[-1]])
            spaces.link((place, "up", mac), (wire, place.name[-5:], far))
        self._bridge(wire, "node", "server", *(place.name[-5:] for place in gates))
        for place in (pod, other, server):
            silence(place, "eth0")
        for number, place in enumerate((node, *gates)):
            self._host(spaces, place, number)
        pins = f"mgc{os.getpid()}n{next(self._numbers)}"
        self.hosts = [
            Host(place, endpoint, BPFFS / f"{pins}-{endpoint}".replace(".", "_"), stack)
            for place, endpoint in zip((node, *gates), (NODE, *GATES), strict=False)
        ]
        self.node, self.gate = self.hosts[:2]
        self._ends(stack, pod, other, server)
        self._attach()
        for host in self.hosts:
            self._rows(host)
        self.mode()

    @staticmethod
    def _bridge(wire: Path, *devices: str) -> None:
        run("ip", "-n", wire.name, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", wire.name, "link", "set", "br0", "up")
        for device in devices:
            run("ip", "-n", wire.name, "link", "set", "dev", device, "master", "br0")
            silence(wire, device)

    @staticmethod
    def _host(spaces: Namespaces, place: Path, number: int) -> None:
        """Addresses and routes of a node; the gateway's lead to the server."""
        spaces.set(place, "net/ipv4/ip_forward", "1")
        spaces.set(place, "net/ipv6/conf/all/forwarding", "1")
        vxlan = ("type", "vxlan", "external", "dstport", "8472", "nolearning", "noudpcsum")
        run("ip", "-n", place.name, "link", "add", "mg_vxlan", *vxlan)
        run("ip", "-n", place.name, "link", "set", "mg_vxlan", "up")
        for family in (4, 6):
            words = ("ip", f"-{family}", "-n", place.name)
            run(*words, "address", "add", FABRIC[family][number], "dev", "up", *nodad(family))
            run(*words, "route", "add", WORLD[family], "dev", "up", "mtu", str(PATH_MTU))
            run(*words, "route", "add", "unreachable", EGRESS[family])
        route_to_ends(
            place,
            {"up": (SERVER_MAC, {f: (*SERVER[f], HOP[f], EXCLUDED[f]) for f in SERVER})},
        )
        for family in (4, 6):
            for address in (*SERVER[family], HOP[family], EXCLUDED[family]):
                words = ("ip", f"-{family}", "-n", place.name)
                run(*words, "route", "replace", address, "dev", "up", "mtu", str(PATH_MTU))

    def _ends(self, stack: ExitStack, pod: Path, other: Path, server: Path) -> None:
        self.pod = End.open(pod, "eth0", HOST_MAC)
        self.other = End.open(other, "eth0", HOST_MAC)
        self.server = End.open(server, "eth0", GATE_MAC)
        for end in self.ends:
            stack.callback(end.close)

    def _attach(self) -> None:
        for device in ("p1", "p2"):
            self.node.attach("mg_from_pod", device)
            self.node.attach("mg_to_pod", device, ingress=False)
        for host in self.hosts:
            host.gather()
            host.attach("mg_from_uplink", "up")
            host.attach("mg_to_uplink", "up", ingress=False)
            host.attach("mg_from_vxlan", "mg_vxlan")
            host.attach("mg_to_vxlan", "mg_vxlan", ingress=False)

    def _rows(self, host: Host) -> None:
        """Nodes, pods, the gateway and the blocks, as each of the nodes knows them."""
        for number, endpoint in enumerate((NODE, *GATES)):
            for family in (4, 6):
                self._address(host, FABRIC[family][number].split("/")[0], 6, endpoint, 2)
            host.maps["mg_node"].update_one(
                endpoint.packed, {"next_hop": int(endpoint), "cluster": 1}
            )
        for number, addresses in enumerate((POD, OTHER)):
            for address in addresses.values():
                self._address(host, address, self._identity(number), NODE, 1)
        for family in (4, 6):
            self._cidr(host, POD_CIDR[family])
            self._egress(host, family)
        host.maps["mg_node"].delete_one(host.endpoint.packed)
        if host is self.node:
            self._pods()

    @staticmethod
    def _identity(number: int) -> int:
        return 1 << 16 | 0x100 + number

    @staticmethod
    def _address(host: Host, address: str, identity: int, node: IPv4Address, kind: int) -> None:
        value = {"identity": identity, "node": int(node), "kind": kind, "cluster": 1}
        key = encode_address(ip_address(address)) | {"zone": 0}
        host.maps["mg_address"].update_one(key, value)

    @staticmethod
    def _cidr(host: Host, cidr: str) -> None:
        bits, address = encode_prefix(ip_network(cidr))
        key = {"bits": PREFIX_BEFORE + bits, "addr": address}
        host.maps["mg_addr_cidr"].update_one(key, {"node": int(NODE), "cluster": 1})

    def _egress(self, host: Host, family: int) -> None:
        address = ip_address(EGRESS[family])
        gates = GATES[: len(self.hosts) - 1]
        host.maps["mg_egress_addr"].update_one(
            *rows.encode_egress_address(address, gates, GATEWAYS)
        )
        for gate in gates:
            row = GatewayRow(sends=True, accepts=True)
            host.maps["mg_gateway"].update_one(*rows.encode_gateway(GatewayKey(address, gate), row))
        for number in BLOCKS:
            key = {"address": encode_address(address), "number": number}
            host.maps["mg_block"].update_one(key, {"node": int(NODE), "epoch": 1})
        host.maps["mg_egress_pods"].update_one(*rows.encode_count(address, 2))

    def _pods(self) -> None:
        for number, (device, mac, addresses) in enumerate(
            (("p1", POD_MAC, POD), ("p2", OTHER_MAC, OTHER))
        ):
            row: dict[str, Any] = {
                "ifindex": self.node.ifindex(device),
                "identity": self._identity(number),
                "egress_class": CLASS,
                "mac": np.frombuffer(mac, "u1"),
                "host_mac": np.frombuffer(HOST_MAC, "u1"),
            }
            for address in addresses.values():
                key = encode_address(ip_address(address)) | {"zone": 0}
                self.node.maps["mg_pod_addr"].update_one(key, row)

    def mode(self, binding: Binding = Binding.NONE, *, runs: int = 0) -> None:
        """Write the rows of the policy: its mapping and filtering, a pod's quota."""
        self._binding, actions = binding, self.node.enum("egress_action")
        for family in (4, 6):
            address = ip_address(EGRESS[family])
            wanted = {
                WORLD[family]: EgressRow(Action.TRANSLATE, address, runs, 0, binding),
                EGRESS[family]: EgressRow(Action.TRANSLATE, address, runs, 0, binding),
                EXCLUDED[family]: EgressRow(Action.EXCLUDED),
            }
            for network, row in wanted.items():
                key = EgressKey(CLASS, ip_network(network))
                entry = rows.encode_egress(key, row, actions, PREFIX_BEFORE)
                self.node.maps["mg_egress"].update_one(*entry)
        self.narrow(None)

    def lifetime(self, kind: str) -> int | None:
        if kind == "udp" and self._binding:
            kind = "stream"  # a binding gives no port early
        return LIMITS[_LIMITS[kind]]

    def idle(self, seconds: int) -> bool:
        self.node.older(seconds)
        self.node.sweep()
        self.node.sweep()
        return True

    def narrow(self, ports: int | None) -> bool:
        if ports is not None:
            self.node.forget()
        blocks = BLOCKS if ports is None else BLOCKS[: ports // BLOCK_SIZE]
        for family in (4, 6):
            own = rows.encode_own_block(ip_address(EGRESS[family]), blocks)
            self.node.maps["mg_own_block"].update_one(*own)
        return True

    def quota(self, ports: int) -> bool:
        self.node.forget()
        self.mode(self._binding, runs=runs_of_quota(ports))
        return True
