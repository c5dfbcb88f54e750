"""Whether the fabric carries the overlay between this node and the others of its cluster.

A fabric that lets nodes reach each other and stops the overlay's UDP port would otherwise stay
silent: outer packets are no connection that could fail. So one node after the other is asked by an
echo, which goes as the overlay's packets go (``bpf/include/echo.h``). A node that does not answer
is asked again, with a ping beside it. Only where the ping is answered and the echo is not, the
overlay is what is stopped; a node that is off says nothing to either.

One node is asked in ``STEP_S``, whatever their number, and some that were silent besides. Of 5,000
nodes each is asked twice in six hours, and by all others once in two seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from ipaddress import IPv4Address
from itertools import islice
from typing import Any

from mesh.core.checksum import checksum
from mesh.core.feature import AgentFeature, Entry, Maps
from mesh.core.model import Finding, Node, NodeKey
from mesh.core.reconcile import Target
from mesh.core.table import ColumnTable, Table
from mesh.core.ticks import tick
from mesh.identity.addresses import KIND_POD, tunnel_endpoint
from mesh.nodes.findings import OVERLAY_STOPPED
from mesh.nodes.rows import NodeHop

log = logging.getLogger(__name__)

MAP = "mg_echo"
#: Seconds from one question to the next. An agent of before drops a question and counts the drop;
#: with one in two seconds of all together that is no finding there.
STEP_S = 2.0
#: Questions in a row without an answer, until a node counts as silent.
PATIENCE = 3
#: Silent nodes that are asked again in one step.
AGAIN = 4
#: Nodes that the finding names.
NAMED = 3
_FRAME = struct.Struct("!2s4s6sH46x")
_LOCAL = b"\x02\0"  # a locally administered address
_ICMP = struct.Struct("!BBHHH")
#: ICMP_ECHO and ICMP_ECHOREPLY of linux/icmp.h, and its option ICMP_FILTER of the level SOL_RAW.
_REQUEST, _REPLY, _FILTER, _SOL_RAW = 8, 0, 1, 255


class Round:
    """Whom to ask next, and who stays silent. Pure."""

    def __init__(self) -> None:
        self._order: deque[IPv4Address] = deque()
        self._missed: dict[IPv4Address, int] = {}

    @property
    def suspects(self) -> Collection[IPv4Address]:
        """Nodes that have not answered their last question: they get a ping beside the next."""
        return self._missed.keys()

    @property
    def silent(self) -> list[IPv4Address]:
        """Nodes that answer pings and no echoes."""
        return sorted(node for node, missed in self._missed.items() if missed >= PATIENCE)

    def due(self, known: Callable[[], Collection[IPv4Address]]) -> list[IPv4Address]:
        """Who is asked now: one of the round, and suspects, the longest unasked first.

        ``known`` are the nodes of the next round.
        """
        again = list(islice(self._missed, AGAIN))
        if not self._order:
            there = known()
            self._order.extend(sorted(there))
            self._missed = {node: n for node, n in self._missed.items() if node in there}
            again = [node for node in again if node in there]
        found = dict.fromkeys(again)
        if self._order:
            found[self._order.popleft()] = None
        return list(found)

    def note(
        self,
        asked: Iterable[IPv4Address],
        answered: Collection[IPv4Address],
        reached: Collection[IPv4Address],
    ) -> None:
        """What became of the last questions; ``reached`` are nodes that answered a ping."""
        for node in asked:
            missed = self._missed.pop(node, 0)
            if node not in answered and (not missed or node in reached):
                self._missed[node] = missed + 1


class Pings:
    """ICMP echo requests beside the overlay, without waiting for the answers."""

    def __init__(self) -> None:
        self._number = int.from_bytes(os.urandom(2), "big")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        all_but_replies = struct.pack("=I", ~(1 << _REPLY) & 0xFFFFFFFF)
        self._socket.setsockopt(_SOL_RAW, _FILTER, all_but_replies)
        self._socket.settimeout(0)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def send(self, node: IPv4Address) -> None:
        """Ask a node; raises OSError."""
        self._socket.sendto(request(self._number), (str(node), 0))

    def answered(self) -> set[IPv4Address]:
        """Who has answered since the last look."""
        found: set[IPv4Address] = set()
        while True:
            try:
                packet, (address, _) = self._socket.recvfrom(256)
            except BlockingIOError:
                return found
            header = (packet[0] & 15) * 4
            if packet[header + 4 : header + 6] == self._number.to_bytes(2, "big"):
                found.add(IPv4Address(address))


def request(number: int) -> bytes:
    """An ICMP echo request without data."""
    check = checksum(_ICMP.pack(_REQUEST, 0, 0, number, 1))
    return _ICMP.pack(_REQUEST, 0, check, number, 1)


def question(node: IPv4Address, protocol: int) -> bytes:
    """The frame that the program at the overlay's device takes for an echo to this node."""
    return _FRAME.pack(_LOCAL, node.packed, _LOCAL * 3, protocol)


class EchoAgent(AgentFeature):
    """Asks the nodes of ``hop`` that are of ``cluster``; ``address`` says which have pods.

    ``device`` and ``port`` are the overlay's.
    """

    def __init__(
        self,
        own: NodeKey,
        cluster: int,
        device: str,
        port: int,
        node: Table[NodeKey, Node],
        hop: Table[IPv4Address, NodeHop],
        address: ColumnTable,
    ) -> None:
        self._own, self._cluster, self._device, self._port = own, cluster, device, port
        self._node, self._hop, self._address = node, hop, address
        self.round = Round()
        self._target: Target[IPv4Address, int] | None = None
        self._protocol = 0

    async def recover(self, maps: Maps) -> None:
        self._target = maps.rows(MAP, encode_echo, decode_echo)
        self._protocol = maps.enum("echo_number")["ECHO_PROTOCOL"]
        await self._target.delete(await self._target.read())

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._ask_for_ever,)

    async def _ask_for_ever(self) -> None:
        pings = Pings()
        frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            while True:
                await self._step(pings, frames)
        finally:
            frames.close()
            pings.close()

    async def _step(self, pings: Pings, frames: socket.socket) -> None:
        """One question to each who is due, and what became of it."""
        if self._target is None:
            return
        asked = self.round.due(self._known)
        await self._target.upsert(dict.fromkeys(asked, 0))
        for node in asked:
            try:
                frames.sendto(question(node, self._protocol), (self._device, self._protocol))
                if node in self.round.suspects:
                    pings.send(node)
            except OSError as error:
                log.debug("event=no_echo node=%s reason=%s", node, error)
        await tick(STEP_S)
        seen = await self._target.read()
        await self._target.delete(seen)
        self.round.note(asked, {node for node, at in seen.items() if at}, pings.answered())

    def _known(self) -> Collection[IPv4Address]:
        """Other nodes of our cluster that the datapath knows."""
        return {node for node, row in self._hop.rows.items() if row.cluster == self._cluster}

    def findings(self) -> Iterator[Finding]:
        """Nodes with pods, to which the fabric does not carry the overlay."""
        silent = set(self.round.silent)
        if not silent:
            return
        _, rows = self._address.rows()
        with_pods = {IPv4Address(int(one)) for one in set(rows["node"][rows["kind"] == KIND_POD])}
        names = sorted(
            f"{key.name} ({endpoint})"
            for key, node in self._node.rows.items()
            if (endpoint := tunnel_endpoint(node)) in silent & with_pods
            and key.cluster == self._own.cluster
        )
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            text = (
                f"{', '.join(names[:NAMED])}{more}: a ping is answered, and packets to UDP port "
                f"{self._port} are not, so pods here and there do not reach each other; let "
                f"the fabric carry UDP port {self._port} between nodes, both ways"
            )
            place, about = f"{self._own.name}/agent", (f"node/{self._own.name}",)
            yield Finding(OVERLAY_STOPPED, place, "overlay", text, about)


def encode_echo(node: IPv4Address, answered: int) -> Entry:
    """Entry of ``mg_echo``."""
    return int(node), answered


def decode_echo(key: Any, value: Any) -> tuple[IPv4Address, int]:
    """Inverse of ``encode_echo``."""
    return IPv4Address(int(key)), int(value)
