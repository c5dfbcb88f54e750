"""The connections of the lanes, and the egress address and port that each has outside."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from running import Lab

from bpf.maps import Map
from mesh.core.model import IP

NATS = ("mg_nat_v4", "mg_nat_v6")
PROTOCOLS = {"tcp": 6, "udp": 17}


class End(NamedTuple):
    """One end of a connection: of the pod, or of its translation."""

    protocol: int
    address: IP
    port: int


def connected(lab: Lab, host: str, *, to: int | None = None, of: int | None = None) -> set[End]:
    """Ends of a host's connections: its own of those to a port, or the others' of one of its own.

    A UDP socket has a connection when it was told its peer, so a server's UDP has none.
    """
    column, condition = (-2, f"dport = :{to}") if to else (-1, f"sport = :{of}")
    found = set()
    for name, protocol in PROTOCOLS.items():
        text = lab.output(host, "ss", f"-Hn{name[0]}", "state", "established", condition)
        for line in text.splitlines():
            address, _, port = line.split()[column].rpartition(":")
            found.add(End(protocol, ip_address(address.strip("[]")), int(port)))
    return found


def translations(directories: Iterable[Path], pods: set[End], port: int) -> dict[End, set[End]]:
    """What each of these connections of pods to a port is, in all pinned maps of translations.

    While two generations live, both may have one; then it must be the same one.
    """
    found: dict[End, set[End]] = {end: set() for end in pods}
    for directory in directories:
        for name in NATS:
            for key, value in _rows(directory / name):
                protocol = int(key["protocol"])
                pod = End(protocol, _address(value["pod"]), int(value["pod_port"]))
                if pod in found and int(key["source_port"]) == port:
                    translated = _address(key["destination"]), int(key["destination_port"])
                    found[pod].add(End(protocol, *translated))
    return found


def _rows(path: Path) -> list[tuple[Any, Any]]:
    try:
        with Map.open_pinned(path) as map_:
            keys, values = map_.dump()
    except FileNotFoundError:
        return []  # a migration has just ended
    return list(zip(keys, values, strict=True))


def _address(number: Any) -> IP:
    """A field with an address of either width; IPv4 may be mapped into IPv6."""
    address = ip_address(number.tobytes() if number.dtype.names else int(number))
    return getattr(address, "ipv4_mapped", None) or address
