"""The health of gateways, as this node sees it.

    gateways of egress addresses -> gateway live -> mg_gw_live
    mg_gw_live                   -> rows of ``egress`` and ``gateway``, findings

The datapath finds out by itself, from the packets that go to a gateway. The agent sends probes only
where there are none, so it may be dead, and says what is in the map.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any

from gateway import live
from gateway.findings import GATEWAY_SILENT, NONE_ANSWERS
from gateway.live import UNKNOWN, Live, LiveState
from gateway.nouns import gateway_view
from mesh.core.feature import AgentFeature, Maps
from mesh.core.model import IP, Finding, Node, NodeKey
from mesh.core.noun import Listing, Row
from mesh.core.reconcile import Loop, Target
from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.identity.addresses import tunnel_endpoint

log = logging.getLogger(__name__)

GOES_BY = "packets go by the other gateways of its addresses"
#: Of a gateway that has never answered (``bpf/include/live.h``).
LAST_RESORT = (
    "Where none of them answers it gets packets all the same, as its version may know no probes"
)
#: Seconds between probes of a gateway to which no packets go, and of one that has not answered.
PAUSE_S, AGAIN_S = 1.0, 0.2
_FRAME = struct.Struct("!2s4s6sHB45x")
_LOCAL = b"\x02\0"  # a locally administered address


def frame(gateway: IPv4Address, protocol: int, kind: int) -> bytes:
    """What the program at the overlay's device makes a probe of."""
    return _FRAME.pack(_LOCAL, gateway.packed, _LOCAL * 3, protocol, kind)


class GatewayHealth(AgentFeature):
    """Judges the gateways of ``sets`` but ``endpoint``, which is this node's.

    ``device`` is the overlay's, ``node`` has the nodes of the cluster.
    """

    def __init__(
        self,
        own: NodeKey,
        endpoint: IPv4Address,
        device: str,
        sets: Table[IP, tuple[IPv4Address, ...]],
        node: Table[NodeKey, Node],
    ) -> None:
        self._own, self._endpoint, self._device = own, endpoint, device
        self._sets, self._node = sets, node
        self.live: Table[IPv4Address, None] = Table("gateway live")
        self.seen: Mapping[IPv4Address, Live] = {}
        self._read: Target[IPv4Address, Live] | None = None
        self._protocol = self._kind = 0

    async def recover(self, maps: Maps) -> None:
        self._read = maps.rows(live.MAP, live.encode_new, live.decode_live)
        self._protocol = maps.enum("echo_number")["ECHO_PROTOCOL"]
        self._kind = maps.enum("echo_kind")["ECHO_PROBE"]

    def derive(self, loop: Loop) -> None:
        loop.derive([self._sets], self._make, name="gateway live")

    def _make(self) -> None:
        """Of all addresses: they have few gateways."""
        self.live.replace(live.others(self._sets.rows, self._endpoint))

    def apply(self, loop: Loop, maps: Maps) -> None:
        target = maps.rows(live.MAP, live.encode_new, live.decode_key)
        loop.apply(self.live, target, capacity=maps.capacity(live.MAP))

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self._ask_for_ever,)

    async def _ask_for_ever(self) -> None:
        frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            while True:
                waits = await self._step(frames)
                await tick(AGAIN_S if waits else PAUSE_S)
        finally:
            frames.close()

    async def _step(self, frames: socket.socket) -> bool:
        """Probe whom nothing has probed; whether one of them is worth asking again soon."""
        if self._read is None or not self.live.rows:
            return False
        found = await self._read.read()
        self.seen = {one: row for one, row in found.items() if one in self.live.rows}
        for gateway in live.due(self.seen, time.monotonic_ns(), int(PAUSE_S * 0.9e9)):
            try:
                one = frame(gateway, self._protocol, self._kind)
                frames.sendto(one, (self._device, self._protocol))
            except OSError as error:
                log.debug("event=no_probe gateway=%s reason=%s", gateway, error)
        return any(row.waits for row in self.seen.values())

    def down(self) -> set[IPv4Address]:
        """The gateways that do not answer."""
        return live.down_of(self.seen)

    # What others see

    def columns(self, nodes: Iterable[Node]) -> Row:
        """The column ``gateways`` of ``egress list``; ``since`` is in seconds of the epoch."""
        return {"gateways": [self._of(node) for node in nodes]}

    def _of(self, node: Node) -> Row:
        endpoint = tunnel_endpoint(node)
        row = self.seen.get(endpoint, UNKNOWN) if endpoint else UNKNOWN
        since = _epoch(row.since_ns)
        return gateway_view(node.name, self._own.name, since, healthy=row.healthy)

    def listings(self) -> Mapping[str, Listing]:
        return {"gateway": self.rows}

    def rows(self) -> list[Row]:
        """``meshgate gateway list``: this node's view."""
        names = self._names()
        return [
            {
                "cluster": self._own.cluster,
                "node": self._own.name,
                "gateway": names.get(gateway, str(gateway)),
                "healthy": row.healthy,
                "since": _epoch(row.since_ns),
                "answers": f"{row.took_us / 1000:g} ms" if row.took_us else "",
                "downs": row.downs,
            }
            for gateway, row in sorted(self.seen.items())
        ]

    def _names(self) -> dict[IPv4Address, str]:
        return {
            endpoint: node.name
            for node in self._node.rows.values()
            if (endpoint := tunnel_endpoint(node)) and endpoint in self.seen
        }

    def findings(self) -> Iterator[Finding]:
        """Gateways that do not answer, and addresses of which none does."""
        names, place = self._names(), f"{self._own.name}/agent"
        for gateway, row in self.seen.items():
            if row.state == LiveState.DOWN:
                name = names.get(gateway, str(gateway))
                own = self._own.name
                text = f"{name} ({gateway}) has not answered {own} since {_clock(row)}: {GOES_BY}"
                if not row.heard_ns:
                    text = f"{name} ({gateway}) has never answered {own}: {GOES_BY}. {LAST_RESORT}"
                about = (f"node/{name}", f"node/{self._own.name}")
                yield Finding(GATEWAY_SILENT, place, f"gateway {name}", text, about)
        for address in live.lost_addresses(self._sets.rows, self.seen):
            text = (
                f"no gateway of {address} answers {self._own.name}: its packets are dropped "
                f"(NO_EGRESS_GATEWAY) and go on when one answers; {self._whose()}"
            )
            yield Finding(NONE_ANSWERS, place, str(address), text, (f"node/{self._own.name}",))

    def _whose(self) -> str:
        """Whether it is likely to be this node itself: no gateway at all answers."""
        if len(self.seen) > 1 and all(row.state == LiveState.DOWN for row in self.seen.values()):
            return f"no gateway at all answers, so look at {self._own.name}'s own uplink first"
        return "gateways of other addresses answer"


def _epoch(monotonic_ns: int) -> float | None:
    """A time of CLOCK_MONOTONIC as seconds of the epoch, to the millisecond; None: never."""
    if not monotonic_ns:
        return None
    return round(time.time() - (time.monotonic_ns() - monotonic_ns) / 1e9, 3)


def _clock(row: Live) -> str:
    at = _epoch(row.since_ns) or time.time()
    return time.strftime("%H:%M:%SZ", time.gmtime(at))
