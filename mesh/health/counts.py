"""How many connections, mappings and ports are in use: read from the maps, off the event loop.

A table of 262,144 entries is read in batches in about 60 ms, of which the kernel takes most.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bpf.maps import Map
from mesh.core.model import IP, Usage
from mesh.datapath.usage import are_live

#: The tables that are counted: name, and map.
TABLES = {
    "connections IPv4": "mg_ct_v4",
    "connections IPv6": "mg_ct_v6",
    "mappings IPv4": "mg_nat_v4",
    "mappings IPv6": "mg_nat_v6",
    "fragments": "mg_frag",
}
CONNECTIONS = ("connections IPv4", "connections IPv6")
MAPPINGS = ("mappings IPv4", "mappings IPv6")
#: Of a mapping's key, all but its port: the egress address, and the remote that the port serves.
_REMOTE = ("destination", "source", "source_port", "protocol")
_IPV4_SIZE, _WORD = 4, 4
_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Opened(Protocol):
    """The node's maps (``mesh/datapath/programs.py``)."""

    def map(self, name: str) -> Map:
        """An open map."""

    def enum(self, name: str) -> Mapping[str, int]:
        """Names and numbers of an enum."""


def ports_in_use(keys: npt.NDArray[Any]) -> dict[IP, int]:
    """Ports of each egress address that its busiest remote uses, from keys of mappings.

    A port serves any number of remotes. So none is left for a remote when that one uses all.
    """
    if not len(keys):
        return {}
    remotes = _hashes(keys, _REMOTE)
    _, at, counts = np.unique(remotes, return_index=True, return_counts=True)
    destinations = keys["destination"][at]
    _, first, which = np.unique(
        _hashes(keys[at], _REMOTE[:1]), return_index=True, return_inverse=True
    )
    most = np.zeros(len(first), np.int64)
    np.maximum.at(most, which, counts)
    size = keys.dtype["destination"].itemsize
    family = IPv4Address if size == _IPV4_SIZE else IPv6Address
    # As bytes of the whole column: one element of it would come in this machine's order.
    raw = destinations[first].tobytes()
    pairs = zip(range(0, len(raw), size), most.tolist(), strict=True)
    return {family(raw[start : start + size]): count for start, count in pairs}


def _hashes(keys: npt.NDArray[Any], names: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Eight bytes for each row: sorting rows themselves takes twenty times as long."""
    hashes = np.zeros(len(keys), np.uint64)
    for name in names:
        column = np.ascontiguousarray(keys[name])
        words = column.view(f"u{min(column.dtype.itemsize, _WORD)}").reshape(len(keys), -1)
        for word in words.T:
            hashes = (hashes ^ word.astype(np.uint64)) * _PRIME
            hashes ^= hashes >> np.uint64(32)
    return hashes


@dataclass(frozen=True, slots=True)
class Counted:
    """Entries in use and sizes, and how many are half-open, by name; live ports.

    A port that the next connection may take is not in use, though its mapping is still there.
    """

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    half_open: dict[str, int] = field(default_factory=dict)
    ports: dict[IP, int] = field(default_factory=dict)  # of each egress address


def counted(maps: Opened) -> Counted:
    """All of them, now."""
    one_shot, now = maps.enum("one_shot"), time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    flag = maps.enum("connection_flag").get("CONNECTION_HALF_OPEN", 0)
    found = Counted()
    for what, name in TABLES.items():
        one, used, half_open, live = maps.map(name), 0, 0, []
        for keys, values in one.parts():
            used += len(keys)
            if what in MAPPINGS:
                live.append(keys[are_live(values, now, one_shot)])
            elif what in CONNECTIONS:
                tcp = keys["protocol"] == socket.IPPROTO_TCP
                half_open += int(np.count_nonzero(tcp & (values["flags"] & flag != 0)))
        found.sizes[what] = used, one.max_entries
        if what in CONNECTIONS:
            found.half_open[what] = half_open
        if live:
            found.ports.update(ports_in_use(np.concatenate(live, dtype=one.key)))
    return found


def usages(
    node: str,
    sizes: Mapping[str, tuple[int, int]],
    ports: Mapping[IP, int],
    own: Mapping[IP, int],
) -> Iterator[Usage]:
    """Rows of ``status``; ``own`` are how many ports of each address are this node's."""
    for what, (used, size) in sizes.items():
        yield Usage(what, node, used, size)
    for address, size in own.items():
        yield Usage(f"ports {address}", node, ports.get(address, 0), size)
