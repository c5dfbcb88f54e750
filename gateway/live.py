"""What this node has found out about gateways: rows of ``mg_gw_live``, and what follows. Pure.

The datapath judges (``bpf/include/live.h``). The agent makes a row for each gateway, which the
datapath fills, and looks at the rows to say what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Any

from mesh.core.feature import Entry
from mesh.core.model import IP

MAP = "mg_gw_live"


class LiveState(IntEnum):
    """``enum live_state``."""

    UP = 0
    DOWN = 1


@dataclass(frozen=True, slots=True)
class Live:
    """What the datapath says of a gateway. Times are ns of CLOCK_MONOTONIC, 0: never.

    ``unanswered`` are the probes behind the last answer, ``took_us`` is how long answers take.
    """

    state: LiveState
    sent_ns: int
    heard_ns: int
    since_ns: int
    unanswered: int
    took_us: int
    downs: int

    @property
    def healthy(self) -> bool | None:
        """Whether it gets packets; None: it has not answered yet, and nobody has given it up."""
        if self.state == LiveState.DOWN:
            return False
        return True if self.heard_ns else None

    @property
    def waits(self) -> bool:
        """Whether it is worth asking again soon."""
        return self.state == LiveState.DOWN or self.unanswered > 0 or not self.sent_ns


#: A row that nothing is known of.
UNKNOWN = Live(LiveState.UP, 0, 0, 0, 0, 0, 0)


def others(sets: Mapping[IP, tuple[IPv4Address, ...]], own: IPv4Address) -> dict[IPv4Address, None]:
    """The gateways that this node judges: those of all egress addresses, but itself."""
    return dict.fromkeys(node for nodes in sets.values() for node in nodes if node != own)


def encode_new(gateway: IPv4Address, _: None) -> Entry:
    """A new entry of ``mg_gw_live``; what stands in one is the datapath's alone."""
    return int(gateway), {}


def decode_key(key: Any, _: Any) -> tuple[IPv4Address, None]:
    """Whether there is an entry, whatever it says."""
    return IPv4Address(int(key)), None


def decode_live(key: Any, value: Any) -> tuple[IPv4Address, Live]:
    """What an entry of ``mg_gw_live`` says."""
    unanswered = (int(value["asked"]) - int(value["answered"])) & 0xFFFFFFFF
    return IPv4Address(int(key)), Live(
        state=LiveState(int(value["state"])),
        sent_ns=int(value["sent"]),
        heard_ns=int(value["heard"]),
        since_ns=int(value["since"]),
        unanswered=unanswered,
        took_us=int(value["took"]),
        downs=int(value["downs"]),
    )


def due(seen: Mapping[IPv4Address, Live], now_ns: int, pause_ns: int) -> list[IPv4Address]:
    """Gateways to which no probe has gone for ``pause_ns``, or that have not answered the last."""
    return [
        gateway for gateway, live in seen.items() if live.waits or now_ns - live.sent_ns >= pause_ns
    ]


def down_of(seen: Mapping[IPv4Address, Live]) -> set[IPv4Address]:
    """The gateways that do not answer."""
    return {gateway for gateway, live in seen.items() if live.state == LiveState.DOWN}


def lost_addresses(
    sets: Mapping[IP, tuple[IPv4Address, ...]], seen: Mapping[IPv4Address, Live]
) -> list[IP]:
    """Egress addresses whose packets are dropped: all gateways have answered once, and are down."""
    down = {gateway for gateway in down_of(seen) if seen[gateway].heard_ns}
    return [address for address, nodes in sets.items() if nodes and down.issuperset(nodes)]
