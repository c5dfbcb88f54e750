"""Tables of a lab that are three quarters full, as on a node that has been in use for a while.

Entries are written into the pinned maps: what a pod of the node has open to the world, and
translations of its covered pod to the legacy host, each with a port of the node's own blocks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
from running import Lab

from bpf.maps import Map

PART = 3 / 4
#: Free entries of a table that counts as full: a preallocated hash keeps some for each processor.
SLACK = 64
#: OPENED, REPLIED and STREAM of ``enum connection_flag``: established, and live.
FLAGS = 1 | 2 | 64
TCP, UDP = 6, 17
#: From a network of nobody.
FAR = {4: "203.0.113.9", 6: "2001:db8:9::9"}
Entries = tuple[Any, Any]


@contextmanager
def three_quarters_full(lab: Lab) -> Iterator[None]:
    """All nodes' connection tables, and their ports to the legacy host; emptied at the end."""
    with _all_filled(lab, PART):
        yield


@contextmanager
def full_tables(lab: Lab, *nodes: str) -> Iterator[None]:
    """Likewise of these nodes, to the last entry but ``SLACK``."""
    with _all_filled(lab, 1, *nodes):
        yield


@contextmanager
def _all_filled(lab: Lab, part: float, *nodes: str) -> Iterator[None]:
    """Of all nodes, if none are named."""
    hosts = lab.shown["hosts"]
    places = {name: Path(host["bpffs"]) for name, host in hosts.items() if host["bpffs"]}
    places = {name: place for name, place in places.items() if name in (nodes or places)}
    pods = {
        (pod["node"], pod["name"].partition("-")[0]): pod["addresses"] for pod in lab.table("pod")
    }
    with ExitStack() as stack:
        for node, place in places.items():
            # The share of the first one is used up; the second one opens what the test sends.
            for hog, covered in zip(pods[node, "web"], pods[node, "client"], strict=True):
                stack.enter_context(_filled(lab, place, hog, covered, part))
        yield


@contextmanager
def _filled(lab: Lab, place: Path, hog: str, covered: str, part: float) -> Iterator[None]:
    version = ip_address(hog).version
    with (
        Map.open_pinned(place / f"mg_ct_v{version}") as connections,
        Map.open_pinned(place / f"mg_nat_v{version}") as mappings,
        Map.open_pinned(place / "mg_own_block") as blocks,
    ):
        legacy = next(
            a for a in lab.shown["legacy"]["addresses"] if ip_address(a).version == version
        )
        port = lab.shown["legacy"]["udp"]
        egress, ports = _ports(blocks, version)
        translated, mapped = _translated(
            connections, mappings, covered, (legacy, port), egress, ports
        )
        most = min(int(connections.max_entries * part), connections.max_entries - SLACK)
        room = most - len(translated[0]) - len(connections.dump()[0])
        plain = _plain(connections, hog, version, room)
        for table, (keys, values) in (
            (mappings, mapped),
            (connections, translated),
            (connections, plain),
        ):
            table.update(keys, values)
        try:
            yield
        finally:
            connections.delete(plain[0])
            connections.delete(translated[0])
            mappings.delete(mapped[0])


def _addr(address: str) -> bytes:
    """``struct addr``."""
    raw = ip_address(address).packed
    return raw if len(raw) > 4 else bytes(10) + b"\xff\xff" + raw


def _set(rows: Any, name: str, address: str) -> None:
    """A field of either width, in all rows: ``struct addr``, or an IPv4 address alone."""
    if rows.dtype[name].names:
        rows[name]["w"] = np.frombuffer(_addr(address), rows[name]["w"].dtype)
    else:
        rows[name] = np.frombuffer(ip_address(address).packed, rows.dtype[name])[0]


def _opened(table: Map, count: int) -> Any:
    values = np.zeros(count, table.value)
    values["flags"] = FLAGS
    values["seen"] = values["opened"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 30
    return values


def _plain(table: Map, pod: str, version: int, count: int) -> Entries:
    """TCP to the world that is not covered, as it were: no two tuples alike."""
    keys = np.zeros(count, table.key)
    _set(keys, "source", pod)
    _set(keys, "destination", FAR[version])
    numbers = np.arange(count)
    keys["source_port"] = 1 + numbers % 60000
    keys["destination_port"] = 1 + numbers // 60000
    keys["protocol"] = TCP
    return keys, _opened(table, count)


def _ports(blocks: Map, version: int) -> tuple[str, list[int]]:
    """The egress address of this family, and three quarters of the ports that the node has."""
    keys, values = blocks.dump()
    for key, value in zip(keys, values, strict=True):
        raw = np.asarray(key["w"]).tobytes()
        v4 = raw.startswith(bytes(10) + b"\xff\xff")
        if v4 == (version == 4):
            numbers = value["number"][: value["count"]].tolist()
            ports = [1024 + 256 * number + port for number in numbers for port in range(256)]
            return str(ip_address(raw[12:] if v4 else raw)), ports[: int(len(ports) * PART)]
    raise AssertionError(f"no block of an IPv{version} address")


def _translated(
    connections: Map,
    mappings: Map,
    pod: str,
    remote: tuple[str, int],
    egress: str,
    ports: list[int],
) -> tuple[Entries, Entries]:
    """UDP and TCP streams to the remote with these ports, and their mappings."""
    both = np.array([(protocol, port) for protocol in (UDP, TCP) for port in ports])
    keys, replies = np.zeros(len(both), connections.key), np.zeros(len(both), mappings.key)
    values, mapped = _opened(connections, len(both)), np.zeros(len(both), mappings.value)
    own = 1 + np.arange(len(both)) % len(ports)
    for rows, source, destination in ((keys, pod, remote[0]), (replies, remote[0], egress)):
        _set(rows, "source", source)
        _set(rows, "destination", destination)
        rows["protocol"] = both[:, 0]
    keys["source_port"], keys["destination_port"] = own, remote[1]
    replies["source_port"], replies["destination_port"] = remote[1], both[:, 1]
    _set(values, "translated", egress)
    values["translated_port"] = both[:, 1]
    _set(mapped, "pod", pod)
    mapped["pod_port"] = own
    return (keys, values), (replies, mapped)
