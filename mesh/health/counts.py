"""How many connections, mappings and ports are in use: read from the maps, off the event loop.

A table of 262,144 entries is read in batches in about 60 ms, of which the kernel takes most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bpf.maps import Map
from mesh.core.model import IP, Usage

#: What is counted: in words, and the map.
TABLES = {
    "connections IPv4": "mg_ct_v4",
    "connections IPv6": "mg_ct_v6",
    "mappings IPv4": "mg_nat_v4",
    "mappings IPv6": "mg_nat_v6",
    "fragments": "mg_frag",
}
MAPPINGS = ("mappings IPv4", "mappings IPv6")
#: Of a mapping's key, all but its port: the egress address, and the remote that the port serves.
_REMOTE = ("destination", "source", "source_port", "protocol")
_IPV4_SIZE = 4


class Opened(Protocol):
    """The node's maps (``mesh/datapath/programs.py``)."""

    def map(self, name: str) -> Map:
        """An open map."""


def ports_in_use(keys: npt.NDArray[Any]) -> dict[IP, int]:
    """Ports of each egress address that its busiest remote uses, from keys of mappings.

    A port serves any number of remotes. So none is left for a remote when that one uses all.
    """
    if not len(keys):
        return {}
    remotes = np.zeros(len(keys), [(name, keys.dtype[name]) for name in _REMOTE])
    for name in _REMOTE:
        remotes[name] = keys[name]
    whole = remotes.view(f"V{remotes.dtype.itemsize}")
    names, counts = np.unique(whole, return_counts=True)
    destinations = np.ascontiguousarray(names.view(remotes.dtype)["destination"])
    width = keys.dtype["destination"].itemsize
    addresses, which = np.unique(destinations.view(f"V{width}").ravel(), return_inverse=True)
    most = np.zeros(len(addresses), np.int64)
    np.maximum.at(most, which, counts)
    family = IPv4Address if width == _IPV4_SIZE else IPv6Address
    pairs = zip(addresses.tolist(), most.tolist(), strict=True)
    return {family(raw): count for raw, count in pairs}


def counted(maps: Opened) -> tuple[dict[str, tuple[int, int]], dict[IP, int]]:
    """Entries in use and sizes by what they are, and the ports in use of each egress address."""
    sizes: dict[str, tuple[int, int]] = {}
    ports: dict[IP, int] = {}
    for what, name in TABLES.items():
        one = maps.map(name)
        parts = [keys if what in MAPPINGS else keys[:0] for keys in _read(one, sizes, what)]
        if what in MAPPINGS:
            ports |= ports_in_use(np.concatenate(parts, dtype=one.key))
    return sizes, ports


def _read(one: Map, sizes: dict[str, tuple[int, int]], what: str) -> Iterator[npt.NDArray[Any]]:
    used = 0
    for keys, _ in one.parts():
        used += len(keys)
        yield keys
    sizes[what] = used, one.max_entries


def usages(
    node: str,
    sizes: Mapping[str, tuple[int, int]],
    ports: Mapping[IP, int],
    blocks: Mapping[IP, tuple[int, ...]],
    block_size: int,
) -> Iterator[Usage]:
    """Rows of ``status``; ``blocks`` are this node's blocks of each egress address."""
    for what, (used, size) in sizes.items():
        yield Usage(what, node, used, size)
    for address, numbers in blocks.items():
        yield Usage(f"ports {address}", node, ports.get(address, 0), len(numbers) * block_size)
