"""The agent's part in the direct path of egress: echoes, and the kernel's word for each address.

    policies, gateways of addresses, own blocks, nodes -> direct ask
    direct ask  -> numbers -> mg_direct_echo, echoes -> answers by the datapath -> proofs
    proofs      -> mg_direct: until when packets of an address go straight

While the agent is dead its last word ends, and packets go by the gateways.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import Any

from gateway import direct
from gateway.direct import DirectAsk, Proof
from gateway.findings import DIRECT_CLOSED
from gateway.members import GatewayKey
from gateway.policy import EgressPolicy
from mesh.core.feature import AgentFeature, Maps
from mesh.core.model import IP, Finding, Node, NodeKey
from mesh.core.noun import Listing, Row
from mesh.core.reconcile import AppliedRows, Loop, Target
from mesh.core.table import Source, Table
from mesh.core.ticks import tick
from mesh.identity.addresses import tunnel_endpoint

log = logging.getLogger(__name__)

WITHOUT_ROW = "packets of the addresses that do not fit go by the gateways"
#: linux/in.h, linux/in6.h: a source that is no address of the host.
IP_PKTINFO, IPV6_FREEBIND = 8, 78


class DirectAgent(AgentFeature):
    """``down`` says which gateways do not answer over the overlay (``gateway/health.py``)."""

    def __init__(
        self,
        own: NodeKey,
        endpoint: IPv4Address,
        block_size: int,
        policies: Table[str, EgressPolicy],
        sets: Table[IP, tuple[IPv4Address, ...]],
        own_block: Table[IP, tuple[int, ...]],
        node: Table[NodeKey, Node],
        down: Callable[[], Collection[IPv4Address]],
    ) -> None:
        self._own, self._endpoint, self._block_size = own, endpoint, block_size
        self._policies, self._sets, self._own_block = policies, sets, own_block
        self._node, self._down = node, down
        self.ask: Table[GatewayKey, DirectAsk] = Table("direct ask")
        self.number: Table[GatewayKey, int] = Table("direct echo")
        self.until: Table[IP, int] = Table("direct path")
        self.proofs: dict[GatewayKey, Proof] = {}
        self._answers: Target[GatewayKey, int] | None = None
        self._asked: AppliedRows[GatewayKey, int] | None = None
        self._port = 0

    async def recover(self, maps: Maps) -> None:
        self._answers = maps.rows(direct.ECHO_MAP, direct.encode_echo, direct.decode_answer)
        self._port = maps.enum("direct_number")["DIRECT_PORT"]

    def derive(self, loop: Loop) -> None:
        inputs: list[Source] = [self._policies, self._sets, self._own_block, self._node]
        loop.derive(inputs, self._make, name="direct ask")

    def _make(self) -> None:
        """Of all addresses, when policies, gateways, own blocks or nodes change: few have it."""
        wanted = direct.wanted(self._policies.rows.values())
        nodes = self._node.rows.values() if wanted else ()
        blocks, size = self._own_block.rows, self._block_size
        self.ask.replace(direct.asks(wanted, self._sets.rows, blocks, nodes, self._endpoint, size))
        asked = {key.address for key in self.ask.rows}
        self.until.delete([address for address in self.until.rows if address not in asked])

    def apply(self, loop: Loop, maps: Maps) -> None:
        self._asked = loop.apply(
            self.number,
            maps.rows(direct.ECHO_MAP, direct.encode_echo, direct.decode_echo),
            capacity=maps.capacity(direct.ECHO_MAP),
            meaning=WITHOUT_ROW,
        )
        loop.apply(
            self.until,
            maps.rows(direct.MAP, direct.encode_direct, direct.decode_direct),
            capacity=maps.capacity(direct.MAP),
            meaning=WITHOUT_ROW,
        )

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._ask_for_ever,)

    async def _ask_for_ever(self) -> None:
        """Number, send, look, once in a round; the numbers are in the map before the echoes."""
        while True:
            self.number.replace({key: secrets.randbits(32) or 1 for key in self.ask.rows})
            await tick(direct.ANSWER_S)
            sent = self._send()
            await tick(direct.ANSWER_S)
            await self._look(sent)
            await tick(direct.ROUND_S - 2 * direct.ANSWER_S)

    def _send(self) -> dict[GatewayKey, int]:
        """Send the echoes whose numbers are in the map; their numbers."""
        asked, sent = self._asked, dict[GatewayKey, int]()
        rows = [
            (key, self.ask.rows[key], number)
            for key, number in self.number.rows.items()
            if key in self.ask.rows and asked is not None and asked.holds(key)
        ]
        if not rows:
            return sent
        with ExitStack() as stack:
            sockets = {4: _raw(stack, socket.AF_INET), 6: _raw(stack, socket.AF_INET6)}
            sockets[6].setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            for key, ask, number in rows:
                sent[key] = number
                self._send_one(sockets[key.address.version], key.address, ask, number)
        return sent

    def _send_one(self, raw: socket.socket, source: IP, ask: DirectAsk, number: int) -> None:
        """An echo that the host cannot send counts as one that nobody answers."""
        packet = direct.packet(source, ask.to, (ask.port, self._port), number)
        try:
            raw.sendmsg([packet], [_with_source(source)], 0, (str(ask.to), 0))
        except OSError as error:
            log.debug("event=no_direct_echo address=%s to=%s reason=%s", source, ask.to, error)

    async def _look(self, sent: Mapping[GatewayKey, int]) -> None:
        """Judge the echoes, and give the kernel the word for addresses that are proven."""
        answers = await self._answers.read() if self._answers is not None and sent else {}
        self.proofs = direct.judged(self.ask.rows, self.proofs, sent, answers)
        until = time.monotonic_ns() + int(direct.WORD_S * 1e9)
        addresses = direct.open_addresses(self.ask.rows, self.proofs, self._down())
        self.until.replace(dict.fromkeys(addresses, until))

    # What others see

    def listings(self) -> Mapping[str, Listing]:
        return {"direct-path": self.rows}

    def rows(self) -> list[Row]:
        """``meshgate direct-path list``: addresses that want the direct path, and how they go."""
        now = time.monotonic_ns()
        silent, names = self._silent(), self._names()
        return [
            {
                "cluster": self._own.cluster,
                "node": self._own.name,
                "address": str(address),
                "path": "direct" if self.until.rows.get(address, 0) > now else "gateway",
                "silent": [names.get(one, str(one)) for one in silent.get(address, ())],
            }
            for address in sorted({key.address for key in self.ask.rows}, key=str)
        ]

    def _silent(self) -> dict[IP, list[IPv4Address]]:
        found: dict[IP, list[IPv4Address]] = {}
        for key in direct.unproven(self.ask.rows, self.proofs, self._down()):
            found.setdefault(key.address, []).append(key.node)
        return found

    def _names(self) -> dict[IPv4Address, str]:
        """The gateways that are asked, by name."""
        asked = {key.node for key in self.ask.rows}
        return {
            endpoint: node.name
            for node in (self._node.rows.values() if asked else ())
            if (endpoint := tunnel_endpoint(node)) in asked and endpoint
        }

    def findings(self) -> Iterator[Finding]:
        """Addresses whose packets go by the gateways although their policies say otherwise."""
        node, names = self._own.name, self._names()
        for address, gateways in self._silent().items():
            whom = ", ".join(f"{names.get(one, 'a gateway')} ({one})" for one in gateways)
            text = (
                f"{whom} has not answered the last {direct.MISSED} echoes that {node} has sent "
                f"straight to it with {address}: {node}'s packets with it go by the gateways"
            )
            about = (f"node/{node}", f"address/{address}")
            yield Finding(DIRECT_CLOSED, f"{node}/agent", f"direct {address}", text, about)


def _raw(stack: ExitStack, family: int) -> socket.socket:
    """A socket for whole IP packets."""
    return stack.enter_context(socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))


def _with_source(source: IP) -> tuple[int, int, bytes]:
    """Ancillary data: the source by which the kernel chooses the route."""
    if source.version == 4:
        return socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 0, source.packed, bytes(4))
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source.packed + struct.pack("=i", 0)
