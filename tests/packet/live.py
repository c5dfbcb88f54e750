"""A node whose programs run behind real links, so that a migration swaps what packets meet.

``Live.run`` hands a packet to the program that the link of its device runs at that moment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bpf import links, netns
from bpf.maps import Map
from bpf.migrate import Declared
from bpf.object import Generation, Object
from bpf.sys import Command, attr, bpf, open_pinned
from bpf.testrun import run
from mesh.datapath import migrate
from mesh.datapath.migrate import Migration
from mesh.datapath.programs import OBJECTS, Datapath
from mesh.datapath.settings import Size
from tests.packet.nodes import BLOCK_SIZE, LEGACY, PLANS, Got, Node
from tests.packet.packets import TCP, UDP, Overlay, Packet

GATEWAY, NODE = "10.99.0.13", "10.99.0.11"
POD, WEB = PLANS["a"].pods["client"], PLANS["a"].pods["web"]
FAR = PLANS["b"].pods["web"]
#: Link, device, program, ingress.
LINKS = (
    ("uplink", "dpwup", "mg_from_uplink", True),
    ("dpw0_in", "dpw0", "mg_from_pod", True),
    ("dpw1_in", "dpw1", "mg_from_pod", True),
    ("dpw0_out", "dpw0", "mg_to_pod", False),
    ("dpw1_out", "dpw1", "mg_to_pod", False),
)


class Live(Node):
    """Node a below ``directory``; ``start`` makes it run a build."""

    def __init__(self, space: Path, directory: Path) -> None:
        self.plan, self.space, self.directory = PLANS["a"], space, directory
        self.devices = {device: self._ifindex(device) for device in ("dpw0", "dpw1", "dpwup")}
        self.maps: dict[str, Map] = {}
        self._stack, self._opened = ExitStack(), ExitStack()
        self.adopted = False

    @property
    def settings(self) -> dict[str, object]:
        return {
            "node": int(IPv4Address(self.plan.endpoint)),
            "uplink": self.devices["dpwup"],
            "vxlan": self.devices["dpwup"],
            "cluster": 1,
            "cluster_shift": 16,
            "uplink_mtu": 1500,
            "block_size": BLOCK_SIZE,
            "drop_events": 1000,
            "icmp_errors": 1000,
            "permutation_key": 0x1234567890ABCDEF,
        }

    def start(self, objects: Path, declared: Declared = (), limits: Iterable[Size] = ()) -> None:
        """What an agent does with its datapath at its start; ``limits`` is of its configuration."""
        sizes = {size.map: size.entries for size in limits}
        datapath = Datapath(self.directory, objects, sizes)
        datapath.start(self.settings, declared)
        self.adopted = datapath.adopted
        self.reasons = {number: name for name, number in datapath.enum("drop_reason").items()}
        with netns.enter(self.space):
            for name, device, program, ingress in LINKS:
                path = self.directory / "links" / name
                links.tcx(datapath.program(program), device, path, ingress=ingress)
        Generation.write(self.directory, datapath.digest)
        datapath.close()
        self.look()

    def begin(self, objects: Path, declared: Declared = ()) -> Migration:
        """Load another build beside the one that runs."""
        place = migrate.Place(self.directory, BLOCK_SIZE, declared)
        paths = [objects / f"{name}.o" for name in OBJECTS]
        opened = [Object.open(path) for path in paths if path.exists()]
        for one in opened:
            if "cfg" in one.btf.section(".rodata"):
                one.set_config("cfg", self.settings)
            one.pin(self.directory)
            self._opened.callback(one.close)
        digest = hashlib.sha256(b"".join(one.digest() for one in opened)).digest()
        migration = migrate.begin(place, opened, digest)
        assert migration is not None
        self._opened.callback(migration.close)
        return migration

    def look(self) -> None:
        """Open the maps that have the usual names now."""
        self.close()
        for path in self.directory.iterdir():
            if path.is_file():
                self.maps[path.name] = self._stack.enter_context(Map.open_pinned(path))
        self.counts = self.drop_counts()

    def close(self) -> None:
        self._stack.close()
        self._opened.close()
        self.maps = {}

    def reset(self) -> None:
        """The rows of the picture in ``nodes``."""
        self.rows_of_nodes()
        self._rows_of_pods()
        self.rows_of_egress()

    def run(self, program: str, packet: Packet | Overlay | bytes, **ctx: object) -> Got:
        wire = packet if isinstance(packet, bytes) else packet.wire()
        device = next(d for d, index in self.devices.items() if index == ctx["ifindex"])
        link = next(name for name, at, what, _ in LINKS if (at, what) == (device, program))
        before = self.counts
        result = run(self._program_behind(link), wire, ctx=ctx)
        after = self.counts = self.drop_counts()
        dropped = {
            self.reasons[i].removeprefix("DROP_"): int(n) for i, n in enumerate(after - before) if n
        }
        return Got(result.verdict, result.packet_out, dropped, [])

    def _program_behind(self, link: str) -> int:
        """A descriptor of what a link runs; closed by ``look`` or ``close``."""
        number = links.program_id(self.directory / "links" / link)
        fd = bpf(Command.PROG_GET_FD_BY_ID, attr("I", number))
        self._stack.callback(os.close, fd)
        return fd

    @contextmanager
    def pinned_program(self, path: Path) -> Iterator[int]:
        """A descriptor of a pinned program."""
        fd = open_pinned(path)
        try:
            yield fd
        finally:
            os.close(fd)

    def mappings(self, place: Path) -> dict[tuple[str, ...], tuple[str, int, int]]:
        """Live and closed mappings of a directory: key -> pod, pod's port, closed."""
        found: dict[tuple[str, ...], tuple[str, int, int]] = {}
        for name in ("mg_nat_v4", "mg_nat_v6"):
            with Map.open_pinned(place / name) as map_:
                keys, values = map_.dump()
            for key, value in zip(keys, values, strict=True):
                names = ("source", "destination", "source_port", "destination_port", "protocol")
                tuple_ = tuple(key[each].tobytes().hex() for each in names)
                pod = value["pod"].tobytes().hex()
                found[tuple_] = (pod, int(value["pod_port"]), int(value["closed"]))
        return found

    def stolen(self) -> list[str]:
        """Ports that live in both generations with different pods."""
        fresh = self.directory / migrate.NEXT
        if not (fresh / "mg_nat_v4").exists():
            return []
        old, new = self.mappings(self.directory), self.mappings(fresh)
        return [
            f"{key}: {old[key]} and {new[key]}"
            for key in old.keys() & new.keys()
            if old[key][:2] != new[key][:2] and not old[key][2] and not new[key][2]
        ]


@dataclass
class Flow:
    """A translated connection of pod client, as its two ends see it."""

    node: Live
    family: int
    port: int
    tcp: bool = False
    translated: int = 0

    def _l4(self, source: int, destination: int, flags: str) -> TCP | UDP:
        return TCP(source, destination, flags) if self.tcp else UDP(source, destination)

    def send(self, flags: str = "A") -> None:
        """A packet of the pod leaves by the port that the connection has had so far."""
        packet = Packet(POD[self.family], LEGACY[self.family], self._l4(self.port, 443, flags))
        got = self.node.from_pod("client", packet)
        assert got.dropped == {}, (got.dropped, self, flags)
        l4 = got.overlay.inner.l4
        assert isinstance(l4, TCP | UDP)
        assert not self.translated or l4.source == self.translated, (self, l4.source)
        self.translated = l4.source

    def answer(self, flags: str = "A") -> None:
        """A packet from outside arrives at the pod's port."""
        seen = Packet(EGRESS_OF[self.family], LEGACY[self.family], UDP(self.translated, 443))
        reply = seen.reply(self._l4(443, self.translated, flags))
        got = self.node.from_uplink(Overlay(GATEWAY, NODE, 2, reply))
        assert got.dropped == {}, (got.dropped, self, flags)
        packet = got.packet
        assert packet.destination == POD[self.family]
        assert isinstance(packet.l4, TCP | UDP)
        assert packet.l4.destination == self.port, (self, packet.l4)

    def open(self) -> Flow:
        """Question and answer, or a handshake."""
        self.translated = 0
        self.send("S" if self.tcp else "A")
        self.answer("SA" if self.tcp else "A")
        self.send()
        return self

    def go_on(self) -> None:
        """One packet each way."""
        self.send()
        self.answer()

    def end(self) -> None:
        """TCP closes, both ways."""
        self.send("FA")
        self.answer("FA")
        self.send()


@dataclass
class Plain:
    """A connection from a pod of another node to pod web."""

    node: Live
    family: int
    port: int

    def ask(self, flags: str = "A") -> None:
        packet = Packet(FAR[self.family], WEB[self.family], TCP(self.port, 80, flags))
        got = self.node.from_uplink(Overlay("10.99.0.12", NODE, FAR.identity, packet))
        assert got.dropped == {}, (got.dropped, self, flags)
        assert got.packet.l4 == packet.l4

    def answer(self, flags: str = "A") -> None:
        packet = Packet(WEB[self.family], FAR[self.family], TCP(80, self.port, flags))
        got = self.node.from_pod("web", packet)
        assert got.dropped == {}, (got.dropped, self, flags)
        assert got.overlay.inner.l4 == packet.l4

    def open(self) -> Plain:
        self.ask("S")
        self.answer("SA")
        return self

    def go_on(self) -> None:
        self.ask()
        self.answer()


EGRESS_OF: Mapping[int, Any] = {4: "198.51.100.10", 6: "2001:db8:100::10"}
