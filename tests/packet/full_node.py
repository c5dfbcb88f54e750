"""A node with small maps that the rooms of the agent fill, as they do on a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from mesh.core.address import column
from mesh.core.feature import Maps
from mesh.core.model import IP, Network
from mesh.core.sources import Remote
from mesh.core.table import Source, Table
from mesh.datapath.maps import PinnedMaps
from mesh.datapath.programs import Datapath
from mesh.identity.addresses import KIND_NODE, KIND_POD, VALUE
from mesh.identity.agent import IdentityAgent, address_table
from mesh.nodes.agent import NodesAgent
from mesh.nodes.rows import NodeHop, PodCIDR
from mesh.nodes.uplink import Facts
from tests.fixtures.rooms import ENDPOINT, OWN, Rooms, policy
from tests.packet.nodes import TABLES, Got, Node
from tests.packet.packets import TCP, UDP, Echo, Other, Overlay, Packet, Transport

CLUSTERS = {"east": 1, "west": 2}
GATEWAY = "10.99.0.13"
TRANSLATED, PLAIN = "TRANSLATED", "PLAIN"
#: The maps that the rooms fill.
FILLED = (
    "mg_address", "mg_addr_cidr", "mg_node", "mg_pod_addr", "mg_egress", "mg_egress_addr",
    "mg_gateway", "mg_block", "mg_own_block",
)  # fmt: skip
#: What a pod may try, and what is never translated.
TRANSPORTS: tuple[Transport, ...] = (
    UDP(5000, 53), TCP(40000, 443, "S"), TCP(40001, 443, "A"), Echo(7), Other(132),
)  # fmt: skip


class SmallNode(Node):
    """Its maps are empty: the rooms fill them."""

    def reset(self) -> None:
        for name in (*FILLED, *TABLES):
            self.clear(name)
        for table in range(self.maps["mg_used"].max_entries):
            self.maps["mg_used"].update_one(table, {"held": 0})
        self.ring.drain()
        self.counts = self.drop_counts()


class Loaded:
    """What ``PinnedMaps`` asks of a datapath, from the programs of a test."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def map(self, name: str) -> Any:
        return self._node.maps[name]

    def enum(self, name: str) -> Any:
        return self._node.objects[0].btf.enum(name)

    def struct(self, name: str) -> Any:
        for one in self._node.objects:
            with suppress(KeyError):
                return one.btf.struct(name)
        raise KeyError(name)

    def program(self, name: str) -> int:
        return self._node.programs[name]


class FullRooms(Rooms):
    """Egress, pods, identity and nodes over the maps of ``node``."""

    def __init__(self, node: Node, state: Path) -> None:
        super().__init__(state, ip_network("10.1.0.0/24"), ip_network("fd01::/64"))
        self.node = node
        self._runner = asyncio.Runner()
        ids: Table[str, int] = Table("cluster id")
        ids.replace(CLUSTERS)
        hosts: Table[str, bool] = Table("contract with hosts")
        hosts.mark_synced()
        ports: Table[str, int] = Table("port")
        ports.replace(dict.fromkeys(CLUSTERS, 8472))
        tables = SimpleNamespace(
            ids=ids, hosts=hosts, ports=ports, nodes=Table("n"), complete=Source("all")
        )
        remote = cast(Remote, tables)
        self.identity = IdentityAgent(
            OWN, 1, address_table(), self.objects, self.store, remote, Table("node")
        )
        self.nodes = NodesAgent(
            OWN,
            "dpwup",
            Facts(1, 1500, ENDPOINT),
            self.objects,
            self.store,
            remote,
            Table("locator"),
        )
        for source in (
            self.identity.address, self.nodes.hop, self.nodes.pod_cidr, self.nodes.ports
        ):  # fmt: skip
            source.mark_synced()
        self.put_node("east-1", str(ENDPOINT), "own")
        self.put_node("gateway", GATEWAY, "gateway")

    def apply(self, maps: Maps) -> None:
        self.identity.apply(self.loop, maps)
        self.nodes.apply(self.loop, maps)
        super().apply(maps)

    # What there is

    def put_address(self, text: str, kind: int, cluster: str, node: str) -> None:
        identity = 6 if kind == KIND_NODE else CLUSTERS[cluster] << 16 | 1
        row = (identity, int(IPv4Address(node)), kind, CLUSTERS[cluster], 0)
        self.identity.address.upsert(column([ip_address(text)]), np.array([row], VALUE))

    def put_cidr(self, network: Network, cluster: str, node: str) -> None:
        row = PodCIDR(IPv4Address(node), CLUSTERS[cluster])
        self.nodes.pod_cidr.upsert({network: row})

    def put_hop(self, node: str, cluster: str) -> None:
        self.nodes.hop.upsert({IPv4Address(node): NodeHop(IPv4Address(node), CLUSTERS[cluster])})

    def put_covered(self, count: int, gateway: str, *networks: Network) -> None:
        """Pods, each with a policy, egress addresses and a port block of its own."""
        for number in range(1, count + 1):
            made = policy(f"p{number}", [f"app{number}"], 1, gateway)
            self.put_policy(replace(made, destinations=networks) if networks else made)
            for address in made.addresses:
                self.put_block(str(address), number, OWN.name)
            self.put_pod(f"pod{number}", f"app{number}", self.node.devices["dpw0"])

    def put_addresses_of_pods(self) -> None:
        for pod in self.pods.local_pod.rows.values():
            for address in pod.addresses:
                self.put_address(str(address), KIND_POD, "east", str(ENDPOINT))

    def begin(self) -> None:
        """As an agent starts, until it is calm."""
        datapath = cast(Datapath, Loaded(self.node))
        self._runner.run(self.connect(PinnedMaps(datapath)))
        self.settle()

    def settle(self) -> None:
        """Derive and apply until every map has what it has room for."""
        self._runner.run(self._settle())

    def close(self) -> None:
        self._runner.close()

    async def _settle(self) -> None:
        running = asyncio.create_task(self.loop.run())
        calm = asyncio.create_task(self._calm())
        await asyncio.wait([running, calm], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await calm

    async def _calm(self) -> None:
        quiet = 0
        async with asyncio.timeout(20):
            while quiet < 5:
                await asyncio.sleep(0.01)
                calm = self.loop.gate.open and all(one.current for one in self.loop.applied)
                quiet = quiet + 1 if calm else 0

    @property
    def full(self) -> dict[str, tuple[int, int]]:
        """Demand and capacity of the tables that do not fit."""
        reports = (one.report.full for one in self.loop.applied)
        return {full.map: (full.demand, full.capacity) for full in reports if full}

    # What packets find

    def sources(self, family: int) -> Iterable[tuple[int, IP]]:
        """Number and address of each pod."""
        for key, pod in self.pods.local_pod.rows.items():
            (address,) = (one for one in pod.addresses if one.version == family)
            yield int(key.name.removeprefix("pod")), address

    def send(self, source: IP, to: str, l4: Transport) -> str:
        """What became of a pod's packet: a drop's reason, or whose source it left with."""
        packet = Packet(str(source), to, l4, b"question")
        got = self.node.run("mg_from_pod", packet, ifindex=self.node.devices["dpw0"])
        return outcome(got, packet)


def outcome(got: Got, sent: Packet) -> str:
    if got.dropped:
        (reason,) = got.dropped
        return reason
    out = got.packet
    if isinstance(out.l4, UDP) and out.l4.destination == 8472:
        out = Overlay.read(got.wire).inner
    return PLAIN if out.source == sent.source else TRANSLATED


def covered_by(number: int, family: int) -> str:
    """A destination that the policy of a pod covers."""
    return f"192.{number}.0.9" if family == 4 else f"2001:db8:2:{number}::9"
