"""A node of ours: the programs loaded and attached as the agent does it, rows as it writes them."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from types import MappingProxyType

import numpy as np

from bpf import netns
from bpf.ring import Ring
from gateway import maps as egress_maps
from gateway.direct import encode_direct
from gateway.members import GatewayKey, GatewayRow
from gateway.rows import Action, EgressKey, EgressRow
from mesh.core.address import bits_before, encode_address
from mesh.core.feature import Entry
from mesh.datapath.hooks import VXLAN_DEVICE, VXLAN_PORT
from mesh.datapath.programs import Datapath
from mesh.identity.addresses import KIND_NODE, KIND_POD
from mesh.nodes.maps import encode_node
from mesh.nodes.rows import NodeHop
from mesh.pods.maps import encode_pod
from mesh.pods.rows import LocalPod
from tests.bench.network import (
    EGRESS,
    FAR_POD,
    LOCATORS,
    MACS,
    NODE_A,
    NODE_B,
    OTHER_POD,
    POD,
    SIDS,
    WORLD,
    Network,
)

BLOCK_SIZE = 256
#: Port blocks of node a: 1024 ports for each remote.
BLOCKS = (3, 4, 5, 6)
IDENTITY_A, IDENTITY_B, IDENTITY_OTHER = 0x10001, 0x10002, 0x10003
_CLASS = 1
_VRF = 7
NO_SIZES: Mapping[str, int] = MappingProxyType({})


class Node:
    """Programs and maps of node ``a`` or ``b``."""

    def __init__(
        self, net: Network, letter: str, sizes: Mapping[str, int] = NO_SIZES, *, xdp: bool = False
    ) -> None:
        self._net, self._letter, self._xdp = net, letter, xdp
        self._own = NODE_A if letter == "a" else NODE_B
        self.directory = net.lab.bpffs(letter)
        self.cgroup = net.lab.host(letter).cgroup
        self.datapath = Datapath(self.directory, None, sizes)

    def start(self) -> None:
        """Load and attach; rows of both nodes and both pods."""
        net, uplink = self._net, f"{self._letter}1"
        self.cgroup.mkdir(parents=True, exist_ok=True)
        device = f"{VXLAN_DEVICE} type vxlan external dstport {VXLAN_PORT} noudpcsum nolearning"
        net.ip(self._letter, f"link add {device}", f"link set {VXLAN_DEVICE} up")
        with netns.enter(net.space(self._letter)):
            self.datapath.start(self._settings(uplink))
            self.datapath.attach(uplink, self.cgroup)
            if self._xdp:
                self.datapath.attach_xdp(uplink)
        self.ring = Ring(self.datapath.map("mg_event"), self.datapath.struct("event"))
        self._mesh()

    def stop(self) -> None:
        """Detach everything by removing its pins."""
        self.datapath.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pod(self, *, covered: bool = False) -> None:
        """Programs and rows of the pod behind this node's first device."""
        near = self._letter == "a"
        with netns.enter(self._net.space(self._letter)):
            self.datapath.pod(f"{self._letter}0")
        row = LocalPod(
            self.ifindex(f"{self._letter}0"),
            IDENTITY_A if near else IDENTITY_B,
            MACS["p0" if near else "x0"],
            MACS["a0" if near else "b0"],
            (("egress_class", _CLASS if covered else 0),),
        )
        for text in (POD if near else FAR_POD).values():
            self._put("mg_pod_addr", encode_pod(ip_address(text), row))
        self._row = row

    def other_pod(self) -> None:
        """Another pod of node ``a``, covered as the first one is."""
        own = {"identity": IDENTITY_OTHER, "node": int(IPv4Address(NODE_A[4])), "kind": KIND_POD}
        for text in OTHER_POD.values():
            row = replace(self._row, identity=IDENTITY_OTHER)
            self._put("mg_pod_addr", encode_pod(ip_address(text), row))
            self._put("mg_address", (encode_address(ip_address(text)), own | {"cluster": 1}))
        for text in EGRESS.values():
            self._put("mg_egress_pods", (encode_address(ip_address(text)), np.uint32(2).tobytes()))

    def tenant(self) -> None:
        """The pod is in a VRF by its address; the other node's pod is behind that one's SIDs."""
        near = self._letter == "a"
        device = f"{self._letter}0"
        with netns.enter(self._net.space(self._letter)):
            self.datapath.pod(device)
        row = {
            "ifindex": self.ifindex(device),
            "identity": IDENTITY_A if near else IDENTITY_B,
            "mac": list(bytes.fromhex(MACS["p0" if near else "x0"].replace(":", ""))),
            "host_mac": list(bytes.fromhex(MACS["a0" if near else "b0"].replace(":", ""))),
            "vrf": _VRF,
        }
        for text in (POD if near else FAR_POD).values():
            key = encode_address(ip_address(text)) | {"zone": _VRF}
            self._put("mg_vrf_pod", (key, row))
        self._put("mg_device", (row["ifindex"], {"mac": row["mac"]}))
        self._put("mg_vrf_link", (row["ifindex"], {"vrf": _VRF, "flags": 1}))
        self._put("mg_srv6_domain", (_prefix(f"{(NODE_B if near else NODE_A)[6]}/128"), {}))

    def vrf_routes(self) -> None:
        """Routes to the other node's pod, by that node's SIDs."""
        near = self._letter == "a"
        for version, sid in SIDS["b" if near else "a"].items():
            nowhere = [encode_address(IPv6Address(0))] * 7
            path = {
                "segment": [encode_address(ip_address(sid)), *nowhere],
                "source": encode_address(ip_address(self._own[6])),
                "segments": 1,
            }
            self._put("mg_vrf_via", (version, path))
            to = (FAR_POD if near else POD)[version]
            route = {"via": [version, 0, 0, 0], "paths": 1, "bits": 128, "identity": IDENTITY_B}
            self._put("mg_vrf_host", (encode_address(ip_address(to)) | {"zone": _VRF}, route))

    def sids(self) -> None:
        """The SIDs of the VRF on this node."""
        lengths = {"block": 32, "node": 16, "function": 16, "argument": 0}
        self._put("mg_sid_locator", (_prefix(LOCATORS[self._letter]), lengths))
        behaviours = self.datapath.enum("sid_behaviour")
        for version, sid in SIDS[self._letter].items():
            row = lengths | {"vrf": _VRF, "behaviour": behaviours[f"SID_END_DT{version}"]}
            self._put("mg_sid", (encode_address(ip_address(sid)), row))

    def egress(self, gateway: Mapping[int, str]) -> None:
        """The world is covered; node ``a`` owns port blocks of the gateway's addresses."""
        owner = IPv4Address(NODE_A[4])
        for version, text in EGRESS.items():
            address = ip_address(text)
            covered = ip_network((WORLD[version], 24 if version == 4 else 64), strict=False)
            key = EgressKey(_CLASS, covered)
            row = EgressRow(Action.TRANSLATE, address)
            self._put(
                "mg_egress",
                egress_maps.encode_egress(
                    key,
                    row,
                    self.datapath.enum("egress_action"),
                    bits_before(self.datapath.struct("egress_key")),
                ),
            )
            node = IPv4Address(gateway[4])
            most = self.datapath.enum("gateway_limit")["GATEWAYS"]
            self._put("mg_egress_addr", egress_maps.encode_egress_address(address, (node,), most))
            is_one = GatewayRow(sends=True, accepts=True)
            self._put("mg_gateway", egress_maps.encode_gateway(GatewayKey(address, node), is_one))
            for number in BLOCKS:
                name = {"address": encode_address(address), "number": number}
                self._put("mg_block", (name, {"node": int(owner), "epoch": 1}))
            if self._letter == "a":
                self._put("mg_own_block", egress_maps.encode_own_block(address, BLOCKS))

    def direct(self) -> None:
        """What has an egress address goes straight, for a day."""
        until = time.monotonic_ns() + 86_400 * 10**9
        for text in EGRESS.values():
            self._put("mg_direct", encode_direct(ip_address(text), until))

    def ifindex(self, device: str) -> int:
        """Number of a device of this node."""
        with netns.enter(self._net.space(self._letter)):
            return socket.if_nametoindex(device)

    def _settings(self, uplink: str) -> dict[str, object]:
        return {
            "node": int(IPv4Address(self._own[4])),
            "uplink": socket.if_nametoindex(uplink),
            "vxlan": socket.if_nametoindex(VXLAN_DEVICE),
            "cluster": 1,
            "cluster_shift": 16,
            "uplink_mtu": 1500,
            "block_size": BLOCK_SIZE,
            "blocks_per_node": len(BLOCKS),
            "drop_events": 50,
            "event_share": 512,
            "drop_share": 128,
            "icmp_errors": 1000,
            "permutation_key": 0x5DEECE66D,
            "xdp": int(self._xdp),
        }

    def _mesh(self) -> None:
        for node, pod, identity in ((NODE_A, POD, IDENTITY_A), (NODE_B, FAR_POD, IDENTITY_B)):
            endpoint = IPv4Address(node[4])
            if node is not self._own:
                self._put("mg_node", encode_node(endpoint, NodeHop(endpoint, 1)))
            for addresses, kind, number in ((node, KIND_NODE, 6), (pod, KIND_POD, identity)):
                row = {"identity": number, "node": int(endpoint), "kind": kind, "cluster": 1}
                for text in addresses.values():
                    self._put("mg_address", (encode_address(ip_address(text)), row))

    def _put(self, name: str, entry: Entry) -> None:
        self.datapath.map(name).update_one(*entry)


@contextmanager
def nodes(
    net: Network, letters: str, sizes: Mapping[str, int] = NO_SIZES, *, xdp: bool = False
) -> Iterator[dict[str, Node]]:
    """Nodes with their pods, started; gone at the end. ``sizes`` are those of maps."""
    made = {letter: Node(net, letter, sizes, xdp=xdp) for letter in letters}
    try:
        for node in made.values():
            node.start()
        yield made
    finally:
        for node in made.values():
            node.stop()


def _prefix(text: str) -> dict[str, object]:
    network = ip_network(text)
    return {"bits": network.prefixlen, "addr": encode_address(network.network_address)}


def drain(made: dict[str, Node]) -> Callable[[], None]:
    """Reads the nodes' events, as agents do."""

    def read() -> None:
        for node in made.values():
            node.ring.drain()

    return read
