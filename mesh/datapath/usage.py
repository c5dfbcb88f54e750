"""How much of the connection tables and of the ports is in use on this node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.address import decode_address
from mesh.core.model import IP
from mesh.datapath.programs import Datapath

Array = npt.NDArray[Any]

CONNECTIONS = ("mg_ct_v4", "mg_ct_v6")
MAPPINGS = ("mg_nat_v4", "mg_nat_v6")
DYING = (1 << 64) - 1  # of bpf/include/nat.h, as what follows
#: Nanoseconds after which a one-shot gives its port, by ``enum one_shot``.
RESTS = {1: 10**9 + (1 << 26), 2: 10**10 + (1 << 26)}
_SHIFT = 62


@dataclass(frozen=True, slots=True)
class InUse:
    """Entries of a connection table: a map by its name."""

    map: str
    used: int
    size: int


def connections_in_use(datapath: Datapath) -> Iterator[InUse]:
    """Of both families, from the datapath's counters: it costs one look at a map of two entries."""
    _, rows = datapath.map("mg_used").dump()
    now = rows["held"] + (rows["opened"] - rows["mark"])
    for name, used in zip(CONNECTIONS, now.view(np.int32).tolist(), strict=True):
        size = datapath.map(name).max_entries
        yield InUse(name, min(max(used, 0), size), size)


def ports_in_use(datapath: Datapath, now_ns: int | None = None) -> dict[IP, int]:
    """Egress address -> its ports that are live for that remote which has the most of them.

    A remote has all ports of the address for itself. Live is what ``bpf/include/nat.h`` never
    takes. It costs a dump of the mappings: about a microsecond for each.
    """
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if now_ns is None else now_ns
    found: dict[IP, int] = {}
    for name in MAPPINGS:
        keys, values = datapath.map(name).dump()
        for address, count in _fullest(keys[_live(values, now)]):
            found[address] = max(count, found.get(address, 0))
    return found


def _live(mappings: Array, now: int) -> npt.NDArray[np.bool_]:
    quiet, closed = mappings["quiet"], mappings["closed"]
    since = now - (quiet & np.uint64((1 << _SHIFT) - 1)).astype(np.int64)
    live = np.ones(len(mappings), bool)
    for kind, rest in RESTS.items():
        live &= (quiet >> np.uint64(_SHIFT) != kind) | (since < rest)
    live &= (closed == 0) | (closed == np.uint64(DYING))
    return live


def _fullest(replies: Array) -> Iterator[tuple[IP, int]]:
    """The ports of each egress address and remote."""
    if not len(replies):
        return
    remotes = np.ascontiguousarray(replies).copy()
    remotes["destination_port"] = 0
    words = remotes.view("u8").reshape(len(remotes), -1)
    order = np.lexsort(words.T)
    sorted_ = words[order]
    new = np.ones(len(order), bool)
    new[1:] = (sorted_[1:] != sorted_[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    counts = np.diff([*starts.tolist(), len(order)])
    for row, count in zip(order[starts].tolist(), counts.tolist(), strict=True):
        yield _address(replies[row]["destination"]), count


def _address(value: Any) -> IP:
    return decode_address(value) if value.dtype.names else IPv4Address(int(value))
